//! Messages of Flight SQL, told apart from JSON.

use arrow_flight::sql::{Any, Command};
use prost::Message;

use crate::error::{Error, ErrorCode, Result};
use crate::server::flight::status::unimplemented;

/// First part of the types of all messages of Flight SQL.
pub const SQL_TYPES: &str = "type.googleapis.com/arrow.flight.protocol.sql.";
/// First byte of a `google.protobuf.Any`: field 1, bytes.
const ANY_TAG: u8 = 0x0a;
/// Maximum size of a message.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Maximum number of characters of a type that is not known, in an error.
const TYPE_CHARS_MAX: usize = 120;

/// The message of Flight SQL in the bytes that a client sent as `what`; `None` for anything else, such as JSON.
///
/// # Errors
/// `invalid_argument` for a damaged message or a type of another protocol, `unimplemented` for an unknown one of Flight
/// SQL, `too_large`.
pub fn sql_command(what: &str, bytes: &[u8]) -> Result<Option<Command>> {
    // JSON can begin with the same byte, a line feed.
    if bytes.first() != Some(&ANY_TAG) || bytes.trim_ascii_start().starts_with(b"{") {
        return Ok(None);
    }
    unpack(what, bytes).map(Some)
}

/// The message in a `google.protobuf.Any`.
///
/// # Errors
/// As [`sql_command`].
pub fn unpack(what: &str, bytes: &[u8]) -> Result<Command> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        let detail = format!("the {what} has {} bytes, more than {MESSAGE_BYTES_MAX}", bytes.len());
        return Err(Error::new(ErrorCode::TooLarge, detail));
    }
    let any = Any::decode(bytes).map_err(|error| {
        Error::invalid(format!("the {what} is neither JSON nor a message of Flight SQL: {error}"))
            .with_hint("a message of Flight SQL is a google.protobuf.Any; ours are JSON objects")
    })?;
    if !any.type_url.starts_with(SQL_TYPES) {
        let shown: String = any.type_url.chars().take(TYPE_CHARS_MAX).collect();
        return Err(Error::invalid(format!("the {what} has the type {shown:?}"))
            .with_hint(format!("messages of Flight SQL begin with {SQL_TYPES}")));
    }
    match Command::try_from(any) {
        Ok(Command::Unknown(any)) => Err(unimplemented(&shown_type(&any.type_url))),
        Ok(command) => Ok(command),
        Err(error) => Err(Error::invalid(format!("the {what} cannot be decoded: {error}"))),
    }
}

/// The name of a message, for errors.
pub fn shown_type(type_url: &str) -> String {
    type_url.strip_prefix(SQL_TYPES).unwrap_or(type_url).chars().take(TYPE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{CommandGetCatalogs, CommandStatementQuery, ProstMessageExt};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn query() -> Vec<u8> {
        let query = CommandStatementQuery { query: "SELECT 1".into(), transaction_id: None };
        query.as_any().encode_to_vec()
    }

    #[test]
    fn messages_of_flight_sql_are_told_apart_from_json() {
        let found = sql_command("ticket", &query()).unwrap();
        assert!(matches!(found, Some(Command::CommandStatementQuery(command)) if command.query == "SELECT 1"));
        for json in ["{}", "\n{\"series\": []}", "\n \n\t{", "", "[1]", "\u{0}"] {
            assert!(sql_command("ticket", json.as_bytes()).unwrap().is_none(), "{json:?}");
        }
    }

    #[test]
    fn what_is_not_a_message_of_flight_sql_is_an_error_of_the_client() {
        let other =
            |type_url: String| Any { type_url, value: CommandGetCatalogs {}.encode_to_vec().into() }.encode_to_vec();
        for (bytes, code) in [
            (query()[..query().len() - 3].to_vec(), ErrorCode::InvalidArgument),
            (b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01garbage".to_vec(), ErrorCode::InvalidArgument),
            (b"\n\x03\xff\xfe\xfd".to_vec(), ErrorCode::InvalidArgument),
            (other("type.googleapis.com/google.protobuf.StringValue".into()), ErrorCode::InvalidArgument),
            (other(format!("{SQL_TYPES}CommandOfTomorrow")), ErrorCode::Unimplemented),
            (other("x".repeat(2 << 20)), ErrorCode::TooLarge),
        ] {
            assert_eq!(sql_command("ticket", &bytes).unwrap_err().code(), code, "{bytes:?}");
        }
        let mut damaged =
            Any { type_url: format!("{SQL_TYPES}CommandStatementQuery"), value: b"\n\x05ab".as_ref().into() };
        assert_eq!(sql_command("ticket", &damaged.encode_to_vec()).unwrap_err().code(), ErrorCode::InvalidArgument);
        damaged.value = b"\n\x02\xff\xff".as_ref().into();
        assert_eq!(sql_command("ticket", &damaged.encode_to_vec()).unwrap_err().code(), ErrorCode::InvalidArgument);
    }

    #[test]
    fn changed_bytes_are_refused_or_decoded_but_never_panic() {
        let seed = rand::random::<u64>();
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let mut bytes = query();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(1..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(1..=bytes.len()));
            if let Err(error) = sql_command("ticket", &bytes) {
                assert!(matches!(error.code(), ErrorCode::InvalidArgument | ErrorCode::Unimplemented), "seed {seed}");
            }
        }
    }
}
