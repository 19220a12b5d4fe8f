//! Run files: tail rows of many series in one immutable file, so that the log can be trimmed without a chunk per
//! series. The file is mapped and read in place: columns start on multiples of 64 bytes.
//!
//! | bytes | part |
//! |---|---|
//! | 64 | head |
//! | … | runs: a header padded to 64 bytes, and the columns as in a block of a chunk ([`body`](super::body)) |
//! | … | index: one entry of 96 bytes per run |
//! | 40 | trailer |
//!
//! `docs/format.md` has the fields. All data is stored twice, except rows and registrations (which the manifest and
//! other files also have): head and trailer repeat the manifest's record of the file, each header repeats the index
//! entry of its run. Damage in one place therefore loses at most the run whose columns it hits: [`salvage_run`] uses
//! the index if it is intact, else it scans from header to header.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::Range;

use super::body::Body;
use super::bytes::{ByteReader, put_length, put_words};
use super::chunk;
use super::texts::{ColumnTexts, put_texts, read_texts};
use crate::error::{Error, ErrorCode, Result};
use crate::types::schema::COLUMNS_MAX;
use crate::types::width::{narrow, to_usize};
use crate::types::{CellSlice, Dictionary, OrderRule, SeriesDef, cells};

/// First and last bytes of a run file.
pub const RUN_MAGIC: &[u8; 8] = b"FASTKRUN";
/// Version of run files.
pub const RUN_VERSION: u32 = 2;
/// Bytes before the first run.
pub const RUN_HEAD_BYTES: usize = 64;
/// First bytes of a run's header.
pub const RUN_HEADER_MAGIC: [u8; 4] = *b"FKRN";
/// Bytes of a run's header before the registration.
pub const RUN_HEADER_BYTES: usize = 88;
/// Bytes of an index entry.
pub const RUN_ENTRY_BYTES: usize = 96;
/// Bytes of the trailer.
pub const RUN_TRAILER_BYTES: usize = 40;
/// Bytes of the trailer under its checksum.
const TRAILER_COVERED: usize = 28;

/// One sorted run of one series inside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunEntry {
    pub series_id: u64,
    pub commit_lo: u64,
    pub commit_hi: u64,
    pub rows: u64,
    /// Offset of the columns.
    pub offset: u64,
    pub ts_min: i64,
    pub ts_max: i64,
    /// Number of columns, including `ts`.
    pub columns: u32,
    /// Checksum of the columns with their padding.
    pub crc: u32,
    /// Size of the header, which is stored before the columns.
    pub header_bytes: u32,
    /// Checksum in the header, which covers registration, texts and padding.
    pub header_crc: u32,
    /// A bit per column after `ts`, the lowest for the first: whether it has nulls.
    pub nulls: u64,
    /// Bytes of the columns.
    pub body_bytes: u64,
    /// Version of the columns of the registration.
    pub schema_version: u32,
}

impl RunEntry {
    /// Bytes of the columns in the file.
    pub fn bytes(&self) -> u64 {
        self.body_bytes
    }

    fn has_possible_counts(&self) -> bool {
        self.rows > 0 && u32::try_from(self.rows).is_ok() && (1..=COLUMNS_MAX + 1).contains(&to_usize(self.columns))
    }

