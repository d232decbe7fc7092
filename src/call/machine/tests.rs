//! Conversations under a simulated clock, one for each policy.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    audio::Frame,
    call::{AgentEvent, Digit, Dtmf, Edge, Idle, LegCommand, Policy, Role, Say},
};

const MS: Duration = Duration::from_millis(1);
const RATE: Rate = Rate::R8K;
const CASCADE: Mode = Mode {
    barge_in: true,
    deaf_while_speaking: false,
    speech_edges: true,
    digits_interrupt: true,
    obeys: true,
    transcribes: true,
};

/// A call, a caller and an agent.
struct Sim {
    call: Call,
    begin: Instant,
    now: Instant,
    out: Vec<Output>,
    /// Whether the caller speaks.
    speaks: bool,
    /// Frames that the caller heard, by time in ms.
    heard: Vec<(u64, Frame)>,
    /// What the agent was told but audio, by time in ms.
    told: Vec<(u64, String)>,
    /// The caller's audio towards the agent: whether it was silence.
    muted: Vec<bool>,
    events: Vec<(u64, CallEvent)>,
    spoken: usize,
    end: Option<EndReason>,
}

impl Sim {
    fn new(mode: Mode, config: Config) -> Self {
        let begin = Instant::now();
        let mut out = Vec::new();
        let setup = Setup {
            rules: Arc::new(Rules::new(config)),
            rate: RATE,
            mode,
            ambience: None,
            apology: Arc::new([]),
            budget: Budget::of_bytes(64 << 20),
        };
        let call = Call::new(setup, begin, &mut out);
        let mut sim = Self {
            call,
            begin,
            now: begin,
            out,
            speaks: false,
            heard: Vec::new(),
            told: Vec::new(),
            muted: Vec::new(),
            events: Vec::new(),
            spoken: 0,
            end: None,
        };
        // until the model is warm
        sim.run(320);
        sim
    }

    fn ms(&self) -> u64 {
        u64::try_from((self.now - self.begin).as_millis()).unwrap()
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            let at = self.ms();
            if at.is_multiple_of(20) {
                self.handle(Input::Leg(LegEvent::Audio(Frame::padded(
                    RATE,
                    &[if self.speaks { 5_000 } else { 1 }; 160],
                ))));
            }
            if at.is_multiple_of(32) {
                self.handle(Input::Voice(if self.speaks { 0.95 } else { 0.02 }));
            }
            if self.call.deadline() <= self.now {
                self.handle(Input::Tick);
            }
            self.now += MS;
        }
    }

    fn say(&mut self, ms: u64) {
        self.speaks = true;
        self.run(ms);
        self.speaks = false;
    }

    fn handle(&mut self, input: Input) {
        self.call.handle(input, self.now, &mut self.out);
        let at = self.ms();
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Leg(LegCommand::Audio(frame)) => self.heard.push((at, frame)),
                Output::Leg(_) => {}
                Output::Agent(AgentInput::Audio(frame)) => self.muted.push(frame.samples()[0] == 0),
                Output::Agent(input) => self.told.push((at, format!("{input:?}"))),
                Output::Event(event, _) => self.events.push((at, event)),
                Output::End(reason) => self.end = Some(reason),
            }
        }
    }

    fn agent(&mut self, event: AgentEvent) {
        self.handle(Input::Agent(event));
    }

    /// The agent sends speech, each sample of which tells its place.
    fn speak(&mut self, utterance: u32, ms: usize) {
        let samples: Vec<i16> = (self.spoken..self.spoken + ms * 8).map(value).collect();
        self.spoken += samples.len();
        self.agent(AgentEvent::Audio(UtteranceId(utterance), samples));
        self.agent(AgentEvent::AudioEnd(UtteranceId(utterance)));
        self.agent(AgentEvent::TurnDone);
    }

    fn words(&mut self, text: &str, is_final: bool) {
        self.agent(AgentEvent::Transcript { role: Role::User, text: text.to_owned(), is_final });
    }

    fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            self.handle(Input::Leg(LegEvent::Dtmf(Digit::try_from(key).unwrap())));
            self.run(100);
        }
    }

    /// Whether the agent was heard within the last 20 ms.
    fn is_heard(&self) -> bool {
        self.heard.last().is_some_and(|(_, frame)| frame.samples().iter().any(|&sample| sample > 1))
    }

    /// Samples of the agent that were never heard as they are; what fades is among them.
    fn unheard(&self) -> usize {
        let mut missing: std::collections::BTreeSet<_> = (0..self.spoken).collect();
        let mut expected = 0;
        for sample in self.heard.iter().flat_map(|(_, frame)| frame.samples()) {
            if let Some(place) = (expected..(expected + 200).min(self.spoken)).find(|&place| value(place) == *sample) {
                missing.remove(&place);
                expected = place + 1;
            }
        }
        missing.len()
    }

    fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|(_, event)| event.kind() == kind).count()
    }

    fn told(&self, part: &str) -> Vec<u64> {
        self.told.iter().filter(|(_, told)| told.contains(part)).map(|(at, _)| *at).collect()
    }
}

/// The sample at a place: neighbours are far apart, so that a faded one is none of them.
fn value(place: usize) -> i16 {
    i16::try_from(2_000 + place * 7_919 % 29_989).unwrap()
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn policy(policy: Policy) -> Config {
    config(|config| config.barge_in.policy = policy)
}

/// A cascade whose speech recognition has shown that it streams, and which has been speaking for 500 ms of 10 s.
fn talking(config: Config) -> Sim {
    let mut sim = Sim::new(CASCADE, config);
    sim.words("hello", false);
    sim.words("hello", true);
    sim.run(200);
    sim.speak(1, 10_000);
    sim.run(500);
    assert!(sim.is_heard());
    sim
}

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
