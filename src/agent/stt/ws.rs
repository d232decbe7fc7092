//! Hark's own WebSocket contract.

use http::HeaderMap;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

use super::{
    Heard,
    dialect::{Dialect, Read, Sends},
};
use crate::agent::{Context, socket::Reply};

/// The contract with one service.
#[derive(Debug)]
pub struct Contract {
    ctx: Context,
    url: Url,
}

impl Contract {
    pub const fn new(ctx: Context, url: Url) -> Self {
        Self { ctx, url }
    }
}

impl Dialect for Contract {
    fn target(&self) -> (Url, HeaderMap) {
        (self.url.clone(), HeaderMap::new())
    }

    fn sends(&self) -> Sends {
        Sends { rate: self.ctx.rate, law: None, frames: self.ctx.config.frames_per_message(), padded: false }
    }

    fn open(&mut self) -> Vec<Message> {
        let mut start = json!({"type": "start", "uuid": self.ctx.uuid, "sample_rate": self.ctx.rate.hz()});
        if let Some(language) = &self.ctx.config.language {
            start["language"] = language.as_str().into();
        }
        vec![Message::text(start.to_string())]
    }

    fn finalize(&mut self) -> Vec<Message> {
        vec![Message::text(json!({"type": "flush"}).to_string())]
    }

    fn end(&mut self) -> Vec<Message> {
        ["flush", "stop"].map(|kind| Message::text(json!({"type": kind}).to_string())).into()
    }

    fn read(&mut self, text: &str) -> Vec<Read> {
        let Ok(reply) = serde_json::from_str::<Reply>(text) else { return vec![Read::Strange] };
        let read = match reply.kind.as_str() {
            "partial" => Read::Heard(Heard::Partial(reply.text.unwrap_or_default())),
            // segments without blanks of their own are still words of their own
            "final" => Read::Heard(Heard::Piece(format!(" {}", reply.text.unwrap_or_default().trim()))),
            "speech_started" => Read::Heard(Heard::Started),
            "end_of_turn" => Read::Heard(Heard::EndOfTurn),
            "error" if reply.fatal == Some(true) => Read::Fatal { what: reply.complaint(), again: true },
            "error" => Read::Trouble(reply.complaint()),
            _ => return Vec::new(),
        };
        vec![read]
    }

    // a service of one's own may be started again with better settings
    fn is_final(&self, _code: u16) -> bool {
        false
    }
}