    /// The columns in the file; `None` when out of range.
    fn columns_in<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        file.get(to_usize(self.offset)..to_usize(self.offset.checked_add(self.bytes())?))
    }

    fn put(&self, out: &mut Vec<u8>) {
        for value in [self.series_id, self.commit_lo, self.commit_hi, self.rows, self.offset] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        put_words(out, &[self.ts_min, self.ts_max]);
        for value in [self.columns, self.crc, self.header_bytes, self.header_crc] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [self.nulls, self.body_bytes, u64::from(self.schema_version)] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn read(reader: &mut ByteReader<'_>) -> Result<Self> {
        Ok(Self {
            series_id: reader.u64()?,
            commit_lo: reader.u64()?,
            commit_hi: reader.u64()?,
            rows: reader.u64()?,
            offset: reader.u64()?,
            ts_min: reader.i64()?,
            ts_max: reader.i64()?,
            columns: reader.u32()?,
            crc: reader.u32()?,
            header_bytes: reader.u32()?,
            header_crc: reader.u32()?,
            nulls: reader.u64()?,
            body_bytes: reader.u64()?,
            schema_version: reader.u32()?,
        })
        .and_then(|entry| if reader.u32()? == 0 { Ok(entry) } else { Err(damaged("its index has an unknown field")) })
    }

    /// The header of this run; `header_bytes`, `header_crc` and `offset` are not read.
    fn header(&self, def: &[u8], texts: &[u8]) -> Vec<u8> {
        let mut out = RUN_HEADER_MAGIC.to_vec();
        out.extend_from_slice(&[0; 4]);
        put_length(&mut out, def.len());
        out.extend_from_slice(&self.columns.to_le_bytes());
        for value in [self.series_id, self.commit_lo, self.commit_hi] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        put_words(&mut out, &[self.ts_min, self.ts_max]);
        out.extend_from_slice(&narrow::<u32, _>(self.rows).to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        for value in [self.nulls, self.body_bytes] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&self.schema_version.to_le_bytes());
        put_length(&mut out, texts.len());
        out.extend_from_slice(def);
        out.extend_from_slice(texts);
        out.resize(out.len().div_ceil(64) * 64, 0);
        let crc = crc32c::crc32c(cells::range(&out, 8..out.len()));
        cells::put(&mut out, 4, &crc.to_le_bytes());
        out
    }
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!("run file: {what}"))
}

/// Fields of the file that the manifest also has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunOrigin {
    /// 0 when written by a checkpoint; incremented by each merge.
    pub level: u32,
    /// The rows belong to commits up to this one.
    pub base_commit: u64,
}

fn encode_head(origin: RunOrigin) -> Vec<u8> {
    let mut head = RUN_MAGIC.to_vec();
    head.extend_from_slice(&RUN_VERSION.to_le_bytes());
    head.extend_from_slice(&origin.level.to_le_bytes());
    head.extend_from_slice(&origin.base_commit.to_le_bytes());
    let crc = crc32c::crc32c(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    head.resize(RUN_HEAD_BYTES, 0);
    head
}

fn decode_head(file: &[u8]) -> Result<RunOrigin> {
    let mut reader = ByteReader::new(file, "run file");
    if reader.take(8)? != RUN_MAGIC {
        return Err(damaged("it does not start with its magic"));
    }
    let version = reader.u32()?;
    let origin = RunOrigin { level: reader.u32()?, base_commit: reader.u64()? };
    if version > RUN_VERSION && Some(reader.u32()?) == file.get(..24).map(crc32c::crc32c) {
        return Err(Error::new(ErrorCode::UnsupportedFormat, format!("run file has version {version}")));
    }
    if file.get(..RUN_HEAD_BYTES) != Some(encode_head(origin).as_slice()) {
        return Err(damaged("its head is damaged"));
    }
    Ok(origin)
}

/// Writes a run file sequentially.
#[derive(Debug)]
pub struct RunWriter<W> {
    out: W,
    origin: RunOrigin,
    offset: u64,
    entries: Vec<RunEntry>,
    /// Series and versions of columns whose registration is in the file.
    registered: BTreeSet<(u64, u32)>,
}

impl<W: Write> RunWriter<W> {
    pub fn new(mut out: W, origin: RunOrigin) -> io::Result<Self> {
        out.write_all(&encode_head(origin))?;
        Ok(Self { out, origin, offset: RUN_HEAD_BYTES as u64, entries: Vec::new(), registered: BTreeSet::new() })
    }

    /// Adds a run: `ts` first, all columns of the same length, in the order of the series. The first run of a series, and
    /// the first one after its columns changed, includes the registration; every run the texts of the dictionaries.
    ///
    /// # Errors
    /// `InvalidInput` for 2^32 rows or more.
    pub fn add(
        &mut self,
        series_id: u64,
        def: &SeriesDef,
        dictionaries: &[Dictionary],
        commits: (u64, u64),
        columns: &[CellSlice<'_>],
    ) -> io::Result<()> {
        let ts = assert_publishable_run(&def.order, commits, columns);
        if u32::try_from(ts.len()).is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a run of more than 2^32 rows"));
        }
        let json = match self.registered.insert((series_id, def.schema_version)) {
            true => serde_json::to_vec(def)?,
            false => Vec::new(),
        };
        let mut texts = Vec::new();
        let added = ColumnTexts::added(dictionaries, &[]);
        if !added.is_empty() {
            put_texts(&mut texts, &added);
        }
        let body = Body::of(columns);
        let mut bytes = Vec::new();
        for buffer in body.buffers() {
            bytes.extend_from_slice(buffer);
            bytes.resize(bytes.len().div_ceil(64) * 64, 0);
        }
        let (ts_min, ts_max) = cells::ends(ts);
        let mut entry = RunEntry {
            series_id,
            commit_lo: commits.0,
            commit_hi: commits.1,
            rows: ts.len() as u64,
            offset: 0,
            ts_min,
            ts_max,
            columns: narrow(columns.len()),
            crc: crc32c::crc32c(&bytes),
            header_bytes: 0,
            header_crc: 0,
            nulls: body.nulls,
            body_bytes: bytes.len() as u64,
            schema_version: def.schema_version,
        };
        let header = entry.header(&json, &texts);
        entry.header_bytes = narrow(header.len());
        entry.header_crc = header_crc(&header);
        entry.offset = self.offset + header.len() as u64;
        self.out.write_all(&header)?;
        self.out.write_all(&bytes)?;
        self.entries.push(entry);
        self.offset = entry.offset + bytes.len() as u64;
        Ok(())
    }

    /// Number of runs added.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes index and trailer. Returns the sink, the size of the file in bytes and its checksum, which covers all
    /// bytes.
    pub fn finish(mut self) -> io::Result<(W, u64, u32)> {
        let (end, crc) = encode_end(self.origin, &self.entries, self.offset);
        self.out.write_all(&end)?;
        Ok((self.out, self.offset + end.len() as u64, crc))
    }
}

/// Checks a run before it is written: it has rows, a cell in each column for each of them, and timestamps in the order of
/// its series. Returns its timestamps.
fn assert_publishable_run<'a>(order: &OrderRule, commits: (u64, u64), columns: &[CellSlice<'a>]) -> &'a [i64] {
    assert!(commits.0 <= commits.1, "a run of commits {} to {}", commits.0, commits.1);
    chunk::assert_publishable_rows(order, columns)
}

