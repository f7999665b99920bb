//! Encoding of a text, in GSM 03.38 (3GPP TS 23.038 §6.2.1) or UCS-2, and its segments.
//!
//! Each segment is paid for, so a long text is shortened to [`MOST`]. (The only crate, `sms_splitter`, is unreleased
//! since 2022 and can't shorten.)

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Most segments: about 600 characters in GSM, 260 in UCS-2.
pub const MOST: usize = 4;

/// Most characters that providers take in one message.
const LONGEST: usize = 1600;

/// Room that a text keeps beside a link, in septets or units.
const LEAST_TEXT: usize = 40;

/// Characters of one septet.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡\
                     ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";

/// Characters of two septets: an escape and the extension table.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// Typographic punctuation: one would turn 160 characters from one segment into three.
const PLAIN: [(char, &str); 13] = [
    ('\u{2018}', "'"),
    ('\u{2019}', "'"),
    ('\u{201a}', "'"),
    ('\u{201c}', "\""),
    ('\u{201d}', "\""),
    ('\u{201e}', "\""),
    ('\u{2010}', "-"),
    ('\u{2011}', "-"),
    ('\u{2013}', "-"),
    ('\u{2014}', "-"),
    ('\u{2026}', "..."),
    ('\u{a0}', " "),
    ('\t', " "),
];

/// Encoding of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Septets: 160 in a single segment, 153 in each of several.
    Gsm,
    /// 16-bit units: 70, or 67.
    Ucs2,
}

impl Alphabet {
    /// The encoding that a text needs.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text.chars().all(|c| septets(c).is_some()) { Self::Gsm } else { Self::Ucs2 }
    }

    /// Capacity of a single segment, and of each of several.
    const fn room(self) -> (usize, usize) {
        match self {
            Self::Gsm => (160, 153),
            Self::Ucs2 => (70, 67),
        }
    }

    fn size(self, c: char) -> usize {
        match self {
            // Such a character forces UCS-2 anyway.
            Self::Gsm => septets(c).unwrap_or(2),
            Self::Ucs2 => c.len_utf16(),
        }
    }

    /// Marks a cut. GSM has no single character for it.
    const fn ellipsis(self) -> &'static str {
        match self {
            Self::Gsm => "...",
            Self::Ucs2 => "…",
        }
    }
}

fn septets(c: char) -> Option<usize> {
    if c.is_ascii_alphanumeric() || BASIC.contains(c) {
        Some(1)
    } else if EXTENSION.contains(c) {
        Some(2)
    } else {
        None
    }
}

/// Splits a text into segments, never within a character.
#[must_use]
pub fn split(text: &str) -> Vec<&str> {
    ranges(text, Alphabet::of(text)).into_iter().map(|range| &text[range]).collect()
}

/// Segments; at least 1.
#[must_use]
pub fn count(text: &str) -> usize {
    ranges(text, Alphabet::of(text)).len()
}

fn ranges(text: &str, alphabet: Alphabet) -> Vec<Range<usize>> {
    let (only, each) = alphabet.room();
    let whole: usize = text.chars().map(|c| alphabet.size(c)).sum();
    if whole <= only {
        return vec![0..text.len(); 1];
    }
    let mut ranges = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (at, c) in text.char_indices() {
        let size = alphabet.size(c);
        if used + size > each {
            ranges.push(start..at);
            (start, used) = (at, 0);
        }
        used += size;
    }
    ranges.push(start..text.len());
    ranges
}

/// Replaces typographic punctuation if GSM then suffices.
#[must_use]
pub fn plain(text: String) -> String {
    if Alphabet::of(&text) == Alphabet::Gsm {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match PLAIN.iter().find(|(fancy, _)| *fancy == c) {
            Some((_, simple)) => plain.push_str(simple),
            None => plain.push(c),
        }
    }
    if Alphabet::of(&plain) == Alphabet::Gsm { plain } else { text }
}

