//! Versions of Asterisk, and which can do what. Numbers of first releases are from Asterisk's own tags.

use std::fmt;

/// Release branches, with the first minor version of each that can do it; later branches can, earlier ones cannot.
pub type Since = &'static [(u32, u32)];

/// AudioSocket.
pub const AUDIOSOCKET: Since = &[(18, 0)];
/// Outbound ARI WebSockets.
pub const OUTBOUND: Since = &[(20, 15), (21, 10), (22, 5)];
/// AudioSocket's channel sends digits.
pub const DIGITS: Since = &[(20, 14), (21, 9), (22, 4)];
/// AudioSocket beyond 8 kHz.
pub const WIDEBAND: Since = &[(20, 17), (21, 12), (22, 7), (23, 1)];
/// chan_websocket with JSON and marks.
pub const WEBSOCKET: Since = &[(20, 18), (21, 12), (22, 8), (23, 2)];

/// A version of Asterisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// Of `22.10.1`, `certified/20.7-cert5`, `18.9-cert1`; development builds (`GIT-…`) have none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().rsplit('/').next()?;
        let mut numbers = text.split('.').map(|part| {
            let end = part.find(|char: char| !char.is_ascii_digit()).unwrap_or(part.len());
            part[..end].parse().ok()
        });
        Some(Self { major: numbers.next()??, minor: numbers.next().flatten().unwrap_or(0) })
    }

    /// Whether it can do what came with these.
    #[must_use]
    pub fn has(self, since: Since) -> bool {
        since.iter().any(|&(major, minor)| major == self.major && self.minor >= minor)
            || since.iter().all(|&(major, _)| major < self.major)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The releases, as a person reads them.
#[must_use]
pub fn first(since: Since) -> String {
    since.iter().rev().map(|(major, minor)| format!("{major}.{minor}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_read_in_every_form() {
        for (text, expected) in [
            ("22.10.1", Some((22, 10))),
            ("22.10.1~dfsg+~cs6.16", Some((22, 10))),
            ("certified/20.7-cert5", Some((20, 7))),
            ("18.9-cert1", Some((18, 9))),
            ("23", Some((23, 0))),
            ("GIT-22-a1b2c3", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), expected.map(|(major, minor)| Version { major, minor }), "{text}");
        }
    }

    #[test]
    fn branches_have_first_releases_of_their_own() {
        for (text, digits, wide, socket) in [
            ("18.20.0", false, false, false),
            ("20.14.0", true, false, false),
            ("20.17.0", true, true, false),
            ("21.8.1", false, false, false),
            ("22.3.0", false, false, false),
            ("22.7.0", true, true, false),
            ("22.8.0", true, true, true),
            ("23.0.0", true, false, false),
            ("24.0.0", true, true, true),
        ] {
            let version = Version::parse(text).unwrap();
            let can = (version.has(DIGITS), version.has(WIDEBAND), version.has(WEBSOCKET));
            assert_eq!(can, (digits, wide, socket), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_version_or_none(text in "\\PC*|[0-9./a-z-]{0,20}") {
            if let Some(version) = Version::parse(&text) {
                prop_assert!(text.contains(&version.major.to_string()) || text.contains('0'));
            }
        }
    }
}
