//! One PBX, asked by ARI.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use http::header::DATE;
use tokio::{net::TcpStream, time::timeout};

use super::{Advice, Check, Context, Gateway, STEP, asterisk, coming, media, socket};
use crate::{
    asterisk::ari::{Endpoint, Error, Pbx, Rest, Stats},
    config::Config,
};

/// A difference of clocks from here on is worth a look.
const CLOCKS: Duration = Duration::from_secs(2);
const HTTP_CONF: &str = "/etc/asterisk/http.conf (FreePBX: Settings, Advanced Settings, mini-HTTP server)";
const ARI_CONF: &str = "/etc/asterisk/ari.conf (FreePBX: Settings, Asterisk REST Interface Users)";

/// A PBX as checks name it.
pub(super) fn called(name: &str) -> String {
    if name == "default" { "asterisk".to_owned() } else { format!("asterisk {name}") }
}

/// Without ARI Asterisk cannot be asked.
pub(super) fn unknown(config: &Config) -> Check {
    let listen = config.audiosocket.listen;
    let advice = Advice::new("try it from the PBX; with ARI (asterisk-conf/ari) the doctor sees Asterisk's side too")
        .run(format!("hark call {listen}"))
        .asterisk("module show like audiosocket");
    Check::skipped("asterisk", "no ari.url: Asterisk's side cannot be seen from here").advise(advice)
}

/// One PBX and what is known of it.
pub(super) struct Patient<'a> {
    pub name: String,
    pub pbx: &'a Pbx,
    pub rest: Rest,
    endpoint: Endpoint,
    /// The PBX's part of hark.toml.
    pub section: String,
    /// Our address on the way to it.
    pub local: Option<IpAddr>,
    /// Its address.
    pub peer: Option<IpAddr>,
    pub context: &'a Context<'a>,
}

/// Looks at one PBX.
pub(super) async fn examine(name: &str, pbx: &Pbx, context: &Context<'_>) -> Vec<Check> {
    let called = called(name);
    let coming =
        async { if pbx.connect.comes() { Some(coming::examine(&called, name, pbx, context).await) } else { None } };
    let Some(url) = pbx.url.as_deref() else {
        let rest = "no ari.url: what Asterisk has loaded, and whether its audio reaches Hark, cannot be seen from here";
        return coming.await.into_iter().chain([Check::skipped(format!("{called}: the rest"), rest)]).collect();
    };
    let (coming, mut checks) = tokio::join!(coming, by_requests(name, pbx, url, context));
    checks.extend(coming);
    checks
}

async fn by_requests(name: &str, pbx: &Pbx, url: &str, context: &Context<'_>) -> Vec<Check> {
    let called = called(name);
    let section = if name == "default" { "[ari]".to_owned() } else { format!("[ari.pbx.{name}]") };
    // a doctor is less patient than a gateway
    let limit = u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX);
    let impatient = Pbx { timeout_ms: pbx.timeout_ms.min(limit), ..pbx.clone() };
    let rest = Endpoint::parse(pbx, url).and_then(|endpoint| {
        let rest = Rest::new(name, &impatient, endpoint.clone(), &context.tls, Arc::new(Stats::default()));
        Ok((rest.map_err(|error| error.to_string())?, endpoint))
    });
    let (rest, endpoint) = match rest {
        Ok(rest) => rest,
        Err(reason) => {
            let advice = Advice::new("write Asterisk's HTTP server").paste("hark.toml", url_lines(&section));
            return vec![Check::fail(called, format!("ari.url {reason}")).advise(advice)];
        }
    };
    let mut patient = Patient { name: called, pbx, rest, endpoint, section, local: None, peer: None, context };
    if let Err(check) = patient.connect().await {
        return vec![check, patient.not_tried()];
    }
    let version = match patient.rest.info().await {
        Ok(info) => info.system.version,
        Err(error) => return vec![patient.refused(&error), patient.not_tried()],
    };
    patient.all(&version).await
}

fn url_lines(section: &str) -> [&str; 2] {
    [section, "url = \"http://PBX:8088\""]
}

