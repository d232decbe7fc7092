//! Whole calls: AudioSocket in, a vendor's recognition, a connector's language model, a vendor's voice, AudioSocket out.

use hark::audio::g711::Law;
use serde_json::json;

use super::{Fake, providers, stt_vendors as stt, tts_vendors as tts};
use crate::support::{
    connector::Connector,
    gateway::{Gateway, Line, frame_of},
};

async fn gateway(asr: String, llm: &Connector, tts: String) -> Gateway {
    Gateway::with(&llm.url.clone(), |config| {
        let agent = &mut config.agent;
        (agent.sts_url, agent.asr_url, agent.tts_url) = (None, Some(asr), Some(tts));
        agent.llm_url = Some(llm.url.to_string());
        agent.providers = providers();
        agent.debounce_ms = 50;
    })
    .await
}

/// The language model is asked for an answer to `text` and gives one.
async fn answered(llm: &mut Connector, text: &str) {
    loop {
        let mut asked = llm.request().await;
        let messages = asked.json().await;
        let last = messages["messages"].as_array().unwrap().last().unwrap()["content"].clone();
        // what was asked before the caller had finished is taken back
        if last == text {
            return asked.answer(&[br#"{"type":"text","content":"All right."}"#]).await;
        }
    }
}

#[tokio::test]
async fn every_recogniser_is_understood_in_a_call() {
    for vendor in stt::ALL {
        let (fake, mut llm, mut voice) =
            (Fake::start().await, Connector::start("/prompt-stream").await, Connector::start("/v1").await);
        let speech = format!("openai:tts-1?voice=nova&speed=1.5&base_url={}", voice.url);
        let gateway = gateway(vendor.at(&fake.address), &llm, speech).await;
        let mut line = Line::call(gateway.audiosocket).await;
        let mut peer = fake.accept().await;
        vendor.begin(&mut peer).await;
        for number in 1..=15 {
            line.say(number).await;
        }
        // what the caller said, in their order, behind the frame of silence that begins the call
        let heard = peer.audio(vendor.frame * 10).await;
        let frames: Vec<_> = heard.chunks(vendor.frame).collect();
        let mut sample = Vec::new();
        match vendor.frame {
            160 => Law::Ulaw.encode(frame_of(5).samples(), &mut sample),
            _ => sample.extend(frame_of(5).samples().iter().flat_map(|sample| sample.to_le_bytes())),
        }
        assert!(frames.contains(&sample.as_slice()), "{}", vendor.service);
        vendor.tell(&mut peer, (vendor.partial)("hello")).await;
        vendor.tell(&mut peer, (vendor.last)("hello there", 0)).await;
        answered(&mut llm, "hello there").await;

        let mut asked = voice.request().await;
        assert!(asked.head.starts_with("POST /v1/audio/speech HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!(asked.header("authorization"), Some(format!("Bearer {}", super::KEY).as_str()));
        assert_eq!(
            asked.json().await,
            json!({"model": "tts-1", "input": "All right.", "voice": "nova", "response_format": "pcm", "speed": 1.5})
        );
        let audio: Vec<u8> = [0x10, 0x20].repeat(24_000 / 5);
        // in pieces that end within a sample
        asked.answer(&[&audio[..333], &audio[333..]]).await;
        let words = line.words(1_000).await;
        assert!(words.iter().filter(|sample| (0x1F00..0x2100).contains(*sample)).count() > 800, "{words:?}");
        drop(line);
    }
}

#[tokio::test]
async fn every_voice_is_heard_in_a_call() {
    for vendor in tts::ALL {
        let (ears, voice, mut llm) =
            (Fake::start().await, Fake::start().await, Connector::start("/prompt-stream").await);
        let gateway = gateway(stt::FLUX.at(&ears.address), &llm, vendor.at(&voice.address)).await;
        let mut line = Line::call(gateway.audiosocket).await;
        let mut peer = ears.accept().await;
        let mut speaker = voice.accept().await;
        vendor.begin(&mut speaker).await;
        stt::FLUX.begin(&mut peer).await;
        line.say(1).await;
        stt::FLUX.tell(&mut peer, (stt::FLUX.last)("hello", 0)).await;
        answered(&mut llm, "hello").await;
        let (text, context) = vendor.sentence(&mut speaker).await;
        assert_eq!(text, "All right.");
        let audio: Vec<u8> = [0x10, 0x20].repeat(1_600);
        vendor.speak(&mut speaker, &context, &audio).await;
        speaker.say(&(vendor.end)(&context)).await;
        let words = line.words(1_500).await;
        assert!(words.iter().filter(|sample| **sample == 0x2010).count() > 1_400, "{}: {words:?}", vendor.service);
        drop(line);
    }
}
