//! Who asks, and what they may: the one place that decides it. Every verb of [`Service`](super::Service) asks here
//! first, so that no face can forget to.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::types::SeriesKey;

/// What a caller may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Read rows, coverage, registrations, the inventory, health and metrics.
    Read,
    /// Register and change series, write and delete rows, name snapshots.
    Write,
    /// Drop series and snapshots, check, compact and back the store up, see and cancel jobs.
    Admin,
}

impl Scope {
    pub const ALL: [Scope; 3] = [Scope::Read, Scope::Write, Scope::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == text);
        found.ok_or_else(|| Error::invalid(format!("scope {text:?} is not one of read, write, admin")))
    }
}

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Id of the token; empty for somebody who needs none.
    pub id: Arc<str>,
    pub scope: Scope,
    /// Beginnings of the keys of the series the caller may touch; all when empty.
    pub prefixes: Arc<[String]>,
}

impl Caller {
    /// Somebody who may do everything: the process itself, and clients of a server that asks for no tokens.
    pub fn trusted() -> Self {
        Self { id: Arc::from(""), scope: Scope::Admin, prefixes: Arc::from([]) }
    }

    /// Whether only some series may be touched.
    pub fn is_limited(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// Whether the caller may touch a series at all.
    pub fn sees(&self, key: &SeriesKey) -> bool {
        !self.is_limited() || self.prefixes.iter().any(|prefix| key.as_str().starts_with(prefix.as_str()))
    }

    /// An error as this caller may be told it.
    pub fn shown(&self, error: Error) -> Error {
        if self.is_limited() { error.without_places() } else { error }
    }

    /// `permission_denied` unless the caller has this scope.
    pub fn may(&self, scope: Scope) -> Result<()> {
        if self.scope >= scope {
            return Ok(());
        }
        let (own, needed) = (self.scope.name(), scope.name());
        Err(Error::new(ErrorCode::PermissionDenied, format!("this needs scope {needed}, the token has {own}")))
    }

    /// The same for one series.
    pub fn may_touch(&self, scope: Scope, key: &SeriesKey) -> Result<()> {
        self.may(scope)?;
        if self.sees(key) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::PermissionDenied, format!("the token does not reach series {key}"))
            .with_hint(format!("it is limited to {}", self.prefixes.join(", "))))
    }

    /// The same for the store as a whole, which tokens limited to some series never may.
    pub fn may_all(&self, scope: Scope) -> Result<()> {
        self.may(scope)?;
        if !self.is_limited() {
            return Ok(());
        }
        Err(Error::new(ErrorCode::PermissionDenied, "this concerns the whole store, the token some series of it")
            .with_hint("a token without --prefix may do it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(scope: Scope, prefixes: &[&str]) -> Caller {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        Caller { id: Arc::from("t"), scope, prefixes: prefixes.into() }
    }

    #[test]
    fn a_scope_includes_those_before_it() {
        for (position, own) in Scope::ALL.into_iter().enumerate() {
            for (other, wanted) in Scope::ALL.into_iter().enumerate() {
                assert_eq!(caller(own, &[]).may(wanted).is_ok(), other <= position, "{own:?} {wanted:?}");
            }
            assert_eq!(own.name().parse::<Scope>().unwrap(), own);
        }
        assert!("root".parse::<Scope>().is_err());
    }

    #[test]
    fn a_limit_holds_for_series_and_keeps_from_the_whole() {
        let limited = caller(Scope::Admin, &["kline/BTC", "scalar/risk/"]);
        let key = |text: &str| SeriesKey::parse(text).unwrap();
        assert!(limited.may_touch(Scope::Admin, &key("kline/BTCUSDT/1m")).is_ok());
        assert!(limited.may_touch(Scope::Read, &key("scalar/risk/BTC/1d/var")).is_ok());
        for outside in ["kline/ETHUSDT/1m", "scalar/feature/BTC/1d/var"] {
            let error = limited.may_touch(Scope::Read, &key(outside)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PermissionDenied);
        }
        assert!(limited.may_all(Scope::Read).is_err());
        assert!(caller(Scope::Read, &[]).may_all(Scope::Read).is_ok());
        assert!(caller(Scope::Read, &["kline/"]).may_touch(Scope::Write, &key("kline/A/1m")).is_err());
    }
}