impl Patient<'_> {
    async fn all(&self, version: &str) -> Vec<Check> {
        let config = self.context.config;
        let who = Check::ok(&self.name, format!("{} lets {:?} in", self.rest.at(), self.endpoint.username()));
        let mut checks = vec![who, asterisk::version(&self.part("version"), version, &self.section, self.pbx, config)];
        let (running, rights, app, clock, endpoints) =
            tokio::join!(self.rest.modules(), self.rights(), self.application(), self.clock(), self.endpoints());
        let running = running.map(|modules| {
            let running = modules.into_iter().filter(|module| module.status == "Running");
            running.map(|module| module.name.trim_end_matches(".so").to_owned()).collect::<Vec<_>>()
        });
        let lacks = |module: &str| running.as_ref().is_ok_and(|running| running.iter().all(|name| name != module));
        checks.extend(self.modules(&running));
        checks.extend([rights, app, clock]);
        checks.extend(endpoints);
        let (audio, socket) = tokio::join!(
            media::examine(self, lacks("chan_audiosocket")),
            socket::examine(self, lacks("chan_websocket") || lacks("res_websocket_client")),
        );
        checks.push(audio);
        checks.extend(socket);
        checks
    }

    /// The name of one of its checks.
    pub fn part(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }

    fn not_tried(&self) -> Check {
        let what = "version, modules, rights, application, clock and the way back of the audio were not tried";
        Check::skipped(self.part("the rest"), what)
    }

    /// Whether somebody listens there.
    async fn connect(&mut self) -> Result<(), Check> {
        let base = self.endpoint.base();
        let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = base.port_or_known_default().unwrap_or(8088);
        let advice = match timeout(STEP, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(stream)) => {
                self.local = stream.local_addr().ok().map(|address| address.ip());
                self.peer = stream.peer_addr().ok().map(|address| address.ip());
                return Ok(());
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                (format!("{host}:{port} refuses the connection"), self.http_conf(&host, port))
            }
            Ok(Err(error)) => {
                let advice =
                    Advice::new("correct the name or the address").paste("hark.toml", url_lines(&self.section));
                (format!("{host}:{port} cannot be reached: {error}"), advice)
            }
            Err(_) => {
                let mut advice = self.http_conf(&host, port);
                advice.text = "let this machine through the PBX's firewall; Asterisk has to listen there:".to_owned();
                (
                    format!(
                        "{host}:{port} does not answer within {} s: a firewall, or no such machine",
                        STEP.as_secs()
                    ),
                    advice,
                )
            }
        };
        Err(Check::fail(&self.name, advice.0).advise(advice.1))
    }

    fn http_conf(&self, host: &str, port: u16) -> Advice {
        let bind = match host.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) if host == "localhost" => "127.0.0.1".to_owned(),
            Err(_) => "0.0.0.0      ; with a firewall: ARI can do everything with every call".to_owned(),
        };
        let lines = ["[general]", "enabled = yes", &format!("bindaddr = {bind}"), &format!("bindport = {port}")];
        Advice::new("switch Asterisk's HTTP server on, at this address and port; or correct ari.url")
            .paste(HTTP_CONF, lines)
            .asterisk("module reload http")
            .asterisk("http show status")
    }

    fn user(&self, text: &str) -> Advice {
        let user = format!("[{}]", self.endpoint.username());
        let secret = "password = …      ; what ari.password (ARI_PASSWORD) holds";
        Advice::new(text)
            .paste(ARI_CONF, [&user, "type = user", "read_only = no", secret])
            .asterisk("module reload res_ari.so")
            .asterisk("ari show users")
    }

    /// What is wrong when the first request fails.
    fn refused(&self, error: &Error) -> Check {
        let advice = match error {
            Error::Unauthorised { .. } => self.user("compare user and password"),
            Error::Forbidden { .. } => self.user("let the user in (also `permit` and `deny` in acl.conf)"),
            Error::NotFound { .. } => Advice::new("switch ARI on; or take a path out of ari.url that is not `prefix` in http.conf")
                .paste(ARI_CONF, ["[general]", "enabled = yes"])
                .asterisk("module load res_ari_asterisk.so")
                .asterisk("module reload res_ari.so"),
            Error::Timeout { .. } => Advice::new("something listens there and says nothing: not Asterisk's HTTP server, or an Asterisk that hangs")
                .paste("hark.toml", url_lines(&self.section))
                .asterisk("http show status"),
            Error::Unreachable { .. } | Error::Answer { .. } => {
                Advice::new("something else than Asterisk's HTTP server listens there (5038 is AMI, 8089 is https): correct the port")
                    .paste("hark.toml", url_lines(&self.section))
                    .asterisk("http show status")
            }
            _ => Advice::new("Asterisk's own log says why").asterisk("core show settings"),
        };
        Check::fail(&self.name, error.to_string()).advise(advice)
    }

    fn modules(&self, running: &Result<Vec<String>, Error>) -> Vec<Check> {
        let name = self.part("modules");
        match running {
            Ok(running) => asterisk::modules(&name, running, self.pbx, self.context.config),
            Err(error) => {
                let advice = Advice::new("look by hand").asterisk("module show like audiosocket");
                vec![Check::warn(name, error.to_string()).advise(advice.asterisk("module show like res_ari"))]
            }
        }
    }

    /// Whether the user may change anything. What is asked for does not exist, so nothing is changed.
    async fn rights(&self) -> Check {
        let (name, user) = (self.part("rights"), self.endpoint.username());
        match self.rest.subscribe(&self.pbx.app, "channel:hark-doctor").await {
            Err(error @ Error::Forbidden { .. }) => {
                Check::fail(name, error.to_string()).advise(self.user("let the user write"))
            }
            Ok(()) | Err(Error::NotFound { .. } | Error::Conflict { .. } | Error::BadRequest { .. }) => {
                Check::ok(name, format!("{user:?} may write"))
            }
            Err(error) => Check::warn(name, format!("not known: {error}")),
        }
    }

    /// Who has the application.
    async fn application(&self) -> Check {
        let (name, app) = (self.part("application"), &self.pbx.app);
        match (self.rest.application(app).await, self.context.gateway) {
            (Ok(_), Gateway::Running) => {
                Check::ok(name, format!("{app:?} is registered: the running gateway is told of calls"))
            }
            (Ok(_), Gateway::Unknown) => Check::ok(name, format!("{app:?} is registered")),
            (Ok(_), Gateway::Absent) => {
                let advice = Advice::new("where another gateway has it, give this one an application of its own, also in Stasis(…); a gateway elsewhere with the same settings is told of calls meanwhile")
                    .paste("hark.toml", [self.section.as_str(), "app = \"hark-2\""])
                    .asterisk("ari show apps");
                Check::warn(
                    name,
                    format!("{app:?} is registered, but no gateway runs here: starting one here would take it over"),
                )
                .advise(advice)
            }
            (Err(error), Gateway::Running) if error.is_gone() => {
                let advice = Advice::new(
                    "see in its log, or under /ready, why it is not connected; does it have these settings?",
                )
                .asterisk("ari show apps");
                Check::fail(name, format!("{app:?} is not registered, although a gateway runs: Stasis({app}) fails"))
                    .advise(advice)
            }
            (Err(error), _) if error.is_gone() => {
                Check::ok(name, format!("{app:?} is free; `hark serve` registers it"))
            }
            (Err(error), _) => Check::warn(name, error.to_string()),
        }
    }

    /// Asterisk's clock against ours.
    async fn clock(&self) -> Check {
        let name = self.part("clock");
        let mut url = self.endpoint.base().clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["asterisk", "ping"]);
        }
        // without credentials: the answer has a date all the same
        let Ok(answer) = self.context.http.get(url).send().await else {
            return Check::skipped(name, "Asterisk did not answer");
        };
        let date = answer.headers().get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let Some(theirs) = date else { return Check::skipped(name, "Asterisk does not tell its time") };
        let now = SystemTime::now();
        // a date has no fractions
        let apart = match (now.duration_since(theirs), theirs.duration_since(now)) {
            (Ok(behind), _) => behind.saturating_sub(Duration::from_secs(1)),
            (_, Ok(ahead)) => ahead,
            _ => Duration::ZERO,
        };
        if apart <= CLOCKS {
            return Check::ok(name, "Asterisk's and ours agree");
        }
        let advice = Advice::new(
            "keep time on both machines: times in events and Asterisk's CDRs do not match, TLS and signatures may fail",
        )
        .run("timedatectl set-ntp true");
        Check::warn(name, format!("Asterisk's differs from ours by {} s", apart.as_secs())).advise(advice)
    }

    /// The endpoints of dial strings, where they are written out.
    async fn endpoints(&self) -> Vec<Check> {
        let dials = &self.context.config.outbound.dial;
        join_all(dials.iter().filter_map(|(name, dial)| {
            let (tech, endpoint) = trunk(dial)?;
            Some(async move {
                let check = self.part(&format!("outbound.dial.{name}"));
                match self.rest.has_endpoint(tech, endpoint).await {
                    Ok(()) => Check::ok(check, format!("{tech}/{endpoint} is there")),
                    Err(error) if error.is_gone() => {
                        let advice =
                            Advice::new("correct the name (and load res_ari_endpoints.so: without it none is seen)")
                                .paste("hark.toml", ["[outbound.dial]", &format!("{name} = \"{tech}/{{to}}@TRUNK\"")])
                                .asterisk("pjsip show endpoints");
                        Check::warn(check, format!("Asterisk shows no endpoint {tech}/{endpoint}")).advise(advice)
                    }
                    Err(error) => Check::warn(check, error.to_string()),
                }
            })
        }))
        .await
    }
}

/// Technology and endpoint of a dial string, where they are written out: `PJSIP/{to}@trunk`.
fn trunk(dial: &str) -> Option<(&str, &str)> {
    let (tech, rest) = dial.split_once('/')?;
    let name = rest.rsplit_once('@').map_or(rest, |(_, name)| name);
    let plain = !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char));
    (tech.eq_ignore_ascii_case("PJSIP") && plain).then_some((tech, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_in_dial_strings() {
        for (dial, expected) in [
            ("PJSIP/{to}@trunk", Some(("PJSIP", "trunk"))),
            ("PJSIP/2000", Some(("PJSIP", "2000"))),
            ("PJSIP/{to}", None),
            ("PJSIP/trunk/sip:{to}@10.0.0.1:5060", None),
            ("Local/{to}@from-internal", None),
            ("", None),
        ] {
            assert_eq!(trunk(dial), expected, "{dial}");
        }
    }
}
