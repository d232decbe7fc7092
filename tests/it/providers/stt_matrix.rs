//! Every fault for every recogniser over WebSockets: alone it goes on or says why not, and where another stands by the call is saved.

use futures_util::future::join_all;
use hark::{
    agent::{
        Chain, Config,
        cascade::{Cascade, Services},
        service::Kind,
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Replaced, Role},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Fake, KEY, Peer, config, service,
    stt_vendors::{ALL, NOVA, REALTIME, VOSK, Vendor},
};
use crate::support::cascade::{Bench, context, speech};

/// Frames that the caller says.
const FRAMES: usize = 15;

/// A cascade with a vendor's ears, and others that stand by where that is wanted.
struct Ears {
    bench: Bench,
    vendor: Vendor,
    first: Fake,
    second: Fake,
}

impl Ears {
    async fn alone(vendor: Vendor) -> Self {
        Self::start(vendor, config(), false).await
    }

    /// Patient, but where patience is what is tested: the next one has no more time than the first.
    async fn with_spare(vendor: Vendor, trouble: &str) -> Self {
        let mut config = config();
        match trouble {
            "silence" => config.failover_after_ms = 1_000,
            "no handshake" | "no session" => config.connect_timeout_ms = 1_000,
            _ => {}
        }
        Self::start(vendor, config, true).await
    }

    async fn start(vendor: Vendor, config: Config, spare: bool) -> Self {
        let (first, second) = (Fake::start().await, Fake::start().await);
        let mut bench = Bench::start(config.clone(), None).await;
        let mut asr = vec![service(&vendor.at(&first.address), Kind::Stt)];
        asr.extend(spare.then(|| service(&VOSK.at(&second.address), Kind::Stt)));
        let (llm, tts) = (bench.llm.url.clone().into(), bench.tts.url.clone().into());
        let services = Services { asr: Chain::new(asr).unwrap(), llm, tts, greeting: None };
        bench.cascade = Cascade::start(context(config, Rate::R8K), services);
        Self { bench, vendor, first, second }
    }

    /// The next session with the first one.
    async fn session(&self) -> Peer {
        let mut peer = self.first.accept().await;
        self.vendor.begin(&mut peer).await;
        peer
    }

    fn say(&mut self) {
        self.bench.send(AgentInput::CallerSpeech(true));
        for frame in speech(160 * FRAMES, 9).0.chunks(160) {
            self.bench.audio(frame);
        }
    }

    /// Words come through `peer` and are understood.
    async fn understands(&mut self, peer: &mut Peer, text: &str, at: u64) {
        self.vendor.tell(peer, (self.vendor.last)(text, at)).await;
        assert_eq!(self.bench.transcript().await, (Role::User, text.to_owned()), "{}", self.vendor.service);
    }

    async fn replaced(&mut self) -> Replaced {
        loop {
            match self.bench.event().await.expect("an event") {
                AgentEvent::Replaced(replaced) => return replaced,
                AgentEvent::Failed(fault) => panic!("{}: {fault:?}", self.vendor.service),
                _ => {}
            }
        }
    }
}

/// All vendors at once: each has fakes of its own.
async fn each<F: Future<Output = ()>>(test: impl Fn(Vendor) -> F) {
    join_all(ALL.into_iter().map(test)).await;
}

/// What goes wrong with the first, and what it is called then.
const TROUBLES: [(&str, &str); 18] = [
    ("401 Unauthorized", "agent.stt.unauthorized"),
    ("402 Payment Required", "agent.stt.quota"),
    ("403 Forbidden", "agent.stt.unauthorized"),
    ("429 Too Many Requests\r\nRetry-After: 7", "agent.stt.quota"),
    ("500 Oh", "agent.stt.refused"),
    ("503 Busy", "agent.stt.refused"),
    ("reset before the handshake", "agent.stt.refused"),
    ("half a handshake", "agent.stt.refused"),
    ("no handshake", "agent.stt.refused"),
    ("no session", "agent.stt.failed"),
    ("an error that may pass", "agent.stt.failed"),
    ("an error for good", "agent.stt.refused"),
    ("reset", "agent.stt.failed"),
    ("garbage", "agent.stt.failed"),
    ("silence", "agent.stt.silent"),
    ("1008", "agent.stt.refused"),
    ("1011", "agent.stt.failed"),
    ("1013", "agent.stt.failed"),
];

