//! Rules for pushes, each checked with another library than the sender's.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use axum::http::{HeaderMap, Method, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use ece::EcKeyComponents;
use serde::Deserialize;

/// Push services need not accept more (RFC 8291 §4).
pub const MAX_BODY: usize = 4096;

/// Salt, record size, length of the key, key.
const CODING_HEADER: usize = 16 + 4 + 1 + 65;

/// A request with a bounded body.
pub struct Request<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// The browser's side of a subscription.
#[derive(Clone)]
pub struct Receiver {
    /// Key pair; `p256dh` is its public half.
    pub keys: EcKeyComponents,
    /// Secret shared with the sender.
    pub auth: [u8; 16],
    /// The only accepted sender, as base64url.
    pub public_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub status: u16,
    pub why: String,
}

impl Violation {
    pub fn new(status: u16, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

/// A valid push.
pub struct Verified {
    pub plaintext: Vec<u8>,
    /// Seconds.
    pub ttl: u32,
    pub urgency: String,
    pub topic: String,
    pub claims: VapidClaims,
    pub token: String,
}

/// Claims of a VAPID token (RFC 8292 §2).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VapidClaims {
    /// Audience: the push service's origin, with its port unless 443.
    pub aud: String,
    /// Seconds since the Unix epoch.
    pub exp: i64,
    /// Contact for the push service: a `mailto:` or `https:` URL.
    pub sub: String,
}

/// Checks requests. Remembers good signatures, as senders reuse tokens.
#[derive(Default)]
pub struct Verifier {
    good: Mutex<HashSet<String>>,
}

impl Verifier {
    /// Checks a request to `receiver`, with `origin` as audience. Fails with the first broken rule.
    pub fn verify(
        &self,
        request: &Request<'_>,
        receiver: &Receiver,
        origin: &str,
        now: DateTime<Utc>,
    ) -> Result<Verified, Violation> {
        if request.method != Method::POST {
            return Err(Violation::new(400, format!("{} instead of POST", request.method)));
        }
        let (claims, token) = self.authorization(request.headers, receiver, origin, now)?;
        if text(request.headers, header::CONTENT_ENCODING.as_str())? != "aes128gcm" {
            return Err(Violation::new(400, "the content coding is not aes128gcm"));
        }
        let ttl = text(request.headers, "ttl")?;
        if !ttl.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Violation::new(400, "TTL is not a number of seconds"));
        }
        let ttl = ttl.parse().map_err(|_| Violation::new(400, "TTL is not a number of seconds"))?;
        let urgency = text(request.headers, "urgency")?;
        if !["very-low", "low", "normal", "high"].contains(&urgency) {
            return Err(Violation::new(400, "Urgency is not one of RFC 8030"));
        }
        let topic = text(request.headers, "topic")?;
        if topic.len() != 32 || !topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        {
            return Err(Violation::new(400, "Topic is not 32 characters of url-safe base64"));
        }
        let plaintext = open(request.body, receiver)?;
        Ok(Verified { plaintext, ttl, urgency: urgency.to_owned(), topic: topic.to_owned(), claims, token })
    }

    fn authorization(
        &self,
        headers: &HeaderMap,
        receiver: &Receiver,
        origin: &str,
        now: DateTime<Utc>,
    ) -> Result<(VapidClaims, String), Violation> {
        let refuse = |why: &str| Violation::new(401, why);
        let value = text(headers, "authorization").map_err(|violation| refuse(&violation.why))?;
        let parameters = value.strip_prefix("vapid ").ok_or_else(|| refuse("Authorization is not of scheme vapid"))?;
        let find = |name: &str| parameters.split(',').find_map(|part| part.trim().strip_prefix(name));
        let token = find("t=").ok_or_else(|| refuse("the token is missing"))?;
        let key = find("k=").ok_or_else(|| refuse("the key is missing"))?;
        self.signature(token, key).map_err(refuse)?;
        let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: VapidClaims = claims
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| refuse("the token lacks aud, exp or sub"))?;
        if claims.aud != origin {
            return Err(refuse(&format!("aud is {} instead of {origin}", claims.aud)));
        }
        if claims.exp <= now.timestamp() {
            return Err(refuse("the token has expired"));
        }
        if claims.exp > (now + TimeDelta::hours(24)).timestamp() {
            return Err(refuse("exp is more than 24 hours ahead"));
        }
        if !claims.sub.starts_with("mailto:") && !claims.sub.starts_with("https://") {
            return Err(refuse("sub is neither a mailto: nor an https: URL"));
        }
        if receiver.public_key.as_ref().is_some_and(|expected| expected != key) {
            return Err(Violation::new(403, "the subscription was made with another key"));
        }
        Ok((claims, token.to_owned()))
    }

    /// ES256 over header and claims (RFC 7515), with the key sent along.
    fn signature(&self, token: &str, key: &str) -> Result<(), &'static str> {
        let seen = format!("{token},{key}");
        if self.good.lock().unwrap_or_else(PoisonError::into_inner).contains(&seen) {
            return Ok(());
        }
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let (signed, signature) = token.rsplit_once('.').ok_or("the token is not a JWT")?;
        let algorithm = signed.split('.').next().and_then(decode);
        let algorithm: Option<serde_json::Value> = algorithm.and_then(|json| serde_json::from_slice(&json).ok());
        if algorithm.is_none_or(|header| header["alg"] != "ES256") {
            return Err("the token is not signed with ES256");
        }
        let key = decode(key).filter(|key| key.len() == 65).ok_or("the key is not a P-256 point")?;
        let signature = decode(signature).ok_or("the signature is not base64url")?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| "the signature is wrong")?;
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= 1000 {
            good.clear();
        }
        good.insert(seen);
        Ok(())
    }
}

