//! Similar words: for errors that suggest what was probably meant.

/// Edit distance of two words: insertions, deletions, substitutions and transpositions of characters.
pub use strsim::osa_distance as distance;

/// The known words most similar to `word`, at most `limit`, the nearest first. Case is ignored; words in which more
/// than a third of the characters differ are left out.
pub fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>, limit: usize) -> Vec<&'k str> {
    let lower = word.to_ascii_lowercase();
    let far = (lower.chars().count() / 3).max(1);
    let near = known.filter(|known| known.len().abs_diff(word.len()) <= far);
    let mut found: Vec<(usize, &str)> =
        near.map(|known| (distance(&lower, &known.to_ascii_lowercase()), known)).filter(|(d, _)| *d <= far).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, known)| known).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_words_come_first_and_dissimilar_ones_are_left_out() {
        let known = ["kline/BTCUSDT/1m", "kline/BTCUSDT/5m", "kline/ETHUSDT/1m", "scalar/factor/X/1d/momentum"];
        let of = |word: &str, most| nearest(word, known.into_iter(), most);
        assert_eq!(of("kline/btcusdt/1m", 1), ["kline/BTCUSDT/1m"]);
        assert_eq!(of("kline/BTCUSD/1m", 2), ["kline/BTCUSDT/1m", "kline/BTCUSDT/5m"]);
        assert!(of("scalar/flow/ABCDEF/1h/net_taker", 3).is_empty());
    }
}
