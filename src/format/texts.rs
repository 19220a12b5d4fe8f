//! Texts of dictionaries in log frames and run files.

use std::sync::Arc;

use super::bytes::{ByteReader, put_length};
use crate::error::{Error, Result};
use crate::types::Dictionary;
use crate::types::dictionary::TEXTS_MAX;
use crate::types::schema::COLUMNS_MAX;
use crate::types::width::{narrow, to_usize};

/// Texts of one column of type `text`, at consecutive positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnTexts {
    /// Position of the column in the registration.
    pub column: u32,
    /// Position of the first text in the dictionary of the column.
    pub from: u32,
    pub texts: Vec<Arc<str>>,
}

impl ColumnTexts {
    /// The texts of dictionaries, by column, after those of `known`.
    pub fn added(dictionaries: &[Dictionary], known: &[Dictionary]) -> Vec<Self> {
        let mut added = Vec::new();
        for (column, dictionary) in dictionaries.iter().enumerate() {
            let from = known.get(column).map_or(0, Dictionary::len);
            if dictionary.len() > from {
                let texts = dictionary.texts_from(from).cloned().collect();
                added.push(Self { column: narrow(column), from: narrow(from), texts });
            }
        }
        added
    }

    /// Adds the texts to the dictionaries of a series.
    ///
    /// # Errors
    /// `corrupt_data` when texts before them are missing, or are others.
    pub fn add_to(&self, dictionaries: &mut [Dictionary]) -> Result<()> {
        let fail =
            |what: &str| Error::corrupt(format!("texts of column {} from position {}: {what}", self.column, self.from));
        let dictionary = dictionaries.get_mut(to_usize(self.column)).ok_or_else(|| fail("there is no such column"))?;
        for (position, text) in (self.from..).zip(&self.texts) {
            if to_usize(position) > dictionary.len() {
                return Err(fail("texts before them are missing"));
            }
            if dictionary.get(position).is_some_and(|known| known != text) || dictionary.insert(text) != Some(position)
            {
                return Err(fail("the dictionary has other texts"));
            }
        }
        Ok(())
    }
}

/// Appends texts: number of columns, then for each its position, the position of its first text, the number of texts,
/// and length and bytes of each.
pub fn put_texts(out: &mut Vec<u8>, columns: &[ColumnTexts]) {
    put_length(out, columns.len());
    for column in columns {
        out.extend_from_slice(&column.column.to_le_bytes());
        out.extend_from_slice(&column.from.to_le_bytes());
        put_length(out, column.texts.len());
        for text in &column.texts {
            put_length(out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Reads texts written by [`put_texts`].
///
/// # Errors
/// `corrupt_data`.
pub fn read_texts(reader: &mut ByteReader<'_>) -> Result<Vec<ColumnTexts>> {
    let count = reader.length()?;
    if count > COLUMNS_MAX {
        return Err(Error::corrupt(format!("texts of {count} columns")));
    }
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let (column, from) = (reader.u32()?, reader.u32()?);
        let count = reader.length()?;
        if count > TEXTS_MAX {
            return Err(Error::corrupt(format!("{count} texts of column {column}")));
        }
        let mut texts = Vec::new();
        for _ in 0..count {
            let length = reader.length()?;
            let text = std::str::from_utf8(reader.take(length)?)
                .map_err(|_| Error::corrupt(format!("a text of column {column} is not UTF-8")))?;
            texts.push(text.into());
        }
        columns.push(ColumnTexts { column, from, texts });
    }
    Ok(columns)
}

/// Reads texts written by any number of calls of [`put_texts`], and adds them to the dictionaries of a series.
///
/// # Errors
/// `corrupt_data`.
pub fn add_all(bytes: &[u8], dictionaries: &mut [Dictionary]) -> Result<()> {
    let mut reader = ByteReader::new(bytes, "texts");
    while !reader.is_at_end() {
        read_texts(&mut reader)?.iter().try_for_each(|texts| texts.add_to(dictionaries))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_texts_are_read_back_and_extend_only_the_dictionary_they_follow() {
        let mut known = vec![Dictionary::default(); 2];
        known[1].insert("a");
        let mut grown = known.clone();
        grown[1].insert("b");
        grown[1].insert("");
        let added = ColumnTexts::added(&grown, &known);
        assert_eq!((added.len(), added[0].column, added[0].from), (1, 1, 1));
        let mut bytes = Vec::new();
        put_texts(&mut bytes, &added);
        let read = read_texts(&mut ByteReader::new(&bytes, "texts")).unwrap();
        assert_eq!(read, added);
        let mut replayed = known.clone();
        read[0].add_to(&mut replayed).unwrap();
        assert_eq!(replayed, grown);
        // Texts that are there already are no error, other texts or a gap are.
        read[0].add_to(&mut replayed).unwrap();
        assert_eq!(replayed, grown);
        assert!(read[0].add_to(&mut [Dictionary::default(), Dictionary::default()]).is_err());
        known[1].insert("c");
        assert!(read[0].add_to(&mut known).is_err());
        for cut in 0..bytes.len() {
            assert!(read_texts(&mut ByteReader::new(&bytes[..cut], "texts")).is_err(), "{cut}");
        }
    }
}
