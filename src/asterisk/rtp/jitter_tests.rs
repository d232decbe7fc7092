use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { least: Duration::from_millis(20), most: Duration::from_millis(200) };
const TICKS: u32 = 160;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A packet of a stream whose n-th packet is sent at n · 20 ms.
fn packet(n: u32) -> Place {
    Place { sequence: (65_530 + n) as u16, timestamp: 4_294_967_000_u32.wrapping_add(n * TICKS), ticks: TICKS }
}

fn bytes(n: u32) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

/// A buffer, and what has come out of it: the packet's number or `None` for 20 ms of anything else.
struct Bench {
    jitter: Jitter,
    start: Instant,
    out: Vec<Option<u32>>,
    /// How long after its arrival each came out.
    delays: Vec<Duration>,
    came: std::collections::HashMap<u32, Instant>,
    lost: u32,
    late: u32,
    duplicate: u32,
    resets: u32,
    most_held: usize,
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            jitter: Jitter::new(8_000, LIMITS, start),
            start,
            out: Vec::new(),
            delays: Vec::new(),
            came: std::collections::HashMap::new(),
            lost: 0,
            late: 0,
            duplicate: 0,
            resets: 0,
            most_held: 0,
        }
    }

    fn audio(&mut self, before: Before, payload: &[u8], now: Instant) {
        self.lost += before.lost;
        assert_eq!(before.missing % TICKS, 0);
        self.out.extend((0..before.missing / TICKS).map(|_| None));
        let Ok(n) = payload.try_into().map(u32::from_be_bytes) else { return };
        self.out.push(Some(n));
        self.delays.push(now - self.came[&n]);
    }

    /// Lets time go on to `to`, taking what is due when it is due.
    fn run(&mut self, to: Instant) {
        let mut now = self.start;
        while let Some(deadline) = self.jitter.deadline().filter(|deadline| *deadline <= to) {
            now = now.max(deadline);
            self.drain(now);
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(due) = self.jitter.pop(now) {
            match due {
                Due::Audio(before, payload) => self.audio(before, &payload, now),
                Due::Silence => self.out.push(None),
                Due::Late => self.late += 1,
            }
        }
        self.most_held = self.most_held.max(self.jitter.held.len());
    }

    fn put(&mut self, place: Place, n: u32, at: Instant) {
        self.run(at);
        self.came.entry(n).or_insert(at);
        let payload = if place.ticks == 0 { Vec::new() } else { bytes(n) };
        match self.jitter.put(place, &payload, at) {
            Taken::Next(before) => self.audio(before, &payload, at),
            Taken::Held => {}
            Taken::Duplicate => self.duplicate += 1,
            Taken::Late | Taken::Stray => self.late += 1,
            Taken::Reset => {
                self.resets += 1;
                self.audio(Before { missing: 0, lost: 0 }, &payload, at);
            }
        }
        self.drain(at);
    }

    /// The packets of a stream by number and time of arrival in ms.
    fn all(&mut self, packets: impl IntoIterator<Item = (u32, u64)>) {
        for (n, at) in packets {
            self.put(packet(n), n, self.start + ms(at));
        }
    }

    fn numbers(&self) -> Vec<u32> {
        self.out.iter().flatten().copied().collect()
    }
}

#[test]
fn what_comes_in_order_is_not_delayed_however_uneven() {
    let mut bench = Bench::new();
    bench.all((0..500).map(|n| (n, u64::from(n) * 20 + [0, 90, 70, 50, 30][n as usize % 5])));
    assert_eq!(bench.out, (0..500).map(Some).collect::<Vec<_>>());
    assert!(bench.delays.iter().all(Duration::is_zero) && bench.lost == 0);
}

#[test]
fn what_was_overtaken_is_put_right_and_duplicates_are_dropped() {
    let mut bench = Bench::new();
    bench.all([(0, 0), (2, 21), (1, 25), (1, 26), (3, 60), (3, 61), (5, 80), (6, 85), (5, 86), (4, 95)]);
    assert_eq!(bench.out, (0..7).map(Some).collect::<Vec<_>>());
    assert_eq!((bench.duplicate, bench.lost, bench.late), (3, 0, 0));
}

#[test]
fn a_lost_packet_is_waited_for_and_then_made_up_for() {
    let mut bench = Bench::new();
    bench.all([(0, 0), (1, 20), (3, 60)]);
    assert_eq!(bench.out, [Some(0), Some(1)]);
    assert_eq!(bench.jitter.deadline(), Some(bench.start + ms(80)));
    bench.run(bench.start + ms(80));
    assert_eq!(bench.out, [Some(0), Some(1), None, Some(3)]);
    // now it comes
    bench.all([(2, 81), (2, 82)]);
    assert_eq!((bench.late, bench.duplicate, bench.lost), (1, 1, 1));
    // such a network is waited for longer, but not for ever
    bench.all([(5, 100)]);
    assert_eq!(bench.jitter.deadline(), Some(bench.start + ms(100) + bench.jitter.wait()));
    assert!((ms(39)..=ms(200)).contains(&bench.jitter.wait()), "{:?}", bench.jitter.wait());
    for n in 0..30 {
        bench.all([(7 + 2 * n, 140 + u64::from(n) * 40), (6 + 2 * n, 141 + u64::from(n) * 40 + 300)]);
    }
    assert!(bench.jitter.wait() <= ms(200));
}

