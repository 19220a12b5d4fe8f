//! DoPut: every record batch is one atomic commit, acknowledged after its sync.
//!
//! While batches are decided and synced those behind them are decoded, so that a stream keeps the disk busy and several
//! batches share a sync. They become durable, and are acknowledged, in their order.
//!
//! Under an idempotency key each batch has a key of its own, `key/ordinal`, so that a stream broken off can be sent
//! again from its beginning: batches that were written are answered as the first time.
//!
//! The first rejected batch ends the stream with its status; batches acknowledged before it stay. Under `if_version`
//! the first batch needs that version and each further one the version its predecessor made, so that a stream never
//! writes over somebody else's.

use std::ops::Deref;
use std::sync::Arc;

use arrow_flight::FlightData;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::FlightConfig;
use super::acks::{AckReceiver, AckSender, queue};
use super::decode;
use super::describe::{DescriptorTarget, json, target};
use super::status::{blocking, of_input, status, too_large};
use crate::access::Authenticator;
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{self, Known, ParsedRows};
use crate::server::blocking::{PLACE, held};
use crate::service::{IdempotencyKey, PendingWrite, Precondition, Scope, Service, WriteMethod, WriteOptions};
use crate::types::{Rounding, Rows, SeriesDef, SeriesKey, SeriesSpec};

/// Bytes of record batches that all puts together may have in work, and the unit they are counted in.
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

/// Where and how to write, as a descriptor says.
#[derive(Debug)]
struct PutTarget {
    key: SeriesKey,
    options: ingest::DecodeOptions,
    terms: WriteOptions,
    /// Position of the next batch among those that were sent.
    ordinal: u64,
}

impl PutTarget {
    fn of(message: &FlightData, depth_max: usize) -> Result<Self> {
        let descriptor = message.flight_descriptor.as_ref().ok_or_else(|| {
            Error::invalid("the first message has no descriptor").with_hint("a path or a command names the series")
        })?;
        let command = match target(descriptor)? {
            DescriptorTarget::Path(key) => PutCommand { series: Some(key), ..PutCommand::default() },
            DescriptorTarget::Command(bytes) => json("command", bytes, depth_max)?,
        };
        let terms = WriteOptions {
            manner: WriteMethod::of(command.mode.as_deref(), command.op.as_deref())?,
            condition: Precondition { if_match: None, if_version: command.if_version },
            idempotency_key: command.idempotency_key.as_deref().map(str::parse).transpose()?,
            create: command.create.clone().map(Box::new),
        };
        let created = command.create.clone().map(|spec| spec.resolve()).transpose()?.map(|def| def.key);
        let key = match (command.series, created) {
            (Some(key), Some(created)) if key != created => {
                return Err(Error::invalid(format!("series {key} is not what create registers, {created}")));
            }
            (Some(key), _) | (None, Some(key)) => key,
            (None, None) => return Err(Error::invalid("the command names no series")),
        };
        let options = ingest::DecodeOptions {
            numbers: command.numbers,
            rounding: command.rounding,
            missing: command.missing,
            validate: command.validate,
            grid: command.grid,
            implausible_ts: command.implausible_ts,
        };
        terms.check(&key)?;
        Ok(Self { key, options, terms, ordinal: 0 })
    }
}

/// What all puts share.
#[derive(Clone, Debug)]
pub(super) struct PutLimits {
    message_bytes_max: usize,
    /// Permits of [`BUDGET_UNIT_BYTES`] each.
    budget: Arc<Semaphore>,
    budget_units: u32,
    /// Fires when the server stops.
    stop: CancellationToken,
}

impl PutLimits {
    pub(super) fn new(config: &FlightConfig, stop: CancellationToken) -> Self {
        let budget_units = u32::try_from(config.put_bytes_max / BUDGET_UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        let message_bytes_max = config.message_bytes_max;
        Self { message_bytes_max, budget: Arc::new(Semaphore::new(budget_units as usize)), budget_units, stop }
    }

    /// Reads the input to its end on a task of its own, which keeps its place; the reader gives the acknowledgements.
    pub(super) fn start<P: Send + 'static>(
        &self,
        service: Arc<Service>,
        gate: Arc<Authenticator>,
        input: Streaming<FlightData>,
        place: P,
    ) -> AckReceiver {
        let (acks, reader) = queue();
        let puts = PutCall { all: self.clone(), service, gate };
        let work = async move {
            let _place = place;
            let how = puts.run(input, &acks).await;
            acks.end(how);
        };
        // What it logs and tells is that of its call.
        let work = work.instrument(tracing::Span::current());
        match held() {
            Some(call) => tokio::spawn(PLACE.scope(call, work)),
            None => tokio::spawn(work),
        };
        reader
    }
}

