//! The fuzz targets of the engine on mutated golden files: no panic, no large allocation, and a damaged file is refused
//! or is the file it was. `tests/fuzz/README.md` says how to run them under cargo-fuzz.

#[path = "../fuzz/targets/memory.rs"]
mod memory;
#[path = "../fuzz/targets/rounds.rs"]
mod rounds;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

#[path = "../fuzz/targets/engine.rs"]
mod engine;

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name);
                rounds::feed(engine::TARGETS.iter().find(|target| target.name == name).unwrap());
            }
        )*

        #[test]
        fn every_target_is_fed() {
            let fed = [$(stringify!($name)),*];
            let all: Vec<&str> = engine::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(all, fed);
            // Each has its program for cargo-fuzz.
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            for name in all {
                let program = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
                assert!(program.contains(&format!("run(\"{name}\", data)")), "{name}");
                assert!(manifest.contains(&format!("\"fuzz_targets/{name}.rs\"")), "{name}");
            }
        }
    };
}

tests! {
    segment commit manifest chunk chunk_meta run receipts zone_map value_index coverage tombstone inspect names
}
