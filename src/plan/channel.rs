//! The channels, as the ledger names them.

use crate::kind::Kind;

/// A channel as a type: the deliveries of each channel are a kind of their own.
pub trait By: Send + Sync + 'static {
    /// The channel.
    const CHANNEL: Channel;
}

/// Makes [`Channel`] and the types of [`by`] from one line a channel: its name in the ledger, and from that the name of
/// its kind.
macro_rules! channels {
    ($($(#[$text:meta])* $channel:ident = $name:literal,)*) => {
        /// A way to reach a person.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Channel { $($(#[$text])* $channel,)* }

        impl Channel {
            /// All channels, in the order of their numbers.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$channel),*];

            /// The name in the ledger, in metric labels and in `deliver.<channel>`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$channel => $name,)* }
            }

            /// The kind of job that sends by this channel.
            #[must_use]
            pub const fn kind(self) -> Kind {
                Kind::delivery(match self { $(Self::$channel => concat!("deliver.", $name),)* })
            }
        }

        /// Each channel as a type.
        pub mod by {
            use super::{By, Channel};

            $(
                $(#[$text])*
                #[derive(Debug)]
                pub struct $channel;

                impl By for $channel {
                    const CHANNEL: Channel = Channel::$channel;
                }
            )*
        }
    };
}

channels! {
    /// Web Push (RFC 8030).
    WebPush = "web_push",
    /// E-mail.
    Email = "email",
    /// Text message.
    Sms = "sms",
    /// `WhatsApp` message.
    WhatsApp = "whatsapp",
    /// Voice call.
    Voice = "voice",
    /// A signed HTTP request (Standard Webhooks).
    Webhook = "webhook",
}

impl Channel {
    /// The channel with this name, or with one that it had: `push` for Web Push, `CHANNEL_EMAIL` in jobs.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let of = |name: &str| match name {
            "push" => Some(Self::WebPush),
            _ => Self::ALL.into_iter().find(|channel| channel.name() == name),
        };
        name.strip_prefix("CHANNEL_").map_or_else(|| of(name), |name| of(&name.to_ascii_lowercase()))
    }

    /// The channel that a kind of delivery sends by.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.kind() == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::Channel;

    #[test]
    fn a_channel_is_known_by_its_name_and_by_those_that_it_had() {
        for channel in Channel::ALL {
            assert_eq!(Channel::parse(channel.name()), Some(channel));
        }
        for (name, channel) in [
            ("push", Channel::WebPush),
            ("CHANNEL_PUSH", Channel::WebPush),
            ("CHANNEL_SMS", Channel::Sms),
            ("CHANNEL_WHATSAPP", Channel::WhatsApp),
        ] {
            assert_eq!(Channel::parse(name), Some(channel), "{name}");
        }
        for other in ["", "Push", "fax", "in_app", "CHANNEL_", "CHANNEL_IN_APP"] {
            assert_eq!(Channel::parse(other), None, "{other}");
        }
    }
}
