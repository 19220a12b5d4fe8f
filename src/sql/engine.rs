//! The engine: its threads, memory and queue, and the way of a statement from its text to its rows.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableFunctionImpl;
use datafusion::common::ParamValues;
use datafusion::error::{DataFusionError, Result as SqlResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::object_store::ObjectStore;
use datafusion::optimizer::analyzer::{Analyzer, AnalyzerRule};
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use url::Url;

use super::asof::{FindAsOf, PushDown, marker};
use super::asof_exec::ReadStoredDecimals;
use super::batches::{WireTypes, wire_batch, wire_schema};
use super::catalog::{CATALOG, Catalogs, ListedTable, PUBLIC, Tables, listed_tables};
use super::consecutive::ReadConsecutively;
use super::doubles::DoublesNextToDecimals;
use super::failure::{external, failure};
use super::first_last::aggregate_functions;
use super::functions::scalar_functions;
use super::index::TableIndex;
use super::memory::{QueryMemory, SharedMemory};
use super::parameters::SqlParameters;
use super::planner::SqlPlanner;
use super::queries::{QueryEntry, QueryOwner, QueryStatus, RunningQueries, RunningQuery};
use super::runs::AggregateRuns;
use super::settings::SqlSettings;
use super::statement::parse;
use super::system::{SystemSchema, queries};
use super::table_functions::{AsOf, Latest, Resample, Scalars};
use super::table_keys::TableKeys;
use super::times::{ExactTexts, ExactTimes};
use super::view::{SystemTable, ViewSource};
use super::watch::{WatchJoins, limit_functions};
use crate::cancel::CancelFlag;
use crate::disk::lower_priority;
use crate::error::{Error, ErrorCode, Result};
use crate::store::StoreState;

/// A batch; `None` after the last one, so that rows of a task that was lost do not look complete.
type SentBatch = Result<Option<RecordBatch>>;

/// Batches ahead of the client.
const BATCHES_AHEAD: usize = 2;
/// Memory that a partition may fill ahead of a merge.
const SORT_BUFFER_BYTES: usize = 1 << 20;
/// Memory that a sort keeps for the merge of what it spilled.
const SPILL_MERGE_BYTES: usize = 2 << 20;
/// Stack of each thread: expressions of many operators are nested as deeply.
const STACK_BYTES: usize = 32 << 20;
/// Maximum number of parameters of a statement.
const PARAMETERS_MAX: usize = 10_000;
/// Added to the niceness of the threads of statements.
const NICENESS: i32 = 10;

/// A statement and how it runs.
#[derive(Clone, Debug, Default)]
pub struct SqlRequest {
    pub sql: String,
    /// Values of `$1`, `$2` and so on, or of each `?`.
    pub parameters: SqlParameters,
    /// The snapshot or dataset to read, unless the text sets one.
    pub as_of: Option<String>,
    /// The schema of tables that are named without one; `public` when absent.
    pub schema: Option<String>,
    pub wire: WireTypes,
    /// A number by which the client can cancel the statement.
    pub tag: Option<u64>,
    /// Shortens the time limit.
    pub timeout: Option<Duration>,
    pub owner: QueryOwner,
}

/// What is known of a statement before it runs.
#[derive(Clone, Debug)]
pub struct StatementInfo {
    /// Names and types of the columns of its result.
    pub schema: SchemaRef,
    /// The parameters `$1`, `$2` and so on; text where the statement does not say which type one has.
    pub parameters: SchemaRef,
    /// Whether the rows have an order that the statement asks for.
    pub is_ordered: bool,
    /// Commit of the view that it was planned on.
    pub commit: u64,
}

/// Runs statements.
pub struct SqlEngine {
    settings: SqlSettings,
    /// `None` once it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    template: SessionState,
    disk: Arc<DiskManager>,
    memory: Arc<SharedMemory>,
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    running: Arc<RunningQueries>,
    /// The tables of the last state.
    index: Arc<Mutex<Arc<TableIndex>>>,
}

impl fmt::Debug for SqlEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlEngine").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for SqlEngine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A registry of no stores of objects: statements read no files.
#[derive(Debug)]
struct NoObjectStores;

impl ObjectStoreRegistry for NoObjectStores {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, _: &Url) -> SqlResult<Arc<dyn ObjectStore>> {
        Err(DataFusionError::External(Box::new(Error::new(ErrorCode::PermissionDenied, "SQL reads no files"))))
    }
}

