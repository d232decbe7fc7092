//! AMI: whether the user is let in and may do what transfers need.

use super::{Advice, Check};
use crate::{
    asterisk::ami::{self, Ami},
    config::Config,
};

/// The actions that are ordered, in lower case.
const ORDERS: [&str; 5] = ["coreshowchannels", "getvar", "hangup", "originate", "redirect"];
const FILE: &str = "/etc/asterisk/manager.conf (FreePBX: Settings, Asterisk Manager Users)";

/// Looks at AMI, where it is configured.
pub(super) async fn examine(config: &Config) -> Vec<Check> {
    let (name, settings) = ("ami", &config.ami);
    let Some(ami) = Ami::of(settings) else {
        return vec![Check::skipped(name, "not configured (ami.host); it takes callers out of AudioSocket()")];
    };
    let at = format!("{}:{}", settings.host.as_deref().unwrap_or_default(), settings.port);
    let user = |text: &str| {
        let lines = [
            &*format!("[{}]", settings.username),
            "secret = …      ; what ami.password (AMI_PASSWORD) holds",
            "deny = 0.0.0.0/0.0.0.0",
            "permit = ADDRESS-OF-THIS-MACHINE/255.255.255.255",
            "read = call,reporting",
            "write = call,reporting,originate",
        ]
        .map(str::to_owned);
        Advice::new(text)
            .paste(FILE, lines)
            .asterisk("manager reload")
            .asterisk(&format!("manager show user {}", settings.username))
    };
    vec![match ami.permitted().await {
        Ok(permitted) => match ORDERS.iter().filter(|order| !permitted.contains_key(**order)).collect::<Vec<_>>() {
            missing if missing.is_empty() => {
                Check::ok(name, format!("{at} lets {:?} in, with the rights that are needed", settings.username))
            }
            missing => {
                let found = format!("the user {:?} of {at} may not order {missing:?}", settings.username);
                Check::fail(name, found).advise(user("give it the rights"))
            }
        },
        Err(error @ ami::Error::Login { .. }) => {
            Check::fail(name, error.to_string()).advise(user("compare user, secret and permit"))
        }
        Err(error @ (ami::Error::Io { .. } | ami::Error::Timeout { .. })) => {
            let port = format!("port = {}", settings.port);
            let bind = "bindaddr = 0.0.0.0      ; 127.0.0.1 where Hark runs beside Asterisk";
            let advice = Advice::new("switch AMI on, and let this machine through the PBX's firewall")
                .paste(FILE, ["[general]", "enabled = yes", &port, bind])
                .asterisk("manager reload")
                .asterisk("manager show settings");
            Check::fail(name, error.to_string()).advise(advice)
        }
        Err(error) => Check::fail(name, error.to_string()).advise(user("give it the rights")),
    }]
}