#[test]
fn a_fifth_lost_is_a_fifth_made_up_for_in_the_right_places() {
    let mut bench = Bench::new();
    let mut random = 1_u32;
    let lost = |n: u32, random: &mut u32| {
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        n > 0 && n < 1_999 && *random >> 24 < 51
    };
    let kept: Vec<_> = (0..2_000).filter(|&n| !lost(n, &mut random)).collect();
    assert!((300..500).contains(&(2_000 - kept.len())), "{}", kept.len());
    bench.all(kept.iter().map(|&n| (n, u64::from(n) * 20)));
    bench.run(bench.start + ms(40_100));
    let expected: Vec<_> = (0..2_000).map(|n| kept.contains(&n).then_some(n)).collect();
    assert_eq!(bench.out, expected);
    assert_eq!(bench.lost as usize, 2_000 - kept.len());
    assert!(bench.delays.iter().max().unwrap() <= &ms(120), "{:?}", bench.delays.iter().max());
}

#[test]
fn silence_goes_on_while_nothing_comes_and_what_follows_is_in_its_place() {
    let mut bench = Bench::new();
    bench.all((0..10).map(|n| (n, u64::from(n) * 20)));
    // five seconds that the sender leaves out, numbering on
    let late = |n: u32| Place { timestamp: packet(n).timestamp.wrapping_add(250 * TICKS), ..packet(n) };
    bench.run(bench.start + ms(1_000));
    // nothing for 200 ms, then as much as is missing, but for the last 50 ms
    assert_eq!(bench.out.len(), 48);
    for n in 10..20 {
        bench.put(late(n), n, bench.start + ms(u64::from(n) * 20 + 5_000));
    }
    let expected: Vec<_> = (0..270).map(|at| (at < 10).then_some(at).or((at >= 260).then(|| at - 250))).collect();
    assert_eq!(bench.out, expected);
    assert_eq!((bench.lost, bench.late), (0, 0));
}

