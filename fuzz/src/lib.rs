//! What the fuzz targets do with their input, one function per parser. `make fuzz` runs them under libFuzzer; `tests/it/fuzz_smoke.rs`
//! includes this very file and runs them over the seeds in `fixtures/fuzz/` and some thousands of damaged ones in every test run.
//!
//! A target panics where a parser breaks its promise: besides ending in a value or an error, what arrives in pieces must read like the whole,
//! and what waits for more must stay bounded.

use std::{collections::BTreeMap, time::SystemTime};

use hark::{
    agent::{self, Overrides, Route, fuzz, json_stream::Objects, sentence::MAX_SENTENCE, sse, sts, utf8::Utf8},
    api,
    asterisk::{
        ami, ari,
        audiosocket::{self, wire},
        rtp, websocket,
    },
    audio::{Rate, file, opus, wav},
    config::{Config, Sources},
    net::{self, Pattern},
    webhook::{
        schedule,
        sign::Keys,
        template::{Context, Template, UrlTemplate},
    },
};
use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use serde_json::Value;
use url::Url;

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by the names of their files in `fuzz_targets/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("address_guard", address_guard),
    ("ami_message", ami_message),
    ("api_calls", api_calls),
    ("ari_event", ari_event),
    ("audiosocket_intake", audiosocket_intake),
    ("audiosocket_wire", audiosocket_wire),
    ("call_answer", call_answer),
    ("call_body", call_body),
    ("configuration", configuration),
    ("contract_reply", contract_reply),
    ("json_objects", json_objects),
    ("llm_answer", llm_answer),
    ("opus_packets", opus_packets),
    ("rtp_packet", rtp_packet),
    ("sentences", sentences),
    ("service_urls", service_urls),
    ("sound_file", sound_file),
    ("sse_events", sse_events),
    ("sts_message", sts_message),
    ("sts_vendor", sts_vendor),
    ("stt_text", stt_text),
    ("stt_vendor", stt_vendor),
    ("tts_audio", tts_audio),
    ("tts_vendor", tts_vendor),
    ("utf8_pieces", utf8_pieces),
    ("vendor_answer", vendor_answer),
    ("wav_file", wav_file),
    ("wav_stream", wav_stream),
    ("webhook_template", webhook_template),
    ("webhook_texts", webhook_texts),
    ("websocket_event", websocket_event),
    ("wyoming_events", wyoming_events),
];

/// `data` in pieces of a size that it chooses itself.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let size = usize::from(*data.last().unwrap_or(&0)) % 37 + 1;
    data.chunks(size).collect()
}

/// The same for text, cut between characters.
fn text_pieces(text: &str) -> Vec<&str> {
    let size = usize::from(*text.as_bytes().last().unwrap_or(&0)) % 37 + 1;
    let (mut pieces, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let at = rest.char_indices().nth(size).map_or(rest.len(), |(at, _)| at);
        let (piece, more) = rest.split_at(at);
        pieces.push(piece);
        rest = more;
    }
    pieces
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Messages of AMI.
pub fn ami_message(data: &[u8]) {
    let message = ami::parse(&String::from_utf8_lossy(data));
    let held: usize = message.iter().map(|(name, value)| name.len() + value.len()).sum();
    // bytes that are no text become three each
    assert!(held <= data.len() * 3, "a message grows");
    assert!(message.iter().all(|(name, value)| !name.contains(':') && !value.contains('\n')));
}

/// Orders for live calls, and calls to be made: the first line names what is asked.
pub fn api_calls(data: &[u8]) {
    let (action, body) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let Some(action) = text(action) else { return };
    if let Err(reason) = api::fuzz_calls(action, body) {
        assert!(!reason.is_empty() && reason.len() < 1_000, "{reason}");
    }
}

/// Messages of ARI's events socket.
pub fn ari_event(data: &[u8]) {
    let event = ari::wire::Event::parse(data).ok();
    let padded: Vec<u8> = [b" ", data, b"\n"].concat();
    assert_eq!(event, ari::wire::Event::parse(&padded).ok(), "blanks around an event change it");
}

/// Frames of AudioSocket, cut anywhere.
pub fn audiosocket_wire(data: &[u8]) {
    let splits = &data[..data.len().min(4)];
    assert_eq!(wire::fuzz(data, splits), wire::fuzz(data, &[]), "the number of frames depends on the pieces");
}

/// The caller's audio behind the UUID, of any kind, length and codec.
pub fn audiosocket_intake(data: &[u8]) {
    // the widest step up is from 8 to 192 kHz; two laws take a byte a sample
    assert!(audiosocket::fuzz_intake(data).len() <= data.len() * 24 + 3840, "more audio than was sent");
}

/// Messages of a speech-to-speech service.
pub fn sts_message(data: &[u8]) {
    if let Some(Ok(sts::wire::Message::Audio(payload))) = text(data).map(sts::wire::parse) {
        let mut pcm = Vec::new();
        let _ = sts::wire::decode(payload.as_bytes(), &mut pcm);
        assert!(pcm.len() <= payload.len());
    }
}

/// JSON objects back to back.
pub fn json_objects(data: &[u8]) {
    const LIMIT: usize = 4096;
    let read = |pieces: &[&[u8]]| {
        let (mut objects, mut found) = (Objects::new(LIMIT), Vec::new());
        let result = pieces.iter().try_for_each(|piece| objects.push(piece, |object| found.push(object.to_vec())));
        (result, found, objects.stray(), objects.is_inside())
    };
    let whole = read(&[data]);
    assert!(whole.1.iter().all(|object| object.len() <= LIMIT));
    assert_eq!(whole, read(&pieces(data)), "the objects depend on the pieces");
}

/// The body of a language model's answer: JSON objects or bare text.
pub fn llm_answer(data: &[u8]) {
    // blanks in front of bare text are not spoken, and are kept only where they come with it
    let read = |pieces: &[&[u8]]| fuzz::llm_answer(pieces).map(|(text, audio)| (text.trim_start().to_owned(), audio));
    assert_eq!(read(&[data]), read(&pieces(data)), "the answer depends on the pieces");
}

/// Server-sent events of language models.
pub fn sse_events(data: &[u8]) {
    const LIMIT: usize = 512;
    let read = |pieces: &[&[u8]]| {
        let (mut events, mut found) = (sse::Events::new(LIMIT), Vec::new());
        let mut keep = |event: sse::Event<'_>| found.push((event.kind.to_vec(), event.data.to_vec()));
        let result = pieces.iter().try_for_each(|piece| events.push(piece, &mut keep));
        let result = result.and_then(|()| events.finish(&mut keep));
        (result, found)
    };
    let whole = read(&[data]);
    assert!(whole.1.iter().all(|(kind, data)| kind.len() <= LIMIT && data.len() <= LIMIT));
    assert_eq!(whole, read(&pieces(data)), "the events depend on the pieces");
}

/// A vendor's answer; the first byte says whose.
pub fn vendor_answer(data: &[u8]) {
    let Some((vendor, data)) = data.split_first() else { return };
    let read = |pieces: &[&[u8]]| fuzz::vendor_answer(*vendor, pieces);
    let whole = read(&[data]);
    assert!(whole.len() <= 16 * data.len() + 4_096, "it says more than came");
    assert_eq!(whole, read(&pieces(data)), "the answer depends on the pieces");
}

/// Messages of Hark's own WebSocket contract.
pub fn contract_reply(data: &[u8]) {
    if let Some(line) = text(data).and_then(fuzz::contract_reply) {
        assert!(!line.contains(char::is_control) && line.len() < 4096, "not fit for a log: {line:?}");
    }
}

/// UTF-8 cut anywhere.
pub fn utf8_pieces(data: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let mut utf8 = Utf8::default();
        (pieces.iter().map(|piece| utf8.push(piece)).collect::<String>(), utf8.invalid())
    };
    assert_eq!(read(&[data]), read(&pieces(data)), "the text depends on the pieces");
}

/// Text of a language model cut into sentences.
pub fn sentences(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (whole, _) = fuzz::sentences(&[text]);
    assert!(whole.iter().all(|sentence| sentence.chars().count() <= MAX_SENTENCE), "{whole:?}");
    let (found, waited) = fuzz::sentences(&text_pieces(text));
    assert_eq!(found, whole, "the sentences depend on the pieces");
    assert!(waited <= 8 * MAX_SENTENCE, "{waited} bytes wait for the end of a sentence");
}

/// Messages of vendors of speech to speech, a line each.
pub fn sts_vendor(data: &[u8]) {
    let lines: Vec<_> = data.split(|byte| *byte == b'\n').collect();
    let longest = fuzz::sts_vendor(&lines);
    assert!(longest <= data.len() + 64, "{longest} bytes are told of {}", data.len());
}

/// Messages of vendors of speech recognition, a line each.
pub fn stt_vendor(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let lines: Vec<_> = text.split('\n').collect();
    let (longest, complaints) = fuzz::stt_vendor(&lines);
    assert!(longest <= data.len() + 64, "{longest} bytes are told of {}", data.len());
    fit_for_a_log(&complaints, data);
}

/// Messages of vendors of speech synthesis, a line each.
pub fn tts_vendor(data: &[u8]) {
    let lines: Vec<_> = data.split(|byte| *byte == b'\n').collect();
    let (audio, word, complaints) = fuzz::tts_vendor(&lines);
    assert!(audio <= data.len() && word <= 200, "{audio} bytes, {word}");
    fit_for_a_log(&complaints, data);
}

fn fit_for_a_log(complaints: &[String], data: &[u8]) {
    for told in complaints {
        assert!(
            !told.contains(char::is_control) && told.len() <= 16 * data.len() + 4_096,
            "not fit for a log: {told:?}"
        );
    }
}

/// Events of Wyoming, cut anywhere.
pub fn wyoming_events(data: &[u8]) {
    let (whole, _) = fuzz::wyoming_events(&[data]);
    let (found, _) = fuzz::wyoming_events(&pieces(data));
    assert_eq!(found, whole, "the events depend on the pieces");
}

/// Text of speech recognition joined to utterances.
pub fn stt_text(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (_, waited) = fuzz::stt_text(&text_pieces(text));
    assert!(waited <= 8_000, "{waited} bytes wait for the end of an utterance");
}

/// A WAV file: ambience, apology, what `hark call` says.
pub fn wav_file(data: &[u8]) {
    if let Ok((rate, samples)) = wav::read(data) {
        assert!(rate > 0 && samples.len() <= data.len());
    }
}

/// A sound that an administrator names; the extension is one of those that mean something.
pub fn sound_file(data: &[u8]) {
    let extension = ["wav", "sln16", "ulaw", "mp3"][usize::from(*data.last().unwrap_or(&0)) % 4];
    let read = |pieces: &[&[u8]]| {
        let mut decoder = file::Decoder::new(extension);
        pieces.iter().all(|piece| decoder.push(piece));
        decoder.finish()
    };
    let whole = read(&[data]);
    if let Ok((rate, samples)) = &whole {
        assert!((4_000..=384_000).contains(rate) && !samples.is_empty() && samples.len() <= data.len());
    }
    assert_eq!(whole, read(&pieces(data)), "the sound depends on the pieces");
}

/// Packets of Opus, each behind a byte with its length; an empty one was lost.
pub fn opus_packets(data: &[u8]) {
    let Ok(mut decoder) = opus::Decoder::new(Rate::R16K) else { return };
    let (mut rest, mut samples) = (data, Vec::new());
    // decoding takes its time: enough packets to remember something
    for _ in 0..8 {
        let Some((&len, behind)) = rest.split_first() else { break };
        let (packet, later) = behind.split_at(usize::from(len).min(behind.len()));
        rest = later;
        samples.clear();
        let done = match packet {
            [] => decoder.conceal(Some(later).filter(|later| !later.is_empty()), &mut samples),
            packet => decoder.decode(packet, &mut samples),
        };
        assert!(samples.len() <= 1_920 && (done.is_ok() || samples.is_empty()));
    }
}

/// Audio that may begin with a WAV header.
pub fn wav_stream(data: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let (mut stripper, mut out) = (wav::Stripper::new(), Vec::new());
        pieces.iter().for_each(|piece| stripper.push(piece, &mut out));
        let format = stripper.format();
        stripper.finish(&mut out);
        (out, format)
    };
    let whole = read(&[data]);
    assert!(whole.0.len() <= data.len());
    assert_eq!(whole, read(&pieces(data)), "the samples depend on the pieces");
}

/// Speech of a synthesis service, brought to the rate of the call.
pub fn tts_audio(data: &[u8]) {
    // a header may claim any rate down to 4 kHz, with a byte a sample
    assert!(fuzz::tts_audio(&pieces(data)).len() <= data.len() * 2 + 64, "more audio than was sent");
}

/// The body of `POST /call`.
pub fn call_body(data: &[u8]) {
    match api::fuzz_body(data) {
        Ok(url) => assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url:?}"),
        Err(why) => assert!(!why.contains(char::is_control) && why.len() < 400, "{why:?}"),
    }
}

/// What a webhook receiver answers to `call_initiated`.
pub fn call_answer(data: &[u8]) {
    if let Some((url, announcement)) = api::fuzz_answer(data) {
        let urls = [url, announcement.asr_url, announcement.llm_url, announcement.tts_url];
        assert!(urls.iter().flatten().all(|url| url.bytes().all(|byte| byte.is_ascii_graphic())), "{urls:?}");
    }
}

/// URLs of services, one a line: sts, asr, llm, tts.
pub fn service_urls(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let mut lines = text.lines().map(str::to_owned);
    let [sts, asr, llm, tts] = std::array::from_fn(|_| lines.next());
    let overrides = Overrides { sts, asr, llm, tts, greeting: None };
    if let Err(error) = Route::parse(&agent::Config::default(), &overrides) {
        let error = error.to_string();
        assert!(!error.contains(char::is_control), "not fit for a log: {error:?}");
    }
}

/// `hark.toml`; lines `NAME=VALUE` behind a NUL are the environment.
pub fn configuration(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (file, env) = text.split_once('\0').unwrap_or((text, ""));
    let env: BTreeMap<String, String> =
        env.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    match Config::fuzz(file, &Sources { env, ..Sources::default() }) {
        Ok(config) => assert!(!format!("{config:?}").is_empty()),
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

/// An entry of `routing.allow_hosts`, and behind a line break a URL from outside.
pub fn address_guard(data: &[u8]) {
    let Some((pattern, url)) = text(data).and_then(|text| text.split_once('\n')) else { return };
    let pattern: Result<Pattern, _> = pattern.parse();
    if let Ok(pattern) = &pattern {
        assert_eq!(pattern.to_string().parse().as_ref(), Ok(pattern), "written out it is another");
    }
    if let Ok(url) = Url::parse(url) {
        let open = net::check(&url, &[]);
        let narrow = pattern.map(|pattern| net::check(&url, &[pattern]));
        assert!(
            open.is_ok() || !matches!(narrow, Ok(Ok(()))),
            "a list of hosts lets pass what nothing may reach: {url}"
        );
    }
}

/// A payload template, an address template and a call's context, one a line.
pub fn webhook_template(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let [payload, address, members] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let members = match serde_json::from_str(members) {
        Ok(Value::Object(members)) => members,
        _ => serde_json::Map::new(),
    };
    let context = Context { members, now: SystemTime::UNIX_EPOCH };
    if let Ok(payload) = serde_json::from_str::<Value>(payload) {
        for typed in [false, true] {
            let rendered = Template::new(&payload, typed).render(&context);
            assert_eq!(
                rendered.is_object(),
                payload.is_object() || (typed && payload.is_string() && rendered.is_object())
            );
        }
    }
    if let Ok(template) = UrlTemplate::new(address)
        && let Ok(url) = template.render(&context)
        && !template.chooses_host()
        && let Some((head, rest)) = address.split_once("{{")
        // a {{ that nothing closes, or that holds another, is text; the text \n is a line break
        && rest.split_once("}}").is_some_and(|(inside, _)| !inside.is_empty() && !inside.contains(|c: char| c.is_whitespace() || "{}|".contains(c)))
        && let Ok(fixed) = Url::parse(&format!("{}x", head.replace("\\n", "\n")))
    {
        assert_eq!((url.host(), url.port()), (fixed.host(), fixed.port()), "a value leads to another host");
    }
}

/// A signing secret, and behind a line break a `Retry-After`.
pub fn webhook_texts(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (secret, after) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(keys) = secret.parse::<Keys>() {
        assert_eq!(keys.expose().parse().as_ref(), Ok(&keys), "written out it is another");
    }
    if let Ok(after) = HeaderValue::from_str(after) {
        let _ = schedule::retry_after(&HeaderMap::from_iter([(RETRY_AFTER, after)]), SystemTime::UNIX_EPOCH);
    }
}

/// What chan_websocket says in a text message.
pub fn websocket_event(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = websocket::wire::fuzz(&text);
}

/// Datagrams of RTP, each behind a byte with its length.
pub fn rtp_packet(data: &[u8]) {
    let (mut rest, mut keys, mut pressed) = (data, rtp::wire::Keys::default(), 0);
    let mut events = 0;
    while let Some((&len, behind)) = rest.split_first() {
        let (datagram, later) = behind.split_at(usize::from(len).min(behind.len()));
        rest = later;
        let Ok(packet) = rtp::wire::parse(datagram) else { continue };
        assert!(!packet.payload.is_empty() && packet.payload.len() + rtp::wire::HEADER <= datagram.len());
        let mut bytes = Vec::new();
        rtp::wire::put(&mut bytes, &packet);
        assert_eq!(rtp::wire::parse(&bytes), Ok(packet), "written out it is another");
        if let Some(key) = rtp::wire::key(packet.payload) {
            events += 1;
            pressed += u32::from(keys.take(packet.timestamp, key).is_some());
        }
    }
    assert!(pressed <= events, "more keys than packets of them");
    rtp::fuzz_jitter(data);
}
