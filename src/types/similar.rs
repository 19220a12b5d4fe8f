//! Words that are written like another: for errors that name what was probably meant.

/// How many letters have to be inserted, removed, replaced or swapped to make one word of the other.
pub use strsim::osa_distance as distance;

/// The known words most like the one given, at most so many, the nearest first. Upper and lower case are alike; a word
/// in which more than a third of the letters differ is not given.
pub fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>, most: usize) -> Vec<&'k str> {
    let wanted = word.to_ascii_lowercase();
    let far = (wanted.chars().count() / 3).max(1);
    let near = known.filter(|known| known.len().abs_diff(word.len()) <= far);
    let mut found: Vec<(usize, &str)> =
        near.map(|known| (distance(&wanted, &known.to_ascii_lowercase()), known)).filter(|(d, _)| *d <= far).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, known)| known).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_words_come_first_and_strange_ones_not_at_all() {
        let known = ["kline/BTCUSDT/1m", "kline/BTCUSDT/5m", "kline/ETHUSDT/1m", "scalar/factor/X/1d/momentum"];
        let of = |word: &str, most| nearest(word, known.into_iter(), most);
        assert_eq!(of("kline/btcusdt/1m", 1), ["kline/BTCUSDT/1m"]);
        assert_eq!(of("kline/BTCUSD/1m", 2), ["kline/BTCUSDT/1m", "kline/BTCUSDT/5m"]);
        assert!(of("scalar/flow/ABCDEF/1h/net_taker", 3).is_empty());
    }
}
