//! The check of an ID token (`OpenID` Connect Core 1.0, 3.1.3.7).

use std::fmt;

use chrono::{DateTime, Utc};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde_json::Value;

/// How far clocks may differ, in seconds.
const SKEW: i64 = 60;

/// Bytes of an ID token.
pub const LONGEST_TOKEN: usize = 16 * 1024;

/// Bytes of a `sub` (section 2).
const LONGEST_SUBJECT: usize = 255;

/// Why an ID token proves nothing. Texts repeat nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// None of the provider's keys has its `kid`. They may be newer than those that are known.
    UnknownKey,
    /// Any other reason.
    For(&'static str),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKey => "is signed by a key that the provider does not publish",
            Self::For(why) => why,
        })
    }
}

/// The values that an ID token must have.
pub struct Expected<'a> {
    /// `iss`
    pub issuer: &'a str,
    /// `aud`
    pub client_id: &'a str,
    /// `nonce`
    pub nonce: &'a str,
    /// The time.
    pub now: DateTime<Utc>,
}

/// The claims of an ID token that holds.
///
/// # Errors
/// Why it does not.
pub fn check(token: &str, keys: &[Jwk], expected: &Expected<'_>) -> Result<Value, Refused> {
    if token.len() > LONGEST_TOKEN {
        return Err(Refused::For("is too long"));
    }
    let header =
        decode_header(token).map_err(|_| Refused::For("is malformed, or signed in a way that is not known"))?;
    if header.alg.family() == AlgorithmFamily::Hmac {
        return Err(Refused::For("is signed by a shared secret; expected a key pair of the provider"));
    }
    if header.crit.is_some() {
        return Err(Refused::For("has a critical header, and none is known"));
    }
    let mut fitting = keys.iter().filter(|key| fits(key, header.alg));
    let key = match &header.kid {
        Some(kid) => keys.iter().find(|key| key.common.key_id.as_ref() == Some(kid)).ok_or(Refused::UnknownKey)?,
        // Section 10.1: without `kid` there must be only one.
        None => match (fitting.next(), fitting.next()) {
            (Some(key), None) => key,
            _ => return Err(Refused::UnknownKey),
        },
    };
    if !fits(key, header.alg) {
        return Err(Refused::For("is signed in another way than its key is for"));
    }
    let key = DecodingKey::from_jwk(key).map_err(|_| Refused::For("is signed by a key that cannot be read"))?;
    // Only the signature: the claims are checked below, by this program's clock.
    let mut signature = Validation::new(header.alg);
    signature.required_spec_claims.clear();
    (signature.validate_exp, signature.validate_aud) = (false, false);
    let decoded = decode::<Value>(token, &key, &signature);
    let claims = decoded.map_err(|_| Refused::For("has a signature that does not hold"))?.claims;
    check_claims(&claims, expected)?;
    Ok(claims)
}

/// Whether a key is for signatures of this kind.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let common = &key.common;
    let is_kind = match (&key.algorithm, algorithm.family()) {
        (AlgorithmParameters::RSA(_), AlgorithmFamily::Rsa) => true,
        (AlgorithmParameters::EllipticCurve(of), AlgorithmFamily::Ec) => match algorithm {
            Algorithm::ES256 => of.curve == EllipticCurve::P256,
            _ => of.curve == EllipticCurve::P384,
        },
        (AlgorithmParameters::OctetKeyPair(of), AlgorithmFamily::Ed) => of.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let named = |of: &KeyAlgorithm| of.to_string().parse() == Ok(algorithm);
    is_kind && signs && common.key_algorithm.as_ref().is_none_or(named)
}

fn check_claims(claims: &Value, expected: &Expected<'_>) -> Result<(), Refused> {
    let refused = |why| Err(Refused::For(why));
    if claims["iss"].as_str() != Some(expected.issuer) {
        return refused("is of another issuer than ADMIN_OIDC_ISSUER (`iss`)");
    }
    let (is_for_us, is_for_others) = match &claims["aud"] {
        Value::String(one) => (one == expected.client_id, false),
        Value::Array(all) => (all.iter().any(|one| one == expected.client_id), all.len() > 1),
        _ => (false, false),
    };
    if !is_for_us {
        return refused("is for another client than ADMIN_OIDC_CLIENT_ID (`aud`)");
    }
    match claims.get("azp") {
        Some(party) if party != expected.client_id => return refused("was given to another client (`azp`)"),
        None if is_for_others => return refused("is for several clients, and does not say for which (`azp`)"),
        _ => {}
    }
    if claims["nonce"].as_str() != Some(expected.nonce) {
        return refused("is not of this sign-in (`nonce`)");
    }
    let now = expected.now.timestamp();
    let seconds = |name: &str| claims.get(name).and_then(seconds);
    match seconds("exp") {
        None => return refused("does not say when it expires (`exp`)"),
        Some(end) if end + SKEW <= now => return refused("has expired (`exp`); compare the clocks of both machines"),
        Some(_) => {}
    }
    let comes = |name: &str| seconds(name).is_some_and(|at| at > now + SKEW);
    if comes("nbf") || comes("iat") {
        return refused("is not valid yet (`nbf`, `iat`); compare the clocks of both machines");
    }
    let subject = claims["sub"].as_str().unwrap_or_default();
    if subject.is_empty() || subject.len() > LONGEST_SUBJECT || subject.contains(char::is_control) {
        return refused("does not say whose it is (`sub`)");
    }
    Ok(())
}

/// A `NumericDate`, which may have a fraction (RFC 7519, section 2).
fn seconds(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    let whole = |seconds: f64| seconds as i64;
    // Far from the bounds, so that sums do not overflow.
    value.as_i64().or_else(|| value.as_f64().map(whole)).filter(|seconds| (0..=1 << 40).contains(seconds))
}

/// A claim by its name, or by a JSON pointer (RFC 6901) into it, such as `/realm_access/roles`.
pub fn named<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) }
}
