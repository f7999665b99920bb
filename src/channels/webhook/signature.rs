//! Signatures by Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};

/// Bytes of a key: shorter ones are guessable, longer ones a mistake.
const KEY_LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// One signature per secret, separated by blanks. Fails without a secret, or if one is not `whsec_` and 24 to 64 bytes
/// as base64.
pub fn sign_with_all(secrets: &str, id: &str, timestamp: i64, body: &[u8]) -> Result<String, &'static str> {
    let keys = secrets.split_whitespace().map(key).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err("the webhook has no secret in user_addresses.secrets");
    }
    let signatures: Vec<String> = keys.iter().map(|key| sign(key, id, timestamp, body)).collect();
    Ok(signatures.join(" "))
}

fn key(secret: &str) -> Result<hmac::Key, &'static str> {
    let bytes = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let bytes = bytes.filter(|bytes| KEY_LENGTH.contains(&bytes.len()));
    let bytes = bytes.ok_or("a secret of the webhook is not whsec_ and 24 to 64 bytes as base64")?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn sign(key: &hmac::Key, id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_specification_has_its_signature() {
        let signed = sign_with_all(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_repeated() {
        for secrets in ["", " ", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_?"] {
            let why = sign_with_all(secrets, "id", 0, b"").unwrap_err();
            assert!(secrets.trim().is_empty() || !why.contains(&secrets[6..]) || secrets == "whsec_", "{why}");
        }
    }

    proptest! {
        #[test]
        fn another_library_agrees(key in prop::collection::vec(any::<u8>(), 24..=64), other in prop::collection::vec(any::<u8>(), 24..=64),
                                  id in "[a-z0-9-]{1,40}", timestamp in 0..4_000_000_000_i64, body: String) {
            let secrets = [key, other].map(|key| format!("whsec_{}", STANDARD.encode(key)));
            let signed = sign_with_all(&secrets.join(" "), &id, timestamp, body.as_bytes()).unwrap();
            let oracle = secrets.map(|secret| {
                standardwebhooks::Webhook::new(&secret).unwrap().sign(&id, timestamp, body.as_bytes()).unwrap()
            });
            prop_assert_eq!(signed, oracle.join(" "));
        }
    }
}
