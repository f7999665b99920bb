//! The name that was probably meant.

/// The closest candidate, if only a few letters differ. Two letters in the wrong order count as one.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Bounds the table, which grows with the square of the length.
    const LONGEST: usize = 48;
    let length = word.chars().take(LONGEST + 1).count();
    if length > LONGEST {
        return None;
    }
    let (word, most) = (word.to_lowercase(), (length / 4).clamp(1, 3));
    let distance = |candidate: &str| strsim::osa_distance(&word, &candidate.to_lowercase());
    let distances = candidates.into_iter().map(|candidate| (distance(candidate), candidate));
    distances.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance).map(|(_, near)| near)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_name_is_near_if_few_letters_differ() {
        let names = ["title", "body", "recipients"];
        for (word, near) in [
            ("titel", Some("title")),
            ("TITLES", Some("title")),
            ("recipient", Some("recipients")),
            ("recpients", Some("recipients")),
            ("text", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), near, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }
}
