//! Whole blocks of chunk files are sent by both interfaces as slices of the mapped file: not copied and not re-encoded.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::flight;
use crate::egress::{BodyEncoder, EncodeOptions, OutFormat, Trailer};
use crate::query::{NumberFormat, Query};
use crate::service::Service;
use crate::store::{StoreOptions, WriteMode};
use crate::types::{Rows, SeriesKey, SeriesSpec};

const MINUTE: i64 = 60_000;
/// Two full blocks and a partial third.
const ROWS: i64 = 42_768;
const BLOCK: i64 = 16_384;
/// Shorter pieces are headers and padding.
const LONG_BYTES: usize = 64 * 1024;

struct SealedStore {
    _dir: tempfile::TempDir,
    service: Arc<Service>,
    key: SeriesKey,
    file: PathBuf,
    bytes: Vec<u8>,
}

fn sealed_store() -> SealedStore {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
    let service = Service::open(dir.path(), true, options).unwrap();
    let key = SeriesKey::kline("BTC", "1m").unwrap();
    let mut spec = SeriesSpec::of_key(&key);
    (spec.price_digits, spec.volume_digits, spec.partition) = (Some(2), Some(0), Some("all".into()));
    let store = service.store();
    store.register(spec.resolve().unwrap()).unwrap();
    let ts: Vec<i64> = (0..ROWS).map(|minute| minute * MINUTE).collect();
    let columns = (0..5).map(|column| ts.iter().map(|ts| ts / MINUTE + column).collect()).collect();
    store.write(&key, Rows::of_words(ts, columns), WriteMode::Append, None).unwrap();
    store.seal(&[]).unwrap();
    let folder = std::fs::read_dir(dir.path().join("chunks")).unwrap().next().unwrap().unwrap().path();
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|ending| ending == "arrow")).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    SealedStore { _dir: dir, service, key, file: file.canonicalize().unwrap(), bytes }
}

impl SealedStore {
    fn query(&self, range: Range<i64>) -> Query {
        let when = |minute: i64| Some(crate::query::TimeValue::Epoch(minute * MINUTE));
        Query { start: when(range.start), end: when(range.end - 1), ..Query::of(&self.key) }
    }

    fn by_flight(&self, query: &Query) -> Vec<Bytes> {
        flight::pieces(self.service.read(query).unwrap())
    }

    fn by_rest(&self, query: &Query) -> Vec<Bytes> {
        let result = self.service.read(query).unwrap();
        let options = EncodeOptions { format: OutFormat::Arrow, ..EncodeOptions::default() };
        let encoder = BodyEncoder::new(&result.shape.clone(), options, result, |_| Trailer::default()).unwrap();
        encoder.map(Result::unwrap).collect()
    }

    /// Where the file is mapped, according to the system.
    fn mapped(&self) -> Vec<Range<usize>> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let of_file = maps.lines().filter(|line| line.ends_with(self.file.to_str().unwrap()));
        let address = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let spans = of_file.map(|line| line.split(' ').next().unwrap().split_once('-').unwrap());
        spans.map(|(from, to)| address(from)..address(to)).collect()
    }

    /// The long pieces, each of which must be in the map.
    fn check_mapped<'p>(&self, pieces: &'p [Bytes]) -> Vec<&'p Bytes> {
        let mapped = self.mapped();
        let long_pieces: Vec<&Bytes> = pieces.iter().filter(|piece| piece.len() > LONG_BYTES).collect();
        for piece in &long_pieces {
            let (from, to) = (piece.as_ptr().addr(), piece.as_ptr().addr() + piece.len());
            assert!(mapped.iter().any(|map| map.start <= from && to <= map.end), "{from:x} is not in {mapped:x?}");
        }
        long_pieces
    }

    fn is_in_file(&self, piece: &[u8]) -> bool {
        self.bytes.windows(piece.len()).any(|window| window == piece)
    }
}

#[test]
fn whole_blocks_are_sent_as_slices_of_the_file() {
    let sealed = sealed_store();
    let query = sealed.query(0..ROWS);
    for (interface, pieces) in [("flight", sealed.by_flight(&query)), ("rest", sealed.by_rest(&query))] {
        let long_pieces = sealed.check_mapped(&pieces);
        assert_eq!(long_pieces.len(), 3, "{interface}: one piece per block");
        assert!(long_pieces.iter().all(|piece| sealed.is_in_file(piece)), "{interface}");
        // The rest is framing.
        let rest: usize =
            pieces.iter().map(Bytes::len).sum::<usize>() - long_pieces.iter().map(|p| p.len()).sum::<usize>();
        assert!(rest < 8 * 1024, "{interface}: {rest} bytes besides the blocks");
    }
}

#[test]
fn partial_blocks_are_sent_as_slices_of_the_file() {
    let sealed = sealed_store();
    let query = sealed.query(1..2 * BLOCK + 9_000);
    for (interface, pieces) in [("flight", sealed.by_flight(&query)), ("rest", sealed.by_rest(&query))] {
        let long_pieces = sealed.check_mapped(&pieces);
        // Six columns of the first and of the last block, the second block whole.
        assert_eq!(long_pieces.len(), 6 + 1 + 6, "{interface}");
        assert!(long_pieces.iter().all(|piece| sealed.is_in_file(piece)), "{interface}");
    }
}

#[test]
fn selected_columns_are_sent_as_slices_of_the_file() {
    let sealed = sealed_store();
    let query = Query { columns: Some(vec!["close".into(), "volume".into()]), ..sealed.query(0..ROWS) };
    for (interface, pieces) in [("flight", sealed.by_flight(&query)), ("rest", sealed.by_rest(&query))] {
        let long_pieces = sealed.check_mapped(&pieces);
        // `ts` and two more of three blocks; the columns of the half block are long enough, too.
        assert_eq!(long_pieces.len(), 9, "{interface}");
    }
}

#[test]
fn converted_numbers_are_not_slices_of_the_file() {
    let sealed = sealed_store();
    let query = Query { numbers: NumberFormat::Float64, ..sealed.query(0..ROWS) };
    let pieces = sealed.by_rest(&query);
    let mapped = sealed.mapped();
    let outside = |piece: &&Bytes| !mapped.iter().any(|map| map.contains(&piece.as_ptr().addr()));
    assert!(pieces.iter().filter(|piece| piece.len() > LONG_BYTES).any(|piece| outside(&piece)));
}
