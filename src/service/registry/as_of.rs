//! `as_of=dataset:NAME@VERSION`: reads restricted to the members of a dataset at its snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::registry::{RecordKind, RecordRef, RecordStatus};
use crate::service::shared::Service;
use crate::store::{DATASET_SNAPSHOT as DATASET, StoreState};
use crate::types::SeriesKey;

/// A state to read from, and the series that are visible in it.
#[derive(Clone, Debug)]
pub struct AsOfView {
    pub state: Arc<StoreState>,
    restriction: Option<VisibleSeries>,
}

#[derive(Clone, Debug)]
struct VisibleSeries {
    dataset: RecordRef,
    members: Arc<BTreeSet<String>>,
}

impl From<Arc<StoreState>> for AsOfView {
    fn from(state: Arc<StoreState>) -> Self {
        Self { state, restriction: None }
    }
}

impl AsOfView {
    /// Whether a glob may select a series.
    pub fn has(&self, key: &SeriesKey) -> bool {
        self.restriction.as_ref().is_none_or(|only| only.members.contains(key.as_str()))
    }

    /// Fails with `series_not_found` for a series that is not a member of the dataset.
    pub fn check(&self, key: &SeriesKey) -> Result<()> {
        match &self.restriction {
            Some(only) if !only.members.contains(key.as_str()) => {
                Err(Error::new(ErrorCode::SeriesNotFound, format!("series {key} is not a member of {}", only.dataset))
                    .with_hint(
                        "only members of a dataset can be read under it; read without as_of, or as of its snapshot",
                    ))
            }
            _ => Ok(()),
        }
    }

    /// The dataset that is read, as `dataset:NAME@VERSION`.
    pub fn dataset(&self) -> Option<String> {
        self.restriction.as_ref().map(|only| only.dataset.to_string())
    }
}

impl Service {
    /// The store at a snapshot, or the members of a dataset at its snapshot.
    ///
    /// # Errors
    /// `snapshot_not_found`, also for a dataset whose snapshot was released; `dataset_not_found`.
    pub(in crate::service) fn view_as_of(&self, name: &str) -> Result<AsOfView> {
        let Some(text) = name.strip_prefix(DATASET) else { return Ok(self.store.as_of(name)?.into()) };
        let (name, version) = RecordRef::parse_short(RecordKind::Dataset, text)?;
        let record = self.record(RecordKind::Dataset, &name, version)?;
        let dataset = record.reference;
        let part = record.dataset.ok_or_else(|| Error::internal(format!("{dataset} is not a dataset")))?;
        let snapshot_lost = |why: &str| Err(Error::new(ErrorCode::SnapshotNotFound, format!("{dataset} {why}")));
        if record.status == RecordStatus::Archived {
            return snapshot_lost("is archived and its snapshot was dropped");
        }
        let state = self.store.as_of(&part.snapshot);
        match state {
            Ok(state) if state.commit == part.snapshot_commit => {
                let members = self.records().members(&dataset)?;
                Ok(AsOfView { state, restriction: Some(VisibleSeries { dataset, members }) })
            }
            Ok(_) => snapshot_lost("has lost its snapshot: another snapshot has its name"),
            Err(error) if error.code() == ErrorCode::SnapshotNotFound => {
                snapshot_lost("has lost its snapshot: the store was restored or rebuilt without it")
            }
            Err(error) => Err(error),
        }
    }
}
