//! `deliver.<channel>`: one claimed delivery to one address, by any channel.
//!
//! What a channel answers is judged in its own folder; what follows for the delivery is decided here, the same way for
//! all of them.

use std::{marker::PhantomData, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    channels::{Address, AfterUnknown, Answer, Parcel, Sent},
    job::{self, Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    plan::{Channel, Delivered, Plan, Reason, Receipt},
    store::Claim,
    wire,
};

/// For a message without `Carebell-Not-After`, which Carebell itself never publishes.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(24);

/// A delivery by the channel `B`. The claimed ledger row, in the context, says the rest.
#[derive(Debug)]
pub struct Deliver<B>(PhantomData<fn() -> B>);

/// Names a channel.
pub trait By: 'static {
    /// Which.
    const CHANNEL: Channel;
}

/// By Web Push.
#[derive(Debug)]
pub enum WebPush {}

impl By for WebPush {
    const CHANNEL: Channel = Channel::WebPush;
}

/// By e-mail.
#[derive(Debug)]
pub enum Email {}

impl By for Email {
    const CHANNEL: Channel = Channel::Email;
}

impl<B: By> Job for Deliver<B> {
    const KIND: Kind = B::CHANNEL.kind();

    type Wire = wire::Delivery;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        job::id("delivery_id", wire.delivery_id).map(|_| Self(PhantomData))
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let Some(claim) = &cx.claim else {
            return Err(Failure::permanent("the worker runs a delivery without a claim"));
        };
        let Some(address) = address(claim, B::CHANNEL) else {
            return Ok(ended(Delivered::Failed, Some("subscription_gone"), "none", "none", None, false));
        };
        let parcel = Parcel {
            id: &claim.id,
            root_id: &claim.root_id,
            address,
            content: &claim.content,
            locale: "",
            lane: claim.lane,
            created_at: claim.created_at,
            ttl: (cx.not_after - cx.clock.now()).to_std().unwrap_or(Duration::ZERO),
        };
        let sent = cx.channels.send(B::CHANNEL, &parcel).await;
        let sent = sent.ok_or_else(|| Failure::permanent("the worker runs deliveries of a channel that it lacks"))?;
        outcome(sent, cx.channels.after_unknown(B::CHANNEL), cx.clock.now())
    }
}

fn address(claim: &Claim, channel: Channel) -> Option<Address<'_>> {
    match channel {
        Channel::WebPush => claim.subscription.as_ref().map(|subscription| Address::Subscription {
            endpoint: &subscription.endpoint,
            p256dh: &subscription.p256dh,
            auth: &subscription.auth,
        }),
        _ => Some(Address::Plain(&claim.address)),
    }
}

/// What each answer means for the delivery.
fn outcome(sent: Sent, after_unknown: Option<AfterUnknown>, now: DateTime<Utc>) -> Result<Outcome, Failure> {
    let (provider, answer) = match sent {
        Sent::Closed { until } => return Ok(Outcome::Wait(until, Reason::ProviderDown)),
        Sent::Answered { provider, answer } => (provider, answer),
    };
    let said = |why: String| format!("{provider}: {why}");
    match answer {
        Answer::Accepted { answer, provider_id } => {
            Ok(ended(Delivered::Sent, None, &provider, &answer, provider_id, false))
        }
        Answer::Gone { answer, reason } => Ok(ended(Delivered::Failed, Some(reason), &provider, &answer, None, true)),
        Answer::Unknown { why } if after_unknown == Some(AfterUnknown::Stop) => {
            Ok(ended(Delivered::Unknown, Some("no_answer"), &provider, &why, None, false))
        }
        Answer::Later { after, .. } => Ok(Outcome::Wait(now + after, Reason::RetryLater)),
        Answer::Retry { why, after } | Answer::Down { why, after, .. } => Err(Failure::Retry { why: said(why), after }),
        Answer::Unknown { why } => Err(Failure::retry(said(why))),
        Answer::Permanent { why } => Err(Failure::permanent(said(why))),
    }
}

fn ended(
    state: Delivered,
    reason: Option<&'static str>,
    provider: &str,
    answer: &str,
    provider_id: Option<String>,
    address_gone: bool,
) -> Outcome {
    Outcome::Done(Plan::receipt(Receipt {
        state,
        reason,
        provider: provider.to_owned(),
        provider_id,
        answer: answer.to_owned(),
        address_gone,
    }))
}
