//! The fakes are checked by the vendors' own libraries (`tests/sdk/`): what they say must be taken, and be understood.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::{Fake, KEY, Peer, stt_vendors as stt, tts_vendors as tts};
use crate::support::{
    connector::{Connector, Exchange, soon},
    engines::{Engine, LOADING},
};

/// Where `scripts/setup.sh test` puts the libraries.
pub fn python() -> Option<PathBuf> {
    installed("hark/speech-sdks/bin/python")
}

/// The one that has the models of a vendor's messages.
pub fn models(vendor: &str) -> Option<PathBuf> {
    if vendor == "gemini" { installed("hark/vendors/python/bin/python") } else { python() }
}

fn installed(python: &str) -> Option<PathBuf> {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let python = cache.join(python);
    python.exists().then_some(python)
}

/// A vendor's library at work.
pub struct Library {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Library {
    pub fn start(python: &PathBuf, name: &str, address: &str) -> Self {
        Self::trusting(python, name, address, None)
    }

    /// One that trusts an authority of certificates.
    pub fn trusting(python: &PathBuf, name: &str, address: &str, authority: Option<&Path>) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/speech.py");
        let mut command = Command::new(python);
        command.args([script, name, address, KEY]).stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
        // what the environment says about proxies is not for the loopback
        command.env("NO_PROXY", "127.0.0.1");
        if let Some(authority) = authority {
            command.env("SSL_CERT_FILE", authority);
        }
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _process: process, lines }
    }

    pub async fn line(&mut self) -> String {
        soon("the library", self.lines.next_line()).await.unwrap().expect("the library has failed")
    }
}

/// What somebody who takes a while to start asks over HTTP.
async fn asked_late(connector: &mut Connector) -> Exchange {
    let asked = async {
        while !connector.has_request() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LOADING, asked).await.expect("nobody asks");
    connector.request().await
}

/// The handshake holds what ours would; a library may add parameters of its own, and write booleans as Python does.
fn check(peer: &Peer, path: &str, query: &[(&str, &str)], auth: Option<(&str, &str)>) {
    assert_eq!(peer.path, path);
    for (name, value) in query {
        let said = peer.query.iter().find(|(known, _)| known == name);
        assert!(
            said.is_some_and(|(_, said)| said.eq_ignore_ascii_case(value)),
            "{name}={value} is not in {:?}",
            peer.query
        );
    }
    if let Some((header, scheme)) = auth {
        assert_eq!(peer.headers.get(header), Some(&format!("{scheme}{KEY}")));
    }
}

#[tokio::test]
async fn recognisers_are_as_their_libraries_expect() {
    let Some(python) = python() else { return left_out() };
    for (name, vendor) in [
        ("nova", stt::NOVA),
        ("flux", stt::FLUX),
        ("soniox", stt::SONIOX),
        ("assemblyai", stt::ASSEMBLYAI),
        ("speechmatics", stt::SPEECHMATICS),
        ("scribe", stt::SCRIBE),
        ("transcription", stt::REALTIME),
    ] {
        let fake = Fake::start().await;
        let mut library = Library::start(&python, name, &fake.address);
        let mut peer = fake.accept_slowly().await;
        check(&peer, vendor.path, vendor.query, vendor.auth);
        if let Some(opening) = vendor.opening {
            opening(&peer.json().await);
        }
        if let Some(ready) = vendor.ready {
            peer.say(&serde_json::from_str::<Value>(ready).unwrap()).await;
        }
        assert!(peer.audio(6_400).await.len() >= 6_400, "{name}");
        if let Some(finalize) = vendor.finalize {
            let (said, mut expected) = (peer.json().await, serde_json::from_str::<Value>(finalize).unwrap());
            if let Some(timestamp) = expected.get_mut("timestamp") {
                // 40 frames
                *timestamp = 0.8.into();
            }
            assert_eq!(said, expected, "{name}");
        }
        vendor.tell(&mut peer, (vendor.partial)("hello")).await;
        vendor.tell(&mut peer, (vendor.last)("hello there", 0)).await;
        assert_eq!(library.line().await.trim_end(), "text hello there", "{name}");
    }
}

#[tokio::test]
async fn voices_are_as_their_libraries_expect() {
    let Some(python) = python() else { return left_out() };
    for (name, vendor) in [("aura", tts::AURA), ("cartesia", tts::CARTESIA)] {
        let fake = Fake::start().await;
        let mut library = Library::start(&python, name, &fake.address);
        let mut peer = fake.accept_slowly().await;
        check(&peer, vendor.path, vendor.query, Some(vendor.auth));
        let (text, context) = match name {
            "aura" => vendor.sentence(&mut peer).await,
            // the library adds fields that have usual values
            _ => {
                let asked = peer.json().await;
                assert_eq!(asked["continue"], false, "{asked}");
                (asked["transcript"].as_str().unwrap().to_owned(), asked["context_id"].as_str().unwrap().to_owned())
            }
        };
        assert_eq!(text, "Say this.", "{name}");
        peer.send((vendor.audio)(&context, &[1; 640])).await;
        if let Some(words) = vendor.words {
            peer.say(&words(&context)).await;
            assert_eq!(library.line().await, "words One");
        }
        peer.send((vendor.audio)(&context, &[1; 320])).await;
        peer.say(&(vendor.end)(&context)).await;
        assert_eq!(library.line().await, "audio 960", "{name}");
    }
}

#[tokio::test]
async fn openais_speech_is_asked_for_as_its_library_does() {
    let Some(python) = python() else { return left_out() };
    let mut vendor = Connector::start("/v1").await;
    let mut library = Library::start(&python, "speech", vendor.url.authority());
    let mut asked = asked_late(&mut vendor).await;
    assert!(asked.head.starts_with("POST /v1/audio/speech HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(asked.json().await, super::gateway::openai_speech());
    asked.answer(&[&[1; 640], &[1; 320]]).await;
    assert_eq!(library.line().await, "audio 960");
}

/// The server of ours in which faster-whisper is tested is one of OpenAI's to its library.
#[tokio::test]
async fn the_server_of_transcriptions_is_as_openais_library_expects() {
    let (Some(python), Some(engine)) = (python(), Engine::whisper().await) else { return left_out() };
    let mut library = Library::start(&python, "transcriptions", &format!("127.0.0.1:{}", engine.port));
    let first = tokio::time::timeout(LOADING, library.lines.next_line()).await.expect("the library hangs");
    assert_eq!(first.unwrap().as_deref(), Some("text Something is terribly wrong."));
    assert_eq!(library.line().await, "text Something is terribly wrong.");
    assert_eq!(library.line().await, "error 404 model_not_found");
}

pub fn left_out() {
    eprintln!(
        "\n**** SKIPPED: the fakes of speech vendors have not been checked by the vendors' libraries: scripts/setup.sh test installs them ****\n"
    );
}
