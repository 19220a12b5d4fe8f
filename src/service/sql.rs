//! SQL: the engine of statements, with the permissions of one caller.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::array::{ArrayRef, StringArray, UInt64Array};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, ErrorCode, Result};
use crate::service::caller::{Caller, Scope};
use crate::service::registry::{Dataset, RecordFilter};
use crate::service::shared::{Service, ServiceShared};
use crate::service::wall_clock::rfc3339;
use crate::sql::{
    ListedTable, PUBLIC, QueryOwner, SYSTEM, SqlEngine, SqlParameters, SqlRequest, SqlRows, SqlView, StatementInfo,
    SystemTable, TableKeys, ViewSource, WireTypes,
};
use crate::types::SeriesKey;

/// A statement as a client sends it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlStatement {
    /// One query; `SET fastk.as_of = 'name';` can come before it.
    #[schema(example = "SELECT ts, close FROM klines_1m WHERE symbol = 'BTCUSDT' ORDER BY ts LIMIT 10")]
    pub sql: String,
    /// Values of `?`, or of `$1`, `$2` and so on: numbers, texts, true, false and null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<serde_json::Value>,
    /// The snapshot to read, or `dataset:NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// A time limit shorter than that of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A statement of a client that prepares it, or describes it before it runs.
#[derive(Clone, Debug, Default)]
pub struct SqlCall {
    pub statement: SqlStatement,
    /// The parameters as a row, in place of those of the statement.
    pub row: Option<RecordBatch>,
    /// The schema of tables that are named without one.
    pub schema: Option<String>,
    pub wire: WireTypes,
    /// The commit that is read, unless the statement names a snapshot.
    pub commit: Option<u64>,
    /// A number by which the client can cancel the statement.
    pub tag: Option<u64>,
}

/// The statements that wait or run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SqlQueryList {
    pub queries: Vec<SqlQueryInfo>,
}

/// A statement that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SqlQueryInfo {
    pub id: u64,
    /// The beginning of its text.
    pub sql: String,
    /// `waiting`, `planning` or `running`.
    pub status: String,
    pub started_at: String,
    pub elapsed_ms: u64,
    /// Rows returned so far.
    pub rows: u64,
    /// Most memory in use at a time.
    pub memory_bytes_peak: u64,
    /// Id of the token that started it; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A cancelled statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SqlQueryCancelled {
    pub id: u64,
}

impl Service {
    /// Starts a statement.
    ///
    /// # Errors
    /// `permission_denied` for a statement that does not read; those of [`SqlEngine::start`].
    pub async fn sql(&self, statement: SqlStatement) -> Result<SqlRows> {
        self.sql_call(SqlCall { statement, ..SqlCall::default() }).await
    }

    /// Like [`sql`](Self::sql), with all options.
    ///
    /// # Errors
    /// Those of [`sql`](Self::sql); `commit_gone`.
    pub async fn sql_call(&self, call: SqlCall) -> Result<SqlRows> {
        let (engine, request, views) = self.statement(call)?;
        engine.start(request, Arc::new(views)).await
    }

    /// Plans a statement without running it; its commit is retained so that the statement can read it later.
    ///
    /// # Errors
    /// Those of [`sql`](Self::sql).
    pub async fn describe_sql(&self, call: SqlCall) -> Result<StatementInfo> {
        let (engine, request, views) = self.statement(call)?;
        engine.describe(request, Arc::new(CallerViews { retains: true, ..views })).await
    }

    /// The tables that the caller can see. `name` can be the key of a series, whose table is then added.
    ///
    /// # Errors
    /// `permission_denied`, `not_ready`.
    pub fn sql_tables(&self, name: Option<&str>) -> Result<Vec<ListedTable>> {
        self.caller.require_scope(Scope::Read)?;
        self.check_ready()?;
        let engine = self.sql_engine()?;
        let views: Arc<dyn ViewSource> = Arc::new(self.views(&engine, None));
        engine.tables(&views, name)
    }

