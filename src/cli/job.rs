//! Long-running commands: their progress on standard error when that is a terminal.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use super::print;
use super::remote::{Call, RestClient, segment};
use crate::error::{Error, Result};
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
pub fn local<T>(watch: &TaskControl, unit: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let bar = bar(unit);
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let shown = bar.clone();
        scope.spawn(move || {
            while is_done.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let (position, total) = watch.progress();
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
pub fn remote<T: DeserializeOwned>(client: &RestClient, operation: &str, body: Option<serde_json::Value>) -> Result<T> {
    let mut call = Call::new(Method::POST, format!("/v1/admin/{operation}"));
    if let Some(body) = body {
        let body = serde_json::to_vec(&body).map_err(|error| Error::internal(format!("request as JSON: {error}")))?;
        call = call.body("application/json", Bytes::from(body));
    }
    let mut job = first_job(client.json(call)?)?;
    let bar = bar(&job.progress.unit);
    if !bar.is_hidden() {
        print::note(&format!("job {} of {}", job.id, client.url()));
    }
    while !job.status.is_finished() {
        std::thread::sleep(POLL_INTERVAL);
        job = first_job(client.json(Call::new(Method::GET, format!("/v1/admin/jobs/{}", segment(&job.id))))?)?;
        bar.set_length(job.progress.total);
        bar.set_position(job.progress.done);
    }
    bar.finish_and_clear();
    serde_json::from_value(job.outcome()?)
        .map_err(|error| Error::internal(format!("the result of {operation} cannot be decoded: {error}")))
}

fn first_job(list: JobList) -> Result<Job> {
    list.jobs.into_iter().next().ok_or_else(|| Error::internal("the server returned no job"))
}
