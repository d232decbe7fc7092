//! Identities of what we make in Asterisk: `hark-<app>-<32 hex digits>-<part>`. Whoever serves the same application, also after
//! a restart, knows its own by them; another gateway's, with another application, are left alone.

use uuid::Uuid;

/// The identities of one call's channel and bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    /// The media channel.
    pub media: String,
    /// The bridge.
    pub bridge: String,
}

impl Ids {
    /// New ones.
    pub fn new(app: &str) -> Self {
        let stem = format!("hark-{app}-{}", Uuid::now_v7().simple());
        Self { media: format!("{stem}-media"), bridge: format!("{stem}-bridge") }
    }
}

/// Whether `id` is one of ours.
pub(super) fn is_ours(app: &str, id: &str) -> bool {
    let stem = id.strip_prefix("hark-").and_then(|rest| rest.rsplit_once('-')).map(|(stem, _)| stem);
    let hex = stem.and_then(|stem| stem.strip_prefix(app)?.strip_prefix('-'));
    hex.is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_of_the_same_application_are_ours() {
        for app in ["hark", "hark-2", "a"] {
            let ids = Ids::new(app);
            assert!(is_ours(app, &ids.media) && is_ours(app, &ids.bridge));
            assert_ne!(ids, Ids::new(app));
        }
        assert!(!is_ours("hark", &Ids::new("hark-2").media));
        assert!(!is_ours("hark-2", &Ids::new("hark").media));
        for id in ["", "hark", "hark-hark", "hark-lab-1763632800.1", "hark-hark-xyz-media", "1763632800.1"] {
            assert!(!is_ours("hark", id), "{id}");
        }
    }
}
