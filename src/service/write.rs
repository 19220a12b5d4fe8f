//! Writes: rows enter a series under a mode or by merging, and exactly once under an idempotency key.
//!
//! Invariant: an idempotency key is looked up before any check that could reject the write. A retry gets the first
//! reply even when the first write itself made its precondition fail.

use std::borrow::Cow;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::format::receipt::SeriesReceipt;
use crate::ingest::ParsedRows;
use crate::service::caller::Scope;
use crate::service::replies::{RowMode, WriteManyReply, WriteReply};
use crate::service::series::Precondition;
use crate::service::shared::Service;
use crate::store::{DecidedWrite, Durability, ExpectedVersion, IfVersion, SeriesWrite, WriteMode, WriteOutcome};
use crate::types::key::{KLINE, SCALAR};
use crate::types::schema::MergeRule;
use crate::types::{SeriesDef, SeriesKey, SeriesSpec};

/// Idempotency key of a write: 1 to [`IdempotencyKey::CHARS_MAX`] visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Maximum length of a key, in characters.
    pub const CHARS_MAX: usize = 255;

    /// The key of one record batch of a stream.
    pub fn of_batch(&self, ordinal: u64) -> Self {
        Self(format!("{}/{ordinal}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = Error;

    /// Parses a key; one surrounding pair of quotes, as in structured headers, is removed.
    fn from_str(text: &str) -> Result<Self> {
        let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if (1..=Self::CHARS_MAX).contains(&bare.len()) && bare.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(bare.into()));
        }
        Err(Error::invalid(format!("Idempotency-Key must be 1 to {} visible ASCII characters", Self::CHARS_MAX))
            .with_hint("generate a UUID for each write and send it again with each retry"))
    }
}

/// How the value of a scalar is merged into a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum MergeOp {
    /// The new value replaces the stored one.
    Set,
    /// The sum; a sum out of range rejects the whole merge (`invalid_rows`).
    Add,
    /// The smaller value.
    Min,
    /// The larger value.
    Max,
    /// Same as `set`.
    Last,
}

impl MergeOp {
    fn rule(self) -> MergeRule {
        match self {
            Self::Set | Self::Last => MergeRule::Last,
            Self::Add => MergeRule::Sum,
            Self::Min => MergeRule::Min,
            Self::Max => MergeRule::Max,
        }
    }

    /// Name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Add => "add",
            Self::Min => "min",
            Self::Max => "max",
            Self::Last => "last",
        }
    }
}

impl FromStr for MergeOp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Set, Self::Add, Self::Min, Self::Max, Self::Last]
            .into_iter()
            .find(|op| op.name() == text)
            .ok_or_else(|| Error::invalid(format!("op {text:?} is not one of set, add, min, max, last")))
    }
}

/// How rows enter a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMethod {
    Mode(RowMode),
    /// The stored and the new row are merged column by column: by the rule of each column, or by this operation for a
    /// scalar.
    Merge(Option<MergeOp>),
}

impl Default for WriteMethod {
    fn default() -> Self {
        Self::Mode(RowMode::default())
    }
}

impl WriteMethod {
    /// Parses `upsert`, `insert`, `append` or `merge`, the last with an optional `op`.
    pub fn of(mode: Option<&str>, op: Option<&str>) -> Result<Self> {
        let op = op.map(str::parse).transpose()?;
        match (mode, op) {
            (Some("merge"), op) => Ok(Self::Merge(op)),
            (_, Some(_)) => Err(Error::invalid("op is valid only with mode merge")),
            (None, None) => Ok(Self::default()),
            (Some("upsert"), None) => Ok(Self::Mode(RowMode::Upsert)),
            (Some("insert"), None) => Ok(Self::Mode(RowMode::Insert)),
            (Some("append"), None) => Ok(Self::Mode(RowMode::Append)),
            (Some(other), None) => {
                Err(Error::invalid(format!("mode {other:?} is not one of upsert, insert, append, merge")))
            }
        }
    }

    /// The mode of a write of several series.
    ///
    /// # Errors
    /// `invalid_argument` for a merge.
    pub fn of_many(self) -> Result<RowMode> {
        match self {
            Self::Mode(mode) => Ok(mode),
            Self::Merge(_) => Err(Error::invalid("a merge must name one series")),
        }
    }

    fn mode(self) -> WriteMode {
        match self {
            Self::Mode(RowMode::Upsert) => WriteMode::Upsert,
            Self::Mode(RowMode::Insert) => WriteMode::Insert,
            Self::Mode(RowMode::Append) => WriteMode::Append,
            Self::Merge(op) => WriteMode::Merge { first: op.map(MergeOp::rule) },
        }
    }
}

/// Options of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub method: WriteMethod,
    pub condition: Precondition,
    /// A repeat under the same key within 24 hours returns the first reply and changes nothing.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Registers the series in the same commit, unless it is already registered with this definition. A rejected write
    /// registers nothing.
    pub create: Option<Box<SeriesSpec>>,
}

