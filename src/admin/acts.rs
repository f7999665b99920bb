//! What people do by the console and its API. Each act is on record under the name of whoever did it.

mod schedules;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{access::Viewer, problem::Problem, state::Admin};
use crate::{
    dead_letter::{Change, Letter, Letters, redrive::Redriver, remove_last},
    effects::park,
    store::AuditEntry,
};

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

    /// Cancels a delayed job.
    ///
    /// # Errors
    /// If it is not delayed, or a server is away.
    pub async fn cancel_delayed(&self, viewer: &Viewer, id: &str) -> Result<(), Problem> {
        let now = self.clock.now();
        let Some(position) = self.store.cancel_delayed(id, now).await? else {
            return Err(Problem::conflict(format!("the job {id:?} is not delayed: it is already due, or cancelled")));
        };
        let act = AuditEntry {
            at: now,
            actor: viewer.name.clone(),
            action: "job.cancelled".into(),
            job_id: Some(id.to_owned()),
            root_id: Some(id.to_owned()),
            detail: json!({}),
        };
        self.store.record_audit(&[act]).await?;
        // If that fails, its message stays parked until it is due, to no effect.
        if let Ok(context) = self.jetstream() {
            let _ = remove_last(context, park::STREAM, &park::delayed_subject(&position)).await;
        }
        Ok(())
    }
}

fn act(action: &str, viewer: &Viewer, at: DateTime<Utc>, detail: Value) -> AuditEntry {
    AuditEntry { at, actor: viewer.name.clone(), action: action.to_owned(), job_id: None, root_id: None, detail }
}
