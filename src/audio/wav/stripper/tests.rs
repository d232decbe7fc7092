use super::super::Coding;
use super::*;
use crate::audio::g711::Law;
use proptest::prelude::*;

fn chunk(name: &[u8; 4], size: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = [&name[..], &size.to_le_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

fn sized(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    chunk(name, content.len() as u32, content)
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"RIFF\xFF\xFF\xFF\xFFWAVE", &chunks.concat()[..]].concat()
}

fn fmt(tag: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
    let mut content = Vec::new();
    content.extend(tag.to_le_bytes());
    content.extend(channels.to_le_bytes());
    content.extend(rate.to_le_bytes());
    content.extend([0; 6]);
    content.extend(bits.to_le_bytes());
    sized(b"fmt ", &content)
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// The samples of `bytes`, given in pieces of `piece` bytes, and the format after it.
fn strip(bytes: &[u8], piece: usize) -> (Vec<i16>, Option<Format>) {
    let (mut stripper, mut out) = (Stripper::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        stripper.push(piece, &mut out);
        assert!(stripper.pending.len() <= 42, "{} bytes held", stripper.pending.len());
    }
    let format = stripper.format();
    stripper.finish(&mut out);
    (out, format)
}

const MONO_8K: Option<Format> = Some(Format { rate: 8000, channels: 1, coding: Coding::Pcm16 });

#[test]
fn what_ffmpeg_streams() {
    let samples: Vec<i16> = (0..1000).map(|n| n * 31).collect();
    let list = sized(b"LIST", b"INFOISFT\x0e\0\0\0Lavf59.27.100\0");
    let bytes = riff(&[fmt(1, 1, 8000, 16), list, chunk(b"data", u32::MAX, &bytes_of(&samples))]);
    assert_eq!(bytes.len() - 2000, 78, "the header that ffmpeg writes to a pipe");
    for piece in [1, 2, 3, 5, 7, 11, 13, 77, 78, 79, 320, 9999] {
        assert_eq!(strip(&bytes, piece), (samples.clone(), MONO_8K), "pieces of {piece}");
    }
}

#[test]
fn chunks_in_any_order_and_behind_the_audio() {
    let audio = bytes_of(&[1, 2, 3]);
    let odd = sized(b"note", b"abc");
    let bytes =
        riff(&[odd.clone(), fmt(1, 1, 8000, 16), odd.clone(), sized(b"data", &audio), odd, sized(b"id3 ", &[9; 50])]);
    for piece in 1..40 {
        assert_eq!(strip(&bytes, piece), (vec![1, 2, 3], MONO_8K), "pieces of {piece}");
    }
    // no fmt chunk at all, an empty length, a cut-off sample at the end of a chunk
    assert_eq!(strip(&riff(&[sized(b"data", &audio)]), 3), (vec![1, 2, 3], None));
    assert_eq!(strip(&riff(&[chunk(b"data", 0, &audio)]), 3), (vec![1, 2, 3], None));
    let cut = riff(&[sized(b"data", &audio[..5]), sized(b"data", &audio)]);
    assert_eq!(strip(&cut, 4), (vec![1, 2, 1, 2, 3], None));
}

#[test]
fn clip_after_clip() {
    let first = riff(&[fmt(1, 1, 8000, 16), chunk(b"data", u32::MAX, &bytes_of(&[1, 2, 3]))]);
    let second = riff(&[fmt(1, 1, 16_000, 16), sized(b"data", &bytes_of(&[4, 5]))]);
    let stream = [&first[..], b"x", &second[..], &first[..]].concat();
    for piece in 1..stream.len() {
        assert_eq!(strip(&stream, piece), (vec![1, 2, 3, 4, 5, 1, 2, 3], MONO_8K), "pieces of {piece}");
    }
    // without header, then with one
    let stream = [&bytes_of(&[7, 8])[..], &second[..]].concat();
    for piece in 1..stream.len() {
        assert_eq!(strip(&stream, piece).0, [7, 8, 4, 5]);
    }
    let (mut stripper, mut out) = (Stripper::new(), Vec::new());
    stripper.push(&second[..20], &mut out);
    stripper.reset();
    stripper.push(&bytes_of(&[7, 8]), &mut out);
    assert_eq!((out, stripper.format()), (vec![7, 8], None));
}

#[test]
fn every_coding_becomes_16_bit_mono() {
    let extensible = {
        let mut content = fmt(0xFFFE, 1, 8000, 16)[8..].to_vec();
        content.extend([22, 0, 16, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0, 128, 0, 0, 170, 0, 56, 155, 113]);
        sized(b"fmt ", &content)
    };
    let floats = [0.5f32, -1.0, 7.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    for (fmt, audio, expected, coding) in [
        (fmt(1, 1, 8000, 8), vec![0, 128, 255], vec![-32768, 0, 32512], Coding::Pcm8),
        (fmt(1, 1, 8000, 24), vec![9, 1, 0, 9, 255, 255], vec![1, -1], Coding::Pcm24),
        (fmt(1, 1, 8000, 32), vec![9, 9, 1, 0, 9, 9, 255, 255], vec![1, -1], Coding::Pcm32),
        (fmt(3, 1, 8000, 32), floats, vec![16384, -32768, 32767], Coding::Float32),
        (fmt(6, 1, 8000, 8), vec![0xD5, 0x55], vec![8, -8], Coding::G711(Law::Alaw)),
        (fmt(7, 1, 8000, 8), vec![0xFF, 0x80], vec![0, 32124], Coding::G711(Law::Ulaw)),
        (fmt(1, 2, 8000, 16), bytes_of(&[10, 20, -32768, -32768, 5]), vec![15, -32768], Coding::Pcm16),
        (fmt(1, 999, 8000, 16), bytes_of(&[10, 20]), vec![10, 20], Coding::Pcm16),
        (fmt(85, 1, 8000, 0), bytes_of(&[10]), vec![10], Coding::Other { tag: 85, bits: 0 }),
        (extensible, bytes_of(&[10]), vec![10], Coding::Pcm16),
    ] {
        for piece in 1..8 {
            let (samples, format) = strip(&riff(&[fmt.clone(), sized(b"data", &audio)]), piece);
            assert_eq!((samples, format.map(|format| format.coding)), (expected.clone(), Some(coding)));
        }
    }
}

#[test]
fn a_broken_header_is_heard_as_noise_rather_than_as_silence() {
    let audio = bytes_of(&[500; 1000]);
    for name in [*b"LIST", [0, 1, 2, 3]] {
        let size = if name == *b"LIST" { LONGEST_CHUNK + 1 } else { 4 };
        let (samples, _) = strip(&riff(&[chunk(&name, size, &audio)]), 100);
        assert!(samples.ends_with(&[500; 1000]), "{name:?}");
    }
}

#[test]
fn the_start_of_a_stream_without_header_is_not_held_back() {
    let (mut stripper, mut out) = (Stripper::new(), Vec::new());
    stripper.push(&[1, 0, 2], &mut out);
    assert_eq!(out, [1]);
    stripper.push(&[0], &mut out);
    assert_eq!(out, [1, 2]);
    // these might become a header; then the stream ends
    stripper.push(b"RIFF1234WA", &mut out);
    assert_eq!(out, [1, 2]);
    stripper.finish(&mut out);
    assert_eq!(bytes_of(&out[2..]), b"RIFF1234WA");
}

/// Bytes in which headers and chunks are likely.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(b"RIFF".to_vec()),
        Just(b"RIFF\0\0\0\0WAVE".to_vec()),
        (1u16..5, 0u16..10, 7u16..34).prop_map(|(tag, channels, bits)| fmt(tag, channels, 8000, bits)),
        (0u32..30, prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(size, bytes)| chunk(b"data", size, &bytes)),
        (0u32..30, prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(size, bytes)| chunk(b"LIST", size, &bytes)),
        any::<u32>().prop_map(|size| chunk(b"data", size, b"")),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn how_it_is_cut_changes_nothing(bytes in stream(), cuts in prop::collection::vec(1usize..30, 1..10)) {
        let whole = strip(&bytes, usize::MAX);
        for piece in cuts {
            prop_assert_eq!(strip(&bytes, piece), whole.clone());
        }
        prop_assert!(whole.0.len() <= bytes.len());
    }

    #[test]
    fn raw_audio_passes_unchanged(samples in prop::collection::vec(any::<i16>(), 0..200), piece in 1usize..30) {
        let bytes = bytes_of(&samples);
        prop_assume!(!matches!(find_magic(&bytes), Some(Magic::Whole(_))));
        prop_assert_eq!(strip(&bytes, piece), (samples, None));
    }
}
