//! Jobs: long work that goes on while its caller asks how far it is.
//!
//! - Of each verb one job runs at a time; the others wait in a queue that has an end. A check that was told to read
//!   slowly does not count: up to [`SLOW_MAX`] of them run beside it, so that one that takes for ever keeps nobody out.
//! - A job is known from the moment it was taken on until [`HISTORY_MAX`] later ones are finished.
//! - [`Jobs::close`] cancels what is under way and waits for it; nothing runs behind it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::snapshots::rfc3339;
use crate::error::{Error, ErrorCode, Result};
use crate::store::TaskControl;

/// Jobs of one verb that may wait.
pub const QUEUE_MAX: usize = 16;
/// Checks with a rate that run at one time.
pub const SLOW_MAX: usize = 4;
/// The verb of them: it only reads, so that many may run at one time.
const VERIFY: &str = "verify";
/// Finished jobs that are remembered.
pub const HISTORY_MAX: usize = 32;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum JobStatus {
    /// Another job of the verb runs.
    Queued,
    Running,
    /// `result` says what came out.
    Done,
    /// `error` says why; also when it was cancelled.
    Failed,
}

impl JobStatus {
    /// Whether nothing more will happen.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Progress {
    pub done: u64,
    /// As far as it is known; it can grow.
    pub total: u64,
    /// What is counted.
    #[cfg_attr(feature = "server", schema(example = "bytes"))]
    pub unit: String,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct JobError {
    /// A word of the table of errors.
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

    /// The error it was made from.
    pub fn error(&self) -> Error {
        let error = Error::new(ErrorCode::from_name(&self.code).unwrap_or(ErrorCode::Internal), self.detail.clone());
        match &self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// A piece of long work.
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
    /// What came out, by verb; the list of jobs leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Object))]
    pub result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

impl Job {
    /// What came out of a finished job.
    ///
    /// # Errors
    /// The error it failed with.
    pub fn outcome(self) -> Result<Value> {
        match (self.error, self.result) {
            (Some(error), _) => Err(error.error()),
            (None, Some(result)) => Ok(result),
            (None, None) => Err(Error::internal(format!("job {} is not finished", self.id))),
        }
    }
}

/// Jobs, the newest first.
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
    /// Token of the caller who started it; empty for one who needs none.
    owner: Arc<str>,
    watch: Arc<TaskControl>,
    /// Until it starts.
    work: Option<Work>,
    lane: JobLane,
}

/// Jobs that wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct JobLane {
    verb: &'static str,
    is_slow: bool,
}

impl JobLane {
    fn of(verb: &'static str, watch: &TaskControl) -> Self {
        Self { verb, is_slow: verb == VERIFY && watch.has_rate() }
    }

    /// Jobs that run at one time.
    fn width(self) -> usize {
        if self.is_slow { SLOW_MAX } else { 1 }
    }
}

#[derive(Default)]
struct JobTable {
    /// In the order they were taken on.
    entries: VecDeque<JobEntry>,
    /// Threads that run or ran; those that ended are taken off when the next one begins.
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

/// All jobs of one store. See the head of this module.
#[derive(Default)]
pub struct Jobs(Arc<JobShared>);

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("jobs", &self.0.lock().entries.len()).finish()
    }
}

impl Jobs {
    /// Takes on a job of nobody in particular.
    ///
    /// # Errors
    /// Those of [`start_for`](Self::start_for).
    #[cfg(test)]
    fn start(
        &self,
        verb: &'static str,
        unit: &str,
        watch: TaskControl,
        work: impl FnOnce(&TaskControl) -> Result<Value> + Send + 'static,
    ) -> Result<Job> {
        self.start_for(&Arc::from(""), verb, unit, watch, work)
    }

