//! What speaks for the embedded agent on this machine.

use std::{fmt, path::Path};

use super::{models::VOICE, programs::found};

/// What speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// Piper, with phonemes by espeak-ng.
    Piper,
    /// flite.
    Flite,
    /// espeak-ng itself.
    Espeak,
}

/// What speaks here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// The best there is, if there is any.
    pub speaks: Option<Voice>,
    /// Why it is not its own voice, and what to do.
    pub why: Option<String>,
}

impl Voice {
    /// What there is, the best first. `has_model`: whether a voice of Piper's is installed.
    #[must_use]
    pub fn choose(has_model: bool, espeak: bool, flite: bool) -> Option<Self> {
        match (has_model, espeak, flite) {
            (true, true, _) => Some(Self::Piper),
            (_, _, true) => Some(Self::Flite),
            (_, true, _) => Some(Self::Espeak),
            _ => None,
        }
    }

    /// What speaks with the models in `dir` and these programs.
    #[must_use]
    pub fn here(dir: &Path, espeak: &str, flite: &str) -> Here {
        let (has_model, has_espeak) = (VOICE.is_installed(dir), found(espeak));
        let why = match (has_model, has_espeak) {
            (true, true) => None,
            (false, _) => {
                Some(format!("{} is not installed in {} (run `hark models install`)", VOICE.name, dir.display()))
            }
            (true, false) => Some(format!(
                "{espeak:?}, which says how words are pronounced, is not there (install the Debian package espeak-ng)"
            )),
        };
        Here { speaks: Self::choose(has_model, has_espeak, found(flite)), why }
    }
}

impl fmt::Display for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Piper => "Piper",
            Self::Flite => "flite",
            Self::Espeak => "espeak-ng",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_voice_there_is_speaks() {
        assert_eq!(Voice::choose(true, true, true), Some(Voice::Piper));
        assert_eq!(Voice::choose(true, false, true), Some(Voice::Flite));
        assert_eq!(Voice::choose(false, true, true), Some(Voice::Flite));
        assert_eq!(Voice::choose(false, true, false), Some(Voice::Espeak));
        assert_eq!(Voice::choose(true, false, false), None);
    }

    #[test]
    fn why_it_is_another_is_told() {
        let dir = std::env::temp_dir();
        let here = Voice::here(&dir, "true", "true");
        assert!(here.speaks == Some(Voice::Flite) && here.why.is_some_and(|why| why.contains("hark models install")));
        let mute = Voice::here(&dir, "/nonexistent/espeak-ng", "/nonexistent/flite");
        assert!(mute.speaks.is_none() && mute.why.is_some());
    }
}