/// Index and trailer, and the checksum in the trailer.
fn encode_end(origin: RunOrigin, entries: &[RunEntry], index_at: u64) -> (Vec<u8>, u32) {
    let mut end = Vec::with_capacity(entries.len() * RUN_ENTRY_BYTES + RUN_TRAILER_BYTES);
    entries.iter().for_each(|entry| entry.put(&mut end));
    end.extend_from_slice(&index_at.to_le_bytes());
    end.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    end.extend_from_slice(&origin.base_commit.to_le_bytes());
    end.extend_from_slice(&origin.level.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&encode_head(origin)), &end);
    end.extend_from_slice(&crc.to_le_bytes());
    end.extend_from_slice(RUN_MAGIC);
    (end, crc)
}

fn header_crc(header: &[u8]) -> u32 {
    u32::from_le_bytes(cells::array(header, 4))
}

/// A fully verified run file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFile {
    /// Checksum in the trailer, which covers all bytes.
    pub crc: u32,
    pub origin: RunOrigin,
    pub runs: Vec<RunEntry>,
}

/// Decodes index and trailer and checks them by themselves. The runs must be contiguous from the head to the index.
fn decode_index(file: &[u8]) -> Result<RunFile> {
    let trailer_at = file.len().checked_sub(RUN_TRAILER_BYTES).ok_or_else(|| damaged("it is truncated"))?;
    let (before, trailer) = file.split_at_checked(trailer_at).ok_or_else(|| damaged("it is truncated"))?;
    let mut reader = ByteReader::new(trailer, "run file trailer");
    let (index_at, count) = (reader.u64()?, reader.u64()?);
    let (base_commit, level, crc) = (reader.u64()?, reader.u32()?, reader.u32()?);
    let origin = RunOrigin { level, base_commit };
    if reader.take(8)? != RUN_MAGIC {
        return Err(damaged("it does not end with its magic"));
    }
    let index = before.get(to_usize(index_at)..).ok_or_else(|| damaged("its index starts after its end"))?;
    // The checksum uses the expected head; the actual head is checked separately.
    let mut found = crc32c::crc32c_append(crc32c::crc32c(&encode_head(origin)), index);
    found = crc32c::crc32c_append(found, cells::range(trailer, 0..TRAILER_COVERED));
    let other = found != crc;
    if other || Some(index.len()) != to_usize(count).checked_mul(RUN_ENTRY_BYTES) {
        return Err(damaged(&format!("the checksum of its index is {found:08x}, expected {crc:08x}")));
    }
    let mut runs = Vec::with_capacity(index.len() / RUN_ENTRY_BYTES);
    let mut reader = ByteReader::new(index, "run file index");
    let mut end = RUN_HEAD_BYTES as u64;
    for position in 0..count {
        let run = RunEntry::read(&mut reader)?;
        let is_next = run.offset.checked_sub(u64::from(run.header_bytes)) == Some(end);
        end = run.offset.saturating_add(run.bytes());
        if !run.has_possible_counts() || !is_next || end > index_at {
            return Err(damaged(&format!("its index does not fit run {position}")));
        }
        runs.push(run);
    }
    if end != index_at {
        return Err(damaged("its index does not follow its runs"));
    }
    Ok(RunFile { crc, origin, runs })
}

