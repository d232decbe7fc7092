//! What an Asterisk has to be and to have loaded: which version can what, which modules what is configured needs.

use super::report::{Advice, Check};
use crate::{
    asterisk::ari::{
        Media, MediaFormat, Pbx,
        version::{AUDIOSOCKET, DIGITS, OUTBOUND, Version, WEBSOCKET, WIDEBAND, first},
    },
    config::Config,
};

/// Whether this version can do what is configured. `section`: the PBX's part of hark.toml.
pub(super) fn version(name: &str, text: &str, section: &str, pbx: &Pbx, config: &Config) -> Check {
    let Some(version) = Version::parse(text) else {
        return Check::warn(name, format!("{text:?} is no release: what it can do is not known from its version"));
    };
    if !version.has(AUDIOSOCKET) {
        let advice = Advice::new("install Asterisk 22 (long-term support) or at least 18");
        return Check::fail(name, format!("Asterisk {text} has no AudioSocket")).advise(advice);
    }
    if pbx.connect.comes() && !version.has(OUTBOUND) {
        let advice = Advice::new(format!("update Asterisk to {} or later, or let Hark connect", first(OUTBOUND)))
            .paste("hark.toml", [section, "connect = \"hark\""]);
        return Check::fail(name, format!("Asterisk {text} does not connect by itself (outbound WebSockets)"))
            .advise(advice);
    }
    if pbx.media == Media::WebSocket && !version.has(WEBSOCKET) {
        let advice = Advice::new(format!("update Asterisk to {} or later, or use AudioSocket", first(WEBSOCKET)))
            .paste("hark.toml", [section, "media = \"audiosocket\""]);
        return Check::fail(name, format!("Asterisk {text} cannot carry calls by chan_websocket")).advise(advice);
    }
    if pbx.media == Media::AudioSocket && pbx.format == MediaFormat::Slin16 && !version.has(WIDEBAND) {
        let advice = Advice::new(format!("update Asterisk to {} or later, or use 8 kHz", first(WIDEBAND)))
            .paste("hark.toml", [section, "format = \"slin\""]);
        return Check::fail(name, format!("Asterisk {text} cannot carry slin16 over AudioSocket")).advise(advice);
    }
    if config.websocket.listen.is_some() && !version.has(WEBSOCKET) {
        let advice =
            Advice::new(format!("update Asterisk to {} or later, or call by AudioSocket only", first(WEBSOCKET)))
                .paste("hark.toml", ["[websocket]", "listen = \"\""]);
        return Check::fail(name, format!("Asterisk {text} has no chan_websocket with JSON and marks")).advise(advice);
    }
    if !version.has(DIGITS) {
        let advice = Advice::new(format!("update Asterisk to {} or later, or listen for tones", first(DIGITS)))
            .paste("hark.toml", ["[audio]", "inband_dtmf = \"detect\""]);
        let check = Check::warn(name, format!("Asterisk {text} does not send digits over AudioSocket"));
        return check.advise(advice);
    }
    let can = [("16 kHz", WIDEBAND), ("chan_websocket", WEBSOCKET)];
    let can: String = can.iter().filter(|(_, since)| version.has(since)).map(|(what, _)| format!(", {what}")).collect();
    Check::ok(name, format!("Asterisk {text}: AudioSocket with digits{can}"))
}

/// A module and what for; `must`: without it nobody is heard.
struct Need {
    module: &'static str,
    what_for: &'static str,
    must: bool,
}

const fn must(module: &'static str, what_for: &'static str) -> Need {
    Need { module, what_for, must: true }
}

const fn may(module: &'static str, what_for: &'static str) -> Need {
    Need { module, what_for, must: false }
}

const ALWAYS: &[Need] = &[
    must("res_http_websocket", "the events of ARI"),
    must("res_stasis", "Stasis()"),
    must("app_stasis", "Stasis()"),
    must("res_stasis_answer", "answering"),
    must("res_ari", "ARI"),
    must("res_ari_applications", "ARI"),
    must("res_ari_asterisk", "ARI"),
    must("res_ari_bridges", "ARI"),
    must("res_ari_channels", "ARI"),
    must("res_ari_events", "ARI"),
    must("res_audiosocket", "the audio"),
    must("chan_audiosocket", "the audio"),
    must("bridge_simple", "connecting callers"),
    must("codec_ulaw", "phones with G.711"),
    must("codec_alaw", "phones with G.711"),
    may("app_audiosocket", "AudioSocket() in a dialplan"),
    may("res_stasis_playback", "playing sounds to callers"),
    may("res_ari_playbacks", "playing sounds to callers"),
    may("res_stasis_recording", "recording by Asterisk"),
    may("res_ari_recordings", "recording by Asterisk"),
    may("bridge_softmix", "recording by Asterisk"),
    may("res_pjsip_refer", "transfers by SIP REFER"),
    may("codec_resample", "phones and formats of other rates"),
    may("codec_g722", "phones that offer nothing but g722"),
    may("codec_opus", "phones that offer nothing but opus"),
];

