//! The fuzz targets of the server on mutated bodies: no panic, no large allocation, and invalid ones are refused
//! as the caller's fault. `tests/fuzz/README.md` says how to run them under cargo-fuzz.

#[path = "../fuzz/targets/memory.rs"]
mod memory;
#[macro_use]
#[path = "../fuzz/targets/rounds.rs"]
mod rounds;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

#[path = "../fuzz/targets/server.rs"]
mod server;

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

fuzz_tests! {
    server::TARGETS:
    put_message arrow_body parquet_body json_rows csv_rows query_body
}
