//! Targets of the engine: every file format, and names.

use fastk::ErrorCode;
use fastk::format::backup::{decode_backup, encode_backup};
use fastk::format::chunk::{self, ChunkMeta};
use fastk::format::chunk_salvage::{rebuild_footer, salvage_chunk};
use fastk::format::coverage::{COVERAGE_MAGIC, Coverage};
use fastk::format::current::{CURRENT_MAGIC, decode_current, encode_current};
use fastk::format::envelope::{self, ENVELOPE_BYTES};
use fastk::format::inspect::inspect as describe;
use fastk::format::manifest::{
    CHECKPOINT_MAGIC, COPY_ALIGNMENT, ChunkRecord, EDIT_MAGIC, decode_checkpoint, decode_edit, encode_checkpoint,
    encode_edit,
};
use fastk::format::receipt::{decode_receipts, encode_receipts, salvage_receipts};
use fastk::format::run::{decode_run, salvage_run};
use fastk::format::tombstone::{
    DROP_MAGIC, REGISTRATION_MAGIC, TOMBSTONE_MAGIC, decode_drop, decode_registration, decode_tombstone, encode_drop,
    encode_registration, encode_tombstone,
};
use fastk::format::value_index::ValueIndex;
use fastk::format::wal::{self, FrameRead};
use fastk::format::zone_map::{ZONE_MAP_MAGIC, ZoneMap};
use fastk::query::select::select;
use fastk::store::{StoreState, check_snapshot_name};
use fastk::types::{SeriesKey, TimeUnit};

use super::targets::Target;

/// Every target of the engine.
pub const TARGETS: &[Target] = &[
    Target {
        name: "segment",
        run: segment,
        strict: None,
        fix: Some(fix_segment),
        seeds: || golden(&[".wal"]),
        memory_factor: 16,
        catches_panics: false,
    },
    Target {
        name: "commit",
        run: commit,
        strict: None,
        fix: None,
        seeds: commits,
        memory_factor: 16,
        catches_panics: false,
    },
    Target {
        name: "manifest",
        run: manifest,
        strict: Some(strict_manifest),
        fix: Some(fix_envelopes),
        seeds: || golden(&[".edit", ".checkpoint", "CURRENT"]),
        memory_factor: 64,
        catches_panics: false,
    },
    Target {
        name: "chunk",
        run: chunk_file,
        strict: Some(|data| Some(format!("{:?}", chunk::decode_chunk(data).ok()?))),
        fix: Some(fix_chunk),
        seeds: || golden(&[".arrow"]),
        memory_factor: 16,
        catches_panics: false,
    },
    Target {
        name: "chunk_meta",
        run: chunk_meta,
        strict: None,
        fix: None,
        seeds: metas,
        memory_factor: 64,
        catches_panics: false,
    },
    Target {
        name: "run",
        run: run_file,
        strict: Some(|data| Some(format!("{:?}", decode_run(data).ok()?))),
        fix: Some(fix_run),
        seeds: || golden(&[".run"]),
        memory_factor: 16,
        catches_panics: false,
    },
    Target {
        name: "receipts",
        run: receipts,
        strict: Some(|data| Some(format!("{:?}", decode_receipts(data).ok()?))),
        fix: Some(fix_envelopes),
        seeds: || golden(&[".receipts"]),
        memory_factor: 16,
        catches_panics: false,
    },
    Target {
        name: "zone_map",
        run: zone_map,
        strict: Some(|data| Some(format!("{:?}", ZoneMap::decode(data).ok()?))),
        fix: Some(fix_envelopes),
        seeds: || golden(&[".zmap"]),
        memory_factor: 16,
        catches_panics: false,
    },
    Target {
        name: "value_index",
        run: value_index,
        strict: Some(|data| Some(format!("{:?}", ValueIndex::check(data).ok()?))),
        fix: Some(fix_value_index),
        seeds: || golden(&[".vix"]),
        memory_factor: 16,
        catches_panics: false,
    },
    Target {
        name: "coverage",
        run: coverage,
        strict: Some(|data| Some(format!("{:?}", Coverage::decode(data, TimeUnit::Ms).ok()?))),
        fix: Some(fix_envelopes),
        seeds: || golden(&[".cov"]),
        // A run of the bitmap is four bytes on disk; as a bitmap it takes eight kilobytes.
        memory_factor: 4_096,
        catches_panics: false,
    },
    Target {
        name: "tombstone",
        run: tombstone,
        strict: Some(strict_tombstone),
        fix: Some(fix_envelopes),
        seeds: || golden(&[".tombstone", "dropped", ".registration"]),
        memory_factor: 64,
        catches_panics: false,
    },
    Target {
        name: "backup",
        run: backup,
        strict: Some(|data| Some(format!("{:?}", decode_backup(data).ok()?))),
        fix: Some(fix_backup),
        seeds: || golden(&["backup.json"]),
        memory_factor: 64,
        catches_panics: false,
    },
    Target {
        name: "inspect",
        run: inspect,
        strict: None,
        fix: None,
        seeds: || {
            golden(&[
                ".wal",
                ".edit",
                ".checkpoint",
                ".arrow",
                ".run",
                ".zmap",
                ".cov",
                ".vix",
                "CURRENT",
                "dropped",
                ".registration",
            ])
        },
        // The result is a tree of JSON values.
        memory_factor: 256,
        catches_panics: false,
    },
    Target {
        name: "names",
        run: names,
        strict: None,
        fix: None,
        seeds: some_names,
        memory_factor: 64,
        catches_panics: false,
    },
];

