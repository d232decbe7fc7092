//! What can be asked.

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Rest;
use crate::asterisk::ari::{
    Error,
    wire::{Application, Bridge, Channel, Info, Module},
};

/// A media channel to be made.
#[derive(Debug, Clone, Copy)]
pub struct ExternalMedia<'a> {
    /// The identity it gets.
    pub id: &'a str,
    /// The application that is told of it.
    pub app: &'a str,
    /// Where it connects: `host:port`, or the entry of websocket_client.conf.
    pub host: &'a str,
    /// What it carries, e.g. `slin`.
    pub format: &'a str,
    /// The UUID of the AudioSocket connection.
    pub uuid: &'a str,
}

/// A channel to be called.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The identity it gets.
    pub id: &'a str,
    /// Whom to call, e.g. `PJSIP/2000`.
    pub endpoint: &'a str,
    /// The application that is told of it.
    pub app: &'a str,
    /// Arguments for the application, separated by commas.
    pub args: &'a str,
    /// Caller id, e.g. `Hark <2000>`; empty = none.
    pub caller_id: &'a str,
    /// How long it may ring, in s.
    pub timeout_s: u32,
    /// Its formats, e.g. `slin,ulaw`: without, a Local channel takes the best there is, 192 kHz.
    pub formats: &'a str,
}

/// A place in the dialplan; what is missing is as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Context.
    pub context: Option<String>,
    /// Extension.
    pub exten: Option<String>,
    /// Priority or label.
    pub priority: Option<String>,
}

impl Target {
    fn query(&self) -> Vec<(&str, &str)> {
        let label = self.priority.as_deref().filter(|priority| priority.parse::<u32>().is_err());
        let priority = self.priority.as_deref().filter(|priority| priority.parse::<u32>().is_ok());
        [
            ("context", self.context.as_deref()),
            ("extension", self.exten.as_deref()),
            ("priority", priority),
            ("label", label),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

#[derive(Deserialize)]
struct Variable {
    value: String,
}

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// About Asterisk and the application.
impl Rest {
    /// Who answers there.
    pub async fn info(&self) -> Result<Info, Error> {
        self.read(GET, &["asterisk", "info"], &[], None).await
    }

    /// The modules that are loaded.
    pub async fn modules(&self) -> Result<Vec<Module>, Error> {
        self.read(GET, &["asterisk", "modules"], &[], None).await
    }

    /// Whether there is an endpoint of this technology and name, e.g. `PJSIP` and `trunk`. Needs res_ari_endpoints.so.
    pub async fn has_endpoint(&self, tech: &str, name: &str) -> Result<(), Error> {
        self.tell(GET, &["endpoints", tech, name], &[]).await
    }

    /// Has the application told of an event that we make up. Managers (AMI) are told, too.
    pub async fn user_event(&self, app: &str, name: &str) -> Result<(), Error> {
        self.tell(POST, &["events", "user", name], &[("application", app)]).await
    }

    /// What an application is told of.
    pub async fn application(&self, app: &str) -> Result<Application, Error> {
        self.read(GET, &["applications", app], &[], None).await
    }

    /// All applications.
    pub async fn applications(&self) -> Result<Vec<Application>, Error> {
        self.read(GET, &["applications"], &[], None).await
    }

    /// Has the application told of `source`, e.g. `channel:ID`: only then does the end of an inbound channel come as `ChannelDestroyed`.
    pub async fn subscribe(&self, app: &str, source: &str) -> Result<(), Error> {
        self.tell(POST, &["applications", app, "subscription"], &[("eventSource", source)]).await
    }

    /// Undoes [`Self::subscribe`].
    pub async fn unsubscribe(&self, app: &str, source: &str) -> Result<(), Error> {
        self.tell(DELETE, &["applications", app, "subscription"], &[("eventSource", source)]).await
    }

    /// Keeps events of these types away from the application.
    pub async fn event_filter(&self, app: &str, unwanted: &[&str]) -> Result<(), Error> {
        let unwanted: Vec<_> = unwanted.iter().map(|kind| json!({"type": kind})).collect();
        let filter = json!({"disallowed": unwanted});
        self.ask(PUT, &["applications", app, "eventFilter"], &[], Some(&filter)).await.map(drop)
    }
}

/// About channels.
impl Rest {
    /// All channels of the PBX.
    pub async fn channels(&self) -> Result<Vec<Channel>, Error> {
        self.read(GET, &["channels"], &[], None).await
    }

    /// One channel.
    pub async fn channel(&self, id: &str) -> Result<Channel, Error> {
        self.read(GET, &["channels", id], &[], None).await
    }

    /// Answers it.
    pub async fn answer(&self, id: &str) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "answer"], &[]).await
    }

