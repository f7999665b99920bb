//! Text messages, `WhatsApp` messages and calls through Twilio's form-encoded API, which several providers share.
//!
//! A [`Gateway`] is one channel: its [`Medium`], and one or two accounts (`settings.rs`), the first preferred. It
//!
//! 1. refuses anything but a telephone number (`number.rs`);
//! 2. lets its medium compose the request;
//! 3. posts it (`client.rs`), with a status callback URL if there is a `PUBLIC_URL`;
//! 4. judges the response (`answer.rs`).
//!
//! A [`Receiver`] checks status callbacks.
//!
//! Numbers, texts and tokens never leave this module. Its errors hold at most a status and the provider's numeric code,
//! and it logs nothing.

mod answer;
mod client;
mod number;
mod receiver;
mod settings;
mod signature;

use std::{borrow::Cow, fmt, marker::PhantomData};

use futures::{FutureExt, future::BoxFuture, future::join_all};

pub use number::is_e164;
pub use receiver::{Callback, Malformed, Receiver};
pub use settings::{Account, DEFAULT_TIMEOUT, Origin, PublicUrl, Settings};
pub use signature::signature;

use self::client::Client;
use super::{Address, AfterUnknown, Answer, NOBODY, Parcel, Sender, SettingsError};
use crate::{clock::Clock, plan::Channel, text};

/// The specifics of one channel.
pub trait Medium: Send + Sync + 'static {
    /// The channel.
    const CHANNEL: Channel;

    /// API resource: `Messages.json` or `Calls.json`.
    const RESOURCE: &'static str;

    /// Prefix of telephone numbers.
    const PREFIX: &'static str = "";

    /// Composes the request; `link` is absolute.
    fn compose(parcel: &Parcel<'_>, link: Option<&str>) -> Composed;
}

/// A composed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// Form fields of this channel.
    pub fields: Vec<(&'static str, String)>,
    /// Note for the ledger.
    pub note: Option<String>,
}

/// One channel. Create one per process: it owns its connections.
pub struct Gateway<M> {
    settings: Settings,
    client: Client,
    clock: Clock,
    medium: PhantomData<fn() -> M>,
}

impl<M: Medium> Gateway<M> {
    /// Reads the extra roots of `PROVIDER_CA_FILE`. Connects to nothing.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let client = Client::new(settings.ca_file.as_deref(), settings.timeout)?;
        Ok(Self { settings, client, clock, medium: PhantomData })
    }

    async fn post(&self, parcel: &Parcel<'_>, rank: usize) -> Answer {
        let Some(number) = number_of(parcel) else {
            return Answer::Gone { answer: "not E.164".into(), reason: answer::INVALID_NUMBER };
        };
        let Some(account) = self.settings.accounts.get(rank) else {
            return Answer::Permanent { why: format!("{} has no provider of rank {rank}", M::CHANNEL.name()) };
        };
        let link = parcel.content.url.as_deref().and_then(|link| text::openable(link, self.settings.app_url.as_ref()));
        let Composed { mut fields, note } = M::compose(parcel, link.as_deref());
        fields.push(("To", format!("{}{number}", M::PREFIX)));
        fields.push(account.origin.field(M::PREFIX));
        if let Some(public) = &self.settings.public_url {
            fields.push(("StatusCallback", public.callback(M::CHANNEL, parcel.id)));
        }
        let reply = self.client.post(account, M::RESOURCE, &fields).await;
        answer::judge(reply, account, note.as_deref(), self.clock.now())
    }
}

impl<M: Medium> Sender for Gateway<M> {
    fn channel(&self) -> Channel {
        M::CHANNEL
    }

    /// Configurable, because nothing deduplicates messages or calls.
    fn after_unknown(&self) -> AfterUnknown {
        self.settings.after_unknown
    }

    fn provider<'a>(&'a self, parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>> {
        if number_of(parcel).is_none() {
            return (rank == 0).then_some(Cow::Borrowed(NOBODY));
        }
        self.settings.accounts.get(rank).map(|account| Cow::Borrowed(account.name.as_str()))
    }

    fn providers(&self) -> Vec<String> {
        self.settings.accounts.iter().map(|account| account.name.clone()).collect()
    }

    fn is_back(&self, rank: usize) -> BoxFuture<'_, bool> {
        async move {
            match self.settings.accounts.get(rank) {
                Some(account) => self.client.is_well(account).await,
                None => false,
            }
        }
        .boxed()
    }

    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, rank: usize) -> BoxFuture<'a, Answer> {
        self.post(parcel, rank).boxed()
    }
}

impl<M: Medium> fmt::Debug for Gateway<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("channel", &M::CHANNEL.name()).field("providers", &self.providers()).finish()
    }
}

/// Checks each provider without sending. Returns names, with an error if unreachable. Fails if `PROVIDER_CA_FILE` is
/// invalid.
pub async fn reach(settings: &Settings) -> Result<Vec<(String, Option<String>)>, SettingsError> {
    let client = Client::new(settings.ca_file.as_deref(), settings.timeout)?;
    let looks = settings.accounts.iter().map(async |account| (account.name.clone(), client.reach(account).await.err()));
    Ok(join_all(looks).await)
}

fn number_of<'a>(parcel: &Parcel<'a>) -> Option<&'a str> {
    match parcel.address {
        Address::Plain(number) if is_e164(number) => Some(number),
        _ => None,
    }
}
