use std::{borrow::Cow, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{Endpoint, Note, Push, PushOutcome, Topic, Urgency, WebPush, allowed::service_of, hosts::MAX_IN_FLIGHT};
use crate::{
    channels::{Address, AfterUnknown, Answer, NOBODY, Parcel, Sender, breaker::Concurrency, outbound::TIMEOUT},
    kind::Lane,
    plan::Channel,
};

impl Sender for WebPush {
    fn channel(&self) -> Channel {
        Channel::WebPush
    }

    /// Topic and tag stay the same, so duplicates collapse.
    fn after_unknown(&self) -> AfterUnknown {
        AfterUnknown::SendAgain
    }

    /// Capacity of one connection. The wait and two exchanges stay below the queue's timeout (30 s), which would burn
    /// an attempt.
    fn concurrency(&self) -> Concurrency {
        Concurrency { limit: MAX_IN_FLIGHT, wait: Duration::from_secs(8) }
    }

    fn provider<'a>(&'a self, parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>> {
        let Address::Subscription { endpoint, .. } = parcel.address else { return None };
        let endpoint = Endpoint::parse(endpoint, &self.allowed);
        let host = endpoint.map_or(Cow::Borrowed(NOBODY), |endpoint| {
            Cow::Owned(endpoint.origin().trim_start_matches("https://").to_owned())
        });
        (rank == 0).then_some(host)
    }

    /// Push services may have any number of hosts, so they share a label.
    fn label<'a>(&self, provider: &'a str) -> &'a str {
        service_of(provider)
    }

    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, _rank: usize) -> BoxFuture<'a, Answer> {
        async move {
            let Address::Subscription { endpoint, p256dh, auth } = parcel.address else {
                return Answer::Permanent { why: "the address is not a Web Push subscription".into() };
            };
            let content = parcel.content;
            let payload = self.payload(&Note {
                title: &content.title,
                body: &content.body,
                url: content.url.as_deref(),
                tag: content.tag.as_deref().unwrap_or(parcel.root_id),
                data: &content.data,
            });
            let urgency = match parcel.lane {
                Lane::Critical => Urgency::High,
                Lane::Normal => Urgency::Normal,
                Lane::Bulk => Urgency::Low,
            };
            let topic = Topic::of(parcel.id);
            let push = Push { endpoint, p256dh, auth, payload: &payload, ttl: parcel.ttl, urgency, topic };
            judge(WebPush::send(self, &push).await)
        }
        .boxed()
    }
}

fn judge(outcome: PushOutcome) -> Answer {
    let short = outcome.status().map_or_else(|| outcome.label().to_owned(), |status| status.to_string());
    match outcome {
        PushOutcome::Accepted { .. } => Answer::Accepted { answer: short, provider_id: None },
        PushOutcome::Gone { .. } | PushOutcome::Removed => Answer::Gone { answer: short, reason: "subscription_gone" },
        PushOutcome::Later { after, .. } => Answer::Later { after, answer: short },
        // A service that answers 408 or 425 is healthy.
        PushOutcome::Failed { status: Some(..500), why, after } => Answer::Retry { why, after },
        PushOutcome::Failed { status, why, after } => {
            Answer::Down { timed_out: status.is_none() && why == TIMEOUT, why, after }
        }
        PushOutcome::BadSubscription { why } => Answer::Gone { answer: why, reason: "invalid_subscription" },
        PushOutcome::NotAllowed { why } => Answer::Refused { why, reason: "host_not_allowed" },
        PushOutcome::Forbidden { why, .. }
        | PushOutcome::Unauthorized { why, .. }
        | PushOutcome::Rejected { why, .. } => Answer::Permanent { why },
        PushOutcome::TooLarge { .. } => {
            Answer::Permanent { why: "the push service refuses the payload as too large".into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        channels::web_push::{DEFAULT_TIMEOUT, Settings, generate_keys},
        clock::Clock,
        streams::{Adjustments, Streams},
    };

    /// A 401 adds an exchange, and each may exceed its timeout by a second.
    #[test]
    fn who_waits_for_a_permit_and_is_sent_is_done_before_the_queue_s_timeout() {
        let settings = Settings::new(generate_keys().unwrap(), "mailto:ops@carebell.example");
        let concurrency = WebPush::new(settings, Clock::system()).unwrap().concurrency();
        let longest = concurrency.wait + 2 * (DEFAULT_TIMEOUT + Duration::from_secs(1));
        let streams = Streams::embedded(&Adjustments::default()).unwrap();
        let queues = streams.consumers().iter().filter(|queue| queue.durable().starts_with("deliver_web_push_"));
        let timeouts: Vec<Duration> = queues.map(|queue| queue.policy.timeout).collect();
        assert_eq!(timeouts.len(), 2);
        assert!(timeouts.iter().all(|timeout| longest <= *timeout), "{longest:?} of {timeouts:?}");
        assert!(concurrency.limit <= MAX_IN_FLIGHT, "others would wait without an end");
    }
}
