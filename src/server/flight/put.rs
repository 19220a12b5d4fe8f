//! DoPut: every record batch is one atomic commit, acknowledged after its sync.
//!
//! While batches are decided and synced the following ones are decoded, so that a stream keeps the disk busy and
//! several batches share a sync. They become durable, and are acknowledged, in order.
//!
//! Under an idempotency key each batch has its own key `key/ordinal`, so that an aborted stream can be sent again from
//! its beginning: batches that were already written return their first reply.
//!
//! The first rejected batch ends the stream with its status; batches acknowledged before it are kept. Under
//! `if_version` the first batch needs that version and each further one the version created by its predecessor, so that
//! a stream never overwrites concurrent changes.

use std::ops::Deref;
use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::sql::{
    Command, CommandStatementIngest, DoPutPreparedStatementResult, DoPutUpdateResult, TableExistsOption,
    TableNotExistOption,
};
use prost::Message;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::access::Authenticator;
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{self, Known, ParsedRows};
use crate::server::blocking::{PERMIT, current_permit, on_thread};
use crate::server::flight::acks::{AckReceiver, AckSender, queue};
use crate::server::flight::decode;
use crate::server::flight::describe::{DescriptorTarget, json, sql_of_descriptor, target as parse_target};
use crate::server::flight::flight_sql::messages::shown_type;
use crate::server::flight::flight_sql::{ParameterRow, StatementHandle, one_row, refuse_transaction};
use crate::server::flight::settings::FlightSettings;
use crate::server::flight::status::{input_status, status, too_large, unimplemented};
use crate::service::{
    IdempotencyKey, PendingWrite, Precondition, Scope, Service, SqlCall, SqlStatement, TableRule, WriteMethod,
    WriteOptions,
};
use crate::sql::{CATALOG, PUBLIC};
use crate::types::{Rounding, Rows, SeriesDef, SeriesKey, SeriesSpec};

/// Unit of the budget for record batches of all puts.
const BUDGET_UNIT_BYTES: usize = 64 * 1024;

/// Batches of one put that wait for their sync.
const AHEAD_MAX: usize = 4;

/// A command descriptor of a put.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutCommand {
    series: Option<SeriesKey>,
    mode: Option<String>,
    #[serde(default)]
    validate: ingest::RowRules,
    #[serde(default)]
    rounding: Rounding,
    #[serde(default)]
    numbers: ingest::DecimalInput,
    #[serde(default)]
    missing: ingest::MissingCells,
    #[serde(default)]
    grid: ingest::GridRule,
    #[serde(default)]
    implausible_ts: ingest::ImplausibleTs,
    if_version: Option<u64>,
    idempotency_key: Option<String>,
    op: Option<String>,
    create: Option<SeriesSpec>,
}

/// Where and how to write, according to the descriptor.
#[derive(Debug)]
struct PutTarget {
    key: SeriesKey,
    decode_options: ingest::DecodeOptions,
    write_options: WriteOptions,
    /// Position of the next batch in the stream.
    ordinal: u64,
}

impl PutTarget {
    fn of(message: &FlightData, depth_max: usize) -> Result<Self> {
        let descriptor = message.flight_descriptor.as_ref().ok_or_else(|| {
            Error::invalid("the first message has no descriptor")
                .with_hint("send a path or a command that names the series")
        })?;
        let command = match parse_target(descriptor)? {
            DescriptorTarget::Path(key) => PutCommand { series: Some(key), ..PutCommand::default() },
            DescriptorTarget::Command(bytes) => json("command", bytes, depth_max)?,
        };
        let write_options = WriteOptions {
            method: WriteMethod::of(command.mode.as_deref(), command.op.as_deref())?,
            condition: Precondition { if_match: None, if_version: command.if_version },
            idempotency_key: command.idempotency_key.as_deref().map(str::parse).transpose()?,
            create: command.create.clone().map(Box::new),
        };
        let created = command.create.as_ref().map(SeriesSpec::series_key).transpose()?;
        let key = match (command.series, created) {
            (Some(key), Some(created)) if key != created => {
                return Err(Error::invalid(format!("series {key} differs from the series of create, {created}")));
            }
            (Some(key), _) | (None, Some(key)) => key,
            (None, None) => return Err(Error::invalid("the command does not name a series")),
        };
        let decode_options = ingest::DecodeOptions {
            numbers: command.numbers,
            rounding: command.rounding,
            missing: command.missing,
            validate: command.validate,
            grid: command.grid,
            implausible_ts: command.implausible_ts,
        };
        write_options.check(&key)?;
        Ok(Self { key, decode_options, write_options, ordinal: 0 })
    }
}

