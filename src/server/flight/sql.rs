//! The rows of SQL statements, and of tables in memory, as messages.

use std::fmt;

use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};

use crate::error::{Error, Result};
use crate::format::ipc;
use crate::server::flight::encode::FlightMessage;
use crate::sql::SqlRows;
use arrow::record_batch::RecordBatch;

/// What the messages are made of.
enum BatchSource {
    Statement(Box<SqlRows>),
    Table(Option<RecordBatch>),
}

/// The messages of a result: its schema, then one for each batch.
pub(super) struct SqlMessages {
    schema: SchemaRef,
    source: BatchSource,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    context: IpcWriteContext,
}

impl fmt::Debug for SqlMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlMessages").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl SqlMessages {
    pub(super) fn new(rows: SqlRows) -> Self {
        Self::of(SchemaRef::clone(rows.schema()), BatchSource::Statement(Box::new(rows)))
    }

    /// The messages of a table in memory.
    pub(super) fn of_table(table: RecordBatch) -> Self {
        Self::of(table.schema(), BatchSource::Table(Some(table)))
    }

    fn of(schema: SchemaRef, source: BatchSource) -> Self {
        Self {
            schema,
            source,
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            options: IpcWriteOptions::default(),
            context: IpcWriteContext::default(),
        }
    }

    /// The message before the rows.
    pub(super) fn schema_message(&self) -> FlightMessage {
        FlightMessage::new(ipc::schema_header(&self.schema), Vec::new())
    }

    /// The messages of the next batch; `None` at the end. Blocks.
    pub(super) fn next_messages(&mut self) -> Result<Option<Vec<FlightMessage>>> {
        let batch = match &mut self.source {
            BatchSource::Statement(rows) => rows.next().transpose()?,
            BatchSource::Table(table) => table.take(),
        };
        let Some(batch) = batch else { return Ok(None) };
        let encoded = self.generator.encode(&batch, &mut self.dictionaries, &self.options, &mut self.context);
        let (dictionaries, batch) =
            encoded.map_err(|error| Error::internal(format!("a batch of a statement: {error}")))?;
        let messages = dictionaries.into_iter().chain([batch]);
        Ok(Some(
            messages.map(|message| FlightMessage::new(message.ipc_message, vec![message.arrow_data.into()])).collect(),
        ))
    }
}
