//! Writing: rows enter a series under a mode or by merging, and under an idempotency key exactly once.
//!
//! Invariant: what an idempotency key was used for is looked at before anything else that could refuse the write. A
//! retry gets its first answer although the first write itself made the condition fail.

use std::borrow::Cow;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Durability, Precondition, RowMode, Scope, Service, WriteManyReply, WriteReply};
use crate::error::{Error, ErrorCode, Result};
use crate::format::receipt::SeriesReceipt;
use crate::ingest::ParsedRows;
use crate::store::{DecidedWrite, ExpectedVersion, IfVersion, SeriesWrite, WriteMode, WriteOutcome};
use crate::types::schema::MergeRule;
use crate::types::{Kind, SeriesKey, SeriesSpec};

/// Name under which a caller repeats a write: 1 to [`IdempotencyKey::CHARS_MAX`] visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Most characters of a key.
    pub const CHARS_MAX: usize = 255;

    /// The key of one record batch of a stream of them.
    pub fn of_batch(&self, ordinal: u64) -> Self {
        Self(format!("{}/{ordinal}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = Error;

    /// Reads a key; one pair of quotes around it, as structured headers have them, is taken off.
    fn from_str(text: &str) -> Result<Self> {
        let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if (1..=Self::CHARS_MAX).contains(&bare.len()) && bare.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(bare.into()));
        }
        Err(Error::invalid(format!("Idempotency-Key is not 1 to {} visible ASCII characters", Self::CHARS_MAX))
            .with_hint("a UUID made anew for each write, and sent again with each retry of it"))
    }
}

/// What becomes of a scalar's value when a row is merged into a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum MergeOp {
    /// The new value replaces the stored one.
    Set,
    /// Their sum; too large a one refuses the whole merge (`invalid_rows`).
    Add,
    /// The smaller one.
    Min,
    /// The larger one.
    Max,
    /// As `set`.
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

    /// The word it is written as.
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
    /// Stored and new row become one, column by column: by the rule of each column, or a scalar's by this one.
    Merge(Option<MergeOp>),
}

impl Default for WriteMethod {
    fn default() -> Self {
        Self::Mode(RowMode::default())
    }
}