    /// Early media for it (Asterisk 22.3, 21.8 and 20.13 have it).
    pub async fn progress(&self, id: &str) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "progress"], &[]).await
    }

    /// Makes a channel that carries audio to the AudioSocket listener; it is ready for a bridge at its `StasisStart`, not before. A refused
    /// connection is a bare 500.
    pub async fn external_media(&self, media: ExternalMedia<'_>) -> Result<Channel, Error> {
        let query = [
            ("channelId", media.id),
            ("app", media.app),
            ("external_host", media.host),
            ("encapsulation", "audiosocket"),
            ("transport", "tcp"),
            ("format", media.format),
            ("data", media.uuid),
        ];
        self.read(POST, &["channels", "externalMedia"], &query, None).await
    }

    /// Makes a channel that waits for us to fetch its audio by WebSocket; where is in its variable `MEDIA_WEBSOCKET_CONNECTION_ID`.
    pub async fn external_websocket(&self, id: &str, app: &str, format: &str) -> Result<Channel, Error> {
        let query = [
            ("channelId", id),
            ("app", app),
            ("transport", "websocket"),
            ("encapsulation", "none"),
            ("connection_type", "server"),
            ("format", format),
            ("transport_data", "f(json)"),
        ];
        self.read(POST, &["channels", "externalMedia"], &query, None).await
    }

    /// Makes a channel that sends RTP to `media.host`; where it takes some is in its variables `UNICASTRTP_LOCAL_ADDRESS` and
    /// `UNICASTRTP_LOCAL_PORT`. The UUID goes nowhere.
    pub async fn external_rtp(&self, media: ExternalMedia<'_>) -> Result<Channel, Error> {
        let query = [
            ("channelId", media.id),
            ("app", media.app),
            ("external_host", media.host),
            ("encapsulation", "rtp"),
            ("transport", "udp"),
            ("format", media.format),
        ];
        self.read(POST, &["channels", "externalMedia"], &query, None).await
    }

    /// Has Asterisk connect by an entry of websocket_client.conf (chan_websocket), with `variables` (`a=b,c=d`) as the query of its URI.
    pub async fn dialled_websocket(&self, media: ExternalMedia<'_>, variables: &str) -> Result<(), Error> {
        let data = format!("v({variables})");
        let query = [
            ("channelId", media.id),
            ("app", media.app),
            ("external_host", media.host),
            // it is RTP unless told otherwise, which no WebSocket is
            ("encapsulation", "none"),
            ("transport", "websocket"),
            ("format", media.format),
            ("transport_data", &data),
        ];
        self.tell(POST, &["channels", "externalMedia"], &query).await
    }

    /// Hangs up. The code (Q.850) reaches a SIP phone as `Reason`; the event's own cause is another (32) until `ChannelDestroyed`.
    pub async fn hang_up(&self, id: &str, cause: Option<u16>) -> Result<(), Error> {
        let cause = cause.map(|cause| cause.to_string());
        let query: Vec<_> = cause.iter().map(|cause| ("reason_code", cause.as_str())).collect();
        self.tell(DELETE, &["channels", id], &query).await
    }

    /// Gives it back to the dialplan; with an empty target behind `Stasis()`. A target that does not exist is accepted, and ends the call.
    pub async fn go_on(&self, id: &str, target: &Target) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "continue"], &target.query()).await
    }

    /// Has the far end call somebody else (SIP REFER); it stays with us until it hangs up.
    pub async fn redirect(&self, id: &str, endpoint: &str) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "redirect"], &[("endpoint", endpoint)]).await
    }

    /// Plays `media`, e.g. `sound:demo-congrats`, to it; `PlaybackFinished` comes with this identity.
    pub async fn play(&self, id: &str, media: &str, playback: &str) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "play", playback], &[("media", media)]).await
    }

    /// Ends a playback.
    pub async fn stop_playback(&self, playback: &str) -> Result<(), Error> {
        self.tell(DELETE, &["playbacks", playback], &[]).await
    }

    /// Records what comes from it into a file of Asterisk's own, once it is in no bridge; in one, [`Self::record_bridge`] records.
    pub async fn record(&self, id: &str, name: &str, format: &str) -> Result<(), Error> {
        let query = [("name", name), ("format", format), ("ifExists", "overwrite")];
        self.tell(POST, &["channels", id, "record"], &query).await
    }

    /// Ends such a recording and keeps it.
    pub async fn stop_recording(&self, name: &str) -> Result<(), Error> {
        self.tell(POST, &["recordings", "live", name, "stop"], &[]).await
    }

    /// Music on hold, on or off.
    pub async fn moh(&self, id: &str, on: bool) -> Result<(), Error> {
        self.switch(id, "moh", on).await
    }

    /// Hold, on or off.
    pub async fn hold(&self, id: &str, on: bool) -> Result<(), Error> {
        self.switch(id, "hold", on).await
    }

    /// Ringing, on or off.
    pub async fn ringback(&self, id: &str, on: bool) -> Result<(), Error> {
        self.switch(id, "ring", on).await
    }

    /// Mutes what comes from it.
    pub async fn mute(&self, id: &str, on: bool) -> Result<(), Error> {
        self.tell(if on { POST } else { DELETE }, &["channels", id, "mute"], &[("direction", "in")]).await
    }

    async fn switch(&self, id: &str, what: &str, on: bool) -> Result<(), Error> {
        self.tell(if on { POST } else { DELETE }, &["channels", id, what], &[]).await
    }

    /// Sends keys to it (RFC 4733 on a SIP phone).
    pub async fn dtmf(&self, id: &str, digits: &str) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "dtmf"], &[("dtmf", digits)]).await
    }

    /// The value of a channel variable or dialplan function; `None`: there is none.
    pub async fn variable(&self, id: &str, name: &str) -> Result<Option<String>, Error> {
        let found = self.read(GET, &["channels", id, "variable"], &[("variable", name)], None).await;
        match found {
            Ok(Variable { value }) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a channel variable or dialplan function.
    pub async fn set_variable(&self, id: &str, name: &str, value: &str) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "variable"], &[("variable", name), ("value", value)]).await
    }

    /// Calls somebody. Events may come before the answer, hence the identity of our own.
    pub async fn originate(&self, origin: Origin<'_>, variables: &Map<String, Value>) -> Result<Channel, Error> {
        let timeout = origin.timeout_s.to_string();
        let mut query =
            vec![("endpoint", origin.endpoint), ("app", origin.app), ("channelId", origin.id), ("timeout", &timeout)];
        let more = [("appArgs", origin.args), ("callerId", origin.caller_id), ("formats", origin.formats)];
        query.extend(more.into_iter().filter(|(_, value)| !value.is_empty()));
        self.read(POST, &["channels"], &query, Some(&json!({"variables": variables}))).await
    }

    /// Calls an endpoint, and gives it to a place of the dialplan (context, extension, priority) when it answers.
    pub async fn place(&self, endpoint: &str, place: [&str; 3], caller_id: Option<&str>) -> Result<(), Error> {
        let [context, exten, priority] = place;
        let mut query =
            vec![("endpoint", endpoint), ("context", context), ("extension", exten), ("priority", priority)];
        query.extend(caller_id.map(|id| ("callerId", id)));
        self.ask(POST, &["channels"], &query, Some(&json!({}))).await.map(drop)
    }

    /// Makes a channel without calling: it can be bridged before [`Self::dial`], so that early media is heard.
    pub async fn create(&self, origin: Origin<'_>, variables: &Map<String, Value>) -> Result<Channel, Error> {
        let mut query = vec![("endpoint", origin.endpoint), ("app", origin.app), ("channelId", origin.id)];
        let more = [("appArgs", origin.args), ("formats", origin.formats)];
        query.extend(more.into_iter().filter(|(_, value)| !value.is_empty()));
        self.read(POST, &["channels", "create"], &query, Some(&json!({"variables": variables}))).await
    }

    /// Calls with a channel of [`Self::create`].
    pub async fn dial(&self, id: &str, timeout_s: u32) -> Result<(), Error> {
        self.tell(POST, &["channels", id, "dial"], &[("timeout", &timeout_s.to_string())]).await
    }
}

