//! Jobs: long operations that run in the background while clients poll their progress.
//!
//! - One job of each operation runs at a time; others wait in a bounded queue. Rate-limited checks do not count: up to
//!   [`SLOW_MAX`] of them run concurrently, so that a very slow one blocks no other job.
//! - A job is listed from its creation until [`HISTORY_MAX`] later jobs are finished.
//! - [`Jobs::close`] cancels running jobs and waits for them; no job runs after it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::wall_ms;
use crate::error::{Error, ErrorCode, Result};
use crate::service::wall_clock::rfc3339;
use crate::store::TaskControl;

/// Maximum number of queued jobs of one operation.
pub const QUEUE_MAX: usize = 16;
/// Maximum number of rate-limited checks running at one time.
pub const SLOW_MAX: usize = 4;
/// The operation whose rate-limited jobs run concurrently: it only reads.
const VERIFY: &str = "verify";
/// Number of finished jobs retained.
pub const HISTORY_MAX: usize = 32;

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum JobStatus {
    /// Another job of the same operation is running.
    Queued,
    Running,
    /// `result` holds the reply.
    Done,
    /// `error` holds the reason, also after a cancellation.
    Failed,
}

impl JobStatus {
    /// Whether the job has ended.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// Progress of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Progress {
    pub done: u64,
    /// As far as it is known; it can grow.
    pub total: u64,
    /// Unit of the counts.
    #[cfg_attr(feature = "server", schema(example = "bytes"))]
    pub unit: String,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct JobError {
    /// An error code.
    pub code: String,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl JobError {
    fn new(id: &str, error: &Error) -> Self {
        let detail = match error.code() {
            ErrorCode::Internal | ErrorCode::Io => format!("the cause is in the log under job {id}"),
            _ => error.detail().to_owned(),
        };
        Self { code: error.code().name().into(), detail, hint: error.hint().map(Into::into) }
    }

    /// The error that this describes.
    pub fn error(&self) -> Error {
        let error = Error::new(ErrorCode::from_name(&self.code).unwrap_or(ErrorCode::Internal), self.detail.clone());
        match &self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// A long operation in the background.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Job {
    pub id: String,
    #[cfg_attr(feature = "server", schema(example = "verify"))]
    pub verb: String,
    pub status: JobStatus,
    pub progress: Progress,
    /// Wall-clock times, RFC 3339.
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Reply of the operation; omitted in the list of jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Object))]
    pub result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

impl Job {
    /// The reply of a finished job.
    ///
    /// # Errors
    /// The error with which the job failed.
    pub fn outcome(self) -> Result<Value> {
        match (self.error, self.result) {
            (Some(error), _) => Err(error.error()),
            (None, Some(result)) => Ok(result),
            (None, None) => Err(Error::internal(format!("job {} is not finished", self.id))),
        }
    }
}

/// Jobs, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct JobList {
    pub jobs: Vec<Job>,
}

impl From<Job> for JobList {
    fn from(job: Job) -> Self {
        Self { jobs: vec![job] }
    }
}

/// The work of a job.
type Work = Box<dyn FnOnce(&TaskControl) -> Result<Value> + Send>;

struct JobEntry {
    job: Job,
    /// Token id of the caller that started the job; empty for a trusted caller.
    owner: Arc<str>,
    control: Arc<TaskControl>,
    /// Taken when the job starts.
    work: Option<Work>,
    lane: JobLane,
}

/// Jobs that run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct JobLane {
    verb: &'static str,
    is_slow: bool,
}

impl JobLane {
    fn of(verb: &'static str, control: &TaskControl) -> Self {
        Self { verb, is_slow: verb == VERIFY && control.has_rate() }
    }

    /// Number of jobs of the lane that run at one time.
    fn width(self) -> usize {
        if self.is_slow { SLOW_MAX } else { 1 }
    }
}

#[derive(Default)]
struct JobTable {
    /// In the order of creation.
    entries: VecDeque<JobEntry>,
    /// Threads that run or ran; finished ones are removed when the next one starts.
    threads: Vec<JoinHandle<()>>,
    /// The lane of each running thread.
    running: Vec<JobLane>,
    closed: bool,
}

#[derive(Default)]
struct JobShared {
    table: Mutex<JobTable>,
    changed: Condvar,
}

/// All jobs of one store. See the module documentation.
#[derive(Default)]
pub struct Jobs(Arc<JobShared>);

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("jobs", &self.0.lock().entries.len()).finish()
    }
}

impl Jobs {
    /// Starts a job without an owner.
    ///
    /// # Errors
    /// Those of [`start_for`](Self::start_for).
    #[cfg(test)]
    fn start(
        &self,
        verb: &'static str,
        unit: &str,
        control: TaskControl,
        work: impl FnOnce(&TaskControl) -> Result<Value> + Send + 'static,
    ) -> Result<Job> {
        self.start_for(&Arc::from(""), verb, unit, control, work)
    }

