//! Anthropic's messages.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Message, Prompt, Reply, ToolCall, Usage,
    openai::{MAX_ARGUMENTS, MAX_CALLS, option},
    vendor::{self, Complaint},
};
use crate::agent::{service::Named, sse::Event};

/// Longest answer, in tokens: the interface wants to be told.
const MAX_TOKENS: u32 = 1_024;
/// Its conversations begin with the user; ours may begin with a greeting.
const OPENING: &str = "(The caller is on the line.)";

/// The body of a request.
pub(super) fn body(named: &Named, prompt: &Prompt) -> Value {
    let mut body = Map::new();
    body.insert("model".to_owned(), named.model.as_str().into());
    body.insert("max_tokens".to_owned(), MAX_TOKENS.into());
    body.insert("stream".to_owned(), true.into());
    // the vendor keeps what does not change from turn to turn, and answers sooner
    let cached = json!({"type": "ephemeral"});
    let system: Vec<&str> =
        prompt.messages.iter().filter(|message| message.role() == "system").map(Message::text).collect();
    if !system.is_empty() {
        body.insert(
            "system".to_owned(),
            json!([{"type": "text", "text": system.join("\n\n"), "cache_control": cached}]),
        );
    }
    body.insert("messages".to_owned(), messages(&prompt.messages));
    if !prompt.tools.is_empty() {
        let tools = prompt.tools.iter();
        let tools = tools
            .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters}));
        body.insert("tools".to_owned(), tools.collect());
    }
    for (name, value) in named.options.iter().filter(|(name, _)| !matches!(name.as_str(), "version" | "auth")) {
        body.insert(name.clone(), option(value));
    }
    Value::Object(body)
}

