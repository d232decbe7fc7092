//! Recognisers that stand in for one another: whatever happens to the first, the caller's words are complete, and come once.

use hark::{
    agent::{
        Chain, Config, Context,
        cascade::{Cascade, Services},
        service::Kind,
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Replaced, Role},
};
use serde_json::json;

use super::{
    Fake, KEY, Peer, config, service,
    stt_vendors::{NOVA, VOSK, Vendor},
};
use crate::support::{
    cascade::{Bench, context, speech},
    connector::{nobody, soon},
};

/// A cascade with two vendors' ears.
struct Ears {
    bench: Bench,
    ctx: Context,
    first: Fake,
    second: Fake,
}

impl Ears {
    async fn start() -> Self {
        Self::with(Config { failover_after_ms: 250, ..config() }).await
    }

    async fn with(config: Config) -> Self {
        let (first, second) = (Fake::start().await, Fake::start().await);
        let (bench, ctx) = (Bench::start(config.clone(), None).await, context(config, Rate::R8K));
        let mut ears = Self { bench, ctx, first, second };
        ears.call();
        ears
    }

    /// Another call of the same process.
    fn call(&mut self) {
        let first = NOVA.at(&self.first.address);
        self.call_with(&first);
    }

    fn call_with(&mut self, first: &str) {
        let asr = [first, &VOSK.at(&self.second.address)].map(|text| service(text, Kind::Stt));
        let services = Services {
            asr: Chain::new(asr.into()).unwrap(),
            llm: self.bench.llm.url.clone().into(),
            tts: self.bench.tts.url.clone().into(),
            greeting: None,
        };
        self.bench.cascade = Cascade::start(self.ctx.clone(), services);
    }

    /// The caller begins to speak.
    fn begin(&mut self) {
        self.bench.send(AgentInput::CallerSpeech(true));
        self.say(0, 15);
    }

    fn say(&mut self, from: usize, frames: usize) {
        for frame in said(from + frames).0.chunks(160).skip(from) {
            self.bench.audio(frame);
        }
    }

    /// The next event of a service that was replaced, told without the key.
    async fn replaced(&mut self) -> Replaced {
        loop {
            match self.bench.event().await.expect("an event") {
                AgentEvent::Replaced(replaced) => {
                    assert!(!format!("{replaced:?}").contains(KEY), "{replaced:?}");
                    return replaced;
                }
                AgentEvent::Failed(fault) => panic!("{fault:?}"),
                _ => {}
            }
        }
    }

    async fn first(&self) -> Peer {
        taken(&self.first, &NOVA).await
    }

    async fn second(&self) -> Peer {
        taken(&self.second, &VOSK).await
    }
}

/// What the caller says, as samples and as bytes.
fn said(frames: usize) -> (Vec<i16>, Vec<u8>) {
    speech(160 * frames, 9)
}

async fn taken(fake: &Fake, vendor: &Vendor) -> Peer {
    let mut peer = fake.accept().await;
    vendor.begin(&mut peer).await;
    peer
}

#[tokio::test]
async fn whatever_happens_to_the_first_the_next_hears_all_of_it() {
    for (trouble, code) in [
        ("401 Unauthorized", "agent.stt.unauthorized"),
        ("402 Payment Required", "agent.stt.quota"),
        ("429 Too Many Requests\r\nRetry-After: 7", "agent.stt.quota"),
        ("503 Busy", "agent.stt.refused"),
        ("nobody", "agent.stt.refused"),
        ("half a handshake", "agent.stt.refused"),
        ("reset", "agent.stt.failed"),
        ("1011", "agent.stt.failed"),
        ("garbage", "agent.stt.failed"),
    ] {
        let mut ears = Ears::start().await;
        let (url, _socket) = nobody();
        match trouble {
            "nobody" => {
                ears.call_with(&format!("deepgram:nova-3?base_url=ws://{}", url.authority()));
                ears.begin();
            }
            "half a handshake" => {
                drop(ears.first.raw().await);
                ears.begin();
            }
            "reset" | "1011" | "garbage" => {
                let mut peer = ears.first().await;
                ears.begin();
                peer.audio(160 * 12).await;
                match trouble {
                    "reset" => peer.reset(),
                    "garbage" => peer.garbage().await,
                    code => peer.close(code.parse().unwrap(), KEY).await,
                }
            }
            status => {
                ears.begin();
                ears.first.refuse(status, &json!({"err_msg": format!("no luck with {KEY}")}).to_string()).await;
            }
        }
        let mut second = ears.second().await;
        let heard = second.audio(320 * 15).await;
        assert_eq!(heard, said(15).1, "{trouble}: audio was lost");
        let replaced = ears.replaced().await;
        assert_eq!(replaced.fault.code, code, "{trouble}: {replaced:?}");
        assert!(replaced.service.starts_with("deepgram:nova-3") && replaced.by.starts_with("vosk:"), "{replaced:?}");
        ears.bench.send(AgentInput::CallerSpeech(false));
        VOSK.tell(&mut second, (VOSK.last)("hello there", 0)).await;
        assert_eq!(ears.bench.transcript().await, (Role::User, "hello there".to_owned()), "{trouble}");
    }
}

