//! Coverage ratios of the inventory, computed once per version of a series.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::store::{SeriesId, SeriesState, StoreState};

/// Cached ratios by series and version.
#[derive(Debug, Default)]
pub struct CoverageRatios(Mutex<HashMap<SeriesId, (u64, Option<f64>)>>);

impl CoverageRatios {
    /// The ratio of this version of a series, if it is cached.
    pub fn get(&self, series: &SeriesState) -> Option<Option<f64>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&series.id).filter(|(version, _)| *version == series.version).map(|(_, ratio)| *ratio)
    }

    /// Caches a ratio, and forgets those of dropped series when there are many.
    pub fn insert(&self, series: &SeriesState, ratio: Option<f64>, state: &StoreState) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > 2 * state.series.len() + 1_000 {
            known.retain(|id, _| state.series.contains_key(id));
        }
        known.insert(series.id, (series.version, ratio));
    }
}
