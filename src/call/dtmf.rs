//! Digits collected to one answer.

use std::time::{Duration, Instant};

use super::{Digit, config};

/// Digits of one collection at most, whatever is configured.
pub const MOST: usize = 64;

/// How digits are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Fewer are no answer.
    pub min: usize,
    /// So many are complete.
    pub max: usize,
    /// Ends the collection; it is not part of it.
    pub terminator: Option<Digit>,
    /// The longest pause between two digits.
    pub timeout: Duration,
    /// The first digit interrupts the agent.
    pub interrupt: bool,
    /// For one answer only; then digits are again what the settings say.
    pub once: bool,
}

impl Collect {
    /// As the settings say; `None` where digits are not collected.
    #[must_use]
    pub fn of(config: &config::Dtmf) -> Option<Self> {
        config.collect.then(|| Self {
            min: config.min,
            max: config.max,
            terminator: config
                .terminator
                .as_deref()
                .filter(|text| text.len() == 1)
                .and_then(|text| text.chars().next()?.try_into().ok()),
            timeout: Duration::from_millis(config.timeout_ms),
            interrupt: config.interrupt,
            once: false,
        })
    }
}

/// Collects.
#[derive(Debug)]
pub struct Collector {
    how: Collect,
    digits: Vec<Digit>,
    last: Option<Instant>,
}

impl Collector {
    /// Nothing collected.
    #[must_use]
    pub const fn new(how: Collect) -> Self {
        Self { how, digits: Vec::new(), last: None }
    }

    /// How it collects.
    #[must_use]
    pub const fn how(&self) -> Collect {
        self.how
    }

    /// Whether digits wait for more.
    #[must_use]
    pub const fn is_collecting(&self) -> bool {
        self.last.is_some()
    }

    /// A key was pressed; the digits when they are complete. A terminator that ends nothing is a digit like another.
    pub fn press(&mut self, digit: Digit, now: Instant) -> Option<Vec<Digit>> {
        if Some(digit) == self.how.terminator && self.is_collecting() {
            return self.take();
        }
        self.digits.push(digit);
        self.last = Some(now);
        let alone = Some(digit) == self.how.terminator;
        if alone || self.digits.len() >= self.how.max.clamp(1, MOST) {
            self.last = None;
            return Some(std::mem::take(&mut self.digits));
        }
        None
    }

    /// The digits when the pause behind the last one was too long. Fewer than the least are forgotten.
    pub fn look(&mut self, now: Instant) -> Option<Vec<Digit>> {
        let is_over = self.last.is_some_and(|last| now >= last + self.how.timeout);
        is_over.then(|| self.take()).flatten()
    }

    fn take(&mut self) -> Option<Vec<Digit>> {
        self.last = None;
        let digits = std::mem::take(&mut self.digits);
        (digits.len() >= self.how.min).then_some(digits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config() -> config::Dtmf {
        config::Dtmf { collect: true, min: 2, max: 4, timeout_ms: 1_000, ..config::Dtmf::default() }
    }

    fn collector() -> Collector {
        Collector::new(Collect::of(&config()).unwrap())
    }

    /// Keys, each 100 ms behind the one before; `-` is a pause of a second.
    fn press(collector: &mut Collector, keys: &str) -> Vec<String> {
        let mut now = Instant::now();
        let mut all = Vec::new();
        for key in keys.chars() {
            now += Duration::from_millis(if key == '-' { 1_000 } else { 100 });
            all.extend(collector.look(now));
            if let Ok(digit) = Digit::try_from(key) {
                all.extend(collector.press(digit, now));
            }
        }
        all.into_iter().map(|digits| digits.iter().map(Digit::to_string).collect()).collect()
    }

    #[test]
    fn the_most_a_terminator_or_a_pause_completes_them() {
        assert_eq!(press(&mut collector(), "123456#78-9"), ["1234", "56", "78"]);
    }

    #[test]
    fn too_few_are_forgotten_and_a_terminator_alone_is_a_digit() {
        assert_eq!(press(&mut collector(), "1-23#4#5-#12#"), ["23", "#", "12"]);
    }

    #[test]
    fn off_by_default() {
        assert_eq!(Collect::of(&config::Dtmf::default()), None);
    }

    proptest! {
        #[test]
        fn no_digit_is_heard_twice_and_nothing_grows(keys in "[0-9*#-]{0,200}") {
            let (mut collector, mut left) = (collector(), keys.as_str());
            for digits in press(&mut collector, &keys) {
                prop_assert!((1..=4).contains(&digits.len()));
                for digit in digits.chars() {
                    let at = left.find(digit);
                    prop_assert!(at.is_some());
                    left = &left[at.unwrap() + 1..];
                }
            }
            prop_assert!(collector.digits.len() < 4);
        }
    }
}
