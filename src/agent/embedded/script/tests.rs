use proptest::prelude::*;

use super::*;

const OFFICE: &str = r#"
    [say]
    greeting = "Hello, this is the bakery."
    [fallback]
    after = 2
    then = "operator"
    [[intents]]
    name = "opening_hours"
    phrases = ["opening hours", "are you open"]
    do = "answer"
    say = "We are open all day."
    [[intents]]
    name = "prices"
    phrases = ["how much", "what does it cost"]
    do = "answer"
    say = "Bread is two dollars."
    [[places]]
    name = "operator"
    say = "our operator"
    exten = "100"
    confirm = false
    [[places]]
    name = "sales"
    say = "the sales department"
    also = ["Jane Miller", "order bread"]
    exten = "200"
    context = "internal"
"#;

fn office() -> Script {
    Script::parse(OFFICE).unwrap()
}

/// What is said and done, turn by turn.
fn talk(script: &Script, turns: &[&str]) -> Vec<(String, Option<Act>)> {
    let mut machine = Machine::new(script, Some("+49301234"), "Hello.");
    let said = turns.iter().map(|text| match text.strip_prefix('!') {
        Some(failed) => machine.done(failed, true),
        None => match text.strip_prefix('=') {
            Some(done) => machine.done(done, false),
            None => machine.hear(text),
        },
    });
    said.map(|turn| (turn.says.join(" "), turn.act)).collect()
}

fn last(script: &Script, turns: &[&str]) -> (String, Option<Act>) {
    talk(script, turns).pop().unwrap()
}

fn transfer(to: &str) -> Option<Act> {
    Some(Act::Transfer(to.to_owned()))
}

#[test]
fn hours_are_understood_as_they_are_heard_by_telephone() {
    for heard in ["What are your opening hours?", "What are you opening our?", "Your opening hour, please."] {
        let said = last(&Script::default(), &[heard]);
        assert!(said.0.contains("from Monday to Friday"), "{heard}: {said:?}");
    }
}

#[test]
fn the_compiled_in_script_is_whole() {
    let script = Script::parse("").unwrap();
    assert_eq!(script, Script::default());
    assert!(script.greeting().starts_with("Hello") && script.intents.len() > 8 && script.places.is_empty());
    assert!(PLACEHOLDERS.iter().all(|(name, _)| script.say[*name].contains('{')));
    assert!(script.transfer_to().is_empty());
}

#[test]
fn a_file_changes_what_it_says_and_leaves_the_rest() {
    let script = office();
    assert_eq!(script.greeting(), "Hello, this is the bakery.");
    assert_eq!(script.transfer_to(), ["operator=100", "sales=200@internal"]);
    assert_eq!(last(&script, &["Are you open today?"]).0, "We are open all day. Is there anything else?");
    assert_eq!(last(&script, &["How much is the bread?"]).0, "Bread is two dollars. Is there anything else?");
    assert_eq!(last(&script, &["Thank you."]).0, "You are welcome. Is there anything else?");
}

#[test]
fn a_caller_is_connected_to_whom_they_name() {
    let script = office();
    assert_eq!(
        last(&script, &["I'd like to talk to sales, please."]).0,
        "Would you like to speak to the sales department?"
    );
    let (says, act) = last(&script, &["May I speak to Jayne Miller?", "Yes, please."]);
    assert_eq!(
        (says.as_str(), act),
        ("One moment please, I will connect you to the sales department.", transfer("sales"))
    );
    // asked for a name, a clear one is enough
    assert_eq!(last(&script, &["I want to speak to a colleague", "sales"]).1, transfer("sales"));
    assert_eq!(last(&script, &["connect me to extension two hundred", "yes"]).1, transfer("sales"));
    assert_eq!(last(&script, &["operator"]).1, transfer("operator"));
    assert_eq!(last(&script, &["sales", "no", "the operator"]).1, transfer("operator"));
    assert_eq!(last(&script, &["sales", "no, the operator"]).1, transfer("operator"));
    assert_eq!(last(&script, &["sales", "how much is bread"]).0, "Bread is two dollars. Is there anything else?");
}

#[test]
fn without_places_a_message_is_offered() {
    let script = Script::default();
    let turns = ["Waiting to speak with her representative.", "Yes."];
    let said = talk(&script, &turns);
    assert!(said[0].0.starts_with("I'm sorry, I cannot connect you"), "{said:?}");
    assert!(said[1].0.starts_with("I will take a message"), "{said:?}");
    assert_eq!(
        last(&script, &["Waiting to speak with her representative.", "no"]).0,
        "All right. Is there anything else?"
    );
}

