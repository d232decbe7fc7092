//! Asterisk's Manager Interface (AMI), for what ARI does not do: taking a caller out of `AudioSocket()` or `Dial(AudioSocket/…)`.
//!
//! A connection for each order, which is looked up, done and closed: nothing is remembered, so nothing is wrong after a restart of either side.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

/// How long one order may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer: tens of thousands of channels.
const MAX_ANSWER: u64 = 32 << 20;
/// The most events of one list; what comes beyond is read and left out.
const MAX_LISTED: usize = 50_000;
/// The longest line.
const MAX_LINE: u64 = 64 << 10;

/// Settings.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Host; unset = no AMI.
    pub host: Option<String>,
    /// TCP port.
    pub port: u16,
    /// User of manager.conf.
    pub username: String,
    /// That user's secret.
    pub password: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { host: None, port: 5038, username: "avr".to_owned(), password: String::new() }
    }
}

/// Without the password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, username, .. } = self;
        f.debug_struct("Config")
            .field("host", host)
            .field("port", port)
            .field("username", username)
            .finish_non_exhaustive()
    }
}

/// Why an order was not carried out. Holds no password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke.
    #[error("AMI of {at}: {source}; is manager.conf enabled and bound to an address that this host reaches?")]
    Io {
        /// Host and port.
        at: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("AMI of {at} did not answer within {} s", LIMIT.as_secs())]
    Timeout {
        /// Host and port.
        at: String,
    },
    /// The user is not let in.
    #[error(
        "AMI of {at} refuses the user {user:?}: {reason}; see manager.conf and ami.username, ami.password (AMI_USERNAME, AMI_PASSWORD)"
    )]
    Login {
        /// Host and port.
        at: String,
        /// Who.
        user: String,
        /// In its words.
        reason: String,
    },
    /// It did not do it.
    #[error(
        "AMI of {at} did not carry out {action}: {reason}; does the user of manager.conf have write = call,reporting,originate?"
    )]
    Refused {
        /// Host and port.
        at: String,
        /// What was asked.
        action: &'static str,
        /// In its words.
        reason: String,
    },
    /// Something that cannot be written into a line of the protocol.
    #[error("{0:?} holds a line break or another control character: it cannot be sent to AMI")]
    Value(String),
}

impl Error {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "ami.unreachable",
            Self::Timeout { .. } => "ami.timeout",
            Self::Login { .. } => "ami.login",
            Self::Refused { .. } => "ami.refused",
            Self::Value(_) => "ami.value",
        }
    }
}

/// A message of AMI: `Name: value` lines, names in lower case; of several with one name the last.
pub type Message = BTreeMap<String, String>;

