//! Every fuzz target over its seeds in `fixtures/fuzz/` and some thousands of damaged ones, the same in every run. `make fuzz` searches on.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::{TARGETS, Target};

/// Bytes and words that parsers turn on.
const TELLING: &[&[u8]] = &[
    b"{",
    b"}",
    b"\"",
    b"\\",
    b"[",
    b",",
    b":",
    b"\0",
    b"\r\n",
    b" ",
    b".",
    b"\xff",
    b"\x80",
    b"\xc3",
    b"\xe2\x82",
    b"=",
    b"null",
    b"1e999",
    b"-1",
    b"RIFF",
    b"WAVE",
    b"data",
    b"fmt ",
    b"\xff\xff\xff\xff",
    b"\0\0",
    b"\x10\x00\xa0",
    b"<end>",
    "【".as_bytes(),
    "】".as_bytes(),
    b"\"type\":",
    b"%",
    b"://",
    b"\\u0000",
];

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz").join(name);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // a directory has no order of its own, and every run is to be the same
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Damages `bytes` in one way.
fn damage(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let to = rng.random_range(at..=bytes.len());
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 => drop(bytes.drain(at..to)),
        3 => bytes.truncate(at),
        4 => {
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
        }
        5 => {
            let other = seeds.choose(rng).unwrap();
            let from = rng.random_range(0..=other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
        6 => {
            let noise: Vec<u8> = (0..rng.random_range(0..64)).map(|_| rng.random()).collect();
            bytes.splice(at..at, noise);
        }
        _ => {
            let word = TELLING.choose(rng).unwrap().repeat(*[1, 1, 1, 2, 40, 400].choose(rng).unwrap());
            bytes.splice(at..at, word);
        }
    }
    bytes.truncate(4096);
}

fn smoke(name: &str, target: Target, rounds: usize) {
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let mut rng = StdRng::seed_from_u64(0x4a52_4b00);
    let run = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
            panic!("{name} breaks its promise on {}", input.escape_ascii());
        }
    };
    run(&[]);
    seeds.iter().for_each(|seed| run(seed));
    for _ in 0..rounds {
        let mut input = seeds.choose(&mut rng).unwrap().clone();
        for _ in 0..rng.random_range(1..=6) {
            damage(&mut input, &seeds, &mut rng);
        }
        run(&input);
    }
}

#[test]
fn any_input_ends_in_a_value_or_an_error() {
    for (name, target) in TARGETS {
        // reading a configuration begins with the compiled-in one, which takes a millisecond
        let started = std::time::Instant::now();
        // and an Opus decoder tenths of one
        let slow = matches!(*name, "configuration" | "opus_packets");
        smoke(name, *target, if slow { 2_000 } else { 20_000 });
        eprintln!("{name}: {:?}", started.elapsed());
    }
}

#[test]
fn every_target_is_fuzzed_and_has_seeds() {
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz/fuzz_targets"), targets);
    assert_eq!(names("fixtures/fuzz"), targets);
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
    }
}
