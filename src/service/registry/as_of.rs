//! `as_of=dataset:NAME@VERSION`: reading what a dataset pins, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{DATASET, Service};
use crate::error::{Error, ErrorCode, Result};
use crate::registry::{RecordKind, RecordRef, RecordStatus};
use crate::store::StoreState;
use crate::types::SeriesKey;

/// A state to read from, and which of its series.
#[derive(Clone, Debug)]
pub(in crate::service) struct AsOfView {
    pub state: Arc<StoreState>,
    only: Option<VisibleSeries>,
}

#[derive(Clone, Debug)]
struct VisibleSeries {
    dataset: RecordRef,
    members: Arc<BTreeSet<String>>,
}

impl From<Arc<StoreState>> for AsOfView {
    fn from(state: Arc<StoreState>) -> Self {
        Self { state, only: None }
    }
}

impl AsOfView {
    /// Whether a glob may find a series.
    pub fn has(&self, key: &SeriesKey) -> bool {
        self.only.as_ref().is_none_or(|only| only.members.contains(key.as_str()))
    }

    /// `series_not_found` for a series that is no member of the dataset that is read.
    pub fn check(&self, key: &SeriesKey) -> Result<()> {
        match &self.only {
            Some(only) if !only.members.contains(key.as_str()) => {
                Err(Error::new(ErrorCode::SeriesNotFound, format!("series {key} is no member of {}", only.dataset))
                    .with_hint("a dataset answers its members only; read without as_of, or as of its snapshot"))
            }
            _ => Ok(()),
        }
    }

    /// The dataset that is read, in the form that names its version.
    pub fn dataset(&self) -> Option<String> {
        self.only.as_ref().map(|only| only.dataset.to_string())
    }
}

impl Service {
    /// The store as a snapshot shows it, or what a dataset pins of it.
    ///
    /// # Errors
    /// `snapshot_not_found`, also of a dataset that gave its snapshot back; `dataset_not_found`.
    pub(in crate::service) fn view_as_of(&self, name: &str) -> Result<AsOfView> {
        let Some(text) = name.strip_prefix(DATASET) else { return Ok(self.store.as_of(name)?.into()) };
        let (name, version) = RecordRef::parse_short(RecordKind::Dataset, text)?;
        let record = self.record(RecordKind::Dataset, &name, version)?;
        let dataset = record.reference;
        let part = record.dataset.ok_or_else(|| Error::internal(format!("{dataset} is no dataset")))?;
        let gone = |why: &str| Err(Error::new(ErrorCode::SnapshotNotFound, format!("{dataset} {why}")));
        if record.status == RecordStatus::Archived {
            return gone("is archived and gave its snapshot back");
        }
        let state = self.store.as_of(&part.snapshot);
        match state {
            Ok(state) if state.commit == part.snapshot_commit => {
                let members = self.records().members(&dataset)?;
                Ok(AsOfView { state, only: Some(VisibleSeries { dataset, members }) })
            }
            Ok(_) => gone("has lost its snapshot: there is another one of the name"),
            Err(error) if error.code() == ErrorCode::SnapshotNotFound => {
                gone("has lost its snapshot: the store was restored or rebuilt without it")
            }
            Err(error) => Err(error),
        }
    }
}