fn needs(pbx: &Pbx, config: &Config) -> Vec<&'static Need> {
    const HEADERS: &[Need] = &[must("res_pjsip_header_funcs", "ari.headers")];
    const WIDE: &[Need] = &[must("codec_resample", "format = \"slin16\"")];
    const SOCKET: &[Need] = &[
        must("chan_websocket", "websocket.listen"),
        must("res_websocket_client", "websocket.listen"),
        may("func_uri", "metadata in Dial(WebSocket/…)"),
    ];
    const MANAGER: &[Need] = &[may("func_dialplan", "refusing transfers to places that do not exist")];
    const COMING: &[Need] = &[must("res_websocket_client", "ari.connect")];
    const CARRIER: &[Need] = &[must("chan_websocket", "media = \"websocket\"")];
    const PACKETS: &[Need] = &[
        must("res_rtp_asterisk", "media = \"rtp\""),
        must("res_rtp_multicast", "media = \"rtp\" (chan_rtp does not load without it)"),
        must("chan_rtp", "media = \"rtp\""),
    ];
    const WIDE_PACKETS: &[Need] = &[must("codec_g722", "16 kHz by RTP")];
    let mut all: Vec<&Need> = Vec::new();
    match pbx.media {
        Media::AudioSocket => {}
        Media::WebSocket => all.extend(CARRIER),
        Media::Rtp => all.extend(PACKETS),
    }
    if pbx.media == Media::Rtp && matches!(pbx.format, MediaFormat::Slin16 | MediaFormat::G722) {
        all.extend(WIDE_PACKETS);
    }
    if !pbx.headers.is_empty() {
        all.extend(HEADERS);
    }
    if pbx.format == MediaFormat::Slin16 {
        all.extend(WIDE);
    }
    if config.websocket.listen.is_some() {
        all.extend(SOCKET);
    }
    if pbx.connect.comes() {
        all.extend(COMING);
    }
    if config.ami.host.is_some() {
        all.extend(MANAGER);
    }
    all.extend(ALWAYS);
    all
}

/// Whether what is configured has the modules it needs. `running`: those that run, without `.so`.
pub(super) fn modules(name: &str, running: &[String], pbx: &Pbx, config: &Config) -> Vec<Check> {
    let has = |module: &str| running.iter().any(|name| name.starts_with(module) && is_variant(&name[module.len()..]));
    let mut missing: Vec<&Need> = Vec::new();
    for need in needs(pbx, config) {
        if !has(need.module) && missing.iter().all(|known| known.module != need.module) {
            missing.push(need);
        }
    }
    let (failed, doubtful): (Vec<_>, Vec<_>) = missing.into_iter().partition(|need| need.must);
    let (codecs, doubtful): (Vec<_>, Vec<_>) =
        doubtful.into_iter().partition(|need| matches!(need.module, "codec_g722" | "codec_opus"));
    let mut checks = Vec::new();
    if !failed.is_empty() {
        checks.push(Check::fail(name, told(&failed)).advise(load(&failed)));
    }
    if !doubtful.is_empty() {
        checks.push(Check::warn(name, told(&doubtful)).advise(load(&doubtful)));
    }
    if failed.is_empty() && doubtful.is_empty() {
        checks.push(Check::ok(name, format!("all that is needed, of {} that run", running.len())));
    }
    if !codecs.is_empty() {
        checks.push(codec(&name.replace("modules", "codecs"), &codecs));
    }
    checks
}

/// Asterisk comes without opus, and phones do without.
fn codec(name: &str, missing: &[&Need]) -> Check {
    if missing.iter().all(|need| need.module == "codec_opus") {
        return Check::ok(name, "all but opus: phones have to offer another codec, too");
    }
    let advice = Advice::new("load them where you have them, or take the codecs out of the phones' endpoints")
        .paste("/etc/asterisk/pjsip.conf, in the endpoint", ["disallow = all", "allow = ulaw,alaw"])
        .asterisk("pjsip reload");
    Check::warn(name, told(missing)).advise(advice)
}

