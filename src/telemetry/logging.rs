//! Log lines: for people or as JSON, each with the identity of its call, none held up by a terminal or pipe that does not take it.
//!
//! Human: `2026-01-01T12:00:00.000Z [INFO]: message key=value call=… uuid=…`. `[INFO]: message` is how AVR Core writes, and people
//! grep for it. JSON: one object a line with `timestamp`, `level`, `target`, `message`, the fields, `call` and `uuid`.
//!
//! A call opens a span named `call` with the fields `id` and `uuid`; whatever is logged inside it carries both, as `call` and `uuid`.
//! Whatever a peer said may be in a field: control characters are escaped here, in both formats.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Lines that wait for the terminal or pipe. Beyond it new ones are lost and counted: a call never waits for its log.
const WAITING_LINES: usize = 8_192;

/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Where AVR Core's lines go, and what `docker logs … | grep` reads.
    Stdout,
    /// Out of the way of what a command prints.
    Stderr,
}

/// Writes the last lines when it is dropped; keep it until the end of `main`.
#[derive(Debug)]
#[must_use = "lines are lost when this is dropped early"]
pub struct Guard {
    lines: Arc<Lines>,
    done: Receiver<()>,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directives make no sense.
    #[error(
        "the log level {level:?} cannot be read: {reason}. Write error, warn, info, debug or trace, or directives per module"
    )]
    Level {
        /// As written.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody set up logging before.
    #[error("logging is already set up")]
    Twice,
    /// No thread for it.
    #[error("no thread to write log lines with: {0}")]
    Thread(#[from] io::Error),
}

/// Sets up logging for this process: `level` is a level or directives per module (`info,hark::webhook=debug`).
///
/// # Errors
/// When `level` makes no sense, or logging is set up already.
pub fn init(format: Format, level: &str, output: Output) -> Result<Guard, Error> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|error| Error::Level { level: level.to_owned(), reason: error.to_string() })?;
    let (out, terminal): (Box<dyn Write + Send>, bool) = match output {
        Output::Stdout => (Box::new(io::stdout()), io::stdout().is_terminal()),
        Output::Stderr => (Box::new(io::stderr()), io::stderr().is_terminal()),
    };
    let colour =
        terminal && format == Format::Human && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (lines, waiting) = Lines::new(WAITING_LINES);
    let lines = Arc::new(lines);
    let (finished, done) = sync_channel(1);
    thread::Builder::new().name("log".to_owned()).spawn({
        let lines = Arc::clone(&lines);
        move || {
            write_lines(&waiting, &lines, out, format);
            let _ = finished.send(()); // nobody may be waiting any more
        }
    })?;
    let guard = Guard { lines: Arc::clone(&lines), done };
    let layer = Formatter { format, colour, lines };
    tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(|_| Error::Twice)?;
    log_panics();
    Ok(guard)
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.lines.closing.store(true, Ordering::Release);
        // wakes a writer that has nothing to do; a full queue needs no waking
        let _ = self.lines.queue.try_send(Entry::End);
        // a terminal or pipe that takes nothing must not hold up the end for long
        let _ = self.done.recv_timeout(LAST_LINES);
    }
}

/// Panics become one line each. Their text may quote what a caller said, so it appears from debug on only.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "internal fault (please report it): panicked");
        let text = panic.payload_as_str().unwrap_or_default();
        tracing::debug!(location, text, backtrace = %std::backtrace::Backtrace::capture(), "panicked");
    }));
}

/// The bounded queue to the writer.
#[derive(Debug)]
struct Lines {
    queue: SyncSender<Entry>,
    lost: AtomicU64,
    /// The program ends: whatever waits is the last.
    closing: AtomicBool,
}

enum Entry {
    Line(String),
    End,
}

impl Lines {
    fn new(capacity: usize) -> (Self, Receiver<Entry>) {
        let (queue, waiting) = sync_channel(capacity);
        (Self { queue, lost: AtomicU64::new(0), closing: AtomicBool::new(false) }, waiting)
    }

