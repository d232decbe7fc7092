//! The body of an answer: JSON objects back to back, or bare text.

use serde::Deserialize;

use super::{MAX_ANSWER, Piece};
use crate::agent::{json_stream::Objects, utf8::Utf8, websocket::escaped};

/// Longest object: 64 kB of audio as decimal numbers, with room.
const MAX_OBJECT: usize = 1 << 20;

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// An object without an end.
    #[error("{0}")]
    Object(#[from] crate::agent::json_stream::TooLong),
    /// Neither JSON nor text.
    #[error("the answer is neither JSON nor UTF-8 text")]
    Binary,
    /// More text than anybody would listen to.
    #[error("the answer is longer than {MAX_ANSWER} bytes; the rest is not spoken")]
    TooLong,
}

/// Reads a body that arrives in pieces cut anywhere.
#[derive(Debug, Default)]
pub struct Reader {
    form: Form,
    text: usize,
    strange: u64,
}

#[derive(Debug, Default)]
enum Form {
    /// Nothing but blanks so far.
    #[default]
    Unknown,
    Json(Objects),
    /// As avr-llm-openai 1.0.1 sends it.
    Bare(Utf8),
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct Audio {
    content: Buffer,
}

/// Node's `Buffer` as JSON.
#[derive(Deserialize)]
struct Buffer {
    data: Vec<u8>,
}

impl Reader {
    /// What `bytes` complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, Unusable> {
        let mut pieces = Vec::new();
        if matches!(self.form, Form::Unknown) {
            self.form = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                None => return Ok(pieces),
                Some(b'{') => Form::Json(Objects::new(MAX_OBJECT)),
                Some(_) => Form::Bare(Utf8::default()),
            };
        }
        match &mut self.form {
            Form::Unknown => {}
            Form::Json(objects) => {
                let strange = &mut self.strange;
                objects.push(bytes, |object| pieces.extend(piece(object, strange)))?;
            }
            Form::Bare(utf8) => {
                let text = utf8.push(bytes);
                if utf8.invalid() > 0 {
                    return Err(Unusable::Binary);
                }
                if !text.is_empty() {
                    pieces.push(Piece::Text(text));
                }
            }
        }
        self.text +=
            pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 0 }).sum::<usize>();
        if self.text > MAX_ANSWER { Err(Unusable::TooLong) } else { Ok(pieces) }
    }

    /// Whether the body breaks off inside an object.
    pub const fn is_cut(&self) -> bool {
        matches!(&self.form, Form::Json(objects) if objects.is_inside())
    }
}

fn piece(object: &[u8], strange: &mut u64) -> Option<Piece> {
    let kind = serde_json::from_slice::<Head>(object).map(|head| head.kind.unwrap_or_default());
    let found = match kind.as_deref() {
        Ok("text") => serde_json::from_slice::<Text>(object).map(|text| text.content.map(Piece::Text)),
        Ok("audio") => serde_json::from_slice::<Audio>(object).map(|audio| Some(Piece::Audio(audio.content.data))),
        _ => {
            note(object, strange);
            return None;
        }
    };
    match found {
        Ok(Some(Piece::Text(text))) if text.is_empty() => None,
        Ok(piece) => piece,
        Err(_) => {
            note(object, strange);
            None
        }
    }
}

/// One line for an answer, not one for each object.
fn note(object: &[u8], strange: &mut u64) {
    *strange += 1;
    if *strange == 1 {
        let object = escaped(&String::from_utf8_lossy(&object[..object.len().min(400)]));
        tracing::debug!(object, "the language model sent an object that is neither text nor audio; ignored");
    }
}

/// What a fuzzer calls: the text and the audio of a body that arrives in `pieces`; `Err` when it is of no use.
#[doc(hidden)]
pub fn fuzz(pieces: &[&[u8]]) -> Result<(String, Vec<u8>), String> {
    let (mut reader, mut text, mut audio) = (Reader::default(), String::new(), Vec::new());
    for bytes in pieces {
        for piece in reader.push(bytes).map_err(|error| error.to_string())? {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Audio(more) => audio.extend(more),
                Piece::Pause | Piece::Resume(_) | Piece::End => {}
            }
        }
    }
    Ok((text, audio))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<Piece>, Unusable> {
        let mut reader = Reader::default();
        let mut all = Vec::new();
        for piece in pieces {
            all.extend(reader.push(piece)?);
        }
        Ok(all)
    }

    fn texts(texts: &[&str]) -> Result<Vec<Piece>, Unusable> {
        Ok(texts.iter().map(|text| Piece::Text((*text).to_owned())).collect())
    }

    #[test]
    fn empty_missing_null_and_strange_content_is_ignored() {
        let body =
            br#"{"type":"text","content":""}{"type":"text"}{"type":"text","content":null}{"type":"text","content":7}
            {"type":"video"}{"no":1}{bad}{"type":"audio","content":"x"}{"type":"text","content":"ok"}"#;
        assert_eq!(read(&[body]), texts(&["ok"]));
    }

    #[test]
    fn a_node_buffer_becomes_bytes() {
        let body = br#"{"type":"audio","content":{"type":"Buffer","data":[82,73,70,70,255]}}"#;
        assert_eq!(read(&[body]), Ok(vec![Piece::Audio(vec![82, 73, 70, 70, 255])]));
    }

    #[test]
    fn bare_text_is_text_and_binary_is_not() {
        assert_eq!(read(&[b"\n ", b"Hel", b"lo \xc3", b"\xbc"]), texts(&["Hel", "lo ", "\u{fc}"]));
        assert_eq!(read(&[b"\xff\xfe\x00\x01\x80\x90"]), Err(Unusable::Binary));
    }

    #[test]
    fn endless_answers_are_refused() {
        let long = "x".repeat(10_000);
        let object = format!(r#"{{"type":"text","content":"{long}"}}"#);
        assert_eq!(read(&[object.as_bytes(); 10]), Err(Unusable::TooLong));
        let endless = vec![b' '; 1 << 16];
        let mut pieces: Vec<&[u8]> = vec![b"{\"type\":\"text\",\"content\":\""];
        pieces.extend(std::iter::repeat_n(endless.as_slice(), 20));
        assert!(matches!(read(&pieces), Err(Unusable::Object(_))));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(contents in prop::collection::vec("\\PC{1,20}", 1..6), step in 1usize..11) {
            let body: String = contents
                .iter()
                .map(|content| serde_json::json!({"type": "text", "content": content}).to_string())
                .collect();
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(step).collect();
            let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
            prop_assert_eq!(read(&pieces), texts(&contents));
        }

        #[test]
        fn any_bytes_end_in_pieces_or_an_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[&body]);
        }
    }
}
