//! Who may speak: hold, cut, resume, protected speech.

use super::*;
use crate::call::Edge;

#[test]
fn by_voice_the_onset_holds_and_duration_cuts() {
    let mut sim = talking(policy(Policy::Vad));
    let onset = sim.ms();
    sim.say(100);
    assert!(!sim.is_heard(), "held");
    assert_eq!(sim.count("interruption"), 0);
    sim.say(1_000);
    let cut = sim.events.last().unwrap();
    assert!(cut.1 == CallEvent::Interruption && cut.0 - onset <= 192 + 32, "after {} ms", cut.0 - onset);
    let last = sim.heard.iter().rev().find(|(_, frame)| frame.samples()[0] > 1).unwrap().0;
    assert!(last - onset < 100, "the last word left {} ms behind the onset", last - onset);
    sim.run(2_000);
    assert_eq!((sim.count("interruption"), sim.is_heard()), (1, false));
    assert_eq!(sim.told("Interrupt").len(), 1);
}

#[test]
fn a_click_loses_nothing_of_what_the_agent_says() {
    for policy_ in [Policy::Vad, Policy::Words] {
        let mut sim = talking(policy(policy_));
        sim.say(90);
        sim.run(12_000);
        assert_eq!((sim.count("interruption"), sim.call.stats().false_alarms), (0, 1));
        // what fades out and in
        assert!(sim.unheard() <= 80, "{} samples", sim.unheard());
    }
}

#[test]
fn without_words_the_agent_goes_on_after_two_seconds_from_where_it_stopped() {
    let mut sim = talking(Config::default());
    let onset = sim.ms();
    sim.say(1_500);
    assert!(!sim.is_heard());
    sim.run(300);
    assert!(!sim.is_heard());
    sim.run(400);
    assert!(sim.is_heard(), "resumed {} ms after the onset", sim.ms() - onset);
    sim.run(12_000);
    assert_eq!((sim.count("interruption"), sim.call.stats().resumed), (0, 1));
    assert!(sim.unheard() <= 80, "{} samples", sim.unheard());
}

#[test]
fn noise_that_goes_on_holds_the_agent_once() {
    let mut sim = talking(Config::default());
    sim.say(6_000);
    assert!(sim.is_heard());
    sim.run(9_000);
    assert_eq!((sim.count("interruption"), sim.call.stats().resumed), (0, 1));
    assert!(sim.unheard() <= 80);
}

#[test]
fn a_service_that_interrupts_by_itself_is_held_by_the_voice_and_cut_by_its_word() {
    let talks = |policy_| {
        let mut sim = Sim::new(Mode { agent_cuts: true, ..CASCADE }, policy(policy_));
        sim.speak(1, 10_000);
        sim.run(1_000);
        assert!(sim.is_heard());
        sim
    };
    let mut sim = talks(Policy::Auto);
    sim.say(600);
    assert!(!sim.is_heard(), "held");
    // words of the turn before, which come late
    sim.words("and then I said", true);
    assert_eq!(sim.count("interruption"), 0);
    sim.agent(AgentEvent::Speech(Edge::Interrupted));
    sim.run(1_000);
    assert_eq!((sim.count("interruption"), sim.is_heard(), sim.told("Interrupt").len()), (1, false, 1));

    // a noise: it says nothing, and the agent goes on, whether or not the noise does
    let mut sim = talks(Policy::Auto);
    sim.say(3_000);
    assert!(sim.is_heard());
    sim.run(15_000);
    assert_eq!((sim.count("interruption"), sim.call.stats().resumed), (0, 1));
    assert!(sim.unheard() <= 80, "{} samples", sim.unheard());

    // unless the settings say that the voice cuts
    let mut sim = talks(Policy::Vad);
    sim.say(1_000);
    assert_eq!(sim.count("interruption"), 1);
}

#[test]
fn words_cut_and_a_back_channel_does_not() {
    let mut sim = talking(Config::default());
    sim.say(400);
    sim.words("mm-", false);
    sim.run(700);
    sim.words("Mm-hm.", true);
    sim.run(60);
    assert!(sim.is_heard(), "a back-channel lets the agent go on at once");
    sim.run(1_000);
    sim.say(400);
    sim.words("okay", false);
    assert_eq!(sim.count("interruption"), 0);
    sim.say(200);
    sim.words("okay but wait", false);
    sim.run(40);
    sim.words("okay but wait.", true);
    sim.run(1_000);
    assert_eq!((sim.count("interruption"), sim.is_heard()), (1, false));
}