/// The lines of one message, without the empty one behind it. Lines without a colon are left out.
#[must_use]
pub fn parse(text: &str) -> Message {
    let pair = |line: &str| {
        line.split_once(':').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// The way to one PBX. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ami {
    config: Config,
    at: String,
}

impl Ami {
    /// Where one is configured.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let host = config.host.as_deref().filter(|host| !host.is_empty())?;
        let at =
            if host.contains(':') { format!("[{host}]:{}", config.port) } else { format!("{host}:{}", config.port) };
        Some(Self { at, config: config.clone() })
    }

    /// The name of the caller's channel of the live call with this UUID; `None`: there is none.
    ///
    /// # Errors
    /// AMI cannot be asked.
    pub async fn caller(&self, uuid: Uuid) -> Result<Option<String>, Error> {
        self.within(async {
            let channels = self.login().await?.list("CoreShowChannels", "CoreShowChannel").await?;
            Ok(caller(&channels, uuid))
        })
        .await
    }

    /// Takes the channel to another place of the dialplan.
    ///
    /// # Errors
    /// It was not done.
    pub async fn redirect(&self, channel: &str, context: &str, exten: &str, priority: &str) -> Result<(), Error> {
        let fields = [("Channel", channel), ("Context", context), ("Exten", exten), ("Priority", priority)];
        self.order("Redirect", &fields).await
    }

    /// The context in which the channel is.
    ///
    /// # Errors
    /// AMI cannot be asked.
    pub async fn context(&self, channel: &str) -> Result<Option<String>, Error> {
        self.within(async {
            let channels = self.login().await?.list("CoreShowChannels", "CoreShowChannel").await?;
            Ok(channels
                .into_iter()
                .find(|found| value(found, "channel") == channel)
                .and_then(|found| found.get("context").cloned()))
        })
        .await
    }

    /// What a variable or dialplan function is for the channel.
    ///
    /// # Errors
    /// AMI cannot be asked, or does not say.
    pub async fn variable(&self, channel: &str, name: &str) -> Result<String, Error> {
        self.within(async {
            let mut session = self.login().await?;
            session.write("Getvar", &[("Channel", channel), ("Variable", name)]).await?;
            let answer = session.response().await?;
            session.success("Getvar", &answer)?;
            Ok(value(&answer, "value").to_owned())
        })
        .await
    }

    /// What the user may order: the actions, by their names in lower case.
    ///
    /// # Errors
    /// AMI cannot be asked, or the user is not let in.
    pub async fn permitted(&self) -> Result<Message, Error> {
        self.within(async {
            let mut session = self.login().await?;
            session.write("ListCommands", &[]).await?;
            let answer = session.response().await?;
            session.success("ListCommands", &answer)?;
            Ok(answer)
        })
        .await
    }

    /// Hangs the channel up.
    ///
    /// # Errors
    /// It was not done.
    pub async fn hang_up(&self, channel: &str, cause: Option<u16>) -> Result<(), Error> {
        let cause = cause.map(|cause| cause.to_string());
        let mut fields = vec![("Channel", channel)];
        fields.extend(cause.as_deref().map(|cause| ("Cause", cause)));
        self.order("Hangup", &fields).await
    }

    /// Makes a call between a channel and a place of the dialplan; it goes on when this has returned.
    ///
    /// # Errors
    /// It was not begun.
    pub async fn originate(&self, channel: &str, place: [&str; 3], caller_id: Option<&str>) -> Result<(), Error> {
        let [context, exten, priority] = place;
        let mut fields = vec![
            ("Channel", channel),
            ("Context", context),
            ("Exten", exten),
            ("Priority", priority),
            ("Async", "true"),
        ];
        fields.extend(caller_id.map(|id| ("CallerID", id)));
        self.order("Originate", &fields).await
    }

    async fn order(&self, action: &'static str, fields: &[(&str, &str)]) -> Result<(), Error> {
        self.within(async { self.login().await?.order(action, fields).await }).await
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(LIMIT, work).await.unwrap_or_else(|_| Err(Error::Timeout { at: self.at.clone() }))
    }

    async fn login(&self) -> Result<Session<'_>, Error> {
        let stream = TcpStream::connect(&self.at).await.map_err(|source| Error::Io { at: self.at.clone(), source })?;
        let mut session = Session { ami: self, stream: BufReader::new(stream) };
        let Config { username, password, .. } = &self.config;
        // the greeting has no empty line behind it, and becomes a line without a colon of the first message
        session.write("Login", &[("Username", username), ("Secret", password), ("Events", "off")]).await?;
        let answer = session.response().await?;
        if !is_success(&answer) {
            let (at, user, reason) = (self.at.clone(), username.clone(), value(&answer, "message").to_owned());
            return Err(Error::Login { at, user, reason });
        }
        Ok(session)
    }
}

struct Session<'a> {
    ami: &'a Ami,
    stream: BufReader<TcpStream>,
}

