//! Parses descriptors and tickets and builds FlightInfo.
//!
//! A ticket is the query object as JSON, written by a client or by GetFlightInfo.

use arrow::datatypes::Schema;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::Command;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::format::ipc;
use crate::ingest::check_depth;
use crate::query::{Query, ResultSchema};
use crate::server::flight::flight_sql::messages::sql_command;
use crate::service::{InventoryRow, QueryInfo, SqlStatement};
use crate::types::SeriesKey;

/// Maximum size of a ticket, a command or the body of an action.
pub const JSON_BYTES_MAX: usize = 256 * 1024;

/// The kind of a descriptor, before its content is parsed.
#[derive(Debug)]
pub(super) enum DescriptorTarget<'a> {
    Path(SeriesKey),
    Command(&'a [u8]),
}

/// Distinguishes a path from a command.
pub(super) fn target(descriptor: &FlightDescriptor) -> Result<DescriptorTarget<'_>> {
    match DescriptorType::try_from(descriptor.r#type) {
        Ok(DescriptorType::Path) => Ok(DescriptorTarget::Path(SeriesKey::parse(&descriptor.path.join("/"))?)),
        Ok(DescriptorType::Cmd) => Ok(DescriptorTarget::Command(&descriptor.cmd)),
        _ => Err(Error::invalid("the descriptor must be a path or a command")
            .with_hint("use a path such as [\"kline\", \"BTCUSDT\", \"1m\"], or a JSON command")),
    }
}

/// The message of Flight SQL in a descriptor, unless it is a path or JSON.
pub(super) fn sql_of_descriptor(descriptor: &FlightDescriptor) -> Result<Option<Command>> {
    match descriptor.r#type == i32::from(DescriptorType::Cmd) {
        true => sql_command("command", &descriptor.cmd),
        false => Ok(None),
    }
}

/// Parses JSON that a client sent as `what`, nested at most `depth_max` levels.
pub(super) fn json<T: DeserializeOwned>(what: &str, bytes: &[u8], depth_max: usize) -> Result<T> {
    let text = json_text(what, bytes, depth_max)?;
    serde_json::from_slice(text).map_err(|error| Error::invalid(format!("the {what} is invalid: {error}")))
}

/// Checks the size and shape of JSON that a client sent as `what`.
pub(super) fn json_text<'a>(what: &str, bytes: &'a [u8], depth_max: usize) -> Result<&'a [u8]> {
    if bytes.len() > JSON_BYTES_MAX {
        return Err(Error::new(
            crate::ErrorCode::TooLarge,
            format!("the {what} has {} bytes, more than {JSON_BYTES_MAX}", bytes.len()),
        ));
    }
    check_depth(bytes, depth_max)?;
    // Serde would accept an array for the fields of an object in order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Error::invalid(format!("the {what} is invalid: expected a JSON object")));
    }
    Ok(bytes)
}

/// The query of a descriptor: all rows of a path, or the query in a command.
pub(super) fn query_of_descriptor(descriptor: &FlightDescriptor, depth_max: usize) -> Result<Query> {
    match target(descriptor)? {
        DescriptorTarget::Path(key) => Ok(Query::of(&key)),
        DescriptorTarget::Command(bytes) => json("command", bytes, depth_max),
    }
}

/// What a ticket requests.
#[derive(Debug)]
pub(super) enum TicketRequest {
    Query(Box<Query>),
    Sql(SqlStatement),
    FlightSql(Box<Command>),
}

impl TicketRequest {
    /// The request of a ticket: a message of Flight SQL, a statement where it has the field `sql`, else a query.
    pub(super) fn of(ticket: &Ticket, depth_max: usize) -> Result<Self> {
        if let Some(command) = sql_command("ticket", &ticket.ticket)? {
            return Ok(Self::FlightSql(Box::new(command)));
        }
        #[derive(serde::Deserialize)]
        struct HasSql {
            sql: Option<serde::de::IgnoredAny>,
        }
        // Queries are not parsed twice.
        let may_be_sql = ticket.ticket.windows(5).any(|bytes| bytes == b"\"sql\"");
        if may_be_sql && json::<HasSql>("ticket", &ticket.ticket, depth_max)?.sql.is_some() {
            return json("ticket", &ticket.ticket, depth_max).map(Self::Sql);
        }
        query_of_ticket(ticket, depth_max).map(|query| Self::Query(Box::new(query)))
    }
}

/// The query of a ticket.
pub(super) fn query_of_ticket(ticket: &Ticket, depth_max: usize) -> Result<Query> {
    json("ticket", &ticket.ticket, depth_max)
        .map_err(|error| error.with_hint("a ticket is the query object as JSON: {\"series\": [\"kline/BTCUSDT/1m\"]}"))
}