/// Decrypts like a browser; one record only (RFC 8291 §4).
fn open(body: &[u8], receiver: &Receiver) -> Result<Vec<u8>, Violation> {
    let Some(header) = body.get(..CODING_HEADER) else {
        return Err(Violation::new(400, "the body is shorter than its header"));
    };
    let size = u32::from_be_bytes([header[16], header[17], header[18], header[19]]);
    if header[20] != 65 || usize::try_from(size).is_ok_and(|size| size < body.len() - CODING_HEADER) {
        return Err(Violation::new(400, "the body is not one record with a P-256 key"));
    }
    ece::decrypt(&receiver.keys, &receiver.auth, body).map_err(|_| Violation::new(400, "the body does not decrypt"))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Violation> {
    let mut values = headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(value)), None) => Ok(value),
        (None, _) => Err(Violation::new(400, format!("{name} is missing"))),
        (Some(Err(_)), _) | (_, Some(_)) => Err(Violation::new(400, format!("{name} is malformed or repeated"))),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::Clock;

    const ORIGIN: &str = "https://localhost:8443";

    struct Bench {
        now: DateTime<Utc>,
        receiver: Receiver,
        keys: EcdsaKeyPair,
    }

    struct ByHand {
        method: Method,
        headers: HeaderMap,
        body: Vec<u8>,
    }

    impl Bench {
        fn new() -> Self {
            let (keys, auth) = ece::generate_keypair_and_auth_secret().unwrap();
            let receiver = Receiver { keys: keys.raw_components().unwrap(), auth, public_key: None };
            let keys = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            Self { now: Clock::manual("2026-03-29T00:30:00Z".parse().unwrap()).now(), receiver, keys }
        }

        fn public(&self) -> String {
            URL_SAFE_NO_PAD.encode(self.keys.public_key())
        }

        fn authorization(&self, algorithm: &str, changes: &Value) -> String {
            let mut claims = json!({"aud": ORIGIN, "exp": self.now.timestamp() + 3600, "sub": "mailto:ops@a.example"});
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
            let signed = format!("{}.{}", encode(json!({"alg": algorithm, "typ": "JWT"})), encode(claims));
            let signature = self.keys.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("vapid t={signed}.{}, k={}", URL_SAFE_NO_PAD.encode(signature), self.public())
        }

        fn good(&self) -> ByHand {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", self.authorization("ES256", &json!({})).parse().unwrap());
            headers.insert("content-encoding", "aes128gcm".parse().unwrap());
            headers.insert("ttl", "60".parse().unwrap());
            headers.insert("urgency", "normal".parse().unwrap());
            headers.insert("topic", "abcdefghijklmnopqrstuvwxyz-_0123".parse().unwrap());
            let body = ece::encrypt(self.receiver.keys.public_key(), &self.receiver.auth, b"by hand").unwrap();
            ByHand { method: Method::POST, headers, body }
        }

        fn header(&self, name: &'static str, value: &str) -> ByHand {
            let mut request = self.good();
            request.headers.insert(name, value.parse().unwrap());
            request
        }

        fn without(&self, name: &str) -> ByHand {
            let mut request = self.good();
            request.headers.remove(name);
            request
        }

        fn claims(&self, changes: &Value) -> ByHand {
            self.header("authorization", &self.authorization("ES256", changes))
        }

        fn verify(&self, verifier: &Verifier, request: &ByHand, receiver: &Receiver) -> Result<Verified, Violation> {
            let ByHand { method, headers, body } = request;
            verifier.verify(&Request { method, path: "/push/x", headers, body }, receiver, ORIGIN, self.now)
        }
    }

    #[test]
    fn whatever_breaks_a_rule_is_refused_by_its_name() {
        let bench = Bench::new();
        let other = Bench::new();
        let now = bench.now.timestamp();
        let mut tampered = bench.good();
        *tampered.body.last_mut().unwrap() ^= 1;
        let forged = bench.authorization("ES256", &json!({})).replace(&bench.public(), &other.public());
        let mut twice = bench.good();
        twice.headers.append("ttl", "61".parse().unwrap());
        let cases = [
            (400, "PUT instead of POST", ByHand { method: Method::PUT, ..bench.good() }),
            (401, "authorization is missing", bench.without("authorization")),
            (401, "not of scheme vapid", bench.header("authorization", "WebPush abc")),
            (401, "the key is missing", bench.header("authorization", "vapid t=abc")),
            (401, "the token is missing", bench.header("authorization", "vapid k=abc")),
            (401, "not a JWT", bench.header("authorization", "vapid t=abc, k=abc")),
            (401, "signature is wrong", bench.header("authorization", &forged)),
            (401, "not signed with ES256", bench.header("authorization", &bench.authorization("none", &json!({})))),
            (401, "aud is https://localhost instead", bench.claims(&json!({"aud": "https://localhost"}))),
            (401, "has expired", bench.claims(&json!({"exp": now}))),
            (401, "24 hours", bench.claims(&json!({"exp": now + 24 * 3600 + 1}))),
            (401, "sub is neither", bench.claims(&json!({"sub": "ops@a.example"}))),
            (401, "lacks aud, exp or sub", bench.claims(&json!({"sub": null}))),
            (400, "content coding", bench.header("content-encoding", "aesgcm")),
            (400, "content-encoding is missing", bench.without("content-encoding")),
            (400, "ttl is missing", bench.without("ttl")),
            (400, "ttl is malformed or repeated", twice),
            (400, "TTL is not", bench.header("ttl", "1.5")),
            (400, "TTL is not", bench.header("ttl", "-1")),
            (400, "TTL is not", bench.header("ttl", "99999999999")),
            (400, "Urgency is not one", bench.header("urgency", "urgent")),
            (400, "Topic is not", bench.header("topic", &"a".repeat(31))),
            (400, "Topic is not", bench.header("topic", &"a".repeat(33))),
            (400, "Topic is not", bench.header("topic", &"+".repeat(32))),
            (400, "does not decrypt", tampered),
            (400, "does not decrypt", ByHand { body: other.good().body, ..bench.good() }),
            (400, "shorter than its header", ByHand { body: b"plain".to_vec(), ..bench.good() }),
            (400, "not one record", ByHand { body: vec![0; 200], ..bench.good() }),
        ];
        let verifier = Verifier::default();
        for (status, why, request) in cases {
            let violation = bench.verify(&verifier, &request, &bench.receiver).err().expect(why);
            assert!(violation.status == status && violation.why.contains(why), "{why}: {violation:?}");
        }
        let taken = bench.verify(&verifier, &bench.good(), &bench.receiver).ok().unwrap();
        assert_eq!((taken.plaintext.as_slice(), taken.ttl), (b"by hand".as_slice(), 60));
    }

    #[test]
    fn a_subscription_takes_pushes_of_its_own_sender_only_and_a_known_token_is_checked_again() {
        let bench = Bench::new();
        let verifier = Verifier::default();
        let request = bench.good();
        let with = |public: String| Receiver { public_key: Some(public), ..bench.receiver.clone() };
        assert!(bench.verify(&verifier, &request, &with(bench.public())).is_ok());
        let violation = bench.verify(&verifier, &request, &with(Bench::new().public())).err().unwrap();
        assert_eq!(violation.status, 403);
        let later = Bench { now: bench.now + TimeDelta::hours(2), ..Bench::new() };
        assert!(later.verify(&verifier, &request, &bench.receiver).err().unwrap().why.contains("expired"));
    }
}
