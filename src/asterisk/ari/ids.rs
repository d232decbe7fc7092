//! Identities of what we make in Asterisk: `hark-<app>-<8 hex digits>-<32 hex digits>-<part>`, of which the first digits are this process's
//! and the others the call's. Whoever serves the same application, also after a restart, knows its own by them, and what belongs to a process beside it or
//! before it; another gateway's, with another application, are left alone.

use uuid::Uuid;

/// What a media channel's identity ends in.
const MEDIA: &str = "-media";
/// What a bridge's identity ends in.
const BRIDGE: &str = "-bridge";

/// What the identity of somebody who is called ends in.
const CALLED: &str = "-called";

/// Who makes identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maker {
    app: String,
    process: String,
}

/// The identities of one call's channel and bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    /// The media channel.
    pub media: String,
    /// The bridge.
    pub bridge: String,
    /// The channel that is called, where we call.
    pub called: String,
}

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// This process's.
    Us,
    /// A process's that has, or had, the same application.
    Namesake,
    /// Not a gateway's with this application.
    Stranger,
}

impl Maker {
    /// A process that has just begun to serve `app`.
    pub fn new(app: &str) -> Self {
        Self { app: app.to_owned(), process: format!("{:08x}", rand::random::<u32>()) }
    }

    /// Identities for a new call.
    pub fn ids(&self) -> Ids {
        let stem = format!("hark-{}-{}-{}", self.app, self.process, Uuid::now_v7().simple());
        Ids { media: format!("{stem}{MEDIA}"), bridge: format!("{stem}{BRIDGE}"), called: format!("{stem}{CALLED}") }
    }

    /// Whose `id` is.
    pub fn owner(&self, id: &str) -> Owner {
        let stem = id.rsplit_once('-').map(|(stem, _)| stem);
        let rest = stem.and_then(|stem| stem.strip_prefix("hark-")?.strip_prefix(self.app.as_str())?.strip_prefix('-'));
        let is_hex = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match rest.and_then(|rest| rest.split_once('-')) {
            Some((process, call)) if is_hex(process, 8) && is_hex(call, 32) => match process == self.process {
                true => Owner::Us,
                false => Owner::Namesake,
            },
            _ => Owner::Stranger,
        }
    }
}

/// Whether a channel is that of somebody who was called.
pub(super) fn is_called(channel: &str) -> bool {
    channel.ends_with(CALLED)
}

/// The media channel that belongs to a bridge.
pub(super) fn media_of(bridge: &str) -> String {
    bridge.strip_suffix(BRIDGE).map(|stem| format!("{stem}{MEDIA}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_owner() {
        for app in ["hark", "hark-2", "a"] {
            let (us, namesake) = (Maker::new(app), Maker { process: "nobody00".to_owned(), ..Maker::new(app) });
            let ids = us.ids();
            assert_eq!([us.owner(&ids.media), us.owner(&ids.bridge)], [Owner::Us; 2]);
            assert_eq!(Maker { process: "0badcafe".to_owned(), ..us.clone() }.owner(&ids.media), Owner::Namesake);
            assert_eq!(media_of(&ids.bridge), ids.media);
            assert_ne!(ids, us.ids());
            // a process has a number
            assert_eq!(us.owner(&namesake.ids().media), Owner::Stranger);
        }
        let (one, two) = (Maker::new("hark"), Maker::new("hark-2"));
        assert_eq!([one.owner(&two.ids().media), two.owner(&one.ids().media)], [Owner::Stranger; 2]);
        for id in ["", "hark", "hark-hark", "hark-lab-1763632800.1", "hark-hark-xyz-media", "1763632800.1"] {
            assert_eq!(one.owner(id), Owner::Stranger, "{id}");
        }
    }
}
