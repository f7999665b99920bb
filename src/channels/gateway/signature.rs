//! Signatures of callbacks: `X-Twilio-Signature`.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};

/// Signed data: the URL, then each parameter's name and value, sorted by name.
fn signed(url: &str, parameters: &[(String, String)]) -> Vec<u8> {
    let mut parameters: Vec<_> = parameters.iter().collect();
    parameters.sort();
    let mut text = url.as_bytes().to_vec();
    for (name, value) in parameters {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(value.as_bytes());
    }
    text
}

fn key(token: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.as_bytes())
}

/// Signature of a request: base64 of an HMAC-SHA1 with the account's token. (The protocol prescribes SHA-1; its known
/// collisions don't affect an HMAC.)
///
/// ```
/// use carebell::channels::gateway::signature;
///
/// // The example of Twilio's own documentation.
/// let parameters = [
///     ("CallSid", "CA1234567890ABCDE"),
///     ("Caller", "+14158675309"),
///     ("Digits", "1234"),
///     ("From", "+14158675309"),
///     ("To", "+18005551212"),
/// ];
/// let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
/// let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
/// assert_eq!(signature("12345", url, &parameters), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
/// ```
#[must_use]
pub fn signature(token: &str, url: &str, parameters: &[(String, String)]) -> String {
    STANDARD.encode(hmac::sign(&key(token), &signed(url, parameters)))
}

/// Verifies a signature in constant time, with and without the port: some senders add a default port to the signed URL,
/// or drop its port.
pub fn is_right(token: &str, url: &str, parameters: &[(String, String)], signature: &str) -> bool {
    let Ok(signature) = STANDARD.decode(signature) else { return false };
    let key = key(token);
    let right = |url: &str| hmac::verify(&key, &signed(url, parameters), &signature).is_ok();
    right(url) || other_forms(url).iter().any(|url| right(url))
}

fn other_forms(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return Vec::new() };
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // After the bracket of an IPv6 address.
    let name_end = place.rfind(']').map_or(0, |at| at + 1);
    let host = place[name_end..].find(':').map_or(place, |at| &place[..name_end + at]);
    if host.len() < place.len() {
        return vec![format!("{scheme}://{host}{path}")];
    }
    let port = if scheme == "https" { 443 } else { 80 };
    vec![format!("{scheme}://{host}:{port}{path}")]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_port_may_be_spelt_out_or_not() {
        let parameters = pairs(&[("MessageStatus", "sent")]);
        for (one, other) in [
            ("https://a.example/callbacks/sms/1", "https://a.example:443/callbacks/sms/1"),
            ("https://a.example:8443/callbacks/sms/1", "https://a.example/callbacks/sms/1"),
            ("http://[::1]/x", "http://[::1]:80/x"),
            ("http://[::1]:3003/x", "http://[::1]/x"),
        ] {
            assert!(is_right("t", one, &parameters, &signature("t", other, &parameters)), "{one}");
        }
        let elsewhere = signature("t", "https://b.example/callbacks/sms/1", &parameters);
        assert!(!is_right("t", "https://a.example/callbacks/sms/1", &parameters, &elsewhere));
    }

    proptest! {
        #[test]
        fn any_change_breaks_it(value in "[a-z]{1,8}", other in "[a-z]{1,8}", junk in any::<String>()) {
            let url = "https://a.example/callbacks/sms/1";
            let right = pairs(&[("MessageSid", "SM1"), ("MessageStatus", &value)]);
            let signed = signature("token", url, &right);
            prop_assert!(is_right("token", url, &right, &signed));
            let mut turned = right.clone();
            turned.reverse();
            prop_assert!(is_right("token", url, &turned, &signed), "the order of the fields is nothing");
            let changed = pairs(&[("MessageSid", "SM1"), ("MessageStatus", &other)]);
            prop_assert_eq!(is_right("token", url, &changed, &signed), value == other);
            prop_assert!(!is_right("tokem", url, &right, &signed));
            prop_assert!(!is_right("token", url, &right, &junk));
            prop_assert!(!is_right("token", url, &right, ""));
        }
    }
}