/// The text, and the link on its own line, in at most `most` segments. Too long a text is cut, preferably at a word.
/// The link stays whole: a long one has its own segments, and the text at least one. Only a link that no message can hold
/// is left out.
#[must_use]
pub fn fit(text: &str, link: Option<&str>, most: usize) -> String {
    let text = plain(text.trim().to_owned());
    let end = link.map(|link| format!("\n{link}")).unwrap_or_default();
    let whole = format!("{text}{end}");
    let alphabet = Alphabet::of(&whole);
    let units = |text: &str| text.chars().map(|c| alphabet.size(c)).sum::<usize>();
    if !end.is_empty() && units(&end) + LEAST_TEXT > LONGEST {
        return fit(&text, None, most);
    }
    let most = most.max(ranges(&end, alphabet).len() + usize::from(!end.is_empty()));
    let fits = |text: &str| ranges(text, alphabet).len() <= most && units(text) <= LONGEST;
    if fits(&whole) {
        return whole;
    }
    let cut = |at: usize| format!("{}{}{end}", text[..at].trim_end(), alphabet.ellipsis());
    let places: Vec<usize> = text.grapheme_indices(true).map(|(at, _)| at).collect();
    // The count is monotonic with the whole text's alphabet, so a binary search works.
    let fitting = places.partition_point(|at| fits(&cut(*at)));
    let longest = fitting.checked_sub(1).map_or(0, |index| places[index]);
    cut(at_a_word(&text, longest))
}

