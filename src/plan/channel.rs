use crate::kind::Kind;

/// Makes [`Channel`] and the names of its kinds.
macro_rules! channels {
    ($($(#[$text:meta])* $channel:ident = $name:literal,)*) => {
        /// A way to reach a person.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Channel { $($(#[$text])* $channel,)* }

        impl Channel {
            /// In the order of their numbers.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$channel),*];

            /// In the ledger, in metric labels and in `deliver.<channel>`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$channel => $name,)* }
            }

            /// The kind that sends by it.
            #[must_use]
            pub const fn kind(self) -> Kind {
                Kind::delivery(match self { $(Self::$channel => concat!("deliver.", $name),)* })
            }
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
    /// The channel with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.name() == name)
    }

    /// The channel of a kind of delivery.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.kind() == kind)
    }
}
