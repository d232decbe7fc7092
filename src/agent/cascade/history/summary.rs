//! What was said long ago, in short: a model's own summary takes the place of the oldest turns before they have to be left out.

use super::{History, Turn};
use crate::agent::llm::Message;

/// Longest summary, in characters.
const MAX_SUMMARY: usize = 6_000;

/// Turns that a summary is to take the place of.
#[derive(Debug)]
pub struct Old {
    /// So many turns of the call are in it, or in the summary before.
    until: usize,
    /// What was said in them, line by line.
    pub transcript: String,
}

impl History {
    /// The turns that are to be summarised, once most of the room is used: all but the newest half.
    pub fn old(&self) -> Option<Old> {
        let size = |turn: &Turn| turn.messages().iter().map(Message::size).sum::<usize>();
        let mut left = self.turns.iter().map(size).sum::<usize>() + self.summary.as_ref().map_or(0, String::len);
        if left <= self.room / 4 * 3 {
            return None;
        }
        let (mut lines, mut count) = (Vec::new(), 0);
        for turn in &self.turns {
            let enough = left <= self.room / 2 && matches!(turn, Turn::User(_));
            // what may still be cut is not over
            let open = matches!(turn, Turn::Agent(answer) if !(answer.closed && answer.reported));
            if enough || open || count + 1 == self.turns.len() {
                break;
            }
            left = left.saturating_sub(size(turn));
            lines.extend(turn.messages().iter().filter_map(line));
            count += 1;
        }
        // more than a model is told of anyway is too much to be summarised
        let mut room = self.room;
        let fits = lines.iter().rev().take_while(|line| {
            room = room.saturating_sub(line.len() + 1);
            room > 0
        });
        let from = lines.len() - fits.count();
        let before = self.summary.as_ref().map(|summary| format!("(Before: {summary})"));
        let transcript: Vec<String> = before.into_iter().chain(lines.drain(from..)).collect();
        (count > 0).then(|| Old { until: self.gone + count, transcript: transcript.join("\n") })
    }

    /// `text` takes the place of those turns.
    pub fn summarised(&mut self, old: &Old, text: &str) {
        while self.gone < old.until && self.turns.pop_front().is_some() {
            self.gone += 1;
        }
        self.summary = Some(text.chars().take(MAX_SUMMARY).collect());
    }

    /// What a model is told of it.
    pub(super) fn before(&self) -> Option<Message> {
        let summary = self.summary.as_ref()?;
        Some(Message::System(format!("What was said earlier in this call, in short: {summary}")))
    }
}

fn line(message: &Message) -> Option<String> {
    let text = message.text();
    let line = match message {
        Message::User(_) => format!("Caller: {text}"),
        Message::Assistant { .. } if text.is_empty() => return None,
        Message::Assistant { .. } => format!("Agent: {text}"),
        Message::Result { name, .. } => format!("Tool {name}: {text}"),
        Message::System(_) => return None,
    };
    Some(line)
}
