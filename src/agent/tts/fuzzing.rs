//! What a fuzzer calls: all dialects read the same messages.

use super::{dialect::Part, dialect_of};
use crate::agent::{fuzzing, service::Kind};

/// One of each, at servers of one's own.
const SERVICES: [&str; 4] = [
    "deepgram:?base_url=http://h",
    "elevenlabs:?voice=v&base_url=http://h",
    "cartesia:?voice=v&base_url=http://h",
    "rime:?voice=v&base_url=http://h",
];

/// The most bytes of audio that one of them makes of these messages, the longest word that is told, and what the log would be.
#[doc(hidden)]
#[must_use]
pub fn fuzz(messages: &[&[u8]]) -> (usize, usize, Vec<String>) {
    let (mut most, mut longest, mut complaints) = (0, 0, Vec::new());
    for (ctx, named) in SERVICES.iter().filter_map(|service| fuzzing::service(service, Kind::Tts)) {
        let Some(mut dialect) = dialect_of(ctx, named) else { continue };
        let mut bytes = 0;
        dialect.open();
        dialect.speak(1, "Hello.");
        for message in messages {
            let parts = match std::str::from_utf8(message) {
                Ok(text) => dialect.read(text),
                Err(_) => dialect.audio(message.to_vec().into()),
            };
            for part in parts {
                match part {
                    Part::Audio(audio) => bytes += audio.len(),
                    Part::Words(words) => {
                        longest = words.iter().map(|word| word.text.len()).fold(longest, usize::max);
                    }
                    Part::Error(what) | Part::Fatal { what, .. } => complaints.push(dialect.scrub(what)),
                    // the next sentence
                    Part::End => drop(dialect.speak(1, "Hello.")),
                }
            }
        }
        dialect.cancel(1);
        dialect.end();
        most = most.max(bytes);
    }
    (most, longest, complaints)
}
