//! Registrations as the manifest and the log have them: JSON.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::types::{KindDef, SeriesDef};

pub fn def_json(def: &SeriesDef) -> Result<String> {
    serde_json::to_string(def).map_err(|error| Error::internal(format!("registration as JSON: {error}")))
}

/// A registration as the manifest has it.
pub fn parse_def(text: &str) -> Result<Arc<SeriesDef>> {
    serde_json::from_str(text)
        .map(Arc::new)
        .map_err(|error| Error::corrupt(format!("a registration in the store is unreadable: {error}")))
}

pub fn kind_json(def: &KindDef) -> Result<String> {
    serde_json::to_string(def).map_err(|error| Error::internal(format!("kind as JSON: {error}")))
}

/// A kind as the manifest and the log have it.
pub fn parse_kind(text: &str) -> Result<Arc<KindDef>> {
    serde_json::from_str(text)
        .map(Arc::new)
        .map_err(|error| Error::corrupt(format!("a kind in the store is unreadable: {error}")))
}