/// Limits shared by all puts.
#[derive(Clone, Debug)]
pub(super) struct PutLimits {
    message_bytes_max: usize,
    /// Permits of [`BUDGET_UNIT_BYTES`] each.
    budget: Arc<Semaphore>,
    budget_units: u32,
    /// Cancelled when the server shuts down.
    stop: CancellationToken,
}

impl PutLimits {
    pub(super) fn new(config: &FlightSettings, stop: CancellationToken) -> Self {
        let budget_units = u32::try_from(config.put_bytes_max / BUDGET_UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let message_bytes_max = config.message_bytes_max;
        Self { message_bytes_max, budget: Arc::new(Semaphore::new(budget_units as usize)), budget_units, stop }
    }

    /// Reads the input to its end on its own task, which holds `permit`; the receiver returns the acknowledgements.
    pub(super) fn start<P: Send + 'static>(
        &self,
        service: Arc<Service>,
        auth: Arc<Authenticator>,
        input: Streaming<FlightData>,
        permit: P,
    ) -> AckReceiver {
        let (acks, reader) = queue();
        let puts = PutCall { limits: self.clone(), service, auth };
        let work = async move {
            let _permit = permit;
            let result = puts.run(input, &acks).await;
            acks.end(result);
        };
        // Runs in the span and under the permit of its call.
        let work = work.instrument(tracing::Span::current());
        match current_permit() {
            Some(call) => tokio::spawn(PERMIT.scope(call, work)),
            None => tokio::spawn(work),
        };
        reader
    }
}

/// One put with the permissions of its caller.
struct PutCall {
    limits: PutLimits,
    service: Arc<Service>,
    auth: Arc<Authenticator>,
}

impl Deref for PutCall {
    type Target = PutLimits;

    fn deref(&self) -> &PutLimits {
        &self.limits
    }
}

impl PutCall {
    async fn run(&self, mut input: Streaming<FlightData>, acks: &AckSender) -> Result<(), Status> {
        let Some(first) = self.message(&mut input).await? else {
            return Err(status(&Error::invalid("the put has no message; the first one must carry the schema")));
        };
        if let Some(descriptor) = &first.flight_descriptor
            && let Some(command) = sql_of_descriptor(descriptor)?
        {
            return self.run_sql(command, first, input, acks).await;
        }
        // Checked before the command is parsed.
        self.service.caller().require_scope(Scope::Write)?;
        let service = self.service.clone();
        let (target, decoder, def, mut stored) = on_thread(move || {
            let target = PutTarget::of(&first, service.limits().json_depth_max)?;
            let decoder = decode::schema(&first)?;
            let (def, stored) = series_and_bounds(&service, &target)?;
            Ok((target, decoder, def, stored))
        })
        .await?;
        let (parsed, undecided) = channel(1);
        let (pending, unfinished) = channel(AHEAD_MAX);
        let decode_options = target.decode_options;
        let feed = async {
            let mut decoder = decoder;
            // Memory of the dictionaries, which are kept to the end of the stream.
            let mut dictionary_memory = self.service.reserve_memory(0).map_err(|error| status(&error))?;
            while let Some(message) = self.message(&mut input).await? {
                if acks.is_abandoned() {
                    return Ok(());
                }
                if decode::is_metadata_only(&message) {
                    continue;
                }
                if message.data_body.len() > self.message_bytes_max {
                    return Err(status(&too_large(self.message_bytes_max)));
                }
                // A put can last for days: the token may be revoked or expire meanwhile.
                self.auth.recheck(self.service.caller())?;
                let units = u32::try_from(message.data_body.len() / BUDGET_UNIT_BYTES + 1).unwrap_or(u32::MAX);
                let budget = self.budget.clone().acquire_many_owned(units.min(self.budget_units)).await;
                let def = def.clone();
                let service = self.service.clone();
                let (next, same_decoder, same_memory) = on_thread(move || {
                    let (mut decoder, mut dictionary_memory) = (decoder, dictionary_memory);
                    let dictionary_bytes = decoder.bytes();
                    if decode::dictionary(&message, &mut decoder)? {
                        let more = decoder.bytes().saturating_sub(dictionary_bytes);
                        dictionary_memory.grow(more as u64)?;
                        return Ok((None, decoder, dictionary_memory));
                    }
                    let rows = decode::rows(&message)?;
                    let memory = service.reserve_memory(rows.saturating_mul(ingest::row_memory(&def)))?;
                    let batch = decode::batch(&message, &decoder)?;
                    drop(message);
                    let next = ingest::from_arrow_into(&def, stored, batch, &decode_options)?;
                    let bounds = next.rows.bounds();
                    let seen = match (stored, bounds) {
                        (Some((first, last)), Some((low, high))) => Some((first.min(low), last.max(high))),
                        (seen, None) | (None, seen) => seen,
                    };
                    Ok((Some((next, memory, seen)), decoder, dictionary_memory))
                })
                .await?;
                (decoder, dictionary_memory) = (same_decoder, same_memory);
                let Some((next, memory, seen)) = next else { continue };
                // Batches in flight count as stored, so that the same stream always gets the same result.
                stored = seen;
                if parsed.send(Some((next, (budget, memory)))).await.is_err() {
                    // An earlier batch failed; the client gets its error.
                    return Ok(());
                }
            }
            let _ = parsed.send(None).await;
            drop(parsed);
            Ok(())
        };
        let work = async {
            let decide = self.decide(target, &def, undecided, pending, acks);
            let (decided, finished) = tokio::join!(decide, self.finish(unfinished, acks));
            finished.and(decided)
        };
        tokio::pin!(feed, work);
        tokio::select! {
            biased;
            fed = &mut feed => work.await.and(fed),
            // Before the end of the input only a failure ends this: the client is notified at once.
            worked = &mut work => worked,
        }
    }