/// A log segment: its header, its frames with their commits, also without the header.
pub fn segment(data: &[u8]) {
    let header = wal::decode_segment_header(data);
    if let Ok(header) = &header {
        assert_eq!(data.get(..64), Some(wal::encode_segment_header(header).as_slice()));
    }
    let first = wal::first_frame(data);
    let epochs = [header.ok().map(|header| header.epoch), first.map(|(_, frame)| frame.epoch)];
    for epoch in epochs.into_iter().flatten() {
        let mut offset = wal::SEGMENT_HEADER_BYTES;
        while offset < data.len() {
            match wal::frame_at(data, offset, epoch) {
                FrameRead::Empty => break,
                FrameRead::Damaged => offset += wal::FRAME_ALIGNMENT,
                FrameRead::Frame(frame, payload) => {
                    assert_eq!(payload.len(), frame.payload_bytes);
                    commit(payload);
                    offset += wal::frame_bytes(frame.payload_bytes);
                }
            }
        }
    }
}

/// The payload of a commit frame.
pub fn commit(data: &[u8]) {
    if let Ok(commit) = wal::decode_commit(data) {
        assert_eq!(wal::decode_commit(&wal::encode_commit(&commit)).unwrap(), commit);
    }
}

fn commits() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for segment in golden(&[".wal"]) {
        let epoch = wal::decode_segment_header(&segment).unwrap().epoch;
        let mut offset = wal::SEGMENT_HEADER_BYTES;
        while let FrameRead::Frame(frame, payload) = wal::frame_at(&segment, offset, epoch) {
            found.push(payload.to_vec());
            offset += wal::frame_bytes(frame.payload_bytes);
        }
    }
    found
}

/// An edit, a checkpoint or CURRENT; any bytes as the payload of each, too.
pub fn manifest(data: &[u8]) {
    if let Ok((edit, damage)) = decode_edit(data) {
        let (again, none) = decode_edit(&encode_edit(&edit)).unwrap();
        assert!(again == edit && none.is_none());
        assert!(damage.is_some() || data.starts_with(EDIT_MAGIC));
    }
    if let Ok(edit) = decode_checkpoint(data) {
        assert!(decode_checkpoint(&encode_checkpoint(&edit)).unwrap() == edit);
    }
    if let Ok(current) = decode_current(data) {
        assert_eq!(encode_current(&current), data);
    }
    if let Ok(edit) = decode_checkpoint(&envelope::seal(CHECKPOINT_MAGIC, 1, data)) {
        assert!(decode_checkpoint(&encode_checkpoint(&edit)).unwrap() == edit);
    }
    let current = decode_current(&envelope::seal(CURRENT_MAGIC, 1, data));
    assert_eq!(current.is_ok(), data.len() == 16);
}

