//! Registered series: registering, describing, changing and dropping them, and deleting their rows.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::ingest::Known;
use crate::query::{ClosedRange, TimeValue};
use crate::service::caller::Scope;
use crate::service::page;
use crate::service::replies::{DeleteReply, DropReply, Registered, SeriesFilter, SeriesInfo, SeriesPage, SeriesPatch};
use crate::service::shared::Service;
use crate::store::{ExpectedVersion, IfVersion, SeriesState, StoreState};
use crate::types::schema::{Retention, check_description, check_timeframe, series_not_found};
use crate::types::{Calendar, Dictionary, SeriesDef, SeriesKey, SeriesSpec, similar};

/// Maximum number of keys before and after an unregistered key that are compared with it.
const SIMILAR_CANDIDATES_MAX: usize = 5_000;
/// Maximum number of similar keys in an error.
const SIMILAR_NAMED_MAX: usize = 3;

/// Condition of a write or delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// Entity tag of `If-Match` as received (quotes optional; its format part is ignored).
    pub if_match: Option<String>,
    /// Version number: the short form of `if_match` in Flight and on the command line.
    pub if_version: Option<u64>,
}

impl Service {
    /// Registers a series; the same definition again is no error, a different one is `series_exists`.
    pub fn register(&self, spec: SeriesSpec) -> Result<Registered> {
        let def = self.resolve(&spec)?;
        if self.store.snapshot().get(&def.key).is_none() {
            def.timeframe().map_or(Ok(()), check_timeframe)?;
        }
        let (series, created, commit) = self.store.register(def.clone())?;
        if !created {
            check_same(&spec, &def, &series.def)?;
        }
        Ok(Registered { created, commit, info: self.series_info(&series) })
    }

    /// The texts of a series by column; none of an unknown one.
    pub fn dictionaries(&self, key: &SeriesKey) -> Arc<Vec<Dictionary>> {
        let state = self.store.snapshot();
        state.get(key).map(|series| Arc::clone(&series.dictionaries)).unwrap_or_default()
    }

    /// The definition of a series and the timestamps of its first and last stored row; for an unregistered series the
    /// definition that registering it would create.
    ///
    /// # Errors
    /// Those of [`Service::register`].
    pub fn resolve_or_new(&self, spec: &SeriesSpec) -> Result<Known> {
        let def = self.resolve(spec)?;
        self.caller.require_series(Scope::Read, &def.key)?;
        match self.store.snapshot().get(&def.key) {
            None => {
                def.timeframe().map_or(Ok(()), check_timeframe)?;
                Ok((Arc::new(def), None))
            }
            Some(series) => {
                series.def.check_same_rows_as(&def)?;
                check_same(spec, &def, &series.def)?;
                Ok((Arc::clone(&series.def), series.bounds))
            }
        }
    }

    /// The definition that a request describes, of a series that the caller can write.
    fn resolve(&self, spec: &SeriesSpec) -> Result<SeriesDef> {
        self.caller.require_series(Scope::Write, &spec.series_key()?)?;
        spec.clone().resolve_as(self.store.kind(&spec.kind)?.as_ref())
    }

    pub(super) fn series_info(&self, series: &SeriesState) -> SeriesInfo {
        let etag = self.etag(series.id, series.version);
        SeriesInfo::new(&series.def, series.version, series.rows, series.bounds, etag)
    }

    /// Entity tag with format `any`, in quotes.
    pub(super) fn etag(&self, series_id: u64, version: u64) -> String {
        format!("\"{}any\"", self.stem(series_id, version))
    }

    /// Entity tag up to its format part, without quotes.
    pub(super) fn stem(&self, series_id: u64, version: u64) -> String {
        format!("{}-{series_id}-{version}-", self.store.epoch())
    }

    pub(super) fn series_state(&self, state: &StoreState, key: &SeriesKey) -> Result<Arc<SeriesState>> {
        state.get(key).cloned().ok_or_else(|| self.with_similar(series_not_found(key), key, state))
    }

    /// Adds to `series_not_found` the registered series with the most similar keys that the caller can see.
    pub(super) fn with_similar(&self, error: Error, key: &SeriesKey, state: &StoreState) -> Error {
        if error.code() != ErrorCode::SeriesNotFound {
            return error;
        }
        // Only neighbours in key order are compared, so that the time does not grow with the store.
        let before = state.keys.range(..key.clone()).rev().take(SIMILAR_CANDIDATES_MAX);
        let after = state.keys.range(key.clone()..).take(SIMILAR_CANDIDATES_MAX);
        let seen = before.chain(after).map(|(known, _)| known).filter(|known| self.caller.can_see(known));
        let similar = similar::nearest(key.as_str(), seen.map(SeriesKey::as_str), SIMILAR_NAMED_MAX);
        if similar.is_empty() {
            return error;
        }
        let rest = error.hint().map_or_else(String::new, |hint| format!(" Otherwise {hint}"));
        error.with_hint(format!("did you mean {}?{rest}", similar.join(", ")))
    }

    /// One series, or `series_not_found`.
    pub fn series(&self, key: &SeriesKey) -> Result<SeriesInfo> {
        self.caller.require_series(Scope::Read, key)?;
        Ok(self.series_info(self.series_state(&self.store.snapshot(), key)?.as_ref()))
    }

    /// The definition of a series, for parsing bodies.
    pub fn def(&self, key: &SeriesKey) -> Result<Arc<SeriesDef>> {
        self.caller.require_series(Scope::Read, key)?;
        Ok(Arc::clone(&self.series_state(&self.store.snapshot(), key)?.def))
    }

