//! What the embedded receptionist understands by telephone, and of whom: `make quality ARGS=receptionist`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use hark::{
    agent::embedded::{
        Config, Engine, models,
        script::{Act, Machine, Script, Turn, normal},
    },
    audio::{Rate, g711::Law, resample::Resampler, wav},
};
use tokio::runtime::Runtime;

use crate::{
    speech::{self, HZ},
    table::{self, percent},
};

/// A small office.
const OFFICE: &str = r#"
[[places]]
name = "operator"
say = "our operator"
exten = "0"
confirm = false
[[places]]
name = "sales"
say = "the sales department"
also = ["sales department"]
exten = "300"
[[places]]
name = "support"
say = "technical support"
also = ["technical support"]
exten = "301"
[[places]]
name = "john"
say = "John Smith"
also = ["John Smith"]
exten = "201"
[[places]]
name = "maria"
say = "Maria Garcia"
also = ["Maria Garcia"]
exten = "202"
[[places]]
name = "peter"
say = "Peter Anderson"
also = ["Peter Anderson"]
exten = "55512"
"#;

/// What a caller has said before.
const NOTHING: &[&str] = &[];
const SALES: &[&str] = &["sales"];
const HOURS: &[&str] = &["opening hours"];
const NAME: &[&str] = &["leave a message"];
const NUMBER: &[&str] = &["leave a message", "John"];
const CONFIRM: &[&str] = &["leave a message", "John", "none", "Hello."];

/// Groups of phrases: what was said before them, and the phrases.
const PHRASES: &[(&str, &[&str], &[&str])] = &[
    (
        "opening hours",
        NOTHING,
        &["What are your opening hours?", "Are you open on Monday?", "When do you close?", "Are you open today?"],
    ),
    (
        "a department",
        NOTHING,
        &[
            "I would like to speak to the sales department.",
            "Sales, please.",
            "Technical support.",
            "Can you put me through to support?",
        ],
    ),
    (
        "a person",
        NOTHING,
        &[
            "May I speak to John Smith?",
            "Maria Garcia, please.",
            "I would like to talk to Peter Anderson.",
            "Is John Smith there?",
        ],
    ),
    (
        "an extension",
        NOTHING,
        &[
            "Extension two oh one.",
            "Extension three hundred, please.",
            "Two zero two.",
            "Extension five five five one two.",
            "Connect me to three oh one.",
        ],
    ),
    (
        "the operator",
        NOTHING,
        &["Operator.", "Can I speak to a real person?", "I want to talk to somebody.", "Operator, please."],
    ),
    (
        "a message",
        NOTHING,
        &["I would like to leave a message.", "Can you take a message?", "Please have him call me back."],
    ),
    (
        "repeat",
        HOURS,
        &[
            "Can you repeat that?",
            "Repeat that, please.",
            "Sorry, what did you say?",
            "Could you say that again?",
            "Pardon?",
        ],
    ),
    ("yes", SALES, &["Yes.", "Yes, please.", "Yeah.", "That's right.", "Sure."]),
    ("no", HOURS, &["No.", "No, thank you.", "No, that's all.", "Nope."]),
    (
        "a number",
        NUMBER,
        &[
            "Five five five one two.",
            "Five five five, one two three four.",
            "Zero three zero, double four, seven eight.",
            "Twenty three, forty five, sixty seven.",
            "One eight hundred, five five five.",
        ],
    ),
    ("a name", NAME, &["My name is Jane Miller.", "John Smith.", "This is Robert Brown."]),
    ("is it right", CONFIRM, &["Yes, that is right.", "No, that is wrong."]),
    ("goodbye", NOTHING, &["Goodbye.", "Bye bye.", "That's all, thank you."]),
];

/// A text at 8 kHz, if it can be had.
type Says = dyn Fn(&str) -> Option<Vec<i16>>;

/// Somebody who speaks.
struct Speaker {
    name: String,
    says: Box<Says>,
}

/// What one said, and what became of it.
struct Said {
    group: usize,
    speaker: usize,
    understood: bool,
}

