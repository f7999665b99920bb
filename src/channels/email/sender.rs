//! E-mail as one of the channels: what a parcel becomes.

use std::borrow::Cow;

use futures::{FutureExt, future::BoxFuture};

use super::{Email, answer, server::Outgoing, settings};
use crate::{
    channels::{Address, AfterUnknown, Answer, Parcel, Sender},
    plan::Channel,
};

impl Sender for Email {
    fn channel(&self) -> Channel {
        Channel::Email
    }

    /// With the same `Message-ID`: mail programs show the two as one.
    fn after_unknown(&self) -> AfterUnknown {
        AfterUnknown::SendAgain
    }

    /// The host of a server of `SMTP_URL`.
    fn provider<'a>(&'a self, _parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>> {
        self.servers.get(rank).map(|server| Cow::Borrowed(server.name()))
    }

    fn providers(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.name().to_owned()).collect()
    }

    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, rank: usize) -> BoxFuture<'a, Answer> {
        async move {
            let (Address::Plain(address), Some(server)) = (parcel.address, self.servers.get(rank)) else {
                return Answer::Permanent { why: "the address is none for e-mail".into() };
            };
            let to = match settings::address(address) {
                Ok(to) => to,
                Err(why) => return Answer::Permanent { why: format!("the address {why}") },
            };
            let message = match self.writer.write(parcel, &to) {
                Ok(message) => message,
                Err(why) => return Answer::Permanent { why },
            };
            let mail = Outgoing { from: self.writer.from(), to: &to, message: &message };
            match server.send(&mail).await {
                Ok(text) => answer::accepted(&text),
                Err(trouble) => trouble.judge(),
            }
        }
        .boxed()
    }
}
