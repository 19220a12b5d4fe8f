//! The fuzz targets of the server on mutated bodies: no panic, no large allocation, and what cannot be taken is refused as
//! the caller's fault. `tests/fuzz/README.md` says how to run them under cargo-fuzz.

#[path = "../fuzz/targets/memory.rs"]
mod memory;
#[path = "../fuzz/targets/rounds.rs"]
mod rounds;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

#[path = "../fuzz/targets/server.rs"]
mod server;

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name);
                rounds::feed(server::TARGETS.iter().find(|target| target.name == name).unwrap());
            }
        )*

        #[test]
        fn every_target_is_fed() {
            let fed = [$(stringify!($name)),*];
            let all: Vec<&str> = server::TARGETS.iter().map(|target| target.name).collect();
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
    put_message arrow_body parquet_body json_rows csv_rows query_body
}