/// One put, as its caller may do it.
struct PutCall {
    all: PutLimits,
    service: Arc<Service>,
    gate: Arc<Authenticator>,
}

impl Deref for PutCall {
    type Target = PutLimits;

    fn deref(&self) -> &PutLimits {
        &self.all
    }
}

impl PutCall {
    async fn run(&self, mut input: Streaming<FlightData>, acks: &AckSender) -> Result<(), Status> {
        // Before the command is read.
        self.service.caller().may(Scope::Write).map_err(|error| status(&error))?;
        let Some(first) = self.message(&mut input).await? else {
            return Err(status(&Error::invalid("the put has no message, not even a schema")));
        };
        let service = self.service.clone();
        let (intent, schema, def, mut stored) = blocking(move || {
            let intent = PutTarget::of(&first, service.limits().json_depth_max)?;
            let schema = decode::schema(&first)?;
            let (def, stored) = known(&service, &intent)?;
            Ok((intent, schema, def, stored))
        })
        .await?;
        let (parsed, deciding) = channel(1);
        let (begun, finishing) = channel(AHEAD_MAX);
        let options = intent.options;
        let feed = async {
            while let Some(message) = self.message(&mut input).await? {
                if acks.is_abandoned() {
                    return Ok(());
                }
                if decode::is_bare(&message) {
                    continue;
                }
                if message.data_body.len() > self.message_bytes_max {
                    return Err(status(&too_large(self.message_bytes_max)));
                }
                // A put can go on for days.
                self.gate.still(self.service.caller()).map_err(|error| status(&error))?;
                let units = u32::try_from(message.data_body.len() / BUDGET_UNIT_BYTES + 1).unwrap_or(u32::MAX);
                let budget = self.budget.clone().acquire_many_owned(units.min(self.budget_units)).await;
                let (schema, def) = (schema.clone(), def.clone());
                let service = self.service.clone();
                let (next, memory, seen) = blocking(move || {
                    let rows = decode::rows(&message)?;
                    let memory = service.reserve_rows(rows, schema.fields().len() as u64)?;
                    let batch = decode::batch(&message, &schema)?;
                    drop(message);
                    let next = ingest::from_batch_into(&def, stored, batch, &options)?;
                    let bounds = next.rows.bounds();
                    let seen = match (stored, bounds) {
                        (Some((first, last)), Some((low, high))) => Some((first.min(low), last.max(high))),
                        (seen, None) | (None, seen) => seen,
                    };
                    Ok((next, memory, seen))
                })
                .await?;
                // Batches in flight count as stored, so that the same stream is always judged alike.
                stored = seen;
                if parsed.send(Some((next, (budget, memory)))).await.is_err() {
                    // One before it failed, which is what the client is told.
                    return Ok(());
                }
            }
            let _ = parsed.send(None).await;
            drop(parsed);
            Ok(())
        };
        let work = async {
            let decide = self.decide(intent, &def, deciding, begun, acks);
            let (decided, finished) = tokio::join!(decide, self.finish(finishing, acks));
            finished.and(decided)
        };
        tokio::pin!(feed, work);
        tokio::select! {
            biased;
            fed = &mut feed => work.await.and(fed),
            // Before the end of the input only a failure ends it: the client is told at once.
            worked = &mut work => worked,
        }
    }