    /// A put of Flight SQL: parameters of a statement, or rows of a table.
    async fn run_sql(
        &self,
        command: Command,
        first: FlightData,
        mut input: Streaming<FlightData>,
        acks: &AckSender,
    ) -> Result<(), Status> {
        match command {
            Command::CommandPreparedStatementQuery(query) => {
                self.service.caller().require_scope(Scope::Read)?;
                let handle = StatementHandle::parse(&query.prepared_statement_handle)?;
                let mut parameters = None;
                while let Some(message) = self.message(&mut input).await? {
                    if decode::is_metadata_only(&message) {
                        continue;
                    }
                    if parameters.replace(ParameterRow::of(&first, &message)?).is_some() {
                        return Err(status(&one_row()));
                    }
                }
                let handle = StatementHandle { parameters, ..handle }.to_bytes()?;
                let reply = DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) };
                acks.reply(reply.encode_to_vec().into());
                Ok(())
            }
            Command::CommandStatementIngest(ingest) => {
                let rows = self.ingest(ingest, first, input, acks).await?;
                acks.reply(DoPutUpdateResult { record_count: rows }.encode_to_vec().into());
                Ok(())
            }
            Command::CommandStatementUpdate(update) => Err(status(&self.refused_update(update.query).await)),
            Command::CommandPreparedStatementUpdate(update) => {
                let handle = StatementHandle::parse(&update.prepared_statement_handle)?;
                Err(status(&self.refused_update(handle.sql).await))
            }
            other => Err(status(&unimplemented(shown_type(other.type_url()).as_str()))),
        }
    }

    /// Writes the rows of a table, each record batch as one commit. Returns the number of rows.
    async fn ingest(
        &self,
        command: CommandStatementIngest,
        first: FlightData,
        mut input: Streaming<FlightData>,
        acks: &AckSender,
    ) -> Result<i64, Status> {
        self.service.caller().require_scope(Scope::Write)?;
        let rule = table_rule(&command)?;
        let service = self.service.clone();
        let (table, mut decoder) = on_thread(move || {
            let decoder = decode::schema(&first)?;
            Ok((Arc::new(service.table_write(&command.table, rule)?), decoder))
        })
        .await?;
        let columns = decoder.schema().fields().len() as u64;
        let mut dictionary_memory = self.service.reserve_memory(0).map_err(|error| status(&error))?;
        let mut count = 0_u64;
        while let Some(message) = self.message(&mut input).await? {
            if acks.is_abandoned() {
                break;
            }
            if decode::is_metadata_only(&message) {
                continue;
            }
            if message.data_body.len() > self.message_bytes_max {
                return Err(status(&too_large(self.message_bytes_max)));
            }
            self.auth.recheck(self.service.caller())?;
            let units = u32::try_from(message.data_body.len() / BUDGET_UNIT_BYTES + 1).unwrap_or(u32::MAX);
            let budget = self.budget.clone().acquire_many_owned(units.min(self.budget_units)).await;
            let (service, table) = (self.service.clone(), Arc::clone(&table));
            let (written, same_decoder, same_memory) = on_thread(move || {
                let (mut decoder, mut dictionary_memory, _budget) = (decoder, dictionary_memory, budget);
                let dictionary_bytes = decoder.bytes();
                if decode::dictionary(&message, &mut decoder)? {
                    let more = decoder.bytes().saturating_sub(dictionary_bytes);
                    dictionary_memory.grow(more as u64)?;
                    return Ok((0, decoder, dictionary_memory));
                }
                let cells = decode::rows(&message)?.saturating_mul(columns);
                let _memory = service.reserve_memory(cells.saturating_mul(ingest::CELL_BYTES))?;
                let batch = decode::batch(&message, &decoder)?;
                drop(message);
                let written = service.write_table(&table, decoder.schema(), batch)?;
                Ok((written, decoder, dictionary_memory))
            })
            .await?;
            (decoder, dictionary_memory) = (same_decoder, same_memory);
            count += written;
        }
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// The error of a statement that is to change something.
    async fn refused_update(&self, sql: String) -> Error {
        let statement = SqlStatement { sql, ..SqlStatement::default() };
        match self.service.describe_sql(SqlCall { statement, ..SqlCall::default() }).await {
            Err(error) => error,
            Ok(_) => Error::invalid("the statement returns rows and changes nothing").with_hint("run it as a query"),
        }
    }

    /// Decides batches in order, while the next one is decoded; `None` is the end of the input.
    async fn decide<P>(
        &self,
        mut target: PutTarget,
        def: &SeriesDef,
        mut parsed: Receiver<Option<(ParsedRows, P)>>,
        pending: Sender<(PendingWrite, Option<P>)>,
        acks: &AckSender,
    ) -> Result<(), Status> {
        let mut is_empty = true;
        loop {
            // After a failure of an earlier batch the receiver is closed.
            let next = tokio::select! {
                biased;
                () = pending.closed() => break,
                next = parsed.recv() => next,
            };
            let Some(next) = next else { break };
            let (next, budget) = match next {
                Some((next, budget)) => (next, Some(budget)),
                None if is_empty && !acks.is_abandoned() => {
                    let rows = Rows::with_capacity(&def.columns, 0);
                    (ParsedRows { rows, rounded: vec![0; def.columns.len()], ..ParsedRows::default() }, None)
                }
                None => break,
            };
            is_empty = false;
            let service = self.service.clone();
            let (updated, next) = on_thread(move || {
                let next = begin_write(&service, &target, next)?;
                Ok((target, next))
            })
            .await?;
            target = updated;
            target.ordinal += 1;
            // If the series is dropped meanwhile, the rest of the stream does not register it again.
            target.write_options.create = None;
            if target.write_options.condition.if_version.is_some() {
                target.write_options.condition.if_version = Some(next.version());
            }
            if pending.send((next, budget)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Acknowledges batches in order, each after its sync.
    async fn finish<P>(&self, mut unfinished: Receiver<(PendingWrite, P)>, acks: &AckSender) -> Result<(), Status> {
        while let Some((write, budget)) = unfinished.recv().await {
            let service = self.service.clone();
            let acknowledged = on_thread(move || service.finish_write(write)).await?;
            acks.push(acknowledged);
            drop(budget);
        }
        Ok(())
    }

    async fn message(&self, input: &mut Streaming<FlightData>) -> Result<Option<FlightData>, Status> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                Err(status(&Error::new(ErrorCode::NotReady, "the server is shutting down; unacknowledged batches were not written")))
            }
            message = input.message() => message.map_err(|status| input_status(status, self.message_bytes_max)),
        }
    }
}

