//! Where the time of each answer went: a line of the log each, and metrics.

use std::{fmt, time::Duration};

use tracing::info;

use crate::{
    call::{Latency, Turn},
    telemetry::metrics::Metrics,
};

/// Reports the turns of a call that is over. Turns that answered nobody have no times.
pub(super) fn report(turns: &[Turn], metrics: &Metrics) {
    for (number, turn) in turns.iter().enumerate() {
        let Some(latency) = turn.latency else { continue };
        for (part, took) in parts(&latency) {
            if let Some(took) = took {
                metrics.time(&metrics.turns, part, took);
            }
        }
        metrics.time(&metrics.turns, "total", latency.total());
        info!(
            turn = number + 1,
            total_ms = ms(latency.total()),
            heard_ms = ms(turn.heard),
            cut = turn.cut,
            "answer after {} ms: {}",
            ms(latency.total()),
            Parts(&latency)
        );
    }
}

/// The parts, in the order in which they come; `answer` only where nothing closer is known.
fn parts(latency: &Latency) -> [(&'static str, Option<Duration>); 7] {
    let is_known = latency.tts_first_byte.is_some();
    [
        ("endpointing", latency.endpointing),
        ("stt", latency.stt),
        ("answer", (!is_known).then_some(latency.answer)),
        ("llm_first_token", latency.llm_first_token.filter(|_| is_known)),
        ("first_sentence", latency.first_sentence.filter(|_| is_known)),
        ("tts_first_byte", latency.tts_first_byte),
        ("playout", Some(latency.playout)),
    ]
}

struct Parts<'a>(&'a Latency);

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = parts(self.0).into_iter().filter_map(|(part, took)| Some((part, took?)));
        for (index, (part, took)) in known.enumerate() {
            let plus = if index > 0 { " + " } else { "" };
            write!(f, "{plus}{} {}", part.replace('_', " "), ms(took))?;
        }
        Ok(())
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(known: bool) -> Turn {
        let ms = Duration::from_millis;
        let latency = Latency {
            endpointing: Some(ms(256)),
            stt: known.then(|| ms(100)),
            answer: ms(90),
            llm_first_token: known.then(|| ms(40)),
            first_sentence: known.then(|| ms(20)),
            tts_first_byte: known.then(|| ms(30)),
            playout: ms(8),
        };
        Turn { latency: Some(latency), heard: ms(3_000), cut: false }
    }

    #[test]
    fn a_line_has_the_parts_that_are_known() {
        let line = |known| Parts(&answer(known).latency.unwrap_or_default()).to_string();
        assert_eq!(
            line(true),
            "endpointing 256 + stt 100 + llm first token 40 + first sentence 20 + tts first byte 30 + playout 8"
        );
        assert_eq!(line(false), "endpointing 256 + answer 90 + playout 8");
    }

    #[test]
    fn answers_are_in_the_metrics_and_greetings_are_not() {
        let metrics = Metrics::default();
        report(&[Turn { latency: None, ..answer(true) }, answer(true), answer(false)], &metrics);
        let text = metrics.encode();
        for line in [
            "hark_turn_seconds_count{part=\"total\"} 2",
            "hark_turn_seconds_count{part=\"stt\"} 1",
            "hark_turn_seconds_count{part=\"answer\"} 1",
            "hark_turn_seconds_sum{part=\"tts_first_byte\"} 0.03",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
