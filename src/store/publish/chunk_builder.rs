//! A chunk and its derived sidecars, written together.

use crate::disk::StagedFile;
use crate::error::{Error, Result};
use crate::format::chunk::{ChunkHead, ChunkSummary, ChunkWriter, block_rows};
use crate::format::coverage::Coverage;
use crate::format::order_key::NativeType;
use crate::format::zone_map::ZoneMap;
use crate::store::read::merge::Merge;
use crate::types::{CellSlice, ColumnCells, cells};

/// A chunk and its sidecars, growing together.
pub struct ChunkBuilder<W> {
    writer: ChunkWriter<W>,
    zones: ZoneMap,
    coverage: Option<Coverage>,
    types: Vec<NativeType>,
}

impl<W: std::io::Write> ChunkBuilder<W> {
    pub fn new(out: W, head: ChunkHead<'_>, coverage: Option<Coverage>) -> std::io::Result<Self> {
        let types = NativeType::of_series(head.series);
        let zones = ZoneMap::new(head.chunk_id, types.len());
        Ok(Self { writer: ChunkWriter::new(out, head)?, zones, coverage, types })
    }

    /// Writes rows that follow those before them, `ts` first, at most as many as a block holds.
    pub fn write(&mut self, columns: &[CellSlice<'_>]) -> std::io::Result<()> {
        self.writer.write_block(columns)?;
        if let Some(coverage) = &mut self.coverage {
            coverage.add(cells::column(columns, 0).words());
        }
        self.zones.add_block(columns, &self.types);
        Ok(())
    }

    fn write_buffered(&mut self, buffered: &mut [ColumnCells]) -> std::io::Result<()> {
        let columns: Vec<CellSlice<'_>> = buffered.iter().map(ColumnCells::as_slice).collect();
        self.write(&columns)?;
        buffered.iter_mut().for_each(ColumnCells::clear);
        Ok(())
    }

    /// Writes the footer.
    pub fn finish(self) -> std::io::Result<(W, ChunkSummary, ZoneMap, Option<Coverage>)> {
        let (out, summary) = self.writer.finish()?;
        Ok((out, summary, self.zones, self.coverage))
    }
}

/// Writes the merged rows as blocks; `None` when there are none (the file is not published then).
pub fn fill(
    staged: &mut StagedFile,
    head: ChunkHead<'_>,
    mut merge: Merge,
    coverage: Option<Coverage>,
) -> Result<Option<(ChunkSummary, ZoneMap, Option<Coverage>)>> {
    let full = block_rows(head.series.all_layouts());
    let mut buffered: Vec<ColumnCells> =
        head.series.all_layouts().map(|layout| ColumnCells::with_capacity(layout, full)).collect();
    let path = staged.path().clone();
    let fail = |e: &std::io::Error| Error::io("write", &path, e);
    let out = std::io::BufWriter::with_capacity(1 << 16, staged);
    let mut blocks = ChunkBuilder::new(out, head, coverage).map_err(|e| fail(&e))?;
    let mut any = false;
    while let Some(piece) = merge.next_piece()? {
        any = true;
        let mut lo = 0;
        while lo < piece.rows() {
            let room = full - cells::column(&buffered, 0).len();
            let hi = piece.rows().min(lo + room);
            for (position, buffer) in buffered.iter_mut().enumerate() {
                buffer.extend(piece.block().column(position).slice(lo, hi - lo));
            }
            lo = hi;
            if cells::column(&buffered, 0).len() == full {
                blocks.write_buffered(&mut buffered).map_err(|e| fail(&e))?;
            }
        }
    }
    if !any {
        return Ok(None);
    }
    blocks.write_buffered(&mut buffered).map_err(|e| fail(&e))?;
    let (out, summary, zones, coverage) = blocks.finish().map_err(|e| fail(&e))?;
    out.into_inner().map_err(|e| fail(e.error()))?;
    Ok(Some((summary, zones, coverage)))
}
