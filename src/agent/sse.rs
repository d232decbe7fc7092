//! Server-sent events (WHATWG), split over reads anywhere.

/// An event or a line is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is longer than {limit} bytes")]
pub struct TooLong {
    /// The bound.
    pub limit: usize,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The name after `event:`; empty where there is none.
    pub kind: &'a [u8],
    /// The lines after `data:`, joined by line feeds.
    pub data: &'a [u8],
}

/// Finds the events in a stream of bytes. Comments, `id`, `retry` and unknown fields are passed over.
#[derive(Debug)]
pub struct Events {
    limit: usize,
    /// The line that has begun.
    line: Vec<u8>,
    /// Of the event that has begun; lines end with a line feed.
    data: Vec<u8>,
    kind: Vec<u8>,
    /// A line feed that comes now belongs to the carriage return before it.
    after_return: bool,
    begun: bool,
}

impl Events {
    /// Takes events of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, line: Vec::new(), data: Vec::new(), kind: Vec::new(), after_return: false, begun: false }
    }

    /// Hands every event that is complete with `bytes` to `found`.
    ///
    /// # Errors
    /// When an event is too long. The rest of the stream is then of no use.
    pub fn push(&mut self, mut bytes: &[u8], mut found: impl FnMut(Event<'_>)) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                return self.keep(bytes);
            };
            self.keep(&bytes[..end])?;
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.line_ended(&mut found)?;
        }
        Ok(())
    }

    /// The stream has ended: hands out an event that lacks its blank line, as some servers leave the last one.
    ///
    /// # Errors
    /// When it is too long.
    pub fn finish(&mut self, mut found: impl FnMut(Event<'_>)) -> Result<(), TooLong> {
        if !self.line.is_empty() {
            self.line_ended(&mut found)?;
        }
        self.line_ended(&mut found)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + bytes.len() > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn line_ended(&mut self, found: &mut impl FnMut(Event<'_>)) -> Result<(), TooLong> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            if let Some(data) = self.data.strip_suffix(b"\n") {
                found(Event { kind: &self.kind, data });
            }
            self.data.clear();
            self.kind.clear();
        } else {
            self.field(&line)?;
        }
        line.clear();
        // its room is used again
        self.line = line;
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), TooLong> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" if self.data.len() + value.len() < self.limit => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"data" => return Err(TooLong { limit: self.limit }),
            b"event" => {
                self.kind.clear();
                self.kind.extend_from_slice(value);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let (mut events, mut all) = (Events::new(1_000), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for piece in pieces {
            events.push(piece, |event| all.push((text(event.kind), text(event.data)))).unwrap();
        }
        events.finish(|event| all.push((text(event.kind), text(event.data)))).unwrap();
        all
    }

    fn owned(events: &[(&str, &str)]) -> Vec<(String, String)> {
        events.iter().map(|(kind, data)| ((*kind).to_owned(), (*data).to_owned())).collect()
    }

    #[test]
    fn every_form_of_an_event_is_read() {
        let body = b"\xef\xbb\xbf: OPENROUTER PROCESSING\n\ndata: {\"a\":1}\n\nevent: ping\r\ndata:x\r\ndata: y\r\n\r\nid: 7\rretry: 3\rdata\r\rdata: [DONE]";
        assert_eq!(read(&[body]), owned(&[("", "{\"a\":1}"), ("ping", "x\ny"), ("", ""), ("", "[DONE]")]));
    }

    #[test]
    fn a_name_without_data_is_no_event_and_does_not_stay() {
        assert_eq!(read(&[b"event: ping\n\ndata: x\n\n"]), owned(&[("", "x")]));
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let mut events = Events::new(10);
        assert_eq!(events.push(b"data: 123456", |_| {}), Err(TooLong { limit: 10 }));
        let mut events = Events::new(10);
        assert!(events.push(b"data:1234\ndata:1234\ndata:1\n", |_| {}).is_err());
        // fields that nobody keeps do not add up
        let mut events = Events::new(10);
        assert!((0..100).all(|_| events.push(b": comment\n", |_| {}).is_ok()));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(body in "(data: ?|event: |:|id:|[a-z\u{e4}\u{4f60}]{0,5}|\r\n|\n|\r){0,40}", step in 1usize..9) {
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(step).collect();
            prop_assert_eq!(read(&pieces), read(&[body.as_bytes()]));
        }

        #[test]
        fn what_is_written_is_read(data in prop::collection::vec("\\PC{0,20}", 1..6), step in 1usize..9) {
            let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(step).collect();
            let expected: Vec<_> = data.iter().map(|data| (String::new(), data.clone())).collect();
            prop_assert_eq!(read(&pieces), expected);
        }

        #[test]
        fn any_bytes_end_in_events_or_an_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut events = Events::new(64);
            let _ = events.push(&body, |event| assert!(event.data.len() <= 64));
        }
    }
}
