//! What Asterisk sends over ARI: events and the objects in them. Unknown types and fields are passed over, a field of the wrong type
//! counts as missing: whatever a newer Asterisk says, the rest of it is still understood.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A channel, as events and `GET /channels` have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Channel {
    /// Its identity: Asterisk's, or ours where we made it.
    #[serde(deserialize_with = "lenient")]
    pub id: String,
    /// Its name, e.g. `PJSIP/trunk-00000001`.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    /// `Ring`, `Up`, …
    #[serde(deserialize_with = "lenient")]
    pub state: String,
    /// The SIP Call-ID.
    #[serde(deserialize_with = "lenient")]
    pub protocol_id: String,
    /// Who calls.
    #[serde(deserialize_with = "lenient")]
    pub caller: CallerId,
    /// The account code.
    #[serde(deserialize_with = "lenient")]
    pub accountcode: String,
    /// Where in the dialplan it is.
    #[serde(deserialize_with = "lenient")]
    pub dialplan: Dialplan,
    /// The channel's language.
    #[serde(deserialize_with = "lenient")]
    pub language: String,
    /// Variables named by `channelvars` in ari.conf.
    #[serde(deserialize_with = "lenient")]
    pub channelvars: Map<String, Value>,
}

/// Name and number of a caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CallerId {
    /// Name.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    /// Number.
    #[serde(deserialize_with = "lenient")]
    pub number: String,
}

/// A place in the dialplan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dialplan {
    /// Context.
    #[serde(deserialize_with = "lenient")]
    pub context: String,
    /// Extension: the number that was dialled.
    #[serde(deserialize_with = "lenient")]
    pub exten: String,
    /// Priority.
    #[serde(deserialize_with = "lenient")]
    pub priority: i64,
    /// The application that runs.
    #[serde(deserialize_with = "lenient")]
    pub app_name: String,
    /// Its arguments.
    #[serde(deserialize_with = "lenient")]
    pub app_data: String,
}

/// A bridge, as `GET /bridges` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Bridge {
    /// Its identity.
    #[serde(deserialize_with = "lenient")]
    pub id: String,
    /// The channels in it.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<String>,
}

/// What `GET /applications/NAME` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Application {
    /// Its name.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    /// Channels it is told of.
    #[serde(deserialize_with = "lenient")]
    pub channel_ids: Vec<String>,
    /// Bridges it is told of.
    #[serde(deserialize_with = "lenient")]
    pub bridge_ids: Vec<String>,
}

/// What `GET /asterisk/info` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Info {
    /// The system.
    #[serde(deserialize_with = "lenient")]
    pub system: System,
}

/// The part of [`Info`] about the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct System {
    /// Asterisk's version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Its identity on the network.
    #[serde(deserialize_with = "lenient")]
    pub entity_id: String,
}

/// A module, as `GET /asterisk/modules` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Module {
    /// Its name, e.g. `chan_audiosocket.so`.
    #[serde(deserialize_with = "lenient")]
    pub name: String,
    /// `Running`, `Not Running` …
    #[serde(deserialize_with = "lenient")]
    pub status: String,
}

/// Why a channel ended (Q.850), and what its technology said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cause {
    /// Q.850 cause; 0 = unknown, as after a BYE without a reason.
    pub cause: i64,
    /// The SIP code, where Asterisk tells (22.10 does).
    pub tech_cause: i64,
}

