//! The pass that writes the checked rows in batches.

use indicatif::ProgressBar;

use crate::error::{Error, Result};
use crate::ingest::source::{Converted, Converter, RowCollector};
use crate::service::RowMode;
use crate::types::SeriesDef;

use super::args::ImportSettings;
use super::check::InputSummary;
use super::plan::ImportPlan;
use super::sink::{Sink, SinkReply};

/// Most rows of one commit.
pub const BATCH_ROWS: usize = 262_144;

/// Checked rows to write into a series.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    pub plan: &'a ImportPlan,
    pub settings: &'a ImportSettings,
    pub checked: &'a InputSummary,
    pub def: &'a SeriesDef,
    /// Earliest stored time before the import.
    pub first_stored: Option<i64>,
}

impl Delivery<'_> {
    /// Writes every accepted row. `done` counts the written rows, also after an error.
    ///
    /// # Errors
    /// Those of the sink, and `invalid_argument` when a file changed since the check.
    pub fn run(&self, sink: &mut dyn Sink, bar: &ProgressBar, done: &mut SinkReply) -> Result<()> {
        let Self { plan, settings, checked, def, first_stored } = *self;
        let accepted = checked.accepted();
        let capacity = BATCH_ROWS.min(usize::try_from(accepted).unwrap_or(BATCH_ROWS));
        let mut rows = RowCollector::new(def, capacity);
        let mut flush = |rows: RowCollector<'_>| -> Result<()> {
            if rows.is_empty() {
                return Ok(());
            }
            let mut batch = rows.into_rows();
            if settings.mode != RowMode::Append {
                batch.sort(def);
            }
            let written = sink.write(def, batch, settings.mode)?;
            done.rows += written.rows;
            done.replaced += written.replaced;
            Ok(())
        };
        let converter = Converter::new(def, settings.rules, first_stored);
        let mut converted = Converted::default();
        let mut seen = 0_u64;
        plan.read(bar, &mut |row| {
            if checked.repeats.drops(row.number) || converter.convert(&row.mapped, &mut converted).is_err() {
                return Ok(());
            }
            seen += 1;
            if !rows.push(&converted)? {
                flush(std::mem::replace(&mut rows, RowCollector::new(def, capacity)))?;
                if !rows.push(&converted)? {
                    return Err(Error::internal("a row does not fit an empty batch"));
                }
            }
            if rows.len() < BATCH_ROWS {
                return Ok(());
            }
            flush(std::mem::replace(&mut rows, RowCollector::new(def, capacity)))
        })?;
        flush(rows)?;
        if seen == accepted {
            return Ok(());
        }
        Err(Error::invalid(format!("the files changed during the import: {accepted} rows became {seen}"))
            .with_hint("import them again"))
    }
}
