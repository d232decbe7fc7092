//! Vendors of speech to speech.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hark::audio::g711::Law;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Fake, KEY, Peer};

/// Whom a fake plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    OpenAi,
    /// Azure's preview, with the names of the beta.
    Azure,
    Xai,
    Deepgram,
    Gemini,
    ElevenLabs,
    Ultravox,
}

use Vendor::{Azure, Deepgram, ElevenLabs, Gemini, OpenAi, Ultravox, Xai};

pub const ALL: [Vendor; 7] = [OpenAi, Azure, Xai, Deepgram, Gemini, ElevenLabs, Ultravox];

/// What a session was begun with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Begun {
    pub prompt: String,
    pub tools: Vec<String>,
}

/// The vendor's side of a session.
pub struct Session {
    pub vendor: Vendor,
    pub peer: Peer,
    /// What a request said that made the session.
    asked: Value,
    /// Turns so far, and pieces of audio.
    turns: u32,
    pieces: u32,
    /// All messages of JSON: `client` or `server`, and what it said.
    pub log: Vec<(&'static str, Value)>,
    /// Texts are cut wherever they can be.
    pub crumbs: bool,
}

impl Vendor {
    /// The service, at a fake.
    pub fn at(self, address: &str) -> String {
        match self {
            OpenAi => format!("openai:gpt-realtime-2.1?voice=marin&base_url=http://{address}/v1"),
            Azure => format!("azure:voice-1?api_version=2024-10-01-preview&base_url=http://{address}/openai/v1"),
            Xai => format!("xai:grok-voice-latest?voice=ara&base_url=http://{address}/v1"),
            Deepgram => format!("deepgram:agent?think=gpt-5.4-mini&base_url=ws://{address}"),
            Gemini => format!("gemini:gemini-3.8-live?voice=Puck&base_url=http://{address}/v1beta"),
            ElevenLabs => format!("elevenlabs:agent_1?base_url=ws://{address}"),
            Ultravox => format!("ultravox:ultravox-v0.7?base_url=http://{address}"),
        }
    }

    /// Whether its messages are OpenAI's.
    pub fn is_openai(self) -> bool {
        matches!(self, OpenAi | Azure | Xai)
    }

    /// What comes of one second of the caller, in bytes.
    pub fn second(self) -> usize {
        match self {
            Gemini => 32_000,
            Ultravox => 16_000,
            _ => 8_000,
        }
    }

