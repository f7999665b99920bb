//! Message encryption (RFC 8291): a push service can't read its pushes.
//!
//! A push is one record of the `aes128gcm` content coding (RFC 8188) under a fresh key.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey},
    hkdf::{self, HKDF_SHA256, KeyType, Salt},
    rand::{self, SystemRandom},
};
use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Bytes. Push services must accept bodies of up to 4,096 (RFC 8291 §4).
const RECORD: usize = 4096;
const SALT: usize = 16;
const POINT: usize = 65;
const AUTH: usize = 16;
const TAG: usize = 16;
/// Salt, record size, key length, key (RFC 8188 §2.1).
const HEADER: usize = SALT + 4 + 1 + POINT;

/// Longest plaintext in bytes: the record without header, tag and delimiter.
pub const MAX_PLAINTEXT: usize = RECORD - HEADER - TAG - 1;

/// The browser's public key and shared secret.
pub struct SubscriberKeys {
    p256dh: [u8; POINT],
    auth: [u8; AUTH],
}

impl SubscriberKeys {
    /// Reads both as base64, in any alphabet and padding.
    pub fn parse(p256dh: &str, auth: &str) -> Result<Self, SealError> {
        let p256dh: [u8; POINT] = decode(p256dh).and_then(|bytes| bytes.try_into().ok()).ok_or(SealError::PublicKey)?;
        let auth = decode(auth).and_then(|bytes| bytes.try_into().ok()).ok_or(SealError::Secret)?;
        // Only uncompressed points (RFC 8291 §3.1). The key agreement checks the curve.
        if p256dh[0] != 4 {
            return Err(SealError::PublicKey);
        }
        Ok(Self { p256dh, auth })
    }
}

/// Why encryption failed. The texts never repeat a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// `p256dh` is not base64, not 65 bytes, or not on the curve.
    #[error("p256dh is not an uncompressed P-256 public key in base64url")]
    PublicKey,
    /// Invalid `auth`.
    #[error("auth is not 16 bytes in base64url")]
    Secret,
    /// The plaintext exceeds one record.
    #[error("the payload is longer than {MAX_PLAINTEXT} bytes")]
    TooLong,
    /// No randomness, or another internal failure.
    #[error("the cryptographic library failed")]
    Internal,
}

/// Encrypts a plaintext with a fresh key and salt.
pub fn seal(keys: &SubscriberKeys, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let ephemeral = PrivateKey::generate(&ECDH_P256).map_err(|_| SealError::Internal)?;
    let salt: [u8; SALT] = rand::generate(&SystemRandom::new()).map_err(|_| SealError::Internal)?.expose();
    seal_with(keys, plaintext, &ephemeral, salt)
}

/// For the test vectors of RFC 8291.
fn seal_with(
    keys: &SubscriberKeys,
    plaintext: &[u8],
    ephemeral: &PrivateKey,
    salt: [u8; SALT],
) -> Result<Vec<u8>, SealError> {
    if plaintext.len() > MAX_PLAINTEXT {
        return Err(SealError::TooLong);
    }
    let public = ephemeral.compute_public_key().map_err(|_| SealError::Internal)?;
    let public = public.as_ref();
    let peer = UnparsedPublicKey::new(&ECDH_P256, keys.p256dh.as_slice());
    let key_material: [u8; 32] = agreement::agree(ephemeral, peer, SealError::PublicKey, |shared| {
        expand(&keys.auth, shared, &[b"WebPush: info\0", &keys.p256dh, public])
    })?;
    let key: [u8; 16] = expand(&salt, &key_material, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce: [u8; 12] = expand(&salt, &key_material, &[b"Content-Encoding: nonce\0"])?;

    let mut body = Vec::with_capacity(HEADER + plaintext.len() + 1 + TAG);
    body.extend_from_slice(&salt);
    body.extend_from_slice(&4096_u32.to_be_bytes());
    body.push(65);
    body.extend_from_slice(public);
    body.extend_from_slice(plaintext);
    body.push(2); // The delimiter of a last record (RFC 8188 §2).
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).map_err(|_| SealError::Internal)?);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body[HEADER..])
        .map_err(|_| SealError::Internal)?;
    body.extend_from_slice(tag.as_ref());
    Ok(body)
}

/// RFC 5869.
fn expand<const N: usize>(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> Result<[u8; N], SealError> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let extracted: hkdf::Prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    let mut output = [0; N];
    extracted
        .expand(info, Length(N))
        .and_then(|expanded| expanded.fill(&mut output))
        .map_err(|_| SealError::Internal)?;
    Ok(output)
}

