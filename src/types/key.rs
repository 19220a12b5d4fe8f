//! Series keys: the name of a kind and 1 to 4 words, such as `kline/BTCUSDT/1m`.
//!
//! A key is validated at construction and never becomes a path: directories are named by numeric series ids.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Kind of the bars of a symbol: `kline/{symbol}/{timeframe}`.
pub const KLINE: &str = "kline";
/// Kind of single values: `scalar/{category}/{symbol}/{timeframe}/{name}`.
pub const SCALAR: &str = "scalar";

/// Maximum number of words of a key after the kind.
pub const KEY_WORDS_MAX: usize = 4;
/// Maximum length of the name of a kind in bytes.
pub const KIND_BYTES_MAX: usize = 32;
/// Words that keys of registered kinds cannot have, since paths of REST have them after the key.
pub const RESERVED_WORDS: [&str; 3] = ["rows", "merge", "sequence"];
/// Maximum length of a symbol or name in bytes.
pub const SYMBOL_BYTES_MAX: usize = 64;
/// Maximum length of a category in bytes.
pub const CATEGORY_BYTES_MAX: usize = 32;
/// Maximum length of a timeframe label in bytes.
pub const TIMEFRAME_BYTES_MAX: usize = 32;

/// A validated series key; cheap to clone, ordered as its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey(Arc<str>);

impl SeriesKey {
    /// The key of a kline series.
    pub fn kline(symbol: &str, timeframe: &str) -> Result<Self> {
        check_word("symbol", symbol)?;
        check_timeframe(timeframe)?;
        Ok(Self(format!("kline/{symbol}/{timeframe}").into()))
    }

    /// The key of a scalar series.
    pub fn scalar(category: &str, symbol: &str, timeframe: &str, name: &str) -> Result<Self> {
        check_category(category)?;
        check_word("symbol", symbol)?;
        check_timeframe(timeframe)?;
        check_word("name", name)?;
        Ok(Self(format!("scalar/{category}/{symbol}/{timeframe}/{name}").into()))
    }

    /// The key of a series of any kind, from the words after the kind.
    pub fn new(kind: &str, words: &[&str]) -> Result<Self> {
        match (kind, words) {
            (KLINE, [symbol, timeframe]) => return Self::kline(symbol, timeframe),
            (SCALAR, [category, symbol, timeframe, name]) => return Self::scalar(category, symbol, timeframe, name),
            (KLINE | SCALAR, _) => return Err(malformed(&[&[kind], words].concat().join("/"))),
            _ => {}
        }
        check_kind_name(kind)?;
        if words.is_empty() || words.len() > KEY_WORDS_MAX {
            return Err(malformed(&[&[kind], words].concat().join("/")));
        }
        for word in words {
            check_word("key word", word)?;
            if RESERVED_WORDS.contains(word) {
                return Err(Error::invalid(format!("key word {word:?} is reserved")));
            }
        }
        Ok(Self([&[kind], words].concat().join("/").into()))
    }

    /// Parses a key.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.split_first() {
            Some((kind, words)) if (1..=KEY_WORDS_MAX).contains(&words.len()) => Self::new(kind, words),
            _ => Err(malformed(text)),
        }
    }

    /// The lower bound of all keys that start with `text`, for range scans. Not a valid key.
    pub(crate) fn lower_bound(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the kind.
    pub fn kind(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The words after the kind.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }

    /// The symbol of a kline or scalar.
    pub fn symbol(&self) -> Option<&str> {
        match self.kind() {
            KLINE => self.words().next(),
            SCALAR => self.words().nth(1),
            _ => None,
        }
    }

    /// The timeframe of a kline or scalar.
    pub fn timeframe(&self) -> Option<&str> {
        match self.kind() {
            KLINE => self.words().nth(1),
            SCALAR => self.words().nth(2),
            _ => None,
        }
    }

    /// The category of a scalar.
    pub fn category(&self) -> Option<&str> {
        self.words().next().filter(|_| self.kind() == SCALAR)
    }

    /// The name of a scalar.
    pub fn name(&self) -> Option<&str> {
        self.words().nth(3).filter(|_| self.kind() == SCALAR)
    }
}

/// The error for a text that is not a key.
fn malformed(text: &str) -> Error {
    Error::invalid(format!("series key {} is malformed", quote(text))).with_hint(
        "kline/{symbol}/{timeframe}, scalar/{category}/{symbol}/{timeframe}/{name}, or a registered kind and its words",
    )
}

