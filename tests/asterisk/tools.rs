//! Tools that a language model has called, all the way to the real Asterisk and the phones, and what the model is told of them.

use std::sync::Arc;
use std::time::Duration;

use hark::agent::service::{Provider, Providers};
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::ari::World;
use crate::calls::{SECOND, operator_answers};
use crate::support::callee::Callee;
use crate::support::g711::Codec;
use crate::support::language_model::{Asked, KEY, Model};
use crate::support::phone::Call;
use crate::support::rtp::Rtp;
use crate::support::services::Services;
use crate::support::{PATIENCE, find, noise};

const SENTENCE: &str = "One moment please, I do that for you.";

/// A caller who talks with a language model that has tools.
struct Talk {
    world: World,
    model: Model,
    services: Services,
    callee: Callee,
    call: Call,
    uuid: Uuid,
    /// What the sentence before a tool sounds like.
    sentence: Vec<i16>,
}

impl Talk {
    async fn start() -> Self {
        let sentence = Codec::Ulaw.heard(&noise(2 * SECOND, 71));
        let greeting = Codec::Ulaw.heard(&noise(SECOND / 2, 72));
        let sounds = [("Welcome.", greeting.clone()), (SENTENCE, sentence.clone())];
        let (services, model) = (Services::start(sounds.into(), "Fine.").await, Model::start("openai").await);
        let callee = Callee::start().await;
        let dial = format!("PJSIP/phone/sip:{{to}}@{}", callee.address);
        let world = World::start(|config| {
            config.outbound.dial.insert("default".to_owned(), dial);
            config.outbound.timeout_s = 1;
            let agent = &mut config.agent;
            agent.sts_url = None;
            agent.asr_url = Some(services.asr.clone());
            agent.tts_url = Some(services.tts.clone());
            agent.llm_url = Some(format!("openai:model-1?base_url={}", model.base()));
            let provider = Provider { api_key: Some(KEY.into()), ..Provider::default() };
            agent.providers = Arc::new(Providers([("openai".to_owned(), provider)].into()));
            agent.greeting = Some("Welcome.".to_owned());
            let tools = ["hangup", "transfer", "attended_transfer", "send_dtmf", "set_variable"];
            agent.tools = tools.map(str::to_owned).into();
            agent.transfer_to = ["person=s@operator", "nowhere=999@nowhere", "*"].map(str::to_owned).into();
            crate::control::reports(config);
        })
        .await;
        let call = Call::dial(world.lab.sip(), "5011", Codec::Ulaw).await.expect("answered");
        let there = |rtp: &Rtp| find(&rtp.audio(), &greeting).is_some();
        assert!(call.rtp.wait(Duration::from_secs(15), there).await, "no greeting\n{}", world.lab.log());
        let event = world.hark.events.wait_for(1).await[0].json();
        let uuid = event["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
        Self { world, model, services, callee, call, uuid, sentence }
    }

    /// What the model is asked when the caller says something.
    async fn says(&mut self, text: &str) -> Asked {
        self.services.hear("final", text);
        self.model.asked().await
    }

    /// Whether the caller has heard the sentence, whole. The last of it may be on its way.
    async fn has_heard(&self) -> bool {
        self.call.rtp.wait(Duration::from_secs(1), |rtp| find(&rtp.audio(), &self.sentence).is_some()).await
    }

    /// The model calls a tool behind the sentence; what it is told, once it asks again.
    async fn told(&mut self, name: &str, arguments: Value) -> String {
        let asked = self.says("Please do it.").await;
        asked.call("", &[("call-1", name, arguments)]).await;
        let again = timeout(PATIENCE, self.model.asked_late()).await.expect("the model is told");
        let told = again.messages();
        again.answer("Fine.").await;
        let (role, text) = told.last().expect("a message").clone();
        assert_eq!(role, "tool", "{told:?}");
        text
    }

    /// The end, where the caller is still there.
    async fn hang_up(self) {
        let Self { world, call, .. } = self;
        call.hang_up().await;
        world.empty().await;
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_heard_before_the_model_hangs_up() {
    let mut talk = Talk::start().await;
    let asked = talk.says("That was all.").await;
    asked.call(SENTENCE, &[("call-1", "hangup", json!({}))]).await;
    talk.call.hung_up(PATIENCE).await;
    assert!(talk.has_heard().await, "the sentence was cut");
    assert_eq!(crate::control::reason(&talk.world.hark, talk.uuid).await, "hangup");
    talk.world.empty().await;
    talk.world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_variables_reach_asterisk_and_refusals_the_model() {
    let mut talk = Talk::start().await;
    let told = talk.told("send_dtmf", json!({"digits": "5#"})).await;
    assert!(told.contains("sent"), "{told}");
    let digits = |rtp: &Rtp| rtp.packets().iter().any(|packet| packet.payload_type == 101);
    assert!(talk.call.rtp.wait(Duration::from_secs(5), digits).await, "no key came");
    let told = talk.told("set_variable", json!({"name": "TICKET", "value": "a \"b\" 7"})).await;
    assert!(told.contains("set"), "{told}");
    let value = talk.world.hark.control.variable(talk.uuid, "TICKET").await.expect("asked");
    assert_eq!(value.as_deref(), Some("a \"b\" 7"));
    // nowhere, and nobody: the caller is still with the agent, and the model knows why
    for (name, to, part) in [
        ("transfer", "nowhere", "nowhere"),
        ("attended_transfer", "486", "is busy"),
        ("attended_transfer", "ring", "does not answer"),
        ("attended_transfer", "404", "cannot be reached"),
    ] {
        let told = talk.told(name, json!({"to": to})).await;
        assert!(told.contains(part), "{name} {to}: {told}\n{}", talk.world.lab.log());
    }
    talk.hang_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_heard_before_the_caller_is_in_the_dialplan() {
    let mut talk = Talk::start().await;
    let asked = talk.says("A person please.").await;
    asked.call(SENTENCE, &[("call-1", "transfer", json!({"to": "person"}))]).await;
    operator_answers(&talk.world.lab, &talk.call).await;
    assert!(talk.has_heard().await, "the sentence was cut");
    assert_eq!(crate::control::reason(&talk.world.hark, talk.uuid).await, "transferred");
    talk.hang_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_has_the_caller_and_the_sentence_was_heard_before() {
    let mut talk = Talk::start().await;
    let asked = talk.says("Connect me.").await;
    asked.call(SENTENCE, &[("call-1", "attended_transfer", json!({"to": "answer"}))]).await;
    let phone = timeout(PATIENCE, talk.callee.answered.recv()).await.expect("in time").expect("the phone lives");
    assert!(talk.has_heard().await, "the sentence was cut");
    assert_eq!(crate::control::reason(&talk.world.hark, talk.uuid).await, "transferred");
    let words = Codec::Ulaw.heard(&noise(SECOND, 73));
    // what is said while a channel joins is lost
    talk.call.rtp.play(&noise(SECOND, 74));
    talk.call.rtp.played().await;
    talk.call.rtp.play(&noise(SECOND, 73));
    let there = |rtp: &Rtp| find(&rtp.audio(), &words).is_some();
    assert!(phone.rtp.wait(Duration::from_secs(10), there).await, "they do not hear each other");
    talk.hang_up().await;
}