    /// Creates a job of the caller with the token id `owner`; it runs when its lane has a free slot. `unit` is the unit
    /// of its progress.
    ///
    /// # Errors
    /// `overloaded` when [`QUEUE_MAX`] jobs of the lane are queued, `not_ready` when the store is closing.
    pub fn start_for(
        &self,
        owner: &Arc<str>,
        verb: &'static str,
        unit: &str,
        control: TaskControl,
        work: impl FnOnce(&TaskControl) -> Result<Value> + Send + 'static,
    ) -> Result<Job> {
        let mut table = self.0.lock();
        if table.closed {
            return Err(Error::new(ErrorCode::NotReady, "the server is shutting down"));
        }
        let lane = JobLane::of(verb, &control);
        let waiting = table.entries.iter().filter(|entry| entry.lane == lane && entry.job.status == JobStatus::Queued);
        if waiting.count() >= QUEUE_MAX {
            return Err(Error::new(ErrorCode::Overloaded, format!("{QUEUE_MAX} {verb} jobs are already queued"))
                .with_hint("GET /v1/admin/jobs lists them; DELETE one that is not needed"));
        }
        let job = Job {
            id: new_id()?,
            verb: verb.into(),
            status: JobStatus::Queued,
            progress: Progress { done: 0, total: 0, unit: unit.into() },
            created_at: now(),
            started_at: None,
            finished_at: None,
            result: None,
            error: None,
        };
        table.entries.push_back(JobEntry {
            job: job.clone(),
            owner: Arc::clone(owner),
            control: Arc::new(control),
            work: Some(Box::new(work)),
            lane,
        });
        if table.running.iter().filter(|running| **running == lane).count() < lane.width() {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new()
                .name(format!("fastk-{verb}"))
                .spawn(move || shared.run(lane))
                .map_err(|error| {
                    table.entries.pop_back();
                    Error::internal(format!("cannot start a thread: {error}"))
                })?;
            table.running.push(lane);
            table.threads.retain(|thread| !thread.is_finished());
            table.threads.push(thread);
        }
        Ok(job)
    }

    /// The current state of a job.
    ///
    /// # Errors
    /// `job_not_found`.
    pub fn get(&self, id: &str) -> Result<Job> {
        let table = self.0.lock();
        table.entries.iter().find(|entry| entry.job.id == id).map(JobEntry::current).ok_or_else(|| not_found(id))
    }

    /// All retained jobs, newest first, without their replies.
    pub fn list(&self) -> JobList {
        self.list_where(|_| true)
    }

    /// The jobs of the caller with this token id.
    pub fn list_owned_by(&self, owner: &str) -> JobList {
        self.list_where(|entry| *entry.owner == *owner)
    }

    fn list_where(&self, is_selected: impl Fn(&JobEntry) -> bool) -> JobList {
        let table = self.0.lock();
        let selected = table.entries.iter().rev().filter(|entry| is_selected(entry));
        JobList { jobs: selected.map(|entry| Job { result: None, ..entry.current() }).collect() }
    }

    /// Hides a job of another caller, as if it did not exist.
    ///
    /// # Errors
    /// `job_not_found`.
    pub fn check_owner(&self, id: &str, owner: &str) -> Result<()> {
        let table = self.0.lock();
        let is_owner = table.entries.iter().any(|entry| entry.job.id == id && *entry.owner == *owner);
        if is_owner { Ok(()) } else { Err(not_found(id)) }
    }

    /// Requests the cancellation of a job: a queued job fails at once, a running one at its next step. A finished job
    /// is unchanged.
    ///
    /// # Errors
    /// `job_not_found`.
    pub fn cancel(&self, id: &str) -> Result<Job> {
        let mut table = self.0.lock();
        let entry = table.entries.iter_mut().find(|entry| entry.job.id == id).ok_or_else(|| not_found(id))?;
        entry.cancel();
        let job = entry.current();
        self.0.changed.notify_all();
        Ok(job)
    }

