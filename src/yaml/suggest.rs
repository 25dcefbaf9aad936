//! "Did you mean": the known word nearest to a misspelt one. Pure.

use strsim::osa_distance;

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
        .map(|word| (osa_distance(&written, word), *word))
        .filter(|(distance, word)| *distance <= allowed && *distance < word.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
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
}
