//! `carebell dev --outage`: the SMS provider fails, other channels stay fast, and text messages arrive later.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::{Demo, LOOK_EVERY, PATIENCE, error::DemoError, receivers::MEMBERS};
use crate::effects::submit::{Submission, submit};

/// More than a breaker needs to open.
const NOTIFICATIONS: usize = 20;

const EVERY: Duration = Duration::from_millis(100);

/// Result of the outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// Text messages due during the outage.
    pub texts: usize,
    /// Those of them that arrived afterwards.
    pub arrived: usize,
    /// Median times before it.
    pub before: Medians,
    /// Median times during it.
    pub during: Medians,
    /// Whether `/health` showed an open breaker.
    pub breaker_opened: bool,
    /// From the provider's return to the last text message, in milliseconds.
    pub recovered_after_ms: u64,
}

/// Median times from publish to arrival, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Medians {
    /// Of the family's last push.
    pub push: u64,
    /// Of the mail.
    pub mail: u64,
    /// Of the webhook request.
    pub webhook: u64,
}

impl Outage {
    /// As one JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "texts": self.texts,
            "texts_arrived": self.arrived,
            "push_ms_before": self.before.push,
            "push_ms_during": self.during.push,
            "mail_ms_before": self.before.mail,
            "mail_ms_during": self.during.mail,
            "webhook_ms_before": self.before.webhook,
            "webhook_ms_during": self.during.webhook,
            "breaker_opened": self.breaker_opened,
            "recovered_after_ms": self.recovered_after_ms,
        })
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { texts, arrived, before, during, breaker_opened, recovered_after_ms } = self;
        let breaker = if *breaker_opened { "the breaker opened" } else { "the breaker stayed closed" };
        write!(
            f,
            "during the SMS outage pushes took {} ms ({} ms before), mails {} ({}), webhooks {} ({}); {breaker}, and \
             {arrived} of {texts} text messages arrived, the last {recovered_after_ms} ms after the provider's \
             return",
            during.push, before.push, during.mail, before.mail, during.webhook, before.webhook
        )
    }
}

impl Demo {
    /// Makes the SMS provider fail for a while.
    ///
    /// # Errors
    /// If something does not arrive within a minute, or `stop` is cancelled.
    pub async fn outage(&mut self, stop: &CancellationToken) -> Result<Outage, DemoError> {
        let before = self.notify(stop, "calm").await?;
        self.wait(stop, "the text messages before it", |demo| demo.receivers.arrivals().texts > NOTIFICATIONS).await?;
        self.say("outage", "the SMS provider now answers 503");
        self.receivers.fail_texts(true);
        let during = self.notify(stop, "storm").await?;
        // Retries of text messages probe the provider.
        self.wait(stop, "the breaker", |demo| demo.breaker_told).await?;
        let lost = self.receivers.arrivals().texts;
        self.say("outage", "the SMS provider is back");
        self.receivers.fail_texts(false);
        let back = Instant::now();
        self.wait(stop, "the text messages", |demo| demo.receivers.arrivals().texts >= lost + NOTIFICATIONS).await?;
        Ok(Outage {
            texts: NOTIFICATIONS,
            arrived: self.receivers.arrivals().texts - lost,
            before,
            during,
            breaker_opened: self.breaker_told,
            recovered_after_ms: u64::try_from(back.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Publishes one by one, waiting for all but the text messages.
    async fn notify(&mut self, stop: &CancellationToken, what: &str) -> Result<Medians, DemoError> {
        let recipients = json!(["ana", "ben", "chloe", "dan"].map(|user| json!({ "userId": user })));
        let mut took = [const { Vec::new() }; 3];
        for number in 1..=NOTIFICATIONS {
            let begun = Instant::now();
            let had = self.receivers.arrivals();
            let body = json!({ "recipients": recipients, "title": format!("News {number}") });
            let job = Submission {
                subject: "jobs.notification.normal".into(),
                job_id: format!("{what}-{number}"),
                body: Bytes::from(body.to_string()),
                content_type: "application/json",
                not_after: None,
                at: None,
                due: None,
            };
            submit(&self.context, job).await.map_err(|error| error.to_string())?;
            let mut came_after = [None; 3];
            let what_came = "the pushes, the mail and the webhook";
            self.wait(stop, what_came, |demo| {
                let came = demo.receivers.arrivals();
                let is_there = [came.pushes >= had.pushes + MEMBERS, came.mails > had.mails, came.hooks > had.hooks];
                for (after, _) in came_after.iter_mut().zip(is_there).filter(|(_, is_there)| *is_there) {
                    after.get_or_insert_with(|| begun.elapsed());
                }
                came_after.iter().all(Option::is_some)
            })
            .await?;
            for (took, after) in took.iter_mut().zip(came_after) {
                took.extend(after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
            }
            tokio::time::sleep_until(begun + EVERY).await;
        }
        let [push, mail, webhook] = took.map(|mut took| {
            took.sort_unstable();
            took[took.len() / 2]
        });
        Ok(Medians { push, mail, webhook })
    }

    async fn wait(
        &mut self,
        stop: &CancellationToken,
        what: &str,
        mut there: impl FnMut(&Self) -> bool,
    ) -> Result<(), DemoError> {
        let begun = Instant::now();
        let mut look = interval(LOOK_EVERY / 4);
        while !there(self) {
            if stop.run_until_cancelled(look.tick()).await.is_none() {
                return Err("stopped during the outage".into());
            }
            self.show_news().await?;
            if begun.elapsed() > PATIENCE {
                return Err(format!("{what} did not come within {PATIENCE:?}").into());
            }
        }
        Ok(())
    }
}
