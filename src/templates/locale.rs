//! Locales of texts.

/// Fallback if the user's language is unknown or has no translation.
pub const DEFAULT_LOCALE: &str = "en";

/// `de_AT.UTF-8` → `de-at`, `sr_RS@latin` → `sr-latn-rs`.
pub(super) fn key_of(locale: &str) -> String {
    let locale = locale.trim().to_ascii_lowercase();
    let tag = locale.split(['.', '@']).next().unwrap_or_default().replace('_', "-");
    let modifier = locale.split_once('@').map(|(_, modifier)| modifier);
    let script = SCRIPTS.iter().find(|(name, _)| Some(*name) == modifier).map(|(_, script)| script);
    match (script, tag.split_once('-')) {
        (Some(script), Some((language, rest))) => format!("{language}-{script}-{rest}"),
        (Some(script), None) => format!("{tag}-{script}"),
        (None, _) => tag,
    }
}

/// Modifiers of POSIX locales, and the codes of ISO 15924.
pub(super) const SCRIPTS: [(&str, &str); 4] =
    [("latin", "latn"), ("cyrillic", "cyrl"), ("devanagari", "deva"), ("iqtelif", "latn")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_locale_are_one() {
        for (locale, key) in [
            ("de_AT.UTF-8", "de-at"),
            (" sr-Latn-RS ", "sr-latn-rs"),
            ("sr_RS@latin", "sr-latn-rs"),
            ("sr_RS.UTF-8@latin", "sr-latn-rs"),
            ("uz@cyrillic", "uz-cyrl"),
            ("de_DE@euro", "de-de"),
            ("", ""),
        ] {
            assert_eq!(key_of(locale), key, "{locale}");
        }
    }
}
