//! What the channel needs to know, and errors that name the variable to mend.

use std::{path::PathBuf, time::Duration};

use url::Url;

use super::KeyPair;
use crate::channels::outbound::AllowedHost;

/// How long one push may take altogether, unless set otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The configuration of the Web Push channel.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `VAPID_PUBLIC_KEY` and `VAPID_PRIVATE_KEY`.
    pub keys: KeyPair,
    /// `VAPID_SUBJECT`: whom a push service may contact, a `mailto:` or `https:` URL (RFC 8292 §2.1).
    pub subject: String,
    /// `WEB_PUSH_ALLOWED_HOSTS`: push services beside the built-in list.
    pub allowed_hosts: Vec<AllowedHost>,
    /// `WEB_PUSH_CA_FILE`: a PEM file of roots that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// `APP_URL`: what a notification's relative link is resolved against. Without it, the declarative half of the
    /// payload is left out.
    pub app_url: Option<Url>,
    /// How long one push may take: waiting for a connection, the request, the answer's status.
    pub timeout: Duration,
}

impl Settings {
    /// The shipped defaults: only the built-in push services, the system's roots, 10 s a push.
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
