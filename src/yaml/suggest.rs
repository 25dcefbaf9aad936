//! "Did you mean": the known word nearest to a misspelt one. Pure.

/// The word of `known` that `written` most likely stands for, if one is near enough.
pub fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    // Long nonsense is not a misspelling, and the distance costs length squared.
    if written.len() > 64 {
        return None;
    }
    let written = written.to_lowercase().replace('-', "_");
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|word| (distance(&written, word), *word))
        .filter(|(distance, word)| *distance <= allowed && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Edits between `a` and `b`, where an insertion, a deletion, a substitution and a swap of neighbours cost 1
/// (optimal string alignment).
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row[j] = best;
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_find_the_word_that_was_meant() {
        let known = ["streams", "labels", "events", "max_size", "after_exit"];
        assert_eq!(nearest("stream", &known), Some("streams"));
        assert_eq!(nearest("lables", &known), Some("labels"));
        assert_eq!(nearest("max-size", &known), Some("max_size"));
        assert_eq!(nearest("Events", &known), Some("events"));
        assert_eq!(nearest("camera", &known), None);
        assert_eq!(nearest(&"x".repeat(10_000), &known), None);
    }

    #[test]
    fn distance_counts_single_edits_and_swaps() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("labels", "lables"), 1);
        assert_eq!(distance("enter", "entry"), 2);
    }
}