fn strict_manifest(data: &[u8]) -> Option<String> {
    decode_edit(data)
        .map(|(edit, _)| format!("{edit:?}"))
        .or_else(|_| decode_checkpoint(data).map(|edit| format!("{edit:?}")))
        .or_else(|_| decode_current(data).map(|current| format!("{current:?}")))
        .ok()
}

/// The manifest record of the chunk in `seed`.
fn record_of(seed: &[u8]) -> ChunkRecord {
    let (meta, footer_crc) = chunk::decode_chunk(seed).unwrap();
    ChunkRecord {
        id: meta.chunk_id,
        series_id: meta.series_id,
        rows: meta.rows,
        ts_min: meta.ts_min,
        ts_max: meta.ts_max,
        file_bytes: seed.len() as u64,
        file_crc: crc32c::crc32c(seed),
        footer_crc,
        block_crcs: meta.blocks.iter().map(|block| block.crc).collect(),
        ..ChunkRecord::default()
    }
}

/// A chunk file, with and without its manifest record.
pub fn chunk_file(data: &[u8]) {
    thread_local!(static RECORDS: Vec<ChunkRecord> = golden(&[".arrow"]).iter().map(|seed| record_of(seed)).collect());
    let _ = chunk::decode_head(data);
    let _ = rebuild_footer(data);
    let strict = chunk::decode_chunk(data);
    let salvage = salvage_chunk(data, None);
    match (&strict, &salvage) {
        (Ok((meta, crc)), Ok(salvage)) => {
            assert!(salvage.is_intact() && salvage.meta == *meta && salvage.footer_crc == *crc);
        }
        (Ok(_), Err(error)) => panic!("an intact chunk cannot be salvaged: {error}"),
        (Err(error), Ok(salvage)) => assert!(!salvage.is_intact(), "{error}"),
        (Err(_), Err(_)) => {}
    }
    RECORDS.with(|records| {
        for record in records {
            let Ok(salvage) = salvage_chunk(data, Some(record)) else { continue };
            assert!(salvage.unproven.is_empty());
            for position in &salvage.intact {
                let block = salvage.meta.blocks[*position];
                let (begin, end) = (block.offset as usize, (block.offset + block.bytes()) as usize);
                let crc = crc32c::crc32c(&data[begin..end]);
                assert!(record.block_crcs.contains(&crc), "a block unknown to the manifest is returned");
            }
            if let Some(repaired) = salvage.repaired(data) {
                assert_eq!((repaired.len() as u64, crc32c::crc32c(&repaired)), (record.file_bytes, record.file_crc));
            }
        }
    });
}

/// The document in a footer, around the head and blocks of an intact chunk.
pub fn chunk_meta(data: &[u8]) {
    let Ok(meta) = serde_json::from_slice::<ChunkMeta>(data) else { return };
    if meta.series.columns.len() > 1_000 {
        return;
    }
    let Ok((tail, crc)) = chunk::rebuild_tail(&meta) else { return };
    let footer = &tail[8..tail.len() - chunk::TRAILER_BYTES];
    if let Ok((found, found_crc)) = chunk::decode_footer(footer, u64::MAX) {
        assert_eq!((found, found_crc), (meta.clone(), crc));
    }
    let seed = thread_seed();
    let end = chunk::find_footer(&seed).map_or(0, |(footer_at, ..)| footer_at - 8);
    let file = [&seed[..end], &tail[..]].concat();
    chunk_file(&file);
    if let Ok(head) = chunk::rebuild_head(&meta)
        && let Ok((identity, bytes)) = chunk::decode_head(&head)
    {
        assert_eq!((bytes, identity.series), (head.len(), meta.series));
    }
}

/// A small intact chunk.
fn thread_seed() -> Vec<u8> {
    thread_local!(static SEED: Vec<u8> = golden(&["scalar-us.arrow"]).remove(0));
    SEED.with(Clone::clone)
}

