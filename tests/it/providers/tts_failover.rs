//! Voices that stand in for one another: what was heard is not said again, and nothing is left out.

use hark::{
    agent::{
        Chain, Config, Context,
        cascade::{Cascade, Services},
        service::Kind,
    },
    audio::Rate,
    call::{AgentEvent, AgentInput, Replaced, Say},
};
use serde_json::json;

use super::{
    Fake, KEY, Peer, config, service,
    tts_vendors::{AURA, CARTESIA, Vendor},
};
use crate::support::{
    cascade::{Bench, context},
    connector::nobody,
};

const SENTENCE: &str = "Your appointment is on Thursday at nine.";

/// A cascade with a vendor's voice and, if that fails, a connector's.
pub struct Talk {
    pub bench: Bench,
    ctx: Context,
    pub first: Fake,
    vendor: Vendor,
}

impl Talk {
    async fn start(vendor: Vendor) -> Self {
        Self::with(vendor, Config { failover_after_ms: 300, ..config() }).await
    }

    pub async fn with(vendor: Vendor, config: Config) -> Self {
        let (bench, ctx) = (Bench::start(config.clone(), None).await, context(config, Rate::R8K));
        let mut talk = Self { bench, ctx, first: Fake::start().await, vendor };
        let first = talk.vendor.at(&talk.first.address);
        talk.call(&first);
        talk
    }

    /// Another call of the same process.
    pub fn call(&mut self, first: &str) {
        let services = Services {
            asr: self.bench.asr.url.clone().into(),
            llm: self.bench.llm.url.clone().into(),
            tts: Chain::new(vec![service(first, Kind::Tts), self.bench.tts.url.clone().into()]).unwrap(),
            greeting: None,
        };
        self.bench.cascade = Cascade::start(self.ctx.clone(), services);
    }

    pub fn say(&mut self, text: &str) {
        self.bench.send(AgentInput::Say(Say { text: text.to_owned(), protect: false }));
    }

    pub async fn first(&self) -> Peer {
        let mut peer = self.first.accept().await;
        self.vendor.begin(&mut peer).await;
        peer
    }

    /// The samples of the next utterance, and who was replaced meanwhile.
    pub async fn heard(&mut self) -> (Vec<i16>, Vec<Replaced>) {
        let (mut samples, mut replaced) = (Vec::new(), Vec::new());
        loop {
            match self.bench.event().await.expect("an utterance") {
                AgentEvent::Audio(_, more) => samples.extend(more),
                AgentEvent::Replaced(one) => replaced.push(one),
                AgentEvent::AudioEnd(id) => {
                    self.bench.send(AgentInput::Played(id));
                    return (samples, replaced);
                }
                AgentEvent::Failed(fault) => panic!("{fault:?}"),
                _ => {}
            }
        }
    }

    /// The connector is asked for `text` and speaks so many samples of two.
    pub async fn second(&mut self, text: &str, samples: usize) {
        let mut request = self.bench.tts.request().await;
        assert_eq!(request.json().await["text"], text);
        request.answer(&[&[2, 0].repeat(samples)]).await;
    }
}

#[tokio::test]
async fn a_sentence_of_which_nothing_was_heard_is_said_by_the_next() {
    for (trouble, code) in [
        ("401 Unauthorized", "agent.tts.unauthorized"),
        ("402 Payment Required", "agent.tts.quota"),
        ("429 Too Many Requests\r\nRetry-After: 2", "agent.tts.quota"),
        ("503 Busy", "agent.tts.failed"),
        ("nobody", "agent.tts.refused"),
        ("reset", "agent.tts.broken"),
        ("silence", "agent.tts.timeout"),
        ("nothing", "agent.tts.silent"),
    ] {
        let mut talk = Talk::start(AURA).await;
        let (url, _socket) = nobody();
        let mut held = None;
        match trouble {
            "nobody" => {
                talk.call(&format!("deepgram:aura-2-thalia-en?base_url=ws://{}", url.authority()));
                talk.say(SENTENCE);
            }
            "reset" | "silence" | "nothing" => {
                let mut peer = talk.first().await;
                talk.say(SENTENCE);
                let (text, context) = AURA.sentence(&mut peer).await;
                assert_eq!(text, SENTENCE);
                match trouble {
                    "reset" => peer.reset(),
                    "nothing" => {
                        peer.say(&(AURA.end)(&context)).await;
                        held = Some(peer);
                    }
                    _ => held = Some(peer),
                }
            }
            status => {
                // once in advance, and once for the sentence
                let body = json!({"err_msg": format!("no luck with {KEY}")}).to_string();
                talk.first.refuse(status, &body).await;
                talk.say(SENTENCE);
                talk.first.refuse(status, &body).await;
            }
        }
        talk.second(SENTENCE, 1_600).await;
        let (samples, replaced) = talk.heard().await;
        assert_eq!(samples, [2; 1_600], "{trouble}");
        assert_eq!(replaced.len(), 1, "{trouble}");
        assert_eq!(replaced[0].fault.code, code, "{trouble}: {replaced:?}");
        assert!(!format!("{replaced:?}").contains(KEY), "{replaced:?}");
        // this call has had enough of the first
        talk.say("Next.");
        talk.second("Next.", 160).await;
        drop(held);
    }
}

#[tokio::test]
async fn a_sentence_that_breaks_off_goes_on_at_the_word_that_was_cut() {
    let mut talk = Talk::start(AURA).await;
    let mut peer = talk.first().await;
    talk.say(SENTENCE);
    let (_, context) = AURA.sentence(&mut peer).await;
    // 1.7 s of about 2.6
    AURA.speak(&mut peer, &context, &[1, 0].repeat(13_600)).await;
    // what has been taken from the connection
    let mut samples = 0;
    while samples < 13_600 {
        if let Some(AgentEvent::Audio(_, more)) = talk.bench.event().await {
            samples += more.len();
        }
    }
    peer.reset();
    talk.second("Thursday at nine.", 800).await;
    let (rest, replaced) = talk.heard().await;
    assert_eq!((rest, replaced.len()), (vec![2; 800], 1));
}

#[tokio::test]
async fn a_voice_that_tells_its_words_is_gone_on_with_exactly() {
    let mut talk = Talk::start(CARTESIA).await;
    let mut peer = talk.first().await;
    talk.say("One two three.");
    let (_, context) = CARTESIA.sentence(&mut peer).await;
    peer.say(&CARTESIA.words.unwrap()(&context)).await;
    CARTESIA.speak(&mut peer, &context, &[1, 0].repeat(1_600)).await;
    let mut samples = 0;
    while samples < 1_600 {
        if let Some(AgentEvent::Audio(_, more)) = talk.bench.event().await {
            samples += more.len();
        }
    }
    peer.reset();
    talk.second("two three.", 800).await;
    assert_eq!(talk.heard().await.0.len(), 800);
}

#[tokio::test]
async fn text_that_no_voice_says_anything_for_is_nobodys_fault() {
    let mut talk = Talk::start(AURA).await;
    let mut peer = talk.first().await;
    talk.say("Hm.");
    let (_, context) = AURA.sentence(&mut peer).await;
    peer.say(&(AURA.end)(&context)).await;
    talk.second("Hm.", 0).await;
    assert_eq!(talk.bench.degraded().await.code, "agent.tts.silent");
    assert!(talk.ctx.outgoing.standings().shown().iter().all(|service| service.failures == 0));
    talk.say("Next.");
    let (text, _) = AURA.sentence(&mut peer).await;
    assert_eq!(text, "Next.");
}
