//! Cuts texts between grapheme clusters (UAX #29): what a reader takes for one character, such as a flag, a family of
//! emoji or a Devanagari conjunct, is kept or dropped as a whole.

use unicode_segmentation::UnicodeSegmentation;

/// The longest beginning of whole clusters whose characters have at most `most` in all, by `size`.
#[must_use]
pub fn beginning(text: &str, most: usize, size: impl Fn(char) -> usize) -> &str {
    let mut used = 0;
    for (at, cluster) in text.grapheme_indices(true) {
        used += cluster.chars().map(&size).sum::<usize>();
        if used > most {
            return &text[..at];
        }
    }
    text
}

/// The text, or what of it leaves room for an ellipsis, by `size`. Empty if there is not even that room.
#[must_use]
pub fn with_ellipsis(text: &str, most: usize, size: impl Fn(char) -> usize) -> String {
    if text.chars().map(&size).sum::<usize>() <= most {
        return text.to_owned();
    }
    let Some(room) = most.checked_sub(size(ELLIPSIS)) else { return String::new() };
    let mut kept = beginning(text, room, size).trim_end().to_owned();
    kept.push(ELLIPSIS);
    kept
}

const ELLIPSIS: char = '…';

/// Size of a character as Unicode counts: one.
#[must_use]
pub const fn one(_: char) -> usize {
    1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_looks_like_one_character_is_never_divided() {
        for (text, most, kept) in [
            ("Rose 👩‍👧‍👦!", 7, "Rose…"),
            ("Rose 👩‍👧‍👦!", 11, "Rose 👩‍👧‍👦!"),
            ("🇦🇹🇫🇷🇪🇸", 4, "🇦🇹…"),
            ("क्षत्रिय", 3, "…"),
            ("क्षत्रिय", 4, "क्ष…"),
            ("e\u{301}e\u{301}e\u{301}", 4, "e\u{301}…"),
            ("👍🏽👍🏽", 3, "👍🏽…"),
            ("a\r\nbc", 3, "a…"),
            ("한국어", 2, "한…"),
        ] {
            assert_eq!(with_ellipsis(text, most, one), kept, "{text} {most}");
        }
    }

    proptest! {
        #[test]
        fn a_cut_is_a_beginning_of_whole_clusters_that_fits(text in "(\\PC|👩‍👧|🇦🇹|क्ष|e\u{301}){0,40}", most in 0..60_usize) {
            for size in [one as fn(char) -> usize, char::len_utf8, char::len_utf16] {
                let cut = with_ellipsis(&text, most, size);
                prop_assert!(cut.chars().map(size).sum::<usize>() <= most);
                let kept = cut.strip_suffix('…').filter(|_| cut != text).unwrap_or(&cut);
                prop_assert!(text.starts_with(kept));
                let is_bound = text.grapheme_indices(true).any(|(at, _)| at == kept.len()) || kept.len() == text.len();
                prop_assert!(is_bound || text[kept.len()..].starts_with(char::is_whitespace), "{:?}", kept);
            }
        }
    }
}