fn metas() -> Vec<Vec<u8>> {
    golden(&[".arrow"]).iter().map(|seed| serde_json::to_vec(&chunk::decode_chunk(seed).unwrap().0).unwrap()).collect()
}

/// A run file: checked, and salvaged.
pub fn run_file(data: &[u8]) {
    let strict = decode_run(data);
    let Ok(salvage) = salvage_run(data) else {
        assert_eq!(strict.unwrap_err().code(), ErrorCode::UnsupportedFormat);
        return;
    };
    if let Ok(decoded) = &strict {
        assert!(salvage.runs == decoded.runs && salvage.damaged.is_empty() && salvage.harmless.is_empty());
        assert!(salvage.complete && salvage.index_intact && salvage.origin == Some(decoded.origin));
    }
    let mut end = 0;
    for run in &salvage.runs {
        let (begin, stop) = (run.offset as usize, (run.offset + run.bytes()) as usize);
        assert!(begin >= end && crc32c::crc32c(&data[begin..stop]) == run.crc, "a damaged run is returned");
        end = stop;
    }
    for place in &salvage.damaged {
        assert!(place.offset <= data.len() as u64 || place.run.is_some());
    }
}

/// A receipt file: checked, and salvaged.
pub fn receipts(data: &[u8]) {
    let strict = decode_receipts(data);
    // A page of a newer version after a damaged one.
    let Ok(salvage) = salvage_receipts(data) else { return assert!(strict.is_err()) };
    if let Ok(receipts) = strict {
        assert!(salvage.receipts == receipts && salvage.damaged.is_empty());
        assert!(decode_receipts(&encode_receipts(receipts.iter())).unwrap() == receipts);
    }
}

/// A zone map; any bytes as its payload, too.
pub fn zone_map(data: &[u8]) {
    for file in [data, &envelope::seal(ZONE_MAP_MAGIC, 1, data)] {
        if let Ok(map) = ZoneMap::decode(file) {
            assert_eq!(map.encode(), file);
            let _ = (map.zones(), map.chunk_summaries());
        }
    }
}

/// A value index, and searches in it.
pub fn value_index(data: &[u8]) {
    let Ok(index) = ValueIndex::check(data) else { return };
    let directory = ValueIndex::directory_length(data).unwrap();
    assert_eq!(index.encode(), data[..directory]);
    for column in &index.columns {
        for (low, high) in [(i64::MIN, i64::MAX), (0, 0), (5, -5)] {
            let mut rows = Vec::new();
            for (at, page) in column.pages.iter().enumerate() {
                let begin = page.offset as usize;
                page.rows_of(&data[begin..begin + page.bytes()], low, high, &mut rows).unwrap();
                let _ = column.is_inside(at, low, high);
            }
            let _ = column.pages_of(low, high);
            assert!(rows.len() <= column.pages.iter().map(|page| page.entries).sum());
        }
    }
}

/// Coverage of every unit; any bytes as its payload, too.
pub fn coverage(data: &[u8]) {
    for file in [data, &envelope::seal(COVERAGE_MAGIC, 1, data)] {
        for unit in [TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns] {
            if let Ok(coverage) = Coverage::decode(file, unit) {
                assert_eq!(Coverage::decode(&coverage.encode(), unit).unwrap(), coverage);
                let _ = coverage.rows();
            }
        }
    }
}

/// A tombstone, a drop marker or a registration; any bytes as the document in each, too.
pub fn tombstone(data: &[u8]) {
    let sealed = [TOMBSTONE_MAGIC, DROP_MAGIC, REGISTRATION_MAGIC].map(|magic| envelope::seal(magic, 1, data));
    for file in std::iter::once(data).chain(sealed.iter().map(Vec::as_slice)) {
        if let Ok(tombstone) = decode_tombstone(file) {
            assert_eq!(decode_tombstone(&encode_tombstone(&tombstone).unwrap()).unwrap(), tombstone);
        }
        if let Ok(drop) = decode_drop(file) {
            assert_eq!(decode_drop(&encode_drop(&drop).unwrap()).unwrap(), drop);
        }
        if let Ok(registration) = decode_registration(file) {
            assert_eq!(decode_registration(&encode_registration(&registration).unwrap()).unwrap(), registration);
        }
    }
}