#[tokio::test]
async fn words_that_were_told_are_not_told_again() {
    let mut ears = Ears::start().await;
    let mut first = ears.first().await;
    ears.begin();
    first.audio(160 * 12).await;
    NOVA.tell(&mut first, vec![(NOVA.last)("I'd like to", 0)[0].clone()]).await;
    NOVA.tell(&mut first, (NOVA.partial)("book")).await;
    first.reset();
    let mut second = ears.second().await;
    ears.say(15, 10);
    assert_eq!(second.audio(320 * 25).await, said(25).1, "from the beginning of the utterance");
    VOSK.tell(&mut second, (VOSK.partial)("i would like")).await;
    VOSK.tell(&mut second, (VOSK.partial)("i would like to book a")).await;
    ears.bench.send(AgentInput::CallerSpeech(false));
    VOSK.tell(&mut second, (VOSK.last)("i would like to book a table", 0)).await;
    assert_eq!(ears.bench.transcript().await, (Role::User, "I'd like to book a table".to_owned()));
    // a turn that is over is not heard again
    ears.begin();
    ears.bench.send(AgentInput::CallerSpeech(false));
    VOSK.tell(&mut second, (VOSK.last)("book a table", 1)).await;
    assert_eq!(ears.bench.transcript().await, (Role::User, "book a table".to_owned()));
}

#[tokio::test]
async fn one_that_is_silent_for_ever_is_replaced_once_the_next_has_words() {
    let mut ears = Ears::start().await;
    let mut first = ears.first().await;
    ears.begin();
    first.audio(160 * 12).await;
    ears.bench.send(AgentInput::CallerSpeech(false));
    let mut second = ears.second().await;
    // the end of speech comes behind the audio
    assert_eq!(second.audio(320 * 15).await, said(15).1);
    assert_eq!(second.text().await, VOSK.finalize.unwrap());
    assert_eq!(ears.ctx.outgoing.standings().shown()[0].failures, 0, "it may have been noise");
    VOSK.tell(&mut second, (VOSK.last)("hello", 0)).await;
    assert_eq!(ears.replaced().await.fault.code, "agent.stt.silent");
    assert_eq!(ears.bench.transcript().await, (Role::User, "hello".to_owned()));
    assert_eq!(ears.ctx.outgoing.standings().shown()[0].failures, 1);
}

#[tokio::test]
async fn noise_ends_no_call_and_accuses_nobody() {
    let mut ears = Ears::start().await;
    let _first = ears.first().await;
    ears.begin();
    ears.bench.send(AgentInput::CallerSpeech(false));
    let mut second = ears.second().await;
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    ears.begin();
    VOSK.tell(&mut second, (VOSK.last)("now it is me", 0)).await;
    ears.bench.send(AgentInput::CallerSpeech(false));
    assert_eq!(ears.bench.transcript().await, (Role::User, "now it is me".to_owned()));
    assert!(ears.ctx.outgoing.standings().shown().iter().all(|service| service.failures == 0));
}

#[tokio::test]
async fn when_all_have_failed_the_call_hears_of_the_last() {
    let mut ears = Ears::start().await;
    ears.first.refuse("401 Unauthorized", "{}").await;
    assert_eq!(ears.replaced().await.fault.code, "agent.stt.unauthorized");
    ears.second.refuse("401 Unauthorized", "{}").await;
    let fault = ears.bench.failed().await;
    assert!(fault.message.contains("401"), "{fault:?}");
}

#[tokio::test]
async fn new_calls_leave_it_alone_and_come_back_when_it_has_recovered() {
    let mut ears = Ears::with(Config { breaker_open_s: 1, ..config() }).await;
    ears.first.refuse("401 Unauthorized", "{}").await;
    drop(ears.second().await);
    ears.call();
    // nobody asks the first
    let mut second = ears.second().await;
    ears.begin();
    VOSK.tell(&mut second, (VOSK.last)("hello", 0)).await;
    ears.bench.send(AgentInput::CallerSpeech(false));
    assert_eq!(ears.bench.transcript().await.1, "hello");
    let state = |ears: &Ears| ears.ctx.outgoing.standings().shown()[0].clone();
    assert_eq!(state(&ears).state, "open");
    let left = state(&ears).retry_in_ms.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(left + 20)).await;
    assert_eq!(state(&ears).state, "half_open");
    ears.call();
    let mut first = ears.first().await;
    ears.begin();
    NOVA.tell(&mut first, (NOVA.last)("back", 0)).await;
    ears.bench.send(AgentInput::CallerSpeech(false));
    assert_eq!(ears.bench.transcript().await.1, "back");
    assert_eq!((state(&ears).state, state(&ears).consecutive_failures), ("closed", 0));
    assert_eq!(state(&ears).calls, 1);
    ears.bench.send(AgentInput::Finish);
    soon("the end", async { while ears.bench.event().await.is_some() {} }).await;
}
