//! Speech-to-speech services of the AVR contract: one service listens, thinks and speaks.
//!
//! [`websocket`] is the contract proper (JSON text, base64 audio), [`http`] its older form (raw audio both ways, no events). The
//! wire is always s16le 8 kHz mono; `edge` converts to and from the leg's rate, once.

mod edge;
pub mod http;
pub mod websocket;
pub mod wire;

pub use http::StsHttp;
pub use websocket::Sts;
