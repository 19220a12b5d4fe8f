//! The encoded bodies that clients read in parts, until no client asked for them for [`KEPT`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

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
#[derive(Debug)]
pub struct PartEntry {
    pub body: tokio::sync::Mutex<Option<Arc<EncodedBody>>>,
    used: Mutex<Instant>,
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
    /// The entry of an address, and whether it is new: then [`expire`](Self::expire) has to be called from time to time
    /// until it is gone, whether a body comes of it or not.
    pub fn entry(&self, key: &PartKey) -> (Arc<PartEntry>, bool) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            entry.touch();
            return (Arc::clone(entry), false);
        }
        let entry = Arc::new(PartEntry { body: tokio::sync::Mutex::default(), used: Mutex::new(Instant::now()) });
        entries.insert(key.clone(), Arc::clone(&entry));
        (entry, true)
    }

    /// Removes the body that was not used for longest, other than `kept`; false when there is none.
    pub fn evict(&self, kept: &PartKey) -> bool {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = entries.iter().filter(|(key, _)| *key != kept);
        let oldest = others.min_by_key(|(_, entry)| entry.last_use()).map(|(key, _)| key.clone());
        oldest.is_some_and(|key| entries.remove(&key).is_some())
    }

    /// Removes an entry that is not in use and was not lately; true once it is gone.
    pub fn expire(&self, key: &PartKey, now: Instant) -> bool {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = entries.get(key).is_none_or(|entry| entry.is_idle(now));
        if is_idle {
            entries.remove(key);
        }
        is_idle
    }
}

impl PartEntry {
    pub fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last_use(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its body is neither being encoded nor was used within [`KEPT`].
    fn is_idle(&self, now: Instant) -> bool {
        self.body.try_lock().is_ok() && now.saturating_duration_since(self.last_use()) >= KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_gone_after_a_while_also_when_its_body_was_never_encoded() {
        let bodies = PartBodies::default();
        let key = PartKey { caller: "".into(), target: "/v1/query?series=kline/X/1m".into(), format: OutFormat::Csv };
        let (entry, is_new) = bodies.entry(&key);
        assert!(is_new && !bodies.entry(&key).1);
        let later = entry.last_use() + KEPT;
        assert!(!bodies.expire(&key, entry.last_use()));
        // An encoding that takes longer keeps its entry.
        let held = entry.body.try_lock().unwrap();
        assert!(!bodies.expire(&key, later));
        drop(held);
        assert!(bodies.expire(&key, later) && bodies.0.lock().unwrap().is_empty());
        assert!(bodies.entry(&key).1);
    }
}