/// Lets it happen; `false` where the vendor has no such. What is returned is to be kept.
async fn happens(ears: &mut Ears, trouble: &str) -> Option<Box<dyn std::any::Any>> {
    let vendor = ears.vendor;
    match trouble {
        "reset before the handshake" => {
            let stream = ears.first.raw().await;
            socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            return Some(Box::new(()));
        }
        "half a handshake" => {
            let mut stream = ears.first.raw().await;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 101 Switching").await.unwrap();
            return Some(Box::new(()));
        }
        "no handshake" => return Some(Box::new(ears.first.raw().await)),
        "no session" => {
            vendor.ready?;
            return Some(Box::new(ears.first.accept().await));
        }
        status if status.contains(' ') && status.as_bytes()[0].is_ascii_digit() => {
            ears.first.refuse(status, &json!({"error": format!("no luck with {KEY}")}).to_string()).await;
            return Some(Box::new(()));
        }
        _ => {}
    }
    let error = |last| (vendor.error)(last);
    let error = match trouble {
        "an error that may pass" => Some(error(false)?),
        "an error for good" => Some(error(true)?),
        _ => None,
    };
    let mut peer = ears.session().await;
    peer.audio(vendor.frame * 12).await;
    match (trouble, error) {
        (_, Some(error)) => peer.say(&error).await,
        ("reset", _) => {
            peer.reset();
            return Some(Box::new(()));
        }
        ("garbage", _) => {
            peer.garbage().await;
            return Some(Box::new(()));
        }
        ("silence", _) => {}
        (code, _) => peer.close(code.parse().unwrap(), &format!("why {KEY}")).await,
    }
    Some(Box::new(peer))
}