    /// The table that rows of this name are written into; `None` where no kind has such tables.
    ///
    /// # Errors
    /// `permission_denied`, `not_ready`.
    pub(super) fn sql_table_keys(&self, name: &str) -> Result<Option<TableKeys>> {
        self.check_ready()?;
        let engine = self.sql_engine()?;
        engine.table_keys(&self.views(&engine, None), name)
    }

    /// Whether tables can be named without this schema once it is chosen.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn has_sql_schema(&self, name: &str) -> Result<bool> {
        self.caller.require_scope(Scope::Read)?;
        let is_listed = [PUBLIC, SYSTEM, "information_schema"].contains(&name);
        Ok(is_listed || self.store.kind(name).is_ok())
    }

    /// Cancels the statements with a tag that the caller can see; false when none runs.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn cancel_sql_tagged(&self, tag: u64) -> Result<bool> {
        self.caller.require_scope(Scope::Read)?;
        let may = |owner: &QueryOwner| sees_query(&self.caller, owner);
        Ok(self.running_sql().is_some_and(|engine| engine.cancel_tagged(tag, may)))
    }

    /// Like [`sql`](Self::sql), on a thread that may block.
    ///
    /// # Errors
    /// Those of [`sql`](Self::sql).
    pub fn sql_blocking(&self, statement: SqlStatement) -> Result<SqlRows> {
        let (engine, request, views) = self.statement(SqlCall { statement, ..SqlCall::default() })?;
        engine.start_blocking(request, Arc::new(views))
    }

    fn views(&self, engine: &Arc<SqlEngine>, commit: Option<u64>) -> CallerViews {
        CallerViews {
            shared: Arc::downgrade(self.shared()),
            caller: self.caller.clone(),
            engine: Arc::clone(engine),
            commit,
            retains: false,
        }
    }

    fn statement(&self, call: SqlCall) -> Result<(Arc<SqlEngine>, SqlRequest, CallerViews)> {
        self.caller.require_scope(Scope::Read)?;
        self.check_ready()?;
        let SqlCall { statement, row, schema, wire, commit, tag } = call;
        let SqlStatement { sql, params, as_of, timeout_ms } = statement;
        if timeout_ms == Some(0) {
            return Err(Error::invalid("timeout_ms must be at least 1"));
        }
        let engine = self.sql_engine()?;
        let request = SqlRequest {
            sql,
            parameters: row.map_or(SqlParameters::Values(params), SqlParameters::Row),
            as_of,
            schema,
            wire,
            tag,
            timeout: timeout_ms.map(Duration::from_millis),
            owner: QueryOwner { token: Arc::clone(&self.caller.id) },
        };
        let views = self.views(&engine, commit);
        Ok((engine, request, views))
    }

    /// The statements that the caller can see: its own, or all with access to the whole store.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn sql_queries(&self) -> Result<SqlQueryList> {
        self.caller.require_scope(Scope::Read)?;
        let Some(engine) = self.running_sql() else { return Ok(SqlQueryList { queries: Vec::new() }) };
        let visible = engine.running().into_iter().filter(|query| sees_query(&self.caller, &query.owner));
        let info = |query: crate::sql::RunningQuery| SqlQueryInfo {
            id: query.id,
            sql: query.sql,
            status: query.status.name().to_owned(),
            started_at: rfc3339(query.started_ms),
            elapsed_ms: query.elapsed_ms,
            rows: query.rows,
            memory_bytes_peak: query.memory_bytes_peak,
            token: Some(query.owner.token.to_string()).filter(|id| !id.is_empty()),
        };
        Ok(SqlQueryList { queries: visible.map(info).collect() })
    }

    /// Cancels a statement that the caller can see.
    ///
    /// # Errors
    /// `permission_denied`, `not_found`.
    pub fn cancel_sql(&self, id: u64) -> Result<SqlQueryCancelled> {
        self.caller.require_scope(Scope::Read)?;
        let cancelled =
            self.running_sql().is_some_and(|engine| engine.cancel(id, |owner| sees_query(&self.caller, owner)));
        match cancelled {
            true => Ok(SqlQueryCancelled { id }),
            false => Err(Error::new(ErrorCode::NotFound, format!("no statement {id} runs"))
                .with_hint("GET /v1/sql/queries lists those that do")),
        }
    }
}

