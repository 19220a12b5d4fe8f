//! The encoded bodies that clients read in parts, until no client asked for them for [`KEPT`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::disk::local::Spool;
use crate::egress::OutFormat;

/// How long a body is kept after its last use.
pub const KEPT: Duration = Duration::from_secs(30);

/// The bodies that are read in parts.
#[derive(Debug, Default)]
pub struct PartBodies(Mutex<HashMap<PartKey, Arc<PartEntry>>>);

/// Whose body of which address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartKey {
    pub caller: Arc<str>,
    /// Path and query of the request.
    pub target: String,
    pub format: OutFormat,
}

/// The body of an address, once it is encoded; locked while it is.
#[derive(Debug, Default)]
pub struct PartEntry {
    pub body: tokio::sync::Mutex<Option<Arc<EncodedBody>>>,
    used: Mutex<Option<Instant>>,
}

/// A body in a file without a name.
#[derive(Debug)]
pub struct EncodedBody {
    pub spool: Spool,
    pub tag: String,
    pub version: Option<u64>,
    pub commit: u64,
    /// Its part of `http.part_bytes_max`.
    _budget: Option<OwnedSemaphorePermit>,
}

impl EncodedBody {
    /// A complete body, of a series at this version or of several, and the space that it takes.
    pub fn new(
        spool: Spool,
        tag: String,
        (version, commit): (Option<u64>, u64),
        budget: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { spool, tag, version, commit, _budget: budget }
    }
}

impl PartBodies {
    pub fn entry(&self, key: &PartKey) -> Arc<PartEntry> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Arc::clone(entries.entry(key.clone()).or_default());
        entry.touch();
        entry
    }

    /// Removes the body that was not used for longest, other than `kept`; false when there is none.
    pub fn evict(&self, kept: &PartKey) -> bool {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = entries.iter().filter(|(key, _)| *key != kept);
        let oldest = others.min_by_key(|(_, entry)| entry.last_use()).map(|(key, _)| key.clone());
        oldest.is_some_and(|key| entries.remove(&key).is_some())
    }

    /// Removes a body that was not used lately; false while it is in use.
    pub fn expire(&self, key: &PartKey) -> bool {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = entries.get(key).is_none_or(|entry| entry.last_use().is_none_or(|used| used.elapsed() >= KEPT));
        if is_idle {
            entries.remove(key);
        }
        is_idle
    }
}

impl PartEntry {
    pub fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last_use(&self) -> Option<Instant> {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
