//! `cargo fuzz run --fuzz-dir tests/fuzz zone_map`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fastk_fuzz::run("zone_map", data));
