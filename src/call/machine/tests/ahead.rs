//! Conversations on a leg that buffers, as chan_websocket does.

use std::collections::VecDeque;

use super::*;

/// What such a leg does with what it is sent.
#[derive(Debug, Default)]
pub(super) struct Leg {
    pub lead: Duration,
    queue: VecDeque<Item>,
    /// Events on their way, with the time they arrive.
    events: VecDeque<(u64, LegEvent)>,
    /// Takes nothing.
    full: bool,
    /// Knows no marks.
    deaf: bool,
    /// Plays a frame in so many ms.
    period: u64,
    next: u64,
    longest: usize,
    flushes: usize,
    hung_up_with: Option<usize>,
}

#[derive(Debug)]
enum Item {
    Mark(LegEvent),
    Audio(Frame),
}

/// What is spoken repeats itself after so many samples.
const PERIOD: usize = 29_989;
/// On the wire.
const DELAY: u64 = 3;

impl Leg {
    fn new(lead: u64) -> Self {
        Self { lead: MS * u32::try_from(lead).unwrap(), period: 20, next: 7, ..Self::default() }
    }

    fn frames(&self) -> usize {
        self.queue.iter().filter(|item| matches!(item, Item::Audio(_))).count()
    }

    pub(super) fn send(&mut self, command: LegCommand, _at: u64) -> Option<Frame> {
        match command {
            LegCommand::Audio(frame) if self.full => return Some(frame),
            LegCommand::Mark(_) if self.full || self.deaf => {}
            LegCommand::Audio(frame) => {
                self.queue.push_back(Item::Audio(frame));
                self.longest = self.longest.max(self.frames());
            }
            LegCommand::Mark(mark) => self.queue.push_back(Item::Mark(LegEvent::Marked(mark))),
            LegCommand::Flush(fence) => {
                self.flushes += 1;
                self.queue.clear();
                if !self.deaf {
                    self.queue.push_back(Item::Mark(LegEvent::Flushed(fence)));
                }
            }
            LegCommand::Hangup => self.hung_up_with = Some(self.frames()),
        }
        None
    }

    /// What is played now.
    fn play(&mut self, at: u64) -> Option<Frame> {
        if at < self.next {
            return None;
        }
        self.next += self.period;
        while let Some(item) = self.queue.pop_front() {
            match item {
                Item::Mark(event) => self.events.push_back((at + DELAY, event)),
                Item::Audio(frame) => return Some(frame),
            }
        }
        None
    }
}

impl Sim {
    pub(super) fn play_leg(&mut self) {
        let at = self.ms();
        let Some(leg) = &mut self.leg else { return };
        self.heard.extend(leg.play(at).map(|frame| (at, frame)));
        while let Some((_, event)) = self.leg.as_mut().unwrap().events.pop_front_if(|(when, _)| *when <= at) {
            self.handle(Input::Leg(event));
        }
    }

    /// Where in what was spoken each frame is that was heard; the beginning of a frame may be faded.
    fn places(&self) -> Vec<usize> {
        let spoken: Vec<i16> = (0..self.spoken).map(value).collect();
        let find = |frame: &Frame| {
            let part = &frame.samples()[60..];
            (60..=spoken.len() - part.len()).find(|&at| spoken[at..at + part.len()] == *part).map(|at| at - 60)
        };
        self.heard.iter().filter(|(_, frame)| frame.samples()[80] > 1).filter_map(|(_, frame)| find(frame)).collect()
    }

    fn buffering(&mut self) -> &mut Leg {
        self.leg.as_mut().unwrap()
    }
}

/// Like `talking` of the other conversations.
fn talking(leg: Leg) -> Sim {
    let mut sim = Sim::on(Some(leg), CASCADE, policy(Policy::Auto));
    sim.words("hello", false);
    sim.words("hello", true);
    sim.run(200);
    sim.speak(1, 10_000);
    sim.run(500);
    assert!(sim.is_heard());
    sim
}

