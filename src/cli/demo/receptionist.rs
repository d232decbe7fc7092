//! The demonstration of the embedded agent that converses: somebody asks when it is open and leaves a message.

use std::time::Duration;

use super::{HELLO, events::Event};
use crate::{
    agent::builtin::flite,
    audio::{Rate, resample::Resampler},
    cli::{
        call::{CALLER, speech},
        phone::Step,
    },
};

/// What is shown.
pub const WHAT: &str = "It converses: it listens, answers by its script and speaks, on this machine alone. The caller's \"Hello\" is a person's, \
the rest of their words are flite's.";
/// What the caller says after that.
const SAYS: &[&str] = &[
    "What are your opening hours?",
    "I would like to leave a message.",
    "My name is Jane Miller.",
    "Five five five, one two three four.",
    "Please call me back about my order.",
    "Yes, that is right.",
    "No, thank you. Goodbye.",
];
/// The agent has answered when it has been silent for so long.
const QUIET: Duration = Duration::from_millis(1_200);
const LONG: Duration = Duration::from_secs(15);

/// What the caller does: interrupts the greeting with a hello, then says one thing after the other.
///
/// # Errors
/// There is no flite.
pub async fn script(rate: Rate) -> Result<Vec<Step>, String> {
    let caller = speech(CALLER, rate).map_err(|error| error.to_string())?;
    let at = |ms| rate.samples_in(Duration::from_millis(ms)).min(caller.len());
    let answer = || [Step::AwaitSpeech(LONG), Step::AwaitQuiet(QUIET, LONG)];
    let mut script = vec![Step::AwaitSpeech(LONG), Step::Pause(Duration::from_secs(1))];
    script.push(Step::Say(caller[at(HELLO.0)..at(HELLO.1)].to_vec()));
    script.extend(answer());
    for text in SAYS {
        let (hz, samples) = flite("flite", text).await.map_err(|error| error.to_string())?;
        let mut resampler = Resampler::new(hz, rate.hz());
        let mut out = Vec::new();
        resampler.process(&samples, &mut out);
        resampler.finish(&mut out);
        script.push(Step::Say(out));
        script.extend(answer());
    }
    Ok(script)
}

/// Prints what was understood and what was said.
pub fn print(events: &[Event]) {
    println!("\n  understood and said:");
    for event in events.iter().filter(|event| event.kind == "transcription") {
        let text = |name: &str| event.payload.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        let who = if text("role") == "user" { "caller" } else { "agent" };
        println!("    {who:6}  {}", text("text").escape_debug());
    }
}
