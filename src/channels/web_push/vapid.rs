//! VAPID (RFC 8292): the sender's key pair, and signed tokens, one per push service.
//!
//! Signing costs more than encrypting and sending. A token is valid for any number of messages to its origin, so it is
//! kept until shortly before it expires.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{
    encoding::AsBigEndian,
    error::Unspecified,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use url::{Host, Url};

use super::{
    library::{Signer, Unusable},
    seal::decode,
};
use crate::{channels::SettingsError, clock::Clock};

/// RFC 8292 §2 allows 24 hours; half leaves room for clock skew.
const LIFETIME: TimeDelta = TimeDelta::hours(12);

const RENEW_BEFORE: TimeDelta = TimeDelta::hours(1);

/// Wildcard hosts are unbounded, since subscribers report them.
const MAX_TOKENS: usize = 256;

/// A VAPID key pair (P-256), as base64url without padding, compatible with npm's web-push.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// 65 bytes, uncompressed: the browser's `applicationServerKey`.
    pub public: String,
    /// 32 bytes. Secret.
    pub private: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Generates a key pair. Fails only without system randomness.
pub fn generate_keys() -> Result<KeyPair, Unspecified> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    Ok(KeyPair {
        public: URL_SAFE_NO_PAD.encode(pair.public_key()),
        private: URL_SAFE_NO_PAD.encode(pair.private_key().as_be_bytes()?.as_ref()),
    })
}

pub struct Vapid {
    signer: Signer,
    public_key: String,
    subject: String,
    clock: Clock,
    tokens: Mutex<HashMap<String, Token>>,
}

struct Token {
    authorization: Arc<str>,
    expires: DateTime<Utc>,
}

impl Vapid {
    /// Checks that the keys match, and that the subject is a contact (RFC 8292 §2.1).
    pub fn new(keys: &KeyPair, subject: &str, clock: Clock) -> Result<Self, SettingsError> {
        let private = decode(&keys.private).filter(|bytes| bytes.len() == 32);
        let signer = private.and_then(|bytes| Signer::new(&URL_SAFE_NO_PAD.encode(bytes)).ok()).ok_or_else(|| {
            SettingsError::new(
                "VAPID_PRIVATE_KEY",
                "should be a P-256 private key, 32 bytes as base64url (43 characters), as `carebell keys generate` \
                 writes it",
            )
        })?;
        let public = decode(&keys.public).filter(|bytes| bytes.len() == 65).ok_or_else(|| {
            SettingsError::new(
                "VAPID_PUBLIC_KEY",
                "should be an uncompressed P-256 public key, 65 bytes as base64url (87 characters), as `carebell keys \
                 generate` writes it",
            )
        })?;
        if public != signer.public_key() {
            return Err(SettingsError::new("VAPID_PUBLIC_KEY", "should be the public half of VAPID_PRIVATE_KEY"));
        }
        if !is_contact(subject) {
            return Err(SettingsError::new(
                "VAPID_SUBJECT",
                "should be a contact that push services can reach: `mailto:ops@your-domain.org` or an `https:` URL \
                 with a full host name (Apple refuses others)",
            ));
        }
        let public_key = URL_SAFE_NO_PAD.encode(public);
        Ok(Self { signer, public_key, subject: subject.to_owned(), clock, tokens: Mutex::default() })
    }

    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// `Authorization` header for an origin: `vapid t=…, k=…` (RFC 8292 §3).
    pub fn authorization(&self, origin: &str) -> Result<Arc<str>, Unusable> {
        self.token(origin, |_| true)
    }

    /// Replaces a refused token, once for all senders that used it.
    pub fn renew(&self, origin: &str, refused: &Arc<str>) -> Result<Arc<str>, Unusable> {
        self.token(origin, |kept| !Arc::ptr_eq(kept, refused))
    }

