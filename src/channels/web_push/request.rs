use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, Request,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue},
};

use super::{Endpoint, Topic, Urgency, library::Unusable};

/// Push services keep nothing for more than four weeks.
const MAX_TTL: Duration = Duration::from_hours(672);

/// With 0, services drop what they cannot deliver in this very moment.
const MIN_TTL: Duration = Duration::from_secs(1);

const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");
const TOPIC: HeaderName = HeaderName::from_static("topic");

pub struct Envelope<'a> {
    pub endpoint: &'a Endpoint,
    /// Whole seconds (RFC 8030 §5.2), at least one, at most four weeks.
    pub ttl: Duration,
    pub urgency: Urgency,
    /// RFC 8030 §5.4.
    pub topic: &'a Topic,
    pub body: &'a Bytes,
    pub authorization: &'a str,
}

/// Fails if the token or topic isn't a valid header value; ours always are.
pub fn request(envelope: &Envelope<'_>) -> Result<Request, Unusable> {
    let mut request = Request::new(Method::POST, envelope.endpoint.url().clone());
    let headers = request.headers_mut();
    headers.reserve(7);
    headers.insert(TTL, envelope.ttl.clamp(MIN_TTL, MAX_TTL).as_secs().into());
    headers.insert(URGENCY, HeaderValue::from_static(envelope.urgency.name()));
    headers.insert(TOPIC, HeaderValue::from_str(envelope.topic.as_str()).map_err(|_| Unusable)?);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
    headers.insert(CONTENT_LENGTH, envelope.body.len().into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let mut authorization = HeaderValue::from_str(envelope.authorization).map_err(|_| Unusable)?;
    // Kept out of debug output and HPACK tables.
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    *request.body_mut() = Some(envelope.body.clone().into());
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::{super::AllowList, *};

    const BODY: Bytes = Bytes::from_static(b"sealed");

    fn build(endpoint: &str, ttl: Duration, urgency: Urgency) -> Request {
        let endpoint = Endpoint::parse(endpoint, &AllowList::default()).unwrap();
        let topic = Topic::of("delivery-1");
        let authorization = "vapid t=token, k=key";
        request(&Envelope { endpoint: &endpoint, ttl, urgency, topic: &topic, body: &BODY, authorization }).unwrap()
    }

    #[test]
    fn a_request_carries_every_header_of_the_protocol() {
        let request =
            build("https://fcm.googleapis.com/fcm/send/x?y=1", Duration::from_millis(90_999), Urgency::VeryLow);
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
    fn a_ttl_is_a_second_at_least_and_four_weeks_at_most() {
        for (ttl, sent) in [(Duration::MAX, "2419200"), (Duration::from_millis(1999), "1"), (Duration::ZERO, "1")] {
            let request = build("https://fcm.googleapis.com/x", ttl, Urgency::High);
            assert_eq!(request.headers()["ttl"], sent, "{ttl:?}");
        }
    }
}
