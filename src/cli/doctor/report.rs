//! What was found, and what to do about it: as lines for people, and as JSON.

use std::fmt;

use serde::Serialize;

/// Nobody needs more of a peer's words.
const LONGEST: usize = 600;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It works.
    Ok,
    /// Calls are possible, but not all is as it should be, or it could not be proven.
    Warn,
    /// It does not work.
    Fail,
    /// It was not tried.
    Skipped,
}

impl Status {
    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skipped => "-",
        }
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What, in words.
    pub text: String,
    /// Into which file [`Self::lines`] are pasted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What is pasted there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// What is run then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<String>,
}

impl Advice {
    /// Words alone.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { text: plain(text.as_ref()), file: None, lines: Vec::new(), run: Vec::new() }
    }

    /// Lines for a file.
    #[must_use]
    pub fn paste<T: AsRef<str>>(mut self, file: &str, lines: impl IntoIterator<Item = T>) -> Self {
        self.file = Some(file.to_owned());
        self.lines = lines.into_iter().map(|line| plain(line.as_ref())).collect();
        self
    }

    /// A command to run then.
    #[must_use]
    pub fn run(mut self, command: impl AsRef<str>) -> Self {
        self.run.push(plain(command.as_ref()));
        self
    }

    /// A command for Asterisk's command line.
    #[must_use]
    pub fn asterisk(self, command: &str) -> Self {
        self.run(format!("asterisk -rx '{command}'"))
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(rename = "do", skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<Advice>,
}

impl Check {
    fn new(name: impl AsRef<str>, status: Status, found: impl AsRef<str>) -> Self {
        Self { name: plain(name.as_ref()), status, found: plain(found.as_ref()), advice: Vec::new() }
    }

    /// It works.
    #[must_use]
    pub fn ok(name: impl AsRef<str>, found: impl AsRef<str>) -> Self {
        Self::new(name, Status::Ok, found)
    }

    /// It works, but.
    #[must_use]
    pub fn warn(name: impl AsRef<str>, found: impl AsRef<str>) -> Self {
        Self::new(name, Status::Warn, found)
    }

    /// It does not work.
    #[must_use]
    pub fn fail(name: impl AsRef<str>, found: impl AsRef<str>) -> Self {
        Self::new(name, Status::Fail, found)
    }

    /// It was not tried.
    #[must_use]
    pub fn skipped(name: impl AsRef<str>, found: impl AsRef<str>) -> Self {
        Self::new(name, Status::Skipped, found)
    }

    /// And this is to be done.
    #[must_use]
    pub fn advise(mut self, advice: Advice) -> Self {
        self.advice.push(advice);
        self
    }
}

/// Everything that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One after the other.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.count(Status::Fail) == 0
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// The check of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// `{"ok": …, "checks": […]}`.
    #[must_use]
    pub fn json(&self) -> String {
        let value = serde_json::json!({"ok": self.is_ok(), "checks": self.checks});
        format!("{value:#}\n")
    }
}

/// A line for each, and below it what to do.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
        for check in &self.checks {
            writeln!(f, "{:<5} {:<width$}  {}", check.status.label(), check.name, check.found)?;
            check.advice.iter().try_for_each(|advice| advice.fmt(f))?;
        }
        match (self.count(Status::Fail), self.count(Status::Warn)) {
            (0, 0) => writeln!(f, "\nNothing is wrong."),
            (0, warnings) => writeln!(f, "\nNothing failed, {warnings} to look at."),
            (failed, warnings) => writeln!(f, "\n{failed} failed, {warnings} to look at. Begin with the first."),
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "      do this: {}", self.text)?;
        if let Some(file) = &self.file {
            writeln!(f, "        in {file}:")?;
            self.lines.iter().try_for_each(|line| writeln!(f, "            {line}"))?;
        }
        if !self.run.is_empty() {
            writeln!(f, "        {}", if self.file.is_some() { "then run:" } else { "run:" })?;
            self.run.iter().try_for_each(|line| writeln!(f, "            {line}"))?;
        }
        Ok(())
    }
}

/// Text that may hold a peer's words: one line, no control characters, not endless.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for (index, char) in text.chars().enumerate() {
        match char {
            _ if index == LONGEST => {
                out.push('…');
                break;
            }
            // what an ellipsis or a quote is stays as it is
            char if char.is_control() || matches!(char, '\u{200e}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                out.extend(char.escape_debug());
            }
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report() -> Report {
        let advice = Advice::new("load it").paste("modules.conf", ["load = x.so"]).asterisk("module load x.so");
        Report {
            checks: vec![
                Check::ok("settings", "hark.toml"),
                Check::fail("asterisk: modules", "x.so is not there").advise(advice),
                Check::skipped("ami", "not configured"),
            ],
        }
    }

    #[test]
    fn a_failure_is_followed_by_what_to_paste_where() {
        assert_eq!(
            report().to_string(),
            "ok    settings           hark.toml\n\
             FAIL  asterisk: modules  x.so is not there\n      do this: load it\n        in modules.conf:\n            \
             load = x.so\n        then run:\n            asterisk -rx 'module load x.so'\n\
             -     ami                not configured\n\n1 failed, 0 to look at. Begin with the first.\n"
        );
    }

    #[test]
    fn json_holds_the_same() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(value["ok"], false);
        assert_eq!(value["checks"][1]["status"], "fail");
        assert_eq!(value["checks"][1]["do"][0]["lines"][0], "load = x.so");
        assert!(value["checks"][0].get("do").is_none());
    }

    #[test]
    fn a_peers_words_cannot_write_lines_of_their_own() {
        let check = Check::warn("x", format!("a\r\nok    b\u{1b}[31m\u{202e}{}", "y".repeat(10_000)));
        assert!(!check.found.contains(['\n', '\r', '\u{1b}', '\u{202e}']), "{}", check.found);
        assert!(check.found.chars().count() < LONGEST + 40);
    }
}
