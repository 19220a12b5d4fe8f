//! Files of a store damaged from outside: deleted, emptied, cut, copied under another number, exchanged with another
//! one of their kind, one bit flipped. Opening and reading give exactly the rows there were, or say which file is
//! damaged; never a wrong number, never a panic.
//!
//! What only a damaged file had may be lost where the store says so when it opens: it names the file then, and every
//! row it serves is one that was written.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fastk::query::{Scan, ScanSpec};
use fastk::store::{Store, StoreOptions, StoreState, WriteMode};
use fastk::types::{Rows, SeriesDef, SeriesKey};
use fastk::{Error, ErrorCode, Predicate, Select};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::guarantees::{MINUTE, def, files};
use super::proof_amount::Proof;

/// Whether a damaged manifest, run or receipt file may fail the open; else the store has to open read-only.
const OPEN_MAY_FAIL: bool = false;

/// Whether the loss of the whole last segment of the log may be undetected: today no other file refers to it.
const LAST_SEGMENT_MAY_VANISH: bool = false;

/// Minutes of a month, so that a series has several chunks.
const MONTH: i64 = 44_640;

fn keys() -> [SeriesKey; 2] {
    ["A", "B"].map(|symbol| SeriesKey::kline(symbol, "1m").unwrap())
}

fn options() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 16 << 10, background_maintenance: false, ..StoreOptions::default() }
}

/// Every row that was ever written, by series: a store may serve no other.
type Written = [BTreeSet<Vec<i64>>; 2];

fn write(store: &Store, written: &mut Written, which: usize, (first, count, step): (i64, i64, i64), cell: i64) {
    let mut rows = Rows::empty_words(5, usize::try_from(count).unwrap());
    for row in 0..count {
        let (ts, cell) = ((first + row * step) * MINUTE, cell + row % 1_000);
        let cells = [cell, cell + 9, cell - 9, cell + 1, 7];
        rows.push(ts, &cells);
        written[which].insert(std::iter::once(ts).chain(cells).collect());
    }
    store.write(&keys()[which], rows, WriteMode::Upsert, None).unwrap();
}

/// A store with files of every kind, at least two of each.
fn build(root: &Path) -> Written {
    let store = Store::open(root, true, options()).unwrap();
    let mut written = Written::default();
    for key in keys() {
        store.register(SeriesDef { value_index: vec!["close".into()], ..def(&key) }).unwrap();
    }
    for which in 0..2 {
        write(&store, &mut written, which, (0, 700, 1), 10_000 + 1_000_000 * which as i64);
        write(&store, &mut written, which, (MONTH, 250, 2), 20_000);
    }
    store.seal(&[]).unwrap();
    store.create_snapshot("early").unwrap();
    // Deletes that hide sealed rows, kept by the snapshot; then rows and receipts in run files, twice.
    for (round, cell) in [(0, 30_000), (1, 40_000)] {
        for (which, key) in keys().iter().enumerate() {
            let first = (100 + 200 * round) * MINUTE;
            store.delete_range(key, (first, first + 40 * MINUTE), None).unwrap();
            write(&store, &mut written, which, (120 + 200 * round, 40, 3), cell);
            let keyed = Rows::of_words(vec![(5_000 + round) * MINUTE], vec![vec![cell]; 5]);
            written[which].insert(vec![keyed.ts[0], cell, cell, cell, cell, cell]);
            let once = format!("{key}-{round}");
            let write = fastk::SeriesWrite::new(key.clone(), keyed, WriteMode::Upsert);
            store.write_many(vec![write], Some(&once)).unwrap();
        }
        store.checkpoint().unwrap();
    }
    // And rows that are only in several segments of the log.
    for part in 0..6 {
        write(&store, &mut written, part % 2, (6_000 + 100 * part as i64, 90, 1), 50_000 + part as i64);
    }
    written
}

/// The result of one query.
type QueryResult = Result<Vec<Vec<i64>>, Error>;

fn rows_of(state: &StoreState, store: &Store, key: &SeriesKey) -> QueryResult {
    let Some(series) = state.get(key) else {
        return Err(Error::new(ErrorCode::SeriesNotFound, key.to_string()));
    };
    let mut rows = Vec::new();
    for block in Scan::new(series, store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
        let block = block?;
        let columns: Vec<&[i64]> = (0..block.column_count()).map(|column| block.words(column)).collect();
        rows.extend((0..block.rows()).map(|row| columns.iter().map(|column| column[row]).collect::<Vec<i64>>()));
    }
    Ok(rows)
}