#[tokio::test]
async fn whatever_happens_to_any_of_them_the_next_one_hears_all_of_it() {
    each(async |vendor| {
        for (trouble, code) in TROUBLES {
            let mut ears = Ears::with_spare(vendor, trouble).await;
            ears.say();
            let Some(held) = happens(&mut ears, trouble).await else { continue };
            let mut second = ears.second.accept().await;
            VOSK.begin(&mut second).await;
            let what = format!("{}, {trouble}", vendor.service);
            assert_eq!(second.audio(320 * FRAMES).await, speech(160 * FRAMES, 9).1, "{what}: audio was lost");
            ears.bench.send(AgentInput::CallerSpeech(false));
            VOSK.tell(&mut second, (VOSK.last)("hello there", 0)).await;
            let replaced = ears.replaced().await;
            assert_eq!(replaced.fault.code, code, "{what}: {replaced:?}");
            assert!(!format!("{replaced:?}").contains(KEY), "{what}: {replaced:?}");
            assert_eq!(ears.bench.transcript().await, (Role::User, "hello there".to_owned()), "{what}");
            drop(held);
        }
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_vendors_words_and_for_good_where_asking_again_is_useless() {
    each(async |vendor| {
        for (status, code) in [
            ("400 Bad Request", "agent.stt.failed"),
            ("401 Unauthorized", "agent.stt.unauthorized"),
            ("402 Payment Required", "agent.stt.quota"),
            ("403 Forbidden", "agent.stt.unauthorized"),
            ("429 Too Many Requests\r\nRetry-After: 3600", "agent.stt.quota"),
        ] {
            let mut ears = Ears::alone(vendor).await;
            ears.first.refuse(status, &json!({"error": {"message": format!("no luck with {KEY}")}}).to_string()).await;
            let fault = ears.bench.failed().await;
            assert_eq!(fault.code, code, "{}: {fault:?}", vendor.service);
            // whoever has no key has none to repeat
            let words = if vendor.auth.is_some() { "no luck with ***" } else { "no luck with " };
            assert!(fault.message.contains(words) && fault.message.contains(&status[..3]), "{fault:?}");
            assert!(vendor.auth.is_none() || !fault.message.contains(KEY), "{fault:?}");
        }
    })
    .await;
}

/// Codes of a vendor's own, and whether they are for good.
fn codes(vendor: &Vendor) -> Vec<(u16, bool)> {
    let all = [(1001, false), (1008, true), (1011, false), (1012, false), (1013, false)];
    let own: &[(u16, bool)] = match vendor.path {
        "/v3/ws" => &[
            (3005, false),
            (3006, true),
            (3007, true),
            (3008, false),
            (3009, false),
            (4001, true),
            (4002, true),
            (4029, false),
            (4031, false),
            (4100, true),
            (4101, true),
            (4102, false),
        ],
        "/v2" => &[(4001, true), (4003, true), (4004, true), (4005, true), (4006, false)],
        _ => &[],
    };
    [&all, own].concat()
}

#[tokio::test]
async fn every_code_of_a_close_is_tried_again_or_for_good() {
    each(async |vendor| {
        for (code, is_final) in codes(&vendor) {
            let mut ears = Ears::alone(vendor).await;
            let mut peer = ears.session().await;
            peer.close(code, &format!("why {KEY}")).await;
            if is_final {
                let fault = ears.bench.failed().await;
                let words = if vendor.auth.is_some() { "why ***" } else { "why " };
                assert!(fault.message.contains(&format!("code {code}: \"{words}")), "{}: {fault:?}", vendor.service);
            } else {
                let mut peer = ears.session().await;
                ears.understands(&mut peer, "still here", 0).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_error_comes_at_any_point_of_a_session_and_the_next_session_hears_on() {
    each(async |vendor| {
        let Some(error) = (vendor.error)(false) else { return };
        for point in ["before it begins", "before audio", "within a word", "behind a turn"] {
            let mut ears = Ears::alone(vendor).await;
            let mut peer = ears.first.accept().await;
            vendor.greeted(&mut peer).await;
            if point != "before it begins" {
                if let Some(ready) = vendor.ready {
                    peer.say(&serde_json::from_str(ready).unwrap()).await;
                }
                if point != "before audio" {
                    ears.say();
                    peer.audio(vendor.frame * 12).await;
                    vendor.tell(&mut peer, (vendor.partial)("stil")).await;
                }
                if point == "behind a turn" {
                    ears.understands(&mut peer, "one", 0).await;
                }
            }
            peer.say(&error).await;
            let mut peer = ears.session().await;
            ears.understands(&mut peer, "still here", 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_error_that_deepgram_goes_on_after_is_told() {
    let mut ears = Ears::alone(NOVA).await;
    let mut peer = ears.session().await;
    peer.say(&json!({"type": "Error", "variant": "SchemaError", "description": "odd", "message": KEY})).await;
    let fault = ears.bench.degraded().await;
    assert!(fault.message.contains("odd ***"), "{fault:?}");
    ears.understands(&mut peer, "still here", 0).await;
}

#[tokio::test]
async fn texts_that_are_cut_inside_of_characters_are_whole() {
    each(async |vendor| {
        let mut ears = Ears::alone(vendor).await;
        let mut peer = ears.session().await;
        let text = "Gr\u{fc}\u{df}e, \u{4f60}\u{597d} \u{1f642} an Renée";
        for message in (vendor.partial)("Gr\u{fc}").into_iter().chain((vendor.last)(text, 0)) {
            peer.crumbs(&message).await;
        }
        assert_eq!(ears.bench.transcript().await, (Role::User, text.to_owned()), "{}", vendor.service);
    })
    .await;
}

#[tokio::test]
async fn hundreds_of_messages_at_once_and_minutes_of_speech_at_once_do_no_harm() {
    each(async |vendor| {
        let mut ears = Ears::alone(vendor).await;
        let mut peer = ears.session().await;
        // what the caller said within a minute, at once: the newest is kept
        ears.bench.send(AgentInput::CallerSpeech(true));
        for frame in speech(160 * 3_000, 9).0.chunks(160) {
            ears.bench.audio(frame);
        }
        peer.audio(vendor.frame * 100).await;
        let text = |message: Value| Message::text(message.to_string());
        let partials = (0..300).flat_map(|n| (vendor.partial)(&format!("word {n}")));
        let turns = (0..20).flat_map(|at| (vendor.last)(&format!("turn{at}."), at));
        // read at the same time, or the socket's buffers are full
        peer.burst(partials.chain(turns).map(text)).await;
        let mut told = String::new();
        while !told.contains("turn19.") {
            told += &ears.bench.transcript().await.1;
            told.push(' ');
        }
        let expected: Vec<_> = (0..20).map(|at| format!("turn{at}.")).collect();
        assert_eq!(told.split_whitespace().collect::<Vec<_>>(), expected, "{}", vendor.service);
    })
    .await;
}

#[tokio::test]
async fn openais_texts_come_twice_late_and_in_any_order_and_are_told_once_and_in_theirs() {
    let mut ears = Ears::alone(REALTIME).await;
    let mut peer = ears.session().await;
    let [committed, completed] = &(REALTIME.last)("one", 0)[..] else { panic!() };
    let [next_committed, next_completed] = &(REALTIME.last)("two", 1)[..] else { panic!() };
    for message in [committed, next_committed, next_completed, completed, completed, next_completed] {
        peer.say(message).await;
    }
    let mut told = ears.bench.transcript().await.1;
    if told == "one" {
        told = format!("{told} {}", ears.bench.transcript().await.1);
    }
    assert_eq!(told, "one two");
    ears.understands(&mut peer, "three", 2).await;
}
