//! The rows of SQL statements as messages.

use std::fmt;

use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};

use crate::error::{Error, Result};
use crate::format::ipc;
use crate::server::flight::encode::FlightMessage;
use crate::sql::SqlRows;

/// The messages of a result: its schema, then one for each batch.
pub(super) struct SqlMessages {
    rows: SqlRows,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    context: IpcWriteContext,
}

impl fmt::Debug for SqlMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlMessages").field("query", &self.rows.id()).finish_non_exhaustive()
    }
}

impl SqlMessages {
    pub(super) fn new(rows: SqlRows) -> Self {
        Self {
            rows,
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            options: IpcWriteOptions::default(),
            context: IpcWriteContext::default(),
        }
    }

    /// The message before the rows.
    pub(super) fn schema_message(&self) -> FlightMessage {
        FlightMessage::new(ipc::schema_header(self.rows.schema()), Vec::new())
    }

    /// The messages of the next batch; `None` at the end. Blocks.
    pub(super) fn next_messages(&mut self) -> Result<Option<Vec<FlightMessage>>> {
        let Some(batch) = self.rows.next() else { return Ok(None) };
        let encoded = self.generator.encode(&batch?, &mut self.dictionaries, &self.options, &mut self.context);
        let (dictionaries, batch) =
            encoded.map_err(|error| Error::internal(format!("a batch of a statement: {error}")))?;
        let messages = dictionaries.into_iter().chain([batch]);
        Ok(Some(
            messages.map(|message| FlightMessage::new(message.ipc_message, vec![message.arrow_data.into()])).collect(),
        ))
    }
}
