//! `fastk demo`: a server over sample data in a temporary directory, and example requests.
//!
//! The data is the same on every machine and at every start. The directory is removed at the end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use super::{lines, sample};
use crate::cli::read::table_rows;
use crate::cli::remote::RestClient;
use crate::cli::rows::OutputOptions;
use crate::cli::serve::RunningServer;
use crate::cli::target::CommandTarget;
use crate::cli::{listeners, log, open_store, print};
use crate::config::{Config, address};
use crate::disk::local::{self, TempDir};
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::ParsedRows;
use crate::query::{NumberFormat, Query};
use crate::service::operations::InventoryOf;
use crate::service::{Durability, Precondition, RowMode, SeriesFilter, Service, TaskControl};
use crate::types::SeriesKey;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// REST address; 127.0.0.1:8080, or a free port when that one is taken. In a container 0.0.0.0:8080.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    /// Arrow Flight address; 127.0.0.1:8815, or a free port when that one is taken. In a container 0.0.0.0:8815.
    #[arg(long, value_name = "ADDRESS:PORT")]
    flight: Option<String>,
    /// Print the results of example requests and exit.
    #[arg(long)]
    exit: bool,
}

/// Bytes per log segment of the demo.
const WAL_SEGMENT_BYTES: u64 = 2 << 20;

/// Serves the sample until SIGTERM or Ctrl-C; with `--exit` prints example results and stops.
pub fn run(args: DemoArgs) -> Result<u8> {
    log::init(&log::level("warn"), crate::config::LogFormat::Text)?;
    let mut config = Config::default();
    let http = choose(args.http.as_deref(), &config.http.listen)?;
    let flight = choose(args.flight.as_deref(), &config.flight.listen)?;
    if let Some(open) = [http, flight].into_iter().find(|address| !address.ip().is_loopback()) {
        print::note(&format!("{open} can be reached from other machines: every client can read and write the sample"));
    }
    listeners::fit_open_files(&mut config);
    crate::server::metrics::start();
    let directory = temporary_dir(&temp_bases())?;
    config.store.paths.root = directory.path().join("store");
    // Small enough for a file system in memory.
    config.store.options.wal_segment_bytes = WAL_SEGMENT_BYTES;
    // The directory does not outlive the process, so syncs are pointless.
    config.store.options.durability = Durability::None;
    let service = open_store::open(&config.store.paths.root, true, &config)?;
    fill(&service)?;
    let running = RunningServer::start(service, &config, http, flight)?;
    print::out(&running.ready_line())?;
    if args.exit {
        let printed = print_results(&running);
        return running.stop().and_then(|status| printed.map(|()| status));
    }
    print::out(&lines::printed(running.http, running.flight, &config.store.paths.root))?;
    running.until_signal()
}

/// The requested address, or the default one, or a free port if that is in use.
fn choose(requested: Option<&str>, default: &str) -> Result<SocketAddr> {
    if let Some(requested) = requested {
        return address(requested);
    }
    let default = address(default)?;
    Ok(match TcpListener::bind(default) {
        Ok(_) => default,
        Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    })
}

/// Registers and writes the sample series, and seals them into chunk files.
fn fill(service: &Service) -> Result<()> {
    for (spec, rows) in sample::series()? {
        let key = service.register(spec)?.info.series;
        service.write(&key, ParsedRows { rows, ..ParsedRows::default() }, RowMode::Insert, &Precondition::default())?;
    }
    service.compact(&[], &TaskControl::new())?;
    Ok(())
}

/// Queries the running server over REST and prints the results.
fn print_results(running: &RunningServer) -> Result<()> {
    let client = CommandTarget::Remote(Box::new(RestClient::new(&running.http.to_string())?));
    let csv = OutputOptions { format: "csv".into(), times: Some("rfc3339".into()), shape: None };
    for key in [lines::KLINE, lines::KLINE_FLOAT, lines::SCALAR] {
        let key = SeriesKey::parse(key)?;
        let mut query = Query::of(&key);
        query.latest = Some(3);
        query.numbers = NumberFormat::Stored;
        let (header, rows) = table_rows(&client, &query, &csv)?;
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        print::out(&format!("\nlast 3 rows of {key}\n{}", print::table(&header, rows)))?;
    }
    let inventory = client.run::<InventoryOf>(SeriesFilter::default())?;
    let rows = inventory.series.iter().map(|row| {
        let ratio = row.coverage_ratio.map_or("-".into(), |ratio| format!("{ratio:.4}"));
        vec![row.series.to_string(), row.rows.to_string(), row.bytes.to_string(), row.chunks.to_string(), ratio]
    });
    let header = ["series", "rows", "bytes", "chunks", "coverage"];
    print::out(&format!("\n{}", print::table(&header, rows.collect())))
}

/// Candidate parents of the directory: the one of the environment, then those that are writable on a read-only root.
fn temp_bases() -> [PathBuf; 3] {
    [std::env::temp_dir(), "/dev/shm".into(), "/var/tmp".into()]
}

/// Creates a directory in the first writable one of `bases`; it is removed with its contents on drop.
fn temporary_dir(bases: &[PathBuf]) -> Result<TempDir> {
    let mut refused = Vec::new();
    for base in bases {
        match local::temporary_dir(base, "fastk-demo-") {
            Ok(directory) => return Ok(directory),
            Err(error) => refused.push(format!("{}: {error}", base.display())),
        }
    }
    let detail = format!("no writable directory for the demo ({})", refused.join("; "));
    Err(Error::new(ErrorCode::Io, detail)
        .with_hint("set TMPDIR to a writable directory; in a container, `--tmpfs /tmp` creates one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let default = taken.local_addr().unwrap().to_string();
        assert_eq!(choose(None, &default).unwrap().port(), 0);
        assert_eq!(choose(Some("0.0.0.0:1"), &default).unwrap(), "0.0.0.0:1".parse().unwrap());
        assert!(choose(Some("nowhere"), &default).is_err());
    }

    #[test]
    fn the_directory_is_created_in_the_first_writable_base() {
        let free = tempfile::tempdir().unwrap();
        let missing = free.path().join("missing");
        let directory = temporary_dir(&[missing.clone(), free.path().to_owned()]).unwrap();
        assert_eq!(directory.path().parent(), Some(free.path()));
        let error = temporary_dir(std::slice::from_ref(&missing)).err().unwrap();
        assert!(error.detail().contains(&missing.display().to_string()), "{error}");
        assert!(error.hint().unwrap().contains("--tmpfs /tmp"), "{error}");
    }

    #[test]
    fn the_directory_is_removed_with_its_contents() {
        let path = {
            let directory = temporary_dir(&temp_bases()).unwrap();
            std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
            directory.path().to_owned()
        };
        assert!(!path.exists());
    }
}