/// Something that happened, with the application that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The application.
    pub application: String,
    /// What happened.
    pub kind: Kind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A channel has entered the application.
    StasisStart {
        /// The channel.
        channel: Box<Channel>,
        /// The arguments of `Stasis()`.
        args: Vec<String>,
    },
    /// A channel has left the application.
    StasisEnd {
        /// Its identity.
        channel: String,
    },
    /// A channel changed its state.
    ChannelStateChange {
        /// Its identity.
        channel: String,
        /// `Ringing`, `Up`, …
        state: String,
    },
    /// A channel is gone.
    ChannelDestroyed {
        /// Its identity.
        channel: String,
        /// Why.
        cause: Cause,
    },
    /// Somebody asked for a channel's end.
    ChannelHangupRequest {
        /// Its identity.
        channel: String,
        /// Why.
        cause: Cause,
        /// Whether the channel may decide itself when to end.
        soft: bool,
    },
    /// A key was pressed.
    ChannelDtmfReceived {
        /// The channel's identity.
        channel: String,
        /// The key.
        digit: String,
        /// For how long, in ms.
        duration_ms: i64,
    },
    /// How the dialling of a channel goes.
    Dial {
        /// The channel that is called.
        peer: String,
        /// Empty = begun; `RINGING`, `ANSWER`, `BUSY`, …
        status: String,
    },
    /// An event that somebody made up (`UserEvent()`, `POST events/user/NAME`).
    ChannelUserevent {
        /// Its name.
        name: String,
    },
    /// A sound has been played.
    PlaybackFinished {
        /// The playback's identity.
        playback: String,
        /// `done`, `failed`, …
        state: String,
        /// What it was played to, e.g. `channel:…`.
        target: String,
    },
    /// A bridge is gone.
    BridgeDestroyed {
        /// Its identity.
        bridge: String,
    },
    /// A variable changed.
    ChannelVarset {
        /// The channel's identity; empty = a global one.
        channel: String,
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// The answer to a request that went over the same WebSocket.
    RestResponse {
        /// The request's identity.
        request: String,
        /// The status, as HTTP has it; 0 = none that could be one.
        status: u16,
        /// The body: JSON in a text, or nothing.
        body: String,
    },
    /// Somebody else is told of this application's events from now on.
    ApplicationReplaced,
    /// We are.
    ApplicationRegistered,
    /// Anything else.
    Unknown {
        /// Its type.
        kind: String,
    },
}

/// Every field that any of the events above has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(rename = "type", deserialize_with = "lenient")]
    kind: String,
    #[serde(deserialize_with = "lenient")]
    application: String,
    #[serde(deserialize_with = "lenient")]
    channel: Channel,
    #[serde(deserialize_with = "lenient")]
    peer: Channel,
    #[serde(deserialize_with = "lenient")]
    bridge: Bridge,
    #[serde(deserialize_with = "lenient")]
    playback: Playback,
    #[serde(deserialize_with = "lenient")]
    args: Vec<String>,
    #[serde(deserialize_with = "lenient")]
    cause: i64,
    #[serde(deserialize_with = "lenient")]
    tech_cause: i64,
    #[serde(deserialize_with = "lenient")]
    soft: bool,
    #[serde(deserialize_with = "lenient")]
    digit: String,
    #[serde(deserialize_with = "lenient")]
    duration_ms: i64,
    #[serde(deserialize_with = "lenient")]
    dialstatus: String,
    #[serde(deserialize_with = "lenient")]
    variable: String,
    #[serde(deserialize_with = "lenient")]
    value: String,
    #[serde(deserialize_with = "lenient")]
    eventname: String,
    #[serde(deserialize_with = "lenient")]
    request_id: String,
    #[serde(deserialize_with = "lenient")]
    status_code: u16,
    #[serde(deserialize_with = "lenient")]
    message_body: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Playback {
    #[serde(deserialize_with = "lenient")]
    id: String,
    #[serde(deserialize_with = "lenient")]
    state: String,
    #[serde(deserialize_with = "lenient")]
    target_uri: String,
}

/// A value that does not fit is as good as none.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

/// Why a message is no event.
#[derive(Debug, thiserror::Error)]
pub enum NotAnEvent {
    /// It is no JSON object.
    #[error("it is no JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// It does not say what it is.
    #[error("it has no type")]
    NoType,
}

impl Event {
    /// Reads a message of the events socket.
    ///
    /// # Errors
    /// It is no event at all.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAnEvent> {
        let raw: Raw = serde_json::from_slice(bytes)?;
        if raw.kind.is_empty() {
            return Err(NotAnEvent::NoType);
        }
        let application = raw.application.clone();
        Ok(Self { application, kind: raw.into_kind() })
    }
}

