//! OpenAI's chat completions, as OpenAI, Azure, Ollama, vLLM, llama.cpp, OpenRouter, Groq and many others speak them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Message, Prompt, Reply, Tool, ToolCall, Usage,
    vendor::{self, Complaint},
};
use crate::agent::{
    service::{Named, Vendor},
    sse::Event,
};

/// Tools called by one answer.
pub(super) const MAX_CALLS: usize = 16;
/// Longest arguments of one, in bytes.
pub(in crate::agent) const MAX_ARGUMENTS: usize = 64 * 1024;

/// The body of a request.
pub(super) fn body(named: &Named, prompt: &Prompt) -> Value {
    let mut body = Map::new();
    body.insert("model".to_owned(), named.model.as_str().into());
    body.insert("messages".to_owned(), prompt.messages.iter().map(message).collect());
    body.insert("stream".to_owned(), true.into());
    body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    if !prompt.tools.is_empty() {
        body.insert("tools".to_owned(), prompt.tools.iter().map(tool).collect());
    }
    for (name, value) in named.options.iter().filter(|(name, _)| name != "api_version") {
        let name = if name == "max_tokens" { limit(named) } else { name };
        body.insert(name.to_owned(), option(value));
    }
    Value::Object(body)
}

/// What the limit of tokens is called: models of OpenAI that think refuse `max_tokens`, other people's servers know nothing else.
fn limit(named: &Named) -> &'static str {
    let theirs = matches!(named.vendor, Vendor::OpenAi | Vendor::Azure);
    if theirs && thinks(&named.model) { "max_completion_tokens" } else { "max_tokens" }
}

/// `o1`, `o3-mini` …, and `gpt-5` and what comes after it.
fn thinks(model: &str) -> bool {
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    match model.strip_prefix("gpt-") {
        Some(rest) => number(rest).is_some_and(|generation: u32| generation >= 5),
        None => model.strip_prefix('o').and_then(number).is_some(),
    }
}

/// Numbers, true and false are what they look like; everything else is text.
pub(super) fn option(value: &str) -> Value {
    match serde_json::from_str(value) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_))) => value,
        _ => value.into(),
    }
}

/// A tool as these interfaces, and Hark's own contract, name it.
pub(in crate::agent) fn tool(tool: &Tool) -> Value {
    let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
    json!({"type": "function", "function": function})
}