/// Rejects text that cannot be the name of a kind.
///
/// # Errors
/// `invalid_argument`.
pub fn check_kind_name(name: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !first || name.len() > KIND_BYTES_MAX || !name.bytes().all(legal) {
        return Err(Error::invalid(format!("kind {} is not [a-z][a-z0-9_]{{0,31}}", quote(name))));
    }
    Ok(())
}

impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for SeriesKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for SeriesKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| serde::de::Error::custom(error.detail()))
    }
}

fn check_word(what: &str, text: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-:@+=^$&".contains(&b);
    if text.is_empty() || text.len() > SYMBOL_BYTES_MAX || text.starts_with('.') || !text.bytes().all(legal) {
        return Err(Error::invalid(format!("{what} {} is not allowed", quote(text)))
            .with_hint("1 to 64 ASCII letters, digits and . _ - : @ + = ^ $ &, not starting with a full stop"));
    }
    Ok(())
}

fn check_category(text: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if text.is_empty() || text.len() > CATEGORY_BYTES_MAX || !text.bytes().all(legal) {
        return Err(Error::invalid(format!("category {} is not allowed", quote(text)))
            .with_hint("1 to 32 ASCII letters, digits and _"));
    }
    Ok(())
}

fn check_timeframe(text: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() || text.len() > TIMEFRAME_BYTES_MAX || text.starts_with('.') || !text.bytes().all(legal) {
        return Err(Error::invalid(format!("timeframe {} is not allowed", quote(text)))
            .with_hint("<n> + s m h d w M such as 1m or 1M, or a label of 1 to 32 ASCII letters, digits and . _ -"));
    }
    Ok(())
}

/// The text in quotes, truncated for messages.
fn quote(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn market_symbols_are_accepted_and_split_into_parts() {
        for symbol in ["BTCUSDT", "BRK.B", "ES=F", "^GSPC", "BTC-USD", "A:B@C+D$E&F_"] {
            let key = SeriesKey::kline(symbol, "1m").unwrap();
            assert_eq!((key.symbol(), key.timeframe(), key.kind()), (Some(symbol), Some("1m"), KLINE));
            assert_eq!(SeriesKey::parse(key.as_str()).unwrap(), key);
        }
        let key = SeriesKey::parse("scalar/feature/BTCUSDT/1M/rsi_14").unwrap();
        assert_eq!(key.category(), Some("feature"));
        assert_eq!((key.symbol(), key.timeframe(), key.name()), (Some("BTCUSDT"), Some("1M"), Some("rsi_14")));
    }

    #[test]
    fn names_that_could_leave_the_directory_are_rejected() {
        for bad in ["../x", "", ".hidden", "a/b", "a\\b", "a b", "ä", "a\0b", "%2e", &"x".repeat(65)] {
            let error = SeriesKey::kline(bad, "1m").unwrap_err();
            assert_eq!(error.code(), crate::ErrorCode::InvalidArgument, "{bad:?}");
            assert!(SeriesKey::scalar("feature", "X", "1m", bad).is_err(), "{bad:?}");
        }
        assert!(SeriesKey::kline(&"x".repeat(64), "1m").is_ok());
        for bad in ["", "../x", "1 m", ".1m"] {
            assert!(SeriesKey::kline("X", bad).is_err(), "{bad:?}");
        }
        assert!(SeriesKey::scalar("fea-ture", "X", "1m", "n").is_err());
        for bad in ["kline/X", "kline/X/1m/extra", "scalar/a/b/c", ""] {
            assert!(SeriesKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_of_any_kind_has_1_to_4_words() {
        for good in ["greeks/SPX/C5000", "vix/front", "a_1/b/c/d/e", "chain/BRK.B/^GSPC/x@y"] {
            let key = SeriesKey::parse(good).unwrap();
            assert_eq!(key.as_str(), good);
            assert_eq!(key.words().count() + 1, good.split('/').count());
            assert_eq!((key.symbol(), key.timeframe(), key.category(), key.name()), (None, None, None, None));
        }
        for bad in [
            "greeks",
            "greeks/",
            "/SPX",
            "greeks//x",
            "a/b/c/d/e/f",
            "Greeks/SPX",
            "1greeks/SPX",
            "gr-eeks/SPX",
            "greeks/../x",
            "greeks/a b",
            "greeks/SPX/rows",
            "greeks/merge/SPX",
            &format!("{}/x", "k".repeat(33)),
        ] {
            assert!(SeriesKey::parse(bad).is_err(), "{bad:?}");
        }
        // The presets have words of their own rules.
        assert!(SeriesKey::parse("scalar/feature/X/1m/rows").is_ok());
    }
}
