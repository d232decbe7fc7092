//! How loud audio is.

/// Peaks up to this count as silence: -54 dBFS, above the hiss of a quiet telephone line and what G.711 makes of zero (±8),
/// below quiet speech.
pub const SILENCE_PEAK: u16 = 64;

/// Root mean square, in sample units (0 for no samples).
#[must_use]
pub fn rms(samples: &[i16]) -> f32 {
    if samples.is_empty() {
        return 0.0;
    }
    let energy: u64 = samples.iter().map(|&sample| u64::from(sample.unsigned_abs()).pow(2)).sum();
    (energy as f64 / samples.len() as f64).sqrt() as f32
}

/// The largest magnitude, 0..=32768.
#[must_use]
pub fn peak(samples: &[i16]) -> u16 {
    samples.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0)
}

/// Whether no sample is louder than [`SILENCE_PEAK`].
#[must_use]
pub fn is_silent(samples: &[i16]) -> bool {
    peak(samples) <= SILENCE_PEAK
}

/// The peak of a sine of `dbm0` dBm0, the level of telephone engineers: the loudest sine that G.711 can carry has 3.17 (µ-law; A-law 3.14).
#[must_use]
pub fn amplitude_of_dbm0(dbm0: f32) -> f32 {
    32768.0 * 10f32.powf((dbm0 - 3.17) / 20.0)
}

/// The RMS in dB relative to full scale (32768): 0 for a full-scale square wave, -inf for digital silence.
#[must_use]
pub fn dbfs(samples: &[i16]) -> f32 {
    20.0 * (rms(samples) / 32768.0).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_levels() {
        assert_eq!(rms(&[]), 0.0);
        assert_eq!(peak(&[]), 0);
        assert_eq!(rms(&[3, -4, 3, -4]), (12.5f32).sqrt());
        assert_eq!(peak(&[5, -7]), 7);
        assert_eq!(peak(&[i16::MIN]), 32768);
        assert_eq!(dbfs(&[i16::MIN; 8]), 0.0);
        assert!((dbfs(&[3277, -3277]) + 20.0).abs() < 0.01);
        assert_eq!(dbfs(&[0; 8]), f32::NEG_INFINITY);
    }

    #[test]
    fn telephone_levels() {
        assert_eq!(amplitude_of_dbm0(3.17), 32768.0);
        assert!((amplitude_of_dbm0(-16.83) - 3276.8).abs() < 0.1);
    }

    #[test]
    fn silence_ends_at_its_threshold() {
        assert!(is_silent(&[]) && is_silent(&[64, -64, 0]));
        assert!(!is_silent(&[0, 65]) && !is_silent(&[-65]) && !is_silent(&[i16::MIN]));
    }
}
