//! Series keys: `kline/{symbol}/{timeframe}` and `scalar/{category}/{symbol}/{timeframe}/{name}`.
//!
//! A key is validated at construction and never becomes a path: directories are named by numeric series ids.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Preset of the columns of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum Kind {
    /// Open, high, low, close, volume and the extra columns of the registration.
    Kline,
    /// One value per timestamp.
    Scalar,
}

impl Kind {
    /// The first part of the key.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kline => "kline",
            Kind::Scalar => "scalar",
        }
    }
}

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

    /// Parses a key.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["kline", symbol, timeframe] => Self::kline(symbol, timeframe),
            ["scalar", category, symbol, timeframe, name] => Self::scalar(category, symbol, timeframe, name),
            _ => Err(Error::invalid(format!("series key {} is malformed", quote(text)))
                .with_hint("kline/{symbol}/{timeframe} or scalar/{category}/{symbol}/{timeframe}/{name}")),
        }
    }

    /// The lower bound of all keys that start with `text`, for range scans. Not a valid key.
    pub(crate) fn lower_bound(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> Kind {
        if self.0.starts_with("kline/") { Kind::Kline } else { Kind::Scalar }
    }

    fn part(&self, position: usize) -> &str {
        self.0.split('/').nth(position).unwrap_or("")
    }

    /// The category of a scalar.
    pub fn category(&self) -> Option<&str> {
        (self.kind() == Kind::Scalar).then(|| self.part(1))
    }

    pub fn symbol(&self) -> &str {
        match self.kind() {
            Kind::Kline => self.part(1),
            Kind::Scalar => self.part(2),
        }
    }

    pub fn timeframe(&self) -> &str {
        match self.kind() {
            Kind::Kline => self.part(2),
            Kind::Scalar => self.part(3),
        }
    }

    /// The name of a scalar.
    pub fn name(&self) -> Option<&str> {
        (self.kind() == Kind::Scalar).then(|| self.part(4))
    }
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
            assert_eq!((key.symbol(), key.timeframe(), key.kind()), (symbol, "1m", Kind::Kline));
            assert_eq!(SeriesKey::parse(key.as_str()).unwrap(), key);
        }
        let key = SeriesKey::parse("scalar/feature/BTCUSDT/1M/rsi_14").unwrap();
        assert_eq!(key.category(), Some("feature"));
        assert_eq!((key.symbol(), key.timeframe(), key.name()), ("BTCUSDT", "1M", Some("rsi_14")));
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
        for bad in ["kline/X", "kline/X/1m/extra", "scalar/a/b/c", "other/X/1m", ""] {
            assert!(SeriesKey::parse(bad).is_err(), "{bad:?}");
        }
    }
}
