//! Just enough of SIP messages for a phone on the same machine.

#[derive(Debug, Clone, Default)]
pub struct Message {
    pub first: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Message {
    pub fn parse(datagram: &[u8]) -> Self {
        let text = String::from_utf8_lossy(datagram);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (long_name(name.trim()), value.trim().to_owned()))
            .collect();
        Self { first, headers, body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The status of a response; none for a request.
    pub fn status(&self) -> Option<u16> {
        self.first.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok()
    }

    /// The method a request has or a response answers.
    pub fn method(&self) -> &str {
        match self.status() {
            Some(_) => self.header("cseq").and_then(|c| c.split(' ').nth(1)).unwrap_or_default(),
            None => self.first.split(' ').next().unwrap_or_default(),
        }
    }

    /// The uri between angle brackets of a header.
    pub fn uri(&self, name: &str) -> Option<String> {
        let value = self.header(name)?;
        Some(value.split_once('<')?.1.split_once('>')?.0.to_owned())
    }

    pub fn tag(&self, name: &str) -> Option<String> {
        let tag = self.header(name)?.split_once("tag=")?.1;
        Some(tag.split([';', '>']).next()?.to_owned())
    }

    /// A response to this request with the headers that must come back.
    pub fn response(&self, status: &str) -> String {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for name in ["via", "record-route", "from", "to", "call-id", "cseq"] {
            for value in self.all(name) {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text + "content-length: 0\r\n\r\n"
    }
}

fn long_name(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "v" => "via",
        "f" => "from",
        "t" => "to",
        "i" => "call-id",
        "m" => "contact",
        "l" => "content-length",
        other => return other.to_owned(),
    }
    .to_owned()
}

/// Port, first payload type and the payload type of digits in a session description.
pub fn parse_sdp(body: &str) -> Option<(u16, u8, Option<u8>)> {
    let mut audio = body.lines().find_map(|l| l.strip_prefix("m=audio "))?.split(' ');
    let port = audio.next()?.parse().ok()?;
    let payload = audio.nth(1)?.trim().parse().ok()?;
    let digits = body
        .lines()
        .filter_map(|l| l.strip_prefix("a=rtpmap:"))
        .find_map(|l| l.split_once(' ').filter(|(_, name)| name.starts_with("telephone-event")))
        .and_then(|(pt, _)| pt.parse().ok());
    Some((port, payload, digits))
}
