//! Whose turn it is: pure policies that the state machine asks.

mod voice;

pub use voice::{Turn, VOICE_MS, Voice};
