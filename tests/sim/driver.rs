//! The loop of a call with leg and agent in memory and a paused clock.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_util::FutureExt;
use hark::{
    audio::{self, Frame, Rate, dtmf::InbandDtmf, mix::Ambience, tone},
    call::{
        Agent, AgentEvent, AgentInput, Budget, CallEvent, CallId, Cause, Command, Config, Digit, EndReason, Envelope,
        Leg, LegCommand, LegEvent, Link, Mode, Role, Rules, Sent, Setup, UtteranceId,
    },
    session::{Session, Summary},
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, advance, sleep},
};
use tokio_util::sync::CancellationToken;

const MS: Duration = Duration::from_millis(1);

/// What a link was told, with the time since the start.
type Log<T> = Arc<Mutex<Vec<(Duration, T)>>>;

#[derive(Debug, Clone, PartialEq)]
enum ToLeg {
    Audio(i16),
    Flush,
    Hangup,
    Closed,
}

struct MemoryLeg {
    events: mpsc::Receiver<LegEvent>,
    log: Log<ToLeg>,
    start: Instant,
    stalled: Arc<AtomicBool>,
}

impl Stream for MemoryLeg {
    type Item = LegEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LegEvent>> {
        self.events.poll_recv(context)
    }
}

impl MemoryLeg {
    fn log(&self, what: ToLeg) {
        self.log.lock().unwrap().push((self.start.elapsed(), what));
    }
}

impl Link for MemoryLeg {
    type Event = LegEvent;
    type Command = LegCommand;

    fn send(&mut self, command: LegCommand) -> Sent<LegCommand> {
        if self.stalled.load(Ordering::Relaxed) && matches!(command, LegCommand::Audio(_)) {
            return Sent::Refused(command);
        }
        self.log(match command {
            LegCommand::Audio(frame) => ToLeg::Audio(frame.samples()[80]),
            LegCommand::Flush(_) => ToLeg::Flush,
            LegCommand::Mark(_) => return Sent::Whole,
            LegCommand::Hangup => ToLeg::Hangup,
        });
        Sent::Whole
    }
}

impl Leg for MemoryLeg {
    fn rate(&self) -> Rate {
        Rate::R8K
    }

    async fn close(self) {
        self.log(ToLeg::Closed);
    }
}

struct MemoryAgent {
    events: mpsc::Receiver<AgentEvent>,
    heard: Arc<Mutex<Vec<String>>>,
    panics_on_audio: bool,
}

impl Stream for MemoryAgent {
    type Item = AgentEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<AgentEvent>> {
        self.events.poll_recv(context)
    }
}

impl Link for MemoryAgent {
    type Event = AgentEvent;
    type Command = AgentInput;

    fn send(&mut self, input: AgentInput) -> Sent<AgentInput> {
        assert!(
            !(self.panics_on_audio && matches!(input, AgentInput::Audio(_))),
            "the agent panics, as this test wants"
        );
        if !matches!(input, AgentInput::Audio(_)) {
            self.heard.lock().unwrap().push(format!("{input:?}"));
        }
        Sent::Whole
    }
}

impl Agent for MemoryAgent {
    async fn close(self) {}
}

/// A call under test.
struct Rig {
    leg: mpsc::Sender<LegEvent>,
    agent: mpsc::Sender<AgentEvent>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    events: mpsc::Receiver<Envelope>,
    to_leg: Log<ToLeg>,
    to_agent: Arc<Mutex<Vec<String>>>,
    stalled: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    session: JoinHandle<Option<Summary>>,
}

fn rig(journal: usize, panics_on_audio: bool) -> Rig {
    rig_with(journal, panics_on_audio, None)
}

