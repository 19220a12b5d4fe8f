//! Options of statements: of a session, or of one call.
//!
//! A session is a cookie with its options. Headers of a call take precedence over it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use tonic::metadata::MetadataMap;

use crate::error::{Error, Result};
use crate::sql::{CATALOG, WireNumbers, WireTypes};

/// Name of the cookie of a session.
const COOKIE: &str = "fastk-session";
/// Maximum length of a value.
const VALUE_BYTES_MAX: usize = 512;

/// Names of the options, which are also headers.
const SCHEMA: &str = "schema";
const CATALOG_OPTION: &str = "catalog";
const AS_OF: &str = "fastk-as-of";
const NUMBERS: &str = "fastk-numbers";
const TIMESTAMPS: &str = "fastk-timestamps";
const PROFILE: &str = "fastk-profile";
/// Headers with an option. `catalog` and `schema` are options of sessions only.
const HEADERS: [&str; 4] = [AS_OF, NUMBERS, TIMESTAMPS, PROFILE];

/// Why an option is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionFault {
    UnknownName,
    InvalidValue,
}

/// The options of a statement.
#[derive(Clone, PartialEq, Message)]
pub struct SqlSession {
    /// The schema of tables that are named without one.
    #[prost(string, optional, tag = "1")]
    pub schema: Option<String>,
    /// The snapshot or dataset that is read.
    #[prost(string, optional, tag = "2")]
    pub as_of: Option<String>,
    /// `decimal128`, `float64`, `stored` or `string`.
    #[prost(string, optional, tag = "3")]
    pub numbers: Option<String>,
    /// `stored` or `ns`.
    #[prost(string, optional, tag = "4")]
    pub timestamps: Option<String>,
}

fn numbers(name: &str) -> Option<WireNumbers> {
    Some(match name {
        "decimal128" => WireNumbers::Decimal128,
        "float64" => WireNumbers::Float64,
        "stored" => WireNumbers::Stored,
        "string" => WireNumbers::Text,
        _ => return None,
    })
}

impl SqlSession {
    /// The options of a call: those of its session, and of its headers.
    ///
    /// # Errors
    /// `invalid_argument` for a damaged cookie, or a value that an option does not have.
    pub fn of(metadata: &MetadataMap) -> Result<Self> {
        let mut session = Self::of_cookie(metadata)?;
        for name in HEADERS {
            let Some(value) = metadata.get(name) else { continue };
            let value = value.to_str().map_err(|_| Error::invalid(format!("the header {name} is not text")))?;
            session.set(name, Some(value)).map_err(|_| {
                Error::invalid(format!("the header {name} has the value {value:?}"))
                    .with_hint("fastk-numbers is decimal128, float64, stored or string; fastk-timestamps stored or ns; fastk-profile grafana")
            })?;
        }
        Ok(session)
    }

