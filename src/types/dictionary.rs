//! Dictionaries of texts: a column of type `text` has the position of each text, which never changes its meaning.

use std::sync::{Arc, OnceLock};

use arrow::array::StringArray;
use imbl::{HashMap, Vector};

use super::width::{narrow, to_usize};

/// Maximum number of different texts of a column.
pub const TEXTS_MAX: usize = 1 << 20;
/// Maximum bytes of all different texts of a column.
pub const TEXTS_BYTES_MAX: usize = 64 << 20;
/// Maximum bytes of one text.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// The different texts of a column, in the order in which they first appeared. Only grows; copies share their texts.
#[derive(Clone, Default)]
pub struct Dictionary {
    texts: Vector<Arc<str>>,
    positions: HashMap<Arc<str>, u32>,
    bytes: usize,
    /// All texts as Arrow has them, once they were asked for; shared by copies of the same texts.
    labels: Arc<OnceLock<StringArray>>,
}

impl Dictionary {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The text at a position.
    pub fn get(&self, position: u32) -> Option<&Arc<str>> {
        self.texts.get(to_usize(position))
    }

    /// Position of a text.
    pub fn position(&self, text: &str) -> Option<u32> {
        self.positions.get(text).copied()
    }

    /// The texts in the order of their positions.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &Arc<str>> + '_ {
        self.texts.iter()
    }

    /// The texts from a position on.
    pub fn texts_from(&self, position: usize) -> impl Iterator<Item = &Arc<str>> + '_ {
        self.texts.iter().skip(position)
    }

    /// The texts as an Arrow array: built once, and again only after a text was added. Clones share its memory.
    pub fn labels(&self) -> &StringArray {
        self.labels.get_or_init(|| StringArray::from_iter_values(self.texts.iter()))
    }

    /// Position of a text, which is added unless it is there. `None` for a text too many, or too long.
    pub fn insert(&mut self, text: &str) -> Option<u32> {
        if let Some(position) = self.position(text) {
            return Some(position);
        }
        if self.len() >= TEXTS_MAX || self.bytes + text.len() > TEXTS_BYTES_MAX || text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let position = narrow(self.len());
        let text: Arc<str> = text.into();
        self.bytes += text.len();
        match Arc::get_mut(&mut self.labels) {
            Some(labels) => _ = labels.take(),
            None => self.labels = Arc::default(),
        }
        self.texts.push_back(Arc::clone(&text));
        self.positions.insert(text, position);
        Some(position)
    }

    /// Whether this dictionary has the texts of `other` at the same positions.
    pub fn extends(&self, other: &Self) -> bool {
        self.len() >= other.len() && other.texts.iter().zip(&self.texts).all(|(theirs, own)| theirs == own)
    }
}

impl FromIterator<Arc<str>> for Dictionary {
    /// Texts that are all different.
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(texts: I) -> Self {
        let texts: Vector<Arc<str>> = texts.into_iter().collect();
        let positions = texts.iter().cloned().zip(0..).collect();
        let bytes = texts.iter().map(|text| text.len()).sum();
        Self { texts, positions, bytes, labels: Arc::default() }
    }
}

impl PartialEq for Dictionary {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.extends(other)
    }
}

impl Eq for Dictionary {}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.texts).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_position_and_copies_do_not_see_later_texts() {
        let mut dictionary = Dictionary::default();
        assert_eq!(
            (dictionary.insert("buy"), dictionary.insert("sell"), dictionary.insert("buy")),
            (Some(0), Some(1), Some(0))
        );
        let before = dictionary.clone();
        assert_eq!(dictionary.insert(""), Some(2));
        assert_eq!((before.len(), before.position(""), dictionary.get(2).map(|text| &**text)), (2, None, Some("")));
        assert!(dictionary.extends(&before) && !before.extends(&dictionary) && before != dictionary);
        assert_eq!(dictionary.texts().cloned().collect::<Dictionary>(), dictionary);
        assert_eq!(dictionary.bytes(), 7);
    }

    #[test]
    fn the_array_of_texts_is_built_once_and_follows_added_texts() {
        let mut dictionary: Dictionary = ["a".into(), "".into()].into_iter().collect();
        let copy = dictionary.clone();
        let at = copy.labels().value_data().as_ptr();
        assert_eq!((dictionary.labels().value_data().as_ptr(), dictionary.labels().value(0)), (at, "a"));
        dictionary.insert("bc");
        let texts =
            |dictionary: &Dictionary| dictionary.labels().iter().flatten().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            (texts(&dictionary), texts(&copy)),
            (vec!["a".into(), "".into(), "bc".into()], vec!["a".into(), "".into()])
        );
        dictionary.insert("d");
        assert_eq!(texts(&dictionary).len(), 4);
    }

    #[test]
    fn texts_are_bounded() {
        let mut dictionary = Dictionary::default();
        assert_eq!(dictionary.insert(&"x".repeat(TEXT_BYTES_MAX + 1)), None);
        for number in 0..TEXTS_MAX {
            assert!(dictionary.insert(&number.to_string()).is_some());
        }
        assert_eq!((dictionary.insert("one more"), dictionary.insert("7")), (None, Some(7)));
    }
}
