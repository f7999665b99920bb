use std::{path::PathBuf, time::Duration};

use url::Url;

use super::KeyPair;
use crate::channels::outbound::AllowedHost;

/// Default limit of one push.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of the Web Push channel.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `VAPID_PUBLIC_KEY` and `VAPID_PRIVATE_KEY`.
    pub keys: KeyPair,
    /// `VAPID_SUBJECT`: contact for push services, a `mailto:` or `https:` URL (RFC 8292 §2.1).
    pub subject: String,
    /// `WEB_PUSH_ALLOWED_HOSTS`: additional push services.
    pub allowed_hosts: Vec<AllowedHost>,
    /// `WEB_PUSH_CA_FILE`: PEM file of additional trusted roots.
    pub ca_file: Option<PathBuf>,
    /// `APP_URL`: base of relative links. Without it, payloads lack the declarative half.
    pub app_url: Option<Url>,
    /// Limit of one push, up to the response's status.
    pub timeout: Duration,
}

impl Settings {
    /// Defaults: built-in push services, the system's roots, 10 s a push.
    pub fn new(keys: KeyPair, subject: impl Into<String>) -> Self {
        Self {
            keys,
            subject: subject.into(),
            allowed_hosts: Vec::new(),
            ca_file: None,
            app_url: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}
