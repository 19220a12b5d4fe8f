//! Runs targets on mutated inputs without a fuzzer; the inputs are derived from a seed.
//!
//! Each target gets `FASTK_PROOF` percent of 100,000 inputs, 2,000 when unset; `FASTK_FUZZ_INPUTS` sets the amount,
//! `FASTK_FUZZ_SEED` the first seed (1). A failure prints both for the failed input.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::memory::most_bytes;
use super::targets::{MEMORY_FREE, Target};

/// Inputs of each target at 100 percent.
const STATED: f64 = 100_000.0;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static PANICS: Cell<u64> = const { Cell::new(0) };
    static IN_TARGET: Cell<bool> = const { Cell::new(false) };
}

/// Records panics inside a target without printing: guards catch panics of decoders, and a backtrace allocates memory.
fn record_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IN_TARGET.get() {
                PANICS.set(PANICS.get() + 1);
                LAST_PANIC.set(info.to_string());
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs a target on its inputs.
pub fn feed(target: &Target) {
    record_panics();
    PANICS.set(0);
    let started_at = Instant::now();
    let share = (STATED * setting("FASTK_PROOF").unwrap_or(2.0) / 100.0).ceil() as u64;
    let inputs: u64 = setting("FASTK_FUZZ_INPUTS").unwrap_or(share);
    let seed: u64 = setting("FASTK_FUZZ_SEED").unwrap_or(1);
    let seeds = (target.seeds)();
    let expected: Vec<Option<String>> =
        seeds.iter().map(|seed| target.strict.and_then(|strict| strict(seed))).collect();
    for seed in &seeds {
        (target.run)(seed);
    }
    assert!(target.strict.is_none() || expected.iter().all(Option::is_some), "{}: a seed is refused", target.name);
    let mut most = (0.0, 0);
    for at in seed..seed + inputs {
        let mut random = StdRng::seed_from_u64(at);
        let mut input = mutated(&mut random, &seeds);
        let mut fixed = false;
        if let Some(fix) = target.fix
            && random.random_bool(0.5)
        {
            fix(&mut input);
            fixed = true;
        }
        IN_TARGET.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let bytes = most_bytes(|| (target.run)(&input));
            let allowed = input.len() * target.memory_factor + MEMORY_FREE;
            assert!(bytes <= allowed, "{bytes} bytes allocated for {} bytes of input", input.len());
            if let (false, Some(strict)) = (fixed, target.strict) {
                let found = strict(&input);
                assert!(found.is_none() || expected.contains(&found), "a damaged file was decoded as {found:?}");
            }
            bytes
        }));
        IN_TARGET.set(false);
        match outcome {
            Ok(bytes) => most = if bytes > most.1 { (bytes as f64 / input.len().max(1) as f64, bytes) } else { most },
            Err(_) => panic!(
                "target {}, input {at} of {} bytes: {}\nReplay: FASTK_FUZZ_SEED={at} FASTK_FUZZ_INPUTS=1 cargo nextest run \
                 -E 'test(/fuzz::{}$/)'",
                target.name,
                input.len(),
                LAST_PANIC.take(),
                target.name
            ),
        }
    }
    let caught = PANICS.get();
    println!(
        "proof fuzz_{}: {inputs} inputs, at most {} bytes held ({:.1} a byte), {caught} panics of decoders caught; seed \
         {seed}, {:.1} s",
        target.name,
        most.1,
        most.0,
        started_at.elapsed().as_secs_f64()
    );
    assert!(caught == 0 || target.catches_panics, "{}: a decoder panicked: {}", target.name, LAST_PANIC.take());
}

/// A seed with a few changes.
fn mutated(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut StdRng| seeds[random.random_range(0..seeds.len())].clone();
    let mut data = pick(random);
    if random.random_bool(0.02) {
        data = (0..random.random_range(0..300)).map(|_| random.random()).collect();
    }
    for _ in 0..random.random_range(1..4) {
        if data.is_empty() {
            return data;
        }
        // Most structure is at the start and end of a file.
        let near = data.len().min(160);
        let at = match random.random_range(0..4) {
            0 => random.random_range(0..near),
            1 => data.len() - 1 - random.random_range(0..near),
            _ => random.random_range(0..data.len()),
        };
        let wide = [0, 1, 2, 63, 64, 1 << 20, i64::MAX as u64, 1 << 63, u64::MAX, data.len() as u64, at as u64];
        let word = wide[random.random_range(0..wide.len())].wrapping_add(random.random_range(0..3)).wrapping_sub(1);
        match random.random_range(0..12) {
            0 | 1 => data[at] ^= 1 << random.random_range(0..8),
            2 => data[at] = [0, 0xFF, 0x7F, 0x80, b'"', b'0'][random.random_range(0..6)],
            3 => data[at] = random.random(),
            4 => overwrite(&mut data, at & !7, &word.to_le_bytes()),
            5 => overwrite(&mut data, at & !3, &(word as u32).to_le_bytes()),
            6 => data.truncate(at),
            7 => data.extend((0..random.random_range(1..100)).map(|_| random.random::<u8>())),
            8 => {
                let end = (at + [1, 8, 64, 512, 4_096][random.random_range(0..5)]).min(data.len());
                data[at..end].fill([0, 0xFF][random.random_range(0..2)]);
            }
            9 => {
                // A part of another file at the same offset.
                let other = pick(random);
                let end = (at + random.random_range(1..2_000)).min(data.len()).min(other.len());
                if at < end {
                    data[at..end].copy_from_slice(&other[at..end]);
                }
            }
            10 => {
                // Inserts a part of a file, or replaces the end with that of another.
                let other = pick(random);
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..300)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let end = (at + random.random_range(1..300)).min(data.len());
                data.drain(at..end);
            }
        }
    }
    data
}

fn overwrite(data: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = data.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

/// A test for each target of a list, and one that all targets are listed.
#[allow(unused_macros)]
macro_rules! fuzz_tests {
    ($list:path: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let name = stringify!($name);
                rounds::feed($list.iter().find(|target| target.name == name).unwrap());
            }
        )*

        #[test]
        fn every_target_is_fed() {
            let all: Vec<&str> = $list.iter().map(|target| target.name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
            rounds::each_has_its_program(&all);
        }
    };
}

/// Asserts that each target has its cargo-fuzz program.
pub fn each_has_its_program(names: &[&str]) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for name in names {
        let program = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\", data)")), "{name}");
        assert!(manifest.contains(&format!("\"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