impl WriteMethod {
    /// Reads `upsert`, `insert`, `append` or `merge`, the last with or without an `op`.
    pub fn of(mode: Option<&str>, op: Option<&str>) -> Result<Self> {
        let op = op.map(str::parse).transpose()?;
        match (mode, op) {
            (Some("merge"), op) => Ok(Self::Merge(op)),
            (_, Some(_)) => Err(Error::invalid("op is for mode merge only")),
            (None, None) => Ok(Self::default()),
            (Some("upsert"), None) => Ok(Self::Mode(RowMode::Upsert)),
            (Some("insert"), None) => Ok(Self::Mode(RowMode::Insert)),
            (Some("append"), None) => Ok(Self::Mode(RowMode::Append)),
            (Some(other), None) => {
                Err(Error::invalid(format!("mode {other:?} is not one of upsert, insert, append, merge")))
            }
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

/// Everything about a write but its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub manner: WriteMethod,
    pub condition: Precondition,
    /// A repeat under the same key, within 24 hours, is answered as the first time and changes nothing.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Registers the series in the same commit, unless it is registered so already. A write that is refused registers
    /// nothing.
    pub create: Option<Box<SeriesSpec>>,
}

impl WriteOptions {
    /// What can be said without the rows.
    ///
    /// # Errors
    /// `invalid_argument` for a merge without an idempotency key, or with an `op` for a kline.
    pub fn check(&self, key: &SeriesKey) -> Result<()> {
        let WriteMethod::Merge(op) = self.manner else { return Ok(()) };
        if op.is_some() && key.kind() == Kind::Kline {
            return Err(Error::invalid(format!("op is for scalars, {key} is a kline")).with_hint(
                "a kline keeps open, takes the largest high, the smallest low, the last close and the sum of volumes",
            ));
        }
        if self.idempotency_key.is_none() {
            return Err(Error::invalid("a merge needs an Idempotency-Key, so that a retry counts once").with_hint(
                "the header Idempotency-Key, idempotency_key in a command of Flight, --idempotency-key on the command line",
            ));
        }
        Ok(())
    }
}

/// A write that was carried out, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged<T = WriteReply> {
    pub reply: T,
    /// The idempotency key was used before: this is the first reply, and nothing was changed now.
    pub repeated: bool,
}

/// A write that is decided but not durable yet.
#[derive(Debug)]
#[must_use = "it is not durable before it is finished"]
pub struct PendingWrite {
    /// What will be answered once it is.
    reply: WriteReply,
    writing: DecidedWrite,
}

impl PendingWrite {
    /// The version that the write makes.
    pub fn version(&self) -> u64 {
        self.reply.version
    }
}

/// The version no series is at: for a condition that is known to fail.
const NEVER: IfVersion = Some(ExpectedVersion { series_id: Some(u64::MAX), version: u64::MAX });

fn count_rows(outcome: &WriteOutcome) {
    if !outcome.repeated {
        let rows = outcome.written.iter().map(|written| written.rows_written).sum();
        metrics::counter!("fastk_rows_written_total").increment(rows);
        metrics::histogram!("fastk_write_rows").record(rows as f64);
    }
}

impl Service {
    /// An idempotency key as its caller means it: callers limited to other series do not take each other's.
    fn own_key<'k>(&self, key: &'k IdempotencyKey) -> Cow<'k, str> {
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
        let terms =
            WriteOptions { manner: WriteMethod::Mode(mode), condition: condition.clone(), ..WriteOptions::default() };
        Ok(self.write_under(key, parsed, &terms)?.reply)
    }

    /// The same under any terms.
    ///
    /// # Errors
    /// Those of [`crate::Store::write_many`] and of [`WriteOptions::check`].
    pub fn write_under(&self, key: &SeriesKey, parsed: ParsedRows, terms: &WriteOptions) -> Result<Acknowledged> {
        self.finish_write(self.begin_write(key, parsed, terms)?)
    }

    /// Decides a write as [`Service::write_under`] does, and does not wait until it is durable: that is for
    /// [`Service::finish_write`], before which nothing of it may be acknowledged.
    ///
    /// # Errors
    /// Those of [`Service::write_under`].
    pub fn begin_write(&self, key: &SeriesKey, parsed: ParsedRows, terms: &WriteOptions) -> Result<PendingWrite> {
        self.caller.may_touch(Scope::Write, key)?;
        terms.check(key)?;
        let once = terms.idempotency_key.as_ref().map(|key| self.own_key(key));
        let once = once.as_deref();
        // Under a key only the engine can tell a retry from a conflict.
        let (if_version, conflict) = match self.expected(key, &terms.condition) {
            Ok(if_version) => (if_version, None),
            Err(error) if once.is_some() && error.code() == ErrorCode::CommitConflict => (NEVER, Some(error)),
            Err(error) => return Err(error),
        };
        let create = match &terms.create {
            Some(spec) => Some(self.known_or_new(spec)?.0),
            None => None,
        };
        let write = SeriesWrite {
            if_version,
            create,
            skipped: parsed.skipped,
            phased: parsed.phased,
            ..SeriesWrite::new(key.clone(), parsed.rows, terms.manner.mode())
        };
        let writing = self.store.begin_write(vec![write], once).map_err(|error| match conflict {
            Some(conflict) if error.code() == ErrorCode::CommitConflict => conflict,
            _ => error,
        })?;
        let written = writing.outcome().written.first().ok_or_else(|| Error::internal("a write without a result"))?;
        Ok(PendingWrite { reply: self.write_reply(key, written), writing })
    }

    /// Waits until a write is durable and visible.
    ///
    /// # Errors
    /// `writer_stopped`, `storage_full`: then nothing of it was written.
    pub fn finish_write(&self, begun: PendingWrite) -> Result<Acknowledged> {
        let outcome = self.store.finish_write(begun.writing)?;
        count_rows(&outcome);
        Ok(Acknowledged { reply: begun.reply, repeated: outcome.repeated })
    }

    /// Writes parsed rows of many series (see [`crate::ingest::parse_many`]), each once, as one atomic commit with one
    /// sync: all of them, or none. Under an idempotency key a repeat is answered as the first time.
    ///
    /// # Errors
    /// Those of [`crate::Store::write_many`].
    pub fn write_many(
        &self,
        parsed: Vec<(SeriesKey, ParsedRows)>,
        mode: RowMode,
        once: Option<&IdempotencyKey>,
    ) -> Result<Acknowledged<WriteManyReply>> {
        let keys: Vec<SeriesKey> = parsed.iter().map(|(key, _)| key.clone()).collect();
        self.caller.may(Scope::Write)?;
        keys.iter().try_for_each(|key| self.caller.may_touch(Scope::Write, key))?;
        let mode = WriteMethod::Mode(mode).mode();
        let writes = parsed
            .into_iter()
            .map(|(key, parsed)| SeriesWrite {
                skipped: parsed.skipped,
                phased: parsed.phased,
                ..SeriesWrite::new(key, parsed.rows, mode)
            })
            .collect();
        let outcome = self.store.write_many(writes, once.map(|key| self.own_key(key)).as_deref())?;
        count_rows(&outcome);
        let durable = self.store.options().durability == Durability::Sync;
        let durable = outcome.written.first().map_or(durable, |written| written.durable);
        let series = keys.iter().zip(&outcome.written).map(|(key, written)| self.write_reply(key, written)).collect();
        Ok(Acknowledged { reply: WriteManyReply::new(outcome.commit, durable, series), repeated: outcome.repeated })
    }

    /// What a write of one series did, as its caller is told. The entity tag is of the series that was written, also
    /// when another one has its key by now.
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
        let terms = |mode, op, key: Option<&str>| WriteOptions {
            manner: WriteMethod::of(Some(mode), op).unwrap(),
            idempotency_key: key.map(|key| key.parse().unwrap()),
            ..WriteOptions::default()
        };
        assert!(terms("merge", None, None).check(&kline).unwrap_err().detail().contains("Idempotency-Key"));
        assert!(terms("merge", None, Some("k")).check(&kline).is_ok());
        assert!(terms("merge", Some("add"), Some("k")).check(&kline).unwrap_err().detail().contains("scalars"));
        assert!(terms("merge", Some("add"), Some("k")).check(&scalar).is_ok());
        assert!(terms("append", None, None).check(&kline).is_ok());
        for (mode, op) in
            [(Some("upsert"), Some("add")), (None, Some("set")), (Some("merge"), Some("avg")), (Some("x"), None)]
        {
            assert_eq!(WriteMethod::of(mode, op).unwrap_err().code(), ErrorCode::InvalidArgument, "{mode:?} {op:?}");
        }
    }
}