impl WriteOptions {
    /// Checks what does not depend on the rows.
    ///
    /// # Errors
    /// `invalid_argument` for a merge without an idempotency key, or with an `op` for a kline.
    pub fn check(&self, key: &SeriesKey) -> Result<()> {
        let WriteMethod::Merge(op) = self.method else { return Ok(()) };
        if op.is_some() && key.kind() != SCALAR {
            let error = Error::invalid(format!("op is valid only for scalars, {key} is a {}", key.kind()));
            return Err(match key.kind() {
                KLINE => error.with_hint(
                    "a kline keeps open, takes the largest high, the smallest low, the last close and the sum of \
                     volumes",
                ),
                _ => error.with_hint("each field is merged by the rule in its definition"),
            });
        }
        if self.idempotency_key.is_none() {
            return Err(Error::invalid("a merge needs an Idempotency-Key, so that a retry is applied once").with_hint(
                "send the header Idempotency-Key, idempotency_key in a Flight command, or --idempotency-key",
            ));
        }
        Ok(())
    }
}

/// The result of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged<T = WriteReply> {
    pub reply: T,
    /// Whether the idempotency key was used before: then this is the first reply, and this request changed nothing.
    pub repeated: bool,
}

/// A write that is decided but not yet durable.
#[derive(Debug)]
#[must_use = "the write is not durable until it is finished"]
pub struct PendingWrite {
    /// The reply once the write is durable.
    reply: WriteReply,
    decided: DecidedWrite,
}

impl PendingWrite {
    /// The version that the write creates.
    pub fn version(&self) -> u64 {
        self.reply.version
    }
}

/// A version that no series has, for a precondition that is known to fail.
const NO_VERSION: IfVersion = Some(ExpectedVersion { series_id: Some(u64::MAX), version: u64::MAX });

fn count_rows(outcome: &WriteOutcome) {
    if !outcome.repeated {
        let rows = outcome.written.iter().map(|written| written.rows_written).sum();
        metrics::counter!("fastk_rows_written_total").increment(rows);
        metrics::histogram!("fastk_write_rows").record(rows as f64);
    }
}

