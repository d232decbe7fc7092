//! The embedded agent on a real Asterisk: a recorded person speaks into a telephone, and what that telephone heard is recognised again.

use std::path::Path;
use std::time::Duration;

use hark::agent::embedded::{Config as Settings, Engine};
use hark::audio::Rate;
use hark::config::Config;
use tokio::runtime::Handle;

use crate::ari::World;
use crate::calls::operator_answers;
use crate::support::g711::Codec;
use crate::support::hark::{Hark, SECRET};
use crate::support::models::installed;
pub use crate::support::models::prompt;
use crate::support::phone::{Call, State};
use crate::support::receiver::Receiver;
use crate::support::rtp::Rtp;

const SECOND: usize = 8_000;

async fn gateway(models: &Path, change: impl FnOnce(&mut Config)) -> Hark {
    Hark::with(Receiver::strict(SECRET).await, |config| {
        config.models.dir = models.to_owned();
        config.embedded.threads = 1;
        change(config);
    })
    .await
}

/// What a telephone heard from here on, until it has been quiet for a second and a half.
pub async fn answer(call: &Call, from: usize) -> Vec<i16> {
    let quiet = |rtp: &Rtp| {
        let audio = rtp.audio();
        let heard = audio[from.min(audio.len())..].iter().rposition(|sample| sample.unsigned_abs() > 200);
        heard.is_some_and(|last| last > SECOND / 4 && audio.len() - from - last > SECOND * 3 / 2)
    };
    assert!(call.rtp.wait(Duration::from_secs(20), quiet).await, "no answer was heard");
    call.rtp.audio()[from..].to_vec()
}

async fn words(engine: &Engine, samples: &[i16]) -> String {
    engine.recognise(samples.to_vec(), Rate::R8K).await.expect("it is recognised").to_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_on_a_telephone_is_understood_and_answered() {
    let Some(dir) = installed() else { return };
    let hark = gateway(&dir, |_| {}).await;
    let ears = Engine::start(&dir, &Settings { threads: 1, ..Settings::default() }, "flite", Handle::current())
        .await
        .expect("ears of our own");
    let lab = hark.lab().await;
    let call = match Call::dial(lab.sip(), "5001", Codec::Ulaw).await {
        Ok(call) => call,
        Err(code) => panic!("refused with {code}\n{}", lab.log()),
    };
    let greeting = words(&ears, &answer(&call, 0).await).await;
    assert!(greeting.contains("receptionist") && greeting.contains("help"), "{greeting:?}");
    // "Press five to leave a message." leads to one intent, whoever says it
    for (says, expected) in [("vm-leavemsg", "name"), ("hello-world", "number")] {
        let from = call.rtp.audio().len();
        call.rtp.play(&prompt(says));
        let heard = words(&ears, &answer(&call, from).await).await;
        println!("{says}: {heard}");
        assert!(heard.contains(expected), "{says}: {heard:?}");
    }
    let uuid = hark.events.wait_for(1).await[0].json();
    let uuid = uuid["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
    call.hang_up().await;
    let story = hark.story(uuid).await;
    let said = story.iter().any(|event| event.contains(r#""role":"user""#) && event.contains("leave a message"));
    assert!(said, "{story:?}");
    lab.stop().await;
    hark.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goodbye_ends_the_call_and_one_talker_too_many_goes_on_in_the_dialplan() {
    let Some(dir) = installed() else { return };
    let hark = gateway(&dir, |config| config.embedded.max_calls = 1).await;
    let lab = hark.lab().await;
    let call = Call::dial(lab.sip(), "5001", Codec::Ulaw).await.expect("the first is taken");
    answer(&call, 0).await;
    let second = Call::dial(lab.sip(), "5001", Codec::Ulaw).await.expect("the dialplan answers");
    lab.logged("OPERATOR has the caller").await;
    assert_eq!(second.state(), State::Up);
    second.hang_up().await;
    call.rtp.play(&prompt("vm-goodbye"));
    let uuid = hark.events.wait_for(1).await[0].json();
    let uuid = uuid["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
    let story = hark.story(uuid).await;
    assert!(story.iter().any(|event| event.contains("Thank you for calling. Goodbye.")), "{story:?}");
    assert_eq!(story.last().map(String::as_str), Some("call_ended"));
    call.hang_up().await;
    lab.stop().await;
    hark.stop().await;
}

/// Somebody to be connected to, in the lab's dialplan.
const PLACES: &str = r#"
    [[places]]
    name = "operator"
    say = "our operator"
    exten = "s"
    context = "operator"
    confirm = false
"#;

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_representative_is_connected_to_one() {
    let Some(dir) = installed() else { return };
    let data = tempfile::tempdir().expect("a directory");
    let script = data.path().join("script.toml");
    std::fs::write(&script, PLACES).expect("a script");
    let world = World::start(|config| {
        config.agent.sts_url = None;
        config.models.dir = dir;
        config.embedded.threads = 1;
        config.embedded.script = Some(script.display().to_string());
    })
    .await;
    let call = Call::dial(world.lab.sip(), "5011", Codec::Ulaw).await.expect("it is answered");
    answer(&call, 0).await;
    // "... waiting to speak with a representative."
    call.rtp.play(&prompt("queue-callswaiting"));
    operator_answers(&world.lab, &call).await;
    let seen = world.hark.events.wait_for(1).await[0].json();
    let uuid = seen["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
    let story = world.hark.story(uuid).await;
    assert!(story.iter().any(|event| event.contains("I will connect you to our operator.")), "{story:?}");
    call.hang_up().await;
    world.stop().await;
}
