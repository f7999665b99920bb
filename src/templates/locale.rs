//! Locales of texts.

/// Fallback if the user's language is unknown or has no translation.
pub const DEFAULT_LOCALE: &str = "en";

/// `de_AT.UTF-8` → `de-at`
pub(super) fn key_of(locale: &str) -> String {
    let tag = locale.trim().split(['.', '@']).next().unwrap_or_default();
    tag.replace('_', "-").to_ascii_lowercase()
}