    fn token(&self, origin: &str, usable: impl Fn(&Arc<str>) -> bool) -> Result<Arc<str>, Unusable> {
        let now = self.clock.now();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.get(origin) {
            let left = token.expires - now;
            // The clock was set back: the push service would refuse an expiry that far off.
            if left > RENEW_BEFORE && left <= LIFETIME && usable(&token.authorization) {
                return Ok(Arc::clone(&token.authorization));
            }
        }
        // Under the lock (a fraction of a millisecond), so that concurrent senders sign once.
        let expires = now + LIFETIME;
        let seconds = u64::try_from(expires.timestamp()).map_err(|_| Unusable)?;
        let token = self.signer.sign(origin, &self.subject, seconds)?;
        let authorization: Arc<str> = format!("vapid t={token}, k={}", self.public_key).into();
        if tokens.len() >= MAX_TOKENS && !tokens.contains_key(origin) {
            let oldest = tokens.iter().min_by_key(|(_, token)| token.expires).map(|(origin, _)| origin.clone());
            oldest.and_then(|origin| tokens.remove(&origin));
        }
        tokens.insert(origin.to_owned(), Token { authorization: Arc::clone(&authorization), expires });
        Ok(authorization)
    }
}

fn is_contact(subject: &str) -> bool {
    let is_name = |host: &str| host.contains('.') && host.split('.').all(|label| !label.is_empty());
    if subject.len() > 512 || !subject.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"\\,".contains(&byte)) {
        return false;
    }
    if let Some(address) = subject.strip_prefix("mailto:") {
        let Some((user, host)) = address.rsplit_once('@') else { return false };
        return !user.is_empty() && !user.contains('@') && is_name(host) && !host.contains(['/', ':', '?', '#']);
    }
    subject.starts_with("https://")
        && Url::parse(subject).is_ok_and(|url| matches!(url.host(), Some(Host::Domain(host)) if is_name(host)))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::{Value, json};

    use super::*;

    const ORIGIN: &str = "https://localhost:8443";

    fn vapid(clock: &Clock) -> Vapid {
        Vapid::new(&generate_keys().unwrap(), "mailto:ops@carebell.example", clock.clone()).unwrap()
    }

    fn clock() -> Clock {
        Clock::manual("2026-03-29T00:30:00Z".parse().unwrap())
    }

    fn claims(vapid: &Vapid, authorization: &str) -> Value {
        let (token, key) = authorization.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
        assert_eq!(key, vapid.public_key());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, decode(key).unwrap())
            .verify(signed.as_bytes(), &decode(signature).unwrap())
            .unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let header: Value = serde_json::from_slice(&decode(header).unwrap()).unwrap();
        assert_eq!(header, json!({"alg": "ES256", "typ": "JWT"}));
        serde_json::from_slice(&decode(claims).unwrap()).unwrap()
    }

    #[test]
    fn a_token_names_the_origin_with_its_port_the_subject_and_twelve_hours() {
        let clock = clock();
        let vapid = vapid(&clock);
        let claims = claims(&vapid, &vapid.authorization(ORIGIN).unwrap());
        assert_eq!(claims["aud"], ORIGIN);
        assert_eq!(claims["sub"], "mailto:ops@carebell.example");
        assert_eq!(claims["exp"], clock.now().timestamp() + 12 * 3600);
    }

    #[test]
    fn a_token_is_kept_for_its_origin_until_less_than_an_hour_is_left() {
        let clock = clock();
        let vapid = vapid(&clock);
        let first = vapid.authorization(ORIGIN).unwrap();
        clock.advance(TimeDelta::minutes(11 * 60 - 1));
        assert!(Arc::ptr_eq(&first, &vapid.authorization(ORIGIN).unwrap()));
        assert_eq!(claims(&vapid, &vapid.authorization("https://a.example").unwrap())["aud"], "https://a.example");
        clock.advance(TimeDelta::minutes(1));
        let second = vapid.authorization(ORIGIN).unwrap();
        assert_eq!(claims(&vapid, &second)["exp"], clock.now().timestamp() + 12 * 3600);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_leave_a_token_from_the_future() {
        let clock = clock();
        let vapid = vapid(&clock);
        vapid.authorization(ORIGIN).unwrap();
        clock.advance(TimeDelta::hours(-20));
        let token = vapid.authorization(ORIGIN).unwrap();
        assert_eq!(claims(&vapid, &token)["exp"], clock.now().timestamp() + 12 * 3600);
    }

    #[test]
    fn a_refused_token_is_renewed_once_for_all_who_were_refused() {
        let vapid = vapid(&clock());
        let refused = vapid.authorization(ORIGIN).unwrap();
        let renewed = vapid.renew(ORIGIN, &refused).unwrap();
        assert!(!Arc::ptr_eq(&refused, &renewed));
        assert!(Arc::ptr_eq(&renewed, &vapid.renew(ORIGIN, &refused).unwrap()));
        assert!(Arc::ptr_eq(&renewed, &vapid.authorization(ORIGIN).unwrap()));
    }

    #[test]
    fn the_tokens_kept_are_bounded_and_the_oldest_goes_first() {
        let clock = clock();
        let vapid = vapid(&clock);
        let first = vapid.authorization(ORIGIN).unwrap();
        for n in 0..MAX_TOKENS {
            clock.advance(TimeDelta::seconds(1));
            vapid.authorization(&format!("https://{n}.push.apple.com")).unwrap();
        }
        assert_eq!(vapid.tokens.lock().unwrap().len(), MAX_TOKENS);
        assert!(!Arc::ptr_eq(&first, &vapid.authorization(ORIGIN).unwrap()));
    }

    #[test]
    fn keys_are_taken_with_and_without_padding_and_errors_name_the_variable() {
        let keys = generate_keys().unwrap();
        assert_eq!((keys.public.len(), keys.private.len()), (87, 43));
        assert!(!format!("{keys:?}").contains(&keys.private));
        let other = generate_keys().unwrap();
        let make = |public: &str, private: &str, subject: &str| {
            let keys = KeyPair { public: public.to_owned(), private: private.to_owned() };
            Vapid::new(&keys, subject, clock()).map(|_| ()).map_err(|error| {
                assert!(!error.to_string().contains(private) || private.is_empty(), "{error}");
                error.variable().to_owned()
            })
        };
        let good = "mailto:ops@carebell.example";
        assert_eq!(make(&keys.public, &keys.private, good), Ok(()));
        assert_eq!(make(&format!("{}=", keys.public), &format!("{}=", keys.private), good), Ok(()));
        assert_eq!(make(&other.public, &keys.private, good), Err("VAPID_PUBLIC_KEY".to_owned()));
        for public in ["", "AAAA", &keys.private, "not base64!"] {
            assert_eq!(make(public, &keys.private, good), Err("VAPID_PUBLIC_KEY".to_owned()), "{public}");
        }
        let (zero, huge) = ("A".repeat(43), format!("{}8", "_".repeat(42)));
        for private in ["", "AAAA", &keys.public, "not base64!", &zero, &huge] {
            assert_eq!(make(&keys.public, private, good), Err("VAPID_PRIVATE_KEY".to_owned()), "{private}");
        }
    }

    #[test]
    fn a_subject_is_a_contact_that_the_internet_could_reach() {
        for subject in ["mailto:a@b.example", "mailto:first.last+x@b.example", "https://b.example/contact"] {
            assert!(is_contact(subject), "{subject}");
        }
        for subject in [
            "",
            "a@b.example",
            "mailto:",
            "mailto:@b.example",
            "mailto:a@localhost",
            "mailto:a@b.example,c@d.example",
            "mailto:<a@b.example>",
            "mailto: a@b.example",
            "mailto:a@b@c.example",
            "http://b.example",
            "https://localhost:3000",
            "https://127.0.0.1/",
            "https://",
        ] {
            assert!(!is_contact(subject), "{subject}");
        }
    }
}