impl Service {
    /// An idempotency key in the namespace of the caller: callers limited to different series have separate keys.
    fn scoped_key<'k>(&self, key: &'k IdempotencyKey) -> Cow<'k, str> {
        if self.caller.is_limited() {
            Cow::Owned(format!("{}\n{}", self.caller.prefixes.join("\n"), key.as_str()))
        } else {
            Cow::Borrowed(key.as_str())
        }
    }

    /// Writes parsed rows (see [`crate::ingest::parse`]) as one atomic commit; returns when it is durable.
    pub fn write(
        &self,
        key: &SeriesKey,
        parsed: ParsedRows,
        mode: RowMode,
        condition: &Precondition,
    ) -> Result<WriteReply> {
        let options =
            WriteOptions { method: WriteMethod::Mode(mode), condition: condition.clone(), ..WriteOptions::default() };
        Ok(self.write_with(key, parsed, &options)?.reply)
    }

    /// Like [`write`](Self::write), with all options.
    ///
    /// # Errors
    /// Those of [`crate::Store::write_many`] and of [`WriteOptions::check`].
    pub fn write_with(&self, key: &SeriesKey, parsed: ParsedRows, options: &WriteOptions) -> Result<Acknowledged> {
        self.finish_write(self.begin_write(key, parsed, options)?)
    }

    /// Decides a write like [`Service::write_with`] without waiting until it is durable. It must not be acknowledged
    /// before [`Service::finish_write`] returns.
    ///
    /// # Errors
    /// Those of [`Service::write_with`].
    pub fn begin_write(&self, key: &SeriesKey, parsed: ParsedRows, options: &WriteOptions) -> Result<PendingWrite> {
        self.caller.require_series(Scope::Write, key)?;
        options.check(key)?;
        let idempotency_key = options.idempotency_key.as_ref().map(|key| self.scoped_key(key));
        let idempotency_key = idempotency_key.as_deref();
        // Under a key only the engine can distinguish a retry from a conflict.
        let (if_version, conflict) = match self.expected_version(key, &options.condition) {
            Ok(if_version) => (if_version, None),
            Err(error) if idempotency_key.is_some() && error.code() == ErrorCode::CommitConflict => {
                (NO_VERSION, Some(error))
            }
            Err(error) => return Err(error),
        };
        let create = match &options.create {
            Some(spec) => Some(self.resolve_or_new(spec)?.0),
            None => None,
        };
        let write = SeriesWrite {
            if_version,
            create,
            skipped: parsed.skipped,
            phase_pending: parsed.phase_pending,
            ..SeriesWrite::new(key.clone(), parsed.rows, options.method.mode())
        };
        let decided = self.store.begin_write(vec![write], idempotency_key).map_err(|error| match conflict {
            Some(conflict) if error.code() == ErrorCode::CommitConflict => conflict,
            _ => error,
        })?;
        let written = decided.outcome().written.first().ok_or_else(|| Error::internal("a write without a result"))?;
        Ok(PendingWrite { reply: self.write_reply(key, written), decided })
    }

    /// Waits until a write is durable and visible.
    ///
    /// # Errors
    /// `writer_stopped`, `storage_full`: then no row of it was written.
    pub fn finish_write(&self, pending: PendingWrite) -> Result<Acknowledged> {
        let outcome = self.store.finish_write(pending.decided)?;
        count_rows(&outcome);
        Ok(Acknowledged { reply: pending.reply, repeated: outcome.repeated })
    }

    /// Writes parsed rows of several series (see [`crate::ingest::parse_many`]), each listed once, as one atomic commit
    /// with one sync. Under an idempotency key a repeat returns the first reply.
    ///
    /// # Errors
    /// Those of [`crate::Store::write_many`].
    pub fn write_many(
        &self,
        parsed: Vec<(SeriesKey, ParsedRows)>,
        mode: RowMode,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<Acknowledged<WriteManyReply>> {
        self.write_parts(parsed, &HashMap::new(), mode, idempotency_key)
    }

    /// Like [`write_many`](Self::write_many); series that are in `created` and not registered are registered in the same
    /// commit.
    pub(super) fn write_parts(
        &self,
        parsed: Vec<(SeriesKey, ParsedRows)>,
        created: &HashMap<SeriesKey, Arc<SeriesDef>>,
        mode: RowMode,
        idempotency_key: Option<&IdempotencyKey>,
    ) -> Result<Acknowledged<WriteManyReply>> {
        let keys: Vec<SeriesKey> = parsed.iter().map(|(key, _)| key.clone()).collect();
        self.caller.require_scope(Scope::Write)?;
        keys.iter().try_for_each(|key| self.caller.require_series(Scope::Write, key))?;
        let mode = WriteMethod::Mode(mode).mode();
        let writes = parsed
            .into_iter()
            .map(|(key, parsed)| SeriesWrite {
                skipped: parsed.skipped,
                phase_pending: parsed.phase_pending,
                create: created.get(&key).cloned(),
                ..SeriesWrite::new(key, parsed.rows, mode)
            })
            .collect();
        let outcome = self.store.write_many(writes, idempotency_key.map(|key| self.scoped_key(key)).as_deref())?;
        count_rows(&outcome);
        let durable = self.store.options().durability == Durability::Sync;
        let durable = outcome.written.first().map_or(durable, |written| written.durable);
        let series = keys.iter().zip(&outcome.written).map(|(key, written)| self.write_reply(key, written)).collect();
        Ok(Acknowledged { reply: WriteManyReply::new(outcome.commit, durable, series), repeated: outcome.repeated })
    }

    /// The reply to a write of one series. The entity tag is that of the series written, even if another series has its
    /// key by now.
    pub(super) fn write_reply(&self, key: &SeriesKey, written: &SeriesReceipt) -> WriteReply {
        WriteReply {
            series: key.clone(),
            rows_written: written.rows_written,
            rows_replaced: written.rows_replaced,
            rows_duplicate: written.rows_duplicate,
            rows_skipped: written.rows_skipped,
            version: written.version,
            commit: written.commit,
            etag: self.etag(written.series_id, written.version),
            first_ts: written.first_ts,
            last_ts: written.last_ts,
            durable: written.durable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_visible_ascii_with_or_without_quotes() {
        let parse = |text: &str| text.parse::<IdempotencyKey>();
        assert_eq!(parse("a-1").unwrap(), parse("\"a-1\"").unwrap());
        assert_eq!(parse("\"a-1\"").unwrap().of_batch(3).as_str(), "a-1/3");
        assert!(parse(&"x".repeat(255)).is_ok());
        for bad in ["", "\"\"", "a b", "a\tb", "ä", "a\u{0}", &"x".repeat(256)] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{bad:?}");
            assert!(error.detail().contains("Idempotency-Key"));
        }
    }

    #[test]
    fn a_merge_needs_a_key_and_only_scalars_take_an_op() {
        let kline = SeriesKey::kline("X", "1m").unwrap();
        let scalar = SeriesKey::scalar("c", "X", "1m", "n").unwrap();
        let options = |mode, op, key: Option<&str>| WriteOptions {
            method: WriteMethod::of(Some(mode), op).unwrap(),
            idempotency_key: key.map(|key| key.parse().unwrap()),
            ..WriteOptions::default()
        };
        assert!(options("merge", None, None).check(&kline).unwrap_err().detail().contains("Idempotency-Key"));
        assert!(options("merge", None, Some("k")).check(&kline).is_ok());
        assert!(options("merge", Some("add"), Some("k")).check(&kline).unwrap_err().detail().contains("scalars"));
        assert!(options("merge", Some("add"), Some("k")).check(&scalar).is_ok());
        assert!(options("append", None, None).check(&kline).is_ok());
        for (mode, op) in
            [(Some("upsert"), Some("add")), (None, Some("set")), (Some("merge"), Some("avg")), (Some("x"), None)]
        {
            assert_eq!(WriteMethod::of(mode, op).unwrap_err().code(), ErrorCode::InvalidArgument, "{mode:?} {op:?}");
        }
    }
}
