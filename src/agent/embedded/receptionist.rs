//! The script as a language model: it is told the conversation and answers with sentences and calls of tools.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::script::{Act, Machine, Script, Turn};
use crate::agent::{
    Context,
    health::{Failure, Health},
    llm::{Message, Piece, Prompt, Reply, ToolCall},
    retry::fault,
};

/// The receptionist of one call. It remembers nothing: each answer follows from the conversation alone, so that a guess that comes to
/// nothing leaves no trace.
#[derive(Debug)]
pub struct Receptionist {
    ctx: Context,
    health: Health,
}

impl Receptionist {
    /// For one call.
    pub(in crate::agent) const fn new(ctx: Context, health: Health) -> Self {
        Self { ctx, health }
    }

    /// Answers the last message.
    pub(in crate::agent) async fn ask(&self, prompt: &Prompt, out: &mpsc::Sender<Piece>) -> Result<Reply, Failure> {
        let Some(embedded) = &self.ctx.config.embedded else {
            let what = "the models are not installed: run `hark models install`";
            return Err(Failure::Final(fault("agent.embedded.missing", "language model", what)));
        };
        let from = self.ctx.about.get("from").and_then(Value::as_str);
        let Turn { says, act } = answer(&embedded.script, from, &prompt.messages);
        for sentence in says {
            // closed: the caller speaks, or the call is over
            if out.send(Piece::Text(sentence)).await.is_err() || out.send(Piece::Pause).await.is_err() {
                return Ok(Reply::default());
            }
        }
        self.health.fine();
        let calls = act.map(|act| tool_call(&act, prompt.messages.len())).into_iter().collect();
        Ok(Reply { calls, usage: None })
    }
}

/// What follows from a conversation.
fn answer(script: &Script, from: Option<&str>, messages: &[Message]) -> Turn {
    let greeting = match messages.iter().find(|message| message.role() != "system") {
        Some(Message::Assistant { text, .. }) => text.clone(),
        _ => script.greeting(),
    };
    let mut machine = Machine::new(script, from, &greeting);
    let mut turn = Turn::default();
    for message in messages {
        turn = match message {
            Message::User(text) => machine.hear(text),
            Message::Result { name, failed, .. } => machine.done(name, *failed),
            Message::System(_) | Message::Assistant { .. } => continue,
        };
    }
    turn
}

fn tool_call(act: &Act, number: usize) -> ToolCall {
    let (name, arguments) = match act {
        Act::Transfer(to) => ("transfer", json!({"to": to})),
        Act::Hangup => ("hangup", json!({})),
        Act::Message(message) => (
            "take_message",
            json!({"name": message.name, "number": message.number, "message": message.message, "for": message.to}),
        ),
    };
    ToolCall { id: format!("hark-{number}"), name: name.to_owned(), arguments: arguments.to_string(), signature: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Message {
        Message::User(text.to_owned())
    }

    #[test]
    fn the_whole_conversation_counts() {
        let script = Script::default();
        let said = |text: &str| Message::said(text.to_owned());
        let mut messages = vec![said("Hello from the bakery."), user("say that again")];
        assert_eq!(answer(&script, None, &messages).says, ["Hello from the bakery."]);
        messages.extend([
            said("Hello"),
            user("I want to leave a message"),
            user("Bob"),
            user("none"),
            user("Hi."),
            user("yes"),
        ]);
        let Turn { says, act: Some(act) } = answer(&script, None, &messages) else { panic!() };
        assert!(says.is_empty());
        let call = tool_call(&act, messages.len());
        assert_eq!((call.name.as_str(), call.id.as_str()), ("take_message", "hark-8"));
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        assert_eq!(
            (&arguments["name"], &arguments["message"], &arguments["for"]),
            (&"Bob".into(), &"Hi.".into(), &Value::Null)
        );
        messages.push(Message::Assistant { text: String::new(), calls: vec![call] });
        messages.push(Message::Result {
            id: "hark-8".into(),
            name: "take_message".into(),
            output: String::new(),
            failed: false,
        });
        assert_eq!(answer(&script, None, &messages).says[0], "Thank you, I will pass that on.");
    }

    #[test]
    fn nothing_said_is_nothing_to_answer() {
        assert_eq!(answer(&Script::default(), None, &[]), Turn::default());
    }
}
