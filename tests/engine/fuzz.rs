//! The fuzz targets of the engine on mutated golden files: no panic, no large allocation, and a damaged file is refused
//! or is the file it was. `tests/fuzz/README.md` says how to run them under cargo-fuzz.

#[path = "../fuzz/targets/memory.rs"]
mod memory;
#[macro_use]
#[path = "../fuzz/targets/rounds.rs"]
mod rounds;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

#[path = "../fuzz/targets/engine.rs"]
mod engine;

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

fuzz_tests! {
    engine::TARGETS:
    segment commit manifest chunk chunk_meta run receipts zone_map value_index coverage tombstone backup inspect names
}
