//! What Asterisk's dialplan calls `c(…)`.

use std::{fmt, str::FromStr};

use crate::audio::{Rate, g711::Law};

/// How the caller's audio is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Signed linear at a rate, in the frame kind of that rate.
    Slin(Rate),
    /// G.711, as raw bytes in the frame kind of 8 kHz.
    G711(Law),
}

/// A codec that this phone does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown codec {0:?}; there are ulaw, alaw, slin, slin12, slin16, slin24, slin32, slin44, slin48, slin96, slin192"
)]
pub struct UnknownCodec(String);

impl Codec {
    /// The sampling rate.
    #[must_use]
    pub const fn rate(self) -> Rate {
        match self {
            Self::Slin(rate) => rate,
            Self::G711(_) => Rate::R8K,
        }
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        let fault = || UnknownCodec(name.to_owned());
        match name {
            "ulaw" => Ok(Self::G711(Law::Ulaw)),
            "alaw" => Ok(Self::G711(Law::Alaw)),
            "slin" => Ok(Self::Slin(Rate::R8K)),
            _ => Rate::ALL.into_iter().map(Self::Slin).find(|codec| codec.to_string() == name).ok_or_else(fault),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::G711(Law::Ulaw) => f.write_str("ulaw"),
            Self::G711(Law::Alaw) => f.write_str("alaw"),
            Self::Slin(Rate::R8K) => f.write_str("slin"),
            Self::Slin(rate) => write!(f, "slin{}", rate.hz() / 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_asterisk() {
        for name in
            ["ulaw", "alaw", "slin", "slin12", "slin16", "slin24", "slin32", "slin44", "slin48", "slin96", "slin192"]
        {
            assert_eq!(name.parse::<Codec>().map(|codec| codec.to_string()), Ok(name.to_owned()));
        }
        assert_eq!("slin44".parse(), Ok(Codec::Slin(Rate::R44K)));
        for name in ["", "slin8", "ULAW", "g722", "slin1"] {
            assert!(name.parse::<Codec>().is_err(), "{name}");
        }
    }
}
