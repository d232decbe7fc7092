//! The embedded agent with its real models: hears recorded people, speaks, and holds a whole conversation.

use std::{path::Path, time::Duration};

use hark::{
    agent::embedded::{Config as Settings, Engine, Refused, Voice, models},
    audio::Rate,
    call::CallId,
    cli::phone::{self, Codec, Options, Step},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Handle;
use url::Url;
use uuid::Uuid;

pub use crate::support::models::prompt;
use crate::support::{gateway::Gateway, models::installed, receiver::Receiver};

async fn engine(dir: &Path) -> Engine {
    let settings = Settings { threads: 1, ..Settings::default() };
    Engine::start(dir, &settings, "flite", Handle::current()).await.unwrap()
}

pub fn words(text: &str) -> Vec<String> {
    hark::agent::embedded::script::normal(text)
}

/// Words that are wrong, missing or too many.
pub fn errors(expected: &[String], heard: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, wanted) in expected.iter().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, word) in heard.iter().enumerate() {
            let replaced = before + usize::from(wanted != word);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[heard.len()]
}

/// Recorded people, and what they say.
const PROMPTS: &[(&str, &str)] = &[
    ("vm-goodbye", "goodbye"),
    ("hello-world", "hello world"),
    ("please-try-again", "please try again"),
    ("transfer", "please hold while i try that extension"),
    ("one-moment-please", "one moment please"),
    ("telephone-number", "telephone number"),
    ("vm-leavemsg", "press five to leave a message"),
    ("vm-repeat", "press five to repeat the current message"),
    ("vm-sorry", "i'm sorry i did not understand your response"),
    ("vm-forward", "press one to enter an extension press two to use the directory"),
    ("vm-tohearenv", "press three to hear the message envelope"),
    ("vm-rec-name", "after the tone say your name and then press the pound key"),
    ("queue-callswaiting", "waiting to speak with a representative"),
    (
        "dir-intro",
        "welcome to the directory please enter the first three letters of your party's last name using your touch tone keypad \
         use the seven key for q and the nine key for z",
    ),
];

#[tokio::test]
async fn recorded_people_are_understood() {
    let Some(dir) = installed() else { return };
    let engine = engine(&dir).await;
    let (mut wrong, mut all) = (0, 0);
    for (name, text) in PROMPTS {
        let heard = engine.recognise(prompt(name), Rate::R8K).await.unwrap();
        let expected = words(text);
        let errors = errors(&expected, &words(&heard));
        println!("{name:20} {errors} of {:2}: {heard}", expected.len());
        wrong += errors;
        all += expected.len();
    }
    println!("{wrong} of {all} words wrong");
    // 5 of 108 when it was written
    assert!(wrong * 100 <= all * 10, "{wrong} of {all} words are wrong");
}

#[tokio::test]
async fn silence_noise_and_scraps_are_survived() {
    let Some(dir) = installed() else { return };
    let engine = engine(&dir).await;
    assert_eq!(engine.recognise(Vec::new(), Rate::R16K).await.unwrap(), "");
    assert_eq!(engine.recognise(vec![100; 1_000], Rate::R16K).await.unwrap(), "");
    let noise: Vec<i16> = (0..48_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 20) as i16 - 2_048).collect();
    for samples in [vec![0; 1_600], vec![0; 48_000], noise, vec![i16::MAX; 20_000]] {
        let heard = engine.recognise(samples, Rate::R16K).await.unwrap();
        assert!(heard.len() < 400, "{heard}");
    }
}

#[tokio::test]
async fn what_the_voice_says_is_understood() {
    let Some(dir) = installed() else { return };
    let engine = engine(&dir).await;
    println!("{:?}", engine.voice());
    let (mut wrong, mut all) = (0, 0);
    for text in [
        "Hello, this is the receptionist. How can I help you?",
        "We are open from Monday to Friday, from nine in the morning to five in the afternoon.",
        "One moment please, I will connect you to the sales department.",
        "Thank you for calling. Goodbye.",
    ] {
        let mut coming = engine.speak(text, Rate::R8K);
        let mut samples = Vec::new();
        while let Some(part) = coming.recv().await {
            samples.extend_from_slice(&part.unwrap());
        }
        let loudest = samples.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
        assert!((8_000..32_000).contains(&loudest), "{loudest}");
        let heard = engine.recognise(samples.clone(), Rate::R8K).await.unwrap();
        let expected = words(text);
        wrong += errors(&expected, &words(&heard));
        all += expected.len();
        println!("{:.1} s: {heard}", samples.len() as f64 / 8_000.0);
        // said before: it is the same, and ready
        let mut again = Vec::new();
        let mut coming = engine.speak(text, Rate::R8K);
        while let Some(part) = coming.recv().await {
            again.extend_from_slice(&part.unwrap());
        }
        assert_eq!(again, samples);
    }
    assert!(wrong * 100 <= all * 20, "{wrong} of {all} words are wrong");
}

