//! The embedded recogniser. It hears whole utterances, but so fast that it is asked again and again while the caller speaks: its guesses
//! interrupt the agent, tell where a turn may end, and have an answer begun before it is sure that one is wanted.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{CODES, Ends, Heard, Order, utterances::Utterances};
use crate::{
    agent::{embedded::EngineError, retry::fault},
    audio::{Frame, Rate, level},
    call::Fault,
};

/// Frames between two guesses (600 ms), and the part of the utterance that is as long: guesses at long ones cost more.
const BETWEEN: usize = 30;
const PART: usize = 4;
/// The same at a pause.
const PART_AT_PAUSE: usize = 12;
/// Quiet frames that are a pause (160 ms), and how quiet they are beside the loudest of the utterance.
const PAUSE: u32 = 8;
const QUIET: f32 = 0.1;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(15);
/// Failures in a row until it counts as failed.
const MAX_FAILURES: u32 = 3;

type Words = Result<String, EngineError>;

/// What the recogniser works on.
struct Job {
    /// The utterance is over.
    is_final: bool,
    words: BoxFuture<'static, Words>,
}

/// The caller's line to the recogniser, which is asked by `recognise` with samples, their rate, and whether they are a whole
/// utterance.
pub struct Line<R> {
    recognise: R,
    ends: Ends,
    utterances: Utterances,
    /// A guess is wanted.
    is_due: bool,
    /// Frames since the last one.
    since: usize,
    /// Quiet frames in a row, and the loudest of the utterance.
    quiet: u32,
    loudest: f32,
    failures: u32,
    finishing: bool,
}

impl<R: Fn(Vec<i16>, Rate, bool) -> BoxFuture<'static, Words>> Line<R> {
    pub fn new(recognise: R, ends: Ends) -> Self {
        Self {
            recognise,
            ends,
            utterances: Utterances::default(),
            is_due: false,
            since: 0,
            quiet: 0,
            loudest: 0.0,
            failures: 0,
            finishing: false,
        }
    }

    /// Runs until told to finish and the last text has come, or until the recogniser has failed.
    pub async fn run(mut self) -> Result<(), Fault> {
        let mut job: Option<Job> = None;
        loop {
            if job.is_none() {
                job = self.next();
            }
            if self.finishing && job.is_none() {
                return Ok(());
            }
            tokio::select! {
                biased;
                order = self.ends.orders.recv(), if !self.finishing => match order {
                    Some(Order::Start) => self.start(),
                    Some(Order::Flush) => {
                        self.utterances.cut(&self.ends);
                        // what it would guess will be known
                        job.take_if(|job| !job.is_final);
                    }
                    Some(Order::Finish) | None => {
                        self.utterances.finish(&self.ends);
                        self.finishing = true;
                    }
                },
                (is_final, words) = done(&mut job) => {
                    job = None;
                    match is_final {
                        true => self.heard(words).await?,
                        false => self.guessed(words).await,
                    }
                }
                frame = self.ends.audio.take(), if !self.finishing => self.hear(frame),
            }
        }
    }

    /// What is to be recognised next.
    fn next(&mut self) -> Option<Job> {
        let (is_final, (samples, rate)) = match self.utterances.next() {
            Some(frames) => (true, joined(frames.iter())),
            None if self.utterances.speaks() && std::mem::take(&mut self.is_due) => {
                self.since = 0;
                (false, joined(self.utterances.so_far()))
            }
            None => return None,
        };
        Some(Job { is_final, words: (self.recognise)(samples, rate, is_final) })
    }

    fn start(&mut self) {
        self.utterances.start();
        (self.is_due, self.since, self.quiet, self.loudest) = (false, 0, 0, 0.0);
    }

    fn hear(&mut self, frame: Frame) {
        let loud = level::rms(frame.samples());
        if self.utterances.hear(frame, &self.ends) {
            self.start();
        } else if self.utterances.speaks() {
            self.since += 1;
            self.loudest = self.loudest.max(loud);
            self.quiet = if loud < self.loudest * QUIET { self.quiet + 1 } else { 0 };
            // who speaks on and on is asked about seldom, pauses or not: each guess is about all of it
            let length = self.utterances.so_far().len();
            self.is_due |= self.quiet == PAUSE && self.since >= length / PART_AT_PAUSE;
            self.is_due |= self.since >= BETWEEN.max(length / PART);
        }
    }

    async fn guessed(&self, words: Words) {
        // one that failed is no loss
        let text = words.unwrap_or_default();
        let text = open(&text);
        if self.utterances.speaks() && !text.is_empty() {
            self.tell(Heard::Partial(format!(" {text}"))).await;
        }
    }

    async fn heard(&mut self, words: Words) -> Result<(), Fault> {
        let text = match words {
            Ok(text) => {
                self.failures = 0;
                text
            }
            Err(error) => {
                self.failures += 1;
                let fault = fault(CODES.failed, CODES.name, error);
                if self.failures >= MAX_FAILURES {
                    return Err(fault);
                }
                self.ends.health.trouble(fault);
                String::new()
            }
        };
        if text.trim().is_empty() {
            // what was guessed was nothing
            self.tell(Heard::Partial(String::new())).await;
            return Ok(());
        }
        self.ends.health.fine();
        self.tell(Heard::Piece(format!(" {}", text.trim()))).await;
        if !self.utterances.speaks() {
            // the silence has been waited for, and nothing else comes of it
            self.tell(Heard::EndOfTurn).await;
        }
        Ok(())
    }

    async fn tell(&self, heard: Heard) {
        // closed: the call is over
        let _ = self.ends.heard.send(heard).await;
    }
}

