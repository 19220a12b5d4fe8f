//! The condition of a change: the series, and its version.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::store_state::StoreState;
use crate::types::SeriesKey;
use crate::types::schema::series_not_found;

/// Refuses a change unless the series is this one, at this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedVersion {
    /// `None` for any series that has the key now.
    pub series_id: Option<SeriesId>,
    pub version: u64,
}

/// Condition of a change; `None` for any version.
pub type IfVersion = Option<ExpectedVersion>;

/// Refuses commits that are still to come.
pub fn check_past(now: &StoreState, commit: u64) -> Result<()> {
    if commit > now.commit {
        return Err(Error::invalid(format!("commit {commit} does not exist yet; the store is at {}", now.commit)));
    }
    Ok(())
}

/// The series to change, if it is at the expected version.
pub fn current(state: &StoreState, key: &SeriesKey, if_version: IfVersion) -> Result<Arc<SeriesState>> {
    let series = state.get(key).ok_or_else(|| series_not_found(key))?;
    match if_version {
        Some(expected)
            if expected.version != series.version || expected.series_id.is_some_and(|id| id != series.id) =>
        {
            Err(Error::new(
                ErrorCode::CommitConflict,
                format!("series {key} is at version {}, not {}", series.version, expected.version),
            )
            .with_hint("read it again and repeat the change"))
        }
        _ => Ok(Arc::clone(series)),
    }
}