/// About bridges.
impl Rest {
    /// All bridges of the PBX.
    pub async fn bridges(&self) -> Result<Vec<Bridge>, Error> {
        self.read(GET, &["bridges"], &[], None).await
    }

    /// Makes one that mixes.
    pub async fn create_bridge(&self, id: &str) -> Result<Bridge, Error> {
        self.read(POST, &["bridges"], &[("bridgeId", id), ("type", "mixing")], None).await
    }

    /// Puts channels into it.
    pub async fn add_to_bridge(&self, id: &str, channels: &[&str]) -> Result<(), Error> {
        self.tell(POST, &["bridges", id, "addChannel"], &[("channel", &channels.join(","))]).await
    }

    /// Takes channels out of it.
    pub async fn remove_from_bridge(&self, id: &str, channels: &[&str]) -> Result<(), Error> {
        self.tell(POST, &["bridges", id, "removeChannel"], &[("channel", &channels.join(","))]).await
    }

    /// Records everybody in it into a file of Asterisk's own. Needs bridge_softmix.so and chan_bridge_media.so.
    pub async fn record_bridge(&self, id: &str, name: &str, format: &str) -> Result<(), Error> {
        let query = [("name", name), ("format", format), ("ifExists", "overwrite")];
        self.tell(POST, &["bridges", id, "record"], &query).await
    }

    /// Ends it; the channels in it stay.
    pub async fn destroy_bridge(&self, id: &str) -> Result<(), Error> {
        self.tell(DELETE, &["bridges", id], &[]).await
    }
}
