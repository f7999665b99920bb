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
    /// The median time from publish to push in ms, before the outage and during it.
    pub push_ms: (u64, u64),
    /// Whether `/health` showed the provider's breaker open.
    pub breaker_opened: bool,
    /// From the return of the provider to the last text message, in ms.
    pub recovered_after_ms: u64,
}

impl Outage {
    /// As one JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "texts": self.texts,
            "texts_arrived": self.arrived,
            "push_ms_before": self.push_ms.0,
            "push_ms_during": self.push_ms.1,
            "breaker_opened": self.breaker_opened,
            "recovered_after_ms": self.recovered_after_ms,
        })
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { texts, arrived, push_ms, breaker_opened, recovered_after_ms } = self;
        let breaker = if *breaker_opened { "its breaker opened" } else { "its breaker stayed closed" };
        write!(
            f,
            "the SMS provider failed: pushes took {} ms as against {} ms before, {breaker}, and {arrived} of {texts} text \
             messages arrived, the last {recovered_after_ms} ms after it was back",
            push_ms.1, push_ms.0
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
            push_ms: (before, during),
            breaker_opened: self.breaker_told,
            recovered_after_ms: u64::try_from(back.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Publishes notifications to the whole family, and answers the median time until each has its pushes, in ms.
    async fn notify(&mut self, stop: &CancellationToken, what: &str) -> Result<u64, Problem> {
        let recipients = json!(["ana", "ben", "chloe", "dan"].map(|user| json!({ "userId": user })));
        let mut took = Vec::new();
        for number in 1..=NOTIFICATIONS {
            let begun = Instant::now();
            let pushes = self.receivers.came().pushes;
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
            self.wait(stop, "the pushes", |demo| demo.receivers.came().pushes >= pushes + MEMBERS).await?;
            took.push(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
            tokio::time::sleep_until(begun + EVERY).await;
        }
        took.sort_unstable();
        Ok(took[took.len() / 2])
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