/// A schema as in FlightInfo and SchemaResult: one framed message.
pub(super) fn schema_bytes(schema: &Schema) -> Bytes {
    ipc::framed(&ipc::schema_header(schema)).into()
}

fn endpoint(query: &Query) -> Result<FlightEndpoint> {
    let ticket = serde_json::to_vec(query).map_err(|error| Error::internal(format!("ticket: {error}")))?;
    Ok(FlightEndpoint { ticket: Some(Ticket { ticket: ticket.into() }), ..FlightEndpoint::default() })
}

fn info(
    shape: &ResultSchema,
    descriptor: FlightDescriptor,
    endpoints: &[Query],
    total_records: Option<u64>,
    total_bytes: Option<u64>,
    ordered: bool,
) -> Result<FlightInfo> {
    Ok(FlightInfo {
        schema: schema_bytes(&shape.arrow_schema()),
        flight_descriptor: Some(descriptor),
        endpoint: endpoints.iter().map(endpoint).collect::<Result<_>>()?,
        // -1 means unknown in Flight.
        total_records: total_records.map_or(-1, signed),
        total_bytes: total_bytes.map_or(-1, signed),
        ordered,
        app_metadata: Bytes::new(),
    })
}

/// The response of GetFlightInfo: exact counts, tickets pinned to the commit, no locations (the same server).
pub(super) fn of_plan(plan: &QueryInfo, descriptor: FlightDescriptor) -> Result<FlightInfo> {
    info(&plan.shape, descriptor, &plan.endpoints, plan.total_records, plan.total_bytes, plan.ordered)
}

/// One entry of ListFlights: a whole series, its ticket not pinned so that it stays valid.
pub(super) fn of_series(shape: &ResultSchema, row: &InventoryRow) -> Result<FlightInfo> {
    let descriptor = FlightDescriptor {
        r#type: DescriptorType::Path.into(),
        path: row.series.as_str().split('/').map(Into::into).collect(),
        ..FlightDescriptor::default()
    };
    let total_bytes = shape.bytes_of(row.rows);
    let mut info = info(shape, descriptor, &[Query::of(&row.series)], Some(row.rows), total_bytes, true)?;
    info.app_metadata = serde_json::to_vec(row).map_err(|error| Error::internal(format!("inventory: {error}")))?.into();
    Ok(info)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::NumberFormat;
    use arrow_flight::IpcMessage;

    fn key() -> SeriesKey {
        SeriesKey::kline("BTCUSDT", "1m").unwrap()
    }

    fn shape() -> ResultSchema {
        let spec = crate::types::SeriesSpec::of_key(&key());
        ResultSchema::of(&spec.resolve().unwrap(), &[], None, NumberFormat::Stored, 3, 4)
    }

    #[test]
    fn a_path_selects_the_whole_series_and_a_command_its_query() {
        let path = FlightDescriptor::new_path(["kline", "BTCUSDT", "1m"].map(Into::into).into());
        assert_eq!(query_of_descriptor(&path, 32).unwrap().series, ["kline/BTCUSDT/1m"]);
        let command = FlightDescriptor::new_cmd(r#"{"series":["kline/BTCUSDT/1m"],"latest":5}"#);
        assert_eq!(query_of_descriptor(&command, 32).unwrap().latest, Some(5));
        for bad in ["", "{}", "[]", r#"{"series":["a"],"unknown":1}"#, "\u{0}\u{1}"] {
            let error = query_of_descriptor(&FlightDescriptor::new_cmd(bad.to_string()), 32).unwrap_err();
            assert_eq!(error.code(), crate::ErrorCode::InvalidArgument, "{bad}");
        }
        assert!(query_of_descriptor(&FlightDescriptor::default(), 32).is_err());
        let path = FlightDescriptor::new_path(vec!["..".into(), "..".into(), "etc".into()]);
        assert!(query_of_descriptor(&path, 32).is_err());
    }

    #[test]
    fn info_repeats_its_descriptor_and_its_tickets_are_queries() {
        let query = Query { commit: Some(4), ..Query::of(&key()) };
        let plan = QueryInfo {
            shape: shape(),
            total_records: Some(10),
            total_bytes: Some(480),
            endpoints: vec![query.clone(), query.clone()],
            ordered: true,
        };
        let descriptor = FlightDescriptor::new_cmd("{}");
        let info = of_plan(&plan, descriptor.clone()).unwrap();
        assert_eq!((info.total_records, info.total_bytes, info.ordered), (10, 480, true));
        assert_eq!(info.flight_descriptor, Some(descriptor));
        assert!(info.endpoint.iter().all(|endpoint| endpoint.location.is_empty()));
        assert_eq!(query_of_ticket(info.endpoint[1].ticket.as_ref().unwrap(), 32).unwrap(), query);
        let schema = Schema::try_from(IpcMessage(info.schema)).unwrap();
        assert_eq!(&schema, shape().arrow_schema().as_ref());
    }
}