impl Session<'_> {
    async fn order(mut self, action: &'static str, fields: &[(&str, &str)]) -> Result<(), Error> {
        self.write(action, fields).await?;
        let answer = self.response().await?;
        self.success(action, &answer)
    }

    /// The events of this kind that answer an action.
    async fn list(mut self, action: &'static str, kind: &str) -> Result<Vec<Message>, Error> {
        self.write(action, &[]).await?;
        let answer = self.response().await?;
        self.success(action, &answer)?;
        let (mut found, end) = (Vec::new(), format!("{kind}sComplete"));
        loop {
            let message = self.read().await?;
            match value(&message, "event") {
                event if event == kind && found.len() < MAX_LISTED => found.push(message),
                event if event == end => return Ok(found),
                _ => {}
            }
        }
    }

    fn success(&self, action: &'static str, answer: &Message) -> Result<(), Error> {
        if is_success(answer) {
            return Ok(());
        }
        Err(Error::Refused { at: self.ami.at.clone(), action, reason: value(answer, "message").to_owned() })
    }

    async fn write(&mut self, action: &str, fields: &[(&str, &str)]) -> Result<(), Error> {
        let mut text = format!("Action: {action}\r\n");
        for (name, value) in fields {
            if value.chars().any(char::is_control) {
                let value = if *name == "Secret" { "the password" } else { value };
                return Err(Error::Value(value.to_owned()));
            }
            text.extend([name, ": ", value, "\r\n"]);
        }
        text.push_str("\r\n");
        let written = self.stream.get_mut().write_all(text.as_bytes()).await;
        written.map_err(|source| self.io(source))
    }

    /// The next answer, whatever events come before it.
    async fn response(&mut self) -> Result<Message, Error> {
        loop {
            let message = self.read().await?;
            if message.contains_key("response") {
                return Ok(message);
            }
        }
    }

    async fn read(&mut self) -> Result<Message, Error> {
        let (mut text, mut left) = (Vec::new(), MAX_ANSWER);
        loop {
            let before = text.len();
            let read = (&mut self.stream).take(MAX_LINE.min(left)).read_until(b'\n', &mut text).await;
            let read = read.map_err(|source| self.io(source))?;
            left = left.saturating_sub(read as u64);
            if read == 0 {
                return Err(self.io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            if text[before..].iter().all(u8::is_ascii_whitespace) {
                return Ok(parse(&String::from_utf8_lossy(&text)));
            }
        }
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io { at: self.ami.at.clone(), source }
    }
}

fn value<'a>(message: &'a Message, name: &str) -> &'a str {
    message.get(name).map_or("", String::as_str)
}

fn is_success(message: &Message) -> bool {
    value(message, "response").eq_ignore_ascii_case("success")
}