/// A header of a run.
#[derive(Clone, Copy, Debug)]
struct RunHeader<'a> {
    run: RunEntry,
    /// The registration as JSON, where the header has it.
    def: &'a [u8],
    /// The texts of the dictionaries.
    texts: &'a [u8],
}

/// The header at `at`.
fn header_at(file: &[u8], at: usize) -> Option<RunHeader<'_>> {
    let bytes = file.get(at..)?;
    let mut reader = ByteReader::new(bytes, "run header");
    if reader.take(4).ok()? != RUN_HEADER_MAGIC {
        return None;
    }
    let header_crc = reader.u32().ok()?;
    let def_bytes = reader.length().ok()?;
    let columns = reader.u32().ok()?;
    let (series_id, commit_lo, commit_hi) = (reader.u64().ok()?, reader.u64().ok()?, reader.u64().ok()?);
    let (ts_min, ts_max) = (reader.i64().ok()?, reader.i64().ok()?);
    let (rows, crc) = (u64::from(reader.u32().ok()?), reader.u32().ok()?);
    let (nulls, body_bytes, schema_version) = (reader.u64().ok()?, reader.u64().ok()?, reader.u32().ok()?);
    let texts_bytes = reader.length().ok()?;
    let (def, texts) = (reader.take(def_bytes).ok()?, reader.take(texts_bytes).ok()?);
    let used = RUN_HEADER_BYTES.checked_add(def_bytes)?.checked_add(texts_bytes)?;
    let header_bytes = used.checked_next_multiple_of(64)?;
    let offset = u64::try_from(at.checked_add(header_bytes)?).ok()?;
    if crc32c::crc32c(bytes.get(8..header_bytes)?) != header_crc
        || bytes.get(used..header_bytes)?.iter().any(|byte| *byte != 0)
    {
        return None;
    }
    let header_bytes = u32::try_from(header_bytes).ok()?;
    let run = RunEntry {
        series_id,
        commit_lo,
        commit_hi,
        rows,
        offset,
        ts_min,
        ts_max,
        columns,
        crc,
        header_bytes,
        header_crc,
        nulls,
        body_bytes,
        schema_version,
    };
    run.has_possible_counts().then_some(RunHeader { run, def, texts })
}

/// What the header of a run says about its series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSeries {
    /// The registration, where the header has it.
    pub def: Option<SeriesDef>,
    /// Texts of the dictionaries.
    pub texts: Vec<ColumnTexts>,
}

/// Registration and texts in the header of a run.
///
/// # Errors
/// `corrupt_data` for a damaged header.
pub fn series_of(file: &[u8], run: &RunEntry) -> Result<RunSeries> {
    let at = run.offset.saturating_sub(u64::from(run.header_bytes));
    let header =
        header_at(file, to_usize(at)).ok_or_else(|| damaged(&format!("the header at byte {at} is damaged")))?;
    header.series()
}

