//! The words that Moonshine's numbers stand for.

/// What stands for a blank.
const BLANK: char = '\u{2581}';

/// The vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(Vec<Box<[u8]>>);

impl Tokens {
    /// Reads `tokenizer.bin`: texts one after the other, each with its length before it, in one byte or (from 128 on) in two.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut all = Vec::new();
        while let Some((&first, rest)) = bytes.split_first() {
            let (length, rest) = match (first, rest.split_first()) {
                (0..128, _) => (usize::from(first), rest),
                (_, Some((&second, rest))) => (usize::from(second) * 128 + usize::from(first) - 128, rest),
                (_, None) => return Err("it breaks off within a length".to_owned()),
            };
            let Some((text, rest)) = rest.split_at_checked(length) else {
                return Err(format!("it breaks off within token {}", all.len()));
            };
            all.push(text.into());
            bytes = rest;
        }
        if all.is_empty() { Err("it is empty".to_owned()) } else { Ok(Self(all)) }
    }

    /// The text of `ids`; those that are not known are left out, and so are marks such as `<s>`.
    pub fn text(&self, ids: &[i64]) -> String {
        let known = ids.iter().filter_map(|&id| self.0.get(usize::try_from(id).ok()?));
        let is_mark = |token: &[u8]| token.len() > 2 && token.starts_with(b"<") && token.ends_with(b">");
        let bytes: Vec<u8> = known.filter(|token| !is_mark(token)).flat_map(|token| token.iter()).copied().collect();
        let text = String::from_utf8_lossy(&bytes).replace(BLANK, " ");
        text.trim().to_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_become_text() {
        let mut file = b"\x03<s>\x01\xc3\x01\xa9\x08\xe2\x96\x81there\x00".to_vec();
        file.extend([130, 1]);
        file.extend([b'x'; 130]);
        let tokens = Tokens::parse(&file).unwrap();
        assert_eq!(tokens.0.len(), 6);
        assert_eq!(tokens.text(&[0, 3, 1, 2, 9_999, -1, 4]), "thereé");
        assert_eq!(tokens.text(&[5]).len(), 130);
        assert!(Tokens::parse(b"").is_err() && Tokens::parse(b"\x05ab").is_err() && Tokens::parse(b"\x80").is_err());
    }

    proptest! {
        #[test]
        fn any_file_and_any_numbers(file in prop::collection::vec(any::<u8>(), 0..300), ids in prop::collection::vec(any::<i64>(), 0..20)) {
            if let Ok(tokens) = Tokens::parse(&file) {
                let _ = tokens.text(&ids);
            }
        }
    }
}