impl SqlEngine {
    /// An engine that spills into a directory, which is created when it is needed.
    ///
    /// # Errors
    /// `io` when its threads cannot be started.
    pub fn new(settings: SqlSettings, spill: Option<PathBuf>) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if settings.threads == 0 { cores } else { settings.threads };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("sql")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .on_thread_start(|| {
                lower_priority(NICENESS);
            })
            .build()
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot start the threads of sql: {error}")))?;
        let disk = |mode: DiskManagerMode| {
            let builder = DiskManagerBuilder::default().with_mode(mode);
            builder.with_max_temp_directory_size(settings.spill_bytes_max).build()
        };
        let spill = spill.filter(|_| settings.spill_bytes_max > 0);
        let spilling = spill.and_then(|directory| {
            // A store that is opened for reading only has no place for it.
            disk(DiskManagerMode::Directories(vec![directory]))
                .inspect_err(|error| tracing::warn!(%error, "statements cannot spill"))
                .ok()
        });
        let disk = match spilling {
            Some(disk) => disk,
            None => disk(DiskManagerMode::Disabled).map_err(|error| failure(&error))?,
        };
        let memory = Arc::new(SharedMemory::new(bytes(settings.memory_bytes_max)));
        let environment = RuntimeEnvBuilder::new()
            .with_object_store_registry(Arc::new(NoObjectStores))
            .build_arc()
            .map_err(|error| failure(&error))?;
        let mut template = SessionStateBuilder::new()
            .with_config(session_config(threads))
            .with_runtime_env(environment)
            .with_default_features()
            .with_file_formats(Vec::new())
            .with_table_factories(std::collections::HashMap::new())
            .with_analyzer_rules(analyzer_rules())
            .with_optimizer_rules(optimizer_rules())
            .with_query_planner(Arc::new(SqlPlanner))
            .build();
        for function in scalar_functions().into_iter().chain([marker()]) {
            use datafusion::execution::registry::FunctionRegistry;
            template.register_udf(function).map_err(|error| failure(&error))?;
        }
        for function in aggregate_functions() {
            use datafusion::execution::registry::FunctionRegistry;
            template.register_udaf(function).map_err(|error| failure(&error))?;
        }
        limit_functions(&mut template).map_err(|error| failure(&error))?;
        let running = Arc::new(RunningQueries::default());
        watch(&running)?;
        Ok(Self {
            settings,
            runtime: Some(runtime),
            template,
            disk: Arc::new(disk),
            memory,
            permits: Arc::new(Semaphore::new(settings.queries_max)),
            waiting: Arc::default(),
            running,
            index: Arc::default(),
        })
    }

    /// The limits.
    pub fn settings(&self) -> &SqlSettings {
        &self.settings
    }

    /// The statements that wait or run, oldest first.
    pub fn running(&self) -> Vec<RunningQuery> {
        self.running.list()
    }

    /// Cancels a statement; false when there is none of this id for which `may` is true.
    pub fn cancel(&self, id: u64, may: impl Fn(&QueryOwner) -> bool) -> bool {
        self.running.cancel(id, may)
    }

    /// Cancels the statements with a tag for which `may` is true; false when there is none.
    pub fn cancel_tagged(&self, tag: u64, may: impl Fn(&QueryOwner) -> bool) -> bool {
        self.running.cancel_tagged(tag, may)
    }

    /// The listed tables of the catalog. `name` can be the key of a series, whose table is then added.
    ///
    /// # Errors
    /// Those of the views, and of the tables of the schema `system`.
    pub fn tables(&self, views: &Arc<dyn ViewSource>, name: Option<&str>) -> Result<Vec<ListedTable>> {
        let view = views.now()?;
        let index = index_of(&self.index, &view.state);
        let tables = Tables { view: view.clone(), index, stop: CancelFlag::default() };
        let system = SystemSchema { view, views: Arc::clone(views), others: views.system_tables() };
        listed_tables(&tables, &system, name)
    }

    /// The table that rows of this name are written into; `None` where no kind has such tables.
    ///
    /// # Errors
    /// Those of the views.
    pub fn table_keys(&self, views: &dyn ViewSource, name: &str) -> Result<Option<TableKeys>> {
        let view = views.now()?;
        let index = index_of(&self.index, &view.state);
        Ok(TableKeys::of(&view, &index, name))
    }

    /// A table of the statements for which `sees` is true, for the schema `system`.
    pub fn queries_table(self: &Arc<Self>, sees: impl Fn(&QueryOwner) -> bool + Send + Sync + 'static) -> SystemTable {
        let running = Arc::clone(&self.running);
        let rows = move || {
            let visible: Vec<RunningQuery> = running.list().into_iter().filter(|query| sees(&query.owner)).collect();
            queries(&visible)
        };
        SystemTable { name: "queries", rows: Box::new(rows) }
    }

    /// Plans a statement and starts it. The rows are computed on the threads of the engine, a few batches ahead.
    ///
    /// # Errors
    /// `invalid_argument` for a statement that cannot be planned, `permission_denied` for one that does not read,
    /// `not_found` for a table, `overloaded` when too many wait, `deadline_exceeded`, `too_large` for its memory.
    pub async fn start(&self, request: SqlRequest, views: Arc<dyn ViewSource>) -> Result<SqlRows> {
        let started = self.spawn(request, views)?;
        let (schema, commit) = started.ready.await.map_err(|_| lost())??;
        Ok(SqlRows { schema, commit, ..started.rows })
    }

    /// Like [`start`](Self::start), for a thread that may block.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub fn start_blocking(&self, request: SqlRequest, views: Arc<dyn ViewSource>) -> Result<SqlRows> {
        let started = self.spawn(request, views)?;
        let (schema, commit) = started.ready.blocking_recv().map_err(|_| lost())??;
        Ok(SqlRows { schema, commit, ..started.rows })
    }

    /// Plans a statement without running it. Its parameters may be absent.
    ///
    /// # Errors
    /// Those of [`start`](Self::start).
    pub async fn describe(&self, request: SqlRequest, views: Arc<dyn ViewSource>) -> Result<StatementInfo> {
        let AdmittedQuery { place, guard, opener, mut task } = self.admit(&request, views)?;
        let runtime = self.runtime.as_ref().ok_or_else(|| Error::internal("sql: the engine has ended"))?;
        let entry = Arc::clone(&guard.entry);
        let bytes_max = self.settings.statement_bytes_max;
        let (done, described) = oneshot::channel();
        runtime.spawn(async move {
            let _place = place;
            let work = async {
                task.acquire_permit().await?;
                let parsed = parse(&request.sql, bytes_max)?;
                let (session, commit) = opener.open(parsed.as_of.as_deref().or(request.as_of.as_deref()))?;
                task.describe(&session, parsed.statement, &request, commit).await
            };
            let result = tokio::select! {
                result = work => result,
                () = entry.cancelled.notified() => Err(cancelled(entry.id)),
            };
            let _ = done.send(result);
        });
        let described = described.await.map_err(|_| lost())?;
        drop(guard);
        described
    }

    /// Gives a statement its place, entry, memory and time.
    fn admit(&self, request: &SqlRequest, views: Arc<dyn ViewSource>) -> Result<AdmittedQuery> {
        let place = WaitingPlace::take(&self.waiting, self.settings.queries_max + self.settings.queue_max)?;
        let memory = Arc::new(QueryMemory::new(bytes(self.settings.query_memory_bytes_max), Arc::clone(&self.memory)));
        let entry = self.running.add(request.owner.clone(), request.tag, &request.sql, memory);
        let timeout = request.timeout.map_or(self.settings.timeout(), |timeout| timeout.min(self.settings.timeout()));
        // Ends the entry whatever happens until its rows are dropped.
        let guard = QueryGuard { entry: Arc::clone(&entry), running: Arc::clone(&self.running) };
        let opener = SessionOpener {
            template: self.template.clone(),
            environment: RuntimeEnv {
                memory_pool: Arc::clone(&entry.memory) as _,
                disk_manager: Arc::clone(&self.disk),
                ..self.template.runtime_env().as_ref().clone()
            },
            index: Arc::clone(&self.index),
            views,
            schema: request.schema.clone(),
            entry: Arc::clone(&entry),
        };
        let task = Task {
            entry: Arc::clone(&entry),
            deadline: Deadline { entry: Arc::clone(&entry), left: timeout, limit: timeout },
            permits: Arc::clone(&self.permits),
            permit: None,
        };
        Ok(AdmittedQuery { place, guard, opener, task })
    }

    fn spawn(&self, request: SqlRequest, views: Arc<dyn ViewSource>) -> Result<StartedQuery> {
        let runtime = self.runtime.as_ref().ok_or_else(|| Error::internal("sql: the engine has ended"))?;
        let AdmittedQuery { place, guard, opener, mut task } = self.admit(&request, views)?;
        let entry = Arc::clone(&guard.entry);
        let (ready_tx, ready) = oneshot::channel();
        let (tx, rows) = mpsc::channel(BATCHES_AHEAD);
        let bytes_max = self.settings.statement_bytes_max;
        let timeout = task.deadline.limit;
        runtime.spawn(async move {
            let _place = place;
            let mut ready = Some(ready_tx);
            let work = async {
                task.acquire_permit().await?;
                // Here, since a nested text needs the long stack of these threads.
                let parsed = parse(&request.sql, bytes_max)?;
                let parameters = ParamValues::from(request.parameters.scalars()?);
                let (session, commit) = opener.open(parsed.as_of.as_deref().or(request.as_of.as_deref()))?;
                let mut result = task.start(session, parsed.statement, parameters, request.wire).await?;
                let started = (Arc::clone(&result.schema), commit);
                if ready.take().is_some_and(|ready| ready.send(Ok(started)).is_err()) {
                    return Ok(());
                }
                task.send_all(&mut result, &tx).await
            };
            let result = tokio::select! {
                result = work => result,
                () = entry.cancelled.notified() => Err(cancelled(entry.id)),
            };
            // A part that was stopped does not know why.
            let result = match (entry.is_expired(), entry.stop.is_cancelled()) {
                (true, _) => result.map_err(|_| too_late(timeout)),
                (false, true) => result.map_err(|_| cancelled(entry.id)),
                (false, false) => result,
            };
            // Scans that other tasks of the statement still run end at their next block.
            entry.stop.cancel();
            if let Err(error) = result {
                match ready.take() {
                    Some(ready) => drop(ready.send(Err(error))),
                    None => drop(tx.send(Err(error)).await),
                }
            }
        });
        let rows =
            SqlRows { schema: Arc::new(Schema::empty()), rows, id: guard.entry.id, commit: 0, guard, ended: false };
        Ok(StartedQuery { ready, rows })
    }
}

