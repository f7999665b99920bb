/// Bytes. The longest known endpoints (WNS) have less than 1,100.
pub const MAX_LENGTH: usize = 2048;

/// Why an endpoint is refused. The texts never repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointRefused {
    /// Longer than any push service makes them.
    #[error("the endpoint is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Not a plain `https://host[:port]/…`, or unescaped characters.
    #[error("the endpoint is not a URL as push services make them")]
    Malformed,
    /// Not `https` (RFC 8030 §8).
    #[error("the endpoint is not https")]
    NotHttps,
    /// `user@` or `user:password@` before the host.
    #[error("the endpoint carries a user name")]
    UserInfo,
    /// What Chrome makes of the endpoint of a subscription that it has removed.
    #[error("the browser has removed the subscription")]
    Removed,
    /// Host neither built in nor in `WEB_PUSH_ALLOWED_HOSTS`.
    #[error("the endpoint's host is not a known push service")]
    Host,
    /// Known host, wrong port.
    #[error("the endpoint's port is not allowed")]
    Port,
}
