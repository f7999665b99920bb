use std::borrow::Cow;

use futures::{FutureExt, future::BoxFuture};

use super::{Email, answer, server::Outgoing, settings};
use crate::{
    channels::{Address, AfterUnknown, Answer, NOBODY, Parcel, Sender},
    plan::Channel,
};

impl Sender for Email {
    fn channel(&self) -> Channel {
        Channel::Email
    }

    /// The same `Message-ID` makes mail programs show duplicates once.
    fn after_unknown(&self) -> AfterUnknown {
        AfterUnknown::SendAgain
    }

    fn provider<'a>(&'a self, parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>> {
        if to(parcel).is_err() {
            return (rank == 0).then_some(Cow::Borrowed(NOBODY));
        }
        self.servers.get(rank).map(|server| Cow::Borrowed(server.name()))
    }

    fn providers(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.name().to_owned()).collect()
    }

    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, rank: usize) -> BoxFuture<'a, Answer> {
        async move {
            let to = match to(parcel) {
                Ok(to) => to,
                Err(why) => return Answer::Gone { answer: why, reason: "invalid_address" },
            };
            let Some(server) = self.servers.get(rank) else {
                return Answer::Permanent { why: "there is no such server".into() };
            };
            let message = match self.writer.write(parcel, &to) {
                Ok(message) => message,
                Err(why) => return Answer::Permanent { why },
            };
            let mail = Outgoing { from: self.writer.from(), to: &to, message: &message };
            match server.send(&mail).await {
                Ok(text) => answer::accepted(&text),
                Err(trouble) => {
                    let unusual = trouble.of_unusual_recipient().filter(|_| is_unusual(&to));
                    unusual.unwrap_or_else(|| trouble.judge())
                }
            }
        }
        .boxed()
    }
}

/// A quoted local part, or an address in brackets (RFC 5321 §4.1.2), which many servers refuse in words of their own.
fn is_unusual(to: &lettre::Address) -> bool {
    to.user().starts_with('"') || to.domain().starts_with('[')
}

/// An invalid address is an error that gets it marked, so it isn't tried with each mail.
fn to(parcel: &Parcel<'_>) -> Result<lettre::Address, String> {
    let Address::Plain(address) = parcel.address else { return Err("the address is not an e-mail address".into()) };
    settings::address(address).map_err(|why| format!("the address {why}"))
}
