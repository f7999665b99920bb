//! `deliver.web_push`: one claimed delivery to one subscription.
//!
//! A push whose outcome is unknown, because the worker died between sending and recording, is sent again with the same
//! topic and tag: the push service or the browser collapses the two.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    channels::web_push::{Answer, Note, Push, Topic, Urgency},
    job::{self, Context, Failure, Invalid, Job, Outcome},
    kind::{Kind, Lane},
    plan::{Delivered, Plan, Reason, Receipt},
    wire,
};

/// For a message without `Carebell-Not-After`, which Carebell itself never publishes.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(24);

/// A delivery by Web Push. The claimed ledger row, in the context, says the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebPushDelivery;

impl Job for WebPushDelivery {
    const KIND: Kind = Kind::delivery("deliver.web_push");

    type Wire = wire::Delivery;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        job::id("delivery_id", wire.delivery_id).map(|_| Self)
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let (Some(claim), Some(web_push)) = (&cx.claim, &cx.channels.web_push) else {
            return Err(Failure::permanent(
                "the worker runs Web Push deliveries without a claim or without VAPID keys",
            ));
        };
        let Some(subscription) = &claim.subscription else {
            return Ok(Outcome::Done(Plan::receipt(receipt(
                Delivered::Failed,
                Some("subscription_gone"),
                "none",
                false,
            ))));
        };
        let content = &claim.content;
        let topic = Topic::of(&claim.id);
        let payload = web_push.payload(&Note {
            title: &content.title,
            body: &content.body,
            url: content.url.as_deref(),
            tag: content.tag.as_deref().unwrap_or(&claim.root_id),
            data: &content.data,
        });
        let push = Push {
            endpoint: &subscription.endpoint,
            p256dh: &subscription.p256dh,
            auth: &subscription.auth,
            payload: &payload,
            ttl: (cx.not_after - cx.clock.now()).to_std().unwrap_or(Duration::ZERO),
            urgency: match claim.lane {
                Lane::Critical => Urgency::High,
                Lane::Normal => Urgency::Normal,
                Lane::Bulk => Urgency::Low,
            },
            topic,
        };
        outcome(web_push.send(&push).await, cx.clock.now())
    }
}

/// What each answer means for the delivery.
fn outcome(answer: Answer, now: DateTime<Utc>) -> Result<Outcome, Failure> {
    let status = answer.status().map_or_else(|| answer.label().to_owned(), |status| status.to_string());
    let ended = |state, reason, gone| Ok(Outcome::Done(Plan::receipt(receipt(state, reason, &status, gone))));
    match answer {
        Answer::Accepted { .. } => ended(Delivered::Sent, None, false),
        Answer::Gone { .. } => ended(Delivered::Failed, Some("subscription_gone"), true),
        Answer::Later { after, .. } => Ok(Outcome::Wait(now + after, Reason::RetryLater)),
        Answer::Failed { why, after, .. } => Err(Failure::Retry { why, after }),
        Answer::BadSubscription { why } => Err(Failure::Permanent { why }),
        Answer::Forbidden { why, .. } | Answer::Unauthorized { why, .. } | Answer::Rejected { why, .. } => {
            Err(Failure::Permanent { why })
        }
        Answer::TooLarge { .. } => Err(Failure::permanent("the push service refuses the payload as too large")),
    }
}

fn receipt(state: Delivered, reason: Option<&'static str>, answer: &str, address_gone: bool) -> Receipt {
    Receipt { state, reason, provider: "web_push".into(), answer: answer.to_owned(), address_gone }
}
