//! JSON objects written back to back, with or without white space between them, split over reads anywhere.

/// An object is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a JSON object is longer than {limit} bytes")]
pub struct TooLong {
    /// The bound.
    pub limit: usize,
}

/// Finds the objects in a stream of bytes. It looks at braces and strings only; whether an object is valid JSON is for
/// whoever parses it.
#[derive(Debug)]
pub struct Objects {
    limit: usize,
    /// The object that has begun.
    buffer: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    stray: u64,
}

impl Objects {
    /// Takes objects of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, buffer: Vec::new(), depth: 0, in_string: false, escaped: false, stray: 0 }
    }

    /// Hands every object that is complete with `bytes` to `found`.
    ///
    /// # Errors
    /// When an object is too long. The rest of the stream is then of no use.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(&[u8])) -> Result<(), TooLong> {
        let mut from = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if self.depth == 0 {
                if byte == b'{' {
                    self.depth = 1;
                    from = at;
                } else if !byte.is_ascii_whitespace() {
                    self.stray += 1;
                }
                continue;
            }
            if self.closes(byte) {
                self.keep(&bytes[from..=at])?;
                found(&self.buffer);
                self.buffer.clear();
            }
        }
        if self.depth > 0 { self.keep(&bytes[from..]) } else { Ok(()) }
    }

    /// Bytes between objects that were neither object nor white space.
    #[must_use]
    pub const fn stray(&self) -> u64 {
        self.stray
    }

    /// Whether an object has begun and not ended.
    #[must_use]
    pub const fn is_inside(&self) -> bool {
        self.depth > 0
    }

    const fn closes(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' => self.depth += 1,
            b'}' => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.buffer.len() + bytes.len() > self.limit {
            self.buffer = Vec::new();
            return Err(TooLong { limit: self.limit });
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<String> {
        let mut objects = Objects::new(1_000);
        let mut found = Vec::new();
        for piece in pieces {
            objects.push(piece, |object| found.push(String::from_utf8_lossy(object).into_owned())).unwrap();
        }
        found
    }

    #[test]
    fn three_objects_in_one_piece_and_one_over_three() {
        assert_eq!(all(&[br#"{"a":1}{"b":2} {"c":3}"#]), [r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
        assert_eq!(all(&[b"{\"a\":\"", b"}\\", b"\"{\"}"]), ["{\"a\":\"}\\\"{\"}"]);
    }

    #[test]
    fn an_object_without_an_end_is_refused_at_the_bound() {
        let mut objects = Objects::new(64);
        let mut result = objects.push(b"{\"a\":\"", |_| {});
        for _ in 0..100 {
            result = result.and_then(|()| objects.push(b"xxxxxxxx", |_| {}));
        }
        assert_eq!(result, Err(TooLong { limit: 64 }));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[\\PC\"\\\\{}]{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[\\PC\"{}]{0,4}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_split_finds_the_same_objects(
            values in prop::collection::vec(value(), 0..6), blank in "[ \n\r\t]{0,2}", step in 1usize..9,
        ) {
            let values: Vec<Value> = values.into_iter().map(|value| json!({"v": value})).collect();
            let body: String = values.iter().map(|value| format!("{value}{blank}")).collect();
            let mut objects = Objects::new(1 << 20);
            let mut found: Vec<Value> = Vec::new();
            for piece in body.as_bytes().chunks(step) {
                objects.push(piece, |object| found.push(serde_json::from_slice(object).unwrap())).unwrap();
            }
            prop_assert_eq!(found, values);
            prop_assert_eq!(objects.stray(), 0);
        }

        #[test]
        fn any_bytes_stay_within_the_bound(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut objects = Objects::new(100);
            for piece in pieces {
                if objects.push(&piece, |object| assert!(object.len() <= 100)).is_err() {
                    break;
                }
                prop_assert!(objects.buffer.len() <= 100);
            }
        }
    }
}