#[test]
fn words_without_a_voice_are_older_or_the_agents_own() {
    let mut sim = talking(Config::default());
    sim.words("thank you for calling", false);
    sim.words("thank you for calling", true);
    sim.run(100);
    assert!(sim.is_heard());
    assert_eq!(sim.count("interruption"), 0);
}

#[test]
fn until_words_have_been_seen_the_voice_decides() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.speak(1, 5_000);
    sim.run(500);
    sim.say(300);
    assert_eq!(sim.count("interruption"), 1);
}

#[test]
fn words_that_come_late_are_waited_for_while_the_caller_speaks() {
    let mut sim = Sim::new(Mode { speech_edges: false, ..CASCADE }, policy(Policy::Words));
    sim.speak(1, 20_000);
    sim.run(500);
    sim.say(4_000);
    sim.run(1_000);
    assert!(!sim.is_heard() && sim.count("interruption") == 0);
    sim.words("I have a question", true);
    sim.run(100);
    assert_eq!((sim.count("interruption"), sim.is_heard()), (1, false));
}

#[test]
fn an_answer_the_caller_talks_into_is_held_and_taken_back_when_they_go_on() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.say(500);
    sim.words("I want a table", true);
    sim.run(100);
    sim.speaks = true;
    sim.run(200);
    sim.speak(1, 5_000);
    sim.run(200);
    assert!(!sim.is_heard(), "not into the caller's words");
    sim.words("for two", false);
    sim.run(20);
    assert_eq!((sim.count("interruption"), sim.told("Interrupt").len()), (0, 1));
    assert_eq!(sim.call.stats().taken_back, 1);
    sim.speaks = false;
    sim.run(700);
    sim.speak(2, 1_000);
    sim.run(200);
    assert!(sim.is_heard());
}

#[test]
fn protected_speech_is_heard_whole() {
    for digits in [true, false] {
        let mut sim = Sim::new(CASCADE, config(|config| config.protect_from_digits = digits));
        sim.agent(AgentEvent::Protected(UtteranceId(1)));
        sim.speak(1, 4_000);
        sim.run(300);
        sim.say(1_000);
        sim.words("stop it now", false);
        sim.words("stop it now", true);
        if digits {
            sim.press("5");
        }
        sim.run(4_000);
        assert_eq!((sim.count("interruption"), sim.unheard(), sim.told("Interrupt").len()), (0, 0, 0));
        assert_eq!(sim.told("Dtmf").len(), usize::from(digits));
        if !digits {
            sim.agent(AgentEvent::Protected(UtteranceId(2)));
            sim.speak(2, 4_000);
            sim.run(300);
            sim.press("5");
            assert_eq!(sim.count("interruption"), 1);
        }
    }
}

#[test]
fn behind_protected_speech_the_agent_holds_for_who_still_speaks() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.agent(AgentEvent::Protected(UtteranceId(1)));
    sim.speak(1, 1_000);
    sim.speak(2, 1_000);
    sim.run(600);
    sim.speaks = true;
    sim.run(300);
    assert!(sim.is_heard());
    sim.run(300);
    assert!(!sim.is_heard());
    sim.words("hold on", false);
    sim.run(20);
    assert_eq!(sim.count("interruption"), 1);
}

#[test]
fn what_waits_behind_a_cut_is_kept_when_it_is_protected() {
    let mut sim = talking(policy(Policy::Vad));
    sim.agent(AgentEvent::Protected(UtteranceId(2)));
    sim.speak(2, 1_000);
    sim.say(300);
    assert_eq!(sim.count("interruption"), 1);
    let notice = value(sim.spoken - 4_000);
    sim.run(3_000);
    assert!(sim.heard.iter().any(|(_, frame)| frame.samples().contains(&notice)));
}

#[test]
fn a_service_that_interrupts_by_itself_is_obeyed() {
    let mut sim = Sim::new(Mode::default(), Config::default());
    sim.speak(1, 5_000);
    sim.run(300);
    sim.say(1_000);
    assert!(sim.is_heard() && !sim.call.wants_voice(), "our own ear plays no part");
    sim.agent(AgentEvent::Speech(Edge::Interrupted));
    sim.agent(AgentEvent::Speech(Edge::Interrupted));
    sim.run(100);
    assert_eq!((sim.count("interruption"), sim.call.stats().idle_interruptions, sim.is_heard()), (1, 1, false));
}
