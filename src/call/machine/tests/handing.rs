//! Giving the caller away, the end behind the last sentence, and keys that are sent.

use super::*;
use crate::{
    audio::dtmf::Detector,
    call::{Cause, Say},
};

fn command(sim: &mut Sim, command: Command) {
    sim.handle(Input::Command(command));
}

#[test]
fn the_sentence_being_spoken_is_heard_before_the_caller_is_given_away_and_nothing_new_is() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.speak(1, 2_000);
    sim.run(500);
    command(&mut sim, Command::HandOver(EndReason::Transferred));
    let spoken = sim.spoken;
    sim.speak(2, 3_000);
    // words of theirs cut nothing any more
    sim.say(400);
    sim.run(1_000);
    assert!(sim.told("HeardOut").is_empty() && sim.is_heard());
    sim.run(1_500);
    let [at] = sim.told("HeardOut")[..] else { panic!("told {} times", sim.told("HeardOut").len()) };
    assert!((2_000..2_600).contains(&at), "{at} ms");
    assert_eq!(sim.unheard(), sim.spoken - spoken, "the second sentence is not heard, the first is");
    // nothing is said and nobody is heard until somebody takes the caller
    let deaf = sim.muted.len();
    sim.say(2_000);
    assert!(sim.muted[deaf..].iter().all(|muted| *muted) && sim.end.is_none() && !sim.is_heard());
    sim.handle(Input::Leg(LegEvent::Hangup(Cause::Normal)));
    sim.run(3_000);
    assert_eq!(sim.end, Some(EndReason::Transferred));
}

#[test]
fn a_caller_who_hangs_up_before_that_hung_up() {
    let mut sim = talking(Config::default());
    command(&mut sim, Command::HandOver(EndReason::Transferred));
    sim.run(200);
    sim.handle(Input::Leg(LegEvent::Hangup(Cause::Normal)));
    sim.run(3_000);
    assert_eq!((sim.end, sim.told("HeardOut").len()), (Some(EndReason::CallerHangup), 0));
}

#[test]
fn an_agent_that_is_silent_is_heard_out_at_once_and_one_without_end_after_15_s() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.run(1_000);
    command(&mut sim, Command::HandOver(EndReason::Transferred));
    sim.run(40);
    assert_eq!(sim.told("HeardOut").len(), 1);
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.speak(1, 60_000);
    sim.run(100);
    command(&mut sim, Command::HandOver(EndReason::Transferred));
    sim.run(14_900);
    assert!(sim.told("HeardOut").is_empty());
    sim.run(200);
    assert_eq!(sim.told("HeardOut").len(), 1);
    sim.run(100);
    assert!(!sim.is_heard());
}

#[test]
fn a_caller_who_comes_back_is_talked_to_and_heard() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.speak(1, 500);
    command(&mut sim, Command::HandOver(EndReason::Transferred));
    sim.run(2_000);
    let say = Say { text: "Nobody answers.".to_owned(), protect: false };
    command(&mut sim, Command::TakeBack(Some(say)));
    sim.run(20);
    assert_eq!(sim.told("Nobody answers").len(), 1);
    let (heard, muted) = (sim.spoken, sim.muted.len());
    sim.speak(2, 1_000);
    sim.run(1_500);
    sim.say(200);
    assert!(sim.spoken > heard && sim.unheard() == 0 && sim.muted[muted + 1..].contains(&false));
    // once more is nothing
    command(&mut sim, Command::TakeBack(None));
    assert!(sim.end.is_none());
}

#[test]
fn an_end_that_waits_for_the_last_sentence() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.speak(1, 1_000);
    sim.run(200);
    command(&mut sim, Command::Finish(EndReason::Hangup));
    sim.speak(2, 1_000);
    let spoken = sim.spoken;
    sim.run(700);
    assert!(sim.end.is_none() && sim.is_heard());
    sim.run(4_000);
    assert_eq!((sim.end, sim.unheard()), (Some(EndReason::Hangup), spoken / 2));
}

