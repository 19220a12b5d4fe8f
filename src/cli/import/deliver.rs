//! The pass that writes: the same rows as the check, batch by batch.

use indicatif::ProgressBar;

use crate::error::Result;
use crate::service::Mode;
use crate::types::{Rows, SeriesDef};

use super::args::Settings;
use super::check::Checked;
use super::convert::{Converted, Converter};
use super::plan::Plan;
use super::sink::{Sink, Written};

/// Most rows of one commit.
pub const BATCH_ROWS: usize = 262_144;

/// Writes every accepted row. `done` counts what was written, also when an error ends it.
pub fn deliver(
    plan: &Plan,
    converter: &Converter<'_>,
    settings: &Settings,
    checked: &Checked,
    def: &SeriesDef,
    sink: &mut dyn Sink,
    bar: &ProgressBar,
    done: &mut Written,
) -> Result<()> {
    let capacity = BATCH_ROWS.min(usize::try_from(checked.accepted()).unwrap_or(BATCH_ROWS));
    let mut rows = Rows::with_capacity(def.columns.len(), capacity);
    let mut flush = |rows: &mut Rows| -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::replace(rows, Rows::with_capacity(def.columns.len(), capacity));
        if settings.mode != Mode::Append {
            batch.sort_last_wins();
        }
        let written = sink.write(def, batch, settings.mode)?;
        done.rows += written.rows;
        done.replaced += written.replaced;
        Ok(())
    };
    let mut converted = Converted::default();
    plan.read(bar, &mut |row| {
        if checked.repeats.drops(row.number) || converter.convert(&row, &mut converted).is_err() {
            return Ok(());
        }
        rows.push(converted.ts, &converted.cells);
        if rows.len() >= BATCH_ROWS { flush(&mut rows) } else { Ok(()) }
    })?;
    flush(&mut rows)
}
