//! Texts that look alike and are not: the same letters in another Unicode form, and characters that nobody sees. Pure.

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;

/// What is told of two such texts, behind the first.
pub const LOOK_ALIKE: &str = "differs from it only by its Unicode form or by characters that cannot be seen";

/// Whether a character takes no room of its own: joiners, directions, soft hyphens, byte order marks, selectors, tags.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether one of them has a place in a name: scripts and emoji need joiners and selectors.
pub fn belongs_in_names(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0e}' | '\u{fe0f}' | '\u{e0020}'..='\u{e007f}')
}

/// `text` as it looks: composed, and without what cannot be seen. Two names that are the same so are one to every reader.
pub fn folded(text: &str) -> String {
    let seen: Cow<'_, str> = match text.contains(is_invisible) {
        true => Cow::Owned(text.replace(is_invisible, "")),
        false => Cow::Borrowed(text),
    };
    ComposingNormalizerBorrowed::new_nfc().normalize(&seen).into_owned()
}

/// The one of `known` that looks like `text` and is another.
pub fn alike<'k, T: AsRef<str>>(text: &str, known: &'k [T]) -> Option<&'k str> {
    let folded = self::folded(text);
    known.iter().map(AsRef::as_ref).find(|known| *known != text && self::folded(known) == folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_alike_is_found_in_any_form() {
        let known = ["caf\u{e9}", "dock"];
        assert_eq!(alike("cafe\u{301}", &known), Some("caf\u{e9}"));
        assert_eq!(alike("do\u{200b}ck", &known), Some("dock"));
        assert_eq!((alike("dock", &known), alike("cafe", &known)), (None, None));
        assert_eq!(folded("\u{feff}ha\u{ad}ve"), "have");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_folded_once(text in "\\PC{0,40}") {
            let once = folded(&text);
            proptest::prop_assert_eq!(folded(&once), once);
        }
    }
}
