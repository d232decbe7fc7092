//! Gemini's `streamGenerateContent`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Message, Prompt, Reply, ToolCall, Usage,
    openai::{MAX_CALLS, option},
    vendor::{self, Complaint},
};
use crate::agent::{service::Named, sse::Event};

/// What stands as it is in the name of a model.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'/');

/// The path of a request, below the base.
pub(super) fn path(model: &str) -> String {
    let model = model.strip_prefix("models/").unwrap_or(model);
    let model = percent_encoding::utf8_percent_encode(model, PLAIN);
    format!("/models/{model}:streamGenerateContent?alt=sse")
}

/// The body of a request.
pub(super) fn body(named: &Named, prompt: &Prompt) -> Value {
    let mut body = Map::new();
    let system: Vec<Value> = prompt
        .messages
        .iter()
        .filter(|message| message.role() == "system")
        .map(|message| json!({"text": message.text()}))
        .collect();
    if !system.is_empty() {
        body.insert("systemInstruction".to_owned(), json!({"parts": system}));
    }
    body.insert("contents".to_owned(), contents(&prompt.messages));
    if !prompt.tools.is_empty() {
        let tools: Vec<Value> = prompt
            .tools
            .iter()
            .map(|tool| {
                json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters})
            })
            .collect();
        body.insert("tools".to_owned(), json!([{"functionDeclarations": tools}]));
    }
    let mut generation = Map::new();
    for (name, value) in &named.options {
        match name.as_str() {
            "temperature" | "seed" => generation.insert(name.clone(), option(value)),
            "top_p" => generation.insert("topP".to_owned(), option(value)),
            "max_tokens" => generation.insert("maxOutputTokens".to_owned(), option(value)),
            "reasoning_effort" => generation.insert("thinkingConfig".to_owned(), json!({"thinkingLevel": value})),
            _ => None,
        };
    }
    if !generation.is_empty() {
        body.insert("generationConfig".to_owned(), generation.into());
    }
    Value::Object(body)
}