    fn push(&self, line: String) {
        if self.queue.try_send(Entry::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes lines until the end; says how many were lost as soon as there is room again.
fn write_lines(waiting: &Receiver<Entry>, lines: &Lines, mut out: impl Write, format: Format) {
    let mut next = waiting.recv().ok();
    while let Some(Entry::Line(line)) = next {
        let _ = out.write_all(line.as_bytes()); // nobody to tell
        let lost = lines.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let fields = Map::from_iter([("lost".to_owned(), lost.into())]);
            let message = "log lines were lost: whatever reads the log is too slow";
            let line = Line { level: Level::WARN, target: module_path!(), message, fields: &fields };
            let _ = out.write_all(line.render(format, false).as_bytes());
        }
        next = match waiting.try_recv() {
            Ok(entry) => Some(entry),
            Err(_) if lines.closing.load(Ordering::Acquire) => None,
            Err(_) => {
                let _ = out.flush();
                waiting.recv().ok()
            }
        };
    }
    let _ = out.flush();
}

/// Makes lines of events, with the fields of the spans they are in.
struct Formatter {
    format: Format,
    colour: bool,
    lines: Arc<Lines>,
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Formatter {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Collector::of_span(span.name());
            attributes.record(&mut fields);
            span.extensions_mut().insert(SpanFields(fields.fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Collector::of_span(span.name());
            values.record(&mut fields);
            if let Some(known) = span.extensions_mut().get_mut::<SpanFields>() {
                known.0.extend(fields.fields);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut collector = Collector::default();
        event.record(&mut collector);
        let Collector { message, mut fields, .. } = collector;
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(known) = span.extensions().get::<SpanFields>() {
                for (name, value) in &known.0 {
                    fields.entry(name.as_str()).or_insert_with(|| value.clone());
                }
            }
        }
        // lines of crates that use `log` carry their real target in a field
        let target = fields.remove("log.target").and_then(|target| target.as_str().map(str::to_owned));
        fields.retain(|name, _| !name.starts_with("log."));
        let target = target.as_deref().unwrap_or_else(|| event.metadata().target());
        let line = Line { level: *event.metadata().level(), target, message: &message, fields: &fields };
        self.lines.push(line.render(self.format, self.colour));
    }
}

/// Takes in the fields of an event or a span.
#[derive(Default)]
struct Collector {
    span: Option<&'static str>,
    message: String,
    fields: Map<String, Value>,
}

impl Collector {
    fn of_span(name: &'static str) -> Self {
        Self { span: Some(name), ..Self::default() }
    }

    fn put(&mut self, field: &Field, value: Value) {
        let name = match (self.span, field.name()) {
            (None, "message") => {
                self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                return;
            }
            (Some("call"), "id") => "call".to_owned(),
            (None | Some("call"), name) => name.to_owned(),
            (Some(span), name) => format!("{span}.{name}"),
        };
        self.fields.insert(name, value);
    }
}

impl Visit for Collector {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

/// One line to be.
struct Line<'a> {
    level: Level,
    target: &'a str,
    message: &'a str,
    fields: &'a Map<String, Value>,
}

impl Line<'_> {
    fn render(&self, format: Format, colour: bool) -> String {
        let now = OffsetDateTime::now_utc().format(TIMESTAMP).unwrap_or_default();
        match format {
            Format::Human => self.human(&now, colour),
            Format::Json => self.json(&now),
        }
    }

    fn human(&self, now: &str, colour: bool) -> String {
        let mut line = String::with_capacity(160);
        let (on, off) = match self.level {
            _ if !colour => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[32m", "\x1b[0m"),
            _ => ("\x1b[2m", "\x1b[0m"),
        };
        // writing into a String cannot fail
        let _ = write!(line, "{now} {on}[{}]{off}: ", self.level);
        if self.level > Level::INFO {
            let _ = write!(line, "{}: ", self.target);
        }
        escape_into(&mut line, self.message);
        for (name, value) in self.fields {
            let _ = write!(line, " {name}=");
            match value {
                Value::String(text) if is_plain(text) => line.push_str(text),
                Value::String(text) => {
                    line.push('"');
                    escape_into(&mut line, &text.replace('\\', "\\\\").replace('"', "\\\""));
                    line.push('"');
                }
                other => drop(write!(line, "{other}")),
            }
        }
        line.push('\n');
        line
    }

    fn json(&self, now: &str) -> String {
        let mut object = Map::with_capacity(self.fields.len() + 4);
        object.insert("timestamp".to_owned(), now.into());
        object.insert("level".to_owned(), self.level.as_str().into());
        object.insert("target".to_owned(), self.target.into());
        object.insert("message".to_owned(), self.message.into());
        for (name, value) in self.fields {
            object.entry(name.as_str()).or_insert_with(|| value.clone());
        }
        let mut line = Value::Object(object).to_string();
        // JSON escapes the control characters of ASCII only
        if line.contains(is_unsafe) {
            line = line.chars().map(|c| if is_unsafe(c) { unicode_escape(c) } else { c.to_string() }).collect();
        }
        line.push('\n');
        line
    }
}

/// Whether `text` can stand without quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"' || c == '=' || is_unsafe(c))
}

/// Characters that could make a second line, or that could make a terminal do or show something else.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn escape_into(line: &mut String, text: &str) {
    for c in text.chars() {
        if is_unsafe(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

fn unicode_escape(c: char) -> String {
    let mut units = [0; 2];
    c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    /// What `work` logs.
    fn logged(format: Format, work: impl FnOnce()) -> Vec<String> {
        let (lines, waiting) = Lines::new(16);
        let layer = Formatter { format, colour: false, lines: Arc::new(lines) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let line = |entry| match entry {
            Entry::Line(line) => Some(line),
            Entry::End => None,
        };
        waiting.try_iter().filter_map(line).collect()
    }

    #[test]
    fn lines_of_avr_can_be_grepped() {
        let lines = logged(Format::Human, || tracing::info!("AVR AudioSocket Server listening on port {}", 5001));
        assert!(lines[0].ends_with("[INFO]: AVR AudioSocket Server listening on port 5001\n"), "{lines:?}");
    }

    #[test]
    fn every_line_of_a_call_carries_its_identity() {
        let work = || {
            let call = tracing::info_span!("call", id = "0190-a", uuid = tracing::field::Empty);
            call.record("uuid", "4e1d-b");
            let _in_call = call.enter();
            let _inner = tracing::info_span!("webhook", attempt = 2).entered();
            tracing::warn!(code = 7, "first");
            tracing::info!("second");
        };
        let lines = logged(Format::Human, work);
        assert!(lines[0].ends_with("[WARN]: first code=7 webhook.attempt=2 call=0190-a uuid=4e1d-b\n"), "{lines:?}");
        assert!(lines[1].ends_with("[INFO]: second webhook.attempt=2 call=0190-a uuid=4e1d-b\n"), "{lines:?}");
        for line in logged(Format::Json, work) {
            let object: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&object["call"], &object["uuid"]), (&Value::from("0190-a"), &Value::from("4e1d-b")), "{line}");
            assert_eq!(object["webhook.attempt"], 2);
        }
    }

    #[test]
    fn what_a_peer_said_stays_on_one_line() {
        let peer = "bye\n2026 [INFO]: forged \u{1b}[31m\u{202e}\u{85}";
        let work = || tracing::info!(%peer, "peer said {peer}");
        for format in [Format::Human, Format::Json] {
            let lines = logged(format, work);
            assert_eq!(lines.len(), 1);
            let line = lines[0].strip_suffix('\n').unwrap();
            assert!(!line.contains(is_unsafe), "{line:?}");
        }
        let object: Value = serde_json::from_str(&logged(Format::Json, work)[0]).unwrap();
        assert_eq!(object["peer"], peer);
    }

    #[test]
    fn lines_beyond_the_queue_are_lost_counted_and_reported() {
        let (lines, waiting) = Lines::new(2);
        for n in 0..5 {
            lines.push(format!("line {n}\n"));
        }
        let mut out = Vec::new();
        lines.closing.store(true, Ordering::Release);
        write_lines(&waiting, &lines, &mut out, Format::Human);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("line 0\n") && text.ends_with("line 1\n"), "{text}");
        assert!(text.contains("lost=3"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_is_one_line(text in any::<String>(), json in any::<bool>()) {
            let format = if json { Format::Json } else { Format::Human };
            let lines = logged(format, || tracing::info!(field = text, "{text}"));
            prop_assert_eq!(lines.len(), 1);
            prop_assert!(!lines[0].strip_suffix('\n').unwrap().contains(is_unsafe));
            if json {
                let object: Value = serde_json::from_str(&lines[0]).unwrap();
                prop_assert_eq!(object["message"].as_str(), Some(text.as_str()));
            }
        }
    }
}