#[test]
fn a_message_is_taken_down_confirmed_and_kept() {
    let script = office();
    let turns = [
        "Press five to leave a message.",
        "My name is John Smith.",
        "Five five five, one two three.",
        "Hello, please call back.",
    ];
    let said = talk(&script, &turns);
    assert_eq!(said[3].0, "I have a message from John Smith: Hello, please call back. Is that right?");
    let mut all = turns.to_vec();
    all.push("Yes.");
    let (says, act) = last(&script, &all);
    let kept = Message {
        name: "John Smith".into(),
        number: "555123".into(),
        message: "Hello, please call back.".into(),
        to: None,
    };
    assert_eq!((says.as_str(), act), ("", Some(Act::Message(kept))));
    all.push("=take_message");
    assert_eq!(last(&script, &all).0, "Thank you, I will pass that on. Is there anything else?");
    *all.last_mut().unwrap() = "!take_message";
    assert!(last(&script, &all).0.starts_with("I'm sorry, the message could not be kept."));
    // not right: once more
    all.truncate(4);
    all.extend(["No.", "Call me tomorrow.", "That's right."]);
    assert!(matches!(last(&script, &all).1, Some(Act::Message(kept)) if kept.message == "Call me tomorrow."));
}

#[test]
fn numbers_may_be_those_they_call_from_or_none() {
    let script = office();
    let number = |says: &[&str]| {
        let mut turns = vec!["leave a message for Jane Miller", "Bob"];
        turns.extend(says);
        turns.extend(["Hi.", "yes"]);
        match last(&script, &turns).1 {
            Some(Act::Message(Message { number, to, .. })) => {
                assert_eq!(to.as_deref(), Some("the sales department"));
                number
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(number(&["Use the number I'm calling from."]), "+49301234");
    assert_eq!(number(&["none"]), "");
    assert_eq!(number(&["Well, let me think.", "30 12 34"]), "301234");
    assert_eq!(number(&["Well, let me think.", "I lost it."]), "");
    assert_eq!(last(&script, &["leave a message", "cancel"]).0, "All right. Is there anything else?");
}

#[test]
fn a_number_is_read_back_and_may_be_corrected() {
    let script = Script::default();
    let mut turns = vec!["leave a message", "Bob", "five five one"];
    assert_eq!(last(&script, &turns).0, "I have noted 5 5 1. What is your message?");
    turns.push("No, that's wrong.");
    assert!(last(&script, &turns).0.starts_with("I'm sorry, which number was that?"));
    turns.extend(["five nine one", "No milk today, thank you very much.", "Yes, nothing wrong with it."]);
    let (_, Some(Act::Message(kept))) = last(&script, &turns) else { panic!() };
    assert_eq!((kept.number.as_str(), kept.message.as_str()), ("591", "No milk today, thank you very much."));
}

#[test]
fn what_was_misheard_is_asked_about() {
    let script = office();
    assert_eq!(last(&script, &["extension to oh oh"]).0, "Would you like to speak to the sales department?");
    assert_eq!(last(&script, &["upper hater please"]).0, "Would you like to speak to our operator?");
    assert_eq!(last(&Script::default(), &["I'll open on Monday"]).0, last(&Script::default(), &["are you open"]).0);
}

#[test]
fn a_failed_transfer_ends_in_a_message_for_them() {
    let said = talk(&office(), &["operator", "!transfer", "Yes.", "Ann", "none", "Hi", "yes"]);
    assert!(said[1].0.starts_with("I'm sorry, our operator cannot be reached now."), "{said:?}");
    assert!(
        matches!(&said[6].1, Some(Act::Message(message)) if message.to.as_deref() == Some("our operator")),
        "{said:?}"
    );
}

#[test]
fn what_is_not_understood_leads_somewhere() {
    let script = office();
    let said = talk(&script, &["blah", "blah blah"]);
    assert_eq!(said[0].0, "I'm sorry, I did not understand that.");
    assert_eq!(said[1].1, transfer("operator"));
    let said = talk(&Script::default(), &["blah"; 4]);
    assert!(said[1].0.contains("You can ask for our opening hours") && said[2].1.is_none(), "{said:?}");
    assert_eq!(said[3].1, Some(Act::Hangup));
    // understood in between: it begins anew
    assert_eq!(last(&script, &["blah", "how much", "blah"]).1, None);
    // the open question is asked again
    assert!(last(&script, &["sales", "blah"]).0.ends_with("Would you like to speak to the sales department?"));
}

#[test]
fn small_talk_repetition_and_goodbye() {
    let script = office();
    assert_eq!(last(&script, &["Press five to repeat the current message."]).0, "Hello.");
    let said = talk(&script, &["how much", "Pardon?", "no thanks"]);
    assert_eq!(said[0].0, said[1].0);
    assert_eq!(said[2], ("Thank you for calling. Goodbye.".to_owned(), Some(Act::Hangup)));
    assert_eq!(
        last(&script, &["how much", "No, are you open today?"]).0,
        "We are open all day. Is there anything else?"
    );
    assert_eq!(last(&script, &["how much", "no, thank you very much"]).1, Some(Act::Hangup));
    assert_eq!(last(&script, &["Goodbye."]).1, Some(Act::Hangup));
    assert_eq!(last(&script, &["how much", "Yes"]).0, "How can I help you?");
    assert!(last(&script, &["who are you"]).0.starts_with("I am Hark"));
}

#[test]
fn what_is_wrong_is_told_at_once_and_where() {
    let wrong = r#"
        [say]
        greting = "x"
        transferring = "To {who}"
        [fallback]
        after = 0
        then = "nowhere"
        [[intents]]
        name = "a"
        phrases = ["?!"]
        do = "answer"
        [[intents]]
        name = "b"
        phrases = ["b"]
        do = "transfer"
        to = "x"
        [[places]]
        name = "p"
        exten = "_2XX"
    "#;
    let told = Script::parse(wrong).unwrap_err().to_string();
    for part in [
        "say.greting: there is no such sentence; there are anything_else",
        "say.transferring: {who} is not known here; known are: name",
        "intents: \"a\": a phrase without letters",
        "intents: \"a\": do = \"answer\" needs `say`",
        "to = \"x\" is no place; there are p",
        "places: \"p\": ",
        "fallback.then = \"nowhere\"",
        "fallback.after = 0",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
    let told = Script::parse("[[intents]]\nname = 1").unwrap_err().to_string();
    assert!(told.contains("line 2"), "{told}");
    let told = Script::parse("[[intents]]\nname = \"x\"\nphrases = []\ndo = \"dance\"").unwrap_err().to_string();
    assert!(told.contains("dance") && told.contains("transfer"), "{told}");
}

#[test]
fn what_people_write_is_understood_or_explained() {
    let place = |text: &str| Script::parse(&format!("[[places]]\nname = \"a\"\n{text}"));
    assert_eq!(place("exten = 201").unwrap().transfer_to(), ["a=201"]);
    let told = place("exten = true").unwrap_err().to_string();
    assert!(told.contains("an extension in quotes, as in \"201\"") && told.ends_with("\"201\""), "{told}");
    assert!(place("exten = -1").is_err());
    // half of a section leaves the rest of it
    let script = Script::parse("[fallback]\nthen = \"goodbye\"").unwrap();
    assert_eq!(script.fallback, Fallback { after: 2, then: "goodbye".to_owned() });
    let twice = r#"
        [[intents]]
        name = "hours"
        phrases = ["are you open", "Opening hours"]
        do = "help"
        [[intents]]
        name = "bread"
        phrases = ["how much", "opening hours!"]
        do = "help"
        [[intents]]
        name = "bread"
        phrases = ["price"]
        do = "help"
        [[places]]
        name = "jane"
        also = ["Jane Miller"]
        exten = "1"
        [[places]]
        name = "boss"
        also = ["jane miller"]
        exten = "2"
    "#;
    let told = Script::parse(twice).unwrap_err().to_string();
    for part in [
        "the phrase \"opening hours\" is in both \"hours\" and \"bread\"",
        "intents: \"bread\" is there twice",
        "\"jane miller\" is a name of both \"jane\" and \"boss\"",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("latin1.toml");
    std::fs::write(&file, b"[say]\ngoodbye = \"Tsch\xfcss\"\n").unwrap();
    assert!(Script::load(&file).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn ones_own_intents_come_first_and_hours_of_nobody_are_noticed() {
    let own = "[[intents]]\nname = \"hours\"\nphrases = [\"are you open\"]\ndo = \"answer\"\nsay = \"Always.\"";
    let script = Script::parse(own).unwrap();
    assert_eq!(last(&script, &["are you open"]).0, "Always. Is there anything else?");
    assert!(script.usual_hours().is_some_and(|hours| hours.contains("nine")));
    assert_eq!(office().usual_hours(), None);
    let none = Script::parse("[[intents]]\nname = \"opening_hours\"\nphrases = []\ndo = \"help\"").unwrap();
    assert_eq!(none.usual_hours(), None);
}

proptest! {
    #[test]
    fn any_words_are_answered(turns in prop::collection::vec("\\PC{0,40}|sales|yes|no|leave a message|repeat|goodbye|operator|!transfer|=take_message|555123", 1..12)) {
        let script = office();
        let turns: Vec<&str> = turns.iter().map(String::as_str).collect();
        for ((says, act), text) in talk(&script, &turns).into_iter().zip(&turns) {
            prop_assert!(text.starts_with(['!', '=']) || !says.is_empty() || act.is_some(), "{:?}", text);
            prop_assert!(says.len() < 4_000, "{}", says.len());
        }
    }

    #[test]
    fn the_same_words_have_the_same_answers(turns in prop::collection::vec("sales|yes|no|leave a message|bob|555123|how much|blah", 1..10)) {
        let script = office();
        let turns: Vec<&str> = turns.iter().map(String::as_str).collect();
        prop_assert_eq!(talk(&script, &turns), talk(&script, &turns));
    }

    #[test]
    fn any_file_ends_in_a_script_or_words(text in "\\PC{0,200}") {
        let _ = Script::parse(&text);
    }
}
