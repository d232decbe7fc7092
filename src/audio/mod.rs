//! Pure arithmetic on audio samples. Always mono; inside the core audio is signed 16-bit at the leg's [`Rate`].
//!
//! Nothing in here does I/O, keeps a clock or names another room.

pub mod beep;
mod config;
mod correlate;
pub mod denoise;
pub mod dtmf;
pub mod echo;
pub mod file;
mod format;
mod frame;
pub mod framer;
pub mod g711;
pub mod g722;
pub mod gain;
pub mod level;
pub mod mix;
#[cfg(feature = "opus")]
pub mod opus;
pub mod resample;
pub mod spare;
pub mod tone;
pub mod vad;
pub mod wav;

pub use config::Config;
pub use format::{AudioFormat, Encoding, Rate, UnknownRate};
pub use frame::Frame;