/// Base64 from browsers and applications: url-safe or standard, padded or not.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    // No key is longer than 65 bytes.
    if text.len() > 1024 {
        return None;
    }
    LENIENT.decode(text.trim().replace('+', "-").replace('/', "_")).ok()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE as URL_SAFE_PADDED, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    // RFC 8291 §5 and appendix A.
    const PLAINTEXT: &[u8] = b"When I grow up, I want to be a watermelon";
    const UA_PUBLIC: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const UA_PRIVATE: &str = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94";
    const AUTH_SECRET: &str = "BTBZMqHH6r4Tts7J_aSIgg";
    const AS_PRIVATE: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";
    const RFC_SALT: &str = "DGv6ra1nlYgDCS1FRnbzlw";
    const BODY: &str = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6Tlz\
                        AC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";

    #[test]
    fn the_vectors_of_rfc_8291_come_out_byte_for_byte() {
        let keys = SubscriberKeys::parse(UA_PUBLIC, AUTH_SECRET).unwrap();
        let ephemeral = PrivateKey::from_private_key(&ECDH_P256, &decode(AS_PRIVATE).unwrap()).unwrap();
        let salt = decode(RFC_SALT).unwrap().try_into().unwrap();
        let body = seal_with(&keys, PLAINTEXT, &ephemeral, salt).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(&body), BODY);
        let receiver = ece::EcKeyComponents::new(decode(UA_PRIVATE).unwrap(), decode(UA_PUBLIC).unwrap());
        assert_eq!(ece::decrypt(&receiver, &decode(AUTH_SECRET).unwrap(), &body).unwrap(), PLAINTEXT);
    }

    #[test]
    fn keys_are_read_in_every_usual_form() {
        let (p256dh, auth) = (decode(UA_PUBLIC).unwrap(), decode(AUTH_SECRET).unwrap());
        for (p256dh, auth) in [
            (URL_SAFE_NO_PAD.encode(&p256dh), URL_SAFE_NO_PAD.encode(&auth)),
            (URL_SAFE_PADDED.encode(&p256dh), URL_SAFE_PADDED.encode(&auth)),
            (STANDARD.encode(&p256dh), STANDARD.encode(&auth)),
        ] {
            assert!(SubscriberKeys::parse(&p256dh, &auth).is_ok(), "{p256dh} {auth}");
        }
    }

    #[test]
    fn broken_keys_are_told_apart() {
        let compressed = URL_SAFE_NO_PAD.encode([&[2], &decode(UA_PUBLIC).unwrap()[1..33]].concat());
        let hybrid = URL_SAFE_NO_PAD.encode([&[6], &decode(UA_PUBLIC).unwrap()[1..]].concat());
        for p256dh in ["", "AAAA", "not base64!", &compressed, &hybrid, AUTH_SECRET, &"A".repeat(1_000_000)] {
            assert_eq!(SubscriberKeys::parse(p256dh, AUTH_SECRET).err(), Some(SealError::PublicKey));
        }
        for auth in ["", "AAAA", "BTBZMqHH6r4Tts7J_aSIggAA", "=", UA_PUBLIC] {
            assert_eq!(SubscriberKeys::parse(UA_PUBLIC, auth).err(), Some(SealError::Secret));
        }
        let off_the_curve = URL_SAFE_NO_PAD.encode([[4].as_slice(), &[1; 64]].concat());
        let keys = SubscriberKeys::parse(&off_the_curve, AUTH_SECRET).unwrap();
        assert_eq!(seal(&keys, b"x"), Err(SealError::PublicKey));
    }

    #[test]
    fn the_longest_plaintext_fills_a_record_and_one_byte_more_is_refused() {
        let keys = SubscriberKeys::parse(UA_PUBLIC, AUTH_SECRET).unwrap();
        assert_eq!(MAX_PLAINTEXT, 3993);
        assert_eq!(seal(&keys, &[7; MAX_PLAINTEXT]).unwrap().len(), 4096);
        assert_eq!(seal(&keys, &[7; MAX_PLAINTEXT + 1]), Err(SealError::TooLong));
    }

    #[test]
    fn no_two_bodies_share_a_key_or_a_salt() {
        let keys = SubscriberKeys::parse(UA_PUBLIC, AUTH_SECRET).unwrap();
        let (one, two) = (seal(&keys, b"same").unwrap(), seal(&keys, b"same").unwrap());
        assert_ne!(one[..SALT], two[..SALT]);
        assert_ne!(one[SALT + 5..HEADER], two[SALT + 5..HEADER]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn another_implementation_opens_what_is_sealed(plaintext in proptest::collection::vec(any::<u8>(), 0..=MAX_PLAINTEXT)) {
            let (receiver, auth) = ece::generate_keypair_and_auth_secret().unwrap();
            let keys = SubscriberKeys::parse(
                &URL_SAFE_NO_PAD.encode(receiver.pub_as_raw().unwrap()),
                &URL_SAFE_NO_PAD.encode(auth),
            ).unwrap();
            let body = seal(&keys, &plaintext).unwrap();
            prop_assert_eq!(ece::decrypt(&receiver.raw_components().unwrap(), &auth, &body).unwrap(), plaintext);
        }

        #[test]
        fn reading_keys_never_panics(p256dh in any::<String>(), auth in any::<String>()) {
            let _ = SubscriberKeys::parse(&p256dh, &auth);
        }
    }
}
