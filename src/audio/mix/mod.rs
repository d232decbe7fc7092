//! Mixing and fades.

mod ambience;
mod looped;

pub use ambience::Ambience;

/// Adds `other` to `audio`, sample by sample; what is too loud is clipped. The longer one's rest stays as it is.
pub fn add(audio: &mut [i16], other: &[i16]) {
    for (sample, &other) in audio.iter_mut().zip(other) {
        *sample = sample.saturating_add(other);
    }
}

/// Fades the first `count` samples in from silence.
pub fn fade_in(audio: &mut [i16], count: usize) {
    let count = count.min(audio.len());
    for (n, sample) in audio[..count].iter_mut().enumerate() {
        *sample = scale(*sample, n, count);
    }
}

/// Fades out over the first `count` samples; the rest becomes silence. For audio that is cut off here.
pub fn fade_out(audio: &mut [i16], count: usize) {
    let count = count.min(audio.len());
    let (fading, silent) = audio.split_at_mut(count);
    fade_tail(fading, count);
    silent.fill(0);
}

/// Fades out over the last `count` samples. For audio that ends here.
pub fn fade_tail(audio: &mut [i16], count: usize) {
    let count = count.min(audio.len());
    let from = audio.len() - count;
    for (n, sample) in audio[from..].iter_mut().enumerate() {
        *sample = scale(*sample, count - 1 - n, count);
    }
}

/// `sample * part / whole` with `part < whole`, which cannot leave the 16 bits.
fn scale(sample: i16, part: usize, whole: usize) -> i16 {
    (i64::from(sample) * part as i64 / whole as i64) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fades() {
        let mut audio = [1000; 10];
        fade_in(&mut audio, 4);
        assert_eq!(audio, [0, 250, 500, 750, 1000, 1000, 1000, 1000, 1000, 1000]);
        let mut audio = [1000; 10];
        fade_out(&mut audio, 4);
        assert_eq!(audio, [750, 500, 250, 0, 0, 0, 0, 0, 0, 0]);
        let mut audio = [1000; 10];
        fade_tail(&mut audio, 4);
        assert_eq!(audio, [1000, 1000, 1000, 1000, 1000, 1000, 750, 500, 250, 0]);
        for count in [0, 3, 100] {
            fade_in(&mut [], count);
            fade_out(&mut [], count);
            fade_tail(&mut [], count);
            fade_tail(&mut [i16::MIN; 3], count);
        }
    }
}
