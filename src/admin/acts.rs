//! What people do by the console and its API. Each act is on record under the name of whoever did it.

mod schedules;

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::time::timeout;

use super::{access::Viewer, problem::Problem, state::Admin};
use crate::{
    acts::{Acting, Ended, Prospect, Refused, Retried},
    dead_letter::{Change, Letter, Letters, redrive::Redriver},
    store::{AuditEntry, DelayedLine, Trail},
};

/// For an act on one job.
const PATIENCE: Duration = Duration::from_secs(20);

/// Letters read together.
const TOGETHER: usize = 16;

impl Admin {
    /// The stream of dead letters.
    ///
    /// # Errors
    /// If NATS is away.
    pub async fn letters(&self) -> Result<Letters, Problem> {
        Letters::open(self.jetstream()?).await.map_err(|why| Problem::unavailable("NATS", &why))
    }

    /// One dead letter.
    ///
    /// # Errors
    /// If there is none of this number: the answer says what became of it.
    pub async fn letter(&self, number: u64) -> Result<Letter, Problem> {
        let letter = self.letters().await?.get(number).await.map_err(|why| Problem::unavailable("NATS", &why))?;
        if let Some(letter) = letter {
            return Ok(letter);
        }
        let became = self.store.audit_of_letter(number).await?;
        let became =
            became.map(|act| format!(": it was {} by {}", act.action.trim_start_matches("dead_letter."), act.actor));
        Err(Problem::not_found(format!("there is no dead letter {number}{}", became.unwrap_or_default())))
    }

    /// Sends a dead letter back to its queue. Safe to repeat.
    ///
    /// # Errors
    /// If a server is away, or the letter cannot be published.
    pub async fn redrive(&self, viewer: &Viewer, number: u64) -> Result<(), Problem> {
        let letter = self.letter(number).await?;
        let letters = self.letters().await?;
        let redriver = Redriver {
            context: self.jetstream()?,
            letters: &letters,
            store: &self.store,
            clock: &self.clock,
            actor: &viewer.name,
        };
        let sent = redriver
            .redrive(&[letter], &Change::default())
            .await
            .map_err(|why| Problem::unavailable("a server", &why))?;
        sent.into_iter().try_for_each(|sent| sent.map_err(Problem::conflict))
    }

    /// Deletes a dead letter for good.
    ///
    /// # Errors
    /// If a server is away.
    pub async fn discard(&self, viewer: &Viewer, number: u64, why: Option<&str>) -> Result<(), Problem> {
        let letter = self.letter(number).await?;
        let letters = self.letters().await?;
        let redriver = Redriver {
            context: self.jetstream()?,
            letters: &letters,
            store: &self.store,
            clock: &self.clock,
            actor: &viewer.name,
        };
        redriver.discard(&[letter], why).await.map_err(|why| Problem::unavailable("a server", &why))
    }

    /// At most `most` letters whose number is below `before`, newest first.
    ///
    /// # Errors
    /// If NATS is away.
    pub async fn newest_letters(&self, before: i64, most: usize) -> Result<Vec<Letter>, Problem> {
        let letters = self.letters().await?;
        let away = |why: String| Problem::unavailable("NATS", &why);
        let (first, last) = letters.bounds().await.map_err(away)?;
        let last = last.min(u64::try_from(before).unwrap_or(0).saturating_sub(1));
        let numbers = stream::iter((first..=last).rev()).map(|number| letters.get(number)).buffered(TOGETHER);
        let found = numbers.try_filter_map(async |letter| Ok(letter)).take(most).try_collect().await;
        found.map_err(away)
    }

    /// What a retry of a job would do.
    ///
    /// # Errors
    /// If there is nothing to retry, or a server is away.
    pub async fn foresee_retry(&self, viewer: &Viewer, id: &str) -> Result<Vec<Prospect>, Problem> {
        Ok(in_time(Box::pin(self.acting(&viewer.name).foresee(id))).await??)
    }

    /// What a retry of a job with these records would do, the first few.
    ///
    /// # Errors
    /// If a server is away.
    pub async fn prospects(
        &self,
        viewer: &Viewer,
        id: &str,
        way: Option<&Trail>,
        delayed: Option<&DelayedLine>,
        most: usize,
    ) -> Result<Vec<Prospect>, Problem> {
        let acting = self.acting(&viewer.name);
        let found = acting.look(id, way, delayed, most, false).await?;
        Ok(acting.prospects(&found).await?)
    }

    /// Tries a job again.
    ///
    /// # Errors
    /// If there is nothing to retry, or a server is away.
    pub async fn retry(&self, viewer: &Viewer, id: &str) -> Result<Retried, Problem> {
        Ok(in_time(Box::pin(self.acting(&viewer.name).retry(id))).await??)
    }

    /// Cancels a job that waits, and discards a dead one.
    ///
    /// # Errors
    /// If there is nothing to cancel, or a server is away.
    pub async fn cancel(&self, viewer: &Viewer, id: &str) -> Result<Ended, Problem> {
        Ok(in_time(Box::pin(self.acting(&viewer.name).cancel(id, Some("")))).await??)
    }

    /// Acts under this name.
    #[must_use]
    pub fn acting<'a>(&'a self, actor: &'a str) -> Acting<'a> {
        let context = self.nats.get().ok_or("it was not reached yet; it is tried again");
        Acting { store: &self.store, context, streams: &self.streams, clock: &self.clock, actor }
    }
}

/// An act on one job that reads long streams is safe to repeat, and must not hold a request for ever.
async fn in_time<T>(act: impl Future<Output = T>) -> Result<T, Problem> {
    let done = timeout(PATIENCE, act).await;
    done.map_err(|_| {
        Problem::unavailable("NATS", "it took too long to look through the streams: try again, or use the command")
    })
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown(why) => Self::not_found(why),
            Refused::Conflict(why) => Self::conflict(why),
            Refused::Wrong(field, why) => Self::field(field, why),
            Refused::Nats(why) => Self::unavailable("a server", &why),
            Refused::Store(error) => error.into(),
        }
    }
}

fn act(action: &str, viewer: &Viewer, at: DateTime<Utc>, detail: Value) -> AuditEntry {
    AuditEntry { at, actor: viewer.name.clone(), action: action.to_owned(), job_id: None, root_id: None, detail }
}