#[test]
fn speech_goes_ahead_and_no_further_than_it_may() {
    let mut sim = talking(Leg::new(200));
    let heard = sim.heard.iter().filter(|(_, frame)| frame.samples()[80] > 1).count();
    // 500 ms of it: heard as early as without a lead
    assert!((24..=26).contains(&heard), "{heard}");
    let queued = sim.buffering().frames();
    assert!((9..=11).contains(&queued), "{queued}");
    sim.run(10_000);
    assert_eq!(sim.unheard(), 0);
    assert_eq!(sim.told("Played").len(), 1);
    assert!(sim.told("Played")[0] >= sim.heard.iter().rfind(|(_, frame)| frame.samples()[80] > 1).unwrap().0);
    assert!(sim.buffering().longest <= 12, "{}", sim.buffering().longest);
    assert!(sim.buffering().frames() <= 2, "silence is not sent ahead");
}

#[test]
fn a_held_agent_is_silent_at_once_and_goes_on_to_the_sample() {
    let mut sim = talking(Leg::new(300));
    sim.speaks = true;
    let begin = sim.ms();
    while sim.buffering().flushes == 0 {
        sim.run(1);
        assert!(sim.ms() < begin + 500, "never held");
    }
    let held = sim.ms();
    sim.run(200);
    // nothing but the fade after the flush
    let after = |sim: &Sim| sim.heard.iter().filter(|(at, frame)| *at > held && frame.samples()[80] > 1).count();
    assert_eq!(after(&sim), 0);
    sim.speaks = false;
    sim.run(20_000);
    assert!(after(&sim) > 400, "it goes on");
    let places = sim.places();
    assert_eq!(places.len(), 500, "each frame is heard once");
    assert!(places.windows(2).all(|pair| pair[1] == (pair[0] + 160) % PERIOD), "{places:?}");
}

#[test]
fn a_cut_tells_what_was_heard_and_not_what_was_sent() {
    let mut sim = talking(Leg::new(400));
    let frames = sim.heard.iter().filter(|(_, frame)| frame.samples()[80] > 1).count();
    sim.agent(AgentEvent::Speech(crate::call::Edge::Interrupted));
    let told = sim.told.iter().find(|(_, told)| told.starts_with("Interrupt")).unwrap().1.clone();
    // and what fades
    let heard = (0..=2).any(|late| told.contains(&format!("heard: {}ms", (frames - late) * 20 + 5)));
    assert!(heard, "{told} after {frames} frames");
    sim.run(100);
    let last = sim.heard.last().unwrap().1.samples()[80];
    assert_eq!((last, sim.buffering().flushes, sim.count("interruption")), (0, 1, 1));
    // the next words are whole
    sim.spoken = 0;
    sim.heard.clear();
    sim.speak(2, 1_000);
    sim.run(1_500);
    assert_eq!(sim.unheard(), 0);
}

#[test]
fn what_was_said_last_is_heard_before_the_hang_up() {
    let mut sim = talking(Leg::new(200));
    sim.agent(AgentEvent::Hangup);
    sim.run(10_500);
    assert_eq!(sim.unheard(), 0);
    assert_eq!(sim.buffering().hung_up_with, Some(0));
}

#[test]
fn a_leg_without_marks_is_played_to_all_the_same() {
    let mut sim = talking(Leg { deaf: true, ..Leg::new(200) });
    sim.run(12_000);
    let stats = sim.call.stats();
    assert!(stats.lost_marks > 0);
    sim.speak(2, 1_000);
    sim.agent(AgentEvent::Hangup);
    sim.run(12_000);
    assert!(sim.buffering().hung_up_with.is_some(), "the call ends");
}

#[test]
fn a_leg_that_takes_nothing_for_a_while_loses_no_word() {
    let mut sim = talking(Leg::new(200));
    sim.buffering().full = true;
    sim.run(700);
    sim.buffering().full = false;
    sim.run(12_000);
    assert_eq!(sim.unheard(), 0);
}

#[test]
fn a_slow_leg_is_not_filled() {
    // one in twenty is more than any clock is wrong
    let mut sim = talking(Leg { period: 21, ..Leg::new(200) });
    sim.run(11_000);
    assert_eq!(sim.unheard(), 0);
    assert!(sim.buffering().longest <= 16, "{}", sim.buffering().longest);
    sim.run(5_000);
    assert!(sim.buffering().longest <= 16);
}