    /// The definition of a series and the timestamps of its first and last stored row, for parsing bodies.
    pub fn known(&self, key: &SeriesKey) -> Result<Known> {
        self.caller.require_series(Scope::Read, key)?;
        let series = self.series_state(&self.store.snapshot(), key)?;
        Ok((Arc::clone(&series.def), series.bounds))
    }

    /// Registered series ordered by key.
    pub fn list(&self, filter: &SeriesFilter) -> Result<SeriesPage> {
        self.caller.require_scope(Scope::Read)?;
        let state = self.store.snapshot();
        let (found, next_cursor) = page::select(&state, filter, &self.caller)?;
        let series = found.iter().map(|series| self.series_info(series)).collect();
        Ok(SeriesPage { commit: state.commit, series, next_cursor })
    }

    /// Changes retention, calendar, value index or description, and widens or adds columns.
    pub fn change(&self, key: &SeriesKey, patch: SeriesPatch, condition: &Precondition) -> Result<SeriesInfo> {
        self.caller.require_series(Scope::Write, key)?;
        let if_version = self.expected_version(key, condition)?;
        let series = self.store.change_series(key, if_version, |def| {
            if let Some(retention) = patch.retention {
                retention.as_ref().map_or(Ok(()), Retention::check)?;
                def.retention = retention;
            }
            if let Some(calendar) = patch.calendar {
                def.calendar = calendar;
                Calendar::of(def.calendar.as_ref())?;
            }
            if let Some(description) = patch.description {
                description.as_deref().map_or(Ok(()), check_description)?;
                def.description = description;
            }
            if !patch.columns.is_empty() {
                *def = def.evolved(&patch.columns)?;
            }
            if let Some(requested) = patch.value_index {
                def.value_index = requested.map_or(Ok(Vec::new()), |requested| requested.resolve(&def.columns))?;
            }
            Ok(())
        })?;
        Ok(self.series_info(&series))
    }

    /// Drops a series with all its rows.
    pub fn drop_series(&self, key: &SeriesKey, condition: &Precondition) -> Result<DropReply> {
        self.caller.require_series(Scope::Admin, key)?;
        let dropped = self.store.drop_series(key, self.expected_version(key, condition)?)?;
        Ok(DropReply { series: key.clone(), rows_deleted: dropped.rows_deleted, commit: dropped.commit })
    }

    /// Deletes the closed range between these bounds, or every row when `range` is `None`.
    pub fn delete_range(
        &self,
        key: &SeriesKey,
        range: Option<(TimeValue, TimeValue)>,
        condition: &Precondition,
        dry_run: bool,
    ) -> Result<DeleteReply> {
        self.caller.require_series(Scope::Write, key)?;
        let if_version = self.expected_version(key, condition)?;
        let range = match range {
            None => ClosedRange::ALL,
            Some((start, end)) => ClosedRange::parse_non_empty(self.def(key)?.unit, Some(&start), Some(&end))?,
        };
        let range = range.bounds();
        if dry_run {
            let state = self.store.snapshot();
            let series = self.series_state(&state, key)?;
            let rows_deleted = self.store.count_range(key, range)?;
            return Ok(DeleteReply {
                series: key.clone(),
                rows_deleted,
                version: series.version,
                commit: state.commit,
                etag: self.etag(series.id, series.version),
                dry_run,
            });
        }
        let deleted = self.store.delete_range(key, range, if_version)?;
        Ok(DeleteReply {
            series: key.clone(),
            rows_deleted: deleted.rows_deleted,
            version: deleted.version,
            commit: deleted.commit,
            etag: self.etag(deleted.series_id, deleted.version),
            dry_run,
        })
    }

    /// The version that a precondition requires.
    pub(super) fn expected_version(&self, key: &SeriesKey, condition: &Precondition) -> Result<IfVersion> {
        let by_version = condition.if_version.map(|version| ExpectedVersion { series_id: None, version });
        let Some(text) = condition.if_match.as_deref().map(str::trim) else { return Ok(by_version) };
        if text == "*" {
            self.def(key)?;
            return Ok(by_version);
        }
        // A list matches when one of its tags does; the format part of a tag is ignored.
        let state = self.store.snapshot();
        let series = self.series_state(&state, key)?;
        let stem = self.stem(series.id, series.version);
        let matches =
            text.split(',').any(|tag| tag.trim().trim_start_matches("W/").trim_matches('"').starts_with(&stem));
        if matches {
            return Ok(Some(ExpectedVersion { series_id: Some(series.id), version: series.version }));
        }
        Err(Error::new(
            ErrorCode::CommitConflict,
            format!("series {key} is at version {}; the given entity tag does not match", series.version),
        )
        .with_hint("read the series again and repeat the change"))
    }
}

/// Fails when the request gives changeable fields that differ from those registered; absent fields are not compared.
fn check_same(spec: &SeriesSpec, requested: &SeriesDef, known: &SeriesDef) -> Result<()> {
    let differs = |is_given: bool, is_same: bool| is_given && !is_same;
    if differs(spec.retention.is_some(), requested.retention == known.retention)
        || differs(spec.calendar.is_some(), requested.calendar == known.calendar)
        || differs(spec.value_index.is_some(), requested.value_index == known.value_index)
        || differs(spec.description.is_some(), requested.description == known.description)
    {
        return Err(Error::new(
            ErrorCode::SeriesExists,
            format!("series {} is registered with another retention, calendar, value index or description", known.key),
        )
        .with_hint("change these fields with PATCH"));
    }
    Ok(())
}
