//! Programs that stand beside us: espeak-ng for phonemes (GPL: it is run, not linked), and the voices that need no model.

use std::{env, fs, path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

/// They need some 10 ms for a sentence.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most that is read of their output: about a minute of speech.
const MOST_BYTES: u64 = 3_000_000;
/// Where a sentence has a pause.
const MARKS: &[char] = &['.', ',', ';', ':', '!', '?'];

/// Whether `program` is an executable file: by its path, or in one of the directories of `PATH`.
#[must_use]
pub fn found(program: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let executable =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        return executable(&PathBuf::from(program));
    }
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| executable(&dir.join(program)))
}

/// The phonemes of an English `text`, with its punctuation, as Piper's voices want them.
///
/// # Errors
/// What is wrong with the program, in words.
pub async fn phonemes(program: &str, text: &str) -> Result<String, String> {
    let clauses = clauses(text);
    // an empty line ends a clause, and a text cannot become an option
    let input = clauses.iter().map(|(words, _)| words.as_str()).collect::<Vec<_>>().join("\n\n");
    let output = run(program, &["-q", "--ipa", "-v", "en-us", "-b", "1", "--stdin"], &input).await?;
    let output = String::from_utf8_lossy(&output);
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err(format!("{program:?} found nothing to pronounce"));
    }
    Ok(punctuated(&lines, &clauses))
}

/// `text` spoken by espeak-ng itself: a WAV stream.
///
/// # Errors
/// What is wrong with the program, in words.
pub async fn espeak(program: &str, text: &str) -> Result<Vec<u8>, String> {
    run(program, &["-v", "en-us", "-b", "1", "--stdin", "--stdout"], &plain(text)).await
}

async fn run(program: &str, arguments: &[&str], input: &str) -> Result<Vec<u8>, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program:?} ({error}): install the Debian package espeak-ng"))?;
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin.take() {
                // one that reads nothing says so by its output
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let read = async {
            let mut bytes = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MOST_BYTES).read_to_end(&mut bytes).await?;
            }
            Ok::<_, std::io::Error>(bytes)
        };
        tokio::join!(write, read).1
    };
    match tokio::time::timeout(PATIENCE, talk).await {
        Ok(Ok(bytes)) if !bytes.is_empty() => Ok(bytes),
        Ok(Ok(_)) => Err(format!("{program:?} said nothing")),
        Ok(Err(error)) => Err(format!("reading the output of {program:?} failed: {error}")),
        Err(_) => Err(format!("{program:?} took longer than {} s", PATIENCE.as_secs())),
    }
}

/// Without what espeak-ng takes for something else than words: `[[…]]` is phonemes to it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '[' | ']' | '<' | '>') { ' ' } else { c }).collect()
}

/// The clauses of a text: the words, and the mark behind them.
fn clauses(text: &str) -> Vec<(String, char)> {
    let text = plain(text);
    let mut found = Vec::new();
    let mut words = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        // 3.14 and 9:30 are words
        if !MARKS.contains(&c) || chars.peek().is_some_and(|next| !next.is_whitespace() && !MARKS.contains(next)) {
            words.push(c);
        } else if words.chars().any(char::is_alphanumeric) {
            found.push((words.trim().to_owned(), c));
            words.clear();
        } else {
            words.clear();
        }
    }
    if words.chars().any(char::is_alphanumeric) {
        found.push((words.trim().to_owned(), '.'));
    }
    found
}

/// Lines of phonemes with the marks of their clauses; where there are more or fewer lines, with commas and one mark at the end.
fn punctuated(lines: &[&str], clauses: &[(String, char)]) -> String {
    let last = clauses.last().map_or('.', |(_, mark)| *mark);
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let mark = match clauses.get(at) {
            Some((_, mark)) if lines.len() == clauses.len() => *mark,
            _ if at + 1 == lines.len() => last,
            _ => ',',
        };
        if !text.is_empty() {
            text.push(' ');
        }
        // a language's name in brackets stands before a word of another language
        let mut inside = false;
        text.extend(line.chars().filter(|&c| {
            let was = inside;
            inside = (inside || c == '(') && c != ')';
            !was && !inside
        }));
        text.push(mark);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sentences_are_cut_at_their_marks() {
        let found = clauses("Hello, this is Hark. At 9:30, or 3.14?! \"Bye\"");
        let expected = [("Hello", ','), ("this is Hark", '.'), ("At 9:30", ','), ("or 3.14", '?'), ("\"Bye\"", '.')];
        assert_eq!(found, expected.map(|(words, mark)| (words.to_owned(), mark)));
        assert!(clauses(" ... ,,, ").is_empty());
        assert_eq!(clauses("a [[b]] <c>\u{7}"), [("a   b    c".to_owned(), '.')]);
    }

    #[test]
    fn marks_come_back() {
        let clauses = clauses("Hello, this is it?");
        assert_eq!(punctuated(&["hɛ", "ðɪs"], &clauses), "hɛ, ðɪs?");
        assert_eq!(punctuated(&["a", "b", "c"], &clauses), "a, b, c?");
        assert_eq!(punctuated(&["a (fr)b(en) c"], &clauses), "a b c?");
    }

    #[tokio::test]
    async fn a_missing_program_and_one_that_says_nothing_are_told() {
        let error = phonemes("/nonexistent/espeak-ng", "Hello").await.unwrap_err();
        assert!(error.contains("install the Debian package espeak-ng"), "{error}");
        assert!(phonemes("true", "Hello").await.unwrap_err().contains("said nothing"));
    }

    proptest! {
        #[test]
        fn any_text_has_clauses_of_its_own_words(text in "\\PC{0,80}") {
            for (words, mark) in clauses(&text) {
                prop_assert!(words.chars().any(char::is_alphanumeric) && MARKS.contains(&mark));
            }
        }
    }
}
