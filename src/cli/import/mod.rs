//! `fastk import`: files of bars into one series, checked as a whole before the first row is written.
//!
//! The phases, each in its own file: [`open`] tells what a file is; [`csv`], [`json`] and [`table`] read its rows as
//! borrowed [`cell`]s; [`mapping`] settles which source column feeds which column; [`profile`] reads every file for
//! the digits its numbers use; [`check`] converts every row without writing and knows every invalid, inconsistent or
//! repeated one; [`deliver`] writes to a [`sink`]; [`report`] tells.
//!
//! Invariants:
//! - Nothing is written before every row of every file was read and found valid, or left out by `--on-invalid skip`.
//! - Memory does not grow with the input, except by a few words for each row that may repeat another.
//! - Every row of the input is written, or counted and reported by its number: as invalid or as a duplicate.

pub mod args;
pub mod cell;
pub mod check;
pub mod clock;
pub mod convert;
pub mod csv;
pub mod deliver;
pub mod json;
pub mod mapping;
pub mod open;
pub mod plan;
pub mod profile;
pub mod repeats;
pub mod report;
pub mod sink;
pub mod table;
#[cfg(test)]
mod tests;

pub use args::ImportArgs;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

use args::{OnInvalid, Settings};
use convert::Converter;
use deliver::Delivery;
use plan::Plan;
use report::Summary;
use sink::{Sink, Written};

/// What came of an import.
#[derive(Debug)]
pub struct Outcome {
    pub summary: Summary,
    /// Why nothing, or not everything, was written.
    pub error: Option<Error>,
}

/// Runs the command: tells what it found on stderr, the summary on stdout.
///
/// # Errors
/// `invalid_rows` when a row is invalid and none is to be skipped, `invalid_argument` for flags and files that cannot
/// be read, else what the store or the server answers.
pub fn run(args: ImportArgs) -> Result<u8> {
    let settings = Settings::of(&args)?;
    let mut sink = sink::open(&args.target, args.dry_run)?;
    let sink: Option<&mut dyn Sink> = match &mut sink {
        Some(sink) => Some(sink.as_mut()),
        None => None,
    };
    let outcome = import(&settings, sink, &mut |text| eprint!("{text}"))?;
    if args.json {
        let text = serde_json::to_string_pretty(&outcome.summary)
            .map_err(|error| Error::internal(format!("cannot write the summary: {error}")))?;
        println!("{text}");
    } else {
        print!("{}", outcome.summary.text());
    }
    outcome.error.map_or(Ok(0), Err)
}

/// Imports into `sink`; without one only a dry run is possible.
pub fn import(settings: &Settings, mut sink: Option<&mut dyn Sink>, tell: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let registered = match &mut sink {
        Some(sink) => sink.registered(&settings.key)?,
        None => None,
    };
    let targets = mapping::targets(settings, registered.as_ref())?;
    let plan = Plan::of(settings, targets)?;
    let known = registered.is_some();
    let (mut def, spec) = match registered {
        Some(def) => {
            check_digits(settings, &def)?;
            (def, None)
        }
        None => {
            let bar = progress(&plan, "profiling");
            let spec = profile::profile(&plan, &bar)?.spec(settings, &plan);
            bar.finish_and_clear();
            (spec.clone().resolve()?, Some(spec))
        }
    };
    tell(&report::findings(&plan, &def, known));
    let bar = progress(&plan, "checking");
    let checked = check::check(&plan, &Converter::new(&def, settings), settings, &bar)?;
    bar.finish_and_clear();
    let mut summary = Summary::of(settings, &plan, &def, &checked);
    summary.target = sink.as_ref().map(|sink| sink.name());
    if checked.invalid.count > 0 && settings.on_invalid == OnInvalid::Reject {
        let error = Some(summary.refusal());
        return Ok(Outcome { summary, error });
    }
    let sink = match sink {
        Some(sink) if !settings.dry_run => sink,
        _ => return Ok(Outcome { summary, error: None }),
    };
    if let Some(spec) = &spec {
        def = sink.register(spec)?;
        summary.registered = true;
    }
    let mut written = Written::default();
    let bar = progress(&plan, "writing");
    let delivery = Delivery { plan: &plan, settings, checked: &checked, def: &def };
    let delivered = delivery.run(sink, &bar, &mut written);
    bar.finish_and_clear();
    summary.wrote(written);
    let sealed = delivered.and_then(|()| sink.seal(&settings.key));
    let error = sealed.err().map(|error| match written.rows {
        0 => error,
        rows => error.with_hint(format!("{rows} rows were written before; importing again is safe")),
    });
    Ok(Outcome { summary, error })
}

/// The digits of a registered series rule: flags may only repeat them.
fn check_digits(settings: &Settings, def: &crate::types::SeriesDef) -> Result<()> {
    let extras = settings.extra.iter().map(|extra| (extra.name.as_str(), extra.digits));
    let flags = [("open", settings.price_digits), ("volume", settings.volume_digits), ("value", settings.value_digits)];
    for (name, digits) in flags.into_iter().chain(extras) {
        let Some(column) = def.column(name).and_then(|at| def.columns.get(at)) else { continue };
        if digits.is_some() && digits != column.kind.digits() {
            let has = profile::describe(column.kind);
            return Err(Error::new(
                crate::ErrorCode::SchemaMismatch,
                format!("{} is registered with {name} as {has}; the digits given contradict it", def.key),
            ));
        }
    }
    Ok(())
}

/// A bar over the bytes of all files, on a terminal only.
fn progress(plan: &Plan, phase: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(plan.bytes());
    if let Ok(style) = ProgressStyle::with_template("{msg:10} {bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(phase);
    bar
}
