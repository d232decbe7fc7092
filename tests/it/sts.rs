//! The speech-to-speech contract over a WebSocket (contract sections 4.1 and 11.4).

mod connecting;

use std::time::Duration;

use hark::{
    agent::sts::Sts,
    audio::Rate,
    call::{AgentEvent, AgentInput, Link as _, Sent},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::support::{
    agent_call::{AgentCall, UUID, context, set, speech},
    sts_server::{Mode, Session, Step, StsServer, audio_message},
};

const R8K: Rate = Rate::R8K;

fn call(server: &StsServer) -> AgentCall<Sts> {
    AgentCall::new(Sts::start(server.url(), context(R8K)))
}

async fn script(steps: Vec<Step>) -> (StsServer, AgentCall<Sts>) {
    let server = StsServer::start(Mode::Script(steps)).await;
    let call = call(&server);
    (server, call)
}

async fn open(call: &mut AgentCall<Sts>, server: &StsServer) -> std::sync::Arc<Session> {
    let session = call.during(server.session(0)).await;
    call.during(session.until(|record| !record.texts.is_empty())).await;
    session
}

#[tokio::test]
async fn init_comes_first_and_once() {
    let (server, mut call) = script(vec![]).await;
    // Spoken before the connection is up: must come behind init all the same.
    call.say(R8K, &speech(160));
    let session = open(&mut call, &server).await;
    call.say(R8K, &speech(1600));
    let record = call.during(session.until(|record| record.audio.len() >= 1760)).await;
    assert_eq!(record.texts[0], format!(r#"{{"type":"init","uuid":"{UUID}"}}"#));
    assert_eq!((record.kinds(), record.faults), (vec!["init".to_owned()], Vec::<String>::new()));
}

#[tokio::test]
async fn the_callers_audio_arrives_bit_exact_in_320_bytes_of_base64() {
    let (server, mut call) = script(vec![]).await;
    let session = open(&mut call, &server).await;
    let said = speech(160 * 100);
    for piece in said.chunks(1600) {
        call.say(R8K, piece);
        let so_far = session.record().audio.len();
        call.during(session.until(|record| record.audio.len() > so_far)).await;
    }
    let record = call.during(session.until(|record| record.audio.len() >= said.len())).await;
    assert_eq!(record.audio, said);
    assert!(record.audio_sizes.iter().all(|size| *size == 320), "{:?}", record.audio_sizes);
    assert_eq!(record.texts[1], audio_message(&crate::support::sts_server::pcm(&said[..160])));
    assert_eq!(record.faults, Vec::<String>::new());
}

#[tokio::test]
async fn messages_of_40_ms_lose_nothing_and_keep_the_order() {
    let server = StsServer::start(Mode::Script(vec![])).await;
    let mut context = context(R8K);
    set(&mut context, |config| config.message_ms = 40);
    let mut call = AgentCall::new(Sts::start(server.url(), context));
    let session = open(&mut call, &server).await;
    let said = speech(160 * 7);
    for (nth, piece) in said.chunks(160).enumerate() {
        call.say(R8K, piece);
        if nth == 2 {
            assert!(matches!(call.press('5'), Sent::Whole | Sent::Held));
        }
    }
    let record = call.during(session.until(|record| record.audio.len() >= 160 * 7)).await;
    assert_eq!((record.audio.as_slice(), &record.audio_sizes[..]), (&said[..], &[640, 320, 640, 640][..]));
    assert_eq!(record.digits, "5");
    // the half that waits when the caller goes
    call.say(R8K, &said[..160]);
    call.finish();
    let record = call.during(session.until(|record| record.audio.len() >= 160 * 8)).await;
    assert_eq!(record.audio_sizes.last(), Some(&320));
}

#[tokio::test]
async fn digits_keep_their_place_among_the_audio() {
    let (server, mut call) = script(vec![Step::Digits(16), Step::Transcript("agent", "all of them")]).await;
    let session = open(&mut call, &server).await;
    for digit in "0123456789*#ABCD".chars() {
        call.say(R8K, &speech(160));
        assert!(matches!(call.press(digit), Sent::Whole | Sent::Held));
    }
    let record = call.during(session.until(|record| record.digits.len() == 16)).await;
    assert_eq!(record.digits, "0123456789*#ABCD");
    call.until(|call| call.others() == ["agent: all of them"]).await;
    assert_eq!(record.texts[2], r#"{"type":"dtmf_digit","digit":"0"}"#);
    assert_eq!(record.faults, Vec::<String>::new());
}

#[tokio::test]
async fn speech_of_any_size_arrives_whole() {
    let said = speech(8_001);
    for size in [1, 3, 319, 320, 7_962, 16_002] {
        let (_server, mut call) = script(vec![Step::Speak(said.clone(), size), Step::Close(None)]).await;
        call.end().await;
        assert_eq!(call.utterances(), [(1, said.clone())], "{size} bytes a message");
        assert_eq!(call.others(), ["end 1", "hangup"], "{size} bytes a message");
    }
}

#[tokio::test]
async fn a_burst_of_minutes_arrives_whole() {
    let said = speech(8_000 * 120);
    let server = StsServer::start(Mode::Burst(said.clone())).await;
    let mut call = call(&server);
    while call.heard() < said.len() {
        let events = call.events.len();
        // A thousand at a time: adding up after each of 6,000 would take longer than the call.
        call.until(|call| call.events.len() >= events + 1_000 || call.heard() >= said.len()).await;
    }
    assert!(call.audio() == said);
}

#[tokio::test]
async fn one_message_of_minutes_comes_in_pieces() {
    let said = speech(8_000 * 60 + 1);
    let (_server, mut call) = script(vec![Step::Speak(said.clone(), usize::MAX), Step::Close(None)]).await;
    call.end().await;
    assert!(call.audio() == said);
    let longest =
        call.events.iter().map(|event| if let AgentEvent::Audio(_, samples) = event { samples.len() } else { 0 });
    assert!(longest.max().unwrap() <= 8_000, "a piece is longer than a second");
}

#[tokio::test]
async fn what_is_echoed_comes_back_bit_exact() {
    let server = StsServer::start(Mode::Echo).await;
    let mut call = call(&server);
    let said = speech(160 * 50);
    call.say(R8K, &said);
    call.until(|call| call.audio().len() >= said.len()).await;
    assert_eq!(call.audio(), said);
}

#[tokio::test]
async fn a_wideband_leg_is_resampled_at_the_edge_both_ways() {
    let server = StsServer::start(Mode::Echo).await;
    let mut call = AgentCall::new(Sts::start(server.url(), context(Rate::R16K)));
    let session = call.during(server.session(0)).await;
    // 400 Hz: far inside both bands, so only level and length can change.
    let tone: Vec<i16> =
        (0..32_000u16).map(|n| ((f64::from(n) * 0.05 * std::f64::consts::PI).sin() * 8_000.0) as i16).collect();
    for piece in tone.chunks(3_200) {
        call.say(Rate::R16K, piece);
        let so_far = session.record().audio.len();
        call.during(session.until(|record| record.audio.len() > so_far)).await;
    }
    call.until(|call| call.audio().len() >= 31_000).await;
    let level =
        |samples: &[i16]| (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt();
    let echoed = call.audio();
    let (sent, back) = (level(&tone), level(&echoed[1_000..30_000]));
    assert!((back / sent - 1.0).abs() < 0.02, "level {sent} became {back}");
    let record = session.record();
    assert!(record.audio_sizes.iter().all(|size| *size == 320) && record.audio.len() >= 15_800);
}

#[tokio::test]
async fn an_interruption_begins_a_new_utterance_and_is_idle_safe() {
    let said = speech(320);
    let steps = vec![
        Step::Interruption,
        Step::Speak(said.clone(), 320),
        Step::Interruption,
        Step::Interruption,
        Step::Speak(said.clone(), 320),
        Step::Close(None),
    ];
    let (_server, mut call) = script(steps).await;
    call.end().await;
    assert_eq!(call.utterances(), [(1, said.clone()), (2, said)]);
    assert_eq!(call.others(), ["interruption", "interruption", "interruption", "end 2", "hangup"]);
}

#[tokio::test]
async fn half_a_sample_before_an_interruption_does_not_shift_what_follows() {
    let said = speech(160);
    let half = Step::Text(audio_message(&[1, 2, 3]));
    let (_server, mut call) =
        script(vec![half, Step::Interruption, Step::Speak(said.clone(), 320), Step::Close(None)]).await;
    call.end().await;
    assert_eq!(call.utterances(), [(1, vec![0x0201]), (2, said)]);
}

#[tokio::test]
async fn transcripts_are_reported_verbatim_and_useless_ones_ignored() {
    let steps = vec![
        Step::Transcript("user", " Hello,\tworld \"1\" ✓"),
        Step::Transcript("agent", "Hi\nthere"),
        Step::Transcript("system", "no"),
        Step::Text(r#"{"type":"transcript","role":"user"}"#.to_owned()),
        Step::Text(r#"{"type":"transcript","role":"user","text":null}"#.to_owned()),
        Step::Text(r#"{"type":"brand_new","audio":{"deep":[1,2,3]}}"#.to_owned()),
        Step::Close(Some((1000, "bye"))),
    ];
    let (_server, mut call) = script(steps).await;
    call.end().await;
    assert_eq!(call.others(), ["user:  Hello,\tworld \"1\" ✓", "agent: Hi\nthere", "hangup"]);
}

#[tokio::test]
async fn an_error_without_close_fails_only_if_nothing_follows() {
    let server = StsServer::start(Mode::Script(vec![Step::Error("no key\u{7}")])).await;
    let mut context = context(R8K);
    set(&mut context, |config| config.silent_after_error_ms = 150);
    let mut call = AgentCall::new(Sts::start(server.url(), context.clone()));
    call.end().await;
    assert_eq!(call.others(), ["degraded agent.sts.error", "failed agent.sts.silent"]);
    assert_eq!(call.failure(), "nothing came for 0.15 s after its error: no key\\u{7}");

    let steps = vec![Step::Error("tool failed"), Step::Error("again"), Step::Speak(speech(160), 320), Step::Heard(160)];
    let server = StsServer::start(Mode::Script([steps, vec![Step::Close(None)]].concat())).await;
    let mut call = AgentCall::new(Sts::start(server.url(), context));
    call.until(|call| !call.audio().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    call.say(R8K, &speech(160));
    call.end().await;
    assert_eq!(call.others(), ["degraded agent.sts.error", "restored", "end 1", "hangup"]);
}

#[tokio::test]
async fn an_error_while_the_agent_still_speaks_waits_until_it_has_been_heard_out() {
    // 1 s of speech at once, then an error: longer than the patience, but nothing is amiss before the speech is over.
    let steps = vec![Step::Speak(speech(8_000), 320), Step::Error("late")];
    let server = StsServer::start(Mode::Script(steps)).await;
    let mut context = context(R8K);
    set(&mut context, |config| config.silent_after_error_ms = 100);
    let mut call = AgentCall::new(Sts::start(server.url(), context));
    let begun = std::time::Instant::now();
    call.end().await;
    assert_eq!(call.others(), ["degraded agent.sts.error", "end 1", "failed agent.sts.silent"]);
    assert!(begun.elapsed() >= Duration::from_millis(1_050), "gave up after {:?}", begun.elapsed());
}

#[tokio::test]
async fn an_error_and_then_close_is_a_failure() {
    let (_server, mut call) = script(vec![Step::Error("provider lost"), Step::Close(None)]).await;
    call.end().await;
    assert_eq!(call.others(), ["degraded agent.sts.error", "failed agent.sts.error"]);
    assert_eq!(call.failure(), "provider lost (then it closed)");
}

#[tokio::test]
async fn close_codes_tell_an_end_from_a_failure() {
    for (close, expected) in [
        (None, "hangup"),
        (Some((1000, "")), "hangup"),
        (Some((1011, "boom")), "failed agent.sts.closed"),
        (Some((1001, "restart")), "failed agent.sts.closed"),
    ] {
        let (_server, mut call) = script(vec![Step::Close(close)]).await;
        call.end().await;
        assert_eq!(call.others(), [expected], "{close:?}");
    }
}

#[tokio::test]
async fn a_crash_is_a_failure_and_nothing_is_tried_again_within_the_call() {
    let (server, mut call) = script(vec![Step::Speak(speech(160), 320), Step::Heard(1_600), Step::Abort]).await;
    call.until(|call| !call.audio().is_empty()).await;
    call.say(R8K, &speech(1_600));
    call.end().await;
    assert_eq!(call.others(), ["end 1", "failed agent.sts.lost"]);
    call.say(R8K, &speech(1_600));
    assert!(matches!(call.press('1'), Sent::Whole));
    assert_eq!(server.session_count(), 1);
}

#[tokio::test]
async fn binary_broken_base64_and_text_that_is_no_json_are_left_out() {
    let said = speech(160);
    let steps = vec![
        Step::Binary(vec![7; 320]),
        Step::Text(r#"{"type":"audio","audio":"AAA*"}"#.to_owned()),
        Step::Text(r#"{"type":"audio","audio":"AA\"AA"}"#.to_owned()),
        Step::Text(r#"{"type":"audio","audio":7}"#.to_owned()),
        Step::Text(r#"{"type":"audio"}"#.to_owned()),
        Step::Text("hello".to_owned()),
        Step::Text(String::new()),
        Step::Text("[".repeat(5_000)),
        Step::Speak(said.clone(), 320),
        Step::Close(None),
    ];
    let (_server, mut call) = script(steps).await;
    call.end().await;
    assert_eq!(call.utterances(), [(1, said)]);
    assert_eq!(call.others(), ["end 1", "hangup"]);
}

#[tokio::test]
async fn thousands_of_useless_messages_do_not_hide_the_useful_one() {
    let mut steps = vec![Step::Text(r#"{"type":"ping"}"#.to_owned()); 5_000];
    steps.push(Step::Transcript("agent", "still here"));
    steps.push(Step::Close(None));
    let (_server, mut call) = script(steps).await;
    call.end().await;
    assert_eq!(call.others(), ["agent: still here", "hangup"]);
}

#[tokio::test]
async fn a_message_of_50_mb_ends_the_session_with_a_reason() {
    let endless = format!(r#"{{"type":"transcript","role":"agent","text":"{}"}}"#, "x".repeat(50_000_000));
    let (_server, mut call) = script(vec![Step::Text(endless)]).await;
    call.end().await;
    assert_eq!(call.others(), ["failed agent.sts.protocol"]);
    assert!(call.failure().contains("too long"), "{}", call.failure());
}

#[tokio::test]
async fn an_endless_transcript_is_cut() {
    let endless = format!(r#"{{"type":"transcript","role":"agent","text":"{}"}}"#, "ü".repeat(1_000_000));
    let (_server, mut call) = script(vec![Step::Text(endless), Step::Close(None)]).await;
    call.end().await;
    let [AgentEvent::Transcript { text, .. }, _] = &call.events[..] else { panic!("{:?}", call.others()) };
    assert_eq!(text.len(), 64 * 1024);
}

#[tokio::test]
async fn a_service_that_stops_reading_loses_the_oldest_audio_and_no_digit() {
    let (server, mut call) = script(vec![Step::StopReading]).await;
    let session = call.during(server.session(0)).await;
    // As many frames as it takes until the kernel holds no more and our own second is full, too.
    let mut frames = 0;
    while call.agent.dropped() == 0 {
        call.say(R8K, &speech(160));
        frames += 1;
        assert!(frames < 100_000, "what waits has no bound");
        if frames % 100 == 0 {
            call.during(tokio::task::yield_now()).await;
        }
    }
    assert!(matches!(call.press('7'), Sent::Held));
    call.say(R8K, &speech(160 * 100));
    call.until(|call| call.others() == ["degraded agent.sts.slow"]).await;
    for _ in 0..15 {
        assert!(matches!(call.press('8'), Sent::Held));
    }
    assert!(matches!(call.press('9'), Sent::Refused(AgentInput::Dtmf(_))));
    session.step(Step::ResumeReading);
    call.until(|call| call.others().len() == 2).await;
    assert_eq!(call.others(), ["degraded agent.sts.slow", "restored"]);
    let lost = usize::try_from(call.agent.dropped()).unwrap();
    let expected = (frames + 100 - lost) * 160;
    let record = call.during(session.until(|record| record.audio.len() >= expected)).await;
    assert_eq!((record.audio.len(), record.digits.as_str()), (expected, "7888888888888888"));
    assert!((100..=200).contains(&lost), "{lost} frames were lost");
    assert_eq!(record.faults, Vec::<String>::new());
}

#[tokio::test]
async fn a_service_that_never_reads_again_is_given_up() {
    let server = StsServer::start(Mode::Script(vec![Step::Heard(160), Step::StopReading])).await;
    let mut context = context(R8K);
    set(&mut context, |config| config.silent_after_error_ms = 200);
    let mut call = AgentCall::new(Sts::start(server.url(), context));
    call.say(R8K, &speech(160));
    let session = open(&mut call, &server).await;
    call.during(session.until(|record| !record.audio.is_empty())).await;
    // The kernel takes some more each time it thinks again; the caller goes on speaking.
    for _ in 0..1_000 {
        call.say(R8K, &speech(160 * 10));
        let _ = tokio::time::timeout(Duration::from_millis(5), call.end()).await;
        if !call.open {
            break;
        }
    }
    let others = call.others();
    assert_eq!(others.first().map(String::as_str), Some("degraded agent.sts.slow"));
    assert_eq!(others.last().map(String::as_str), Some("failed agent.sts.stalled"), "{others:?}");
}

#[tokio::test]
async fn while_connecting_the_last_two_seconds_are_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let mut call = AgentCall::new(Sts::start(url.parse().unwrap(), context(R8K)));
    let said = speech(160 * 150);
    call.say(R8K, &said);
    assert!(matches!(call.press('5'), Sent::Held));
    let server = StsServer::on(listener, Mode::Script(vec![]), None);
    let session = call.during(server.session(0)).await;
    let record = call.during(session.until(|record| !record.digits.is_empty())).await;
    assert_eq!(record.audio, said[160 * 50..]);
    assert_eq!((call.agent.dropped(), call.others()), (50, vec![]));
}

#[tokio::test]
async fn after_the_caller_has_gone_late_transcripts_still_come() {
    let (server, mut call) = script(vec![]).await;
    let session = open(&mut call, &server).await;
    call.say(R8K, &speech(1_600));
    call.finish();
    let record = call.during(session.until(|record| record.audio.len() == 1_600)).await;
    assert_eq!(record.faults, Vec::<String>::new());
    call.end().await;
    session.until(|record| record.ended == Some(Some(1000))).await;
    assert_eq!(call.others(), Vec::<String>::new());

    let steps = vec![Step::Heard(160), Step::Transcript("user", "goodbye"), Step::Speak(speech(160), 320)];
    let (server, mut call) = script([steps, vec![Step::Close(None)]].concat()).await;
    open(&mut call, &server).await;
    call.say(R8K, &speech(160));
    call.finish();
    call.end().await;
    assert_eq!((call.others(), call.audio()), (vec!["user: goodbye".to_owned()], vec![]));
}

#[tokio::test]
async fn a_service_that_does_not_answer_the_close_is_left_after_two_seconds() {
    let (server, mut call) = script(vec![Step::Heard(160), Step::StopReading]).await;
    call.say(R8K, &speech(160));
    let session = open(&mut call, &server).await;
    call.during(session.until(|record| !record.audio.is_empty())).await;
    call.finish();
    let begun = std::time::Instant::now();
    call.end().await;
    let took = begun.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert_eq!(call.others(), Vec::<String>::new());
}

#[tokio::test]
async fn closing_says_goodbye() {
    let (server, mut call) = script(vec![]).await;
    let session = open(&mut call, &server).await;
    hark::call::Agent::close(call.agent).await;
    session.until(|record| record.ended == Some(Some(1000))).await;
}

#[tokio::test]
async fn what_is_not_read_waits() {
    let said = speech(16_000);
    let (server, mut call) = script(vec![Step::Heard(160), Step::Speak(said.clone(), 320), Step::Close(None)]).await;
    open(&mut call, &server).await;
    call.agent.pause_reading(true);
    call.say(R8K, &speech(160));
    let paused = tokio::time::timeout(Duration::from_millis(100), call.until(|call| !call.events.is_empty()));
    assert!(paused.await.is_err());
    call.agent.pause_reading(false);
    call.end().await;
    assert_eq!(call.audio(), said);
}

#[tokio::test]
async fn speech_after_a_cut_of_our_own_is_a_new_utterance() {
    let said = speech(160);
    let steps =
        vec![Step::Speak(said.clone(), 320), Step::Heard(160), Step::Speak(said.clone(), 320), Step::Close(None)];
    let (_server, mut call) = script(steps).await;
    call.until(|call| !call.audio().is_empty()).await;
    let _: Sent<_> = call.agent.send(AgentInput::Interrupt { utterance: None, heard: Duration::ZERO });
    call.say(R8K, &speech(160));
    call.end().await;
    assert_eq!(call.utterances(), [(1, said.clone()), (2, said)]);
}
