//! The steps of `fastk import`: plan, profile, check and write.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::{ImportArgs, ImportSettings};
use super::deliver::Delivery;
use super::plan::ImportPlan;
use super::refusal::RefusedImport;
use super::report::{self, ImportSummary};
use super::sink::{self, RegisteredSeries, Sink, SinkReply};
use super::stdin::{STAGED_BYTES_MAX, STDIN, StagedInput};
use super::{check, mapping, profile, widen};
use crate::cli::print;
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::source::Converter;
use crate::service::RowMode;
use crate::types::kind::{built_in_named, is_preset};
use crate::types::schema::series_not_found;
use crate::types::{ColumnChange, SeriesDef, SeriesSpec};

/// The outcome of an import.
#[derive(Debug)]
pub struct ImportOutcome {
    pub summary: ImportSummary,
    /// Why not every row was written.
    pub error: Option<Error>,
}

/// Runs the command: prints findings to standard error, the summary to standard output.
///
/// # Errors
/// `invalid_rows` when a row is invalid and `--on-invalid skip` is not set, `invalid_argument` for invalid flags and
/// files, else the error of the store or the server.
pub fn run(args: ImportArgs) -> Result<u8> {
    let settings = ImportSettings::of(&args)?;
    let staged = match settings.files.iter().any(|file| file.as_os_str() == STDIN) {
        true => Some(StagedInput::of(std::io::stdin().lock(), &std::env::temp_dir(), STAGED_BYTES_MAX)?),
        false => None,
    };
    let mut sink = sink::open(&args.target, args.dry_run)?;
    let sink: Option<&mut dyn Sink> = match &mut sink {
        Some(sink) => Some(sink.as_mut()),
        None => None,
    };
    let staged = staged.as_ref().map(StagedInput::path);
    let outcome = import(&settings, staged, sink, &mut |text| print::note(text.trim_end()))?;
    for warning in &outcome.summary.warnings {
        print::note(&format!("warning: {}", warning.message));
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&outcome.summary)
            .map(|text| format!("{text}\n"))
            .map_err(|error| Error::internal(format!("cannot write the summary: {error}")))?,
        false => outcome.summary.text(outcome.error.is_some() && outcome.summary.rows_written == 0),
    };
    let shown = print::out(&text);
    match outcome.error {
        Some(error) => Err(error),
        None => shown.map(|()| 0).map_err(|error| match outcome.summary.rows_written {
            0 => error.with_hint("only the summary is lost: the import succeeded and stored no row"),
            rows => error.with_hint(format!("only the summary is lost: all {rows} rows are stored")),
        }),
    }
}