    /// Waits for a job to finish.
    ///
    /// # Errors
    /// `job_not_found`, also when the job was forgotten meanwhile.
    pub fn wait(&self, id: &str) -> Result<Job> {
        let mut table = self.0.lock();
        loop {
            let entry = table.entries.iter().find(|entry| entry.job.id == id).ok_or_else(|| not_found(id))?;
            if entry.job.status.is_finished() {
                return Ok(entry.current());
            }
            table = self.0.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Accepts no more jobs and requests the cancellation of all, without waiting for them.
    pub fn cancel_all(&self) {
        let mut table = self.0.lock();
        table.closed = true;
        table.entries.iter_mut().for_each(JobEntry::cancel);
        self.0.changed.notify_all();
    }

    /// Like [`cancel_all`](Self::cancel_all), and waits until no job runs.
    pub fn close(&self) {
        self.cancel_all();
        let threads = std::mem::take(&mut self.0.lock().threads);
        for thread in threads {
            let name = thread.thread().name().map(str::to_owned);
            if thread.join().is_err() {
                tracing::error!(name, "a job thread panicked");
            }
        }
    }
}

impl JobEntry {
    fn current(&self) -> Job {
        let mut job = self.job.clone();
        if job.status == JobStatus::Running {
            (job.progress.done, job.progress.total) = self.control.progress();
        }
        job
    }

    fn cancel(&mut self) {
        self.control.cancel();
        if self.job.status == JobStatus::Queued {
            self.finish(Err(Error::new(ErrorCode::NotReady, "the job was cancelled before it started")));
        }
    }

    fn finish(&mut self, outcome: Result<Value>) {
        (self.job.progress.done, self.job.progress.total) = self.control.progress();
        self.job.finished_at = Some(now());
        self.work = None;
        match outcome {
            Ok(result) => {
                self.job.status = JobStatus::Done;
                self.job.result = Some(result);
            }
            Err(error) => {
                tracing::warn!(job = self.job.id, verb = self.job.verb, %error, "job failed");
                self.job.status = JobStatus::Failed;
                self.job.error = Some(JobError::new(&self.job.id, &error));
            }
        }
    }
}

impl JobShared {
    fn lock(&self) -> MutexGuard<'_, JobTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the jobs of a lane one after the other until none is queued.
    fn run(&self, lane: JobLane) {
        let verb = lane.verb;
        loop {
            let mut table = self.lock();
            let next = table
                .entries
                .iter_mut()
                .find(|entry| entry.lane == lane && entry.job.status == JobStatus::Queued)
                .and_then(|entry| Some((entry.work.take()?, entry)));
            let Some((work, entry)) = next else {
                let slot = table.running.iter().position(|running| *running == lane);
                slot.map(|slot| table.running.swap_remove(slot));
                return;
            };
            entry.job.status = JobStatus::Running;
            entry.job.started_at = Some(now());
            let (id, control) = (entry.job.id.clone(), Arc::clone(&entry.control));
            drop(table);
            tracing::info!(job = id, verb, "job started");
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| work(&control)));
            let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("the job panicked")));
            tracing::info!(job = id, verb, failed = outcome.is_err(), "job ended");
            let mut table = self.lock();
            if let Some(entry) = table.entries.iter_mut().find(|entry| entry.job.id == id) {
                entry.finish(outcome);
            }
            while table.entries.iter().filter(|entry| entry.job.status.is_finished()).count() > HISTORY_MAX {
                let oldest = table.entries.iter().position(|entry| entry.job.status.is_finished());
                oldest.and_then(|position| table.entries.remove(position));
            }
            drop(table);
            self.changed.notify_all();
        }
    }
}

fn not_found(id: &str) -> Error {
    let excerpt: String = id.chars().take(80).collect();
    Error::new(ErrorCode::JobNotFound, format!("job {excerpt:?} does not exist"))
        .with_hint("only the newest finished jobs are retained, and none across a restart")
}