#[test]
fn what_was_held_up_for_long_gives_its_place_to_silence() {
    let mut bench = Bench::new();
    bench.all((0..10).map(|n| (n, u64::from(n) * 20)));
    // a second's worth at once
    bench.all((10..60).map(|n| (n, 1_180)));
    bench.all((60..70).map(|n| (n, u64::from(n) * 20)));
    // the last 50 ms of it are no later than they may be
    assert_eq!(bench.out.len(), 70);
    assert_eq!(bench.late, 47);
    assert_eq!(bench.numbers(), (0..10).chain(57..70).collect::<Vec<_>>());
    // and of what is held up for less than 200 ms nothing is lost
    let mut bench = Bench::new();
    bench.all((0..10).map(|n| (n, u64::from(n) * 20)));
    bench.all((10..20).map(|n| (n, 399)));
    assert_eq!(bench.out, (0..20).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_clock_that_drifts_adds_and_drops_nothing_for_an_hour() {
    for ppm in [-200_i64, 200] {
        let mut bench = Bench::new();
        let at = |n: u32| u64::try_from(i64::from(n) * 20_000 + i64::from(n) * 20 * ppm / 1_000).unwrap();
        for n in 0..180_000 {
            bench.put(packet(n), n, bench.start + Duration::from_micros(at(n)));
        }
        assert_eq!(bench.out, (0..180_000).map(Some).collect::<Vec<_>>());
        assert!(bench.delays.iter().all(Duration::is_zero));
    }
}

#[test]
fn a_clock_that_drifts_while_nothing_is_sent_costs_no_speech() {
    for ppm in [-200_i64, 200] {
        let mut bench = Bench::new();
        // twenty times: a second of speech, a minute of nothing
        for n in 0..1_000_u32 {
            let sent = n + n / 50 * 3_000;
            let at = u64::try_from(i64::from(sent) * 20_000 + i64::from(sent) * 20 * ppm / 1_000).unwrap();
            let place = Place { timestamp: sent * TICKS, ..packet(n) };
            bench.put(place, n, bench.start + Duration::from_micros(at));
        }
        assert_eq!(bench.numbers(), (0..1_000).collect::<Vec<_>>());
        assert_eq!((bench.late, bench.lost), (0, 0));
        // the whole is as long as it is, but for a frame in each silence at most
        assert!(bench.out.len().abs_diff(1_000 + 19 * 3_000) <= 20, "{}", bench.out.len());
    }
}

#[test]
fn another_sequence_begins_with_its_second_packet() {
    let mut bench = Bench::new();
    bench.all((0..5).map(|n| (n, u64::from(n) * 20)));
    let other = |n: u32| Place { sequence: 30_000 + n as u16, timestamp: 7 * n, ticks: TICKS };
    // one alone is nothing
    bench.put(other(500), 1_000, bench.start + ms(100));
    bench.all([(5, 101)]);
    for n in 0..5 {
        let place = Place { timestamp: n * TICKS, ..other(n) };
        bench.put(place, 100 + n, bench.start + ms(120 + u64::from(n) * 20));
    }
    assert_eq!(bench.numbers(), [0, 1, 2, 3, 4, 5, 101, 102, 103, 104]);
    assert_eq!((bench.resets, bench.late), (1, 2));
    // a sender who counts time anew and packets on
    for n in 5..8 {
        let place = Place { timestamp: 3_000_000_000 + n * TICKS, ..other(n) };
        bench.put(place, 100 + n, bench.start + ms(120 + u64::from(n) * 20));
    }
    assert_eq!(bench.numbers()[10..], [105, 106, 107]);
    assert_eq!((bench.out.len(), bench.resets), (13, 1));
}

#[test]
fn keys_take_their_numbers_and_no_time() {
    let mut bench = Bench::new();
    bench.all((0..5).map(|n| (n, u64::from(n) * 20)));
    for n in 5..13 {
        bench.put(Place { ticks: 0, ..packet(n) }, n, bench.start + ms(u64::from(n) * 20));
    }
    bench.all((13..16).map(|n| (n, u64::from(n) * 20)));
    let expected: Vec<_> = (0..16).map(|n| (!(5..13).contains(&n)).then_some(n)).collect();
    assert_eq!(bench.out, expected);
    assert_eq!(bench.lost, 0);
}

proptest! {
    /// Whatever comes whenever: each packet at most once and in order, and memory is bounded.
    #[test]
    fn any_packets_come_out_in_order_and_once(
        packets in prop::collection::vec((0..400_u32, 0..30_u64, any::<bool>()), 1..300)
    ) {
        let mut bench = Bench::new();
        let mut at = 0;
        for (n, wait, key) in packets {
            at += wait;
            let place = Place { ticks: if key { 0 } else { TICKS }, ..packet(n) };
            bench.put(place, n, bench.start + ms(at));
        }
        bench.run(bench.start + ms(at + 300));
        let numbers = bench.numbers();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b) || bench.resets > 0, "{numbers:?}");
        prop_assert!(bench.most_held <= MAX_HELD && bench.jitter.held.is_empty());
    }

    /// Any header at all: no panic, no endless silence.
    #[test]
    fn any_headers_are_survived(packets in prop::collection::vec((any::<u16>(), any::<u32>(), 0..1_600_u32, 0..1_000_u64), 1..200)) {
        let start = Instant::now();
        let mut jitter = Jitter::new(8_000, LIMITS, start);
        let (mut now, mut silences) = (start, 0_u64);
        for (sequence, timestamp, ticks, wait) in packets {
            now += ms(wait);
            if let Taken::Next(before) = jitter.put(Place { sequence, timestamp, ticks }, &[1], now) {
                prop_assert!(before.missing <= 8_000 / 2);
            }
            while let Some(due) = jitter.pop(now) {
                silences += u64::from(due == Due::Silence);
            }
            prop_assert!(jitter.held.len() <= MAX_HELD);
        }
        prop_assert!(silences <= now.duration_since(start).as_millis() as u64 / 20);
    }

    /// Loss, jitter and disorder of a real network: what comes in time is heard, and nothing shifts.
    #[test]
    fn a_bad_network_shifts_nothing(fates in prop::collection::vec((0..100_u32, 0..60_u64), 100..300)) {
        let mut arrivals: Vec<_> = fates.iter().enumerate()
            .filter(|(n, (fate, _))| *n == 0 || *fate >= 20)
            .map(|(n, (_, jitter))| (n as u32, n as u64 * 20 + if n == 0 { 0 } else { *jitter }))
            .collect();
        arrivals.sort_by_key(|(_, at)| *at);
        let mut bench = Bench::new();
        bench.all(arrivals.iter().copied());
        bench.run(bench.start + ms(fates.len() as u64 * 20 + 60));
        for (place, number) in bench.out.iter().enumerate() {
            prop_assert!(number.is_none_or(|number| number as usize == place), "{number:?} at {place}");
        }
        prop_assert!(bench.delays.iter().all(|delay| *delay <= ms(400)));
    }
}