/// What an ingestion may do with its table.
fn table_rule(command: &CommandStatementIngest) -> Result<TableRule> {
    refuse_transaction(command.transaction_id.as_ref())?;
    if command.temporary {
        return Err(unimplemented("a temporary table"));
    }
    if command.catalog.as_deref().is_some_and(|catalog| catalog != CATALOG) {
        return Err(Error::new(ErrorCode::NotFound, format!("the only catalog is {CATALOG:?}")));
    }
    if command.schema.as_deref().is_some_and(|schema| schema != PUBLIC) {
        return Err(Error::new(ErrorCode::NotFound, format!("rows are written into the schema {PUBLIC:?} only")));
    }
    if let Some(option) = command.options.keys().next() {
        return Err(Error::invalid(format!("unknown option {option:?} of an ingestion")));
    }
    let rule = command.table_definition_options.unwrap_or_default();
    let may_exist = match rule.if_exists() {
        TableExistsOption::Replace => {
            return Err(Error::invalid("an ingestion does not replace a table: that would delete its history")
                .with_hint("append: rows with the same timestamp are replaced"));
        }
        TableExistsOption::Append | TableExistsOption::Unspecified => true,
        TableExistsOption::Fail => false,
    };
    Ok(TableRule { may_exist, may_create: rule.if_not_exist() == TableNotExistOption::Create })
}

