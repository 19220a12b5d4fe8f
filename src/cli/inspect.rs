//! `fastk inspect`: prints the contents of data files without opening the store.

use std::path::PathBuf;

use super::print;
use crate::disk::local;
use crate::error::{Error, Result};
use crate::format::inspect::inspect;

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Files of a data directory, such as chunks, log segments, runs and manifest files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Describes each file, up to the first that cannot be read. Exit status 1 when one is damaged.
pub fn run(args: InspectArgs) -> Result<u8> {
    let mut status = 0;
    for (position, path) in args.files.iter().enumerate() {
        let bytes = local::read(path)?;
        let named = |error: Error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail()));
        let described = inspect(&bytes).map_err(|error| match error.hint() {
            Some(hint) => named(error.clone()).with_hint(hint),
            None => named(error),
        })?;
        if !args.json && args.files.len() > 1 {
            print::out(&format!("{}{}\n", if position > 0 { "\n" } else { "" }, path.display()))?;
        }
        print::reply(&described, args.json)?;
        if described.get("intact").and_then(serde_json::Value::as_bool) == Some(false) {
            print::note(&format!("{}: damaged", path.display()));
            status = 1;
        }
    }
    Ok(status)
}