/// Sixteen random hexadecimal digits.
fn new_id() -> Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// Wall-clock time, for display only.
fn now() -> String {
    rfc3339(wall_ms())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A job that runs until a result is sent or it is cancelled.
    fn start_blocked_job(jobs: &Jobs) -> (Job, mpsc::Sender<u64>) {
        let (sender, receiver) = mpsc::channel();
        let job = jobs.start("verify", "bytes", TaskControl::new(), move |control| {
            loop {
                control.check()?;
                match receiver.recv_timeout(std::time::Duration::from_millis(5)) {
                    Ok(value) => return Ok(Value::from(value)),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(error) => return Err(Error::internal(error.to_string())),
                }
            }
        });
        (job.unwrap(), sender)
    }

    #[test]
    fn one_job_of_an_operation_runs_at_a_time_and_the_others_are_queued() {
        let jobs = Jobs::default();
        let (first, sender) = start_blocked_job(&jobs);
        let (second, send_second) = start_blocked_job(&jobs);
        let other = jobs.start("scrub", "bytes", TaskControl::new(), |_| Ok(Value::from("other"))).unwrap();
        assert_eq!(jobs.wait(&other.id).unwrap().result, Some("other".into()));
        assert_eq!(jobs.get(&second.id).unwrap().status, JobStatus::Queued);
        sender.send(1).unwrap();
        let done = jobs.wait(&first.id).unwrap();
        assert_eq!((done.status, done.result), (JobStatus::Done, Some(1.into())));
        send_second.send(2).unwrap();
        assert_eq!(jobs.wait(&second.id).unwrap().outcome().unwrap(), 2);
        let listed: Vec<String> = jobs.list().jobs.into_iter().map(|job| job.id).collect();
        assert_eq!(listed, [other.id, second.id, first.id]);
        assert!(jobs.list().jobs.iter().all(|job| job.result.is_none()));
        jobs.close();
    }

    #[test]
    fn a_rate_limited_check_blocks_no_other_job_and_can_be_cancelled() {
        let jobs = Jobs::default();
        let slow = || {
            let control = TaskControl::with_rate(1);
            jobs.start("verify", "bytes", control, |control| control.advance(1 << 40).map(|()| Value::Null)).unwrap()
        };
        let running: Vec<Job> = (0..SLOW_MAX).map(|_| slow()).collect();
        while running.iter().any(|job| jobs.get(&job.id).unwrap().status != JobStatus::Running) {
            std::thread::yield_now();
        }
        for verb in ["verify", "scrub", "compact", "verify"] {
            let job = jobs.start(verb, "bytes", TaskControl::new(), |_| Ok(Value::from(1))).unwrap();
            assert_eq!(jobs.wait(&job.id).unwrap().status, JobStatus::Done, "{verb}");
        }
        let waiting = slow();
        assert_eq!(jobs.get(&waiting.id).unwrap().status, JobStatus::Queued);
        let (first, others) = running.split_first().unwrap();
        jobs.cancel(&first.id).unwrap();
        assert_eq!(jobs.wait(&first.id).unwrap().error.unwrap().code, "not_ready");
        while jobs.get(&waiting.id).unwrap().status != JobStatus::Running {
            std::thread::yield_now();
        }
        assert!(others.iter().all(|job| jobs.get(&job.id).unwrap().status == JobStatus::Running));
        jobs.close();
    }

    #[test]
    fn queue_and_history_are_bounded() {
        let jobs = Jobs::default();
        let (first, sender) = start_blocked_job(&jobs);
        while jobs.get(&first.id).unwrap().status != JobStatus::Running {
            std::thread::yield_now();
        }
        for _ in 0..QUEUE_MAX {
            jobs.start("verify", "bytes", TaskControl::new(), |_| Ok(Value::Null)).unwrap();
        }
        let full = jobs.start("verify", "bytes", TaskControl::new(), |_| Ok(Value::Null)).unwrap_err();
        assert_eq!(full.code(), ErrorCode::Overloaded);
        sender.send(0).unwrap();
        jobs.wait(&first.id).unwrap();
        for _ in 0..HISTORY_MAX + 2 {
            let job = jobs.start("scrub", "bytes", TaskControl::new(), |_| Ok(Value::Null)).unwrap();
            jobs.wait(&job.id).unwrap();
        }
        jobs.close();
        assert_eq!(jobs.list().jobs.len(), HISTORY_MAX);
        assert_eq!(jobs.get(&first.id).unwrap_err().code(), ErrorCode::JobNotFound);
    }

    #[test]
    fn cancelling_ends_running_and_queued_jobs_and_closing_waits_for_both() {
        let jobs = Jobs::default();
        let (running, _send) = start_blocked_job(&jobs);
        let (waiting, _send_waiting) = start_blocked_job(&jobs);
        assert_eq!(jobs.cancel(&waiting.id).unwrap().error.unwrap().code, "not_ready");
        jobs.cancel(&running.id).unwrap();
        assert_eq!(jobs.wait(&running.id).unwrap().status, JobStatus::Failed);
        let (last, _send_last) = start_blocked_job(&jobs);
        jobs.close();
        assert_eq!(jobs.get(&last.id).unwrap().status, JobStatus::Failed);
        let closed = jobs.start("verify", "bytes", TaskControl::new(), |_| Ok(Value::Null)).unwrap_err();
        assert_eq!(closed.code(), ErrorCode::NotReady);
    }

    #[test]
    fn a_job_that_panics_fails_and_the_next_one_runs() {
        let jobs = Jobs::default();
        let broken = jobs.start("verify", "bytes", TaskControl::new(), |_| panic!("a secret")).unwrap();
        let broken = jobs.wait(&broken.id).unwrap();
        let error = broken.error.unwrap();
        assert_eq!(error.code, "internal");
        assert!(!error.detail.contains("secret"));
        let next = jobs.start("verify", "bytes", TaskControl::new(), |_| Ok(Value::from(1))).unwrap();
        assert_eq!(jobs.wait(&next.id).unwrap().outcome().unwrap(), 1);
        jobs.close();
    }
}