    /// Takes on a job of the caller with the token `owner`; it runs when no other one of its verb does. `unit` names what
    /// its watch counts.
    ///
    /// # Errors
    /// `overloaded` when [`QUEUE_MAX`] jobs of the verb wait, `not_ready` when the store is closing.
    pub fn start_for(
        &self,
        owner: &Arc<str>,
        verb: &'static str,
        unit: &str,
        watch: TaskControl,
        work: impl FnOnce(&TaskControl) -> Result<Value> + Send + 'static,
    ) -> Result<Job> {
        let mut table = self.0.lock();
        if table.closed {
            return Err(Error::new(ErrorCode::NotReady, "the server is stopping"));
        }
        let lane = JobLane::of(verb, &watch);
        let waiting = table.entries.iter().filter(|entry| entry.lane == lane && entry.job.status == JobStatus::Queued);
        if waiting.count() >= QUEUE_MAX {
            return Err(Error::new(ErrorCode::Overloaded, format!("{QUEUE_MAX} jobs of {verb} wait already"))
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
            watch: Arc::new(watch),
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

    /// A job as it stands.
    ///
    /// # Errors
    /// `job_not_found`.
    pub fn get(&self, id: &str) -> Result<Job> {
        let table = self.0.lock();
        table.entries.iter().find(|entry| entry.job.id == id).map(JobEntry::shown).ok_or_else(|| not_found(id))
    }

    /// All jobs that are remembered, the newest first, without what came out.
    pub fn list(&self) -> JobList {
        self.listed(|_| true)
    }

    /// Those of the caller with this token.
    pub fn list_of(&self, owner: &str) -> JobList {
        self.listed(|entry| *entry.owner == *owner)
    }

    fn listed(&self, is_wanted: impl Fn(&JobEntry) -> bool) -> JobList {
        let table = self.0.lock();
        let wanted = table.entries.iter().rev().filter(|entry| is_wanted(entry));
        JobList { jobs: wanted.map(|entry| Job { result: None, ..entry.shown() }).collect() }
    }

    /// Refuses a job that a caller with this token did not start, as one that is not there.
    ///
    /// # Errors
    /// `job_not_found`.
    pub fn check_owner(&self, id: &str, owner: &str) -> Result<()> {
        let table = self.0.lock();
        let is_own = table.entries.iter().any(|entry| entry.job.id == id && *entry.owner == *owner);
        if is_own { Ok(()) } else { Err(not_found(id)) }
    }

    /// Asks a job to stop: one that waits fails at once, one that runs at its next step. A finished one stays.
    ///
    /// # Errors
    /// `job_not_found`.
    pub fn cancel(&self, id: &str) -> Result<Job> {
        let mut table = self.0.lock();
        let entry = table.entries.iter_mut().find(|entry| entry.job.id == id).ok_or_else(|| not_found(id))?;
        entry.cancel();
        let job = entry.shown();
        self.0.changed.notify_all();
        Ok(job)
    }

    /// Waits for a job to finish.
    ///
    /// # Errors
    /// `job_not_found`, also when it was forgotten meanwhile.
    pub fn wait(&self, id: &str) -> Result<Job> {
        let mut table = self.0.lock();
        loop {
            let entry = table.entries.iter().find(|entry| entry.job.id == id).ok_or_else(|| not_found(id))?;
            if entry.job.status.is_finished() {
                return Ok(entry.shown());
            }
            table = self.0.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more jobs and asks all to stop, without waiting for them.
    pub fn cancel_all(&self) {
        let mut table = self.0.lock();
        table.closed = true;
        table.entries.iter_mut().for_each(JobEntry::cancel);
        self.0.changed.notify_all();
    }

    /// The same, and waits until nothing runs any more.
    pub fn close(&self) {
        self.cancel_all();
        let threads = std::mem::take(&mut self.0.lock().threads);
        for thread in threads {
            let name = thread.thread().name().map(str::to_owned);
            if thread.join().is_err() {
                tracing::error!(name, "a thread of jobs panicked");
            }
        }
    }
}

impl JobEntry {
    fn shown(&self) -> Job {
        let mut job = self.job.clone();
        if job.status == JobStatus::Running {
            (job.progress.done, job.progress.total) = self.watch.progress();
        }
        job
    }

    fn cancel(&mut self) {
        self.watch.cancel();
        if self.job.status == JobStatus::Queued {
            self.finish(Err(Error::new(ErrorCode::NotReady, "it was cancelled before it began")));
        }
    }

    fn finish(&mut self, outcome: Result<Value>) {
        (self.job.progress.done, self.job.progress.total) = self.watch.progress();
        self.job.finished_at = Some(now());
        self.work = None;
        match outcome {
            Ok(result) => {
                self.job.status = JobStatus::Done;
                self.job.result = Some(result);
            }
            Err(error) => {
                tracing::warn!(job = self.job.id, verb = self.job.verb, %error, "a job failed");
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

    /// Runs the jobs of a lane one after the other until none waits.
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
                let own = table.running.iter().position(|running| *running == lane);
                own.map(|own| table.running.swap_remove(own));
                return;
            };
            entry.job.status = JobStatus::Running;
            entry.job.started_at = Some(now());
            let (id, watch) = (entry.job.id.clone(), Arc::clone(&entry.watch));
            drop(table);
            tracing::info!(job = id, verb, "a job began");
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| work(&watch)));
            let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("the job panicked")));
            tracing::info!(job = id, verb, failed = outcome.is_err(), "a job ended");
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
    let shown: String = id.chars().take(80).collect();
    Error::new(ErrorCode::JobNotFound, format!("there is no job {shown:?}"))
        .with_hint("finished jobs are forgotten in time, and all of them with a restart")
}

/// Sixteen random hexadecimal digits.
fn new_id() -> Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal(format!("the system gives no random numbers: {error}")))?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

/// Wall-clock time, for people only.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A job that runs until it is told a result or cancelled.
    fn held(jobs: &Jobs) -> (Job, mpsc::Sender<u64>) {
        let (tell, told) = mpsc::channel();
        let job = jobs.start("verify", "bytes", TaskControl::new(), move |watch| {
            loop {
                watch.check()?;
                match told.recv_timeout(std::time::Duration::from_millis(5)) {
                    Ok(value) => return Ok(Value::from(value)),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(error) => return Err(Error::internal(error.to_string())),
                }
            }
        });
        (job.unwrap(), tell)
    }

    #[test]
    fn one_job_of_a_verb_runs_at_a_time_and_the_others_wait_their_turn() {
        let jobs = Jobs::default();
        let (first, tell) = held(&jobs);
        let (second, tell_second) = held(&jobs);
        let other = jobs.start("scrub", "bytes", TaskControl::new(), |_| Ok(Value::from("other"))).unwrap();
        assert_eq!(jobs.wait(&other.id).unwrap().result, Some("other".into()));
        assert_eq!(jobs.get(&second.id).unwrap().status, JobStatus::Queued);
        tell.send(1).unwrap();
        let done = jobs.wait(&first.id).unwrap();
        assert_eq!((done.status, done.result), (JobStatus::Done, Some(1.into())));
        tell_second.send(2).unwrap();
        assert_eq!(jobs.wait(&second.id).unwrap().outcome().unwrap(), 2);
        let listed: Vec<String> = jobs.list().jobs.into_iter().map(|job| job.id).collect();
        assert_eq!(listed, [other.id, second.id, first.id]);
        assert!(jobs.list().jobs.iter().all(|job| job.result.is_none()));
        jobs.close();
    }

    #[test]
    fn a_check_that_reads_a_byte_a_second_keeps_no_other_job_out_and_can_be_cancelled() {
        let jobs = Jobs::default();
        let slow = || {
            let watch = TaskControl::with_rate(1);
            jobs.start("verify", "bytes", watch, |watch| watch.advance(1 << 40).map(|()| Value::Null)).unwrap()
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
    fn queue_and_history_have_an_end() {
        let jobs = Jobs::default();
        let (first, tell) = held(&jobs);
        while jobs.get(&first.id).unwrap().status != JobStatus::Running {
            std::thread::yield_now();
        }
        for _ in 0..QUEUE_MAX {
            jobs.start("verify", "bytes", TaskControl::new(), |_| Ok(Value::Null)).unwrap();
        }
        let full = jobs.start("verify", "bytes", TaskControl::new(), |_| Ok(Value::Null)).unwrap_err();
        assert_eq!(full.code(), ErrorCode::Overloaded);
        tell.send(0).unwrap();
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
    fn cancelling_ends_what_runs_and_what_waits_and_closing_waits_for_both() {
        let jobs = Jobs::default();
        let (running, _tell) = held(&jobs);
        let (waiting, _tell_waiting) = held(&jobs);
        assert_eq!(jobs.cancel(&waiting.id).unwrap().error.unwrap().code, "not_ready");
        jobs.cancel(&running.id).unwrap();
        assert_eq!(jobs.wait(&running.id).unwrap().status, JobStatus::Failed);
        let (last, _tell_last) = held(&jobs);
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