fn strict_tombstone(data: &[u8]) -> Option<String> {
    decode_tombstone(data)
        .map(|tombstone| format!("{tombstone:?}"))
        .or_else(|_| decode_drop(data).map(|drop| format!("{drop:?}")))
        .or_else(|_| decode_registration(data).map(|registration| format!("{registration:?}")))
        .ok()
}

/// The listing of a backup.
pub fn backup(data: &[u8]) {
    if let Ok(backup) = decode_backup(data) {
        assert_eq!(decode_backup(&encode_backup(&backup).unwrap()).unwrap(), backup);
        for file in &backup.files {
            assert!(!file.path.starts_with('/') && !file.path.split('/').any(|part| part == ".."), "{}", file.path);
        }
    }
}

/// The checksum in a listing.
fn fix_backup(data: &mut [u8]) {
    let body_at = b"{\"crc32c\":\"00000000\",\"backup\":".len();
    if data.len() > body_at + 2 {
        let crc = crc32c::crc32c(&data[body_at..data.len() - 2]);
        data[11..19].copy_from_slice(format!("{crc:08x}").as_bytes());
    }
}

/// Any file, described.
pub fn inspect(data: &[u8]) {
    if let Err(error) = describe(data) {
        let known = [ErrorCode::InvalidArgument, ErrorCode::CorruptData, ErrorCode::UnsupportedFormat];
        assert!(known.contains(&error.code()), "{error}");
    }
}

/// Text as a series key, as keys and globs of a query (one per line), and as the name of a snapshot.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = SeriesKey::parse(text) {
        assert_eq!(key.as_str(), text);
        assert!(!text.contains("..") || !text.split('/').any(|part| part == ".." || part == "."));
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<SeriesKey>(&json).unwrap(), key);
        let _ = (key.kind(), key.category(), key.symbol(), key.timeframe(), key.name());
    }
    let mut state = StoreState::default();
    for (id, key) in
        some_names().iter().filter_map(|name| SeriesKey::parse(std::str::from_utf8(name).ok()?).ok()).enumerate()
    {
        state.keys.insert(key, id as u64);
    }
    let keys: Vec<String> = text.lines().map(str::to_owned).collect();
    let _ = select(&state, &keys, &|_| true);
    if check_snapshot_name(text).is_ok() {
        assert!(!text.is_empty() && text.len() <= 64 && !text.contains(['/', '\\', '\0']) && !text.starts_with('.'));
    }
}

fn some_names() -> Vec<Vec<u8>> {
    [
        "kline/BTCUSDT/1m",
        "kline/BTC-PERP_2024.06+X/1M",
        "scalar/feature/BTCUSDT/1h/rsi_14",
        "kline/*/1m",
        "kline/B*T/1*\nscalar/*/*/*/*",
        "*/*/*",
        "kline/****************************************************A/1m",
        "monday",
        "../x",
        "a.b_c-d:e@f+g=h^i$j&k",
        "kline/%2e%2e/1m",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec()
}

/// Golden files with these extensions, including those of the store.
fn golden(endings: &[&str]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    // Relative to this package, and to that of cargo-fuzz.
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> =
        ["tests/golden/v2", "../golden/v2"].map(|at| package.join(at)).into_iter().filter(|at| at.is_dir()).collect();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(std::fs::read(path).unwrap());
            }
        }
    }
    assert!(!found.is_empty(), "no golden file ends in {endings:?}");
    found
}

fn word(data: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
}

fn half_word(data: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize)
}

fn put(data: &mut [u8], at: usize, value: u32) {
    if let Some(slot) = data.get_mut(at..at + 4) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
}