/// Roles alternate and the user begins; parts of one role are one message.
fn messages(all: &[Message]) -> Value {
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in all {
        let (role, parts) = match message {
            Message::System(_) => continue,
            Message::User(text) => ("user", text_part(text)),
            Message::Assistant { text, calls } => {
                let mut parts = text_part(text);
                parts.extend(calls.iter().map(
                    |call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": vendor::object(&call.arguments)}),
                ));
                ("assistant", parts)
            }
            Message::Result { id, output, failed, .. } => {
                ("user", vec![json!({"type": "tool_result", "tool_use_id": id, "content": output, "is_error": failed})])
            }
        };
        if turns.is_empty() && role == "assistant" {
            turns.push(("user", text_part(OPENING)));
        }
        match turns.last_mut() {
            Some((last, known)) if *last == role => known.extend(parts),
            _ if parts.is_empty() => {}
            _ => turns.push((role, parts)),
        }
    }
    turns.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

/// Text that is nothing but blanks is refused.
fn text_part(text: &str) -> Vec<Value> {
    if text.trim().is_empty() { Vec::new() } else { vec![json!({"type": "text", "text": text})] }
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    index: u64,
    #[serde(default)]
    content_block: Option<Block>,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    message: Option<Begun>,
    #[serde(default)]
    usage: Option<Tokens>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Begun {
    #[serde(default)]
    usage: Option<Tokens>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    input: Option<Value>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    partial_json: Option<String>,
    #[serde(default)]
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
}

/// Reads one answer.
#[derive(Debug, Default)]
pub(super) struct Reader {
    calls: Vec<(u64, ToolCall)>,
    usage: Usage,
    finished: bool,
    spoke: bool,
    strange: vendor::Strange,
}

impl vendor::Reader for Reader {
    fn event(&mut self, event: Event<'_>, text: &mut String) -> Result<(), Complaint> {
        let head: Head = match serde_json::from_slice(event.data) {
            Ok(head) => head,
            Err(error) => return self.strange.note(event.data, &error),
        };
        match head.kind.as_str() {
            "message_start" => self.count(head.message.and_then(|message| message.usage)),
            "content_block_start" => {
                if let Some(block) = head.content_block {
                    self.block(head.index, block, text)?;
                }
            }
            "content_block_delta" => {
                if let Some(delta) = head.delta {
                    self.delta(head.index, delta, text)?;
                }
            }
            "message_delta" => {
                self.count(head.usage);
                let reason = head.delta.and_then(|delta| delta.stop_reason).unwrap_or_default();
                vendor::stopped(&reason, self.spoke)?;
            }
            "message_stop" => self.finished = true,
            "error" => {
                let error = head.error.unwrap_or_default();
                return Err(Complaint::told(vendor::message(&error).unwrap_or("error")));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Reply, Complaint> {
        if !self.finished {
            return Err(Complaint::Cut);
        }
        Ok(Reply { calls: self.calls.into_iter().map(|(_, call)| call).collect(), usage: Some(self.usage) })
    }
}

impl Reader {
    fn count(&mut self, tokens: Option<Tokens>) {
        let Some(tokens) = tokens else { return };
        if let Some(input) = tokens.input_tokens {
            let cached = tokens.cache_read_input_tokens.unwrap_or(0);
            let created = tokens.cache_creation_input_tokens.unwrap_or(0);
            self.usage.input = input.saturating_add(cached).saturating_add(created);
            self.usage.cached = cached;
        }
        // the last one counts all
        self.usage.output = tokens.output_tokens.unwrap_or(self.usage.output);
    }

    fn block(&mut self, index: u64, block: Block, text: &mut String) -> Result<(), Complaint> {
        match block.kind.as_str() {
            "text" => {
                let words = block.text.unwrap_or_default();
                self.spoke |= !words.is_empty();
                text.push_str(&words);
            }
            "tool_use" => {
                if self.calls.len() >= MAX_CALLS {
                    return Err(Complaint::Unusable(format!("it calls more than {MAX_CALLS} tools at once")));
                }
                let arguments = match block.input {
                    Some(Value::Object(input)) if !input.is_empty() => Value::Object(input).to_string(),
                    _ => String::new(),
                };
                let (id, name) = (block.id.unwrap_or_default(), block.name.unwrap_or_default());
                self.calls.push((index, ToolCall { id, name, arguments, signature: None }));
            }
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, index: u64, delta: Delta, text: &mut String) -> Result<(), Complaint> {
        if let Some(words) = delta.text {
            self.spoke |= !words.is_empty();
            text.push_str(&words);
        }
        if let Some(more) = delta.partial_json
            && let Some((_, call)) = self.calls.iter_mut().rev().find(|(at, _)| *at == index)
        {
            call.arguments.push_str(&more);
            if call.arguments.len() > MAX_ARGUMENTS {
                return Err(Complaint::Unusable(format!("a tool call is longer than {MAX_ARGUMENTS} bytes")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::vendor::tests::*, *};

    #[test]
    fn text_tools_and_usage_are_read() {
        let body = concat!(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":90,\"output_tokens\":1}}}\n\n",
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
            "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}}\n\n",
            "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n",
            "data: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
            "data: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"Gr\u{fc}\u{df}e.\"}}\n\n",
            "data: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{}}}\n\n",
            "data: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":\"}}\n\n",
            "data: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\n",
            "data: {\"type\":\"from_the_future\",\"x\":1}\n\n",
            "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":20}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        );
        let (text, reply) = read(Reader::default(), body.as_bytes());
        assert_eq!(text, "Gr\u{fc}\u{df}e.");
        let reply = reply.unwrap();
        assert_eq!(reply.calls, [call("t1", "f", "{\"a\":1}")]);
        assert_eq!(reply.usage, Some(Usage { input: 100, cached: 90, output: 20 }));
    }

    #[test]
    fn faults_in_the_middle_are_told() {
        let error = b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Over\\nloaded\"}}\n\n";
        assert_eq!(read(Reader::default(), error).1, Err(Complaint::Told("Over\\nloaded".to_owned())));
        let cut = b"data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"A\"}}\n\n";
        assert_eq!(read(Reader::default(), cut), ("A".to_owned(), Err(Complaint::Cut)));
    }

    #[test]
    fn roles_alternate_and_the_user_begins() {
        let all = [
            Message::System("Be kind.".to_owned()),
            Message::said("Hello.".to_owned()),
            Message::User("one".to_owned()),
            Message::User("two".to_owned()),
            Message::Assistant { text: String::new(), calls: vec![call("t1", "f", "not json")] },
            Message::Result { id: "t1".to_owned(), name: "f".to_owned(), output: "5".to_owned(), failed: true },
            Message::User("three".to_owned()),
        ];
        let prompt = Prompt { messages: all.to_vec(), tools: [tool("f")].into(), ..Prompt::default() };
        let body = body(&named("anthropic:claude?temperature=0.5&version=x"), &prompt);
        let expected = json!([
            {"role": "user", "content": [{"type": "text", "text": OPENING}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "5", "is_error": true},
                {"type": "text", "text": "three"},
            ]},
        ]);
        assert_eq!(body["messages"], expected);
        assert_eq!(body["system"][0]["text"], "Be kind.");
        assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(0.5), &json!(1024)));
        assert_eq!(body["tools"][0]["input_schema"]["type"], "object");
        assert!(body.get("version").is_none());
    }
}
