//! What is counted on Asterisk's side.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($(#[doc = $about:literal])+ $type:ident { $($(#[doc = $doc:literal])+ $name:ident),+ $(,)? }) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        pub struct $type {
            $($(#[doc = $doc])+ pub $name: Counter,)+
        }

        impl $type {
            /// Every counter with its name, its help text and its value now, for `/metrics`.
            #[must_use]
            pub fn read(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name.get())),+]
            }
        }
    };
}

stats! {
    /// What a listener and all of its legs have counted since the start; shared by `Arc`.
    Stats {
    /// Connections taken.
    connections,
    /// Connections closed because their address is not on the allow-list.
    denied,
    /// Connections refused because their address has too many.
    over_limit,
    /// Connections that were closed for a newcomer before they had sent their UUID.
    evicted,
    /// Connections that ended without a UUID for any other reason.
    unidentified,
    /// Errors of accept(), such as too many open files.
    accept_errors,
    /// Audio frames from Asterisk.
    frames_in,
    /// Audio frames to Asterisk.
    frames_out,
    /// Audio frames that the socket did not take at their time.
    frames_refused,
    /// Frames of a kind that AudioSocket does not have.
    unknown_kinds,
    /// Frames that mean nothing: no byte of audio, no digit, a UUID of the wrong length, a second UUID.
    bad_frames,
    /// Audio frames of an odd length, which cannot hold whole samples.
    odd_frames,
    /// Audio frames left out because they look like a compressed codec (gsm, opus).
    foreign_frames,
    }
}

stats! {
    /// What the WebSocket listener and all of its legs have counted since the start; shared by `Arc`.
    WebSocketStats {
    /// Connections taken.
    connections,
    /// Connections closed because their address is not on the allow-list.
    denied,
    /// Connections closed because their address has too many.
    over_limit,
    /// Connections refused because of their user or password.
    unauthorized,
    /// Connections that were closed for a newcomer before they had begun a call.
    evicted,
    /// Connections that never began a call for any other reason.
    unidentified,
    /// Errors of accept(), such as too many open files.
    accept_errors,
    /// Audio messages from Asterisk.
    frames_in,
    /// Audio messages from before the channel had said what they hold, dropped.
    frames_early,
    /// Audio messages that could not be decoded as a whole.
    frames_damaged,
    /// Audio messages to Asterisk.
    frames_out,
    /// Audio frames that the socket, or Asterisk's queue, did not take at their time.
    frames_refused,
    /// Times Asterisk's queue was full.
    xoffs,
    /// Text messages that are no events.
    bad_messages,
    /// Events that mean nothing here.
    unknown_events,
    /// Commands that Asterisk refused.
    errors,
    }
}

stats! {
    /// What all RTP legs have counted since the start; shared by `Arc`.
    RtpStats {
    /// Calls.
    calls,
    /// Calls that got no port.
    no_port,
    /// Packets from Asterisk that were taken.
    packets_in,
    /// Packets to Asterisk.
    packets_out,
    /// Audio frames that the socket did not take at their time.
    packets_refused,
    /// Packets that never came.
    lost,
    /// Packets that came when something else was in their place.
    late,
    /// Packets that came twice.
    duplicate,
    /// Packets from somebody who is not the call's Asterisk.
    foreign,
    /// Packets of a payload type that the call does not have.
    wrong_type,
    /// Datagrams that are no RTP, or whose audio cannot be.
    malformed,
    /// Packets of RTCP.
    control,
    /// Times another sender (SSRC) took over.
    source_changes,
    /// Times a sequence began anew.
    resets,
    /// Milliseconds of audio made up for what was lost.
    concealed_ms,
    /// Milliseconds of silence put where nothing was sent.
    silence_ms,
    }
}

stats! {
    /// What the connections to all PBXs have counted since the start; shared by `Arc`.
    AriStats {
    /// Events from Asterisk.
    events,
    /// Events of types that mean nothing here.
    events_unknown,
    /// Messages of the events socket that are no events.
    events_bad,
    /// Times the events socket was connected.
    connects,
    /// Times it was lost.
    losses,
    /// Times it stood but told nothing.
    deaf,
    /// Connections of Asterisk's that were refused.
    denied,
    /// Times another program took the application.
    replaced,
    /// Requests to Asterisk.
    requests,
    /// Requests that failed, other than for what is not there.
    requests_failed,
    /// Calls that entered the application.
    calls,
    /// Calls that could not be set up.
    calls_failed,
    /// Calls turned away because too many were being set up.
    calls_over_limit,
    /// Channels and bridges ended because their call was over or had another gateway.
    orphans,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_read_with_its_name_and_help() {
        let stats = Stats::default();
        stats.evicted.inc();
        stats.evicted.inc();
        let read = stats.read();
        assert_eq!(read[0], ("connections", "Connections taken.", 0));
        assert_eq!(read.iter().find(|(name, ..)| *name == "evicted").map(|(.., value)| *value), Some(2));
        assert!(read.iter().all(|(_, help, _)| help.ends_with('.')));
    }
}