/// Checksums of the segment header and of every frame whose length fits.
fn fix_segment(data: &mut [u8]) {
    if data.len() >= 64 {
        let crc = crc32c::crc32c(&data[..48]);
        put(data, 48, crc);
    }
    for at in (64..data.len()).step_by(64) {
        let end = word(data, at + 48).and_then(|bytes| (at + wal::FRAME_HEADER_BYTES).checked_add(bytes));
        if data[at..].starts_with(&wal::FRAME_MAGIC)
            && let Some(end) = end.filter(|end| *end <= data.len())
        {
            let crc = crc32c::crc32c(&data[at + 8..end]);
            put(data, at + 4, crc);
        }
    }
}

/// Checksums of envelopes that follow each other, and of the second copy of an edit.
fn fix_envelopes(data: &mut [u8]) {
    let mut at = 0;
    while at < data.len() {
        let left = data.len() - at;
        let Some(bytes) =
            word(data, at + 16).and_then(|bytes| bytes.checked_add(ENVELOPE_BYTES)).filter(|b| *b <= left)
        else {
            return;
        };
        let covered = [&data[at..at + 12], &data[at + 16..at + bytes]].concat();
        put(data, at + 12, crc32c::crc32c(&covered));
        at += bytes;
        if data.starts_with(EDIT_MAGIC) {
            at = at.next_multiple_of(COPY_ALIGNMENT);
        }
    }
}

/// Checksum of the directory; pages keep theirs.
fn fix_value_index(data: &mut [u8]) {
    let Some(bytes) = word(data, 16).and_then(|bytes| bytes.checked_add(ENVELOPE_BYTES)) else { return };
    if bytes <= data.len() {
        let covered = [&data[..12], &data[16..bytes]].concat();
        put(data, 12, crc32c::crc32c(&covered));
    }
}

/// Checksum of the footer.
fn fix_chunk(data: &mut [u8]) {
    let Some(trailer_at) = data.len().checked_sub(chunk::TRAILER_BYTES) else { return };
    let Some(footer_at) = half_word(data, trailer_at).and_then(|bytes| trailer_at.checked_sub(bytes)) else { return };
    let footer = &data[footer_at..trailer_at];
    let Ok(root) = arrow::ipc::root_as_footer(footer) else { return };
    let digits = root.custom_metadata().into_iter().flatten().find_map(|entry| {
        let value = entry.value().filter(|value| entry.key() == Some(chunk::FOOTER_CRC_KEY) && value.len() == 8)?;
        Some(footer_at + (value.as_ptr() as usize - footer.as_ptr() as usize))
    });
    let Some(at) = digits else { return };
    data[at..at + 8].copy_from_slice(b"00000000");
    let crc = crc32c::crc32c(&data[footer_at..trailer_at]);
    data[at..at + 8].copy_from_slice(format!("{crc:08x}").as_bytes());
}

/// Checksums of head, headers, index and trailer; columns keep theirs.
fn fix_run(data: &mut [u8]) {
    if data.len() < 64 + 40 {
        return;
    }
    let crc = crc32c::crc32c(&data[..24]);
    put(data, 24, crc);
    for at in (64..data.len() - 64).step_by(64) {
        let end = half_word(data, at + 8).map(|bytes| at + (64 + bytes).next_multiple_of(64));
        if data[at..].starts_with(b"FKRN")
            && let Some(end) = end.filter(|end| *end <= data.len())
        {
            let crc = crc32c::crc32c(&data[at + 8..end]);
            put(data, at + 4, crc);
        }
    }
    let trailer_at = data.len() - 40;
    if let Some(index_at) = word(data, trailer_at).filter(|at| *at <= trailer_at) {
        // The entries have the checksums of the headers.
        for entry in (index_at..trailer_at.saturating_sub(71)).step_by(72) {
            let header = word(data, entry + 32).zip(half_word(data, entry + 64)).and_then(|(at, b)| at.checked_sub(b));
            if let Some(crc) = header.and_then(|at| half_word(data, at.checked_add(4)?)) {
                put(data, entry + 68, u32::try_from(crc).unwrap());
            }
        }
        let mut covered = data[..64].to_vec();
        covered.extend_from_slice(&data[index_at..trailer_at + 28]);
        put(data, trailer_at + 28, crc32c::crc32c(&covered));
    }
}
