//! How the command line reaches the engine: opening, bodies in, answers out.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::target::{ReadOptions, WriteOptions};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::query::Query;
use crate::service::{Condition, Service, WriteReply};
use crate::types::SeriesKey;

/// The process that owns a store, as its `LOCK` file tells.
#[derive(Clone, Debug, Deserialize)]
pub struct Owner {
    pub pid: u32,
    /// REST address, once a server answers there.
    #[serde(default)]
    pub http: Option<String>,
}

/// Who owns the store; only meaningful after `store_locked`, since the file stays when its owner dies.
pub fn owner(root: &Path) -> Option<Owner> {
    serde_json::from_slice(&std::fs::read(root.join("LOCK")).ok()?).ok()
}

// STAND-IN: everything below is replaced when engine, http and ingest are merged.

pub fn open(_root: &Path, _create: bool, _config: &Config) -> Result<Arc<Service>> {
    Err(Error::internal("the engine is not connected yet"))
}

pub fn closed_range(_service: &Service, _key: &SeriesKey, _start: &str, _end: &str) -> Result<(i64, i64)> {
    Err(Error::internal("the engine is not connected yet"))
}

pub fn write(
    _service: &Service,
    _key: &SeriesKey,
    _body: &[u8],
    _options: &WriteOptions,
    _condition: &Condition,
) -> Result<WriteReply> {
    Err(Error::internal("the engine is not connected yet"))
}

pub fn media_type(format: &str) -> Result<&'static str> {
    Ok(match format {
        "json" => "application/json",
        "ndjson" => "application/x-ndjson",
        "csv" => "text/csv",
        "arrow" => "application/vnd.apache.arrow.stream",
        "parquet" => "application/vnd.apache.parquet",
        other => {
            return Err(Error::invalid(format!("format {other:?} is not one of json, ndjson, csv, arrow, parquet")));
        }
    })
}

pub fn read(
    _service: &Service,
    _query: &Query,
    _options: &ReadOptions,
    _sink: &mut dyn FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    Err(Error::internal("the engine is not connected yet"))
}

pub fn describe(_bytes: &[u8], _name: &str) -> Result<serde_json::Value> {
    Err(Error::internal("the engine is not connected yet"))
}

pub fn announce(_service: &Service, _http: std::net::SocketAddr, _flight: std::net::SocketAddr) -> Result<()> {
    Ok(())
}

pub fn close(_service: &Service) -> Result<()> {
    Ok(())
}

pub fn serve_http(
    _listener: tokio::net::TcpListener,
    _service: Arc<Service>,
    _config: &Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<()>> + Send + 'static {
    async move {
        shutdown.await;
        Ok(())
    }
}

pub fn serve_flight(
    _listener: tokio::net::TcpListener,
    _service: Arc<Service>,
    _config: &Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<()>> + Send + 'static {
    async move {
        shutdown.await;
        Ok(())
    }
}
