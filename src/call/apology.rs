//! What the caller hears when a service has failed for good. Compiled in: the speech synthesis may be what died.

use crate::audio::{Rate, resample::Resampler, wav};

/// The words of the recording.
pub const WORDS: &str = "We are sorry. This service is not available right now. Please try again later.";

/// The apology as sound at `rate`.
#[must_use]
pub fn samples(rate: Rate) -> Vec<i16> {
    // the recording is compiled in and a test reads it: reading cannot fail
    let (hz, recorded) =
        wav::read(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/apology.wav"))).unwrap_or_default();
    let mut resampler = Resampler::new(hz, rate.hz());
    let mut out = Vec::new();
    resampler.process(&recorded, &mut out);
    resampler.finish(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_apology_lasts_as_long_at_every_rate() {
        for rate in Rate::ALL {
            let samples = samples(rate);
            let ms = rate.duration_of(samples.len()).as_millis();
            assert!((4_600..4_800).contains(&ms), "{ms} ms at {rate}");
            assert!(samples.iter().any(|sample| *sample > 8_000), "silent at {rate}");
        }
    }
}