/// Whether a caller may see and cancel a statement.
fn sees_query(caller: &Caller, owner: &QueryOwner) -> bool {
    owner.token == caller.id || caller.scope == Scope::Admin && !caller.is_limited()
}

/// The views of one caller. A statement does not keep the store open.
#[derive(Debug)]
struct CallerViews {
    shared: Weak<ServiceShared>,
    caller: Caller,
    engine: Arc<SqlEngine>,
    /// The commit that is read; the last one when absent.
    commit: Option<u64>,
    /// Whether the commit remains readable for a while.
    retains: bool,
}

impl CallerViews {
    fn service(&self) -> Result<Service> {
        let shared = self.shared.upgrade();
        let shared = shared.ok_or_else(|| Error::new(ErrorCode::NotReady, "the store is closed"))?;
        Ok(Service::of(shared, self.caller.clone()))
    }
}

impl ViewSource for CallerViews {
    fn now(&self) -> Result<SqlView> {
        let service = self.service()?;
        let caller = self.caller.clone();
        let state = match self.commit {
            Some(commit) => service.store.at_commit(commit)?,
            None => service.store.snapshot(),
        };
        if self.retains {
            service.store.retained_commits().keep(&state);
        }
        Ok(SqlView {
            state,
            cache: Arc::clone(service.store.cache()),
            sees: Arc::new(move |key: &SeriesKey| caller.can_see(key)),
        })
    }

    fn as_of(&self, name: &str) -> Result<SqlView> {
        let service = self.service()?;
        let caller = self.caller.clone();
        let view = service.view_as_of(name)?;
        Ok(SqlView {
            state: Arc::clone(&view.state),
            cache: Arc::clone(service.store.cache()),
            sees: Arc::new(move |key: &SeriesKey| caller.can_see(key) && view.has(key)),
        })
    }

    fn system_tables(&self) -> Vec<SystemTable> {
        let caller = self.caller.clone();
        let queries = self.engine.queries_table(move |owner| sees_query(&caller, owner));
        let (shared, caller) = (self.shared.clone(), self.caller.clone());
        let datasets = move || {
            let shared = shared.upgrade().ok_or_else(|| Error::new(ErrorCode::NotReady, "the store is closed"))?;
            datasets(&Service::of(shared, caller.clone()))
        };
        vec![queries, SystemTable { name: "datasets", rows: Box::new(datasets) }]
    }

    fn sees_snapshot(&self, name: &str) -> bool {
        self.service().is_ok_and(|service| service.can_see_snapshot(name))
    }
}

/// Maximum number of datasets of one page of the registry.
const DATASETS_PER_PAGE: u64 = 1_000;

/// The datasets that the caller can see, as a table.
fn datasets(service: &Service) -> Result<RecordBatch> {
    let mut datasets = Vec::new();
    let mut filter = RecordFilter { limit: Some(DATASETS_PER_PAGE), ..RecordFilter::default() };
    loop {
        let page = service.datasets(&filter)?;
        datasets.extend(page.datasets);
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    let text = |value: fn(&Dataset) -> Option<String>| -> ArrayRef {
        Arc::new(datasets.iter().map(value).collect::<StringArray>())
    };
    let number =
        |value: fn(&Dataset) -> u64| -> ArrayRef { Arc::new(datasets.iter().map(value).collect::<UInt64Array>()) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("dataset", text(|dataset| Some(dataset.dataset.to_string()))),
        ("name", text(|dataset| Some(dataset.name.clone()))),
        ("version", number(|dataset| dataset.version.into())),
        ("status", text(|dataset| serde_json::to_value(dataset.status).ok()?.as_str().map(str::to_owned))),
        ("snapshot", text(|dataset| Some(dataset.snapshot.clone()))),
        ("commit", number(|dataset| dataset.commit)),
        ("rows", number(|dataset| dataset.rows)),
        ("series_count", number(|dataset| dataset.series_count)),
        ("checksum", text(|dataset| Some(dataset.checksum.clone()))),
        ("created_at", text(|dataset| Some(dataset.created_at.clone()))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .map_err(|error| Error::internal(format!("the table of datasets: {error}")))
}
