//! UTF-8 that arrives in pieces cut anywhere.

/// Joins bytes into text; a character cut by the end of a piece waits for the next one.
#[derive(Debug, Default)]
pub struct Utf8 {
    /// At most three bytes: the beginning of a character.
    carry: Vec<u8>,
    invalid: u64,
}

impl Utf8 {
    /// The text that is complete with `bytes`. What can never become a character is left out and counted.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let joined;
        let mut rest = if self.carry.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.carry).as_slice(), bytes].concat();
            joined.as_slice()
        };
        let mut text = String::with_capacity(rest.len());
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        Some(len) => {
                            self.invalid += 1;
                            rest = &bad[len..];
                        }
                        None => {
                            self.carry = bad.to_vec();
                            return text;
                        }
                    }
                }
            }
        }
    }

    /// How many byte sequences were no UTF-8.
    #[must_use]
    pub const fn invalid(&self) -> u64 {
        self.invalid
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_character_over_two_pieces_is_one_character() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push("Gr\u{fc}".as_bytes().split_at(3).0), "Gr");
        assert_eq!(utf8.push(&[0xbc, b'!']), "\u{fc}!");
        assert_eq!(utf8.invalid(), 0);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text(text in "\\PC{0,40}", cuts in prop::collection::vec(0usize..160, 0..8)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut utf8, mut got, mut from) = (Utf8::default(), String::new(), 0);
            for to in cuts {
                got.push_str(&utf8.push(&bytes[from..to]));
                from = to;
            }
            prop_assert_eq!(got, text);
        }

        #[test]
        fn any_bytes_hold_at_most_three_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)) {
            let mut utf8 = Utf8::default();
            for piece in pieces {
                utf8.push(&piece);
                prop_assert!(utf8.carry.len() <= 3);
            }
        }
    }
}
