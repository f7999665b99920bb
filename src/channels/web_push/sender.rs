//! [`Sender`] for Web Push.

use std::{borrow::Cow, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{Answer, Endpoint, Note, Push, Topic, Urgency, WebPush, allowed::service_of, hosts::MAX_IN_FLIGHT};
use crate::{
    channels::{self, Address, AfterUnknown, NOBODY, Parcel, Sender, breaker::Places, outbound::TIMEOUT},
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
    fn places(&self) -> Places {
        Places { most: MAX_IN_FLIGHT, within: Duration::from_secs(8) }
    }

    /// Host of the push service.
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

    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, _rank: usize) -> BoxFuture<'a, channels::Answer> {
        async move {
            let Address::Subscription { endpoint, p256dh, auth } = parcel.address else {
                return channels::Answer::Permanent { why: "the address is no Web Push subscription".into() };
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
            common(WebPush::send(self, &push).await)
        }
        .boxed()
    }
}

/// Translates the result.
fn common(answer: Answer) -> channels::Answer {
    let short = answer.status().map_or_else(|| answer.label().to_owned(), |status| status.to_string());
    match answer {
        Answer::Accepted { .. } => channels::Answer::Accepted { answer: short, provider_id: None },
        Answer::Gone { .. } => channels::Answer::Gone { answer: short, reason: "subscription_gone" },
        Answer::Later { after, .. } => channels::Answer::Later { after, answer: short },
        // A service that answers 408 or 425 is healthy.
        Answer::Failed { status: Some(..500), why, after } => channels::Answer::Retry { why, after },
        Answer::Failed { status, why, after } => {
            channels::Answer::Down { timed_out: status.is_none() && why == TIMEOUT, why, after }
        }
        Answer::BadSubscription { why }
        | Answer::Forbidden { why, .. }
        | Answer::Unauthorized { why, .. }
        | Answer::Rejected { why, .. } => channels::Answer::Permanent { why },
        Answer::TooLarge { .. } => {
            channels::Answer::Permanent { why: "the push service refuses the payload as too large".into() }
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
    fn who_waits_for_a_place_and_is_sent_is_done_before_the_queue_s_timeout() {
        let settings = Settings::new(generate_keys().unwrap(), "mailto:ops@carebell.example");
        let places = WebPush::new(settings, Clock::system()).unwrap().places();
        let longest = places.within + 2 * (DEFAULT_TIMEOUT + Duration::from_secs(1));
        let streams = Streams::embedded(&Adjustments { replicas: 1, overrides: vec![] }).unwrap();
        let queues = streams.consumers().iter().filter(|queue| queue.durable().starts_with("deliver_web_push_"));
        let timeouts: Vec<Duration> = queues.map(|queue| queue.policy.timeout).collect();
        assert_eq!(timeouts.len(), 2);
        assert!(timeouts.iter().all(|timeout| longest <= *timeout), "{longest:?} of {timeouts:?}");
        assert!(places.most <= MAX_IN_FLIGHT, "others would wait without an end");
    }
}
