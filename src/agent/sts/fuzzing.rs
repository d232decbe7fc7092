//! What a fuzzer calls: all dialects read the same messages.

use serde_json::Map;

use super::{
    Dialect,
    codec::Down,
    dialect::{Incoming, Past, Setup, Told},
    dialect_of,
    turns::{Ordered, Turns},
};
use crate::{
    agent::{
        Named,
        service::{Kind, Providers, vendor_of},
    },
    audio::Rate,
    call::UtteranceId,
};

/// One of each kind, at servers of one's own.
const SERVICES: [&str; 7] = [
    "openai:m?base_url=http://h",
    "azure:m?api_version=1&base_url=http://h",
    "xai:m?base_url=http://h",
    "deepgram:agent?base_url=http://h",
    "gemini:m?base_url=http://h",
    "elevenlabs:a?base_url=http://h",
    "ultravox:m?base_url=http://h",
];

/// The longest text that a call would be told of these messages, in bytes.
#[doc(hidden)]
#[must_use]
pub fn fuzz(messages: &[&[u8]]) -> usize {
    let named = SERVICES.iter().filter_map(|service| {
        let (vendor, rest) = vendor_of(service)?;
        Named::parse(vendor, rest, Kind::Sts, &Providers::default()).ok()
    });
    named.map(|named| session(dialect_of(Rate::R8K, named), messages)).max().unwrap_or_default()
}

fn session(mut dialect: Box<dyn Dialect>, messages: &[&[u8]]) -> usize {
    let (about, past) = (Map::new(), [Past::Caller("Hello.".to_owned())]);
    let setup =
        Setup { prompt: None, tools: &[], greeting: None, language: None, about: &about, past: &past, owed: true };
    dialect.open(&setup);
    dialect.ready(&setup);
    let (mut turns, mut words) = (Turns::new(Rate::R8K, dialect.corrects()), Ordered::default());
    let mut down = Down::new(Rate::R8K, dialect.formats().down);
    let (mut told, mut longest) = (Vec::new(), 0);
    for message in messages {
        match std::str::from_utf8(message) {
            Ok(text) => dialect.read(Incoming::Text(text), &mut told),
            Err(_) => dialect.read(Incoming::Binary(message.to_vec().into()), &mut told),
        }
        let mut texts = Vec::new();
        for told in told.drain(..) {
            match told {
                Told::Audio { turn, audio } => drop(turns.audio(&turn, down.convert(&audio).len())),
                Told::Words { turn, text, whole } => turns.words(&turn, &text, whole),
                Told::Corrected(text) => turns.correct(&text),
                Told::TurnDone => turns.settled(),
                Told::Interrupted => {
                    dialect.interrupt(&turns.interrupt(Some(UtteranceId(1)), std::time::Duration::from_millis(20)));
                }
                Told::Committed(item) => words.awaits(item),
                Told::Caller { item, text, is_final: true } => texts.extend(words.came(&item, text)),
                _ => {}
            }
        }
        texts.extend(turns.said(false));
        longest = texts.iter().map(String::len).fold(longest, usize::max);
    }
    turns.said(true).iter().map(String::len).fold(longest, usize::max)
}