/// The error of a statement whose task has ended without a result.
fn lost() -> Error {
    Error::internal("sql: the statement was lost")
}

fn too_late(limit: Duration) -> Error {
    let detail = format!("the statement did not finish within {} ms", limit.as_millis());
    Error::new(ErrorCode::DeadlineExceeded, detail).with_hint("select less, or raise sql.timeout_ms")
}

fn cancelled(id: u64) -> Error {
    Error::new(ErrorCode::DeadlineExceeded, format!("query {id} was cancelled"))
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn session_config(threads: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_batch_size(8_192)
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, PUBLIC);
    let options = config.options_mut();
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".to_owned());
    options.execution.sort_pushdown_buffer_capacity = SORT_BUFFER_BYTES;
    options.execution.sort_spill_reservation_bytes = SPILL_MERGE_BYTES;
    options.execution.enable_recursive_ctes = false;
    // Series are already apart: no number of them is worth a hash of all rows.
    options.optimizer.subset_repartition_threshold = 1;
    options.optimizer.prefer_existing_sort = true;
    options.optimizer.prefer_existing_union = true;
    config
}

fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    // Before types are coerced.
    rules.insert(0, Arc::new(ExactTexts));
    rules.insert(1, Arc::new(DoublesNextToDecimals));
    // After types are coerced.
    rules.push(Arc::new(FindAsOf));
    rules
}

fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    rules.insert(0, Arc::new(ExactTimes));
    // Where conditions are next to the join: later rules put projections between them.
    let after = rules.iter().position(|rule| rule.name() == "push_down_filter").map_or(rules.len(), |at| at + 1);
    rules.insert(after, Arc::new(PushDown));
    rules
}

fn physical_rules(stop: &CancelFlag) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.push(Arc::new(ReadConsecutively));
    rules.push(Arc::new(ReadStoredDecimals));
    rules.push(Arc::new(AggregateRuns));
    rules.push(Arc::new(WatchJoins { stop: stop.clone() }));
    rules
}

/// Starts the thread that stops statements whose time is over, until the engine is gone. Their own threads may be busy.
fn watch(running: &Arc<RunningQueries>) -> Result<()> {
    let running = Arc::downgrade(running);
    let work = move || {
        while let Some(running) = running.upgrade() {
            running.stop_expired();
        }
    };
    let thread = std::thread::Builder::new().name("sql-watch".into()).spawn(work);
    thread.map(drop).map_err(|error| Error::new(ErrorCode::Io, format!("cannot start a thread of sql: {error}")))
}

/// What the session of a statement is made of.
struct SessionOpener {
    template: SessionState,
    environment: RuntimeEnv,
    /// The tables of the last state.
    index: Arc<Mutex<Arc<TableIndex>>>,
    views: Arc<dyn ViewSource>,
    schema: Option<String>,
    entry: Arc<QueryEntry>,
}