/// Recorded digits and words of a person, put together: what is to be understood, what was said before, and the prompts.
const RECORDED: &[(&str, &[&str], &[&str])] = &[
    ("extension two oh one", NOTHING, &["extension", "digits/2", "digits/oh", "digits/1"]),
    ("extension three hundred", NOTHING, &["extension", "digits/3", "digits/hundred"]),
    ("five five five one two", NUMBER, &["digits/5", "digits/5", "digits/5", "digits/1", "digits/2"]),
    (
        "zero three zero four four seven eight",
        NUMBER,
        &["digits/0", "digits/3", "digits/0", "digits/4", "digits/4", "digits/7", "digits/8"],
    ),
    (
        "nine eight seven six five four",
        NUMBER,
        &["digits/9", "digits/8", "digits/7", "digits/6", "digits/5", "digits/4"],
    ),
    (
        "twenty three forty five sixty seven",
        NUMBER,
        &["digits/20", "digits/3", "digits/40", "digits/5", "digits/60", "digits/7"],
    ),
    ("goodbye", NOTHING, &["vm-goodbye"]),
    ("goodbye", NOTHING, &["goodbye"]),
    ("hello", NOTHING, &["hello"]),
    ("press five to leave a message", NOTHING, &["vm-leavemsg"]),
    ("press five to repeat the current message", HOURS, &["vm-repeat"]),
    ("waiting to speak with a representative", NOTHING, &["queue-callswaiting"]),
    ("hours", NOTHING, &["hours"]),
];

pub fn report() {
    let variable = |name: &str| std::env::var(name).ok();
    let dirs = [models::usual_dir(variable, Path::new("")), speech::cache().join("models")];
    let Some(dir) = dirs.into_iter().find(|dir| models::are_installed(dir)) else {
        println!("\nWhat the receptionist understands is NOT measured: there are no models (make models)");
        return;
    };
    let runtime = Runtime::new().unwrap();
    let engine = runtime.block_on(Engine::start(&dir, &Config::default(), "flite", runtime.handle().clone())).unwrap();
    let script = Script::parse(OFFICE).unwrap();
    let speakers = speakers(&runtime, &engine);
    let mut all = Vec::new();
    for (speaker, who) in speakers.iter().enumerate() {
        for (group, (_, before, phrases)) in PHRASES.iter().enumerate() {
            for phrase in *phrases {
                let Some(samples) = (who.says)(phrase) else { continue };
                let heard = runtime.block_on(engine.recognise(by_telephone(&samples), Rate::R8K)).unwrap_or_default();
                let understood = same(&script, before, phrase, &heard);
                if !understood {
                    println!("{:14} {phrase:?} was heard as {heard:?}", who.name);
                }
                all.push(Said { group, speaker, understood });
            }
        }
    }
    print(&speakers, &all);
    recorded(&runtime, &engine, &script);
}

