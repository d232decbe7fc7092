//! What a call is about: what the dialplan, the caller's telephone and the PBX say of it.

use futures_util::future::join_all;
use serde_json::{Map, Value};
use tracing::debug;
use uuid::Uuid;

use super::{
    config::{MediaFormat, Pbx},
    rest::Rest,
    wire::Channel,
};

/// The longest value that is taken, in bytes.
const MAX_VALUE: usize = 4 << 10;
/// The most arguments of `Stasis()` that are taken.
const MAX_ARGS: usize = 64;

/// What the arguments of `Stasis(app,…)` say: `uuid=`, `format=` and `early` are for us, every other `name=value` and word is metadata.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The UUID on the wire.
    pub uuid: Option<Uuid>,
    /// How audio is sent.
    pub format: Option<MediaFormat>,
    /// The caller is not answered: what the agent says is early media.
    pub early: bool,
    /// What of the arguments cannot be used, for the log.
    pub ignored: Vec<String>,
    named: Map<String, Value>,
    words: Vec<Value>,
}

impl Wanted {
    /// Reads the arguments.
    pub fn parse(args: &[String]) -> Self {
        let mut wanted = Self::default();
        for arg in args.iter().take(MAX_ARGS) {
            let arg = cut(arg.trim());
            match arg.split_once('=') {
                Some(("uuid", text)) => match Uuid::try_parse(text.trim()) {
                    Ok(uuid) => wanted.uuid = Some(uuid),
                    Err(_) => wanted.ignored.push(arg.to_owned()),
                },
                Some(("format", text)) => match MediaFormat::parse(text.trim()) {
                    Some(format) => wanted.format = Some(format),
                    None => wanted.ignored.push(arg.to_owned()),
                },
                // as POST /call has it
                Some(("recording", "true" | "yes")) => drop(wanted.named.insert("recording".to_owned(), true.into())),
                Some(("recording", "false" | "no")) => drop(wanted.named.insert("recording".to_owned(), false.into())),
                Some((name, value)) if !name.trim().is_empty() => {
                    wanted.named.insert(name.trim().to_owned(), value.into());
                }
                _ if arg == "early" => wanted.early = true,
                _ if arg.is_empty() => {}
                _ => wanted.words.push(arg.into()),
            }
        }
        wanted
    }
}

/// Everything that is known of a call, in the form of the payload of `POST /call`. What Asterisk knows wins over arguments of the same
/// name.
pub(super) async fn collect(
    rest: &Rest,
    name: &str,
    pbx: &Pbx,
    channel: &Channel,
    wanted: Wanted,
) -> Map<String, Value> {
    let mut about = wanted.named;
    let plan = &channel.dialplan;
    let known = [
        ("from", &channel.caller.number),
        ("to", &plan.exten),
        ("caller_name", &channel.caller.name),
        ("context", &plan.context),
        ("uniqueid", &channel.id),
        ("channel", &channel.name),
        ("sip_call_id", &channel.protocol_id),
        ("accountcode", &channel.accountcode),
        ("language", &channel.language),
    ];
    for (key, value) in known {
        if matches!(key, "from" | "to") || !value.is_empty() {
            about.insert(key.to_owned(), cut(value).into());
        }
    }
    about.insert("pbx".to_owned(), name.into());
    if !wanted.words.is_empty() {
        about.insert("args".to_owned(), wanted.words.into());
    }
    let is_sip = channel.name.starts_with("PJSIP/");
    let variables = pbx.variables.iter().map(|name| (name, name.clone()));
    let headers = pbx.headers.iter().filter(|_| is_sip).map(|name| (name, format!("PJSIP_HEADER(read,{name})")));
    let (variables, headers) = tokio::join!(ask(rest, channel, variables), ask(rest, channel, headers));
    for (key, found) in [("variables", variables), ("headers", headers)] {
        if !found.is_empty() {
            about.insert(key.to_owned(), found.into());
        }
    }
    about
}

/// The values of these, all asked for at once; what cannot be had is left out.
async fn ask<'a>(
    rest: &Rest,
    channel: &Channel,
    wanted: impl Iterator<Item = (&'a String, String)>,
) -> Map<String, Value> {
    let asked = wanted.map(async |(name, function)| {
        // what channelvars of ari.conf brought need not be asked for
        if let Some(Value::String(value)) = channel.channelvars.get(&function) {
            return (!value.is_empty()).then(|| (name.clone(), cut(value).into()));
        }
        match rest.variable(&channel.id, &function).await {
            Ok(value) => value.map(|value| (name.clone(), cut(&value).into())),
            Err(error) => {
                debug!(code = error.code(), "{function} of the caller cannot be read: {error}");
                None
            }
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_VALUE)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(args: &[&str]) -> Wanted {
        Wanted::parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_for_us_and_arguments_for_the_agent() {
        let uuid = Uuid::from_u128(7);
        let wanted =
            parse(&[&format!("uuid={uuid}"), "format=slin16", "early", "vip", " customer = 42", "recording=true", ""]);
        assert_eq!((wanted.uuid, wanted.format, wanted.early), (Some(uuid), Some(MediaFormat::Slin16), true));
        assert_eq!(Value::from(wanted.named), json!({"customer": " 42", "recording": true}));
        assert_eq!(wanted.words, [json!("vip")]);
        assert_eq!(wanted.ignored, [""; 0]);
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let wanted = parse(&["uuid=1763632800.1", "format=opus"]);
        assert_eq!((wanted.uuid, wanted.format), (None, None));
        assert_eq!(wanted.ignored, ["uuid=1763632800.1", "format=opus"]);
    }

    #[test]
    fn endless_arguments_are_bounded() {
        let long = "ä".repeat(10_000);
        let many: Vec<_> = (0..1_000).map(|n| format!("a{n}={long}")).collect();
        let wanted = Wanted::parse(&many);
        assert!(wanted.named.len() <= MAX_ARGS);
        assert!(wanted.named.values().all(|value| value.as_str().unwrap().len() <= MAX_VALUE));
    }
}
