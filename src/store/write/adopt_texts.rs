//! Texts of a write in the dictionaries of its series.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::format::texts::ColumnTexts;
use crate::store::read::series_state::SeriesState;
use crate::types::dictionary::{TEXTS_BYTES_MAX, TEXTS_MAX};
use crate::types::{Dictionary, Rows, cells};

/// What the texts of a write add to its series.
pub struct AdoptedTexts {
    /// The dictionaries with the new texts.
    pub dictionaries: Arc<Vec<Dictionary>>,
    pub added: Vec<ColumnTexts>,
}

/// Replaces the positions in the dictionaries of a write by those in the dictionaries of the series.
///
/// # Errors
/// `invalid_rows` for a column with too many different texts.
pub fn adopt_texts(series: &SeriesState, rows: &mut Rows) -> Result<AdoptedTexts> {
    let texts = std::mem::take(&mut rows.texts);
    let mut dictionaries = Arc::clone(&series.dictionaries);
    for (column, texts) in texts.iter().enumerate().filter(|(_, texts)| !texts.is_empty()) {
        let known = series.dictionaries.get(column);
        let positions: Option<Vec<u32>> =
            known.and_then(|known| texts.texts().map(|text| known.position(text)).collect());
        let positions = match positions {
            Some(positions) => positions,
            None => {
                let dictionary = Arc::make_mut(&mut dictionaries).get_mut(column);
                let positions = dictionary.and_then(|all| texts.texts().map(|text| all.insert(text)).collect());
                positions.ok_or_else(|| too_many(series, column))?
            }
        };
        let cells_of =
            rows.columns.get_mut(column).ok_or_else(|| Error::internal("texts of a column without cells"))?;
        if positions.iter().zip(0..).any(|(position, local)| *position != local) {
            let validity = cells_of.as_slice().validity_bytes();
            for (row, cell) in cells_of.cells_mut::<u32>().iter_mut().enumerate() {
                if validity.as_ref().is_none_or(|valid| cells::at(valid, row) == 1) {
                    *cell = cells::at(&positions, *cell as usize);
                }
            }
        }
    }
    let added = ColumnTexts::added(&dictionaries, &series.dictionaries);
    Ok(AdoptedTexts { dictionaries, added })
}

fn too_many(series: &SeriesState, column: usize) -> Error {
    let name = series.def.columns.get(column).map_or("", |column| column.name.as_str());
    let detail = format!(
        "{}: column {name} would have more than {TEXTS_MAX} different texts, or {TEXTS_BYTES_MAX} bytes of them",
        series.def.key
    );
    Error::new(ErrorCode::InvalidRows, detail)
        .with_hint("texts are for values that repeat, such as venues; store others as bytes of a fixed length")
}