    /// The samples (8 kHz) of the caller that these bytes are.
    pub fn heard(self, bytes: &[u8]) -> Vec<i16> {
        let linear = || bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]));
        match self {
            Gemini => linear().step_by(2).collect(),
            Ultravox => linear().collect(),
            _ => bytes.iter().map(|byte| Law::Ulaw.decode_byte(*byte)).collect(),
        }
    }

    /// Speech at a level, as the vendor sends it.
    pub fn speech(self, level: i16, ms: usize) -> Vec<u8> {
        match self {
            Gemini => level.to_le_bytes().repeat(24 * ms),
            Ultravox => level.to_le_bytes().repeat(8 * ms),
            _ => vec![Law::Ulaw.encode_sample(level); 8 * ms],
        }
    }

    fn check(self, peer: &Peer) {
        let query = |name: &str| peer.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let header = |name: &str| peer.headers.get(name).map(String::as_str);
        let (path, auth) = match self {
            OpenAi | Xai => ("/v1/realtime", ("authorization", format!("Bearer {KEY}"))),
            Azure => ("/openai/realtime", ("api-key", KEY.to_owned())),
            Deepgram => ("/v1/agent/converse", ("authorization", format!("Token {KEY}"))),
            Gemini => (
                "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
                ("x-goog-api-key", KEY.to_owned()),
            ),
            // what was asked for before lets in
            ElevenLabs => ("/v1/convai/conversation", ("host", peer.headers["host"].clone())),
            Ultravox => ("/join", ("host", peer.headers["host"].clone())),
        };
        assert_eq!((peer.path.as_str(), header(auth.0)), (path, Some(auth.1.as_str())), "{self:?}");
        match self {
            OpenAi => assert_eq!((query("model"), header("openai-beta")), (Some("gpt-realtime-2.1"), None)),
            Xai => assert_eq!(query("model"), Some("grok-voice-latest")),
            Azure => {
                assert_eq!((query("deployment"), query("api-version")), (Some("voice-1"), Some("2024-10-01-preview")));
            }
            ElevenLabs => {
                assert_eq!((query("agent_id"), query("conversation_signature")), (Some("agent_1"), Some("s1")));
                assert_eq!(header("xi-api-key"), None);
            }
            _ => {}
        }
    }

    /// What comes before the WebSocket.
    pub async fn ask(self, fake: &Fake) -> Value {
        let mut asked = Value::Null;
        let address = &fake.address;
        match self {
            ElevenLabs => {
                fake.asked(|head, _| {
                    assert!(head.starts_with("get /v1/convai/conversation/get-signed-url?agent_id=agent_1 "), "{head}");
                    assert!(head.contains(&format!("xi-api-key: {KEY}\r\n")), "{head}");
                    let path = "v1/convai/conversation?agent_id=agent_1&conversation_signature=s1";
                    json!({"signed_url": format!("ws://{address}/{path}"), "novel": 1})
                })
                .await;
            }
            Ultravox => {
                fake.asked(|head, body| {
                    assert!(head.starts_with("post /api/calls "), "{head}");
                    assert!(head.contains(&format!("x-api-key: {KEY}\r\n")), "{head}");
                    asked = body.clone();
                    json!({"callId": "c", "joinUrl": format!("ws://{address}/join?x=1"), "novel": 1})
                })
                .await;
                let medium = json!({"serverWebSocket": {"inputSampleRate": 8_000, "outputSampleRate": 8_000, "clientBufferSizeMs": 30_000}});
                assert_eq!(asked["medium"], medium);
                assert_eq!(asked["model"], "ultravox-v0.7");
            }
            _ => {}
        }
        asked
    }
}

fn names(tools: &Value, name: impl Fn(&Value) -> &Value) -> Vec<String> {
    tools.as_array().into_iter().flatten().map(|tool| name(tool).as_str().unwrap().to_owned()).collect()
}

impl Session {
    /// Takes the next connection and sets the session up.
    pub async fn begin(vendor: Vendor, fake: &Fake) -> (Self, Begun) {
        let mut session = Self::connected(vendor, fake).await;
        let begun = session.set_up().await;
        session.peer.novelty().await;
        (session, begun)
    }

    /// The next connection, not set up.
    pub async fn connected(vendor: Vendor, fake: &Fake) -> Self {
        let asked = vendor.ask(fake).await;
        let peer = fake.accept_slowly().await;
        vendor.check(&peer);
        Self { vendor, peer, asked, turns: 0, pieces: 0, log: Vec::new(), crumbs: false }
    }

    /// The client's next message.
    async fn json(&mut self) -> Value {
        let said = self.peer.json().await;
        self.log.push(("client", said.clone()));
        said
    }