impl RunHeader<'_> {
    fn series(&self) -> Result<RunSeries> {
        let json = |error: serde_json::Error| damaged(&format!("a registration: {error}"));
        let def = if self.def.is_empty() { None } else { Some(serde_json::from_slice(self.def).map_err(json)?) };
        let texts = match self.texts {
            [] => Vec::new(),
            texts => read_texts(&mut ByteReader::new(texts, "texts of a run"))?,
        };
        Ok(RunSeries { def, texts })
    }
}

/// Verifies every byte of a run file.
pub fn decode_run(file: &[u8]) -> Result<RunFile> {
    let origin = decode_head(file)?;
    let decoded = decode_index(file)?;
    if decoded.origin != origin {
        return Err(damaged("its head belongs to another file"));
    }
    for (position, run) in decoded.runs.iter().enumerate() {
        let at = run.offset.saturating_sub(u64::from(run.header_bytes));
        if header_at(file, to_usize(at)).map(|header| header.run) != Some(*run) {
            return Err(damaged(&format!("the header of run {position} at byte {at} is damaged")));
        }
        if run.columns_in(file).map(crc32c::crc32c) != Some(run.crc) {
            return Err(damaged(&format!(
                "the checksum of run {position} (series {}, timestamps {} to {}) does not match",
                run.series_id, run.ts_min, run.ts_max
            )));
        }
    }
    Ok(decoded)
}

/// The intact parts of a damaged run file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSalvage {
    /// Runs with intact columns, in file order.
    pub runs: Vec<RunEntry>,
    /// The latest registrations by series, from intact headers.
    pub defs: BTreeMap<u64, SeriesDef>,
    /// All registrations by series and version of the columns.
    pub schemas: BTreeMap<(u64, u32), SeriesDef>,
    /// Texts by series, of each intact header.
    pub texts: Vec<(u64, Vec<ColumnTexts>)>,
    /// Byte ranges with lost rows.
    pub damaged: Vec<DamagedRun>,
    /// Damaged byte ranges without lost rows.
    pub harmless: Vec<Range<u64>>,
    pub index_intact: bool,
    /// Whether `runs` and `damaged` cover all runs of the original file. A file truncated after a run could have had
    /// more.
    pub complete: bool,
    /// Known if head or index is intact.
    pub origin: Option<RunOrigin>,
    /// Checksum in the trailer, if the index is intact.
    pub crc: Option<u32>,
}

/// A byte range of a run file with lost rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRun {
    /// Offset and length of the range in the file.
    pub offset: u64,
    pub bytes: u64,
    /// The lost run, if header or index is intact.
    pub run: Option<RunEntry>,
    pub reason: String,
}

/// Reads the intact parts of a run file, by its index or, if that is damaged, from header to header.
///
/// # Errors
/// `unsupported_format` for a newer file. Other errors are reported as damage.
pub fn salvage_run(file: &[u8]) -> Result<RunSalvage> {
    let mut found = RunSalvage::default();
    match decode_head(file) {
        Ok(origin) => found.origin = Some(origin),
        Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(error),
        Err(_) => found.harmless.push(0..file.len().min(RUN_HEAD_BYTES) as u64),
    }
    match decode_index(file) {
        Ok(decoded) => {
            found.index_intact = true;
            found.complete = true;
            found.crc = Some(decoded.crc);
            found.origin = Some(decoded.origin);
            for run in decoded.runs {
                let at = run.offset.saturating_sub(u64::from(run.header_bytes));
                match header_at(file, to_usize(at)).filter(|header| header.run == run) {
                    Some(header) => found.register(&header),
                    None => found.harmless.push(at..run.offset),
                }
                found.check_columns(file, run);
            }
        }
        Err(_) => found.walk(file),
    }
    Ok(found)
}

impl RunSalvage {
    fn register(&mut self, header: &RunHeader<'_>) {
        let Ok(series) = header.series() else { return };
        let id = header.run.series_id;
        if let Some(def) = series.def {
            self.schemas.entry((id, def.schema_version)).or_insert_with(|| def.clone());
            let latest = self.defs.entry(id).or_insert_with(|| def.clone());
            if latest.schema_version < def.schema_version {
                *latest = def;
            }
        }
        if !series.texts.is_empty() {
            self.texts.push((id, series.texts));
        }
    }