/// A statement that has a place, before it is parsed.
struct AdmittedQuery {
    place: WaitingPlace,
    guard: QueryGuard,
    opener: SessionOpener,
    task: Task,
}

fn index_of(last: &Mutex<Arc<TableIndex>>, state: &StoreState) -> Arc<TableIndex> {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if !last.is_of(state) {
        *last = Arc::new(TableIndex::of(state));
    }
    Arc::clone(&last)
}

impl SessionOpener {
    /// The session, and the commit that it reads.
    fn open(self, as_of: Option<&str>) -> Result<(SessionState, u64)> {
        let Self { template, environment, views, entry, .. } = &self;
        let view = as_of.map_or_else(|| views.now(), |name| views.as_of(name))?;
        let commit = view.state.commit;
        let index = index_of(&self.index, &view.state);
        let tables = Arc::new(Tables { view: view.clone(), index, stop: entry.stop.clone() });
        let system = Arc::new(SystemSchema { view, views: Arc::clone(views), others: views.system_tables() });
        let functions: [(&str, Arc<dyn TableFunctionImpl>); 4] = [
            ("latest", Arc::new(Latest { tables: Arc::clone(&tables) })),
            ("resample", Arc::new(Resample { tables: Arc::clone(&tables) })),
            ("scalars", Arc::new(Scalars { tables: Arc::clone(&tables) })),
            ("as_of", Arc::new(AsOf { tables: Arc::clone(&tables), views: Arc::clone(views) })),
        ];
        let mut builder = SessionStateBuilder::new_from_existing(template.clone())
            .with_catalog_list(Arc::new(Catalogs { tables, system }))
            .with_runtime_env(Arc::new(environment.clone()))
            .with_physical_optimizer_rules(physical_rules(&entry.stop));
        if let Some(schema) = &self.schema {
            builder = builder.with_config(template.config().clone().with_default_catalog_and_schema(CATALOG, schema));
        }
        let mut state = builder.build();
        for (name, function) in functions {
            state.register_udtf(name, function);
        }
        Ok((state, commit))
    }
}

/// A statement that was started.
struct StartedQuery {
    ready: oneshot::Receiver<Result<(SchemaRef, u64)>>,
    /// Without their schema and commit, which are known when it is ready.
    rows: SqlRows,
}

/// A place among the statements that wait and run.
struct WaitingPlace(Arc<AtomicUsize>);