/// All queries by name: all rows, also under the snapshot, rows by value, and coverage.
fn query_all(store: &Store) -> BTreeMap<String, QueryResult> {
    let mut out = BTreeMap::new();
    let high = [Predicate::parse("close:gt:105").unwrap()];
    for (which, key) in keys().iter().enumerate() {
        out.insert(format!("rows {which}"), rows_of(&store.snapshot(), store, key));
        let early = store.as_of("early").and_then(|state| rows_of(&state, store, key));
        out.insert(format!("early {which}"), early);
        let reader = store.reader();
        let select = Select { predicates: &high, ..Select::default() };
        let found = reader.select(key, &select).and_then(|rows| rows.doubles(0));
        let found = found.map(|times| times.into_iter().map(|ts| vec![ts as i64]).collect());
        out.insert(format!("by value {which}"), found);
        let coverage = reader.coverage(key).map(|report| vec![vec![report.expected as i64, report.present as i64]]);
        out.insert(format!("coverage {which}"), coverage);
    }
    out
}

#[derive(Clone, Debug)]
enum Damage {
    Deleted,
    Emptied,
    Cut(usize),
    CopiedTo(PathBuf),
    ExchangedWith(PathBuf),
    Flipped { byte: usize, bit: u8 },
}

fn damage(root: &Path, file: &Path, damage: &Damage) {
    let path = root.join(file);
    match damage {
        Damage::Deleted => std::fs::remove_file(path).unwrap(),
        Damage::Emptied => std::fs::write(path, []).unwrap(),
        Damage::Cut(bytes) => {
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(*bytes as u64).unwrap();
        }
        Damage::CopiedTo(other) => drop(std::fs::copy(path, root.join(other)).unwrap()),
        Damage::ExchangedWith(other) => {
            let (one, two) = (std::fs::read(&path).unwrap(), std::fs::read(root.join(other)).unwrap());
            std::fs::write(path, two).unwrap();
            std::fs::write(root.join(other), one).unwrap();
        }
        Damage::Flipped { byte, bit } => {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[*byte] ^= 1 << bit;
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// The name with another number, if it has one: the last run of digits of the stem.
fn renumbered(file: &Path, add: u64) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let (stem, ending) = name.split_once('.')?;
    let at = stem.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    let (head, digits) = stem.split_at(at);
    let number: u64 = digits.parse().ok()?;
    Some(file.with_file_name(format!("{head}{:0width$}.{ending}", number + add, width = digits.len())))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Files of the store except `LOCK`, by relative path, with their sizes.
fn listed(root: &Path) -> Vec<(PathBuf, usize)> {
    let relative = |path: &PathBuf| path.strip_prefix(root.join(".")).unwrap().to_owned();
    let all = files(root, ".", "").into_iter().filter(|path| !path.ends_with("LOCK"));
    all.map(|path| (relative(&path), std::fs::metadata(&path).unwrap().len() as usize)).collect()
}

fn cases(root: &Path, rng: &mut StdRng, amount: u64) -> Vec<(PathBuf, Damage)> {
    let all = listed(root);
    let mut out = Vec::new();
    for (file, bytes) in &all {
        let mut of = |damage| out.push((file.clone(), damage));
        of(Damage::Deleted);
        of(Damage::Emptied);
        [bytes - 1, bytes / 2, bytes / 4, bytes * 7 / 8, 8]
            .into_iter()
            .for_each(|at| of(Damage::Cut(at.min(bytes - 1))));
        for add in [1, 2, 1_000] {
            if let Some(other) = renumbered(file, add).filter(|other| !root.join(other).exists()) {
                of(Damage::CopiedTo(other));
            }
        }
        for (other, _) in all.iter().filter(|(other, _)| other > file && other.extension() == file.extension()) {
            of(Damage::ExchangedWith(other.clone()));
        }
    }
    out.shuffle(rng);
    while (out.len() as u64) < amount {
        let (file, bytes) = &all[rng.random_range(0..all.len())];
        out.push((file.clone(), Damage::Flipped { byte: rng.random_range(0..*bytes), bit: rng.random_range(0..8) }));
    }
    out.truncate(usize::try_from(amount).unwrap());
    out
}

#[derive(Default)]
struct Counts {
    harmless: u64,
    not_opened: u64,
    named: u64,
    lost: u64,
}

/// Whether a text names a damaged file.
fn names(text: &str, file: &Path, damage: &Damage) -> bool {
    let mut about = vec![file.to_owned()];
    match damage {
        Damage::CopiedTo(other) | Damage::ExchangedWith(other) => about.push(other.clone()),
        _ => {}
    }
    // An edit with a much higher number looks like lost edits.
    if matches!(damage, Damage::CopiedTo(_)) && file.starts_with("manifest") && text.contains(".edit is missing") {
        return true;
    }
    about.iter().any(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let number = path.file_stem().unwrap().to_string_lossy().trim_start_matches('0').to_owned();
        text.contains(&name)
            || text.contains(&format!("segment {number} "))
            || text.contains(&format!("not even {number};"))
    })
}

fn judge(
    root: &Path,
    (file, how): &(PathBuf, Damage),
    last: bool,
    expectation: &BTreeMap<String, QueryResult>,
    written: &Written,
    counts: &mut Counts,
) -> Result<(), String> {
    let store = match Store::open(root, false, options()) {
        Ok(store) => store,
        Err(error) => {
            let format = file.ends_with("FORMAT");
            let code = error.code();
            // A flipped bit of a version looks like a newer file.
            let known = matches!(code, ErrorCode::CorruptData | ErrorCode::UnsupportedFormat)
                || (format && code == ErrorCode::NotFound);
            counts.not_opened += 1;
            return match known && (format || (OPEN_MAY_FAIL && names(error.detail(), file, how))) {
                true => Ok(()),
                false => Err(format!("opening: {error}")),
            };
        }
    };
    // Lost, torn and damaged files are in the report of the open.
    let output = format!("{:?}", store.recovery());
    let unseen = LAST_SEGMENT_MAY_VANISH && last && matches!(how, Damage::Deleted);
    let lossy = names(&output, file, how) || unseen;
    let (mut harmed, mut lost) = (false, false);
    for (query, rows) in query_all(&store) {
        let expectation = expectation[&query].as_ref().map_err(|error| error.to_string())?;
        match rows {
            Ok(rows) if rows == *expectation => {}
            Ok(rows) if lossy => {
                lost = true;
                let which = usize::from(query.ends_with('1'));
                let all = query.starts_with("rows") || query.starts_with("early");
                if let Some(row) = rows.iter().find(|row| all && !written[which].contains(*row)) {
                    return Err(format!("{query}: {row:?} was never written"));
                }
            }
            Ok(rows) => {
                let differ = rows.iter().zip(expectation).position(|(a, b)| a != b);
                return Err(format!(
                    "{query}: {} rows for {}, first at {differ:?}; {output}",
                    rows.len(),
                    expectation.len()
                ));
            }
            Err(error) if error.code() == ErrorCode::CorruptData && names(error.detail(), file, how) => harmed = true,
            Err(_) if lossy => lost = true,
            Err(error) => return Err(format!("{query}: {error}; {output}")),
        }
    }
    match (lost, harmed) {
        (true, _) => counts.lost += 1,
        (_, true) => counts.named += 1,
        _ => counts.harmless += 1,
    }
    Ok(())
}

#[test]
fn file_damage_is_named_and_never_read_as_numbers() {
    let proof = Proof::new("file_damage", 5_000);
    // No syncs are tested: uses a file system in memory if there is one.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let written = build(&whole);
    let kinds: BTreeSet<String> =
        listed(&whole).iter().filter_map(|(path, _)| Some(path.extension()?.to_string_lossy().into_owned())).collect();
    for kind in ["arrow", "cov", "edit", "receipts", "run", "vix", "wal", "zmap"] {
        assert!(kinds.contains(kind), "no .{kind} file among {kinds:?}");
    }
    let expectation = {
        copy(&whole, &broken);
        query_all(&Store::open(&broken, false, options()).unwrap())
    };
    let mut rng = StdRng::seed_from_u64(proof.seed);
    let cases = cases(&whole, &mut rng, proof.rounds().min(10_000_000));
    let last_segment = listed(&whole).into_iter().rfind(|(path, _)| path.starts_with("wal")).unwrap().0;
    let (mut counts, mut wrong) = (Counts::default(), Vec::new());
    let mut done = 0;
    for case in &cases {
        if !proof.continues(done) {
            break;
        }
        done += 1;
        std::fs::remove_dir_all(&broken).unwrap();
        copy(&whole, &broken);
        damage(&broken, &case.0, &case.1);
        let judged = catch_unwind(AssertUnwindSafe(|| {
            judge(&broken, case, case.0 == last_segment, &expectation, &written, &mut counts)
        }));
        match judged {
            Ok(Ok(())) => {}
            Ok(Err(why)) => wrong.push(format!("{}: {:?}: {why}", case.0.display(), case.1)),
            Err(_) => wrong.push(format!("{}: {:?}: a panic", case.0.display(), case.1)),
        }
    }
    assert!(wrong.is_empty(), "{} of {done}:\n{}\n{}", wrong.len(), wrong.join("\n"), proof.replay(done - 1));
    let Counts { harmless, not_opened, named, lost } = counts;
    proof.close(format_args!(
        "{done} damages to {} files of kinds {kinds:?}: {harmless} did no harm, {named} were named by reads, {not_opened} \
         by the opening, {lost} lost something and said so",
        listed(&whole).len()
    ));
}