fn print(speakers: &[Speaker], all: &[Said]) {
    let share = |of: &dyn Fn(&Said) -> bool| {
        let said = all.iter().filter(|said| of(said));
        percent(said.clone().filter(|said| said.understood).count(), said.count())
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (group, (name, _, phrases)) in PHRASES.iter().enumerate() {
        rows.push(vec![format!("{name} ({} phrases)", phrases.len()), share(&|said| said.group == group)]);
    }
    rows.push(vec!["all".to_owned(), share(&|_| true)]);
    table::print("What the receptionist understands, G.711 at 8 kHz: by what is said", &["", "understood"], &rows);
    let rows: Vec<_> = speakers
        .iter()
        .enumerate()
        .map(|(speaker, who)| vec![who.name.clone(), share(&|said| said.speaker == speaker)])
        .collect();
    table::print("The same by who says it", &["voice", "understood"], &rows);
}

/// A person whose words were put together out of recordings.
fn recorded(runtime: &Runtime, engine: &Engine, script: &Script) {
    let mut rows = Vec::new();
    for (text, before, prompts) in RECORDED {
        let mut samples = Vec::new();
        for name in *prompts {
            let path = speech::cache().join(format!("speech/en_US_f_Allison/{name}.wav"));
            let Ok(prompt) = speech::read(&path) else { continue };
            samples.extend(prompt);
            samples.resize(samples.len() + HZ / 10, 0);
        }
        let heard = runtime.block_on(engine.recognise(by_telephone(&samples), Rate::R8K)).unwrap_or_default();
        let understood = if same(script, before, text, &heard) { "yes" } else { "NO" };
        rows.push(vec![(*text).to_owned(), heard, understood.to_owned()]);
    }
    table::print("A person (Asterisk's prompts)", &["said", "heard", "understood"], &rows);
}

/// Whether what was heard leads where what was said leads.
fn same(script: &Script, before: &[&str], said: &str, heard: &str) -> bool {
    let turn = |text: &str| {
        let mut machine = Machine::new(script, None, "Hello.");
        before.iter().for_each(|text| drop(machine.hear(text)));
        let turn = machine.hear(text);
        // a number or a name is known by what is made of it
        match (before, turn.act.is_none()) {
            (NUMBER, true) => number(&mut machine),
            (NAME, true) => vec![normal(&turn.says.concat()).concat(), machine_name(&mut machine)],
            _ => outcome(&turn),
        }
    };
    let wanted = turn(said);
    assert!(!wanted.concat().contains("did not understand"), "{said:?} means nothing in this office");
    wanted == turn(heard)
}

/// Whom it connects to, asked or not, or what it says and does.
fn outcome(turn: &Turn) -> Vec<String> {
    let says = turn.says.join(" ");
    let to = ["Would you like to speak to ", "One moment please, I will connect you to "];
    let place = to.iter().find_map(|prefix| says.strip_prefix(prefix)).map(|name| name.trim_end_matches(['.', '?']));
    match (place, &turn.act) {
        (Some(place), _) => vec![place.to_owned()],
        (None, act) => vec![says, format!("{act:?}")],
    }
}

fn message(machine: &mut Machine<'_>, answers: &[&str]) -> Option<hark::agent::embedded::script::Message> {
    let turns = answers.iter().map(|text| machine.hear(text)).collect::<Vec<_>>();
    turns.into_iter().find_map(|turn| match turn.act {
        Some(Act::Message(message)) => Some(message),
        _ => None,
    })
}

fn number(machine: &mut Machine<'_>) -> Vec<String> {
    vec![message(machine, &["Hi.", "yes"]).map(|message| message.number).unwrap_or_default()]
}

fn machine_name(machine: &mut Machine<'_>) -> String {
    message(machine, &["none", "Hi.", "yes"]).map(|message| message.name.to_lowercase()).unwrap_or_default()
}

/// Those who can be had here.
fn speakers(runtime: &Runtime, engine: &Engine) -> Vec<Speaker> {
    let mut speakers = Vec::new();
    let (handle, piper) = (runtime.handle().clone(), engine.clone());
    speakers.push(Speaker {
        name: format!("{} joe", engine.voice()),
        says: Box::new(move |text| {
            let mut coming = piper.speak(text, Rate::R8K);
            handle.block_on(async move {
                let mut samples = Vec::new();
                while let Some(part) = coming.recv().await {
                    samples.extend_from_slice(&part.ok()?);
                }
                Some(samples)
            })
        }),
    });
    for voice in ["kal16", "slt", "rms", "awb"] {
        let arguments = move |text: &str, to: &Path| {
            vec!["-voice".into(), voice.into(), "-t".into(), text.into(), "-o".into(), to.into()]
        };
        speakers.push(program("flite", voice, arguments));
    }
    for voice in ["en-us", "en-gb", "en-us+f3", "en-us+m3"] {
        let arguments = move |text: &str, to: &Path| {
            vec!["-v".into(), voice.into(), "-s".into(), "150".into(), "-w".into(), to.into(), text.into()]
        };
        speakers.push(program("espeak-ng", voice, arguments));
    }
    speakers
}

fn program(name: &'static str, voice: &str, arguments: impl Fn(&str, &Path) -> Vec<PathBuf> + 'static) -> Speaker {
    let says = move |text: &str| {
        let file = tempfile::Builder::new().suffix(".wav").tempfile().ok()?;
        let done = Command::new(name).args(arguments(text, file.path())).output().ok()?;
        let (hz, samples) = wav::read(&std::fs::read(file.path()).ok()?).ok()?;
        done.status.success().then(|| resampled(&samples, hz, HZ as u32))
    };
    Speaker { name: format!("{name} {voice}"), says: Box::new(says) }
}

/// As it is when it has come by telephone.
fn by_telephone(samples: &[i16]) -> Vec<i16> {
    let loud: Arc<[i16]> = speech::at_level(samples, -22.0).into();
    let mut line = vec![0; HZ * 3 / 10];
    line.extend(loud.iter().map(|sample| Law::Ulaw.decode_byte(Law::Ulaw.encode_sample(*sample))));
    line.resize(line.len() + HZ / 2, 0);
    line
}

fn resampled(samples: &[i16], from: u32, to: u32) -> Vec<i16> {
    let mut resampler = Resampler::new(from, to);
    let mut out = Vec::new();
    resampler.process(samples, &mut out);
    resampler.finish(&mut out);
    out
}
