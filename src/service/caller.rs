//! Authorisation: who the caller is and what it may do. Every operation of [`Service`](crate::service::Service) checks here
//! first, so that no interface can omit it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::types::SeriesKey;

/// Permissions of a caller; each scope includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Read rows, coverage, registrations, the inventory, health and metrics.
    Read,
    /// Register and change series, write and delete rows, create snapshots.
    Write,
    /// Drop series and snapshots, verify, compact and back up the store, list and cancel jobs.
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

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Id of the token; empty for a trusted caller.
    pub id: Arc<str>,
    pub scope: Scope,
    /// Prefixes of the keys of the series it may access; every series when empty.
    pub prefixes: Arc<[String]>,
}

impl Caller {
    /// A caller with all permissions: the process itself, and clients of a server that requires no tokens.
    pub fn trusted() -> Self {
        Self { id: Arc::from(""), scope: Scope::Admin, prefixes: Arc::from([]) }
    }

    /// Whether the caller may access only some series.
    pub fn is_limited(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// Whether the caller may access a series.
    pub fn can_see(&self, key: &SeriesKey) -> bool {
        !self.is_limited() || self.prefixes.iter().any(|prefix| key.as_str().starts_with(prefix.as_str()))
    }

    /// An error without what this caller may not see.
    pub fn redact(&self, error: Error) -> Error {
        if self.is_limited() { error.redacted() } else { error }
    }

    /// Fails with `permission_denied` unless the caller has this scope.
    pub fn require_scope(&self, scope: Scope) -> Result<()> {
        if self.scope >= scope {
            return Ok(());
        }
        let (own, needed) = (self.scope.name(), scope.name());
        Err(Error::new(ErrorCode::PermissionDenied, format!("scope {needed} is required, the token has {own}")))
    }

    /// Fails with `permission_denied` unless the caller has this scope for one series.
    pub fn require_series(&self, scope: Scope, key: &SeriesKey) -> Result<()> {
        self.require_scope(scope)?;
        if self.can_see(key) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::PermissionDenied, format!("the token cannot access series {key}"))
            .with_hint(format!("the token is limited to {}", self.prefixes.join(", "))))
    }

    /// Fails with `permission_denied` unless the caller has this scope for the whole store, which tokens limited to
    /// some series never have.
    pub fn require_store(&self, scope: Scope) -> Result<()> {
        self.require_scope(scope)?;
        if !self.is_limited() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PermissionDenied,
            "access to the whole store is required, the token is limited to some series",
        )
        .with_hint("use a token without --prefix"))
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
            for (other, required) in Scope::ALL.into_iter().enumerate() {
                assert_eq!(caller(own, &[]).require_scope(required).is_ok(), other <= position, "{own:?} {required:?}");
            }
            assert_eq!(own.name().parse::<Scope>().unwrap(), own);
        }
        assert!("root".parse::<Scope>().is_err());
    }

    #[test]
    fn a_limited_token_can_access_its_series_but_not_the_whole_store() {
        let limited = caller(Scope::Admin, &["kline/BTC", "scalar/risk/"]);
        let key = |text: &str| SeriesKey::parse(text).unwrap();
        assert!(limited.require_series(Scope::Admin, &key("kline/BTCUSDT/1m")).is_ok());
        assert!(limited.require_series(Scope::Read, &key("scalar/risk/BTC/1d/var")).is_ok());
        for outside in ["kline/ETHUSDT/1m", "scalar/feature/BTC/1d/var"] {
            let error = limited.require_series(Scope::Read, &key(outside)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PermissionDenied);
        }
        assert!(limited.require_store(Scope::Read).is_err());
        assert!(caller(Scope::Read, &[]).require_store(Scope::Read).is_ok());
        assert!(caller(Scope::Read, &["kline/"]).require_series(Scope::Write, &key("kline/A/1m")).is_err());
    }
}