/// A script that gives a person's words a meaning, for people whose words we cannot choose.
const SCRIPT: &str = r#"
    [[intents]]
    name = "sorry"
    phrases = ["did not understand"]
    do = "answer"
    say = "The opening hours are nine to five."
"#;

struct Conversation {
    events: Vec<Value>,
    report: phone::Report,
    /// Numbers of `/metrics`, when the call was over.
    metrics: Vec<(&'static str, u64)>,
}

const NUMBERS: [&str; 8] = [
    "hark_embedded_done_total{work=\"recognition\"}",
    "hark_embedded_audio_seconds_total{work=\"recognition\"}",
    "hark_embedded_done_total{work=\"synthesis\"}",
    "hark_embedded_threads",
    "hark_embedded_calls_limit",
    "hark_embedded_calls",
    "hark_embedded_waiting",
    "hark_embedded_failed_total{work=\"recognition\"}",
];

/// A call in which a recorded person says these things, one after the other, each when the agent has answered.
async fn converse(dir: &Path, says: &[&str], script: Option<&Path>) -> Conversation {
    let receiver = Receiver::kind().await;
    let gateway = Gateway::with(&Url::parse("builtin:").unwrap(), |config| {
        config.agent.sts_url = None;
        config.models.dir = dir.to_owned();
        config.embedded.threads = 1;
        config.embedded.script = script.map(|path| path.display().to_string());
        config.webhooks.url = Some(receiver.url.clone());
    })
    .await;
    let long = Duration::from_secs(15);
    let quiet = || Step::AwaitQuiet(Duration::from_millis(1_200), long);
    let mut steps = vec![Step::AwaitSpeech(long), quiet()];
    for name in says {
        steps.extend([Step::Say(prompt(name)), Step::AwaitSpeech(long), quiet()]);
    }
    steps.push(Step::HangUp);
    let options = Options {
        uuid: Uuid::new_v4(),
        codec: Codec::Slin(Rate::R8K),
        script: steps,
        limit: Duration::from_secs(60),
        record: true,
    };
    let report = phone::call(gateway.audiosocket, options, |at, moment| println!("{at:?} {moment:?}")).await.unwrap();
    let mut events = Vec::new();
    while !events.iter().any(|event: &Value| event["type"] == "call_ended") {
        let seen = receiver.wait_for(events.len() + 1).await;
        events = seen.iter().map(|request| request.json()).collect();
    }
    gateway.until("hark_embedded_calls", 0).await;
    let mut metrics = Vec::new();
    for name in NUMBERS {
        metrics.push((name, gateway.metric(name).await));
    }
    Conversation { events, report, metrics }
}

fn transcripts(events: &[Value]) -> Vec<String> {
    let texts = events.iter().filter(|event| event["type"] == "transcription");
    texts
        .map(|event| {
            format!("{}: {}", event["payload"]["role"].as_str().unwrap(), event["payload"]["text"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_person_has_a_conversation() {
    let Some(dir) = installed() else { return };
    let data = tempfile::tempdir().unwrap();
    let script = data.path().join("script.toml");
    std::fs::write(&script, SCRIPT).unwrap();
    let Conversation { events, report, metrics } = converse(&dir, &["vm-sorry", "vm-goodbye"], Some(&script)).await;
    let said = transcripts(&events);
    println!("{said:#?}");
    assert_eq!(said[0], "agent: Hello, this is the receptionist. How can I help you?");
    assert!(said.iter().any(|line| line.starts_with("user: ") && line.contains("did not understand")), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("agent: The opening hours are nine to five.")), "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("agent: Thank you for calling. Goodbye."));
    assert_eq!(report.ending, phone::Ending::Gateway, "it hung up");
    println!("{metrics:?}");
    let (some, none) = metrics.split_at(5);
    assert!(some.iter().all(|(_, value)| *value > 0) && none.iter().all(|(_, value)| *value == 0), "{metrics:?}");
    for answer in report.answers().flatten() {
        println!("answered after {} ms", answer.as_millis());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_talker_too_many_is_refused() {
    let Some(dir) = installed() else { return };
    let engine =
        Engine::start(&dir, &Settings { threads: 1, max_calls: 2, ..Settings::default() }, "flite", Handle::current())
            .await
            .unwrap();
    let (one, two) = (engine.admit(CallId::new()), engine.admit(CallId::new()));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(engine.admit(CallId::new()).err(), Some(Refused::Full(2)));
    drop(one);
    assert!(engine.admit(CallId::new()).is_ok());
    drop(two);
    assert_eq!(engine.talkers(), (0, 2));
}

/// Models of which one is broken: the others are those that are installed.
fn broken(dir: &Path, change: impl FnOnce(&Path)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for package in models::PACKAGES {
        let (from, to) = (package.dir(dir), package.dir(copy.path()));
        if *package == models::RECOGNITION {
            std::fs::create_dir(&to).unwrap();
            for file in package.files {
                std::fs::copy(from.join(file.name), to.join(file.name)).unwrap();
            }
        } else {
            std::os::unix::fs::symlink(from, to).unwrap();
        }
    }
    change(&models::RECOGNITION.dir(copy.path()));
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_no_model_is_named_and_the_gateway_answers_without_it() {
    let Some(dir) = installed() else { return };
    // of the right length, so that only whoever reads it can know
    let damage = |dir: &Path| {
        let file = dir.join("encoder_model.ort");
        let length = std::fs::metadata(&file).unwrap().len();
        std::fs::write(&file, vec![0xa5; length as usize]).unwrap();
    };
    let models = broken(&dir, damage);
    let settings = Settings { threads: 2, ..Settings::default() };
    let error = Engine::start(models.path(), &settings, "flite", Handle::current()).await.unwrap_err().to_string();
    assert!(error.contains("encoder_model.ort") && error.contains("hark models verify"), "{error}");
    let receiver = Receiver::kind().await;
    let gateway = Gateway::with(&Url::parse("builtin:").unwrap(), |config| {
        config.agent.sts_url = None;
        config.models.dir = models.path().to_owned();
        config.webhooks.url = Some(receiver.url.clone());
    })
    .await;
    let script = vec![Step::AwaitSpeech(Duration::from_secs(15)), Step::HangUp];
    let limit = Duration::from_secs(20);
    let options = Options { uuid: Uuid::new_v4(), codec: Codec::Slin(Rate::R8K), script, limit, record: false };
    let report = phone::call(gateway.audiosocket, options, |_, _| {}).await.unwrap();
    assert!(report.first_sound().is_some(), "it still answers, as it does without models");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_vanish_while_they_are_used_are_missed_at_the_next_start_only() {
    let Some(dir) = installed() else { return };
    let models = broken(&dir, |_| {});
    let engine = engine(models.path()).await;
    std::fs::remove_dir_all(models::RECOGNITION.dir(models.path())).unwrap();
    let heard = engine.recognise(prompt("hello-world"), Rate::R8K).await.unwrap();
    assert!(heard.to_lowercase().contains("hello"), "{heard}");
    assert!(!models::are_installed(models.path()));
}

#[tokio::test]
async fn without_its_voice_or_espeak_ng_another_speaks() {
    let Some(dir) = installed() else { return };
    let models = tempfile::tempdir().unwrap();
    for package in [models::RUNTIME, models::RECOGNITION] {
        std::os::unix::fs::symlink(package.dir(&dir), package.dir(models.path())).unwrap();
    }
    let without_program = Settings { threads: 1, espeak: "/nonexistent/espeak-ng".to_owned(), ..Settings::default() };
    let usual = Settings { threads: 1, ..Settings::default() };
    for (dir, settings) in [(models.path(), &usual), (dir.as_path(), &without_program)] {
        let engine = Engine::start(dir, settings, "flite", Handle::current()).await.unwrap();
        assert_eq!(engine.voice(), Voice::Flite);
        let mut coming = engine.speak("Hello, this is the receptionist.", Rate::R8K);
        let mut samples = Vec::new();
        while let Some(part) = coming.recv().await {
            samples.extend_from_slice(&part.unwrap());
        }
        let heard = engine.recognise(samples.clone(), Rate::R8K).await.unwrap();
        assert!(heard.to_lowercase().contains("hello"), "{heard}");
    }
    let error = Engine::start(&dir, &without_program, "/nonexistent/flite", Handle::current()).await.unwrap_err();
    assert!(error.to_string().contains("espeak-ng") && error.to_string().contains("flite"), "{error}");
}

/// What the newcomer sees after `make models`: everything is asserted by the program, in `cli/demo/verdict.rs`.
#[tokio::test]
async fn the_demonstration_converses() {
    let Some(models) = installed() else { return };
    let dir = tempfile::tempdir().unwrap();
    let demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_hark"))
        .args(["demo", "--models"])
        .arg(&models)
        .current_dir(dir.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&demo.stdout), String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{out}\n{err}");
    for line in ["yes  it took a message", "\"name\":\"take_message\"", "I have noted 5 5 5", "understood and said:"] {
        assert!(out.contains(line), "{line:?} is missing in\n{out}");
    }
}