fn at_a_word(text: &str, place: usize) -> usize {
    const FAR: usize = 30;
    if text[place..].starts_with(char::is_whitespace) {
        return place;
    }
    let before = &text[..place];
    match before.rfind(char::is_whitespace) {
        Some(at) if at > 0 && before[at..].chars().count() <= FAR => at,
        _ => place,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_is_that_of_the_standard() {
        assert_eq!(BASIC.chars().count(), 127, "128 places, of which one is the escape");
        assert_eq!(EXTENSION.chars().count(), 10);
        let all: String = format!("{BASIC}{EXTENSION}");
        let mut characters: Vec<char> = all.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        assert_eq!(characters.len(), 137, "each once");
    }

    #[test]
    fn segments_are_counted_at_their_bounds() {
        for (text, alphabet, segments) in [
            (String::new(), Alphabet::Gsm, 1),
            ("a".repeat(160), Alphabet::Gsm, 1),
            ("a".repeat(161), Alphabet::Gsm, 2),
            ("a".repeat(306), Alphabet::Gsm, 2),
            ("a".repeat(307), Alphabet::Gsm, 3),
            ("€".repeat(80), Alphabet::Gsm, 1),
            ("€".repeat(81), Alphabet::Gsm, 2),
            // 152 septets each: an escape stays with its character.
            ("€".repeat(153), Alphabet::Gsm, 3),
            ("ж".repeat(70), Alphabet::Ucs2, 1),
            ("ж".repeat(71), Alphabet::Ucs2, 2),
            ("ж".repeat(134), Alphabet::Ucs2, 2),
            ("😀".repeat(35), Alphabet::Ucs2, 1),
            ("😀".repeat(67), Alphabet::Ucs2, 3),
            ("ç".to_owned(), Alphabet::Ucs2, 1),
            ("Ç".to_owned(), Alphabet::Gsm, 1),
        ] {
            assert_eq!((Alphabet::of(&text), count(&text)), (alphabet, segments), "{text}");
        }
    }

    #[test]
    fn typographic_marks_cost_nothing() {
        assert_eq!(plain("Rose’s “tea” – now…".into()), "Rose's \"tea\" - now...");
        assert_eq!(plain("Роза’s".into()), "Роза’s", "UCS-2 it is in any case");
    }

    #[test]
    fn a_long_text_is_cut_at_a_word_and_its_link_stays_whole() {
        let link = "https://app.example.org/medications?id=7";
        let text = format!("Metformin\n{}", "one two three four five ".repeat(60));
        let fitted = fit(&text, Some(link), MOST);
        assert_eq!(count(&fitted), MOST);
        assert!(fitted.ends_with(&format!("...\n{link}")), "{fitted}");
        let end = fitted.strip_suffix(&format!("...\n{link}")).unwrap();
        assert!(["one", "two", "three", "four", "five"].iter().any(|word| end.ends_with(&format!(" {word}"))), "{end}");

        let cyrillic = fit(&"слово ".repeat(100), Some(link), MOST);
        assert!(cyrillic.contains("слово…\n") && count(&cyrillic) == MOST, "{cyrillic}");
        let short = fit("Metformin now", Some(link), MOST);
        assert_eq!(short, format!("Metformin now\n{link}"));
        let endless = format!("https://app.example.org/{}", "x".repeat(600));
        assert_eq!(fit("Metformin now", Some(&endless), MOST), format!("Metformin now\n{endless}"));
        let fitted = fit(&"слово ".repeat(100), Some(&endless), MOST);
        assert!(fitted.starts_with("слово слово") && fitted.ends_with(&format!("…\n{endless}")), "{fitted}");
        let no_message_holds_it = format!("https://app.example.org/{}", "x".repeat(1600));
        assert_eq!(fit("Metformin now", Some(&no_message_holds_it), MOST), "Metformin now");
        let families = fit(&"👩‍👧‍👦".repeat(60), None, MOST);
        assert!(families.ends_with("👩‍👧‍👦…") && count(&families) == MOST, "{families}");
    }

    /// An independent count, unit by unit.
    fn reckoned(text: &str) -> usize {
        let gsm = text.chars().all(|c| BASIC.contains(c) || EXTENSION.contains(c));
        let sizes: Vec<usize> = text
            .chars()
            .map(|c| if gsm { 1 + usize::from(EXTENSION.contains(c)) } else { c.to_string().encode_utf16().count() })
            .collect();
        let (only, each) = if gsm { (160, 153) } else { (70, 67) };
        if sizes.iter().sum::<usize>() <= only {
            return 1;
        }
        let mut left = 0;
        sizes.iter().fold(0, |segments, size| {
            if *size <= left {
                left -= size;
                segments
            } else {
                left = each - size;
                segments + 1
            }
        })
    }

    fn texts() -> impl Strategy<Value = String> {
        let mixed = "[ -~£€äéждΩ😀🩺\n]{0,900}";
        let gsm = "[ -_a-~€äéΩ\n]{0,900}";
        prop_oneof![mixed, gsm, "(ж|😀){60,80}", "(a|€){150,170}", any::<String>()]
    }

    proptest! {
        #[test]
        fn the_count_is_the_same_however_it_is_reckoned(text in texts()) {
            prop_assert_eq!(count(&text), reckoned(&text));
        }

        #[test]
        fn segments_are_the_text_and_none_is_too_long(text in texts()) {
            let parts = split(&text);
            prop_assert_eq!(parts.concat(), text.as_str());
            let alphabet = Alphabet::of(&text);
            let (only, each) = alphabet.room();
            let room = if parts.len() == 1 { only } else { each };
            for part in &parts {
                prop_assert!(part.chars().map(|c| alphabet.size(c)).sum::<usize>() <= room);
            }
            prop_assert_eq!(count(&text), parts.len());
        }

        #[test]
        fn what_is_fitted_never_takes_more(text in texts(), path in "[a-z]{0,300}", most in 1..6_usize) {
            let link = format!("https://app.example.org/{path}");
            let fitted = fit(&text, Some(&link), most);
            let end = format!("\n{link}");
            let most = most.max(ranges(&end, Alphabet::of(&fitted)).len() + 1);
            prop_assert!(count(&fitted) <= most, "{}: {}", count(&fitted), fitted);
            prop_assert!(fitted.ends_with(&end), "{}", fitted);
            prop_assert!(fitted.len() == end.len() || text.trim().is_empty() || !fitted.starts_with('\n'), "{}", fitted);
        }
    }
}