/// A message, likewise.
pub(super) fn message(message: &Message) -> Value {
    match message {
        Message::Assistant { text, calls } if !calls.is_empty() => {
            let content = if text.is_empty() { Value::Null } else { text.as_str().into() };
            let calls: Vec<Value> = calls
                .iter()
                .map(|call| {
                    let function = json!({"name": call.name, "arguments": vendor::object(&call.arguments).to_string()});
                    json!({"id": call.id, "type": "function", "function": function})
                })
                .collect();
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        }
        Message::Result { id, output, .. } => json!({"role": "tool", "tool_call_id": id, "content": output}),
        other => json!({"role": other.role(), "content": other.text()}),
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Tokens>,
    #[serde(default)]
    x_groq: Option<Groq>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Groq {
    #[serde(default)]
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Part>>,
}

/// Part of a tool call.
#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    name: Option<String>,
    /// Text; some servers send the object itself.
    #[serde(default)]
    arguments: Option<Value>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

/// Reads one answer.
#[derive(Debug, Default)]
pub(super) struct Reader {
    calls: Vec<ToolCall>,
    /// Which of them a part belongs to.
    by_index: BTreeMap<u64, usize>,
    usage: Option<Usage>,
    finished: bool,
    spoke: bool,
    strange: vendor::Strange,
}

impl vendor::Reader for Reader {
    fn event(&mut self, event: Event<'_>, text: &mut String) -> Result<(), Complaint> {
        let data = event.data.trim_ascii();
        if data == b"[DONE]" {
            self.finished = true;
            return Ok(());
        }
        if data.is_empty() {
            return Ok(());
        }
        let chunk: Chunk = match serde_json::from_slice(data) {
            Ok(chunk) => chunk,
            Err(error) => return self.strange.note(data, &error),
        };
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let told = vendor::message(&error).map_or_else(|| error.to_string(), str::to_owned);
            return Err(Complaint::told(&told));
        }
        if let Some(tokens) = chunk.usage.or_else(|| chunk.x_groq.and_then(|groq| groq.usage)) {
            self.usage = Some(Usage {
                input: tokens.prompt_tokens.unwrap_or(0),
                cached: tokens.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
                output: tokens.completion_tokens.unwrap_or(0),
            });
        }
        // one answer was asked for
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index.unwrap_or(0) == 0) {
            self.choice(choice, text)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Reply, Complaint> {
        if !self.finished {
            return Err(Complaint::Cut);
        }
        self.calls.retain(|call| !call.name.is_empty());
        Ok(Reply { calls: self.calls, usage: self.usage })
    }
}

impl Reader {
    fn choice(&mut self, choice: Choice, text: &mut String) -> Result<(), Complaint> {
        if let Some(delta) = choice.delta {
            for words in [delta.content, delta.refusal].into_iter().flatten() {
                self.spoke |= !words.is_empty();
                text.push_str(&words);
            }
            for part in delta.tool_calls.into_iter().flatten() {
                self.part(part)?;
            }
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => return Ok(()),
            Some(reason) => vendor::stopped(reason, self.spoke)?,
        }
        self.finished = true;
        Ok(())
    }

    fn part(&mut self, part: Part) -> Result<(), Complaint> {
        let function = part.function.unwrap_or(Function { name: None, arguments: None });
        let id = part.id.filter(|id| !id.is_empty());
        let index = part.index.unwrap_or(0);
        let known = self.by_index.get(&index).copied();
        // Ollama gives every call index 0: another id is another call
        let is_new = known.is_none_or(|at| id.as_ref().is_some_and(|id| *id != self.calls[at].id));
        let at = match known {
            Some(at) if !is_new => at,
            _ if self.calls.len() >= MAX_CALLS => {
                return Err(Complaint::Unusable(format!("it calls more than {MAX_CALLS} tools at once")));
            }
            _ => {
                let nth = self.calls.len();
                self.calls.push(ToolCall {
                    id: id.unwrap_or_else(|| format!("call_{nth}")),
                    name: String::new(),
                    arguments: String::new(),
                    signature: None,
                });
                self.by_index.insert(index, nth);
                nth
            }
        };
        let call = &mut self.calls[at];
        if let Some(name) = function.name.filter(|_| call.name.is_empty()) {
            call.name = name;
        }
        match function.arguments {
            Some(Value::String(more)) => call.arguments.push_str(&more),
            Some(object @ Value::Object(_)) => call.arguments = object.to_string(),
            _ => {}
        }
        if call.arguments.len() > MAX_ARGUMENTS || call.name.len() > 256 || call.id.len() > 256 {
            return Err(Complaint::Unusable(format!("a tool call is longer than {MAX_ARGUMENTS} bytes")));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::vendor::tests::{call, named, read, read_in, tool},
        *,
    };

    fn body_of(chunks: &[Value]) -> String {
        chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect()
    }

    fn delta(delta: Value) -> Value {
        json!({"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    }

    fn end(reason: &str) -> Value {
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "obfuscation": "xyz"})
    }

    fn answer(chunks: &[Value]) -> (String, Result<Reply, Complaint>) {
        read(Reader::default(), body_of(chunks).as_bytes())
    }

    #[test]
    fn text_calls_and_usage_are_read() {
        let part = |index: u64, more: Value| delta(json!({"tool_calls": [{"index": index, "function": more}]}));
        let begin = |index: u64, id: &str, name: &str| {
            let function = json!({"name": name, "arguments": ""});
            delta(json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}))
        };
        let (text, reply) = answer(&[
            json!({"choices": [], "prompt_filter_results": []}),
            delta(json!({"role": "assistant", "content": ""})),
            delta(json!({"reasoning_content": "hm", "content": null})),
            delta(json!({"content": "One "})),
            delta(json!({"content": "moment."})),
            begin(0, "call_a", "f"),
            begin(1, "call_b", "g"),
            part(1, json!({"arguments": "{}"})),
            part(0, json!({"arguments": "{\"a\":"})),
            part(0, json!({"arguments": "1}"})),
            end("tool_calls"),
            json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}}),
        ]);
        assert_eq!(text, "One moment.");
        let usage = Some(Usage { input: 7, cached: 4, output: 3 });
        assert_eq!(
            reply,
            Ok(Reply { calls: vec![call("call_a", "f", "{\"a\":1}"), call("call_b", "g", "{}")], usage })
        );
    }

    #[test]
    fn dialects_are_understood() {
        // Ollama: whole calls, every index 0; an object for arguments
        let whole = |id: &str, arguments: Value| json!({"index": 0, "id": id, "function": {"name": "f", "arguments": arguments}});
        let calls = json!({"tool_calls": [whole("a", json!("{}")), whole("b", json!({"x": 1}))]});
        let reply = answer(&[delta(calls), end("stop")]).1.unwrap();
        assert_eq!(reply.calls, [call("a", "f", "{}"), call("b", "f", "{\"x\":1}")]);
        // Groq: usage elsewhere; nobody says [DONE]
        let groq = json!({"choices": [], "x_groq": {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}});
        assert_eq!(answer(&[end("stop"), groq]).1.unwrap().usage, Some(Usage { input: 1, cached: 0, output: 2 }));
        // no id at all
        let nameless = delta(json!({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}));
        assert_eq!(answer(&[nameless, end("tool_calls")]).1.unwrap().calls, [call("call_0", "f", "{}")]);
    }

    #[test]
    fn faults_in_the_middle_are_told() {
        let told = |words: &str| Err(Complaint::Told(words.to_owned()));
        let router = json!({"error": {"code": 502, "message": "Provider\u{7} gone"}, "choices": [{"delta": {}, "finish_reason": "error"}]});
        assert_eq!(answer(&[delta(json!({"content": "A"})), router]), ("A".to_owned(), told("Provider\\u{7} gone")));
        assert_eq!(answer(&[json!({"error": "no slot"})]).1, told("no slot"));
        assert!(matches!(answer(&[end("content_filter")]).1, Err(Complaint::Told(_))));
        assert_eq!(answer(&[delta(json!({"content": "A"}))]).1, Err(Complaint::Cut));
        assert!(answer(&[delta(json!({"content": "A"})), end("length")]).1.is_ok());
        let many = vec![json!("x"); 20];
        assert!(matches!(answer(&many).1, Err(Complaint::Unusable(_))));
        let one = [json!(7), delta(json!({"content": "A"})), end("stop")];
        assert_eq!(answer(&one).0, "A");
    }

    #[test]
    fn endless_calls_are_refused() {
        let calls: Vec<Value> =
            (0..17).map(|n| json!({"index": n, "id": format!("c{n}"), "function": {"name": "f"}})).collect();
        assert!(matches!(answer(&[delta(json!({"tool_calls": calls}))]).1, Err(Complaint::Unusable(_))));
        let long = delta(
            json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "x".repeat(70_000)}}]}),
        );
        assert!(matches!(answer(&[long]).1, Err(Complaint::Unusable(_))));
    }

    #[test]
    fn a_conversation_becomes_messages() {
        let all = vec![
            Message::System("Be kind.".into()),
            Message::User("Hi".into()),
            Message::Assistant { text: String::new(), calls: vec![call("a", "f", "broken")] },
            Message::Result { id: "a".into(), name: "f".into(), output: "5".into(), failed: false },
            Message::said("Five.".into()),
        ];
        let prompt = Prompt { messages: all, tools: [tool("f")].into(), ..Prompt::default() };
        let body = body(&named("openai:gpt?temperature=0.2&reasoning_effort=low"), &prompt);
        let expected = json!([
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "5"},
            {"role": "assistant", "content": "Five."},
        ]);
        assert_eq!(body["messages"], expected);
        assert_eq!((&body["model"], &body["stream"]), (&json!("gpt"), &json!(true)));
        assert_eq!((&body["temperature"], &body["reasoning_effort"]), (&json!(0.2), &json!("low")));
        assert_eq!(body["tools"][0]["function"]["name"], "f");
        let without = super::body(&named("openai:gpt"), &Prompt::default());
        assert!(without.get("tools").is_none());
    }

    #[test]
    fn the_limit_of_tokens_has_the_name_that_its_model_takes() {
        for (service, theirs) in [
            ("openai:gpt-4.1-mini", "max_tokens"),
            ("openai:gpt-4o", "max_tokens"),
            ("openai:gpt-oss:20b", "max_tokens"),
            ("openai:gpt-5.4-mini", "max_completion_tokens"),
            ("openai:o3-mini", "max_completion_tokens"),
            ("openai:olmo-2", "max_tokens"),
            ("openai:gpt-12", "max_completion_tokens"),
            ("azure:o1?base_url=https://x/openai/v1", "max_completion_tokens"),
            ("ollama:o1", "max_tokens"),
            ("xai:grok-4-fast", "max_tokens"),
        ] {
            let separator = if service.contains('?') { '&' } else { '?' };
            let body = super::body(&named(&format!("{service}{separator}max_tokens=9")), &Prompt::default());
            let limits: Vec<_> = body.as_object().unwrap().iter().filter(|(_, value)| **value == json!(9)).collect();
            assert_eq!(limits, [(&theirs.to_owned(), &json!(9))], "{service}");
        }
        // a deployment's name says nothing of its model
        let body = super::body(&named("azure:mine?max_completion_tokens=9&base_url=https://x/v1"), &Prompt::default());
        assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(9), None));
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(words in prop::collection::vec("\\PC{1,12}", 1..5), step in 1usize..13) {
            let chunks: Vec<Value> = words.iter().map(|words| delta(json!({"content": words}))).chain([end("stop")]).collect();
            let body = body_of(&chunks);
            let whole = read(Reader::default(), body.as_bytes());
            prop_assert_eq!(&whole.0, &words.concat());
            prop_assert_eq!(whole, read_in(Reader::default(), body.as_bytes().chunks(step)));
        }

        #[test]
        fn any_event_ends_in_something(data in "(\\{|\\}|\\[|\\]|\"choices\":|\"delta\":|\"tool_calls\":|\"index\":|null|7|,|\"x\"){0,30}") {
            let _ = read(Reader::default(), format!("data: {data}\n\n").as_bytes());
        }
    }
}
