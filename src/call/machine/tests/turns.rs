//! Ends of turns, silence, keys, limits of time, and where the time of an answer went.

use super::*;
use crate::call::{Dtmf, Idle, Say, Timing, Turn};

#[test]
fn the_end_of_a_turn_depends_on_what_was_said() {
    let end_after = |text: &str| {
        let mut sim = Sim::new(CASCADE, Config::default());
        sim.say(640);
        let silence = sim.ms();
        if !text.is_empty() {
            sim.words(text, false);
        }
        sim.run(3_000);
        let pauses = sim.told("CallerPauses");
        assert_eq!((sim.told("CallerSpeech(true)").len(), pauses.len()), (1, 1));
        sim.told("CallerSpeech(false)")[0] - silence
    };
    let (unknown, complete, open) = (end_after("I want to know"), end_after("yes"), end_after("I want to"));
    assert!((480..=544).contains(&unknown), "{unknown}");
    assert!((224..=288).contains(&complete), "{complete}");
    assert!((1_470..=1_535).contains(&open), "{open}");
    assert_eq!(end_after(""), unknown);
}

#[test]
fn a_word_too_short_to_be_a_voice_is_an_end_all_the_same() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.say(120);
    sim.words("no", false);
    sim.run(500);
    assert_eq!(sim.told("CallerSpeech(false)").len(), 1);
}

fn ladder() -> Config {
    config(|config| {
        config.idle = Idle {
            prompts: vec!["Still there?".to_owned(), "Hello?".to_owned()],
            after_ms: 2_000,
            goodbye: Some("Goodbye.".to_owned()),
        };
    })
}

#[test]
fn a_silent_caller_is_asked_asked_again_and_let_go() {
    let mut sim = Sim::new(CASCADE, ladder());
    sim.speak(1, 1_000);
    let mut last = sim.ms() + 1_000;
    for (number, words) in ["Still there?", "Hello?", "Goodbye."].into_iter().enumerate() {
        while sim.told(words).is_empty() {
            sim.run(20);
        }
        let waited = sim.ms() - last;
        assert!((1_990..2_100).contains(&waited), "{words}: {waited} ms");
        sim.run(300);
        sim.speak(2 + u32::try_from(number).unwrap(), 600);
        last = sim.ms() + 600;
    }
    sim.run(700);
    assert_eq!(sim.told("Finish").len(), 1);
    sim.run(2_100);
    assert_eq!((sim.end, sim.events.last().unwrap().1.kind()), (Some(EndReason::CallerIdle), "call_ended"));
    assert_eq!(sim.unheard(), 0, "the goodbye is heard out");
}

#[test]
fn words_digits_and_thinking_keep_a_caller() {
    let mut sim = Sim::new(CASCADE, ladder());
    sim.run(1_500);
    sim.press("1");
    // the answer is under way
    sim.run(5_000);
    sim.speak(1, 500);
    sim.run(1_000);
    sim.words("I am here", false);
    assert!(sim.told("Say").is_empty());
    sim.run(2_100);
    assert_eq!(sim.told("Still there?").len(), 1);
    sim.speak(2, 500);
    sim.run(2_700);
    sim.speak(3, 500);
    sim.run(2_700);
    assert_eq!(sim.told("Goodbye.").len(), 1);
    sim.words("wait, I am back", true);
    sim.speak(4, 500);
    sim.run(1_000);
    assert_eq!(sim.end, None);
    assert!(sim.told("Finish").is_empty(), "who speaks into the goodbye stays");
}

#[test]
fn no_agent_that_cannot_speak_texts_is_asked_to() {
    let mut sim = Sim::new(Mode::default(), ladder());
    sim.run(20_000);
    assert_eq!((sim.told("Say").len(), sim.end), (0, None));
}

#[test]
fn collected_digits_are_one_turn_and_an_event_each() {
    let dtmf = Dtmf { collect: true, min: 2, max: 4, ..Dtmf::default() };
    let mut sim = Sim::new(CASCADE, config(|config| config.dtmf = dtmf));
    sim.speak(1, 5_000);
    sim.run(200);
    sim.press("12");
    assert_eq!((sim.count("interruption"), sim.count("dtmf_digit")), (1, 2));
    sim.press("#");
    sim.press("5678");
    sim.press("90");
    sim.run(3_100);
    assert_eq!(sim.count("dtmf_digit"), 9);
    assert_eq!((sim.told("Digits").len(), sim.told("Dtmf(").len()), (3, 0));
    let digits: Vec<_> = sim.told.iter().filter(|(_, told)| told.starts_with("Digits")).collect();
    assert!(digits[0].1.contains("'1'") && digits[0].1.contains("'2'") && !digits[0].1.contains('#'), "{digits:?}");
}

#[test]
fn a_collection_can_be_asked_for_once_and_leaves_the_agent_alone() {
    let mut sim = Sim::new(CASCADE, Config::default());
    let how =
        Collect { min: 1, max: 3, terminator: None, timeout: Duration::from_secs(1), interrupt: false, once: true };
    sim.handle(Input::Command(Command::Collect(Some(how))));
    sim.speak(1, 5_000);
    sim.run(200);
    sim.press("123");
    assert_eq!((sim.told("Digits").len(), sim.count("interruption")), (1, 0));
    sim.press("4");
    assert_eq!((sim.told("Dtmf(").len(), sim.count("interruption")), (1, 1));
}

#[test]
fn digits_of_a_speech_to_speech_service_go_out_one_by_one() {
    let dtmf = Dtmf { collect: true, ..Dtmf::default() };
    let mut sim = Sim::new(Mode::default(), config(|config| config.dtmf = dtmf));
    sim.press("12#");
    assert_eq!((sim.told("Dtmf(").len(), sim.told("Digits").len()), (3, 0));
}