#[test]
fn keys_are_sent_as_tones_that_a_telephone_takes_and_nothing_cuts_them() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.run(100);
    command(&mut sim, Command::Dial("12#".chars().map(|key| Digit::try_from(key).unwrap()).collect()));
    sim.say(300);
    sim.words("stop that please", true);
    sim.run(1_000);
    let heard: Vec<i16> = sim.heard.iter().flat_map(|(_, frame)| frame.samples().to_vec()).collect();
    let mut keys = String::new();
    Detector::new(Rate::R8K).push(&heard, |key| keys.push(key));
    assert_eq!(keys, "12#");
    // what the agent says behind them is its own
    sim.speak(1, 400);
    sim.run(200);
    assert!(sim.is_heard());
    assert!(sim.told("4294").is_empty(), "nobody is told of an utterance of ours: {:?}", sim.told);
}

#[test]
fn somebody_else_at_the_leg_hears_the_announcement_and_nothing_but_it() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.speak(1, 500);
    // nobody is there yet
    let say = Say { text: "Somebody wants to know when you open.".to_owned(), protect: false };
    command(&mut sim, Command::Announce(say.clone()));
    assert!(sim.told("you open").is_empty());
    command(&mut sim, Command::HandOver(EndReason::CallerHangup));
    sim.run(1_000);
    assert_eq!(sim.told("HeardOut").len(), 1);
    command(&mut sim, Command::Announce(say));
    sim.run(300);
    assert_eq!((sim.told("you open").len(), sim.told("HeardOut").len()), (1, 1));
    let spoken = sim.spoken;
    sim.speak(2, 1_000);
    // their words and keys are not the caller's
    sim.say(400);
    sim.handle(Input::Leg(LegEvent::Dtmf(Digit::try_from('1').unwrap())));
    sim.run(400);
    assert!(sim.told("HeardOut").len() == 1 && sim.told("Dtmf").is_empty() && sim.is_heard());
    sim.agent(AgentEvent::TurnDone);
    sim.run(1_000);
    assert_eq!((sim.told("HeardOut").len(), sim.unheard()), (2, 0), "{spoken}");
    command(&mut sim, Command::TakeBack(None));
    let muted = sim.muted.len();
    sim.say(200);
    assert!(sim.muted[muted + 1..].contains(&false) && sim.end.is_none());
}

#[test]
fn whoever_answers_in_few_words_has_said_yes_and_a_machine_has_not() {
    let told = |speech: u64, silence: u64| {
        let mut sim = Sim::new(CASCADE, Config::default());
        // nobody is there yet
        command(&mut sim, Command::Listen);
        assert!(!sim.call.wants_voice() || sim.told("HeardOut").is_empty());
        command(&mut sim, Command::HandOver(EndReason::CallerHangup));
        sim.run(100);
        command(&mut sim, Command::Listen);
        // more than it takes for nobody to have answered
        sim.run(4_000);
        sim.say(speech);
        sim.run(silence);
        let told = sim.told("HeardOut").len() - 1;
        command(&mut sim, Command::TakeBack(None));
        sim.say(400);
        assert!(sim.end.is_none() && sim.told("HeardOut").len() == told + 1);
        told
    };
    assert_eq!(told(400, 1_200), 1);
    assert_eq!(told(1_800, 1_200), 1);
    assert_eq!(told(0, 5_000), 0, "silence");
    assert_eq!(told(6_000, 4_000), 0, "a machine");
}

#[test]
fn an_announcement_that_never_comes_is_waited_for_20_s_and_one_that_cannot_not_at_all() {
    for (mode, limit) in [(CASCADE, 20_000), (Mode { obeys: false, ..CASCADE }, 0)] {
        let mut sim = Sim::new(mode, Config::default());
        command(&mut sim, Command::HandOver(EndReason::CallerHangup));
        sim.run(100);
        command(&mut sim, Command::Announce(Say { text: "Hello?".to_owned(), protect: false }));
        sim.run(limit.max(200) - 100);
        assert_eq!(sim.told("HeardOut").len(), 1 + usize::from(limit == 0));
        sim.run(200);
        assert_eq!(sim.told("HeardOut").len(), 2);
        // taken back in the middle of another one, the caller hears nothing of it
        sim.handle(Input::Leg(LegEvent::Hangup(Cause::Normal)));
        sim.run(3_000);
        assert_eq!(sim.end, Some(EndReason::CallerHangup));
    }
}
