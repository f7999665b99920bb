//! `deliver.<channel>`: one claimed delivery to one address.
//!
//! Each channel judges answers itself; their effect on the delivery is decided here.

use std::{marker::PhantomData, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    channels::{Address, AfterUnknown, Answer, NOBODY, Parcel, Sent},
    job::{Context, Failure, Invalid, Job, Outcome, field},
    kind::{Kind, Lane},
    meta::split,
    plan::{By, Channel, Delivered, Plan, Reason, Receipt},
    store::Claim,
    wire,
};

/// Only for messages without `Carebell-Not-After`; Carebell publishes none.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(24);

/// Deliveries that wait for a provider come back spread over this time.
const SPREAD: Duration = Duration::from_secs(2);

/// A delivery by one channel: `Deliver<by::Email>`. The context has its claim.
#[derive(Debug)]
pub struct Deliver<C>(PhantomData<C>);

impl<C: By> Job for Deliver<C> {
    const KIND: Kind = C::CHANNEL.kind();

    type Wire = wire::Delivery;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        field::id("delivery_id", wire.delivery_id).map(|_| Self(PhantomData))
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let Some(claim) = &cx.claim else {
            return Err(Failure::permanent("the worker runs a delivery without a claim"));
        };
        let after_unknown = cx.channels.after_unknown(C::CHANNEL);
        if claim.unsettled && after_unknown == Some(AfterUnknown::Stop) {
            return Ok(Outcome::Done(Plan::receipt(Receipt::unknown(NOBODY, "its worker was lost while sending"))));
        }
        if !claim.is_theirs {
            return Ok(Outcome::Done(Plan::receipt(Receipt {
                state: Delivered::Failed,
                reason: Some(if C::CHANNEL == Channel::WebPush { "subscription_gone" } else { "address_gone" }),
                provider: NOBODY.into(),
                provider_id: None,
                answer: NOBODY.into(),
                address_gone: false,
                tried: None,
                overrode_quiet_hours: false,
            })));
        }
        let now = cx.clock.now();
        let overridden = match wish(claim, C::CHANNEL, now, cx.not_after) {
            Wish::Send => false,
            Wish::SendAnyway => true,
            Wish::Drop(reason) => return Ok(Outcome::Skipped(reason)),
            Wish::Hold(until) => return Ok(Outcome::Wait(until, Reason::QuietHours)),
        };
        let parcel = Parcel {
            id: &claim.id,
            root_id: split(&claim.root_id).1,
            address: address(claim),
            content: &claim.content,
            locale: if claim.content.locale.is_empty() { &claim.locale } else { &claim.content.locale },
            lane: claim.lane,
            created_at: claim.created_at,
            ttl: (cx.not_after - now).to_std().unwrap_or(Duration::ZERO),
        };
        let sent = cx.channels.send(C::CHANNEL, &parcel, cx.meta.trace.as_deref()).await;
        let sent = sent.ok_or_else(|| Failure::permanent("the worker runs a delivery by a channel that it lacks"))?;
        let mut outcome = outcome(C::CHANNEL, sent, after_unknown, overridden, cx)?;
        if let (Outcome::Done(Plan { receipt: Some(receipt), .. }), Some(subscription)) =
            (&mut outcome, &claim.subscription)
        {
            receipt.tried = Some(subscription.fingerprint()).filter(|_| receipt.address_gone);
        }
        Ok(outcome)
    }
}

/// The recipient's preferences at the time of sending.
enum Wish {
    Send,
    /// In quiet hours, because it is critical.
    SendAnyway,
    Drop(Reason),
    Hold(DateTime<Utc>),
}

fn wish(claim: &Claim, channel: Channel, now: DateTime<Utc>, not_after: DateTime<Utc>) -> Wish {
    // An address without a user has no preferences.
    if claim.user_id.is_empty() {
        return Wish::Send;
    }
    if !claim.preferences.want(channel, claim.named) {
        return Wish::Drop(Reason::OptedOut);
    }
    match claim.preferences.quiet_until(channel, now) {
        None => Wish::Send,
        Some(_) if claim.lane == Lane::Critical => Wish::SendAnyway,
        Some(end) if end >= not_after => Wish::Drop(Reason::QuietHours),
        Some(end) => Wish::Hold(end),
    }
}

/// Missing subscriptions and webhooks are excluded by [`Claim::is_theirs`].
fn address(claim: &Claim) -> Address<'_> {
    match (&claim.subscription, &claim.webhook) {
        (Some(subscription), _) => Address::Subscription {
            endpoint: &subscription.endpoint,
            p256dh: &subscription.p256dh,
            auth: &subscription.auth,
        },
        (None, Some(webhook)) => Address::Webhook { url: &webhook.url, secrets: &webhook.secrets },
        (None, None) => Address::Plain(&claim.address),
    }
}

fn failed(provider: String, answer: String, reason: &'static str, address_gone: bool, overridden: bool) -> Outcome {
    Outcome::Done(Plan::receipt(Receipt {
        state: Delivered::Failed,
        reason: Some(reason),
        provider,
        provider_id: None,
        answer,
        address_gone,
        tried: None,
        overrode_quiet_hours: overridden,
    }))
}

/// The delivery's outcome after an answer.
fn outcome(
    channel: Channel,
    sent: Sent,
    after_unknown: Option<AfterUnknown>,
    overridden: bool,
    cx: &Context,
) -> Result<Outcome, Failure> {
    let (provider, answer) = match sent {
        Sent::Closed { until } => {
            // Spread out, since the first one tests whether the provider is back.
            let spread = SPREAD.mul_f64(cx.random.fraction());
            return Ok(Outcome::Wait(until + spread, Reason::ProviderDown));
        }
        // Spread out, since they come back together.
        Sent::Paused { until } => {
            let spread = SPREAD.mul_f64(cx.random.fraction());
            return Ok(Outcome::Wait(until + spread, Reason::Paused));
        }
        Sent::Answered { provider, answer } => (provider, answer),
    };
    // Logs, dead letters and traces omit hosts of webhooks, which may be personal.
    let said = |why: String| if channel == Channel::Webhook { why } else { format!("{provider}: {why}") };
    match answer {
        Answer::Accepted { answer, provider_id } => Ok(Outcome::Done(Plan::receipt(Receipt {
            state: Delivered::Sent,
            reason: overridden.then_some("quiet_hours_overridden"),
            provider,
            provider_id,
            answer,
            address_gone: false,
            tried: None,
            overrode_quiet_hours: overridden,
        }))),
        Answer::Gone { answer, reason } => Ok(failed(provider, answer, reason, true, overridden)),
        Answer::Refused { why, reason } => Ok(failed(provider, why, reason, false, overridden)),
        Answer::Unknown { why } if after_unknown == Some(AfterUnknown::Stop) => {
            let receipt = Receipt::unknown(&provider, &why);
            Ok(Outcome::Done(Plan::receipt(Receipt { overrode_quiet_hours: overridden, ..receipt })))
        }
        Answer::Later { after, .. } => Ok(Outcome::Wait(cx.clock.now() + after, Reason::RetryLater)),
        Answer::Retry { why, after } | Answer::Down { why, after, .. } => Err(Failure::Retry { why: said(why), after }),
        Answer::Unknown { why } => Err(Failure::retry(said(why))),
        Answer::Permanent { why } => Err(Failure::permanent(said(why))),
    }
}