#[test]
fn muted_the_agent_hears_silence_and_the_voice_decides_nothing() {
    let mut sim = talking(policy(Policy::Vad));
    sim.handle(Input::Command(Command::Mute(true)));
    sim.muted.clear();
    sim.say(1_000);
    assert!(sim.is_heard() && sim.muted.iter().all(|silent| *silent));
    assert!(!sim.call.wants_voice());
    sim.handle(Input::Command(Command::Mute(false)));
    sim.muted.clear();
    sim.say(300);
    assert!(sim.muted.iter().all(|silent| !silent));
    assert_eq!(sim.count("interruption"), 1);
}

#[test]
fn the_longest_time_of_a_call_is_told_and_ends_with_a_goodbye() {
    let mut sim = Sim::new(
        CASCADE,
        config(|config| {
            (config.max_duration_s, config.warn_before_s) = (10, 4);
            config.warning = Some("Soon over.".to_owned());
            config.goodbye = Some("That is all.".to_owned());
        }),
    );
    sim.run(6_000);
    assert_eq!(sim.told("Soon over.").len(), 1);
    sim.speak(1, 20_000);
    sim.run(3_800);
    assert_eq!(sim.told("That is all.").len(), 1);
    assert!(!sim.is_heard());
    sim.agent(AgentEvent::Protected(UtteranceId(2)));
    sim.speak(2, 1_000);
    sim.say(500);
    assert!(sim.is_heard());
    sim.run(3_000);
    assert_eq!(sim.end, Some(EndReason::MaxDuration));
}

#[test]
fn a_goodbye_that_never_comes_ends_the_call_too() {
    let mut sim = Sim::new(CASCADE, config(|config| config.idle.goodbye = Some("Bye.".to_owned())));
    sim.run(10_500);
    assert_eq!(sim.told("Bye.").len(), 1);
    sim.run(23_000);
    assert_eq!(sim.end, Some(EndReason::CallerIdle));
}

#[test]
fn a_command_says_a_text() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.handle(Input::Command(Command::Say(Say { text: "Notice.".to_owned(), protect: true })));
    assert_eq!(sim.told("Notice.").len(), 1);
}

fn turns(sim: &Sim) -> Vec<Turn> {
    let turn = |(_, event): &(u64, CallEvent)| if let CallEvent::Turn(turn) = event { Some(*turn) } else { None };
    sim.events.iter().filter_map(turn).collect()
}

#[test]
fn an_interrupted_turn_is_reported_with_what_was_heard() {
    let sim = {
        let mut sim = talking(policy(Policy::Vad));
        sim.say(400);
        sim
    };
    let [turn] = turns(&sim)[..] else { panic!("{:?}", sim.events) };
    assert!(turn.cut && turn.latency.is_none());
    // until the onset, which is heard within two results of the VAD
    assert!((500..=580).contains(&turn.heard.as_millis()), "{:?}", turn.heard);
}

#[test]
fn the_parts_of_an_answer_are_told_when_it_is_over() {
    let mut sim = Sim::new(CASCADE, Config::default());
    sim.speak(1, 400);
    sim.run(700);
    sim.say(640);
    let silence = sim.now;
    sim.run(600);
    sim.words("I want a table", true);
    let turn = sim.now;
    sim.run(100);
    let token = sim.now;
    sim.run(60);
    let sentence = sim.now;
    sim.run(40);
    sim.agent(AgentEvent::Timing(Timing {
        words: Some(turn),
        turn: Some(turn),
        token: Some(token),
        sentence: Some(sentence),
        speech: Some(sim.now),
    }));
    sim.speak(2, 1_000);
    sim.run(1_100);
    let [greeting, answer] = turns(&sim)[..] else { panic!("{:?}", sim.events) };
    assert_eq!((greeting.latency, greeting.cut, greeting.heard.as_millis()), (None, false, 400));
    assert_eq!((answer.cut, answer.heard.as_millis()), (false, 1_000));
    let latency = answer.latency.unwrap();
    let ms = |part: Option<Duration>| part.unwrap().as_millis();
    assert!((480..=544).contains(&ms(latency.endpointing)), "{latency:?}");
    assert_eq!((ms(latency.llm_first_token), ms(latency.first_sentence), ms(latency.tts_first_byte)), (100, 60, 40));
    assert!(latency.playout.as_millis() <= 20);
    let waited = sim
        .heard
        .iter()
        .find(|(at, frame)| *at > sim.told("CallerSpeech(false)")[0] && frame.samples()[80] > 1)
        .unwrap()
        .0;
    let total = sim.begin + Duration::from_millis(waited) - silence;
    // the caller's last voiced result of the VAD ends up to 32 ms before the silence begins
    assert!(latency.total() >= total && latency.total() - total <= 33 * MS, "{:?} for {total:?}", latency.total());
}

#[test]
fn a_prompt_for_a_silent_caller_is_no_answer() {
    let mut sim = Sim::new(CASCADE, ladder());
    sim.say(400);
    sim.run(3_000);
    assert_eq!(sim.told("Still there?").len(), 1);
    sim.speak(1, 400);
    sim.run(700);
    assert_eq!(turns(&sim).iter().map(|turn| turn.latency).collect::<Vec<_>>(), [None]);
}

#[test]
fn a_service_that_was_replaced_is_told_and_the_call_goes_on() {
    let mut sim = talking(Config::default());
    let fault = crate::call::Fault { code: "agent.stt.failed", message: "it is gone".to_owned() };
    let replaced = crate::call::Replaced { fault, service: "deepgram:nova-3".to_owned(), by: "vosk:".to_owned() };
    sim.agent(AgentEvent::Replaced(replaced));
    sim.run(500);
    assert_eq!((sim.count("service_failed"), sim.end), (1, None));
}
