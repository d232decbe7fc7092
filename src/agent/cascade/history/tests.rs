use super::*;

fn say(history: &mut History, text: &str, samples: usize) -> UtteranceId {
    let id = history.begin(text.to_owned(), false);
    history.sent(id, samples);
    history.ended(id);
    id
}

fn contents(history: &History) -> Vec<(&'static str, String)> {
    history.messages().into_iter().map(|message| (message.role(), message.text().to_owned())).collect()
}

#[test]
fn a_cut_answer_holds_what_was_heard() {
    let mut history = History::new(Rate::R8K, Some("Be kind.".to_owned()), 90_000);
    history.user("Hi");
    history.answer(true);
    let first = say(&mut history, "One two.", 8_000);
    let second = say(&mut history, "Three four five six.", 16_000);
    say(&mut history, "Never.", 8_000);
    history.played(first);
    history.interrupt(Some(second), Duration::from_millis(1_100));
    assert_eq!(history.transcripts(false), ["One two. Three four"]);
    assert!(history.transcripts(true).is_empty());
    let expected = [("system", "Be kind."), ("user", "Hi"), ("assistant", "One two. Three four")];
    assert_eq!(contents(&history), expected.map(|(role, text)| (role, text.to_owned())));
}

#[test]
fn words_whose_times_are_known_are_cut_exactly() {
    let word = |text: &str, ms| Word { text: text.to_owned(), end: Duration::from_millis(ms) };
    let heard = |words: Vec<Word>, ms| {
        let mut history = History::new(Rate::R8K, None, 90_000);
        history.answer(true);
        let id = say(&mut history, "Well, ten o'clock is late.", 16_000);
        history.timed(id, words);
        history.interrupt(Some(id), Duration::from_millis(ms));
        history.transcripts(false).pop().unwrap_or_default()
    };
    let told =
        || vec![word("Well", 900), word("ten", 1_000), word("o'clock", 1_100), word("is", 1_800), word("late", 1_900)];
    assert_eq!(heard(told(), 1_050), "Well, ten");
    assert_eq!(heard(told(), 899), "");
    assert_eq!(heard(told(), 1_950), "Well, ten o'clock is late.");
    assert_eq!(heard(vec![word("Well", 500), word("10", 600), word("o'clock", 700)], 650), "Well 10");
}

#[test]
fn protected_speech_is_not_cut_with_the_rest() {
    let mut history = History::new(Rate::R8K, None, 90_000);
    history.answer(true);
    let one = say(&mut history, "One two.", 8_000);
    history.answer_ended();
    history.answer(true);
    let notice = history.begin("This call is recorded.".to_owned(), true);
    history.interrupt(Some(one), Duration::from_millis(500));
    history.ended(notice);
    history.answer_ended();
    history.played(notice);
    assert_eq!(history.transcripts(false), ["One", "This call is recorded."]);
}

#[test]
fn an_answer_nobody_heard_is_not_there() {
    let mut history = History::new(Rate::R8K, None, 90_000);
    history.user("Hi");
    history.answer(true);
    say(&mut history, "Hello.", 8_000);
    history.interrupt(None, Duration::ZERO);
    assert!(history.transcripts(true).is_empty());
    assert_eq!(contents(&history), [("user", "Hi".to_owned())]);
}

#[test]
fn a_turn_without_an_answer_goes_on() {
    let mut history = History::new(Rate::R8K, None, 90_000);
    assert_eq!(history.user_continues("I want"), "I want");
    history.answer(true);
    assert_eq!(history.user_continues("a table"), "I want a table");
    history.answer(true);
    say(&mut history, "Sure.", 10);
    assert_eq!(history.user_continues("thanks"), "thanks");
    assert_eq!(history.messages().len(), 3);
}

#[test]
fn the_transcript_waits_for_the_last_word() {
    let mut history = History::new(Rate::R8K, None, 90_000);
    history.answer(false);
    let one = say(&mut history, "One.", 10);
    history.played(one);
    assert!(history.transcripts(false).is_empty());
    history.answer_ended();
    assert_eq!(history.transcripts(false), ["One."]);
    assert!(history.messages().is_empty());
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.to_owned(), name: "f".to_owned(), arguments: "{}".to_owned(), signature: None }
}

#[test]
fn tools_stand_before_what_was_said_and_every_call_has_an_answer() {
    let mut history = History::new(Rate::R8K, None, 90_000);
    history.user("Hi");
    history.answer(true);
    history.called(&[call("a"), call("b")]);
    history.returned("a", &Outcome::done("5".to_owned()));
    say(&mut history, "Five.", 10);
    history.user("and?");
    let roles: Vec<_> = history.messages().iter().map(Message::role).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "assistant", "user"]);
    let Message::Result { id, failed, .. } = &history.messages()[3] else { panic!() };
    assert_eq!((id.as_str(), *failed), ("b", true));
    // what was done stays, though nothing of the answer was heard
    history.answer(true);
    history.called(&[call("c")]);
    assert_eq!(history.user_continues("more"), "more");
    assert_eq!(history.messages().len(), 9);
}

#[test]
fn what_tools_answered_is_bounded() {
    let mut history = History::new(Rate::R8K, None, usize::MAX);
    for n in 0..200 {
        history.user("x");
        history.answer(true);
        history.called(&[call(&n.to_string())]);
        history.returned(&n.to_string(), &Outcome::done("\u{4f60}".repeat(50_000)));
    }
    let kept: usize =
        history.messages().iter().filter(|message| message.role() == "tool").map(|m| m.text().len()).sum();
    assert!((MAX_TOOLS / 2..=MAX_TOOLS).contains(&kept), "{kept}");
}

#[test]
fn messages_fit_into_a_body_of_100_kb() {
    let mut history = History::new(Rate::R8K, Some("system".to_owned()), 90_000);
    for n in 0..500 {
        history.user(&format!("{n}{}", "\u{1}".repeat(500)));
    }
    let messages = history.messages();
    assert!(serde_json::to_string(&messages).unwrap().len() < 95_000);
    assert_eq!(messages[0].role(), "system");
    assert!(messages.last().unwrap().text().starts_with("499"));
}
