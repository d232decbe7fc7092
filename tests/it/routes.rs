//! Profiles and routes: some calls have other services and settings, and how a wrong file is told.

use hark::{
    asterisk::audiosocket::wire,
    config::{Config, Faults, Listener, Sources},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use crate::support::{
    client,
    gateway::{Gateway, Line, frame_of},
    sts_server::{Mode, StsServer},
};

fn load(text: &str) -> Result<Config, Faults> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(&Sources { file: Some(file.path().to_owned()), ..Sources::default() })
}

#[test]
fn a_profile_is_the_settings_of_all_calls_but_for_what_it_says() {
    let config = load(
        r#"
        [agent]
        sts_url = "ws://usual:1"
        debounce_ms = 111
        [call]
        max_duration_s = 60
        [profiles.sales.agent]
        sts_url = "ws://sales:2"
        [profiles.sales.call.barge_in]
        policy = "words"
        [profiles.sales.recording]
        enabled = true
        [profiles.cascade]
        agent.asr_url = "ws://a:1"
        agent.llm_url = "ws://a:2"
        agent.tts_url = "ws://a:3"
        audio.denoise = "rnnoise"
        [[routes]]
        profile = "sales"
        listener = "ari"
        to = ["_6XX"]
        language = "de"
        [[routes]]
        profile = "cascade"
        metadata = { queue = "support*" }
        "#,
    )
    .unwrap();
    let (sales, cascade) = (&config.profiles["sales"], &config.profiles["cascade"]);
    assert_eq!((sales.agent.sts_url.as_deref(), sales.agent.debounce_ms), (Some("ws://sales:2"), 111));
    assert_eq!((sales.call.max_duration_s, sales.recording, cascade.recording), (60, true, false));
    assert_eq!(sales.call.barge_in.policy, hark::call::Policy::Words);
    assert_eq!((cascade.agent.sts_url.as_deref(), cascade.agent.asr_url.as_deref()), (None, Some("ws://a:1")));
    assert_eq!(cascade.audio.denoise, hark::audio::denoise::Denoise::Rnnoise);
    assert_eq!(config.agent.sts_url.as_deref(), Some("ws://usual:1"));
    assert_eq!((config.routes[0].language.as_deref(), &config.routes[1].language), (Some("de"), &None));
    assert_eq!((config.routes.len(), config.routes[0].listener), (2, Some(Listener::Ari)));
    assert!(config.settings.iter().any(|setting| setting.key == "profiles.sales.agent.sts_url"));
}

#[test]
fn what_is_wrong_with_profiles_and_routes_is_said_at_once() {
    let faults = load(
        r#"
        [profiles.sales.agent]
        sts_url = "sales"
        debounce_sm = 1
        [profiles.sales.http]
        listen = "0.0.0.0:1"
        [profiles.sales.call]
        max_duration_s = -1
        [[routes]]
        profile = "nobody"
        [[routes]]
        to = "600"
        [[routes]]
        profile = "sales"
        nonsense = 1
        "#,
    )
    .unwrap_err();
    let text = faults.to_string();
    for part in [
        "profiles.sales.agent.sts_url",
        "profiles.sales.agent.debounce_sm",
        "profiles.sales.http.listen",
        "profiles.sales.call.max_duration_s",
        "there is no profile \"nobody\"",
        "routes, number 2",
        "routes, number 3",
        "nonsense",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(faults.0.len(), 7, "{text}");
}

async fn announce(gateway: &Gateway, uuid: Uuid, payload: Value) {
    let body = json!({ "uuid": uuid, "payload": payload });
    let answer = client().post(format!("http://{}/call", gateway.http)).json(&body).send().await.unwrap();
    assert!(answer.status().is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_gets_the_service_of_its_route_with_its_parameters() {
    let (usual, sales) = (StsServer::start(Mode::Echo).await, StsServer::start(Mode::Echo).await);
    let file = format!(
        "[profiles.sales]\nagent.sts_url = \"{}?team=1\"\n[[routes]]\nprofile = \"sales\"\nto = [\"6*\"]\nmetadata = {{ queue = \"gold\" }}",
        sales.url()
    );
    let loaded = load(&file).unwrap();
    let gateway = Gateway::with(&usual.url(), |config| {
        // as the file has it: its other settings are those of all calls
        config.profiles.clone_from(&loaded.profiles);
        config.routes.clone_from(&loaded.routes);
    })
    .await;
    for (payload, server, other) in [
        (json!({"to": "600", "queue": "gold"}), &sales, &usual),
        (json!({"to": "600", "queue": "tin"}), &usual, &sales),
        (json!({"to": "700", "queue": "gold"}), &usual, &sales),
    ] {
        let (uuid, before, beside) = (Uuid::new_v4(), server.session_count(), other.session_count());
        announce(&gateway, uuid, payload.clone()).await;
        let mut line = Line::connect(gateway.audiosocket).await;
        let mut bytes = Vec::new();
        wire::put_uuid(&mut bytes, uuid);
        wire::put_audio(&mut bytes, &frame_of(0));
        line.stream.write_all(&bytes).await.unwrap();
        let session = server.session(before).await;
        let record = session.until(|record| !record.texts.is_empty()).await;
        assert!(record.texts[0].contains(&uuid.to_string()), "{payload}");
        assert!(record.target.contains("queue=") && record.target.contains("to="), "{}", record.target);
        assert_eq!(record.target.contains("team=1"), std::ptr::eq(server, &sales), "{}", record.target);
        assert_eq!(other.session_count(), beside, "{payload}");
    }
}
