//! One sign-in on its way.

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::admin::secret;

/// Characters of what a cookie may bring.
const LONGEST: usize = 100;

/// One sign-in on its way: a secret that only its browser has. State, nonce and verifier are derived from it, so no
/// replica needs to remember anything, and an answer that another browser brings does not fit.
pub struct Flow(String);

impl Flow {
    /// A new one.
    ///
    /// # Errors
    /// If the system provides no randomness.
    pub fn begin() -> Result<Self, &'static str> {
        secret::draw().map(Self)
    }

    /// That of a browser's cookie.
    #[must_use]
    pub fn of(cookie: &str) -> Option<Self> {
        (cookie.starts_with(secret::PREFIX) && cookie.len() <= LONGEST).then(|| Self(cookie.to_owned()))
    }

    /// For the cookie.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Comes back with the answer.
    #[must_use]
    pub fn state(&self) -> String {
        self.derived("state")
    }

    /// Is in the ID token.
    #[must_use]
    pub fn nonce(&self) -> String {
        self.derived("nonce")
    }

    /// Proves to the provider that the code comes from whoever began (RFC 7636).
    #[must_use]
    pub fn verifier(&self) -> String {
        self.derived("verifier")
    }

    /// The hash of the verifier.
    #[must_use]
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier().as_bytes()))
    }

    fn derived(&self, purpose: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        URL_SAFE_NO_PAD.encode(hmac::sign(&key, purpose.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_flow_differ_and_come_again_from_its_cookie() {
        let flow = Flow::begin().unwrap();
        let again = Flow::of(flow.secret()).unwrap();
        let parts = |flow: &Flow| [flow.state(), flow.nonce(), flow.verifier(), flow.challenge()];
        assert_eq!(parts(&flow), parts(&again));
        assert!(parts(&flow).iter().all(|part| part.len() == 43));
        let all: std::collections::BTreeSet<String> =
            parts(&flow).into_iter().chain(parts(&Flow::begin().unwrap())).collect();
        assert_eq!(all.len(), 8);
        assert!(Flow::of("").is_none() && Flow::of("x").is_none() && Flow::of(&"cbl_".repeat(50)).is_none());
    }
}