/// The definition of the series, or of the one that the first batch will register, and its first and last stored
/// timestamp.
fn series_and_bounds(service: &Service, target: &PutTarget) -> Result<Known> {
    match &target.write_options.create {
        Some(spec) => service.resolve_or_new(spec),
        None => service.known(&target.key),
    }
}

fn begin_write(service: &Service, target: &PutTarget, parsed: ParsedRows) -> Result<PendingWrite> {
    let batch_key = |key: &IdempotencyKey| key.of_batch(target.ordinal);
    let write_options = WriteOptions {
        idempotency_key: target.write_options.idempotency_key.as_ref().map(batch_key),
        ..target.write_options.clone()
    };
    service.begin_write(&target.key, parsed, &write_options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{MergeOp, RowMode};
    use arrow_flight::FlightDescriptor;

    fn parse(command: &str) -> Result<PutTarget> {
        let descriptor = FlightDescriptor::new_cmd(command.to_string());
        PutTarget::of(&FlightData { flight_descriptor: Some(descriptor), ..FlightData::default() }, 32)
    }

    #[test]
    fn a_command_determines_where_and_how_to_write() {
        let target = parse(
            r#"{"series":"kline/X/1m","mode":"append","validate":"none","rounding":"nearest","numbers":"raw","if_version":3}"#,
        )
        .unwrap();
        assert_eq!(
            (target.key.as_str(), target.write_options.method),
            ("kline/X/1m", WriteMethod::Mode(RowMode::Append))
        );
        assert_eq!(target.decode_options.validate, ingest::RowRules::None);
        assert_eq!(target.decode_options.numbers, ingest::DecimalInput::Raw);
        assert_eq!(target.write_options.condition.if_version, Some(3));
        let target = parse(r#"{"create":{"kind":"kline","symbol":"Y","timeframe":"1m"}}"#).unwrap();
        assert_eq!((target.key.as_str(), target.write_options.method), ("kline/Y/1m", WriteMethod::default()));
        let target = parse(r#"{"series":"scalar/c/X/1m/n","mode":"merge","op":"add","idempotency_key":"k"}"#).unwrap();
        assert_eq!(target.write_options.method, WriteMethod::Merge(Some(MergeOp::Add)));
        assert_eq!(target.write_options.idempotency_key.unwrap().as_str(), "k");
    }

    #[test]
    fn invalid_commands_are_rejected_with_their_code() {
        for (command, code) in [
            (r#"{}"#, ErrorCode::InvalidArgument),
            (r#" ["kline/X/1m"]"#, ErrorCode::InvalidArgument),
            (r#"{"series":"kline/../1m"}"#, ErrorCode::InvalidArgument),
            (r#"{"series":"kline/X/1m","mode":"merge"}"#, ErrorCode::InvalidArgument),
            (r#"{"series":"kline/X/1m","mode":"merge","op":"add","idempotency_key":"k"}"#, ErrorCode::InvalidArgument),
            (r#"{"series":"kline/X/1m","idempotency_key":""}"#, ErrorCode::InvalidArgument),
            (
                r#"{"series":"scalar/c/X/1m/n","mode":"merge","op":"avg","idempotency_key":"k"}"#,
                ErrorCode::InvalidArgument,
            ),
            (r#"{"series":"kline/X/1m","op":"add"}"#, ErrorCode::InvalidArgument),
            (r#"{"series":"kline/X/1m","validate":"maybe"}"#, ErrorCode::InvalidArgument),
            (r#"{"series":"kline/X/1m","typo":1}"#, ErrorCode::InvalidArgument),
            (
                r#"{"series":"kline/X/1m","create":{"kind":"kline","symbol":"Y","timeframe":"1m"}}"#,
                ErrorCode::InvalidArgument,
            ),
        ] {
            assert_eq!(parse(command).unwrap_err().code(), code, "{command}");
        }
    }
}