impl Raw {
    fn into_kind(self) -> Kind {
        let cause = Cause { cause: self.cause, tech_cause: self.tech_cause };
        let channel = self.channel.id.clone();
        match self.kind.as_str() {
            "StasisStart" => Kind::StasisStart { channel: Box::new(self.channel), args: self.args },
            "StasisEnd" => Kind::StasisEnd { channel },
            "ChannelStateChange" => Kind::ChannelStateChange { channel, state: self.channel.state },
            "ChannelDestroyed" => Kind::ChannelDestroyed { channel, cause },
            "ChannelHangupRequest" => Kind::ChannelHangupRequest { channel, cause, soft: self.soft },
            "ChannelDtmfReceived" => {
                Kind::ChannelDtmfReceived { channel, digit: self.digit, duration_ms: self.duration_ms }
            }
            "Dial" => Kind::Dial { peer: self.peer.id, status: self.dialstatus },
            "PlaybackFinished" => Kind::PlaybackFinished {
                playback: self.playback.id,
                state: self.playback.state,
                target: self.playback.target_uri,
            },
            "BridgeDestroyed" => Kind::BridgeDestroyed { bridge: self.bridge.id },
            "ChannelVarset" => Kind::ChannelVarset { channel, variable: self.variable, value: self.value },
            "ChannelUserevent" => Kind::ChannelUserevent { name: self.eventname },
            "RESTResponse" => {
                Kind::RestResponse { request: self.request_id, status: self.status_code, body: self.message_body }
            }
            "ApplicationReplaced" => Kind::ApplicationReplaced,
            "ApplicationRegistered" => Kind::ApplicationRegistered,
            _ => Kind::Unknown { kind: self.kind },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn kind(value: Value) -> Kind {
        Event::parse(value.to_string().as_bytes()).unwrap().kind
    }

    #[test]
    fn an_inbound_call_as_asterisk_tells_of_it() {
        let event = Event::parse(include_bytes!("../../../fixtures/wire/ari/stasis_start.json")).unwrap();
        assert_eq!(event.application, "hark");
        let Kind::StasisStart { channel, args } = event.kind else { panic!("{:?}", event.kind) };
        assert_eq!(args, ["format=slin16", "vip"]);
        assert_eq!((channel.caller.number.as_str(), channel.dialplan.exten.as_str()), ("2000", "6001"));
        assert_eq!((channel.state.as_str(), channel.dialplan.priority), ("Ring", 2));
        assert_eq!(channel.channelvars["CALLID"], "c-1");
    }

    #[test]
    fn fields_that_are_missing_strange_or_new_do_no_harm() {
        assert_eq!(
            kind(json!({"type": "ChannelDestroyed", "channel": {"id": "a", "caller": 7}, "cause": "16", "new": []})),
            Kind::ChannelDestroyed { channel: "a".to_owned(), cause: Cause::default() }
        );
        assert_eq!(kind(json!({"type": "StasisEnd", "channel": []})), Kind::StasisEnd { channel: String::new() });
        assert_eq!(kind(json!({"type": "Sunrise"})), Kind::Unknown { kind: "Sunrise".to_owned() });
        for broken in ["", "{", "[]", "null", "{}", r#"{"type":7}"#, "\u{0}"] {
            assert!(Event::parse(broken.as_bytes()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn answers_to_requests_are_told_from_events() {
        let answer = json!({"type": "RESTResponse", "request_id": "7", "status_code": 200, "message_body": "{}"});
        let answer = kind(answer);
        assert_eq!(answer, Kind::RestResponse { request: "7".to_owned(), status: 200, body: "{}".to_owned() });
        let strange = kind(json!({"type": "RESTResponse", "request_id": 7, "status_code": "x", "message_body": {}}));
        assert_eq!(strange, Kind::RestResponse { request: String::new(), status: 0, body: String::new() });
    }

    #[test]
    fn causes_and_dial_states_are_read() {
        let destroyed =
            json!({"type": "ChannelDestroyed", "cause": 17, "tech_cause": 486, "channel": {"id": "hark-1"}});
        let cause = Cause { cause: 17, tech_cause: 486 };
        assert_eq!(kind(destroyed), Kind::ChannelDestroyed { channel: "hark-1".to_owned(), cause });
        let dial = json!({"type": "Dial", "peer": {"id": "p"}, "dialstatus": "RINGING", "dialstring": "x"});
        assert_eq!(kind(dial), Kind::Dial { peer: "p".to_owned(), status: "RINGING".to_owned() });
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Event::parse(&bytes);
        }

        #[test]
        fn any_object_with_a_type_is_an_event(name in "[a-zA-Z]{1,20}", field in "[a-z_]{1,12}", value in ".{0,20}") {
            let mut object = serde_json::Map::new();
            object.insert(field, Value::from(value));
            object.insert("type".to_owned(), Value::from(name));
            prop_assert!(Event::parse(Value::Object(object).to_string().as_bytes()).is_ok());
        }
    }
}