/// Imports into `sink`; without one only a dry run is possible. `staged` is the file with standard input.
pub fn import(
    settings: &ImportSettings,
    staged: Option<&Path>,
    mut sink: Option<&mut dyn Sink>,
    report_findings: &mut dyn FnMut(&str),
) -> Result<ImportOutcome> {
    let registered = match &mut sink {
        Some(sink) => sink.registered(&settings.key)?,
        None => None,
    };
    let is_new = registered.is_none();
    let first_stored = registered.as_ref().and_then(|known| known.first_ts);
    let is_built_in = built_in_named(settings.key.kind()).is_some();
    // The columns of a series that is registered, or whose kind has them.
    let fixed = match registered {
        Some(RegisteredSeries { def, .. }) => Some((def, None)),
        None if is_built_in => None,
        None => {
            let sink = sink.as_mut().ok_or_else(|| series_not_found(&settings.key))?;
            let spec = SeriesSpec::of_key(&settings.key);
            Some((spec.clone().resolve_as(&sink.kind(&settings.key)?)?, Some(spec)))
        }
    };
    // Only the digits of a new series of market events are open.
    let events = match &fixed {
        None if !is_preset(settings.key.kind()) => Some(SeriesSpec::of_key(&settings.key).resolve()?),
        _ => None,
    };
    let targets = mapping::targets(settings, fixed.as_ref().map(|(def, _)| def).or(events.as_ref()))?;
    let plan = ImportPlan::of(settings, targets, staged)?;
    let known = fixed.is_some();
    let (mut def, spec) = match fixed {
        Some((def, spec)) => {
            check_digits(settings, &def)?;
            (def, spec)
        }
        None => {
            let bar = progress(&plan, "profiling");
            let spec = profile::profile(&plan, &bar)?.spec(settings, &plan);
            bar.finish_and_clear();
            (spec.clone().resolve()?, Some(spec))
        }
    };
    report_findings(&report::findings(&plan, &def, is_new));
    let bar = progress(&plan, "checking");
    let mut checked = check::check(&plan, &Converter::new(&def, settings.rules, first_stored), settings, &bar)?;
    bar.finish_and_clear();
    let mut changes: Vec<ColumnChange> = Vec::new();
    if known && settings.widen {
        let registered = def.clone();
        let mut profiled = None;
        // A row shows only the first of its cells that does not fit.
        loop {
            let narrow = widen::narrow_columns(&checked, &def);
            let profile = match &profiled {
                _ if narrow.is_empty() => break,
                Some(profile) => profile,
                None => profiled.insert(profile::profile(&plan, &progress(&plan, "profiling"))?),
            };
            let more = widen::changes(&def, &checked, &narrow, &plan.targets, profile);
            changes.retain(|change| !more.iter().any(|newer| newer.name == change.name));
            changes.extend(more);
            let wider = registered.evolved(&changes)?;
            if wider.columns == def.columns {
                break;
            }
            def = wider;
            let converter = Converter::new(&def, settings.rules, first_stored);
            checked = check::check(&plan, &converter, settings, &progress(&plan, "checking"))?;
        }
        if !changes.is_empty() {
            report_findings(&report::findings(&plan, &def, is_new));
        }
    }
    let mut summary = ImportSummary::of(settings, &plan, &def, known, &checked);
    summary.target = sink.as_ref().map(|sink| sink.name());
    let case = RefusedImport { settings, plan: &plan, def: &def, known, checked: &checked };
    if let Some(error) = case.refusal() {
        return Ok(ImportOutcome { summary, error: Some(error) });
    }
    let sink = match sink {
        Some(sink) if !settings.dry_run && checked.accepted() > 0 => sink,
        _ => return Ok(ImportOutcome { summary, error: None }),
    };
    if let Some(spec) = &spec {
        def = sink.register(spec)?;
    }
    if !changes.is_empty() {
        def = sink.change(&settings.key, changes)?;
    }
    let mut written = SinkReply::default();
    let bar = progress(&plan, "writing");
    let delivery = Delivery { plan: &plan, settings, checked: &checked, def: &def, first_stored };
    let delivered = delivery.run(sink, &bar, &mut written);
    bar.finish_and_clear();
    summary.wrote(written);
    if delivered.is_err() && written.rows == 0 {
        sink.unregister(&settings.key);
    } else {
        summary.registered = spec.is_some();
    }
    let error = match delivered {
        Ok(()) => sink.seal(&settings.key).err().map(|error| {
            let stored =
                format!("all {} rows are stored; fastk admin compact seals them into chunk files", written.rows);
            error.with_hint(stored)
        }),
        Err(error) if written.rows == 0 => Some(error),
        Err(error) => Some(partial_import_error(error, settings.mode, written.rows)),
    };
    Ok(ImportOutcome { summary, error })
}

/// The error of an import that stored `rows` rows before it failed.
fn partial_import_error(error: Error, mode: RowMode, rows: u64) -> Error {
    let again = match mode {
        RowMode::Insert | RowMode::Append => "to resume, import again with --mode upsert",
        _ => "to resume, import again",
    };
    let before = error.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
    error.with_hint(format!("{before}{rows} rows were stored before the error; {again}"))
}

/// Checks that flags do not contradict the digits of a registered series.
fn check_digits(settings: &ImportSettings, def: &SeriesDef) -> Result<()> {
    let extras = settings.extra.iter().map(|extra| (extra.name.as_str(), extra.digits));
    let flags = [("open", settings.price_digits), ("volume", settings.volume_digits), ("value", settings.value_digits)];
    for (name, digits) in flags.into_iter().chain(extras) {
        let Some(column) = def.column(name).and_then(|at| def.columns.get(at)) else { continue };
        if digits.is_some() && digits != column.kind.digits() {
            let has = column.kind.text();
            return Err(Error::new(
                ErrorCode::SchemaMismatch,
                format!("{} is registered with {name} as {has}; the flags contradict it", def.key),
            ));
        }
    }
    Ok(())
}

/// A progress bar over the bytes of all files, only on a terminal.
fn progress(plan: &ImportPlan, phase: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(plan.bytes());
    if let Ok(style) = ProgressStyle::with_template("{msg:10} {bar:40} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(phase);
    bar
}
