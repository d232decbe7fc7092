//! Who has answered a call that we made, and what the agent does with it.

use super::*;
use crate::call::OnMachine;

fn called(on_machine: OnMachine) -> Sim {
    let mut sim = Sim::screening(CASCADE, Config::default(), Some(on_machine));
    // the greeting is there at once, and waits
    sim.speak(1, 1_000);
    sim
}

fn answered_by(sim: &Sim) -> Vec<String> {
    let who = |(_, event): &(u64, CallEvent)| match event {
        CallEvent::AnsweredBy(who, _) => Some(format!("{who:?}")),
        _ => None,
    };
    sim.events.iter().filter_map(who).collect()
}

#[test]
fn a_person_hears_the_greeting_once_they_wait_for_it() {
    for machine in [OnMachine::Speak, OnMachine::Hangup, OnMachine::Message("Call us.".to_owned())] {
        let mut sim = called(machine);
        sim.run(500);
        sim.say(600);
        assert!(!sim.is_heard());
        sim.run(600);
        assert!(!sim.is_heard() && answered_by(&sim).is_empty());
        sim.run(1_500);
        assert_eq!((answered_by(&sim), sim.unheard(), sim.end), (vec!["Human".to_owned()], 0, None));
        // from here on it is a call like any other
        sim.speak(2, 3_000);
        sim.run(500);
        sim.say(800);
        assert!(sim.events.iter().any(|(_, event)| matches!(event, CallEvent::Interruption)));
    }
}

#[test]
fn nobody_who_says_anything_is_greeted_after_three_seconds() {
    let mut sim = called(OnMachine::Hangup);
    sim.run(2_600);
    assert!(!sim.is_heard());
    sim.run(2_000);
    assert_eq!((answered_by(&sim), sim.unheard()), (vec!["Unknown".to_owned()], 0));
}

#[test]
fn a_machine_is_hung_up_on_or_spoken_to() {
    let mut sim = called(OnMachine::Hangup);
    sim.say(3_500);
    sim.run(3_000);
    assert_eq!((answered_by(&sim), sim.end), (vec!["Machine".to_owned()], Some(EndReason::AnsweringMachine)));
    let mut sim = called(OnMachine::Speak);
    sim.say(300);
    sim.words("You have reached the mailbox of", false);
    // while it talks the agent holds, as it does for anybody
    sim.run(5_000);
    assert_eq!((answered_by(&sim), sim.unheard(), sim.end), (vec!["Machine".to_owned()], 0, None));
}

#[test]
fn a_message_is_left_behind_the_beep_or_the_silence_and_the_call_ends() {
    for beeps in [true, false] {
        let mut sim = called(OnMachine::Message("Please call us back.".to_owned()));
        sim.say(5_000);
        assert_eq!(answered_by(&sim), ["Machine"]);
        assert!(sim.told("call us back").is_empty() && !sim.is_heard());
        if beeps {
            sim.handle(Input::Beep);
        } else {
            sim.run(2_600);
        }
        assert_eq!(answered_by(&sim), ["Machine", "Beep"]);
        assert_eq!(sim.told("call us back").len(), 1);
        sim.speak(2, 2_000);
        sim.agent(AgentEvent::TurnDone);
        sim.run(1_000);
        assert!(sim.is_heard() && sim.end.is_none(), "{beeps}");
        // nothing of the machine cuts it
        sim.say(500);
        sim.run(3_000);
        assert_eq!(sim.end, Some(EndReason::AnsweringMachine));
        assert!(!sim.events.iter().any(|(_, event)| matches!(event, CallEvent::Interruption)));
    }
}

#[test]
fn a_beep_at_once_is_a_machine_too_and_afterwards_it_is_nothing() {
    let mut sim = called(OnMachine::Message("Please call us back.".to_owned()));
    sim.handle(Input::Beep);
    assert_eq!((answered_by(&sim), sim.told("call us back").len()), (vec!["Beep".to_owned()], 1));
    sim.handle(Input::Beep);
    assert_eq!(answered_by(&sim).len(), 1);
    // an agent that cannot be told what to say speaks as it does
    let mode = Mode { obeys: false, ..CASCADE };
    let mut sim = Sim::screening(mode, Config::default(), Some(OnMachine::Message("x".to_owned())));
    sim.speak(1, 500);
    sim.handle(Input::Beep);
    sim.run(1_000);
    assert_eq!((sim.unheard(), sim.end), (0, None));
}
