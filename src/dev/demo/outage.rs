//! `carebell dev --outage`: the provider of text messages fails while notifications go on. The other channels are as
//! fast as before, the circuit breaker opens, no text message is lost, and all arrive once the provider is back.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::{Demo, LOOK_EVERY, PATIENCE, Problem, receivers::MEMBERS};
use crate::effects::submit::{Submission, submit};

/// Notifications before and during the outage. More than open a breaker.
const NOTIFICATIONS: usize = 20;

/// Between two of them.
const EVERY: Duration = Duration::from_millis(100);

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// Text messages that were due while the provider failed.
    pub texts: usize,
    /// Those of them that arrived, after it was back.
    pub arrived: usize,
    /// The median times before it.
    pub before: Medians,
    /// The median times during it.
    pub during: Medians,
    /// Whether `/health` showed the provider's breaker open.
    pub breaker_opened: bool,
    /// From the return of the provider to the last text message, in ms.
    pub recovered_after_ms: u64,
}

/// Median times from publish to what is no text message, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Medians {
    /// To the last of the family's pushes.
    pub push: u64,
    /// To the mail.
    pub mail: u64,
    /// To the webhook's request.
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
        let breaker = if *breaker_opened { "its breaker opened" } else { "its breaker stayed closed" };
        write!(
            f,
            "the SMS provider failed: pushes took {} ms as against {} ms before, mails {} as against {}, webhooks {} as \
             against {}; {breaker}, and {arrived} of {texts} text messages arrived, the last {recovered_after_ms} ms after \
             it was back",
            during.push, before.push, during.mail, before.mail, during.webhook, before.webhook
        )
    }
}

impl Demo {
    /// Lets the provider of text messages fail for a while.
    ///
    /// # Errors
    /// If something does not arrive within a minute, or `stop` comes first.
    pub async fn outage(&mut self, stop: &CancellationToken) -> Result<Outage, Problem> {
        let before = self.notify(stop, "calm").await?;
        self.wait(stop, "the text messages before it", |demo| demo.receivers.came().texts > NOTIFICATIONS).await?;
        self.say(self.clock.now(), "outage", "the SMS provider answers 503 from now on");
        self.receivers.fail_texts(true);
        let during = self.notify(stop, "storm").await?;
        // Those that came before the breaker opened are retried, and find out.
        self.wait(stop, "the breaker", |demo| demo.breaker_told).await?;
        let lost = self.receivers.came().texts;
        self.say(self.clock.now(), "outage", "the SMS provider is back");
        self.receivers.fail_texts(false);
        let back = Instant::now();
        self.wait(stop, "the text messages", |demo| demo.receivers.came().texts >= lost + NOTIFICATIONS).await?;
        Ok(Outage {
            texts: NOTIFICATIONS,
            arrived: self.receivers.came().texts - lost,
            before,
            during,
            breaker_opened: self.breaker_told,
            recovered_after_ms: u64::try_from(back.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Publishes notifications to the whole family, and waits for each until all of it but the text message has come.
    async fn notify(&mut self, stop: &CancellationToken, what: &str) -> Result<Medians, Problem> {
        let recipients = json!(["ana", "ben", "chloe", "dan"].map(|user| json!({ "userId": user })));
        let mut took = [const { Vec::new() }; 3];
        for number in 1..=NOTIFICATIONS {
            let begun = Instant::now();
            let had = self.receivers.came();
            let body = json!({ "recipients": recipients, "title": format!("News {number}") });
            let job = Submission {
                subject: "jobs.notification.normal".into(),
                job_id: format!("{what}-{number}"),
                body: Bytes::from(body.to_string()),
                content_type: "application/json",
                not_after: None,
                at: None,
            };
            submit(&self.context, job).await.map_err(|error| error.to_string())?;
            let mut came_after = [None; 3];
            let what_came = "the pushes, the mail and the webhook";
            self.wait(stop, what_came, |demo| {
                let came = demo.receivers.came();
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
    ) -> Result<(), Problem> {
        let begun = Instant::now();
        let mut look = interval(LOOK_EVERY / 4);
        while !there(self) {
            if stop.run_until_cancelled(look.tick()).await.is_none() {
                return Err("stopped in the middle of the outage".into());
            }
            self.show_news().await?;
            if begun.elapsed() > PATIENCE {
                return Err(format!("{what} did not come within {PATIENCE:?}").into());
            }
        }
        Ok(())
    }
}
