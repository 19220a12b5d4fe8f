//! Long-running commands: their progress on standard error when that is a terminal.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use super::remote::{Call, RestClient};
use super::{print, request};
use crate::error::{Error, Result};
use crate::service::operations::{GetJob, JobRequest, Operation};
use crate::service::{Job, JobList, TaskControl};

/// Time between two polls of the progress.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A progress bar that counts this unit.
fn bar(unit: &str) -> ProgressBar {
    let template = match unit {
        "bytes" => "{wide_bar} {bytes}/{total_bytes}",
        _ => "{wide_bar} {pos}/{len}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// Runs work in this process and shows the progress in its task control.
pub fn local<T>(control: &TaskControl, unit: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let bar = bar(unit);
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let shown = bar.clone();
        scope.spawn(move || {
            while is_done.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let (position, total) = control.progress();
                shown.set_length(total);
                shown.set_position(position);
            }
        });
        let outcome = work();
        drop(done);
        bar.finish_and_clear();
        outcome
    })
}

/// Starts a job of the server, shows its progress, and returns its result.
pub fn remote<T: DeserializeOwned>(client: &RestClient, verb: &str, start: Call) -> Result<T> {
    let mut job = first_job(client.json(start)?)?;
    let poll = request::value(&JobRequest { id: job.id.clone() })?;
    let bar = bar(&job.progress.unit);
    if !bar.is_hidden() {
        print::note(&format!("job {} of {}", job.id, client.url()));
    }
    while !job.status.is_finished() {
        std::thread::sleep(POLL_INTERVAL);
        job = first_job(client.json(request::call(&GetJob::SPEC, &poll)?)?)?;
        bar.set_length(job.progress.total);
        bar.set_position(job.progress.done);
    }
    bar.finish_and_clear();
    serde_json::from_value(job.outcome()?)
        .map_err(|error| Error::internal(format!("the result of {verb} cannot be decoded: {error}")))
}

fn first_job(list: JobList) -> Result<Job> {
    list.jobs.into_iter().next().ok_or_else(|| Error::internal("the server returned no job"))
}
