//! Names of records, and references to one version of them: `dataset:btc-minutes@3`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorCode, Result};

/// Maximum length of a name: `dataset:NAME@VERSION` is also the name of a snapshot, which has at most 64 characters.
pub const NAME_CHARS_MAX: usize = 48;
/// Highest version of a record.
pub const VERSION_MAX: u32 = 9_999_999;

/// Kind of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RecordKind {
    /// Series of a snapshot.
    #[default]
    Dataset,
    /// How a series is computed.
    Feature,
    /// How a signal is computed.
    Factor,
}

impl RecordKind {
    pub const ALL: [RecordKind; 3] = [RecordKind::Dataset, RecordKind::Feature, RecordKind::Factor];

    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Dataset => "dataset",
            RecordKind::Feature => "feature",
            RecordKind::Factor => "factor",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The error for a record that does not exist or that the caller may not see.
    pub fn not_found(self, what: &str) -> Error {
        let code = match self {
            RecordKind::Dataset => ErrorCode::DatasetNotFound,
            RecordKind::Feature | RecordKind::Factor => ErrorCode::NotFound,
        };
        let kind = self.name();
        Error::new(code, format!("there is no {kind} {what}"))
            .with_hint(format!("list them with GET /v1/{kind}s or `fastk {kind} list`"))
    }
}

/// Lifecycle of a record. The meaning for readers is a convention; the registry itself only drops the snapshot of an
/// archived dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RecordStatus {
    /// Not yet meant for others.
    Draft,
    /// In use.
    #[default]
    Active,
    /// Still readable; use a newer version.
    Deprecated,
    /// Permanently out of use.
    Archived,
}

impl RecordStatus {
    pub const ALL: [RecordStatus; 4] =
        [RecordStatus::Draft, RecordStatus::Active, RecordStatus::Deprecated, RecordStatus::Archived];

    pub fn name(self) -> &'static str {
        match self {
            RecordStatus::Draft => "draft",
            RecordStatus::Active => "active",
            RecordStatus::Deprecated => "deprecated",
            RecordStatus::Archived => "archived",
        }
    }

    /// Whether a record may change from this status to `next`.
    pub fn may_become(self, next: RecordStatus) -> bool {
        use RecordStatus::{Active, Archived, Deprecated, Draft};
        match self {
            Draft => matches!(next, Draft | Active | Archived),
            Active => matches!(next, Active | Deprecated | Archived),
            Deprecated => matches!(next, Active | Deprecated | Archived),
            Archived => next == Archived,
        }
    }
}

impl FromStr for RecordStatus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|status| status.name() == text);
        found
            .ok_or_else(|| Error::invalid(format!("status {text:?} is not one of draft, active, deprecated, archived")))
    }
}

/// Checks that a name has 1 to 48 of lower-case letters, digits and `. _ -`, starting with a letter or digit.
pub fn check_name(kind: RecordKind, name: &str) -> Result<()> {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let first = name.bytes().next().is_some_and(is_alphanumeric);
    if !first || name.len() > NAME_CHARS_MAX || !name.bytes().all(|b| is_alphanumeric(b) || b"._-".contains(&b)) {
        let shown: String = name.chars().take(80).collect();
        return Err(Error::invalid(format!(
            "{} name {shown:?} does not match [a-z0-9][a-z0-9._-]{{0,47}}",
            kind.name()
        )));
    }
    Ok(())
}

/// One version of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordRef {
    pub kind: RecordKind,
    pub name: String,
    pub version: u32,
}

impl RecordRef {
    pub fn new(kind: RecordKind, name: &str, version: u32) -> Self {
        Self { kind, name: name.to_owned(), version }
    }

    /// `NAME@VERSION`, without the kind.
    pub fn short(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Parses `NAME` or `NAME@VERSION`.
    ///
    /// # Errors
    /// `invalid_argument` for another form.
    pub fn parse_short(kind: RecordKind, text: &str) -> Result<(String, Option<u32>)> {
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => (name, Some(parse_version(kind, version)?)),
        };
        check_name(kind, name)?;
        Ok((name.to_owned(), version))
    }
}

/// Parses a version: an integer from 1 to [`VERSION_MAX`].
pub fn parse_version(kind: RecordKind, text: &str) -> Result<u32> {
    let version = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    version.filter(|version| (1..=VERSION_MAX).contains(version)).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Error::invalid(format!("{} version {shown:?} is not a number from 1 to {VERSION_MAX}", kind.name()))
    })
}

impl FromStr for RecordRef {
    type Err = Error;

    /// Parses `NAME@VERSION` of a dataset, or `KIND:NAME@VERSION`.
    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = match text.split_once(':') {
            None => (RecordKind::Dataset, text),
            Some((kind, rest)) => {
                let known = RecordKind::from_name(kind);
                (known.ok_or_else(|| Error::invalid(format!("{kind:?} is not one of dataset, feature, factor")))?, rest)
            }
        };
        match Self::parse_short(kind, rest)? {
            (name, Some(version)) => Ok(Self { kind, name, version }),
            (name, None) => Err(Error::invalid(format!("{} {name} is named without a version", kind.name()))
                .with_hint(format!("such as {}:{name}@1", kind.name()))),
        }
    }
}

impl fmt::Display for RecordRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.kind.name(), self.name, self.version)
    }
}

impl Serialize for RecordRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.detail()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_round_trip_and_malformed_ones_are_rejected() {
        for text in ["dataset:btc@1", "feature:rsi-14@27", "factor:0_a.b-c@9999999"] {
            assert_eq!(text.parse::<RecordRef>().unwrap().to_string(), text);
        }
        assert_eq!("btc@3".parse::<RecordRef>().unwrap().to_string(), "dataset:btc@3");
        let long = format!("{}@1", "x".repeat(NAME_CHARS_MAX + 1));
        for bad in
            ["", "btc", "btc@", "btc@0", "btc@+1", "btc@1@2", "Btc@1", "-a@1", "a b@1", "x:a@1", "a@10000000", &long]
        {
            assert_eq!(bad.parse::<RecordRef>().unwrap_err().code(), ErrorCode::InvalidArgument, "{bad}");
        }
        let longest = RecordRef::new(RecordKind::Dataset, &"x".repeat(NAME_CHARS_MAX), VERSION_MAX);
        assert!(longest.to_string().len() <= 64, "it is the name of a snapshot too");
    }

    #[test]
    fn an_archived_record_stays_archived() {
        for status in RecordStatus::ALL {
            assert_eq!(status.name().parse::<RecordStatus>().unwrap(), status);
            assert!(status.may_become(status) && status.may_become(RecordStatus::Archived));
            assert!(!RecordStatus::Archived.may_become(status) || status == RecordStatus::Archived);
            assert!(!status.may_become(RecordStatus::Draft) || status == RecordStatus::Draft);
        }
    }
}
