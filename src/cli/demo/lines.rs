//! Example requests, as printed by the demo and shown in the README.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Exact minutes.
pub const KLINE: &str = "kline/BTCUSDT/1m";
/// Hours in float64.
pub const KLINE_FLOAT: &str = "kline/ETHUSDT/1h";
/// An indicator of the minutes.
pub const SCALAR: &str = "scalar/feature/BTCUSDT/1m/rsi_14";

/// Lines for a shell.
pub const CURL: &str = "\
curl 'http://127.0.0.1:8080/v1/klines/BTCUSDT/1m?latest=3&format=csv&times=rfc3339'
curl 'http://127.0.0.1:8080/v1/scalars/feature/BTCUSDT/1m/rsi_14?latest=3'
curl 'http://127.0.0.1:8080/inventory'
";

/// Lines for Python with pyarrow.
pub const PYARROW: &str = "\
import json, pyarrow.flight as flight
client = flight.connect('grpc://127.0.0.1:8815')
ticket = flight.Ticket(json.dumps({'series': ['kline/BTCUSDT/1m'], 'start': '2024-02-01', 'end': '2024-02-29', 'numbers': 'float64'}))
klines = client.do_get(ticket).read_all()
print(klines.num_rows, klines.schema.names)
";

/// Lines for Python with Polars.
pub const POLARS: &str = "\
import polars as pl
df = pl.read_ipc_stream('http://127.0.0.1:8080/v1/klines/BTCUSDT/1m?format=arrow&numbers=float64')
print(df.group_by_dynamic('ts', every='1d').agg(pl.first('open'), pl.max('high'), pl.min('low'), pl.last('close'), pl.sum('volume')))
";

/// Lines for Python with DuckDB, after [`PYARROW`].
pub const DUCKDB: &str = "\
import duckdb
print(duckdb.sql(\"select month(ts) as month, count(*) as minutes, max(high) as high, min(low) as low from klines group by all\"))
";

/// The addresses in the examples.
pub const PORTS: [&str; 2] = ["127.0.0.1:8080", "127.0.0.1:8815"];

/// The address to connect to: loopback for a listener on all addresses.
fn connectable(address: SocketAddr) -> SocketAddr {
    let local = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
    if address.ip().is_unspecified() { SocketAddr::new(local, address.port()) } else { address }
}

/// All examples with the addresses of a running demo.
pub fn printed(http: SocketAddr, flight: SocketAddr, root: &Path) -> String {
    let (http, flight) = (connectable(http), connectable(flight));
    let with_addresses = |text: &str| {
        let [default_http, default_flight] = PORTS;
        text.replace(default_http, &http.to_string()).replace(default_flight, &flight.to_string())
    };
    format!(
        "\n# from a shell\n{}\n# Python: pip install pyarrow polars duckdb\n{}\n{}\n{}\n# the API by hand: http://{http}/docs\n\
         # the files: {} (removed when the demo stops; Ctrl-C)\n",
        with_addresses(CURL),
        with_addresses(PYARROW),
        with_addresses(POLARS),
        with_addresses(DUCKDB),
        root.display()
    )
}
