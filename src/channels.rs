//! The ways to reach a person. A channel is a folder: one address, one send, one classification of the answer.

pub mod web_push;

use std::{fmt, sync::Arc};

use self::web_push::WebPush;
use crate::{kind::Kind, plan::Channel};

/// The channels that are configured. Cheap to clone.
#[derive(Clone, Default)]
pub struct Channels {
    /// Web Push, where there are VAPID keys.
    pub web_push: Option<Arc<WebPush>>,
}

impl Channels {
    /// Whether deliveries of this kind (`deliver.<channel>`) can be sent.
    #[must_use]
    pub fn can_send(&self, kind: Kind) -> bool {
        kind.name.strip_prefix("deliver.") == Some(Channel::WebPush.name()) && self.web_push.is_some()
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("web_push", &self.web_push.is_some()).finish()
    }
}