    /// Sets the session up.
    pub async fn set_up(&mut self) -> Begun {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self.vendor {
            OpenAi | Azure | Xai => self.set_up_openai().await,
            Deepgram => {
                self.say(&[json!({"type": "Welcome", "request_id": "r"})]).await;
                let said = self.json().await;
                assert_eq!(said["type"], "Settings", "{said}");
                let format = json!({"encoding": "mulaw", "sample_rate": 8_000});
                assert_eq!(said["audio"]["input"], format);
                assert_eq!(
                    (&said["audio"]["output"]["encoding"], &said["audio"]["output"]["container"]),
                    (&json!("mulaw"), &json!("none"))
                );
                self.say(&[json!({"type": "SettingsApplied"})]).await;
                let think = &said["agent"]["think"];
                Begun { prompt: text(&think["prompt"]), tools: names(&think["functions"], |tool| &tool["name"]) }
            }
            Gemini => {
                let said = self.json().await;
                let setup = &said["setup"];
                assert_eq!(setup["model"], "models/gemini-3.8-live", "{said}");
                assert_eq!(setup["generationConfig"]["responseModalities"], json!(["AUDIO"]));
                self.say(&[json!({"setupComplete": {"sessionId": "s"}})]).await;
                let tools = names(&setup["tools"][0]["functionDeclarations"], |tool| &tool["name"]);
                Begun { prompt: text(&setup["systemInstruction"]["parts"][0]["text"]), tools }
            }
            ElevenLabs => {
                let said = self.json().await;
                assert_eq!(said["type"], "conversation_initiation_client_data", "{said}");
                // it wants its pings answered at any time
                self.say(&[json!({"type": "ping", "ping_event": {"event_id": 7, "ping_ms": 9}})]).await;
                assert_eq!(self.said().await, json!({"type": "pong", "event_id": 7}));
                let formats = json!({"conversation_id": "c", "agent_output_audio_format": "ulaw_8000", "user_input_audio_format": "ulaw_8000"});
                self.say(&[json!({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": formats})]).await;
                let agent = &said["conversation_config_override"]["agent"];
                Begun { prompt: text(&agent["prompt"]["prompt"]), tools: vec![] }
            }
            Ultravox => {
                self.say(&[json!({"type": "call_started", "callId": "c"}), json!({"type": "state", "state": "idle"})])
                    .await;
                let tools = names(&self.asked["selectedTools"], |tool| &tool["temporaryTool"]["modelToolName"]);
                Begun { prompt: text(&self.asked["systemPrompt"]), tools }
            }
        }
    }

    async fn set_up_openai(&mut self) -> Begun {
        let first = if self.vendor == Xai { "conversation.created" } else { "session.created" };
        self.say(&[json!({"type": first, "session": {"type": "realtime", "id": "s", "novel": 1}})]).await;
        let update = self.json().await;
        assert_eq!(update["type"], "session.update", "{update}");
        let session = &update["session"];
        match self.vendor {
            OpenAi => {
                assert_eq!(session["type"], "realtime");
                assert_eq!(session["output_modalities"], json!(["audio"]));
                assert_eq!(session["audio"]["input"]["format"], json!({"type": "audio/pcmu"}));
                assert_eq!(session["audio"]["output"], json!({"format": {"type": "audio/pcmu"}, "voice": "marin"}));
                assert_eq!(session["audio"]["input"]["turn_detection"]["interrupt_response"], true);
            }
            Azure => assert_eq!(session["input_audio_format"], "g711_ulaw"),
            _ => {
                assert_eq!(session["voice"], "ara");
                assert_eq!(session["turn_detection"], json!({"type": "server_vad"}));
            }
        }
        let prompt = session["instructions"].as_str().unwrap().to_owned();
        let begun = Begun { prompt, tools: names(&session["tools"], |tool| &tool["name"]) };
        self.say(&[json!({"type": "session.updated", "session": session})]).await;
        begun
    }

    /// What the client says next that is no audio.
    pub async fn said(&mut self) -> Value {
        loop {
            let said = self.json().await;
            let audio = said["type"] == "input_audio_buffer.append"
                || said.get("user_audio_chunk").is_some()
                || said.get("realtimeInput").is_some();
            if !audio {
                return said;
            }
        }
    }

    /// At least so many bytes of the caller.
    pub async fn heard(&mut self, len: usize) -> Vec<u8> {
        let mut audio = Vec::new();
        while audio.len() < len {
            match self.peer.message().await {
                Message::Binary(bytes) => {
                    assert!(matches!(self.vendor, Deepgram | Ultravox), "{:?} takes no bytes", self.vendor);
                    audio.extend_from_slice(&bytes);
                }
                Message::Text(text) => {
                    let said: Value = serde_json::from_str(&text).unwrap();
                    self.log.push(("client", said.clone()));
                    let data = match self.vendor {
                        Gemini => {
                            assert_eq!(said["realtimeInput"]["audio"]["mimeType"], "audio/pcm;rate=16000", "{text}");
                            &said["realtimeInput"]["audio"]["data"]
                        }
                        ElevenLabs => &said["user_audio_chunk"],
                        _ => {
                            assert_eq!(said["type"], "input_audio_buffer.append", "{text}");
                            &said["audio"]
                        }
                    };
                    audio.extend(BASE64_STANDARD.decode(data.as_str().unwrap_or_else(|| panic!("{text}"))).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        audio
    }

    /// The caller has said something.
    pub async fn caller(&mut self, text: &str) {
        self.turns += 1;
        let item = format!("user_{}", self.turns);
        let messages = match self.vendor {
            OpenAi | Azure | Xai => vec![
                json!({"type": "input_audio_buffer.speech_started", "audio_start_ms": 1, "item_id": item}),
                json!({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 9, "item_id": item}),
                json!({"type": "input_audio_buffer.committed", "previous_item_id": null, "item_id": item}),
                json!({"type": "conversation.item.input_audio_transcription.delta", "item_id": item, "content_index": 0, "delta": text}),
                json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": item, "content_index": 0, "transcript": text, "usage": {"type": "duration", "seconds": 1.0}}),
            ],
            Deepgram => vec![
                json!({"type": "UserStartedSpeaking"}),
                json!({"type": "ConversationText", "role": "user", "content": text}),
            ],
            Gemini => {
                let (first, rest) = text.split_at(3);
                let heard = |text: &str| json!({"serverContent": {"inputTranscription": {"text": text}}});
                vec![heard(first), heard(rest)]
            }
            ElevenLabs => {
                vec![json!({"type": "user_transcript", "user_transcription_event": {"user_transcript": text}})]
            }
            Ultravox => {
                vec![
                    json!({"type": "transcript", "role": "user", "medium": "voice", "text": text, "final": true, "ordinal": self.turns}),
                ]
            }
        };
        self.say(&messages).await;
    }

    /// The caller interrupts.
    pub async fn interrupts(&mut self) {
        let message = match self.vendor {
            OpenAi | Azure | Xai => {
                json!({"type": "input_audio_buffer.speech_started", "audio_start_ms": 1, "item_id": "user_x"})
            }
            Deepgram => json!({"type": "UserStartedSpeaking"}),
            Gemini => json!({"serverContent": {"interrupted": true}}),
            ElevenLabs => json!({"type": "interruption", "interruption_event": {"event_id": self.pieces}}),
            Ultravox => json!({"type": "playback_clear_buffer"}),
        };
        self.say(&[message]).await;
    }

    /// The names of the response and its item.
    fn names(&self) -> (String, String) {
        (format!("resp_{}", self.turns), format!("item_{}", self.turns))
    }

    fn name<'a>(&self, current: &'a str, beta: &'a str) -> &'a str {
        if self.vendor == Azure { beta } else { current }
    }

    /// The agent begins to answer.
    pub async fn begin_answer(&mut self) {
        self.turns += 1;
        let (response, _) = self.names();
        let message = match self.vendor {
            OpenAi | Azure | Xai => {
                json!({"type": "response.created", "response": {"id": response, "status": "in_progress"}})
            }
            Deepgram => json!({"type": "AgentThinking", "content": "Hm."}),
            Ultravox => json!({"type": "state", "state": "speaking"}),
            Gemini | ElevenLabs => return,
        };
        self.say(&[message]).await;
    }

    /// Speech of the answer.
    pub async fn speak(&mut self, audio: &[u8]) {
        self.pieces += 1;
        let data = BASE64_STANDARD.encode(audio);
        let (response, item) = self.names();
        let message = match self.vendor {
            OpenAi | Azure | Xai => {
                let kind = self.name("response.output_audio.delta", "response.audio.delta");
                json!({"type": kind, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "delta": data})
            }
            Deepgram | Ultravox => return self.peer.send(Message::binary(audio.to_vec())).await,
            Gemini => {
                let message = self.spoken(&data);
                self.log.push(("server", message.clone()));
                // as the real one does
                return self.peer.send(Message::binary(message.to_string().into_bytes())).await;
            }
            ElevenLabs => json!({"type": "audio", "audio_event": {"audio_base_64": data, "event_id": self.pieces}}),
        };
        self.say(&[message]).await;
    }

    /// Gemini's message of speech.
    fn spoken(&self, data: &str) -> Value {
        let blob = json!({"mimeType": "audio/pcm;rate=24000", "data": data});
        json!({"serverContent": {"modelTurn": {"parts": [{"inlineData": blob}]}}})
    }

    /// Speech that is no base64; `None` where speech comes in bytes.
    pub fn no_base64(&self) -> Option<Value> {
        let (response, item) = self.names();
        match self.vendor {
            OpenAi | Azure | Xai => {
                let kind = self.name("response.output_audio.delta", "response.audio.delta");
                Some(
                    json!({"type": kind, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "delta": "*!no"}),
                )
            }
            Deepgram | Ultravox => None,
            Gemini => Some(self.spoken("*!no")),
            ElevenLabs => {
                Some(json!({"type": "audio", "audio_event": {"audio_base_64": "*!no", "event_id": self.pieces}}))
            }
        }
    }

    /// An error in the vendor's words, with the key in it; `None` where closes are all there is.
    pub fn error(&self) -> Option<Value> {
        let what = format!("no luck with {KEY}");
        match self.vendor {
            OpenAi | Azure | Xai => Some(
                json!({"type": "error", "error": {"type": "invalid_request_error", "code": "odd", "message": what, "param": null}}),
            ),
            Deepgram => Some(json!({"type": "Error", "code": "ODD", "description": what})),
            ElevenLabs => Some(json!({"type": "client_error", "message": what, "code": 7})),
            Gemini | Ultravox => None,
        }
    }

    /// Words of the answer.
    pub async fn words(&mut self, text: &str) {
        let (response, item) = self.names();
        let messages = match self.vendor {
            OpenAi | Azure | Xai => {
                let delta = self.name("response.output_audio_transcript.delta", "response.audio_transcript.delta");
                let done = self.name("response.output_audio_transcript.done", "response.audio_transcript.done");
                vec![
                    json!({"type": delta, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "delta": text}),
                    json!({"type": done, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0, "transcript": text}),
                ]
            }
            Deepgram => vec![json!({"type": "ConversationText", "role": "assistant", "content": text})],
            Gemini => vec![json!({"serverContent": {"outputTranscription": {"text": text}}})],
            ElevenLabs => vec![json!({"type": "agent_response", "agent_response_event": {"agent_response": text}})],
            Ultravox => {
                vec![
                    json!({"type": "transcript", "role": "agent", "medium": "voice", "text": text, "final": true, "ordinal": self.turns}),
                ]
            }
        };
        self.say(&messages).await;
    }

    /// The answer is whole.
    pub async fn end_answer(&mut self) {
        let (response, item) = self.names();
        let messages = match self.vendor {
            OpenAi | Azure | Xai => {
                let done = self.name("response.output_audio.done", "response.audio.done");
                let usage = json!({"total_tokens": 25, "input_tokens": 20, "output_tokens": 5, "input_token_details": {"cached_tokens": 3}});
                vec![
                    json!({"type": done, "response_id": response, "item_id": item, "output_index": 0, "content_index": 0}),
                    json!({"type": "response.done", "response": {"id": response, "status": "completed", "output": [], "usage": usage}}),
                    json!({"type": "rate_limits.updated", "rate_limits": []}),
                ]
            }
            Deepgram => vec![json!({"type": "AgentAudioDone"})],
            Gemini => vec![
                json!({"serverContent": {"generationComplete": true}}),
                json!({"serverContent": {"turnComplete": true}, "usageMetadata": {"promptTokenCount": 20, "responseTokenCount": 5, "totalTokenCount": 25}}),
            ],
            ElevenLabs => vec![],
            Ultravox => vec![json!({"type": "state", "state": "listening"})],
        };
        self.say(&messages).await;
    }

    /// The agent says something, all at once.
    pub async fn answer(&mut self, text: &str, audio: &[u8]) {
        self.begin_answer().await;
        self.words(text).await;
        // in pieces of any length
        for piece in audio.chunks(1_001) {
            self.speak(piece).await;
        }
        self.end_answer().await;
    }

    /// The agent wants a tool called, in the answer that it has begun.
    pub async fn wants(&mut self, name: &str, arguments: &Value) {
        let (response, _) = self.names();
        let messages = match self.vendor {
            OpenAi | Azure | Xai => {
                let call = json!({"type": "function_call", "id": "f", "call_id": "call_1", "name": name, "arguments": arguments.to_string(), "status": "completed"});
                vec![
                    json!({"type": "response.function_call_arguments.done", "response_id": response, "item_id": "f", "output_index": 1, "call_id": "call_1", "name": name, "arguments": arguments.to_string()}),
                    json!({"type": "response.output_item.done", "response_id": response, "output_index": 1, "item": call}),
                    json!({"type": "response.done", "response": {"id": response, "status": "completed", "output": [call]}}),
                ]
            }
            Deepgram => {
                let function =
                    json!({"id": "call_1", "name": name, "arguments": arguments.to_string(), "client_side": true});
                vec![json!({"type": "FunctionCallRequest", "functions": [function]})]
            }
            Gemini => vec![json!({"toolCall": {"functionCalls": [{"id": "call_1", "name": name, "args": arguments}]}})],
            ElevenLabs => {
                vec![
                    json!({"type": "client_tool_call", "client_tool_call": {"tool_name": name, "tool_call_id": "call_1", "parameters": arguments}}),
                ]
            }
            Ultravox => {
                vec![
                    json!({"type": "client_tool_invocation", "toolName": name, "invocationId": "call_1", "parameters": arguments}),
                ]
            }
        };
        self.say(&messages).await;
    }

    /// What the tool answered.
    pub async fn result(&mut self) -> String {
        let said = self.said().await;
        let (kind, id, output) = match self.vendor {
            OpenAi | Azure | Xai => {
                assert_eq!(said["type"], "conversation.item.create");
                (&said["item"]["type"], &said["item"]["call_id"], &said["item"]["output"])
            }
            Deepgram => (&said["type"], &said["id"], &said["content"]),
            Gemini => {
                let response = &said["toolResponse"]["functionResponses"][0];
                (&response["name"], &response["id"], &response["response"]["output"])
            }
            ElevenLabs => (&said["type"], &said["tool_call_id"], &said["result"]),
            Ultravox => (&said["type"], &said["invocationId"], &said["result"]),
        };
        let expected = match self.vendor {
            OpenAi | Azure | Xai => "function_call_output",
            Deepgram => "FunctionCallResponse",
            Gemini => "send_dtmf",
            ElevenLabs | Ultravox => "client_tool_result",
        };
        assert_eq!((kind, id), (&json!(expected), &json!("call_1")), "{said}");
        output.as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    pub async fn say(&mut self, messages: &[Value]) {
        for message in messages {
            let mut message = message.clone();
            if self.vendor.is_openai() && message.get("event_id").is_none() {
                message["event_id"] = json!("event_1");
            }
            self.log.push(("server", message.clone()));
            if self.crumbs {
                self.peer.crumbs(&message).await;
            } else {
                self.peer.say(&message).await;
            }
        }
    }
}
