//! What chan_websocket says in text messages, and what it is told: JSON or plain text, as the dial string chose.
//!
//! Audio is in binary messages without any header, so all there is to read here is text.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    audio::{AudioFormat, Encoding, Rate},
    call::Digit,
};

/// Asterisk ignores longer commands, with a line in its log and none on the wire.
pub const MAX_COMMAND: usize = 128;
/// Asterisk closes the connection over a longer message.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The longest text that is read: variables of a channel may come with `MEDIA_START`.
pub const MAX_TEXT: usize = 64 * 1024;

/// How control messages are written on a connection: what `MEDIA_START` was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `f(json)`, or `control_message_format=json` in chan_websocket.conf.
    Json,
    /// Words, Asterisk's default.
    Plain,
}

/// What a channel begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// How it was written.
    pub style: Style,
    /// What binary messages hold, both ways.
    pub format: AudioFormat,
    /// Bytes of a frame; 0 = what they come in (opus).
    pub frame_bytes: usize,
    /// Asterisk's id of the channel.
    pub channel: String,
}

/// What Asterisk reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The channel is there.
    Start(Start),
    /// The queue has room again.
    Xon,
    /// The queue is nearly full.
    Xoff,
    /// Everything sent has been played.
    Drained,
    /// Buffered media has been played.
    Buffered,
    /// Playing has come to this mark.
    Mark(String),
    /// The caller pressed a key.
    Dtmf(Digit),
    /// The answer to `GET_STATUS`: frames that wait.
    Status(u64),
    /// Asterisk refuses a command; its words.
    Error(String),
    /// Something newer than this program.
    Unknown(String),
}

/// A text that is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It begins as JSON and is none.
    #[error("half or broken JSON: {0}")]
    Json(String),
    /// It has no name.
    #[error("no event is named in it")]
    NoEvent,
    /// A format that Hark does not speak.
    #[error(
        "the format {0} is none that Hark speaks (slin … slin192, ulaw, alaw, g722, opus); name one in the dial string, e.g. c(slin16)"
    )]
    Format(String),
    /// The size of a frame cannot be.
    #[error("frames of {0} bytes cannot be")]
    FrameBytes(u64),
    /// A key that no telephone has.
    #[error("a digit that is none")]
    Digit,
}

/// An event as JSON has it. Fields of a type that nobody expects are as good as missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Json {
    event: Value,
    channel_id: Value,
    format: Value,
    optimal_frame_size: Value,
    correlation_id: Value,
    digit: Value,
    queue_length: Value,
    error_text: Value,
}

/// Reads a text message.
///
/// # Errors
/// It is no event of chan_websocket.
pub fn parse(text: &str) -> Result<Event, WireError> {
    let text = text.trim();
    if text.starts_with('{') { json(text) } else { plain(text) }
}

fn json(text: &str) -> Result<Event, WireError> {
    let json: Json = serde_json::from_str(text).map_err(|error| WireError::Json(error.to_string()))?;
    let said = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let count = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0);
    let name = json.event.as_str().filter(|name| !name.is_empty()).ok_or(WireError::NoEvent)?;
    Ok(match name {
        "MEDIA_START" => Event::Start(start(
            Style::Json,
            &said(&json.format),
            count(&json.optimal_frame_size),
            said(&json.channel_id),
        )?),
        "MEDIA_MARK_PROCESSED" => Event::Mark(said(&json.correlation_id)),
        "DTMF_END" => Event::Dtmf(digit(&said(&json.digit))?),
        "STATUS" => Event::Status(count(&json.queue_length)),
        "ERROR" => Event::Error(said(&json.error_text)),
        name => simple(name),
    })
}

/// `NAME key:value key:value …`, or `NAME id`.
fn plain(text: &str) -> Result<Event, WireError> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let field = |key: &str| {
        let mut words = rest.split_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default()
    };
    Ok(match name {
        "" => return Err(WireError::NoEvent),
        "MEDIA_START" => Event::Start(start(
            Style::Plain,
            field("format"),
            field("optimal_frame_size").parse().unwrap_or(0),
            field("channel_id").to_owned(),
        )?),
        "MEDIA_MARK_PROCESSED" => Event::Mark(rest.strip_prefix("correlation_id:").unwrap_or(rest).to_owned()),
        "DTMF_END" => Event::Dtmf(digit(field("digit"))?),
        "STATUS" => Event::Status(field("queue_length").parse().unwrap_or(0)),
        "ERROR" => Event::Error(rest.split_once("error_text:").map_or(rest, |(_, text)| text).to_owned()),
        name => simple(name),
    })
}

fn simple(name: &str) -> Event {
    match name {
        "MEDIA_XON" => Event::Xon,
        "MEDIA_XOFF" => Event::Xoff,
        "QUEUE_DRAINED" => Event::Drained,
        "MEDIA_BUFFERING_COMPLETED" => Event::Buffered,
        name => Event::Unknown(name.to_owned()),
    }
}

