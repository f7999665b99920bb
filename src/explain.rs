//! Why somebody was or was not told of a dose, an appointment, a shift or a job.
//!
//! `question.rs` checks the question, `look.rs` reads the records, `judge.rs` finds the causes that hold and puts the one
//! that decided first, and `words.rs` makes every sentence. The result is data.

mod answer;
mod cause;
mod judge;
mod look;
mod question;
mod words;

use chrono::{DateTime, Utc};

pub use self::{
    answer::{Explanation, Fact, Notified},
    cause::{Cause, NoDose, Told},
    question::{About, DoseTime, OddHour, Question},
};
use self::{
    look::{Known, KnownJob, Reader},
    words::Scene,
};
use crate::store::{Store, StoreError};

/// Notifications that are looked at for a question about a time.
const MOST: usize = 50;

/// No explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExplained {
    /// Neither `users` nor a record names the person.
    #[error(
        "there is no user of this id in `users`, and no record of Carebell names one; expected an id of the application, \
         as in `family_members.user_id`"
    )]
    UnknownUser,
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Explains, as of `now`.
///
/// # Errors
/// Nobody knows the person, or the database does not answer. Tables that cannot be read are listed in the answer instead.
pub async fn explain(store: &Store, question: &Question, now: DateTime<Utc>) -> Result<Explanation, NotExplained> {
    let mut reader = Reader { store, question, now, known: Known::default() };
    reader.user().await?;
    let since = match &question.about {
        About::Job(id) => {
            reader.job_by_any_id(id).await?;
            Vec::new()
        }
        About::Last(time) => reader.jobs_since(now - *time, MOST).await?,
        About::Dose { .. } | About::Appointment(_) | About::Shift(_) => {
            reader.care().await?;
            Vec::new()
        }
    };
    if reader.known.zone.is_none() && !reader.known.names_them() {
        return Err(NotExplained::UnknownUser);
    }
    reader.surroundings().await?;
    let known = reader.known;
    if since.is_empty() { Ok(answer(question, &known, now)) } else { Ok(answer_of_all(question, known, &since, now)) }
}

fn answer(question: &Question, known: &Known, now: DateTime<Utc>) -> Explanation {
    let scene = Scene { question, zone: known.zone(), care_zone: known.care_zone(), instant: known.instant, now };
    let causes = judge::causes(known, now);
    let fact = |cause: &Cause| {
        let line = match cause {
            Cause::Delivery(line) => Some(line),
            _ => None,
        };
        Fact {
            reason: cause.code().to_owned(),
            decides: cause.decides(),
            text: words::cause(&scene, cause),
            at: cause.at(),
            job_id: cause.job_id().map(str::to_owned),
            delivery_id: line.map(|line| line.id.clone()),
            channel: line.map(|line| line.channel.clone()),
        }
    };
    Explanation {
        user_id: question.user_id.clone(),
        zone: scene.zone.name().to_owned(),
        care_zone: scene.care_zone.map(|zone| zone.name().to_owned()),
        instant: known.instant,
        told: causes.first().map_or(Told::Unknown, Cause::told),
        reason: causes.first().map_or("nothing_known", Cause::code).to_owned(),
        sentence: words::sentence(&scene, &causes),
        facts: causes.iter().map(fact).collect(),
        next: words::next(&causes, &known.unread),
        notifications: Vec::new(),
        looked_at: known.looked_at.clone(),
        unread: known.unread.clone(),
        as_of: now,
    }
}

/// Of the newest notifications, each by itself.
fn answer_of_all(
    question: &Question,
    mut known: Known,
    since: &[(String, DateTime<Utc>)],
    now: DateTime<Utc>,
) -> Explanation {
    let jobs = std::mem::take(&mut known.jobs);
    let mut each: Vec<(Notified, Vec<Fact>)> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let KnownJob { root_id, .. } = &job;
        let Some((_, at)) = since.iter().find(|(root, _)| root == root_id) else { continue };
        let about = About::Job(root_id.clone());
        let question = Question { user_id: question.user_id.clone(), about };
        let (job_id, at) = (root_id.clone(), *at);
        let read_at = job.inbox.as_ref().and_then(|row| row.read_at);
        known.jobs = vec![job];
        let Explanation { told, reason, sentence, facts, .. } = answer(&question, &known, now);
        let channel = facts.first().and_then(|fact| fact.channel.clone());
        each.push((Notified { job_id, at, told, channel, read_at, reason, sentence }, facts));
    }
    known.jobs.clear();
    let told = each.iter().filter(|(one, _)| one.told == Told::Yes).count();
    let other = each.iter().find(|(one, _)| one.told != Told::Yes);
    let scene = Scene { question, zone: known.zone(), care_zone: None, instant: None, now };
    let sentence =
        words::summary(&scene, told, each.len(), since.len() >= MOST, other.map(|(one, _)| one.sentence.as_str()));
    let mut whole = answer(question, &known, now);
    // The facts of the surroundings follow those of the notifications.
    let surroundings = std::mem::take(&mut whole.facts).into_iter().filter(|fact| !fact.decides);
    let decided = each.iter().filter_map(|(_, facts)| facts.first().cloned());
    let facts = decided.chain(surroundings).collect();
    let (verdict, reason) = match other {
        None => (Told::Yes, "told"),
        Some((other, _)) if told > 0 => (Told::Partly, other.reason.as_str()),
        Some((other, _)) => (other.told, other.reason.as_str()),
    };
    Explanation {
        told: verdict,
        reason: reason.to_owned(),
        sentence,
        facts,
        next: other.map(|(other, _)| vec![format!("carebell jobs show {}", other.job_id)]).unwrap_or_default(),
        notifications: each.into_iter().map(|(one, _)| one).collect(),
        ..whole
    }
}