/// Distributions ship `codec_opus_open_source` for `codec_opus`.
fn is_variant(rest: &str) -> bool {
    rest.is_empty() || rest == "_open_source"
}

fn told(missing: &[&Need]) -> String {
    let each: Vec<_> = missing.iter().map(|need| format!("{}.so ({})", need.module, need.what_for)).collect();
    format!("not loaded: {}", each.join(", "))
}

fn load(missing: &[&Need]) -> Advice {
    let text = "load them; one that cannot be loaded is not installed (menuselect, or the package asterisk-modules)";
    let lines: Vec<_> = missing.iter().map(|need| format!("load = {}.so", need.module)).collect();
    let advice = Advice::new(text).paste("/etc/asterisk/modules.conf, in [modules], without a noload of them", lines);
    missing.iter().fold(advice, |advice, need| advice.asterisk(&format!("module load {}.so", need.module)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::doctor::report::Status;

    fn of(text: &str, change: impl FnOnce(&mut Config)) -> Check {
        let mut config = Config::default();
        change(&mut config);
        version("v", text, "[ari]", &config.ari, &config)
    }

    #[test]
    fn what_a_version_cannot_do_is_a_fault_where_it_is_configured() {
        assert_eq!(of("22.10.1", |_| {}).status, Status::Ok);
        assert_eq!(of("16.30.0", |_| {}).status, Status::Fail);
        let old = of("20.9.0", |_| {});
        assert_eq!((old.status, &*old.advice[0].lines[1]), (Status::Warn, "inband_dtmf = \"detect\""));
        let wide = of("20.9.0", |config| config.ari.format = MediaFormat::Slin16);
        assert_eq!((wide.status, &*wide.advice[0].lines[1]), (Status::Fail, "format = \"slin\""));
        assert!(wide.advice[0].text.contains("22.7"), "{wide:?}");
        let carried = of("22.7.0", |config| config.ari.media = Media::WebSocket);
        assert_eq!((carried.status, &*carried.advice[0].lines[1]), (Status::Fail, "media = \"audiosocket\""));
        let socket = of("22.7.0", |config| config.websocket.listen = "127.0.0.1:5002".parse().ok());
        assert_eq!((socket.status, &*socket.advice[0].lines[1]), (Status::Fail, "listen = \"\""));
        assert_eq!(of("GIT-master-1", |_| {}).status, Status::Warn);
    }

    #[test]
    fn a_missing_module_is_named_with_its_line() {
        let config = Config::default();
        let mut running: Vec<_> = ALWAYS.iter().map(|need| need.module.to_owned()).collect();
        let checks = modules("modules", &running, &config.ari, &config);
        assert_eq!((checks.len(), checks[0].status), (1, Status::Ok));
        running.retain(|name| name != "codec_opus");
        assert_eq!(modules("modules", &running, &config.ari, &config)[1].status, Status::Ok, "few have it");
        running.retain(|name| name != "chan_audiosocket" && name != "codec_g722" && name != "bridge_softmix");
        let checks = modules("asterisk: modules", &running, &config.ari, &config);
        assert_eq!(
            checks.iter().map(|check| check.status).collect::<Vec<_>>(),
            [Status::Fail, Status::Warn, Status::Warn]
        );
        assert_eq!(checks[0].advice[0].lines, ["load = chan_audiosocket.so"]);
        assert_eq!(checks[0].advice[0].run, ["asterisk -rx 'module load chan_audiosocket.so'"]);
        assert!(checks[1].found.contains("bridge_softmix.so"));
        assert_eq!(checks[2].name, "asterisk: codecs");
        running.extend(["codec_opus_open_source".to_owned(), "codec_g722".to_owned()]);
        assert_eq!(modules("m", &running, &config.ari, &config).len(), 2);
    }

    #[test]
    fn what_is_configured_needs_more() {
        let mut config = Config::default();
        let running: Vec<_> = ALWAYS.iter().map(|need| need.module.to_owned()).collect();
        config.websocket.listen = "127.0.0.1:5002".parse().ok();
        config.ari.headers = vec!["X-A".to_owned()];
        let found = modules("m", &running, &config.ari, &config)[0].found.clone();
        for module in ["chan_websocket", "res_websocket_client", "res_pjsip_header_funcs"] {
            assert!(found.contains(module), "{module} in {found}");
        }
    }
}
