//! What can go wrong with ARI, and what to do about it.

use std::time::Duration;

/// Why something could not be done over ARI. Holds no secret; what Asterisk said is escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Wrong credentials.
    #[error(
        "{at} does not accept the user {user:?} or its password (HTTP 401): compare ari.username and ari.password with [{user}] in ari.conf, \
         then `ari show users` on Asterisk's command line"
    )]
    Unauthorised {
        /// The PBX.
        at: String,
        /// Who asked.
        user: String,
    },
    /// The user may only read.
    #[error(
        "{at} refuses {what} to the user {user:?} (HTTP 403{said}): set read_only = no for it in ari.conf and reload res_ari.so"
    )]
    Forbidden {
        /// The PBX.
        at: String,
        /// Who asked.
        user: String,
        /// What was asked.
        what: String,
        /// What Asterisk said.
        said: String,
    },
    /// What is asked for is not there.
    #[error(
        "{at} knows no {what} (HTTP 404{said}); if every request says so, ari.url is wrong, or [general] enabled = yes is missing in ari.conf; if some do, a module is (`module show like res_ari`)"
    )]
    NotFound {
        /// The PBX.
        at: String,
        /// What was asked.
        what: String,
        /// What Asterisk said.
        said: String,
    },
    /// It cannot be done with that channel now.
    #[error(
        "{at} cannot do {what} now (HTTP {status}{said}): the channel has left the application, or is in another state"
    )]
    Conflict {
        /// The PBX.
        at: String,
        /// What was asked.
        what: String,
        /// 409, 412 or 422.
        status: u16,
        /// What Asterisk said.
        said: String,
    },
    /// The request was wrong.
    #[error("{at} does not understand {what} (HTTP {status}{said})")]
    BadRequest {
        /// The PBX.
        at: String,
        /// What was asked.
        what: String,
        /// 400 and others.
        status: u16,
        /// What Asterisk said.
        said: String,
    },
    /// Asterisk failed.
    #[error("{at} failed at {what} (HTTP {status}{said}): Asterisk's own log says why")]
    Server {
        /// The PBX.
        at: String,
        /// What was asked.
        what: String,
        /// 5xx.
        status: u16,
        /// What Asterisk said.
        said: String,
    },
    /// No connection.
    #[error(
        "{at} cannot be reached: {reason}; is Asterisk running, with enabled = yes and this address and port in http.conf?"
    )]
    Unreachable {
        /// The PBX.
        at: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("{at} did not answer {what} within {} ms", limit.as_millis())]
    Timeout {
        /// The PBX.
        at: String,
        /// What was asked.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// An answer that is none.
    #[error("{at} gave no usable answer to {what}: {reason}; is ari.url Asterisk's HTTP server?")]
    Answer {
        /// The PBX.
        at: String,
        /// What was asked.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The events socket broke.
    #[error("the events of {at} have stopped: {reason}")]
    Lost {
        /// The PBX.
        at: String,
        /// Why.
        reason: String,
    },
    /// The events socket stands, but nothing is told on it.
    #[error(
        "{at} no longer tells of the Stasis application {app:?}, though the connection stands: an event made on purpose did not come within \
         {} ms; it is connected anew (Asterisk's `ari show apps` and its log say more)",
        limit.as_millis()
    )]
    Deaf {
        /// The PBX.
        at: String,
        /// The application.
        app: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Somebody else has our application.
    #[error(
        "another program has taken the Stasis application {app:?} of {at}: Asterisk tells only the last one that connects. Give each gateway \
         an ari.app of its own; this one takes it back in {} s",
        retry.as_secs()
    )]
    Replaced {
        /// The PBX.
        at: String,
        /// The application.
        app: String,
        /// When it is taken back.
        retry: Duration,
    },
}

impl Error {
    /// The stable code shown outside.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthorised { .. } => "ari.unauthorised",
            Self::Forbidden { .. } => "ari.forbidden",
            Self::NotFound { .. } => "ari.not_found",
            Self::Conflict { .. } => "ari.conflict",
            Self::BadRequest { .. } => "ari.bad_request",
            Self::Server { .. } => "ari.server",
            Self::Unreachable { .. } => "ari.unreachable",
            Self::Timeout { .. } => "ari.timeout",
            Self::Answer { .. } => "ari.answer",
            Self::Lost { .. } => "ari.lost",
            Self::Deaf { .. } => "ari.deaf",
            Self::Replaced { .. } => "ari.replaced",
        }
    }

    /// Whether what was asked for is not there (any more).
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether only somebody who changes the settings can help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Unauthorised { .. } | Self::Forbidden { .. } | Self::NotFound { .. })
    }
}

/// Text of a peer for a log line: escaped, at most 200 characters.
pub(super) fn escaped(text: &str) -> String {
    let mut out: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}