/// Parts of one role are one content.
fn contents(all: &[Message]) -> Value {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in all {
        let (role, parts) = match message {
            Message::System(_) => continue,
            Message::User(text) => ("user", vec![json!({"text": text})]),
            Message::Assistant { text, calls } => {
                let text = (!text.is_empty()).then(|| json!({"text": text}));
                ("model", text.into_iter().chain(calls.iter().map(call_part)).collect())
            }
            Message::Result { id, name, output, failed } => {
                let response = if *failed { json!({"error": output}) } else { json!({"output": output}) };
                let mut answer = json!({"name": name, "response": response});
                if !is_ours(id) {
                    answer["id"] = id.as_str().into();
                }
                ("user", vec![json!({"functionResponse": answer})])
            }
        };
        match turns.last_mut() {
            Some((last, known)) if *last == role => known.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    turns.into_iter().map(|(role, parts)| json!({"role": role, "parts": parts})).collect()
}

fn call_part(call: &ToolCall) -> Value {
    let mut function = json!({"name": call.name, "args": vendor::object(&call.arguments)});
    if !is_ours(&call.id) {
        function["id"] = call.id.as_str().into();
    }
    let mut part = json!({"functionCall": function});
    if let Some(signature) = &call.signature {
        part["thoughtSignature"] = signature.as_str().into();
    }
    part
}

/// Calls need no identity there; ours are not shown.
const OURS: &str = "hark_";

fn is_ours(id: &str) -> bool {
    id.starts_with(OURS)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    candidates: Vec<Candidate>,
    #[serde(default)]
    usage_metadata: Option<Tokens>,
    #[serde(default)]
    prompt_feedback: Option<Feedback>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    thought: Option<bool>,
    #[serde(default)]
    function_call: Option<Function>,
    #[serde(default)]
    thought_signature: Option<String>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    #[serde(default)]
    prompt_token_count: Option<u64>,
    #[serde(default)]
    cached_content_token_count: Option<u64>,
    #[serde(default)]
    candidates_token_count: Option<u64>,
    #[serde(default)]
    thoughts_token_count: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    #[serde(default)]
    block_reason: Option<String>,
}

/// Reads one answer.
#[derive(Debug, Default)]
pub(super) struct Reader {
    calls: Vec<ToolCall>,
    usage: Option<Usage>,
    finished: bool,
    spoke: bool,
    strange: vendor::Strange,
}

impl vendor::Reader for Reader {
    fn event(&mut self, event: Event<'_>, text: &mut String) -> Result<(), Complaint> {
        let response: Response = match serde_json::from_slice(event.data) {
            Ok(response) => response,
            Err(error) => return self.strange.note(event.data, &error),
        };
        if let Some(error) = &response.error {
            return Err(Complaint::told(vendor::message(error).unwrap_or("error")));
        }
        if let Some(reason) = response.prompt_feedback.and_then(|feedback| feedback.block_reason) {
            return Err(Complaint::told(&format!("it refuses the conversation: {reason}")));
        }
        if let Some(tokens) = response.usage_metadata {
            let output = tokens.candidates_token_count.unwrap_or(0);
            self.usage = Some(Usage {
                input: tokens.prompt_token_count.unwrap_or(0),
                cached: tokens.cached_content_token_count.unwrap_or(0),
                output: output.saturating_add(tokens.thoughts_token_count.unwrap_or(0)),
            });
        }
        let Some(candidate) = response.candidates.into_iter().next() else { return Ok(()) };
        for part in candidate.content.map(|content| content.parts).unwrap_or_default() {
            self.part(part, text)?;
        }
        if let Some(reason) = candidate.finish_reason {
            self.finished = true;
            vendor::stopped(&reason, self.spoke || !self.calls.is_empty())?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Reply, Complaint> {
        if !self.finished {
            return Err(Complaint::Cut);
        }
        Ok(Reply { calls: self.calls, usage: self.usage })
    }
}

impl Reader {
    fn part(&mut self, part: Part, text: &mut String) -> Result<(), Complaint> {
        if let Some(words) = part.text.filter(|_| part.thought != Some(true)) {
            self.spoke |= !words.is_empty();
            text.push_str(&words);
        }
        let Some(function) = part.function_call else { return Ok(()) };
        if self.calls.len() >= MAX_CALLS {
            return Err(Complaint::Unusable(format!("it calls more than {MAX_CALLS} tools at once")));
        }
        let id = function.id.filter(|id| !id.is_empty() && id.len() < 256);
        self.calls.push(ToolCall {
            id: id.unwrap_or_else(|| format!("{OURS}{}", uuid::Uuid::now_v7().simple())),
            name: function.name,
            arguments: function.args.unwrap_or_else(|| json!({})).to_string(),
            signature: part.thought_signature,
        });
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::vendor::tests::*, *};

    #[test]
    fn text_calls_and_usage_are_read_and_thoughts_are_not() {
        let body = concat!(
            "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"Hmm.\",\"thought\":true},{\"text\":\"Hel\"}]}}],\"modelVersion\":\"x\"}\r\n\r\n",
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"lo.\"},{\"functionCall\":{\"name\":\"f\",\"args\":{\"a\":1}},\"thoughtSignature\":\"c2ln\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":5,\"candidatesTokenCount\":2,\"thoughtsTokenCount\":3}}\r\n\r\n",
        );
        let (text, reply) = read(Reader::default(), body.as_bytes());
        assert_eq!(text, "Hello.");
        let reply = reply.unwrap();
        assert_eq!(reply.usage, Some(Usage { input: 5, cached: 0, output: 5 }));
        let called = &reply.calls[0];
        assert_eq!((called.name.as_str(), called.arguments.as_str()), ("f", "{\"a\":1}"));
        assert_eq!(
            call_part(called),
            json!({"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"})
        );
    }

    #[test]
    fn what_was_blocked_is_a_fault() {
        let blocked = b"data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n";
        let Err(Complaint::Told(told)) = read(Reader::default(), blocked).1 else { panic!() };
        assert!(told.contains("SAFETY"));
        let error = b"data: {\"error\":{\"code\":429,\"message\":\"Quota\",\"status\":\"RESOURCE_EXHAUSTED\"}}\n\n";
        assert_eq!(read(Reader::default(), error).1, Err(Complaint::Told("Quota".to_owned())));
        let silent = b"data: {\"candidates\":[{\"finishReason\":\"SAFETY\"}]}\n\n";
        assert!(matches!(read(Reader::default(), silent).1, Err(Complaint::Told(_))));
        assert_eq!(read(Reader::default(), b"data: {\"candidates\":[]}\n\n").1, Err(Complaint::Cut));
    }

    #[test]
    fn a_conversation_becomes_contents() {
        let mut called = call("hark_1", "f", "{\"a\":1}");
        called.signature = Some("c2ln".to_owned());
        let result = |failed| Message::Result { id: "hark_1".into(), name: "f".into(), output: "5".into(), failed };
        let all = vec![
            Message::System("Be kind.".into()),
            Message::User("one".into()),
            Message::Assistant { text: "Wait.".into(), calls: vec![called] },
            result(false),
            Message::User("two".into()),
        ];
        let prompt = Prompt { messages: all, tools: [tool("f")].into(), ..Prompt::default() };
        let body = body(&named("gemini:gemini-x?max_tokens=9&top_p=0.5"), &prompt);
        let expected = json!([
            {"role": "user", "parts": [{"text": "one"}]},
            {"role": "model", "parts": [
                {"text": "Wait."},
                {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
            ]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "5"}}}, {"text": "two"}]},
        ]);
        assert_eq!(body["contents"], expected);
        assert_eq!(body["systemInstruction"]["parts"][0]["text"], "Be kind.");
        assert_eq!(body["generationConfig"], json!({"maxOutputTokens": 9, "topP": 0.5}));
        assert_eq!(body["tools"][0]["functionDeclarations"][0]["name"], "f");
        assert_eq!(path("models/gemini-3.5"), "/models/gemini-3.5:streamGenerateContent?alt=sse");
    }
}
