//! Every disabled safeguard makes a proof fail within seconds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Instant;

use crate::sim_disk::{Op, Rng, SimDisk, SimState};
use fastk::format::tombstone::decode_tombstone;
use fastk::format::wal::{FrameRead, SEGMENT_HEADER_BYTES, decode_segment_header, frame_at, frame_bytes};
use fastk::planted::with;
use fastk::query::predicate::compile;
use fastk::query::{NumberFormat, Predicate, Scan, ScanSpec};
use fastk::store::{Durability, SNAPSHOTS_MAX, Store, WriteMode};
use fastk::types::{Column, ColumnCells, ColumnType, Partition, Rows, SeriesDef, SeriesKey, SeriesSpec};
use fastk::{ErrorCode, disk};

use super::bit_flips::Whole;
use super::disk_faults::{SCENARIOS, exhaust, fill, options, put};
use super::rounds::close;
use super::world::{World, keys, observe, open, register_all};
use super::{power_cuts, records, recovery, slices};

/// The proof that fails without a safeguard.
#[derive(Clone, Copy)]
enum By {
    /// Power cuts at random operations.
    Power,
    /// Power cuts on stores that sync at intervals.
    LazyPower,
    /// Power cuts on stores that are about to write a checkpoint of the manifest.
    OldPower,
    /// Power cuts during open.
    Recovery,
    /// Failing operations, in this scenario.
    Faults(&'static str),
    /// Flipped bits in files of these kinds.
    Damage(&'static [&'static str]),
    /// A separate check in this file.
    Direct(&'static str, fn()),
    /// Random operations on rows of any type, compared with a plain list.
    Records,
    /// Schedules of threads, by the test of `schedules.rs` that finds it.
    Schedules(&'static str),
}

const TABLE: &[(&str, By)] = &[
    ("FileNotSynced", By::Power),
    ("DirectoryNotSynced", By::Power),
    ("NewDirectoryNotSynced", By::Power),
    ("PublishReplaces", By::Direct("a_taken_name_is_refused", a_taken_name_is_refused)),
    ("LockNotTaken", By::Direct("a_second_open_is_refused", a_second_open_is_refused)),
    ("SegmentNotSyncedAtRotation", By::LazyPower),
    ("AppendNotSynced", By::Power),
    ("RecoveryNotSynced", By::Recovery),
    ("MovedBeforeSynced", By::LazyPower),
    ("MovedBeforeDecided", By::Schedules("schedules_find_refused_writes_that_were_sealed")),
    ("FailedSyncRetried", By::Faults("write")),
    ("FailedSyncIgnored", By::Faults("write")),
    ("WriterContinues", By::Faults("write")),
    ("WriterContinuesAfterEdit", By::Faults("seal")),
    ("FullNoticedLate", By::Faults("write")),
    ("SpaceNotReserved", By::Direct("frames_have_reserved_space", frames_have_reserved_space)),
    ("FailedRotationLeft", By::Faults("write beyond a segment")),
    ("ShownBeforeWritten", By::Faults("write")),
    ("MarkerNotWritten", By::Damage(&["wal"])),
    ("CorruptionTakenForTorn", By::Damage(&["wal"])),
    ("TornTailKept", By::LazyPower),
    ("ConstantEpoch", By::Direct("every_segment_has_its_epoch", every_segment_has_its_epoch)),
    ("LsnGapUnnoticed", By::Direct("a_removed_frame_is_detected", a_removed_frame_is_detected)),
    ("FrameUnchecked", By::Power),
    ("BlockUnchecked", By::Damage(&["arrow"])),
    ("FooterUnchecked", By::Direct("a_flipped_bit_in_a_footer_is_reported", a_flipped_bit_in_a_footer_is_reported)),
    (
        "ChunkLengthUnchecked",
        By::Direct("a_truncated_chunk_is_detected_by_its_length", a_truncated_chunk_is_detected_by_its_length),
    ),
    ("RunUnchecked", By::Damage(&["run"])),
    ("ReceiptsUnchecked", By::Damage(&["receipts"])),
    ("EditUnchecked", By::Damage(&["edit"])),
    ("CheckpointUnchecked", By::Damage(&["checkpoint"])),
    ("SidecarUnchecked", By::Damage(&["zmap", "cov"])),
    ("IndexPageUnchecked", By::Damage(&["vix"])),
    (
        "TombstoneUnchecked",
        By::Direct("a_flipped_bit_in_a_tombstone_is_detected", a_flipped_bit_in_a_tombstone_is_detected),
    ),
    ("NewerFormatOpened", By::Direct("a_newer_store_is_refused", a_newer_store_is_refused)),
    ("TrimmedEarly", By::Power),
    (
        "TrimmedWithoutEdit",
        By::Direct(
            "a_segment_without_frames_does_not_cost_the_one_before_it",
            power_cuts::a_segment_without_frames_does_not_cost_the_one_before_it,
        ),
    ),
    (
        "DropForeseen",
        By::Direct(
            "a_snapshot_still_shows_a_dropped_series_that_was_sealed_ahead_of_the_log",
            power_cuts::a_snapshot_still_shows_a_dropped_series_that_was_sealed_ahead_of_the_log,
        ),
    ),
    ("EditsRemovedEarly", By::OldPower),
    ("RunsRemovedEarly", By::Power),
    ("TombstoneFilesLeftOut", By::Power),
    ("ReceiptsNotReplayed", By::Power),
    ("ReceiptsNotMoved", By::Power),
    ("ReplayedTwice", By::Power),
    ("SnapshotBoundariesIgnored", By::Power),
    ("ReadersIgnored", By::Power),
    ("LoadShownEarly", By::Faults("load")),
    ("LoadReadEarly", By::Schedules("schedules_find_rows_read_before_their_chunks_are_there")),
    ("LoadOverTail", By::Power),
    ("LoadNotRenumbered", By::Schedules("schedules_find_loads_with_an_earlier_number")),
    ("FileIdsReused", By::Power),
    ("SnapshotsUnlimited", By::Direct("snapshots_have_a_limit", snapshots_have_a_limit)),
    ("RetainedCommitsUnlimited", By::Direct("retained_commits_have_a_limit", retained_commits_have_a_limit)),
    ("WaitersNotWoken", By::Schedules("schedules_find_waiters_that_are_not_woken")),
    ("MaintenanceForgotten", By::Schedules("schedules_find_maintenance_that_a_leader_forgets")),
    (
        "SlicesJoined",
        By::Direct(
            "late_rows_all_over_a_partition_do_not_join_its_slices",
            slices::late_rows_all_over_a_partition_do_not_join_its_slices,
        ),
    ),
    ("SliceTimesIgnored", By::Direct("a_load_is_cut_as_a_seal_is", slices::a_load_is_cut_as_a_seal_is)),
    (
        "PartialSlicesTrusted",
        By::Direct(
            "a_manifest_rebuilt_after_a_crash_between_the_names_of_slices_doubles_and_loses_nothing",
            slices::a_manifest_rebuilt_after_a_crash_between_the_names_of_slices_doubles_and_loses_nothing,
        ),
    ),
    ("EqualTimesReplaced", By::Records),
    ("KeyFieldsIgnored", By::Records),
    ("TextsNotReplayed", By::Records),
    ("TextsNotInManifest", By::Records),
    ("TextsNotInRuns", By::Records),
    ("NullsLost", By::Records),
    ("NullsNotInZones", By::Direct("nulls_are_found_by_zone_maps", nulls_are_found_by_zone_maps)),
    (
        "DigitsIgnored",
        By::Direct(
            "rows_from_before_a_change_of_digits_meet_conditions",
            rows_from_before_a_change_of_digits_meet_conditions,
        ),
    ),
    ("MapsUnlimited", By::Schedules("schedules_find_maps_without_a_bound")),
];

/// Whether the fault makes its proof fail, within a small amount of it.
fn caught(fault: &'static str, by: By) -> bool {
    let fails = |work: &mut dyn FnMut()| quiet(|| with(fault, work)).is_err();
    match by {
        By::Power => (0..300).any(|seed| fails(&mut || _ = power_cuts::workload(seed, 30))),
        By::LazyPower => {
            let lazy = |seed| power_cuts::workload_of(World::under(seed, Durability::Interval), seed, 30);
            (0..300).any(|seed| fails(&mut || _ = lazy(seed)))
        }
        By::OldPower => (0..20).any(|seed| {
            fails(&mut || {
                let mut world = World::new(seed);
                world.age(61);
                power_cuts::workload_of(world, seed, 30);
            })
        }),
        By::Recovery => (0..40).any(|seed| fails(&mut || _ = recovery::workload(seed, 12))),
        By::Faults(name) => {
            let number = SCENARIOS.iter().position(|scenario| scenario.name == name).unwrap();
            fails(&mut || _ = exhaust(number, 1))
        }
        By::Damage(kinds) => {
            // A store written without the fault, and one written with it.
            let whole = with(fault, Whole::new);
            (0..3_000).any(|seed| fails(&mut || whole.flip(kinds, &mut Rng(seed))))
        }
        By::Direct(_, check) => fails(&mut { check }),
        By::Records => (0..200).any(|seed| fails(&mut || records::run_case(seed, 40))),
        By::Schedules(name) => {
            include_str!("schedules.rs").contains(&format!("fn {name}() {{\n    finds(\"{fault}\", "))
        }
    }
}

thread_local! {
    /// Whether panics of this thread are expected, and the message of the last one.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs work that should fail, without printing its panic.
fn quiet<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                SAID.with_borrow_mut(|output| *output = info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    outcome
}

fn part(part: usize) {
    let started_at = Instant::now();
    let mut missed = Vec::new();
    let mut slow = Vec::new();
    for (fault, by) in TABLE.iter().skip(part).step_by(3) {
        let started_at = Instant::now();
        if !caught(fault, *by) {
            missed.push(*fault);
        }
        slow.push((started_at.elapsed().as_millis(), *fault));
        if std::env::var_os("FASTK_PROOF_SHOW").is_some() {
            println!("{fault}: {}", SAID.with_borrow(Clone::clone));
        }
    }
    let slowest = slow.iter().max().unwrap();
    let counts = format!("{} planted faults, the slowest {} ({} ms)", slow.len(), slowest.1, slowest.0);
    close(&format!("every_planted_fault_makes_a_proof_fail_part_{}", part + 1), &counts, started_at);
    assert!(missed.is_empty(), "no proof fails without these: {missed:?}");
}

#[test]
fn every_planted_fault_makes_a_proof_fail_part_1() {
    part(0);
}

#[test]
fn every_planted_fault_makes_a_proof_fail_part_2() {
    part(1);
}

#[test]
fn every_planted_fault_makes_a_proof_fail_part_3() {
    part(2);
}

#[test]
fn no_proof_fails_without_a_planted_fault() {
    for (_, by) in TABLE {
        if let By::Direct(_, check) = by {
            check();
        }
    }
    assert!(SCENARIOS.len() >= 12 && TABLE.len() >= 30);
}

#[test]
fn every_planted_fault_is_in_the_table_and_in_the_documentation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed: toml::Table = std::fs::read_to_string(root.join("tests/faults/table.toml")).unwrap().parse().unwrap();
    let sentences = listed["faults"].as_table().unwrap();
    let proved: BTreeSet<&str> = TABLE.iter().map(|(fault, _)| *fault).collect();
    assert_eq!(proved, sentences.keys().map(String::as_str).collect());
    let rows: Vec<String> = TABLE
        .iter()
        .map(|(fault, by)| {
            let by = match by {
                By::Power | By::LazyPower | By::OldPower => "power cuts at every operation".to_owned(),
                By::Recovery => "power cuts while opening".to_owned(),
                By::Faults(name) => format!("failing operations, “{name}”"),
                By::Damage(kinds) => format!("flipped bits in {}", kinds.join(", ")),
                By::Direct(name, _) => format!("`{name}`"),
                By::Records => "`records`".to_owned(),
                By::Schedules(name) => format!("`{name}`"),
            };
            format!("| `{fault}` | {} | {by} |", sentences[*fault].as_str().unwrap())
        })
        .collect();
    let page = std::fs::read_to_string(root.join("docs/proofs.md")).unwrap();
    let found: Vec<&str> =
        page.lines().filter(|line| proved.iter().any(|fault| line.starts_with(&format!("| `{fault}` |")))).collect();
    assert!(found == rows, "docs/proofs.md should say:\n{}", rows.join("\n"));
}

/// A series of one column, with a value for each row, sealed.
fn one_column(disk: &SimDisk, column: Column, cells: ColumnCells) -> (Store, SeriesKey) {
    let store = open(disk, &options()).unwrap();
    let key = SeriesKey::parse("scalar/c/S/tick/n").unwrap();
    let spec = SeriesSpec::of_key(&key).resolve().unwrap();
    store.register(SeriesDef { columns: vec![column], partition: Partition::All, interval_ms: None, ..spec }).unwrap();
    let ts = (0..cells.as_slice().len() as i64).collect();
    store.write(&key, Rows::new(ts, vec![cells]), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    (store, key)
}

/// Timestamps of the rows that meet a condition.
fn meeting(store: &Store, key: &SeriesKey, condition: &str) -> Vec<i64> {
    let state = store.snapshot();
    let series = state.get(key).unwrap();
    let predicate = Predicate::parse(condition).unwrap();
    let filter = compile(&series.def, &series.dictionaries, &[predicate], NumberFormat::Stored).unwrap();
    let spec = ScanSpec { filter, ..ScanSpec::range((i64::MIN, i64::MAX)) };
    let blocks = Scan::new(series, store.cache(), &spec);
    blocks.flat_map(|block| block.unwrap().timestamps().to_vec()).collect()
}

fn nulls_are_found_by_zone_maps() {
    let column = Column { nullable: true, ..Column::new("v", ColumnType::Int32) };
    let mut cells = ColumnCells::new(column.kind.layout());
    for row in 0..3_000 {
        if row == 1_500 { cells.push_null() } else { cells.push(row) }
    }
    let disk = SimDisk::new(SimState::default(), 1);
    let (store, key) = one_column(&disk, column, cells);
    assert_eq!(meeting(&store, &key, "v:is_null"), [1_500]);
    assert_eq!(meeting(&store, &key, "v:is_not_null").len(), 2_999);
}

fn rows_from_before_a_change_of_digits_meet_conditions() {
    let column = Column::new("v", ColumnType::Decimal { digits: 1 });
    let cells = ColumnCells::from((0..3_000).collect::<Vec<i64>>());
    let disk = SimDisk::new(SimState::default(), 1);
    let (store, key) = one_column(&disk, column, cells);
    let change = |def: &mut SeriesDef| {
        def.columns[0].kind = ColumnType::Decimal { digits: 3 };
        def.schema_version += 1;
        Ok(())
    };
    store.change_series(&key, None, change).unwrap();
    assert_eq!(meeting(&store, &key, "v:gte:299.8"), [2_998, 2_999]);
    assert_eq!(meeting(&store, &key, "v:eq:0.1"), [1]);
}

fn made(prepare: fn(&Store)) -> SimState {
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &options()).unwrap();
    register_all(&store);
    prepare(&store);
    drop(store);
    disk.state()
}

/// Files of a store by their ending.
fn named(state: &SimState, ending: &str) -> Vec<(std::path::PathBuf, Arc<Vec<u8>>)> {
    state.files().into_iter().filter(|(path, _)| path.to_string_lossy().ends_with(ending)).collect()
}

fn a_taken_name_is_refused() {
    let disk = SimDisk::new(SimState::default(), 1);
    let (tmp, target) = (disk.path("/tmp"), disk.path("/file"));
    disk::create_dir(&tmp).unwrap();
    assert!(disk::publish(&tmp, &target, b"first").unwrap());
    assert!(!disk::publish(&tmp, &target, b"second").unwrap());
    assert_eq!(disk::read(&target).unwrap(), b"first");
}

fn a_second_open_is_refused() {
    let disk = SimDisk::new(SimState::default(), 1);
    let _store = open(&disk, &options()).unwrap();
    assert_eq!(open(&disk, &options()).unwrap_err().code(), ErrorCode::StoreLocked);
}

fn frames_have_reserved_space() {
    let disk = SimDisk::new(made(fill), 1);
    let store = open(&disk, &options()).unwrap();
    disk.record();
    // Larger than a segment: it gets its own segment, which is not filled with zeros.
    put(&store, 0, 100, 300).unwrap();
    let moments = disk.recorded();
    let first = moments.iter().find(|m| m.op == Op::Write && m.path.starts_with("/store/wal")).unwrap();
    let bytes = |state: &SimState| state.file(&first.path).unwrap().len();
    assert_eq!(bytes(&first.before), bytes(&disk.state()));
}

fn every_segment_has_its_epoch() {
    let state = made(|store| (0..10).for_each(|part| put(store, 0, part * 40, 40).unwrap()));
    let mut epochs: Vec<u64> =
        named(&state, ".wal").iter().map(|(_, bytes)| decode_segment_header(bytes).unwrap().epoch).collect();
    let segments = epochs.len();
    epochs.sort_unstable();
    epochs.dedup();
    assert!(segments > 2 && epochs.len() == segments);
}

fn a_removed_frame_is_detected() {
    let state = made(|store| (0..4).for_each(|part| put(store, 0, part, 1).unwrap()));
    let (path, bytes) = named(&state, ".wal").pop().unwrap();
    let epoch = decode_segment_header(&bytes).unwrap().epoch;
    let length = |at: usize| match frame_at(&bytes, at, epoch) {
        FrameRead::Frame(_, payload) => frame_bytes(payload.len()),
        other => panic!("{other:?}"),
    };
    let second = SEGMENT_HEADER_BYTES + length(SEGMENT_HEADER_BYTES);
    let third = second + length(second);
    let mut cut = bytes.as_ref().clone();
    cut.drain(second..third);
    cut.resize(bytes.len(), 0);
    let mut state = state.clone();
    state.put_file(&path, cut).unwrap();
    let store = open(&SimDisk::new(state, 1), &options()).unwrap();
    assert!(!store.recovery().damage.is_empty(), "{:?}", store.recovery());
}

/// Damages the first chunk of a sealed store; returns the error of opening and reading the store.
fn with_damaged_chunk(damage: impl Fn(&mut Vec<u8>)) -> Result<(), String> {
    let mut state = made(|store| {
        fill(store);
        store.seal(&[]).unwrap();
    });
    let (shot, receipts) = observe(&open(&SimDisk::new(state.clone(), 1), &options()).unwrap());
    let (path, bytes) = named(&state, ".arrow").remove(0);
    let mut bytes = bytes.as_ref().clone();
    damage(&mut bytes);
    state.put_file(&path, bytes).unwrap();
    let store = open(&SimDisk::new(state, 1), &options()).unwrap();
    super::world::compare(&store, &keys(), &[shot], &receipts).map(drop)
}

fn a_flipped_bit_in_a_footer_is_reported() {
    // After the block; the first 8 of the last 10 bytes are the magic and length of Arrow.
    for from_end in (12..600).step_by(7) {
        let output = with_damaged_chunk(|bytes| {
            let at = bytes.len() - from_end;
            bytes[at] ^= 1;
        });
        assert!(
            output.as_ref().is_err_and(|what| what.contains("corrupt_data")),
            "{from_end} from the end: {output:?}"
        );
    }
}

fn a_truncated_chunk_is_detected_by_its_length() {
    let output = with_damaged_chunk(|bytes| bytes.truncate(bytes.len() - 1)).unwrap_err();
    assert!(output.contains(" bytes, expected "), "{output}");
}

fn a_flipped_bit_in_a_tombstone_is_detected() {
    let state = made(|store| {
        put(store, 0, 0, 20).unwrap();
        store.seal(&[]).unwrap();
        store.delete_range(&keys()[0], (0, 60_000), None).unwrap();
        store.checkpoint().unwrap();
    });
    let (_, bytes) = named(&state, ".tombstone").pop().unwrap();
    decode_tombstone(&bytes).unwrap();
    for at in 24..bytes.len() {
        let mut damaged = bytes.as_ref().clone();
        damaged[at] ^= 1;
        assert!(decode_tombstone(&damaged).is_err(), "byte {at}");
    }
}

fn a_newer_store_is_refused() {
    let mut state = made(|_| {});
    let body = "{\"format\":99,\"required_features\":[]}";
    // The checksum of this body.
    let text = format!("{body} {:08x}\n", crc32c(body.as_bytes()));
    state.put_file(Path::new("/store/FORMAT"), text.into_bytes()).unwrap();
    let error = open(&SimDisk::new(state, 1), &options()).map(drop).unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnsupportedFormat);
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn snapshots_have_a_limit() {
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &options()).unwrap();
    for number in 0..SNAPSHOTS_MAX {
        store.create_snapshot(&format!("s{number}")).unwrap();
    }
    assert_eq!(store.create_snapshot("more").unwrap_err().code(), ErrorCode::TooLarge);
}

fn retained_commits_have_a_limit() {
    let disk = SimDisk::new(SimState::default(), 1);
    let store = open(&disk, &options()).unwrap();
    register_all(&store);
    let first = store.snapshot();
    for minute in 0..300 {
        store.retained_commits().keep(&store.snapshot());
        put(&store, 0, minute, 1).unwrap();
    }
    assert!(store.retained_commits().get(first.commit).is_none());
}
