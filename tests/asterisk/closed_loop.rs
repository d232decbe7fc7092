//! A whole conversation between programs that are none of ours: Asterisk, faster-whisper, LLMock and Piper, with Hark in the middle. A recorded
//! person speaks into a telephone, and what that telephone heard is recognised again.

use hark::agent::service::{Provider, Providers};
use hark::config::Config;
use serde_json::{Value, json};
use tokio::process::Child;
use uuid::Uuid;

use crate::receptionist::{answer, prompt};
use crate::support::engines::{Engine, ask, language_models, piper_over_http};
use crate::support::g711::Codec;
use crate::support::hark::{Hark, SECRET};
use crate::support::language_model::KEY;
use crate::support::phone::Call;
use crate::support::receiver::Receiver;

/// The programs around Hark; gone when dropped.
struct Programs {
    ears: Engine,
    model: u16,
    voice: String,
    _processes: [Child; 2],
}

impl Programs {
    async fn start() -> Option<Self> {
        let (ears, (llm, model), (piper, voice)) =
            (Engine::whisper().await?, language_models().await?, piper_over_http().await?);
        Some(Self { ears, model, voice, _processes: [llm, piper] })
    }

    fn serve(&self, config: &mut Config) {
        let agent = &mut config.agent;
        agent.sts_url = None;
        agent.asr_url = Some(self.ears.as_openai());
        agent.llm_url = Some(format!("openai:model-1?base_url=http://127.0.0.1:{}/v1", self.model));
        agent.tts_url = Some(format!("piper:{}", self.voice));
        let provider = Provider { api_key: Some(KEY.into()), ..Provider::default() };
        agent.providers = std::sync::Arc::new(Providers([("openai".to_owned(), provider)].into()));
        agent.greeting = Some("Good morning, this is the laboratory. How can I help you?".to_owned());
        agent.tools = vec!["hangup".to_owned()];
    }

    /// What the model answers from here on, however often it is asked.
    async fn answers(&self, text: &str, calls: Value) {
        ask(self.model, "DELETE /_llmock/scenario", &[]).await;
        let reply =
            json!({"type": "reply", "text": text, "tool_calls": calls, "times": null, "match": {"stream": true}});
        ask(self.model, "POST /_llmock/scenario", json!({"behaviors": [reply]}).to_string().as_bytes()).await;
    }

    /// What the caller said last, as the model was told.
    async fn told(&self) -> String {
        let seen = ask(self.model, "GET /_llmock/requests", &[]).await;
        let asked = seen["requests"].as_array().expect("a list").iter().rfind(|one| one["method"] == "POST");
        let messages = asked.expect("it was asked")["body"]["messages"].as_array().expect("messages").clone();
        let last = messages.iter().rfind(|message| message["role"] == "user").expect("the caller's words");
        last["content"].as_str().expect("text").to_lowercase()
    }

    /// What is said in audio of 8 kHz.
    async fn words(&self, samples: &[i16]) -> String {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 8_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut file = std::io::Cursor::new(Vec::new());
        let mut wav = hound::WavWriter::new(&mut file, spec).expect("a header");
        samples.iter().for_each(|sample| wav.write_sample(*sample).expect("memory"));
        wav.finalize().expect("memory");
        let field = |name: &str, value: &str| {
            format!("--part\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let head = field("model", "whisper-tiny")
            + &field("language", "en")
            + "--part\r\nContent-Disposition: form-data; name=\"file\"; filename=\"heard.wav\"\r\n\r\n";
        let body = [head.as_bytes(), file.get_ref(), b"\r\n--part--\r\n"].concat();
        let head = "POST /v1/audio/transcriptions\r\nContent-Type: multipart/form-data; boundary=part";
        ask(self.ears.port, head, &body).await["text"].as_str().expect("text").to_lowercase()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_talks_with_programs_that_are_not_ours() {
    let Some(programs) = Programs::start().await else { return };
    let hark = Hark::with(Receiver::strict(SECRET).await, |config| programs.serve(config)).await;
    let lab = hark.lab().await;
    let call = match Call::dial(lab.sip(), "5001", Codec::Ulaw).await {
        Ok(call) => call,
        Err(code) => panic!("refused with {code}\n{}", lab.log()),
    };
    let greeting = programs.words(&answer(&call, 0).await).await;
    println!("heard: {greeting}");
    assert!(greeting.contains("good morning") && greeting.contains("help you"), "{greeting:?}");

    programs.answers("Our office opens early on Monday morning.", json!([])).await;
    let from = call.rtp.audio().len();
    call.rtp.play(&prompt("vm-sorry"));
    let heard = programs.words(&answer(&call, from).await).await;
    println!("told: {}; heard: {heard}", programs.told().await);
    assert!(programs.told().await.contains("did not understand your response"), "{}", programs.told().await);
    assert!(heard.contains("office") && heard.contains("monday"), "{heard:?}");

    let goodbye = "Thank you for calling. Goodbye.";
    programs.answers(goodbye, json!([{"name": "hangup", "arguments": {}}])).await;
    let from = call.rtp.audio().len();
    call.rtp.play(&prompt("vm-goodbye"));
    let uuid: Uuid = hark.events.wait_for(1).await[0].json()["uuid"].as_str().expect("a UUID").parse().expect("a UUID");
    let story = hark.story(uuid).await;
    let heard = programs.words(&call.rtp.audio()[from..]).await;
    println!("told: {}; heard: {heard}", programs.told().await);
    assert!(programs.told().await.contains("goodbye"), "{story:?}");
    assert!(heard.contains("thank you for calling"), "{heard:?}");
    let said: Vec<_> = story.iter().filter(|event| event.starts_with("transcription")).collect();
    assert!(said.iter().any(|event| event.contains(r#""role":"agent""#) && event.contains("Monday")), "{said:?}");
    // nobody else has hung up
    assert_eq!(story.last().map(String::as_str), Some("call_ended"));
    let verdict = ask(programs.model, "GET /_llmock/verdict", &[]).await;
    assert_eq!((&verdict["passed"], &verdict["findings"]), (&json!(true), &json!([])), "{verdict:#}");
    call.hang_up().await;
    lab.stop().await;
    hark.stop().await;
}
