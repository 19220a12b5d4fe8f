//! Words that are written like another: for errors that name what was probably meant.

/// How many letters have to be put in, left out or changed to make one word of the other. Looks at the first 128 letters.
pub fn distance(a: &str, b: &str) -> usize {
    const LETTERS_MAX: usize = 128;
    let b: Vec<char> = b.chars().take(LETTERS_MAX).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().take(LETTERS_MAX).enumerate() {
        let mut next = vec![i + 1];
        for ((other, diagonal), above) in b.iter().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(letter != *other)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

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
    fn letters_that_differ_are_counted() {
        for (a, b, expected) in
            [("", "", 0), ("start", "strat", 2), ("limit", "limits", 1), ("a", "", 1), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_words_come_first_and_strange_ones_not_at_all() {
        let known = ["kline/BTCUSDT/1m", "kline/BTCUSDT/5m", "kline/ETHUSDT/1m", "scalar/factor/X/1d/momentum"];
        let of = |word: &str, most| nearest(word, known.into_iter(), most);
        assert_eq!(of("kline/btcusdt/1m", 1), ["kline/BTCUSDT/1m"]);
        assert_eq!(of("kline/BTCUSD/1m", 2), ["kline/BTCUSDT/1m", "kline/BTCUSDT/5m"]);
        assert!(of("scalar/flow/ABCDEF/1h/net_taker", 3).is_empty());
    }
}
