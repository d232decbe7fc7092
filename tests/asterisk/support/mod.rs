//! What the tests need around the gateway: a private Asterisk, a phone, and a plain AudioSocket server to prove both.
pub mod audiosocket;
pub mod callee;
pub mod g711;
pub mod hark;
pub mod lab;
pub mod phone;
pub mod proxy;
pub mod rtp;
pub mod services;
pub mod sip;

#[path = "../../it/support/connector.rs"]
pub mod connector;
#[path = "../../it/support/engines.rs"]
pub mod engines;
#[path = "../../it/support/language_model.rs"]
pub mod language_model;
#[path = "../../it/support/models.rs"]
pub mod models;
#[path = "../../it/support/receiver.rs"]
pub mod receiver;
#[path = "../../it/support/sts_server.rs"]
pub mod sts_server;

/// A test that takes longer hangs.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Noise that never repeats: any frame lost, doubled, moved or rounded shows up in a comparison of samples.
pub fn noise(samples: usize, seed: u32) -> Vec<i16> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    (0..samples)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 16) as i16 / 4
        })
        .collect()
}

/// Where `part` begins in `whole`, when it is there without a gap.
pub fn find(whole: &[i16], part: &[i16]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}