fn rig_with(journal: usize, panics_on_audio: bool, ambience: Option<Ambience>) -> Rig {
    let (leg, leg_events) = mpsc::channel(10_000);
    let (agent, agent_events) = mpsc::channel(10_000);
    let (commands, orders) = mpsc::channel(16);
    let (journal, events) = mpsc::channel(journal);
    let (stop, stalled, ended) = (CancellationToken::new(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (to_leg, to_agent) = (Log::<ToLeg>::default(), Arc::<Mutex<Vec<String>>>::default());
    let session = Session {
        id: CallId::new(),
        uuid: uuid::Uuid::from_u128(7),
        setup: Setup {
            rules: Arc::new(Rules::new(Config::default())),
            rate: Rate::R8K,
            lead: Duration::ZERO,
            mode: Mode::default(),
            ambience,
            apology: Arc::new([-500; 1_600]),
            budget: Budget::of_bytes(64 << 20),
            screen: None,
        },
        tape: None,
        audio: Arc::new(audio::Config { inband_dtmf: InbandDtmf::Detect, ..audio::Config::default() }),
        leg: MemoryLeg {
            events: leg_events,
            log: Arc::clone(&to_leg),
            start: Instant::now(),
            stalled: Arc::clone(&stalled),
        },
        agent: MemoryAgent { events: agent_events, heard: Arc::clone(&to_agent), panics_on_audio },
        events: journal,
        commands: orders,
        heard_out: Arc::default(),
        stop: stop.clone(),
        ended: Arc::clone(&ended),
    };
    let session = tokio::spawn(async move { AssertUnwindSafe(session.run()).catch_unwind().await.ok() });
    Rig { leg, agent, commands, stop, events, to_leg, to_agent, stalled, ended, session }
}

impl Rig {
    fn speak(&self, utterance: u32, value: i16, samples: usize) {
        self.agent.try_send(AgentEvent::Audio(UtteranceId(utterance), vec![value; samples])).unwrap();
    }

    fn frames(&self) -> Vec<(Duration, i16)> {
        let log = self.to_leg.lock().unwrap();
        log.iter()
            .filter_map(|(at, what)| if let ToLeg::Audio(value) = what { Some((*at, *value)) } else { None })
            .collect()
    }

    async fn kinds(mut self) -> (Option<Summary>, Vec<&'static str>) {
        let summary = self.session.await.unwrap();
        let mut kinds = Vec::new();
        while let Some(envelope) = self.events.recv().await {
            kinds.push(envelope.event.kind());
        }
        (summary, kinds)
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_speech_ends_the_call_with_its_reason() {
    let rig = rig(100, false);
    rig.speak(1, 900, 80_000);
    sleep(200 * MS).await;
    rig.stop.cancel();
    sleep(MS).await;
    drop(rig.agent.clone());
    let log = Arc::clone(&rig.to_leg);
    let Rig { agent, .. } = &rig;
    // The agent ends its session when told to finish.
    agent.try_send(AgentEvent::Failed(hark::call::Fault { code: "agent.gone", message: String::new() })).unwrap();
    let (summary, kinds) = rig.kinds().await;
    assert_eq!(summary.unwrap().reason, EndReason::Shutdown);
    assert_eq!(kinds, ["call_started", "turn", "call_ended"]);
    let log = log.lock().unwrap();
    let tail: Vec<_> = log.iter().rev().take(2).map(|(_, what)| what.clone()).collect();
    assert_eq!(tail, [ToLeg::Closed, ToLeg::Hangup]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_told_apart_from_an_end_that_was_reported() {
    let rig = rig(100, true);
    rig.leg.try_send(LegEvent::Audio(Frame::silence(Rate::R8K))).unwrap();
    let ended = Arc::clone(&rig.ended);
    let (summary, kinds) = rig.kinds().await;
    assert!(summary.is_none());
    assert_eq!(kinds, ["call_started"]);
    assert!(!ended.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn final_words_are_awaited_for_two_seconds_and_the_end_keeps_its_time() {
    let mut rig = rig(100, false);
    sleep(100 * MS).await;
    rig.leg.try_send(LegEvent::Hangup(Cause::Normal)).unwrap();
    sleep(1_500 * MS).await;
    let transcript = AgentEvent::Transcript { role: Role::User, text: "bye".to_owned(), is_final: true };
    rig.agent.try_send(transcript).unwrap();
    let summary = (&mut rig.session).await.unwrap().unwrap();
    assert_eq!(summary.reason, EndReason::CallerHangup);
    let mut events = Vec::new();
    while let Some(envelope) = rig.events.recv().await {
        events.push(envelope);
    }
    let kinds: Vec<_> = events.iter().map(|envelope| envelope.event.kind()).collect();
    assert_eq!(kinds, ["call_started", "transcription", "call_ended"]);
    let hang_up = events[2].at.duration_since(events[0].at).unwrap();
    assert_eq!(hang_up, 100 * MS);
    assert_eq!(events[1].at.duration_since(events[0].at).unwrap(), 1_600 * MS);
    assert!(rig.to_agent.lock().unwrap().contains(&"Finish".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_is_full_for_a_minute_delays_no_audio_and_keeps_order() {
    let mut rig = rig(1, false);
    for number in 0..50 {
        let transcript = AgentEvent::Transcript { role: Role::User, text: number.to_string(), is_final: true };
        rig.agent.try_send(transcript).unwrap();
    }
    rig.speak(1, 900, 8_000 * 61);
    sleep(Duration::from_secs(60)).await;
    let frames = rig.frames();
    assert!(frames.len() >= 2_990, "{} frames in a minute", frames.len());
    assert!(frames.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 31 * MS));
    rig.leg.try_send(LegEvent::Hangup(Cause::Normal)).unwrap();
    let mut texts = Vec::new();
    while let Some(envelope) = rig.events.recv().await {
        match envelope.event {
            CallEvent::Transcription { text, .. } => texts.push(text),
            CallEvent::Ended(_) => break,
            _ => {}
        }
    }
    let all: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(texts, all);
}

#[tokio::test(start_paused = true)]
async fn a_command_is_obeyed_during_a_burst() {
    let rig = rig(100, false);
    for _ in 0..5_000 {
        rig.speak(1, 900, 160);
        rig.leg.try_send(LegEvent::Audio(Frame::silence(Rate::R8K))).unwrap();
    }
    rig.commands.try_send(Command::Hangup(EndReason::Hangup)).unwrap();
    rig.agent.try_send(AgentEvent::Hangup).unwrap();
    let at = Instant::now();
    let (summary, kinds) = rig.kinds().await;
    assert_eq!(summary.unwrap().reason, EndReason::Hangup);
    assert_eq!(kinds, ["call_started", "call_ended"]);
    assert!(at.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_up_is_heard_out_and_has_ended_the_call() {
    let rig = rig(100, false);
    rig.speak(1, 900, 1_600);
    rig.agent.try_send(AgentEvent::Hangup).unwrap();
    let log = Arc::clone(&rig.to_leg);
    let (summary, kinds) = rig.kinds().await;
    let reason = summary.unwrap().reason;
    assert_eq!((reason, reason.code()), (EndReason::AgentClosed, "agent.closed"));
    assert_eq!(kinds, ["call_started", "turn", "call_ended"]);
    let heard = log.lock().unwrap().iter().filter(|(_, what)| *what == ToLeg::Audio(900)).count();
    assert_eq!(heard, 10, "what it said before it hung up");
}

#[tokio::test(start_paused = true)]
async fn a_leg_that_refuses_for_a_second_loses_no_word_and_one_that_refuses_for_five_is_ended() {
    let rig = rig(100, false);
    let words: Vec<i16> = (0..100).map(|frame| 1_000 + frame).collect();
    for &word in &words {
        rig.speak(1, word, 160);
    }
    sleep(500 * MS).await;
    rig.stalled.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(1)).await;
    rig.stalled.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(3)).await;
    let heard: Vec<i16> = rig.frames().into_iter().map(|(_, value)| value).filter(|&value| value > 0).collect();
    assert_eq!(heard, words);
    rig.stalled.store(true, Ordering::Relaxed);
    let at = Instant::now();
    let (summary, _) = rig.kinds().await;
    assert_eq!(summary.unwrap().reason, EndReason::LegStalled);
    assert!(at.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_fails_after_it_spoke_is_apologised_for() {
    let rig = rig(100, false);
    rig.speak(1, 900, 1_600);
    sleep(100 * MS).await;
    rig.agent
        .try_send(AgentEvent::Failed(hark::call::Fault { code: "agent.sts.lost", message: "gone".to_owned() }))
        .unwrap();
    let log = Arc::clone(&rig.to_leg);
    let (summary, kinds) = rig.kinds().await;
    assert_eq!(summary.unwrap().reason, EndReason::AgentFailed);
    assert_eq!(kinds, ["call_started", "service_failed", "turn", "call_ended"]);
    let log = log.lock().unwrap();
    let count = |wanted: i16| log.iter().filter(|(_, what)| *what == ToLeg::Audio(wanted)).count();
    assert_eq!((count(900), count(-500)), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn the_clock_is_the_tests() {
    let rig = rig(100, false);
    advance(Duration::from_secs(1)).await;
    sleep(MS).await;
    assert!(!rig.frames().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_pressed_in_the_audio_is_one_digit_also_when_the_leg_reports_it_too() {
    let mut rig = rig(100, false);
    for (n, samples) in tone::dial(Rate::R8K, "42").unwrap().chunks(160).enumerate() {
        if n == 6 {
            rig.leg.try_send(LegEvent::Dtmf(Digit::try_from('4').unwrap())).unwrap();
        }
        rig.leg.try_send(LegEvent::Audio(Frame::padded(Rate::R8K, samples))).unwrap();
        sleep(20 * MS).await;
    }
    // from then on the leg is believed
    rig.leg.try_send(LegEvent::Dtmf(Digit::try_from('2').unwrap())).unwrap();
    rig.leg.try_send(LegEvent::Hangup(Cause::Normal)).unwrap();
    let mut digits = String::new();
    while let Some(envelope) = rig.events.recv().await {
        match envelope.event {
            CallEvent::Dtmf(digit) => digits.push(digit.unwrap().as_char()),
            CallEvent::Ended(_) => break,
            _ => {}
        }
    }
    assert_eq!(digits, "42");
}

#[tokio::test(start_paused = true)]
async fn a_thinking_sound_is_heard_from_the_question_to_the_answer() {
    let ambience = Ambience::new(Rate::R8K).with_thinking(vec![70; 8_000].into(), 1.0, 1_500 * MS);
    let rig = rig_with(100, false, Some(ambience));
    sleep(2_000 * MS).await;
    let transcript = AgentEvent::Transcript { role: Role::User, text: "and?".to_owned(), is_final: true };
    rig.agent.try_send(transcript).unwrap();
    sleep(3_000 * MS).await;
    rig.speak(1, 900, 1_600);
    sleep(5_000 * MS).await;
    let frames = rig.frames();
    let sound: Vec<_> = frames.iter().filter(|(_, value)| *value == 70).map(|(at, _)| *at).collect();
    let (first, last) = (sound[0], sound[sound.len() - 1]);
    assert!((3_480 * MS..3_560 * MS).contains(&first), "{first:?}");
    assert!((4_960 * MS..5_040 * MS).contains(&last), "{last:?}");
    let words = frames.iter().filter(|(_, value)| *value >= 900).count();
    assert_eq!(words, 10);
}