/// The caller's channel: the one whose application names the UUID, or what is bridged with the AudioSocket channel that does.
fn caller(channels: &[Message], uuid: Uuid) -> Option<String> {
    let text = uuid.to_string();
    let is_leg = |channel: &Message| value(channel, "channel").starts_with("AudioSocket/");
    let names_it = |value: &str| value.to_ascii_lowercase().contains(&text);
    let by_application =
        channels.iter().find(|channel| !is_leg(channel) && names_it(value(channel, "applicationdata")));
    let by_bridge = || {
        let leg = channels.iter().find(|channel| is_leg(channel) && names_it(value(channel, "channel")))?;
        let bridge = Some(value(leg, "bridgeid")).filter(|id| !id.is_empty())?;
        channels.iter().find(|channel| !is_leg(channel) && value(channel, "bridgeid") == bridge)
    };
    by_application.or_else(by_bridge).map(|channel| value(channel, "channel").to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    const UUID: Uuid = Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef);

    fn channel(name: &str, application: &str, data: &str, bridge: &str) -> Message {
        parse(&format!(
            "Event: CoreShowChannel\r\nChannel: {name}\r\nApplication: {application}\r\nApplicationData: {data}\r\nBridgeId: {bridge}"
        ))
    }

    #[test]
    fn the_caller_is_found_behind_both_ways_to_audiosocket() {
        let uuid = UUID.to_string().to_uppercase();
        let other = channel("PJSIP/a-1", "AudioSocket", "0192f4c0-5a3e-7c1b-8d2e-0123456789ab,h:1", "");
        let app = channel("PJSIP/a-2", "AudioSocket", &format!("{uuid},127.0.0.1:5001"), "");
        let dial = channel("PJSIP/a-3", "Dial", &format!("AudioSocket/127.0.0.1:5001/{uuid}/c(slin)"), "b1");
        let leg = channel(&format!("AudioSocket/127.0.0.1:5001-{UUID}"), "", "", "b1");
        let local = channel("Local/x@y-1;2", "Bridge", "", "b1");
        for (channels, expected) in [
            (vec![other.clone(), app], Some("PJSIP/a-2")),
            (vec![other.clone(), leg.clone(), dial], Some("PJSIP/a-3")),
            (vec![leg.clone(), local], Some("Local/x@y-1;2")),
            (vec![leg, other.clone()], None),
            (vec![other], None),
        ] {
            assert_eq!(caller(&channels, UUID).as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_message(text in "\\PC*|([A-Za-z]*: ?[^\r]*\r\n)*") {
            for (name, value) in parse(&text) {
                prop_assert!(!name.contains(':') && !value.contains('\n'));
            }
        }
    }

    /// An AMI that says these things after the greeting, one for each message that it reads.
    async fn fake(answers: Vec<&'static str>) -> (Ami, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config {
            host: Some("127.0.0.1".to_owned()),
            port: listener.local_addr().unwrap().port(),
            password: "hunter2".to_owned(),
            ..Config::default()
        };
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.get_mut().write_all(b"Asterisk Call Manager/11.0.0\r\n").await.unwrap();
            let mut asked = Vec::new();
            for answer in answers {
                let mut text = String::new();
                while !text.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut text).await.unwrap() == 0 {
                        return asked;
                    }
                }
                asked.push(text);
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (Ami::of(&config).unwrap(), task)
    }

    const IN: &str = "Response: Success\r\nMessage: Authentication accepted\r\n\r\nEvent: FullyBooted\r\n\r\n";

    #[tokio::test]
    async fn orders_are_written_and_refusals_are_told_in_asterisks_words_without_the_password() {
        let (ami, task) = fake(vec![IN, "Response: Error\r\nMessage: No such channel\r\n\r\n"]).await;
        let error = ami.redirect("PJSIP/a-1", "demo", "600", "1").await.unwrap_err();
        assert_eq!(error.code(), "ami.refused");
        assert!(error.to_string().contains("No such channel") && !error.to_string().contains("hunter2"), "{error}");
        let asked = task.await.unwrap();
        assert!(asked[0].contains("Username: avr\r\nSecret: hunter2\r\n"));
        assert_eq!(
            asked[1],
            "Action: Redirect\r\nChannel: PJSIP/a-1\r\nContext: demo\r\nExten: 600\r\nPriority: 1\r\n\r\n"
        );
        let (ami, _task) = fake(vec!["Response: Error\r\nMessage: Authentication failed\r\n\r\n"]).await;
        assert_eq!(ami.hang_up("x", Some(17)).await.unwrap_err().code(), "ami.login");
    }

    #[tokio::test]
    async fn nothing_smuggles_an_action_and_what_breaks_off_is_an_error() {
        let (ami, _task) = fake(vec![IN, ""]).await;
        let error = ami.redirect("x\r\nAction: Command\r\nCommand: core stop now", "a", "1", "1").await.unwrap_err();
        assert_eq!(error.code(), "ami.value");
        let (ami, _task) = fake(vec![IN]).await;
        assert_eq!(ami.hang_up("x", None).await.unwrap_err().code(), "ami.unreachable");
        assert!(!format!("{ami:?}").contains("hunter2"));
    }
}
