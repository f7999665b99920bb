//! Tokens and cookies: 32 random bytes, of which only the SHA-256 is kept.

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Begins each token, so that scanners of repositories can find one.
pub const PREFIX: &str = "cbl_";

/// A new secret.
///
/// # Errors
/// If the system provides no randomness.
pub fn draw() -> Result<String, &'static str> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| "the system provides no randomness")?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The hash by which a secret is found. Whoever reads the database cannot turn it back.
#[must_use]
pub fn hash(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_and_differ() {
        let (one, other) = (draw().unwrap(), draw().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 43);
        assert_eq!(hash(&one).len(), 32);
    }
}
