//! The messages of the speech-to-speech contract: JSON text ↔ types. No I/O.
//!
//! Bytes arrive from a service that may be broken or hostile: whatever the text, [`parse`] ends in a value or an error, and never
//! copies more than the text itself.

use std::{borrow::Cow, fmt};

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use bytes::{BufMut as _, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use uuid::Uuid;

use crate::call::{Digit, Role};

/// As lenient as Node's decoder about padding; about nothing else.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

const AUDIO_HEAD: &str = r#"{"type":"audio","audio":""#;
const AUDIO_TAIL: &str = r#""}"#;

/// A message of the service.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Speech of the agent: base64 of s16le 8 kHz mono, not yet looked at.
    Audio(Cow<'a, str>),
    /// The caller spoke: what was sent and not yet heard is void.
    Interruption,
    /// Final words of somebody.
    Transcript {
        /// Who spoke.
        role: Role,
        /// What was said.
        text: Cow<'a, str>,
    },
    /// The service is in trouble, says it.
    Error(Cow<'a, str>),
    /// The service wants to know which tools there are.
    Tools,
    /// It wants one called; what stands in the message has not been looked at.
    ToolCall,
    /// A known type without what makes it useful (a transcript without text), or of a type that we do not know.
    Ignored,
}

/// Text that is no JSON object.
#[derive(Debug, thiserror::Error)]
#[error("no JSON object: {0}")]
pub struct NotAMessage(#[from] serde_json::Error);

/// What `text` says.
///
/// # Errors
/// It is no JSON object.
pub fn parse(text: &str) -> Result<Message<'_>, NotAMessage> {
    // Fifty times a second and more, as `JSON.stringify` writes it. Base64 holds neither quotes nor backslashes, so a payload with
    // one is either broken or written in another way: both are for the long way round.
    if let Some(payload) = text.strip_prefix(AUDIO_HEAD).and_then(|rest| rest.strip_suffix(AUDIO_TAIL))
        && !payload.as_bytes().contains(&b'"')
        && !payload.as_bytes().contains(&b'\\')
    {
        return Ok(Message::Audio(Cow::Borrowed(payload)));
    }
    let raw: Raw<'_> = serde_json::from_str(text)?;
    Ok(raw.message(text))
}

/// Decodes a piece of a payload (a multiple of four characters, or its end) behind what `out` already holds.
///
/// # Errors
/// It is no base64; then `out` is as it was.
pub fn decode(payload: &[u8], out: &mut Vec<u8>) -> Result<(), base64::DecodeError> {
    let before = out.len();
    // the decoder makes room first, and leaves it behind when it fails
    BASE64.decode_vec(payload, out).inspect_err(|_| out.truncate(before))
}

/// Writes the first message.
pub fn init(uuid: Uuid, out: &mut BytesMut) {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    out.put_slice(br#"{"type":"init","uuid":""#);
    out.put_slice(uuid.as_hyphenated().encode_lower(&mut text).as_bytes());
    out.put_slice(br#""}"#);
}

/// Writes a message with the caller's audio (s16le).
pub fn audio(pcm: &[u8], out: &mut BytesMut) {
    out.put_slice(AUDIO_HEAD.as_bytes());
    let start = out.len();
    out.resize(start + base64::encoded_len(pcm.len(), true).unwrap_or_default(), 0);
    // The room is exactly what encoded_len asks for.
    let _ = BASE64_STANDARD.encode_slice(pcm, &mut out[start..]);
    out.put_slice(AUDIO_TAIL.as_bytes());
}

/// Writes a message with a key that the caller pressed. No digit needs escaping in JSON.
pub fn dtmf_digit(digit: Digit, out: &mut BytesMut) {
    out.put_slice(br#"{"type":"dtmf_digit","digit":""#);
    let mut text = [0; 4];
    out.put_slice(digit.as_char().encode_utf8(&mut text).as_bytes());
    out.put_slice(br#""}"#);
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    audio: Text<'a>,
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow)]
    text: Text<'a>,
    #[serde(borrow)]
    message: Text<'a>,
}

impl<'a> Raw<'a> {
    fn message(self, whole: &'a str) -> Message<'a> {
        match self.kind.0.as_deref() {
            Some("audio") => match self.audio.0 {
                // Some encoders wrap lines (RFC 2045).
                Some(Cow::Owned(mut payload)) => {
                    payload.retain(|c| !c.is_ascii_whitespace());
                    Message::Audio(Cow::Owned(payload))
                }
                Some(payload) => Message::Audio(payload),
                None => Message::Ignored,
            },
            Some("interruption") => Message::Interruption,
            Some("transcript") => {
                let role = match self.role.0.as_deref() {
                    Some("user") => Role::User,
                    Some("agent") => Role::Agent,
                    _ => return Message::Ignored,
                };
                match self.text.0 {
                    Some(text) if !text.trim().is_empty() => Message::Transcript { role, text },
                    _ => Message::Ignored,
                }
            }
            Some("tools") => Message::Tools,
            Some("tool_call") => Message::ToolCall,
            // A provider's error object often stands where the contract has a string: then all of it is shown.
            Some("error") => Message::Error(self.message.0.unwrap_or(Cow::Borrowed(whole))),
            _ => Message::Ignored,
        }
    }
}

/// A string borrowed from the message where it holds no escapes; a value of any other kind counts as absent.
#[derive(Default)]
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Text(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Text(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Text(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Text(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Text(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pcm(message: &Message<'_>) -> Option<Vec<u8>> {
        let Message::Audio(payload) = message else { return None };
        let mut out = Vec::new();
        decode(payload.as_bytes(), &mut out).ok().map(|()| out)
    }

    #[test]
    fn what_we_write_is_json_to_the_letter() {
        let mut out = BytesMut::new();
        init(Uuid::from_u128(0xAB), &mut out);
        assert_eq!(&out[..], br#"{"type":"init","uuid":"00000000-0000-0000-0000-0000000000ab"}"#);
        out.clear();
        dtmf_digit(Digit::try_from('#').unwrap(), &mut out);
        assert_eq!(&out[..], br##"{"type":"dtmf_digit","digit":"#"}"##);
        out.clear();
        audio(&[1, 2, 3, 4], &mut out);
        assert_eq!(&out[..], br#"{"type":"audio","audio":"AQIDBA=="}"#);
    }

    #[test]
    fn messages_of_public_connectors() {
        let parsed = |text| parse(text).unwrap();
        assert_eq!(parsed(r#"{"type":"interruption"}"#), Message::Interruption);
        assert_eq!(
            parsed(r#"{"type":"transcript","role":"agent","text":"Grüß \"dich\""}"#),
            Message::Transcript { role: Role::Agent, text: "Grüß \"dich\"".into() }
        );
        assert_eq!(parsed(r#"{"type":"transcript","role":"user"}"#), Message::Ignored);
        assert_eq!(parsed(r#"{"type":"transcript","role":"system","text":"x"}"#), Message::Ignored);
        assert_eq!(parsed(r#"{"type":"error","message":"no key"}"#), Message::Error("no key".into()));
        assert_eq!(parsed(r#"{"type":"session.created","audio":7}"#), Message::Ignored);
        assert_eq!(parsed("{}"), Message::Ignored);
    }

    #[test]
    fn an_error_object_is_shown_whole() {
        let text = r#"{"type":"error","message":{"code":401,"why":["a",{"b":null}]}}"#;
        assert_eq!(parse(text).unwrap(), Message::Error(text.into()));
    }

    #[test]
    fn audio_in_any_spelling() {
        for text in [
            r#"{"type":"audio","audio":"AQIDBA=="}"#,
            r#"{"type":"audio","audio":"AQIDBA"}"#,
            r#"{ "audio": "AQIDBA==", "type": "audio", "sequence": 4 }"#,
            r#"{"type":"audio","audio":"AQID\nBA=="}"#,
            r#"{"type":"\u0061udio","audio":"AQIDBA=="}"#,
        ] {
            assert_eq!(pcm(&parse(text).unwrap()), Some(vec![1, 2, 3, 4]), "{text}");
        }
        assert_eq!(pcm(&parse(r#"{"type":"audio","audio":"//8="}"#).unwrap()), Some(vec![255, 255]));
        assert_eq!(pcm(&parse(r#"{"type":"audio","audio":"\/\/8="}"#).unwrap()), Some(vec![255, 255]));
        assert_eq!(pcm(&parse(r#"{"type":"audio","audio":"*broken*"}"#).unwrap()), None);
        assert_eq!(parse(r#"{"type":"audio","audio":null}"#).unwrap(), Message::Ignored);
        let mut out = vec![7];
        for broken in ["ABA==", "AQIDBAUGBwgJ*AAA", "A"] {
            assert!(decode(broken.as_bytes(), &mut out).is_err());
            assert_eq!(out, [7], "{broken}: a failure leaves nothing behind");
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for text in ["", "hello", "null", "7", r#"{"type":"audio""#, r#"{"type":"audio","audio":"A"#, "\u{0}", "{}{}"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let deep = format!(r#"{{"type":"audio","audio":{}}}"#, "[".repeat(10_000));
        assert!(parse(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_value_or_an_error(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn any_json_like_text_ends_in_a_value_or_an_error(text in r#"[{}\[\]",:a-z0-9\\ue+-]{0,80}"#) {
            let _ = parse(&text);
            let _ = parse(&format!(r#"{{"type":"audio","audio":"{text}"}}"#));
        }

        #[test]
        fn the_short_way_and_the_long_way_agree(payload in any::<String>(), key in "[a-z]{1,8}") {
            let short = json!({"type": "audio", "audio": payload}).to_string();
            let long = json!({"audio": payload, "type": "audio", (key + "_"): 1}).to_string();
            let (short, long) = (parse(&short).unwrap(), parse(&long).unwrap());
            prop_assert_eq!(pcm(&short), pcm(&long));
        }

        #[test]
        fn audio_survives_the_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut out = BytesMut::new();
            audio(&bytes, &mut out);
            let text = std::str::from_utf8(&out).unwrap();
            prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
            prop_assert_eq!(pcm(&parse(text).unwrap()), Some(bytes));
        }
    }
}
