//! Kinds of series: registering, describing and dropping them.

use std::sync::Arc;

use crate::error::Result;
use crate::service::caller::Scope;
use crate::service::replies::{KindDropped, KindInfo, KindList, KindRegistered};
use crate::service::shared::Service;
use crate::types::KindDef;
use crate::types::kind::{built_in, built_in_named};

impl Service {
    /// Registers a kind; the same definition again is no error, a different one is `kind_exists`.
    pub fn register_kind(&self, kind: KindDef) -> Result<KindRegistered> {
        self.caller.require_store(Scope::Write)?;
        let (registered, created) = self.store.register_kind(kind)?;
        let info = KindInfo::registered(&registered.def, registered.commit);
        Ok(KindRegistered { created, info })
    }

    /// Every kind: the built-in ones, then those that are registered, by name.
    pub fn kinds(&self) -> Result<KindList> {
        self.caller.require_scope(Scope::Read)?;
        let state = self.store.snapshot();
        let registered = state.kinds.values().map(|kind| KindInfo::registered(&kind.def, kind.commit));
        Ok(KindList { kinds: built_in().iter().map(KindInfo::built_in).chain(registered).collect() })
    }

    /// One kind, or `not_found`.
    pub fn kind(&self, name: &str) -> Result<KindInfo> {
        self.caller.require_scope(Scope::Read)?;
        if let Some(kind) = built_in_named(name) {
            return Ok(KindInfo::built_in(kind));
        }
        let state = self.store.snapshot();
        let known = state.kinds.get(name).ok_or_else(|| state.kind_not_found(name))?;
        Ok(KindInfo::registered(&Arc::clone(&known.def), known.commit))
    }

    /// Drops a kind without series; `not_found`, `kind_in_use`.
    pub fn drop_kind(&self, name: &str) -> Result<KindDropped> {
        self.caller.require_store(Scope::Admin)?;
        Ok(KindDropped { kind: name.to_owned(), commit: self.store.drop_kind(name)? })
    }
}
