//! The only file that names the `web-push` crate, so that what it brings along can be weighed again.
//!
//! It signs VAPID tokens (RFC 8292) and builds requests (RFC 8030). Its own sealing and clients are not used: the one
//! signs every message anew, the others never time out.

use std::time::Duration;

use reqwest::{
    Method, Request,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};
use web_push::{
    ContentEncoding, PartialVapidSignatureBuilder, SubscriptionInfo, VapidSignatureBuilder, WebPushMessage,
    WebPushPayload, request_builder::build_request,
};

use super::{Endpoint, Topic, Urgency};

/// RFC 8030 knows no upper bound; push services keep nothing longer than four weeks.
const MAX_TTL: Duration = Duration::from_hours(672);

/// The library refused what it was given; there is nothing to repeat of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request could not be built")]
pub struct Unusable;

/// Signs VAPID tokens with one private key.
#[derive(Clone)]
pub struct Signer(PartialVapidSignatureBuilder);

impl Signer {
    /// Takes the raw private key as base64url without padding.
    pub fn new(private_key: &str) -> Result<Self, Unusable> {
        VapidSignatureBuilder::from_base64_no_sub(private_key).map(Self).map_err(|_| Unusable)
    }

    /// The public key that belongs to it: 65 bytes, uncompressed (SEC 1 §2.3.3).
    pub fn public_key(&self) -> Vec<u8> {
        self.0.get_public_key()
    }

    /// A signed token with these claims; `expires` is in seconds since the Unix epoch.
    ///
    /// The library sets `iat` and `nbf` from the machine's clock, whatever `expires` is computed from.
    pub fn sign(&self, audience: &str, subject: &str, expires: u64) -> Result<String, Unusable> {
        // It wants a subscription for its own idea of the audience, which drops the port. Ours replaces it.
        let subscription = SubscriptionInfo::new(audience, "", "");
        let mut builder = self.0.clone().add_sub_info(&subscription);
        builder.add_claim("aud", audience);
        builder.add_claim("sub", subject);
        builder.add_claim("exp", expires);
        builder.build().map(|signature| signature.auth_t).map_err(|_| Unusable)
    }
}

/// What goes into one request.
pub struct Envelope<'a> {
    /// Where it is posted.
    pub endpoint: &'a Endpoint,
    /// `TTL` (RFC 8030 §5.2), sent in whole seconds, at most four weeks.
    pub ttl: Duration,
    /// `Urgency` (RFC 8030 §5.3).
    pub urgency: Urgency,
    /// `Topic` (RFC 8030 §5.4).
    pub topic: &'a Topic,
    /// The sealed payload.
    pub body: &'a [u8],
    /// The value of the `Authorization` header.
    pub authorization: &'a str,
}

/// Builds the POST of RFC 8030 §5. The library speaks an older `http` than the client, so its parts are taken over one
/// by one.
pub fn request(envelope: &Envelope<'_>) -> Result<Request, Unusable> {
    let message = WebPushMessage {
        endpoint: envelope.endpoint.url().as_str().parse().map_err(|_| Unusable)?,
        ttl: u32::try_from(envelope.ttl.min(MAX_TTL).as_secs()).map_err(|_| Unusable)?,
        urgency: Some(match envelope.urgency {
            Urgency::VeryLow => web_push::Urgency::VeryLow,
            Urgency::Low => web_push::Urgency::Low,
            Urgency::Normal => web_push::Urgency::Normal,
            Urgency::High => web_push::Urgency::High,
        }),
        topic: Some(envelope.topic.as_str().to_owned()),
        payload: Some(WebPushPayload {
            content: envelope.body.to_vec(),
            crypto_headers: vec![("authorization", envelope.authorization.to_owned())],
            content_encoding: ContentEncoding::Aes128Gcm,
        }),
    };
    let (parts, body) = build_request::<reqwest::Body>(message).into_parts();
    let method = Method::from_bytes(parts.method.as_str().as_bytes()).map_err(|_| Unusable)?;
    let mut request = Request::new(method, envelope.endpoint.url().clone());
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(|_| Unusable)?;
        let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Unusable)?;
        // Kept out of debug output and out of HPACK's tables.
        value.set_sensitive(name == AUTHORIZATION);
        request.headers_mut().append(name, value);
    }
    *request.body_mut() = Some(body);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::super::AllowList;
    use super::*;

    fn build(endpoint: &str, ttl: Duration) -> Result<Request, Unusable> {
        let endpoint = Endpoint::parse(endpoint, &AllowList::default()).unwrap();
        request(&Envelope {
            endpoint: &endpoint,
            ttl,
            urgency: Urgency::VeryLow,
            topic: &Topic::of("delivery-1"),
            body: b"sealed",
            authorization: "vapid t=token, k=key",
        })
    }

    #[test]
    fn a_request_carries_every_header_of_the_protocol() {
        let request = build("https://fcm.googleapis.com/fcm/send/x?y=1", Duration::from_millis(90_999)).unwrap();
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.url().as_str(), "https://fcm.googleapis.com/fcm/send/x?y=1");
        for (name, value) in [
            ("ttl", "90"),
            ("urgency", "very-low"),
            ("topic", Topic::of("delivery-1").as_str()),
            ("content-encoding", "aes128gcm"),
            ("content-type", "application/octet-stream"),
            ("content-length", "6"),
            ("authorization", "vapid t=token, k=key"),
        ] {
            assert_eq!(request.headers().get(name).unwrap(), value, "{name}");
        }
        assert!(request.headers()[AUTHORIZATION].is_sensitive());
        assert_eq!(request.body().unwrap().as_bytes().unwrap(), b"sealed");
        assert!(!format!("{:?}", request.headers()).contains("token"));
    }

    #[test]
    fn a_ttl_of_years_is_four_weeks() {
        let request = build("https://fcm.googleapis.com/x", Duration::MAX).unwrap();
        assert_eq!(request.headers()["ttl"], "2419200");
    }
}
