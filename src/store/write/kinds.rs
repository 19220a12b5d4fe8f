//! Registering and dropping kinds of series.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::format::wal::LoggedChange;
use crate::store::read::store_state::RegisteredKind;
use crate::store::registration::kind_json;
use crate::store::write::writes::{Writes, frame};
use crate::types::KindDef;
use crate::types::kind::{KINDS_MAX, built_in_named, kind_not_found};

impl Writes {
    /// Registers a kind. Returns the kind with its commit, and false when the same definition exists already.
    ///
    /// # Errors
    /// `kind_exists` when it is defined otherwise, `too_large` beyond [`KINDS_MAX`], and those of a write.
    pub fn register_kind(&self, kind: KindDef) -> Result<(RegisteredKind, bool)> {
        kind.check()?;
        let queue = &self.wal.queue;
        let mut pending = queue.lock();
        if let Some(existing) = pending.state.kinds.get(&kind.name).cloned() {
            let decided = pending.decided();
            drop(pending);
            if *existing.def != kind {
                return Err(Error::new(
                    ErrorCode::KindExists,
                    format!("kind {} is registered with another definition", kind.name),
                )
                .with_hint("GET the kind to compare; register the new one under another name"));
            }
            // It may not be durable yet.
            let decided = decided?;
            queue.wait(&decided)?;
            return Ok((existing, false));
        }
        pending.check_writable()?;
        if pending.state.kinds.len() >= KINDS_MAX {
            return Err(
                Error::new(ErrorCode::TooLarge, format!("there are already {KINDS_MAX} kinds")).with_hint("drop some")
            );
        }
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let operation = LoggedChange::RegisterKind { def: kind_json(&kind)? };
        let registered = RegisteredKind { def: Arc::new(kind), commit: state.commit };
        state.kinds.insert(registered.def.name.clone(), registered.clone());
        let batch = queue.enqueue(&mut pending, state, frame(queue.wall_ms(), vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        Ok((registered, true))
    }

    /// Drops a kind without series. Returns the commit of the drop.
    ///
    /// # Errors
    /// `not_found`; `kind_in_use` while series of it exist, also dropped ones that a snapshot shows; and those of a
    /// write.
    pub fn drop_kind(&self, name: &str) -> Result<u64> {
        let queue = &self.wal.queue;
        let mut pending = queue.lock();
        pending.check_writable()?;
        if built_in_named(name).is_some() {
            return Err(Error::new(ErrorCode::KindInUse, format!("kind {name} is built in and cannot be dropped")));
        }
        if !pending.state.kinds.contains_key(name) {
            return Err(kind_not_found(name, pending.state.kinds.keys().map(String::as_str)));
        }
        let mut of_kind = pending.state.series.values().filter(|series| series.def.kind() == name);
        if let Some(first) = of_kind.next() {
            let count = 1 + of_kind.count();
            let only_hidden = first.dropped_commit.is_some();
            let hint = if only_hidden { "snapshots still show them: drop those first" } else { "drop them first" };
            return Err(Error::new(
                ErrorCode::KindInUse,
                format!("kind {name} has {count} series, such as {}", first.def.key),
            )
            .with_hint(hint));
        }
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        state.kinds.remove(name);
        let operation = LoggedChange::DropKind { name: name.to_owned() };
        let batch = queue.enqueue(&mut pending, state, frame(queue.wall_ms(), vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        Ok(commit)
    }
}