    /// Decides batches in their order, while the one behind is decoded; `None` is the end of the input.
    async fn decide<P>(
        &self,
        mut intent: PutTarget,
        def: &SeriesDef,
        mut parsed: Receiver<Option<(ParsedRows, P)>>,
        begun: Sender<(PendingWrite, Option<P>)>,
        acks: &AckSender,
    ) -> Result<(), Status> {
        let mut empty = true;
        loop {
            // When one before it failed, nobody takes what is decided any more.
            let next = tokio::select! {
                biased;
                () = begun.closed() => break,
                next = parsed.recv() => next,
            };
            let Some(next) = next else { break };
            let (next, budget) = match next {
                Some((next, budget)) => (next, Some(budget)),
                None if empty && !acks.is_abandoned() => {
                    let rows = Rows::with_capacity(def.columns.len(), 0);
                    (ParsedRows { rows, rounded: vec![0; def.columns.len()], ..ParsedRows::default() }, None)
                }
                None => break,
            };
            empty = false;
            let service = self.service.clone();
            let (back, next) = blocking(move || {
                let next = begin(&service, &intent, next)?;
                Ok((intent, next))
            })
            .await?;
            intent = back;
            intent.ordinal += 1;
            // Should somebody drop the series now, the rest of the stream does not bring it back.
            intent.terms.create = None;
            if intent.terms.condition.if_version.is_some() {
                intent.terms.condition.if_version = Some(next.version());
            }
            if begun.send((next, budget)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Acknowledges batches in their order, each after its sync.
    async fn finish<P>(&self, mut deciding: Receiver<(PendingWrite, P)>, acks: &AckSender) -> Result<(), Status> {
        while let Some((begun, budget)) = deciding.recv().await {
            let service = self.service.clone();
            let acknowledged = blocking(move || service.finish_write(begun)).await?;
            acks.push(acknowledged);
            drop(budget);
        }
        Ok(())
    }

    async fn message(&self, input: &mut Streaming<FlightData>) -> Result<Option<FlightData>, Status> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {
                Err(status(&Error::new(ErrorCode::NotReady, "the server is stopping; unacknowledged batches were not written")))
            }
            message = input.message() => message.map_err(|status| of_input(status, self.message_bytes_max)),
        }
    }
}

/// The definition of the series, also of one that the first batch is to register, and the first and last timestamp
/// stored.
fn known(service: &Service, intent: &PutTarget) -> Result<Known> {
    match &intent.terms.create {
        Some(spec) => service.known_or_new(spec),
        None => service.known(&intent.key),
    }
}

fn begin(service: &Service, intent: &PutTarget, parsed: ParsedRows) -> Result<PendingWrite> {
    let own_key = |key: &IdempotencyKey| key.of_batch(intent.ordinal);
    let terms =
        WriteOptions { idempotency_key: intent.terms.idempotency_key.as_ref().map(own_key), ..intent.terms.clone() };
    service.begin_write(&intent.key, parsed, &terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{MergeOp, RowMode};
    use arrow_flight::FlightDescriptor;

    fn intent(command: &str) -> Result<PutTarget> {
        let descriptor = FlightDescriptor::new_cmd(command.to_string());
        PutTarget::of(&FlightData { flight_descriptor: Some(descriptor), ..FlightData::default() }, 32)
    }

    #[test]
    fn a_command_says_where_and_how_to_write() {
        let said = intent(
            r#"{"series":"kline/X/1m","mode":"append","validate":"none","rounding":"nearest","numbers":"raw","if_version":3}"#,
        )
        .unwrap();
        assert_eq!((said.key.as_str(), said.terms.manner), ("kline/X/1m", WriteMethod::Mode(RowMode::Append)));
        assert_eq!(said.options.validate, ingest::RowRules::None);
        assert_eq!(said.options.numbers, ingest::DecimalInput::Raw);
        assert_eq!(said.terms.condition.if_version, Some(3));
        let said = intent(r#"{"create":{"kind":"kline","symbol":"Y","timeframe":"1m"}}"#).unwrap();
        assert_eq!((said.key.as_str(), said.terms.manner), ("kline/Y/1m", WriteMethod::default()));
        let said = intent(r#"{"series":"scalar/c/X/1m/n","mode":"merge","op":"add","idempotency_key":"k"}"#).unwrap();
        assert_eq!(said.terms.manner, WriteMethod::Merge(Some(MergeOp::Add)));
        assert_eq!(said.terms.idempotency_key.unwrap().as_str(), "k");
    }

    #[test]
    fn commands_that_cannot_be_followed_are_refused_by_their_code() {
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
            assert_eq!(intent(command).unwrap_err().code(), code, "{command}");
        }
    }
}