impl WaitingPlace {
    fn take(places: &Arc<AtomicUsize>, max: usize) -> Result<Self> {
        let taken =
            places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < max).then_some(taken + 1));
        match taken {
            Ok(_) => Ok(Self(Arc::clone(places))),
            Err(taken) => Err(Error::new(ErrorCode::Overloaded, format!("{taken} statements run and wait already"))
                .with_hint("retry later, or raise sql.queries_max and sql.queue_max")),
        }
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The rest of the time of a statement.
struct Deadline {
    entry: Arc<QueryEntry>,
    left: Duration,
    limit: Duration,
}

impl Deadline {
    /// Runs work of the statement and counts its time.
    async fn run<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let started = Instant::now();
        self.entry.set_end(Some(self.left));
        let result = tokio::time::timeout(self.left, work).await;
        self.entry.set_end(None);
        self.left = self.left.saturating_sub(started.elapsed());
        result.map_err(|_| too_late(self.limit))
    }
}

/// The work of a statement.
struct Task {
    entry: Arc<QueryEntry>,
    deadline: Deadline,
    permits: Arc<Semaphore>,
    /// Held while the statement computes.
    permit: Option<OwnedSemaphorePermit>,
}

impl Task {
    async fn acquire_permit(&mut self) -> Result<()> {
        if self.permit.is_none() {
            let permit = self.deadline.run(Arc::clone(&self.permits).acquire_owned()).await?;
            self.permit = Some(permit.map_err(|_| Error::internal("sql: no permits"))?);
        }
        Ok(())
    }

    /// Sends a batch; false when the client is gone. While the client does not read, others may compute.
    async fn send(&mut self, rows: &mpsc::Sender<SentBatch>, batch: RecordBatch) -> Result<bool> {
        let batch = match rows.try_send(Ok(Some(batch))) {
            Ok(()) => return Ok(true),
            Err(TrySendError::Closed(_)) => return Ok(false),
            Err(TrySendError::Full(batch)) => batch,
        };
        self.permit = None;
        // The time of the client is not that of the statement.
        if rows.send(batch).await.is_err() {
            return Ok(false);
        }
        self.acquire_permit().await?;
        Ok(true)
    }

    /// Plans a statement and computes its first batch: without it an error would come after the head of a response.
    async fn start(
        &mut self,
        session: SessionState,
        statement: Statement,
        parameters: ParamValues,
        wire: WireTypes,
    ) -> Result<StartedResult> {
        self.entry.set_status(QueryStatus::Planning);
        let plan = async {
            let plan = logical_plan(&session, statement).await?.with_param_values(parameters)?;
            let plan = session.optimize(&plan)?;
            let physical = session.query_planner().create_physical_plan(&plan, &session).await?;
            Ok((wire_schema(plan.schema().as_arrow(), wire), execute_stream(physical, session.task_ctx())?))
        };
        let (schema, mut stream) = self.deadline.run(plan).await?.map_err(|error: DataFusionError| failure(&error))?;
        self.entry.set_status(QueryStatus::Running);
        let next = self.deadline.run(stream.next()).await?;
        let first = next.transpose().map_err(|error| failure(&error))?;
        Ok(StartedResult { stream, schema, first })
    }

    /// What is known of a statement from its plan, whose schema is that of its rows too.
    async fn describe(
        &mut self,
        session: &SessionState,
        statement: Statement,
        request: &SqlRequest,
        commit: u64,
    ) -> Result<StatementInfo> {
        self.entry.set_status(QueryStatus::Planning);
        let values = request.parameters.scalars()?;
        let plan = async {
            let plan = logical_plan(session, statement).await?;
            let parameters = parameter_fields(&plan)?;
            let is_unbound = request.parameters.is_empty() && !parameters.is_empty();
            let plan = match is_unbound {
                // Types that only the values decide are unknown yet.
                true => session.optimize(&plan).unwrap_or(plan),
                false => session.optimize(&plan.with_param_values(ParamValues::from(values))?)?,
            };
            Ok((plan, parameters))
        };
        let (plan, parameters) = self.deadline.run(plan).await?.map_err(|error: DataFusionError| failure(&error))?;
        Ok(StatementInfo {
            schema: wire_schema(plan.schema().as_arrow(), request.wire),
            parameters: wire_schema(&Schema::new(parameters), WireTypes::default()),
            is_ordered: is_ordered(&plan),
            commit,
        })
    }

