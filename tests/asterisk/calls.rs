//! Calls through the gateway: phone ↔ Asterisk ↔ Hark ↔ speech-to-speech service, and what the webhook hears of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::support::g711::Codec;
use crate::support::hark::{Hark, SECRET};
use crate::support::lab::Lab;
use crate::support::phone::Call;
use crate::support::receiver::Receiver;
use crate::support::sts_server::{Mode, Session, Step, StsServer};
use crate::support::{find, noise};

pub const SECOND: usize = 8_000;

/// Dial, and wait for the service's side of the call and its UUID.
pub async fn connect(lab: &Lab, service: &StsServer, extension: &str, codec: Codec) -> (Call, Arc<Session>, Uuid) {
    let number = service.session_count();
    let call = match Call::dial(lab.sip(), extension, codec).await {
        Ok(call) => call,
        Err(code) => panic!("{extension} refused with {code}\n{}", lab.log()),
    };
    let session = match tokio::time::timeout(Duration::from_secs(15), service.session(number)).await {
        Ok(session) => session,
        Err(_) => panic!("the service hears nothing of a call to {extension}\n{}", lab.log()),
    };
    let record = session.until(|record| record.texts.len() > 1).await;
    let init: serde_json::Value = serde_json::from_str(&record.texts[0]).expect("JSON");
    assert_eq!(init["type"], "init");
    let uuid = init["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
    (call, session, uuid)
}

pub async fn heard_by_phone(call: &Call, samples: &[i16]) {
    let there = |rtp: &crate::support::rtp::Rtp| find(&rtp.audio(), samples).is_some();
    assert!(call.rtp.wait(Duration::from_secs(10), there).await, "the phone never heard it whole");
}

/// Have the service say a second of its own, and wait until the phone has heard it sample by sample.
pub async fn speaks(session: &Session, call: &Call, seed: u32) {
    let words = Codec::Ulaw.heard(&noise(SECOND, seed));
    session.step(Step::Speak(words.clone(), 320));
    heard_by_phone(call, &words).await;
}

/// Words both ways, sample by sample.
pub async fn exact_both_ways(call: &Call, session: &Session, codec: Codec) {
    let said = noise(SECOND, 11);
    let heard = codec.heard(&said);
    call.rtp.play(&said);
    session.until(|record| find(&record.audio, &heard).is_some()).await;
    // already as the codec has it, or Asterisk's way of rounding would count
    let answer = codec.heard(&noise(2 * SECOND, 12));
    // all at once, in pieces that fit nothing
    session.step(Step::Speak(answer.clone(), 1_001));
    heard_by_phone(call, &answer).await;
}

/// Wait until the phone has heard so many samples that are no silence.
pub async fn greeted(lab: &Lab, call: &Call, samples: usize) {
    let talks = |rtp: &crate::support::rtp::Rtp| {
        rtp.audio().iter().filter(|sample| sample.unsigned_abs() > 100).count() >= samples
    };
    assert!(call.rtp.wait(Duration::from_secs(20), talks).await, "no greeting\n{}", lab.log());
}

/// One call of a narrow-band phone: words both ways sample by sample, digits, hang-up by the caller.
async fn exact(extensions: &[&str], codec: Codec) {
    let service = StsServer::start(Mode::Script(Vec::new())).await;
    let hark = Hark::start(Some(service.url().to_string())).await;
    let lab = hark.lab().await;
    for extension in extensions {
        let (call, session, uuid) = connect(&lab, &service, extension, codec).await;
        exact_both_ways(&call, &session, codec).await;

        call.rtp.dtmf("1#");
        let record = session.until(|record| record.digits == "1#").await;
        assert!(record.faults.is_empty(), "{:?}", record.faults);
        assert!(record.audio_sizes.iter().all(|&size| size == 320), "{:?}", record.audio_sizes);
        call.hang_up().await;
        session.until(|record| record.ended.is_some()).await;
        assert_eq!(
            hark.story(uuid).await,
            ["call_started", r#"dtmf_digit:{"digit":"1"}"#, r##"dtmf_digit:{"digit":"#"}"##, "call_ended"],
            "{extension}"
        );
        lab.idle().await;
    }
    lab.stop().await;
    hark.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ulaw_phone_is_exact_in_every_example() {
    exact(&["5001", "5002", "5006"], Codec::Ulaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alaw_phone_is_exact_in_every_example() {
    exact(&["5001", "5002"], Codec::Alaw).await;
}

/// `Dial()` without a codec of its own: raw G.711, told apart by listening.
#[tokio::test(flavor = "multi_thread")]
async fn raw_ulaw_is_exact() {
    exact(&["dial_ulaw"], Codec::Ulaw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_alaw_is_exact() {
    exact(&["dial_alaw"], Codec::Alaw).await;
}

/// A wideband leg and a service that speaks 8 kHz: the tone that is said arrives as that tone, and the answer too.
#[tokio::test(flavor = "multi_thread")]
async fn wideband_is_converted_both_ways() {
    let service = StsServer::start(Mode::Script(Vec::new())).await;
    let hark = Hark::start(Some(service.url().to_string())).await;
    let lab = hark.lab().await;
    let (call, session, uuid) = connect(&lab, &service, "5003", Codec::Slin16).await;
    call.rtp.play(&tone(1_013.0, 16_000.0, 16_000));
    call.rtp.played().await;
    let record = session.until(|record| loud(&record.audio) > 7_500).await;
    assert_tone(&record.audio, 1_013.0, 8_000.0);
    session.step(Step::Speak(tone(719.0, 8_000.0, SECOND), 320));
    assert!(call.rtp.wait(Duration::from_secs(5), |rtp| loud(&rtp.audio()) > 15_000).await);
    assert_tone(&call.rtp.audio(), 719.0, 16_000.0);
    call.hang_up().await;
    assert_eq!(hark.story(uuid).await, ["call_started", "call_ended"]);
    lab.stop().await;
    hark.stop().await;
}

pub fn tone(hertz: f64, rate: f64, samples: usize) -> Vec<i16> {
    let step = std::f64::consts::TAU * hertz / rate;
    (0..samples).map(|n| (8_000.0 * (step * n as f64).sin()) as i16).collect()
}

pub fn loud(samples: &[i16]) -> usize {
    // a sine is above a tenth of its peak for 94 % of the time
    samples.iter().filter(|sample| sample.unsigned_abs() > 800).count() * 100 / 93
}

/// The loud part is this tone at its level: almost all of its energy is at that frequency.
pub fn assert_tone(samples: &[i16], hertz: f64, rate: f64) {
    let begin = samples.iter().position(|s| s.unsigned_abs() > 800).expect("sound");
    let part = &samples[begin + 400..begin + 400 + rate as usize / 2];
    let step = std::f64::consts::TAU * hertz / rate;
    let (mut real, mut imaginary, mut energy) = (0.0, 0.0, 0.0);
    for (n, &sample) in part.iter().enumerate() {
        let sample = f64::from(sample);
        real += sample * (step * n as f64).cos();
        imaginary += sample * (step * n as f64).sin();
        energy += sample * sample;
    }
    let length = part.len() as f64;
    let amplitude = 2.0 * real.hypot(imaginary) / length;
    assert!((7_600.0..8_400.0).contains(&amplitude), "level {amplitude} at {hertz} Hz");
    let purity = amplitude * amplitude / 2.0 / (energy / length);
    assert!(purity > 0.98, "only {purity} of the energy is at {hertz} Hz");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_silences_the_agent_and_the_next_words_are_whole() {
    let service = StsServer::start(Mode::Script(Vec::new())).await;
    let hark = Hark::start(Some(service.url().to_string())).await;
    let lab = hark.lab().await;
    let (call, session, uuid) = connect(&lab, &service, "5001", Codec::Ulaw).await;
    let long = Codec::Ulaw.heard(&noise(20 * SECOND, 21));
    session.step(Step::Speak(long.clone(), 320));
    let begun = |rtp: &crate::support::rtp::Rtp| loud_noise(&rtp.audio()) > SECOND;
    assert!(call.rtp.wait(Duration::from_secs(10), begun).await);
    session.step(Step::Interruption);
    hark.events(uuid, |events| events.iter().any(|event| event["type"] == "interruption")).await;
    let next = Codec::Ulaw.heard(&noise(SECOND, 22));
    session.step(Step::Speak(next.clone(), 320));
    heard_by_phone(&call, &next).await;
    let audio = call.rtp.audio();
    let played = loud_noise(&audio) - loud_noise(&next);
    assert!(played < 3 * SECOND, "{played} samples of the interrupted words were played");
    // what was played of it is its beginning, without a gap (the last frame fades)
    let begin = find(&audio, &long[..SECOND]).expect("the beginning, whole");
    assert!(begin < audio.len());
    call.hang_up().await;
    assert_eq!(hark.story(uuid).await, ["call_started", "interruption", "call_ended"]);
    lab.stop().await;
    hark.stop().await;
}

fn loud_noise(samples: &[i16]) -> usize {
    samples.iter().filter(|sample| sample.unsigned_abs() > 100).count()
}

/// The phone is with the lab's operator: the dialplan went on.
pub async fn operator_answers(lab: &Lab, call: &Call) {
    lab.logged("OPERATOR has the caller").await;
    let before = call.rtp.audio().len();
    let tone = |rtp: &crate::support::rtp::Rtp| {
        let audio = rtp.audio();
        audio.len() > before + 1_600 && audio[before..].iter().any(|sample| sample.unsigned_abs() > 5_000)
    };
    assert!(call.rtp.wait(Duration::from_secs(5), tone).await, "no tone\n{}", lab.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_ends_the_call_and_the_dialplan_goes_on() {
    let service = StsServer::start(Mode::Script(Vec::new())).await;
    let hark = Hark::start(Some(service.url().to_string())).await;
    let lab = hark.lab().await;
    let (call, session, uuid) = connect(&lab, &service, "5001", Codec::Ulaw).await;
    session.step(Step::Close(Some((1_000, "bye"))));
    operator_answers(&lab, &call).await;
    assert_eq!(hark.story(uuid).await, ["call_started", "call_ended"]);
    call.hang_up().await;
    lab.stop().await;
    hark.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_crashes_and_the_caller_is_not_left_in_silence() {
    let service = StsServer::start(Mode::Script(Vec::new())).await;
    let hark = Hark::start(Some(service.url().to_string())).await;
    let lab = hark.lab().await;
    let (call, session, uuid) = connect(&lab, &service, "5002", Codec::Ulaw).await;
    let words = Codec::Ulaw.heard(&noise(SECOND / 2, 31));
    session.step(Step::Speak(words.clone(), 320));
    heard_by_phone(&call, &words).await;
    drop(service);
    session.step(Step::Abort);
    // words in progress and half a second of the apology, before anybody else has the caller
    let apology = |rtp: &crate::support::rtp::Rtp| loud_noise(&rtp.audio()) > loud_noise(&words) + SECOND / 2;
    assert!(call.rtp.wait(Duration::from_secs(15), apology).await, "no apology");
    assert!(!lab.log().contains("OPERATOR has the caller"), "that was not the apology");
    operator_answers(&lab, &call).await;
    assert_eq!(hark.story(uuid).await, ["call_started", "call_ended"]);
    call.hang_up().await;
    lab.stop().await;
    hark.stop().await;
}

/// `POST /call` by the dialplan, an override by the webhook, and the payload in the service's URL.
#[tokio::test(flavor = "multi_thread")]
async fn an_announced_call_is_served_as_the_webhook_says() {
    let plain = StsServer::start(Mode::Script(Vec::new())).await;
    let chosen = StsServer::start(Mode::Script(Vec::new())).await;
    let answer = json!({"sts_url": format!("{}?agent=7", chosen.url())});
    let hark = Hark::with(Receiver::overriding(answer).await, |config| {
        config.agent.sts_url = Some(plain.url().to_string());
    })
    .await;
    let lab = hark.lab().await;
    for extension in ["5004", "5005"] {
        let (call, session, uuid) = connect(&lab, &chosen, extension, Codec::Ulaw).await;
        let target = session.record().target;
        let expected = format!("/?agent=7&from=2000&to={extension}&uniqueid=hark-lab-");
        assert!(target.starts_with(&expected), "{target}");
        assert!(target.contains("&channel=PJSIP%2Fphone-") && target.ends_with("&recording=false"), "{target}");
        call.hang_up().await;
        let story = hark.story(uuid).await;
        assert!(story[0].starts_with("call_initiated:"), "{story:?}");
        assert_eq!(story[1..], ["call_started", "call_ended"]);
        lab.idle().await;
    }
    assert_eq!(plain.session_count(), 0);
    let secret = hark.events.seen()[0].header("x-avr-webhook-secret").map(str::to_owned);
    assert_eq!(secret.as_deref(), Some(SECRET));
    lab.stop().await;
    hark.stop().await;
}

/// Without any setting the embedded agent talks, reads digits back and says goodbye on `#`.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_agent_talks_and_says_goodbye() {
    let hark = Hark::start(None).await;
    let lab = hark.lab().await;
    let call = Call::dial(lab.sip(), "5002", Codec::Ulaw).await.expect("answered");
    let greeting = |rtp: &crate::support::rtp::Rtp| loud_noise(&rtp.audio()) > SECOND / 2;
    assert!(call.rtp.wait(Duration::from_secs(10), greeting).await, "no greeting");
    call.rtp.dtmf("#");
    operator_answers(&lab, &call).await;
    let uuid = hark.events.seen()[0].json()["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
    let story = hark.story(uuid).await;
    assert_eq!(story.first().map(String::as_str), Some("call_started"), "{story:?}");
    assert_eq!(story.last().map(String::as_str), Some("call_ended"), "{story:?}");
    call.hang_up().await;
    lab.stop().await;
    hark.stop().await;
}