    fn check_columns(&mut self, file: &[u8], run: RunEntry) {
        let reason = match run.columns_in(file).map(crc32c::crc32c) {
            Some(crc) if crc == run.crc => return self.runs.push(run),
            Some(crc) => format!("checksum {crc:08x}, expected {:08x}", run.crc),
            None => "the file is truncated".to_owned(),
        };
        let bytes = run.bytes().min((file.len() as u64).saturating_sub(run.offset));
        self.damaged.push(DamagedRun { offset: run.offset, bytes, run: Some(run), reason });
    }

    /// Scans from header to header; bytes between runs without a run are damage.
    fn walk(&mut self, file: &[u8]) {
        let mut at = RUN_HEAD_BYTES;
        let mut gap = None;
        let mut entries = Vec::new();
        while at < file.len() {
            let Some(header) = header_at(file, at) else {
                gap.get_or_insert(at);
                at += 64;
                continue;
            };
            if let Some(from) = gap.take() {
                self.lose(from, at);
            }
            self.register(&header);
            let run = header.run;
            self.check_columns(file, run);
            entries.push(run);
            at = to_usize(run.offset.saturating_add(run.bytes()));
        }
        // The bytes after the last run are the index. If it matches the runs found, these are complete.
        let from = gap.unwrap_or(file.len());
        // The columns of a last run that was cut end after the file.
        let rest = file.get(from..).unwrap_or(&[]);
        let origin = self.origin.unwrap_or(RunOrigin { level: 0, base_commit: 0 });
        let (end, _) = encode_end(origin, &entries, from as u64);
        let is_alike = rest.get(..8) == end.get(..8) || rest.ends_with(RUN_MAGIC);
        self.complete = self.damaged.iter().all(|place| place.run.is_some()) && rest.len() == end.len() && is_alike;
        let index_at = file.len().saturating_sub(end.len()).max(from);
        if index_at > from {
            self.lose(from, index_at);
        }
        if index_at < file.len() {
            self.harmless.push(index_at as u64..file.len() as u64);
        }
    }

