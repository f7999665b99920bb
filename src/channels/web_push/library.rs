//! The only file that uses the `web-push` crate, and only to sign VAPID tokens (RFC 8292).
//!
//! Its encryption signs every message anew, its requests use an older `http` version, and its clients have no timeouts.

use web_push::{PartialVapidSignatureBuilder, SubscriptionInfo, VapidSignatureBuilder};

/// The library refused its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request could not be built")]
pub struct Unusable;

#[derive(Clone)]
pub struct Signer(PartialVapidSignatureBuilder);

impl Signer {
    /// Takes the raw private key as base64url without padding.
    pub fn new(private_key: &str) -> Result<Self, Unusable> {
        VapidSignatureBuilder::from_base64_no_sub(private_key).map(Self).map_err(|_| Unusable)
    }

    /// Public key: 65 bytes, uncompressed (SEC 1 §2.3.3).
    pub fn public_key(&self) -> Vec<u8> {
        self.0.get_public_key()
    }

    /// Signs a token; `expires` is in seconds since the Unix epoch.
    ///
    /// The library sets `iat` and `nbf` from the machine's clock.
    pub fn sign(&self, audience: &str, subject: &str, expires: u64) -> Result<String, Unusable> {
        // It derives an audience without a port; ours replaces it.
        let subscription = SubscriptionInfo::new(audience, "", "");
        let mut builder = self.0.clone().add_sub_info(&subscription);
        builder.add_claim("aud", audience);
        builder.add_claim("sub", subject);
        builder.add_claim("exp", expires);
        builder.build().map(|signature| signature.auth_t).map_err(|_| Unusable)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use web_push::{ContentEncoding, WebPushMessage, WebPushPayload, request_builder::build_request};

    use super::super::{
        AllowList, Endpoint, Topic, Urgency,
        request::{Envelope, request},
    };

    proptest! {
        #[test]
        fn the_library_makes_the_same_request(
            path in "[a-zA-Z0-9_/:-]{1,80}",
            seconds in 0_u32..3_000_000,
            (urgency, theirs) in prop_oneof![
                Just((Urgency::VeryLow, web_push::Urgency::VeryLow)),
                Just((Urgency::Low, web_push::Urgency::Low)),
                Just((Urgency::Normal, web_push::Urgency::Normal)),
                Just((Urgency::High, web_push::Urgency::High)),
            ],
        ) {
            let endpoint = format!("https://updates.push.services.mozilla.com/{path}");
            let topic = Topic::of("delivery-1");
            let (endpoint, body) = (Endpoint::parse(&endpoint, &AllowList::default()).unwrap(), Bytes::from_static(b"sealed"));
            let authorization = "vapid t=token, k=key";
            let ttl = Duration::from_secs(seconds.into());
            let ours = request(&Envelope { endpoint: &endpoint, ttl, urgency, topic: &topic, body: &body, authorization }).unwrap();
            let theirs = build_request::<Vec<u8>>(WebPushMessage {
                endpoint: endpoint.url().as_str().parse().unwrap(),
                ttl: seconds.min(2_419_200),
                urgency: Some(theirs),
                topic: Some(topic.as_str().to_owned()),
                payload: Some(WebPushPayload {
                    content: body.to_vec(),
                    crypto_headers: vec![("authorization", authorization.to_owned())],
                    content_encoding: ContentEncoding::Aes128Gcm,
                }),
            });
            let mut expected: Vec<(String, Vec<u8>)> =
                theirs.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
            let mut made: Vec<(String, Vec<u8>)> =
                ours.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
            expected.sort();
            made.sort();
            prop_assert_eq!(made, expected);
            prop_assert_eq!(ours.method().as_str(), theirs.method().as_str());
            prop_assert_eq!(ours.url().as_str(), theirs.uri().to_string());
            prop_assert_eq!(ours.body().unwrap().as_bytes().unwrap(), theirs.body().as_slice());
        }
    }
}