fn digit(text: &str) -> Result<Digit, WireError> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(key), None) => Digit::try_from(key).map_err(|_| WireError::Digit),
        _ => Err(WireError::Digit),
    }
}

fn start(style: Style, format: &str, frame_bytes: u64, channel: String) -> Result<Start, WireError> {
    let format = format_of(format).ok_or_else(|| WireError::Format(format.chars().take(40).collect()))?;
    match usize::try_from(frame_bytes) {
        Ok(bytes) if bytes <= MAX_MESSAGE => Ok(Start { style, format, frame_bytes: bytes, channel }),
        _ => Err(WireError::FrameBytes(frame_bytes)),
    }
}

/// What Asterisk's name of a format means. Opus is held at 16 kHz: more than that no service for speech uses.
fn format_of(name: &str) -> Option<AudioFormat> {
    let (encoding, rate) = match name {
        "ulaw" => (Encoding::Ulaw, Rate::R8K),
        "alaw" => (Encoding::Alaw, Rate::R8K),
        "g722" => (Encoding::G722, Rate::R16K),
        #[cfg(feature = "opus")]
        "opus" => (Encoding::Opus, Rate::R16K),
        name => {
            let rate = match name.strip_prefix("slin")? {
                "" => Rate::R8K,
                "12" => Rate::R12K,
                "16" => Rate::R16K,
                "24" => Rate::R24K,
                "32" => Rate::R32K,
                "44" => Rate::R44K,
                "48" => Rate::R48K,
                "96" => Rate::R96K,
                "192" => Rate::R192K,
                _ => return None,
            };
            (Encoding::Linear16, rate)
        }
    };
    Some(AudioFormat { encoding, rate })
}

/// What Asterisk is told. An id is a number, so that no command is ever too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Report when playing comes to this point.
    Mark(u32),
    /// The same for a flush.
    Fence(u32),
    /// Throw away what waits to be played.
    Flush,
    /// End the call.
    Hangup,
}

/// A mark that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// [`Command::Mark`].
    Mark(u32),
    /// [`Command::Fence`].
    Fence(u32),
}

/// The mark of this id; `None` for one that is not ours.
#[must_use]
pub fn reached(id: &str) -> Option<Reached> {
    let (kind, number) = (id.get(..1)?, id.get(1..)?.parse().ok()?);
    match kind {
        "m" => Some(Reached::Mark(number)),
        "f" => Some(Reached::Fence(number)),
        _ => None,
    }
}

