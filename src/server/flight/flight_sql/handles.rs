//! Handles of statements: all that is needed to run one, so that the server keeps nothing between calls.
//!
//! A client can write a handle of its own. It says nothing that the client could not ask for otherwise: the statement is
//! checked and planned with the permissions of the caller that sends it.

use arrow_flight::FlightData;
use bytes::Bytes;
use prost::Message;

use super::options::SqlSession;
use crate::error::{Error, ErrorCode, Result};
use crate::server::flight::decode;
use crate::service::{SqlCall, SqlStatement};

/// Maximum size of a handle.
const HANDLE_BYTES_MAX: usize = 512 * 1024;

/// A statement with its parameters and options.
#[derive(Clone, PartialEq, Message)]
pub struct StatementHandle {
    #[prost(string, tag = "1")]
    pub sql: String,
    #[prost(message, optional, tag = "2")]
    pub parameters: Option<ParameterRow>,
    #[prost(message, optional, tag = "3")]
    pub session: Option<SqlSession>,
    /// The commit that is read.
    #[prost(uint64, optional, tag = "4")]
    pub commit: Option<u64>,
    /// The number by which the statement is cancelled.
    #[prost(fixed64, optional, tag = "5")]
    pub tag: Option<u64>,
}

/// Parameters as the messages of Arrow that a client sent.
#[derive(Clone, PartialEq, Message)]
pub struct ParameterRow {
    #[prost(bytes = "bytes", tag = "1")]
    pub schema: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub header: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

impl StatementHandle {
    /// A statement of a client.
    pub fn new(sql: String, session: SqlSession) -> Self {
        Self { sql, session: Some(session), ..Self::default() }
    }

    /// The statement of a handle that a client sent.
    ///
    /// # Errors
    /// `invalid_argument`, `too_large`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > HANDLE_BYTES_MAX {
            let detail = format!("the handle has {} bytes, more than {HANDLE_BYTES_MAX}", bytes.len());
            return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("send shorter parameters"));
        }
        Self::decode(bytes).map_err(|_| {
            Error::invalid("the handle is not one of this server")
                .with_hint("prepare the statement, or ask for its FlightInfo, again")
        })
    }

    /// The handle as sent to a client.
    ///
    /// # Errors
    /// `too_large`.
    pub fn to_bytes(&self) -> Result<Bytes> {
        let bytes = self.encode_to_vec();
        if bytes.len() > HANDLE_BYTES_MAX {
            let detail =
                format!("the statement and its parameters have {} bytes, more than {HANDLE_BYTES_MAX}", bytes.len());
            return Err(Error::new(ErrorCode::TooLarge, detail).with_hint("send shorter parameters"));
        }
        Ok(bytes.into())
    }

    /// The call that runs the statement.
    ///
    /// # Errors
    /// `invalid_argument` for parameters that cannot be decoded.
    pub fn call(&self) -> Result<SqlCall> {
        let session = self.session.clone().unwrap_or_default();
        let row = self.parameters.as_ref().map(ParameterRow::decode_row).transpose()?;
        Ok(SqlCall {
            statement: SqlStatement { sql: self.sql.clone(), as_of: session.as_of.clone(), ..SqlStatement::default() },
            row,
            wire: session.wire()?,
            schema: session.schema,
            commit: self.commit,
            tag: self.tag,
        })
    }
}

/// The error of parameters for no execution, or for several.
pub fn one_row() -> Error {
    Error::invalid("the parameters of a query are one row").with_hint("execute the statement once for each row")
}

impl ParameterRow {
    /// The parameters in two messages of a client, which are checked.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn of(schema: &FlightData, batch: &FlightData) -> Result<Self> {
        let row = Self {
            schema: schema.data_header.clone(),
            header: batch.data_header.clone(),
            body: batch.data_body.clone(),
        };
        row.decode_row().map(|_| row)
    }

    fn decode_row(&self) -> Result<arrow::record_batch::RecordBatch> {
        let schema = FlightData { data_header: self.schema.clone(), ..FlightData::default() };
        let decoder = decode::schema(&schema)?;
        let batch =
            FlightData { data_header: self.header.clone(), data_body: self.body.clone(), ..FlightData::default() };
        // Cells of columns without buffers take no bytes of the message.
        let rows = decode::rows(&batch)?;
        if rows != 1 {
            return Err(one_row());
        }
        decode::batch(&batch, &decoder)?
            .into_plain()
            .ok_or_else(|| Error::invalid("a parameter is a dictionary").with_hint("send its value as text"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::record_batch::RecordBatch;
    use arrow_flight::utils::batches_to_flight_data;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn handle(rows: i64) -> Result<StatementHandle> {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("0", Arc::new(Int64Array::from_iter_values(0..rows))),
            ("1", Arc::new((0..rows).map(|_| Some("BTC")).collect::<StringArray>())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let messages = batches_to_flight_data(&batch.schema(), vec![batch]).unwrap();
        let parameters = ParameterRow::of(&messages[0], &messages[1])?;
        let session = SqlSession { as_of: Some("s".into()), ..SqlSession::default() };
        Ok(StatementHandle { parameters: Some(parameters), ..StatementHandle::new("SELECT ?, ?".into(), session) })
    }

    #[test]
    fn a_handle_has_all_of_a_statement() {
        let handle = handle(1).unwrap();
        let call = StatementHandle::parse(&handle.to_bytes().unwrap()).unwrap().call().unwrap();
        assert_eq!((call.statement.sql.as_str(), call.statement.as_of.as_deref()), ("SELECT ?, ?", Some("s")));
        assert_eq!(call.row.unwrap().num_columns(), 2);
        for rows in [0, 2] {
            assert_eq!(super::tests::handle(rows).unwrap_err().code(), ErrorCode::InvalidArgument);
        }
        let long = StatementHandle::new("x".repeat(HANDLE_BYTES_MAX), SqlSession::default());
        assert_eq!(long.to_bytes().unwrap_err().code(), ErrorCode::TooLarge);
    }

    #[test]
    fn changed_handles_are_refused_or_decoded_but_never_panic() {
        let good = handle(1).unwrap().to_bytes().unwrap();
        let seed = rand::random::<u64>();
        let mut random = StdRng::seed_from_u64(seed);
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = good.to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            let read = StatementHandle::parse(&bytes).and_then(|handle| handle.call().map(|_| ()));
            refused += usize::from(read.is_err_and(|error| {
                assert_eq!(error.code(), ErrorCode::InvalidArgument, "seed {seed}: {error}");
                true
            }));
        }
        assert!(refused > 1_000, "seed {seed}: only {refused} refused");
    }
}
