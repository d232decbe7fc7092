//! How a connection ends, and what that means for the call.

use tokio_tungstenite::tungstenite::{
    Error,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{Leg, State, shown};
use crate::call::Cause;

impl Leg {
    pub(super) fn closed(&mut self, frame: Option<&CloseFrame>) {
        match frame.map(|frame| frame.code) {
            None | Some(CloseCode::Normal | CloseCode::Away) => self.end(Cause::Normal),
            Some(code) => {
                let reason = frame.map(|frame| shown(&frame.reason)).unwrap_or_default();
                tracing::warn!(
                    code = "websocket.closed",
                    "Asterisk closes the connection with {code} {reason:?}: the call ends; its own log says more"
                );
                self.end(Cause::Lost);
            }
        }
        // the answer to it
        let _ = self.socket.flush();
    }

    pub(super) fn broke(&mut self, error: &Error) {
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => self.end(Cause::Normal),
            // what follows our own hang-up is no news
            _ if self.hung_up => self.end(Cause::Normal),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                tracing::warn!(code = "websocket.lost", "Asterisk closed the connection without a word: the call ends");
                self.end(Cause::Lost);
            }
            error => {
                tracing::warn!(
                    code = "websocket.lost",
                    "the connection to Asterisk broke: {}",
                    shown(&error.to_string())
                );
                self.end(Cause::Lost);
            }
        }
    }

    pub(super) fn end(&mut self, cause: Cause) {
        if matches!(self.state, State::Starting | State::Open) {
            self.state = State::Ending(cause);
        }
    }
}