/// A command as text.
#[must_use]
pub fn write(command: Command, style: Style) -> String {
    let (name, id) = match command {
        Command::Mark(number) => ("MARK_MEDIA", Some(('m', number))),
        Command::Fence(number) => ("MARK_MEDIA", Some(('f', number))),
        Command::Flush => ("FLUSH_MEDIA", None),
        Command::Hangup => ("HANGUP", None),
    };
    match (style, id) {
        (Style::Plain, None) => name.to_owned(),
        (Style::Plain, Some((kind, number))) => format!("{name} {kind}{number}"),
        (Style::Json, None) => format!(r#"{{"command":"{name}"}}"#),
        (Style::Json, Some((kind, number))) => {
            format!(r#"{{"command":"{name}","correlation_id":"{kind}{number}"}}"#)
        }
    }
}

/// What a fuzzer calls: whether the text is an event.
#[doc(hidden)]
#[must_use]
pub fn fuzz(text: &str) -> bool {
    match parse(text) {
        Ok(Event::Mark(id)) => reached(&id).is_some(),
        Ok(_) => true,
        Err(error) => error.to_string().is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn started(style: Style, encoding: Encoding, rate: Rate, frame_bytes: usize, channel: &str) -> Event {
        let format = AudioFormat { encoding, rate };
        Event::Start(Start { style, format, frame_bytes, channel: channel.to_owned() })
    }

    /// As Asterisk 22.10.1 writes them.
    #[test]
    fn events_in_both_styles() {
        let linear = Encoding::Linear16;
        for (text, event) in [
            (
                "MEDIA_START connection_id:media1 channel:WebSocket/media1/0x7f08 channel_id:astlab-179.1 format:slin16 \
                 optimal_frame_size:640 ptime:20",
                started(Style::Plain, linear, Rate::R16K, 640, "astlab-179.1"),
            ),
            (
                r#"{"event":"MEDIA_START","connection_id":"c","channel":"WebSocket/x","channel_id":"7.1","format":"ulaw","optimal_frame_size":160,"ptime":20,"channel_variables":{"A":"b"}}"#,
                started(Style::Json, Encoding::Ulaw, Rate::R8K, 160, "7.1"),
            ),
            ("MEDIA_XON", Event::Xon),
            ("MEDIA_XOFF channel_id:x", Event::Xoff),
            (r#"{"event":"MEDIA_XOFF","channel_id":"x"}"#, Event::Xoff),
            ("QUEUE_DRAINED", Event::Drained),
            ("MEDIA_BUFFERING_COMPLETED m1", Event::Buffered),
            ("MEDIA_MARK_PROCESSED m17", Event::Mark("m17".into())),
            (r#"{"event":"MEDIA_MARK_PROCESSED","channel_id":"x","correlation_id":"f3"}"#, Event::Mark("f3".into())),
            ("DTMF_END digit:# channel_id:x", Event::Dtmf(Digit::try_from('#').unwrap())),
            (r#"{"event":"DTMF_END","digit":"7","channel_id":"x"}"#, Event::Dtmf(Digit::try_from('7').unwrap())),
            (
                "STATUS channel_id:X queue_length:12 xon_level:800 xoff_level:900 queue_full:false bulk_media:false \
                 media_paused:false",
                Event::Status(12),
            ),
            (r#"{"event":"STATUS","queue_length":3,"queue_full":false}"#, Event::Status(3)),
            (
                "ERROR channel_id:X error_text:SET_MEDIA_DIRECTION only supports JSON format.\n",
                Event::Error("SET_MEDIA_DIRECTION only supports JSON format.".into()),
            ),
            (r#"{"event":"ERROR","error_text":"no"}"#, Event::Error("no".into())),
            (r#"{"event":"LATER","x":[1]}"#, Event::Unknown("LATER".into())),
            ("LATER x:1", Event::Unknown("LATER".into())),
        ] {
            assert_eq!(parse(text), Ok(event), "{text}");
        }
    }

    #[test]
    fn every_format_that_is_spoken() {
        for (name, encoding, hz) in [
            ("slin", Encoding::Linear16, 8_000),
            ("slin12", Encoding::Linear16, 12_000),
            ("slin44", Encoding::Linear16, 44_100),
            ("slin48", Encoding::Linear16, 48_000),
            ("slin192", Encoding::Linear16, 192_000),
            ("alaw", Encoding::Alaw, 8_000),
            ("g722", Encoding::G722, 16_000),
        ] {
            let format = format_of(name).unwrap();
            assert_eq!((format.encoding, format.rate.hz()), (encoding, hz), "{name}");
        }
        assert_eq!(format_of("gsm"), None);
        assert_eq!(format_of("slin17"), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(matches!(parse(r#"{"event":"MEDIA_ST"#), Err(WireError::Json(_))));
        assert_eq!(parse("{}"), Err(WireError::NoEvent));
        assert_eq!(parse(" \n"), Err(WireError::NoEvent));
        assert_eq!(parse("MEDIA_START format:gsm optimal_frame_size:33"), Err(WireError::Format("gsm".into())));
        assert_eq!(parse("MEDIA_START format:slin optimal_frame_size:70000"), Err(WireError::FrameBytes(70_000)));
        assert_eq!(parse("DTMF_END digit:77"), Err(WireError::Digit));
        assert_eq!(parse(r#"{"event":"DTMF_END","digit":[]}"#), Err(WireError::Digit));
    }

    #[test]
    fn commands_fit_and_marks_come_back() {
        for style in [Style::Json, Style::Plain] {
            for command in [Command::Mark(u32::MAX), Command::Fence(u32::MAX), Command::Flush, Command::Hangup] {
                assert!(write(command, style).len() <= MAX_COMMAND, "{command:?}");
            }
        }
        assert_eq!(write(Command::Mark(7), Style::Plain), "MARK_MEDIA m7");
        assert_eq!(write(Command::Fence(7), Style::Json), r#"{"command":"MARK_MEDIA","correlation_id":"f7"}"#);
        assert_eq!((reached("m7"), reached("f9")), (Some(Reached::Mark(7)), Some(Reached::Fence(9))));
        for id in ["", "m", "x7", "m-1", "7", "äm"] {
            assert_eq!(reached(id), None, "{id}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_event_or_an_error(text in ".{0,200}") {
            let _ = fuzz(&text);
        }

        #[test]
        fn so_is_what_looks_like_one(
            name in "MEDIA_START|DTMF_END|STATUS|ERROR|MEDIA_MARK_PROCESSED|MEDIA_XOFF",
            fields in "([a-z_]{0,12}:[^ ]{0,12} ?){0,6}",
            json in proptest::bool::ANY,
            value in "(\"[^\"\\\\]{0,9}\"|-?[0-9]{1,20}|null|true|\\[\\]|\\{\\})",
        ) {
            let text = if json {
                format!(r#"{{"event":"{name}","format":{value},"digit":{value},"optimal_frame_size":{value},"correlation_id":{value}}}"#)
            } else {
                format!("{name} {fields}")
            };
            let _ = fuzz(&text);
        }
    }
}