async fn done(job: &mut Option<Job>) -> (bool, Words) {
    match job {
        Some(Job { is_final, words }) => {
            let words = timeout(LIMIT, words).await;
            let late = || EngineError::Run(format!("it took longer than {} s", LIMIT.as_secs()));
            (*is_final, words.unwrap_or_else(|_| Err(late())))
        }
        None => std::future::pending().await,
    }
}

/// All of it, and its rate. To change that is work for the recogniser's own threads.
fn joined<'a>(frames: impl Iterator<Item = &'a Frame>) -> (Vec<i16>, Rate) {
    let mut frames = frames.peekable();
    let rate = frames.peek().map_or(Rate::R8K, |frame| frame.rate());
    (frames.flat_map(Frame::samples).copied().collect(), rate)
}

/// A text that may go on: the recogniser puts a full stop behind anything.
fn open(text: &str) -> &str {
    text.trim().trim_end_matches(['.', ',', ';', ':', '-', '\u{2026}', ' '])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
    };

    use futures_util::FutureExt as _;
    use tokio::sync::mpsc;

    use super::{
        super::utterances::{BEFORE, LONGEST},
        *,
    };
    use crate::{
        agent::{
            cascade::Inbox,
            health::{self, Health},
        },
        audio::Rate,
    };

    /// A line whose recogniser says these texts, one after the other, and how many samples it was given each time.
    struct Test {
        audio: Arc<Inbox<Frame>>,
        orders: mpsc::Sender<Order>,
        heard: mpsc::Receiver<Heard>,
        asked: Arc<Mutex<Vec<usize>>>,
        running: tokio::task::JoinHandle<Result<(), Fault>>,
    }

    fn listen(texts: &[Result<&str, ()>]) -> Test {
        let audio = Arc::new(Inbox::new(5_000));
        let (orders, taken) = mpsc::channel(8);
        let (tell, heard) = mpsc::channel(64);
        let health = Health::new(health::Service::Stt, mpsc::channel(64).0);
        let asked = Arc::<Mutex<Vec<usize>>>::default();
        let texts: Vec<Words> =
            texts.iter().map(|text| text.map(str::to_owned).map_err(|()| EngineError::Busy)).collect();
        let (left, log) = (Mutex::new(VecDeque::from(texts)), Arc::clone(&asked));
        let recognise = move |samples: Vec<i16>, _: Rate, _: bool| {
            log.lock().unwrap().push(samples.len());
            let words = left.lock().unwrap().pop_front().unwrap_or_else(|| Ok(String::new()));
            async move { words }.boxed()
        };
        let ends = Ends { audio: Arc::clone(&audio), orders: taken, heard: tell, health };
        let running = tokio::spawn(Line::new(recognise, ends).run());
        Test { audio, orders, heard, asked, running }
    }

    impl Test {
        async fn say(&self, frames: usize, level: i16) {
            for _ in 0..frames {
                self.audio.force(Frame::padded(Rate::R8K, &[level; 160]));
                // as it comes on a call: one after the other
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }

        async fn end(mut self) -> (Vec<String>, Vec<usize>, Result<(), Fault>) {
            self.orders.send(Order::Finish).await.unwrap();
            let result = self.running.await.unwrap();
            let mut told = Vec::new();
            while let Ok(heard) = self.heard.try_recv() {
                told.push(format!("{heard:?}"));
            }
            let asked = self.asked.lock().unwrap().clone();
            (told, asked, result)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_come_while_the_caller_speaks_and_at_their_pause() {
        let test = listen(&[Ok("I would."), Ok("I would like to go,"), Ok("I would like to go.")]);
        test.say(40, 0).await;
        test.orders.send(Order::Start).await.unwrap();
        test.say(BETWEEN + 10, 5_000).await;
        test.say(20, 5).await;
        test.orders.send(Order::Flush).await.unwrap();
        let (told, asked, result) = test.end().await;
        let expected = [
            "Partial(\" I would\")",
            "Partial(\" I would like to go\")",
            "Piece(\" I would like to go.\")",
            "EndOfTurn",
        ];
        assert_eq!(told, expected);
        assert!(result.is_ok() && asked.is_sorted() && asked[2] >= 160 * (BEFORE + BETWEEN + 30), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_nothing_is_taken_back_and_failures_count() {
        let test = listen(&[Err(()), Ok(" "), Err(()), Err(()), Err(())]);
        for _ in 0..5 {
            test.orders.send(Order::Start).await.unwrap();
            test.say(20, 3_000).await;
            test.orders.send(Order::Flush).await.unwrap();
            test.say(1, 0).await;
        }
        let told = tokio::time::timeout(Duration::from_secs(5), test.running).await.unwrap().unwrap();
        assert_eq!(told.unwrap_err().code, "agent.stt.failed");
    }

    #[tokio::test(start_paused = true)]
    async fn who_speaks_for_minutes_is_cut_and_asked_about_seldom() {
        let test = listen(&[]);
        test.orders.send(Order::Start).await.unwrap();
        test.say(LONGEST * 3, 5_000).await;
        let (told, asked, result) = test.end().await;
        assert!(result.is_ok() && told.len() <= 4, "{told:?}");
        assert!(asked.iter().all(|samples| *samples <= 160 * LONGEST), "{asked:?}");
        assert!(asked.len() < 60, "{}", asked.len());
    }

    #[test]
    fn a_guess_has_no_end() {
        assert_eq!(open(" Hello world, "), "Hello world");
        assert_eq!(open("Really?"), "Really?");
        assert_eq!(open("..."), "");
    }
}