    fn of_cookie(metadata: &MetadataMap) -> Result<Self> {
        let cookies = metadata.get_all("cookie").iter().filter_map(|cookies| cookies.to_str().ok());
        let own = cookies.flat_map(|cookies| cookies.split(';')).find_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == COOKIE).then(|| value.trim_matches('"').to_owned())
        });
        let Some(value) = own.filter(|value| !value.is_empty()) else { return Ok(Self::default()) };
        let damaged = || {
            Error::invalid(format!("the cookie {COOKIE} is damaged")).with_hint("close the session, or send no cookie")
        };
        let bytes = URL_SAFE_NO_PAD.decode(value).map_err(|_| damaged())?;
        let session = Self::decode(bytes.as_slice()).map_err(|_| damaged())?;
        session.wire().map_err(|_| damaged())?;
        Ok(session)
    }

    /// The header that sets the cookie of the session.
    pub fn cookie(&self) -> String {
        format!("{COOKIE}={}; Path=/", URL_SAFE_NO_PAD.encode(self.encode_to_vec()))
    }

    /// The header that removes the cookie.
    pub fn no_cookie() -> String {
        format!("{COOKIE}=; Path=/; Max-Age=0")
    }

    /// Sets an option, or removes it without a value. The names `fastk.as_of` and `fastk-as-of` are one.
    ///
    /// # Errors
    /// Why it is not set.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionFault> {
        let name = name.to_ascii_lowercase().replace(['.', '_'], "-");
        let value = value.filter(|value| !value.is_empty());
        if value.is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(OptionFault::InvalidValue);
        }
        let is_one_of = |names: &[&str]| value.is_none_or(|value| names.contains(&value));
        let fits = match name.as_str() {
            CATALOG_OPTION => is_one_of(&[CATALOG]),
            NUMBERS => value.is_none_or(|value| numbers(value).is_some()),
            TIMESTAMPS => is_one_of(&["stored", "ns"]),
            PROFILE => is_one_of(&["default", "grafana"]),
            SCHEMA | AS_OF => true,
            _ => return Err(OptionFault::UnknownName),
        };
        if !fits {
            return Err(OptionFault::InvalidValue);
        }
        let value = value.map(str::to_owned);
        match name.as_str() {
            SCHEMA => self.schema = value,
            AS_OF => self.as_of = value,
            NUMBERS => self.numbers = value,
            TIMESTAMPS => self.timestamps = value,
            PROFILE if value.as_deref() == Some("grafana") => {
                self.numbers = Some("float64".to_owned());
                self.timestamps = Some("ns".to_owned());
            }
            PROFILE => (self.numbers, self.timestamps) = (None, None),
            _ => {}
        }
        Ok(())
    }

    /// The options that are set, with the names of [`set`](Self::set).
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let set = |name, value: &Option<String>| value.clone().map(|value| (name, value));
        let catalog = Some((CATALOG_OPTION, CATALOG.to_owned()));
        [
            catalog,
            set(SCHEMA, &self.schema),
            set(AS_OF, &self.as_of),
            set(NUMBERS, &self.numbers),
            set(TIMESTAMPS, &self.timestamps),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The types of results.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn wire(&self) -> Result<WireTypes> {
        let invalid = |name: &str| Error::invalid(format!("the option {name} has an unknown value"));
        let numbers = match self.numbers.as_deref() {
            None => WireNumbers::default(),
            Some(name) => numbers(name).ok_or_else(|| invalid(NUMBERS))?,
        };
        let nanoseconds = match self.timestamps.as_deref() {
            None | Some("stored") => false,
            Some("ns") => true,
            Some(_) => return Err(invalid(TIMESTAMPS)),
        };
        Ok(WireTypes { numbers, nanoseconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_its_cookie_and_headers_take_precedence() {
        let mut session = SqlSession::default();
        for (name, value) in
            [("catalog", "fastk"), ("schema", "system"), ("fastk.as_of", "before"), ("fastk-numbers", "float64")]
        {
            session.set(name, Some(value)).unwrap();
        }
        let mut metadata = MetadataMap::new();
        let cookie = session.cookie();
        let sent = cookie.split(';').next().unwrap();
        metadata.insert("cookie", format!("other=1; {sent}").parse().unwrap());
        assert_eq!(SqlSession::of(&metadata).unwrap(), session);
        metadata.insert("fastk-numbers", "string".parse().unwrap());
        let of_call = SqlSession::of(&metadata).unwrap();
        assert_eq!((of_call.numbers.as_deref(), of_call.schema.as_deref()), (Some("string"), Some("system")));
        metadata.insert("fastk-profile", "grafana".parse().unwrap());
        let wire = SqlSession::of(&metadata).unwrap().wire().unwrap();
        assert_eq!(wire, WireTypes { numbers: WireNumbers::Float64, nanoseconds: true });
        metadata.insert("fastk-profile", "excel".parse().unwrap());
        assert!(SqlSession::of(&metadata).is_err());
        for damaged in ["fastk-session=%%%", "fastk-session=gggg"] {
            let mut metadata = MetadataMap::new();
            metadata.insert("cookie", damaged.parse().unwrap());
            assert!(SqlSession::of(&metadata).is_err(), "{damaged}");
        }
    }

    #[test]
    fn unknown_options_and_values_are_told_apart() {
        let mut session = SqlSession::default();
        assert_eq!(session.set("colour", Some("red")), Err(OptionFault::UnknownName));
        assert_eq!(session.set("catalog", Some("other")), Err(OptionFault::InvalidValue));
        assert_eq!(session.set("fastk-timestamps", Some("s")), Err(OptionFault::InvalidValue));
        assert_eq!(session.set("schema", Some(&"x".repeat(1_000))), Err(OptionFault::InvalidValue));
        assert_eq!(session, SqlSession::default());
        session.set("schema", Some("system")).unwrap();
        session.set("schema", None).unwrap();
        assert_eq!(session, SqlSession::default());
    }
}