    /// Sends all batches, and that there are no more.
    async fn send_all(&mut self, result: &mut StartedResult, rows: &mpsc::Sender<SentBatch>) -> Result<()> {
        let mut next = result.first.take();
        while let Some(batch) = next {
            let batch = wire_batch(&batch, &result.schema)?;
            self.entry.add_rows(batch.num_rows());
            if batch.num_rows() > 0 && !self.send(rows, batch).await? {
                return Ok(());
            }
            let following = self.deadline.run(result.stream.next()).await?;
            next = following.transpose().map_err(|error| failure(&error))?;
        }
        let _ = rows.send(Ok(None)).await;
        Ok(())
    }
}

/// The plan of a statement that reads.
async fn logical_plan(session: &SessionState, statement: Statement) -> SqlResult<LogicalPlan> {
    let plan = session.statement_to_plan(statement).await?;
    // The text was checked; this checks what it was planned to.
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    Ok(plan)
}

/// The parameters of a plan in the order of their numbers.
fn parameter_fields(plan: &LogicalPlan) -> SqlResult<Vec<FieldRef>> {
    let names = plan.get_parameter_names()?;
    // A parameter of two types is text: its value decides.
    let known = plan.get_parameter_fields().unwrap_or_default();
    let number = |name: &String| name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
    let mut count = 0;
    for name in &names {
        match number(name) {
            Some(number @ 1..=PARAMETERS_MAX) => count = count.max(number),
            _ => {
                return Err(external(Error::invalid(format!(
                    "no parameter {name:?}: they are ?, or $1, $2 and so on"
                ))));
            }
        }
    }
    let field = |number: usize| {
        let name = format!("${number}");
        let data_type = match known.get(&name) {
            Some(Some(field)) if !field.data_type().is_null() => field.data_type().clone(),
            _ => DataType::Utf8,
        };
        Arc::new(Field::new(name, data_type, true))
    };
    Ok((1..=count).map(field).collect())
}

/// Whether a plan ends with a sort.
fn is_ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(inner) => is_ordered(&inner.input),
        LogicalPlan::Limit(inner) => is_ordered(&inner.input),
        LogicalPlan::SubqueryAlias(inner) => is_ordered(&inner.input),
        _ => false,
    }
}

/// A result whose first batch is ready.
struct StartedResult {
    stream: SendableRecordBatchStream,
    schema: SchemaRef,
    first: Option<RecordBatch>,
}

/// Ends a statement when its rows are dropped.
#[derive(Debug)]
struct QueryGuard {
    entry: Arc<QueryEntry>,
    running: Arc<RunningQueries>,
}

impl Drop for QueryGuard {
    fn drop(&mut self) {
        self.entry.cancel();
        self.running.remove(self.entry.id);
    }
}

/// Cancels a statement when it is dropped.
#[derive(Debug)]
pub struct QueryCanceller(Arc<QueryEntry>);

impl Drop for QueryCanceller {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The rows of a statement, batch by batch. Dropping them ends it.
#[derive(Debug)]
pub struct SqlRows {
    schema: SchemaRef,
    rows: mpsc::Receiver<SentBatch>,
    id: u64,
    commit: u64,
    guard: QueryGuard,
    ended: bool,
}

impl SqlRows {
    /// Names and types of the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Commit of the view that is read.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// Cancels the statement when it is dropped, unless its rows have ended by then.
    pub fn canceller(&self) -> QueryCanceller {
        QueryCanceller(Arc::clone(&self.guard.entry))
    }

    /// Number of the statement, by which it is cancelled.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The next batch; after an error there is none.
    pub async fn next_batch(&mut self) -> Option<Result<RecordBatch>> {
        if self.ended {
            return None;
        }
        let batch = self.rows.recv().await;
        self.finish(batch)
    }

    fn finish(&mut self, sent: Option<SentBatch>) -> Option<Result<RecordBatch>> {
        let batch = sent.unwrap_or_else(|| Err(lost())).transpose();
        self.ended = !matches!(batch, Some(Ok(_)));
        batch
    }
}

impl Iterator for SqlRows {
    type Item = Result<RecordBatch>;

    /// Blocks.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.rows.blocking_recv();
        self.finish(batch)
    }
}