    fn lose(&mut self, from: usize, to: usize) {
        let (offset, bytes) = (from as u64, to.saturating_sub(from) as u64);
        self.damaged.push(DamagedRun { offset, bytes, run: None, reason: "no run header".to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SeriesKey, SeriesSpec};

    const ORIGIN: RunOrigin = RunOrigin { level: 3, base_commit: 9 };

    fn def(symbol: &str) -> SeriesDef {
        SeriesSpec::of_key(&SeriesKey::kline(symbol, "1m").unwrap()).resolve().unwrap()
    }

    /// Three runs of two series.
    fn sample() -> (Vec<u8>, RunFile) {
        let mut writer = RunWriter::new(Vec::new(), ORIGIN).unwrap();
        writer
            .add(5, &def("A"), &[], (6, 9), &[&[1, 2, 3], &[30, 40, 50]].map(|words| CellSlice::of_words(words)))
            .unwrap();
        writer.add(5, &def("A"), &[], (10, 11), &[&[2], &[41]].map(|words| CellSlice::of_words(words))).unwrap();
        let long: Vec<i64> = (0..9).collect();
        writer.add(6, &def("B"), &[], (7, 7), &[CellSlice::of_words(&long); 3]).unwrap();
        assert_eq!(writer.len(), 3);
        let (file, bytes, crc) = writer.finish().unwrap();
        assert_eq!(file.len() as u64, bytes);
        let decoded = decode_run(&file).unwrap();
        assert_eq!((decoded.crc, decoded.origin, decoded.runs.len()), (crc, ORIGIN, 3));
        (file, decoded)
    }

    #[test]
    fn runs_round_trip_and_detect_every_flipped_bit() {
        let (file, RunFile { runs, .. }) = sample();
        let json = serde_json::to_vec(&def("A")).unwrap();
        let header_bytes = (RUN_HEADER_BYTES + json.len()).next_multiple_of(64);
        let expected = RunEntry {
            series_id: 5,
            commit_lo: 6,
            commit_hi: 9,
            rows: 3,
            offset: 64 + header_bytes as u64,
            ts_min: 1,
            ts_max: 3,
            columns: 2,
            crc: runs[0].crc,
            header_bytes: header_bytes as u32,
            header_crc: runs[0].header_crc,
            nulls: 0,
            body_bytes: 128,
            schema_version: 0,
        };
        assert_eq!(runs[0], expected);
        let json_at = RUN_HEAD_BYTES + RUN_HEADER_BYTES;
        assert_eq!(file[json_at..json_at + json.len()], json);
        assert_eq!((runs[1].offset, runs[1].header_bytes), (runs[0].offset + 128 + 128, 128), "no second registration");
        let second = runs[0].offset as usize + 64;
        assert_eq!(&file[second..second + 24], [30_i64, 40, 50].map(i64::to_le_bytes).concat());
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_run(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode_run(&file[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_flipped_bit_loses_only_the_run_it_hits() {
        let (file, undamaged) = sample();
        let defs = BTreeMap::from([(5, def("A")), (6, def("B"))]);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = salvage_run(&damaged).unwrap();
            let at = bit as u64 / 8;
            let is_hit = |run: &RunEntry| (run.offset..run.offset + run.bytes()).contains(&at);
            let hit: Vec<RunEntry> = undamaged.runs.iter().copied().filter(is_hit).collect();
            let left: Vec<RunEntry> = undamaged.runs.iter().copied().filter(|run| !is_hit(run)).collect();
            assert_eq!(found.runs, left, "bit {bit}");
            assert_eq!(found.damaged.iter().filter_map(|d| d.run).collect::<Vec<_>>(), hit, "bit {bit}");
            assert_eq!(found.damaged.len(), hit.len(), "bit {bit}: {found:?}");
            assert!(hit.len() == 1 || found.harmless.iter().any(|range| range.contains(&at)), "bit {bit}");
            assert!(found.complete && found.origin == Some(ORIGIN), "bit {bit}");
            for (series_id, def) in &found.defs {
                assert_eq!(defs.get(series_id), Some(def), "bit {bit}");
            }
            let headers_hit =
                undamaged.runs.iter().any(|r| (r.offset - u64::from(r.header_bytes)..r.offset).contains(&at));
            assert!(headers_hit || found.defs.len() == 2, "bit {bit}");
        }
    }

    #[test]
    fn a_truncation_loses_only_the_runs_after_it() {
        let (file, undamaged) = sample();
        for length in 0..file.len() {
            let found = salvage_run(&file[..length]).unwrap();
            let end = |run: &RunEntry| (run.offset + run.bytes()) as usize;
            let left: Vec<RunEntry> = undamaged.runs.iter().copied().filter(|run| end(run) <= length).collect();
            assert_eq!(found.runs, left, "cut at {length}");
            assert!(!found.complete && !found.index_intact, "cut at {length}");
            assert_eq!(found.origin, (length >= RUN_HEAD_BYTES).then_some(ORIGIN), "cut at {length}");
        }
        let salvage = salvage_run(&file).unwrap();
        assert_eq!((salvage.runs, salvage.crc), (undamaged.runs, Some(undamaged.crc)));
        assert!(salvage.harmless.is_empty() && salvage.damaged.is_empty() && salvage.complete);
    }

    #[test]
    fn a_lost_sector_loses_only_what_it_hits() {
        let (file, undamaged) = sample();
        for from in (0..file.len()).step_by(64) {
            for bytes in [64, 128, 512] {
                let mut damaged = file.clone();
                let to = (from + bytes).min(file.len());
                damaged[from..to].fill(0);
                let found = salvage_run(&damaged).unwrap();
                let hit = |run: &RunEntry| {
                    let columns = run.offset as usize..(run.offset + run.bytes()) as usize;
                    file[columns.clone()] != damaged[columns]
                };
                let left: Vec<RunEntry> = undamaged.runs.iter().copied().filter(|run| !hit(run)).collect();
                // Without its header and the index, a run is not found.
                let index_at = end_of(&undamaged);
                if to <= index_at {
                    assert_eq!(found.runs, left, "{bytes} bytes at {from}");
                } else {
                    assert!(found.runs.iter().all(|run| left.contains(run)), "{bytes} bytes at {from}");
                }
            }
        }
    }

    fn end_of(file: &RunFile) -> usize {
        file.runs.last().map_or(RUN_HEAD_BYTES, |run| (run.offset + run.bytes()) as usize)
    }
}
