//! Retry: dead jobs are redriven, parked ones go on now.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{Acting, Found, Prospect, Refused};
use crate::{
    dead_letter::{Change, Letter, Letters, Redriver, redrive::CHUNK, wake},
    store::{AuditEntry, Trail, WokenDelivery},
};

/// What a retry has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Numbers of the dead letters that were redriven.
    pub redriven: Vec<u64>,
    /// Ids of the parked jobs that go on.
    pub woken: Vec<String>,
    /// Ids that were refused, each with the reason.
    pub refused: Vec<(String, String)>,
}

impl Retried {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self, id: &str) -> Value {
        let refused = self.refused.iter().map(|(job, why)| json!({ "job_id": job, "why": why })).collect::<Value>();
        json!({ "job_id": id, "redriven": self.redriven, "woken": self.woken, "refused": refused })
    }
}

impl Acting<'_> {
    /// What a retry would act on. All dead letters are looked for.
    ///
    /// # Errors
    /// If there is no such job, or a server does not answer.
    pub async fn look_thoroughly(&self, id: &str) -> Result<Found, Refused> {
        let (way, delayed) = (self.store.trail_of(id).await?, self.store.delayed_job(id).await?);
        let is_known = |way: &Trail| !way.runs.is_empty() || !way.deliveries.is_empty() || !way.audit.is_empty();
        let is_unknown = !way.as_ref().is_some_and(is_known) && delayed.is_none();
        let found = self.look(id, way.as_ref(), delayed.as_ref(), usize::MAX, true).await?;
        if is_unknown && found.letters.is_empty() {
            let (waiting, longer) = self.streams.find(self.nats()?, id).await.map_err(Refused::Nats)?;
            return Err(match waiting.first() {
                Some(message) => {
                    let place = format!("{} #{}", message.stream, message.sequence);
                    Refused::Conflict(format!(
                        "job {id} waits for a worker, or runs ({place}): there is nothing to retry"
                    ))
                }
                None => Refused::Unknown(nowhere(id, &longer)),
            });
        }
        Ok(found)
    }

    /// What a retry of a job would do.
    ///
    /// # Errors
    /// If there is nothing to retry: why. Or if a server does not answer.
    pub async fn foresee(&self, id: &str) -> Result<Vec<Prospect>, Refused> {
        let found = self.look_thoroughly(id).await?;
        let prospects = self.prospects(&found).await?;
        if prospects.is_empty() { Err(Refused::Conflict(found.why_not)) } else { Ok(prospects) }
    }

    /// Tries a job again, and what followed from it: what is dead is redriven, what is parked goes on now.
    ///
    /// # Errors
    /// If there is nothing to retry: why. Or if a server does not answer; then a part may be done.
    pub async fn retry(&self, id: &str) -> Result<Retried, Refused> {
        let Found { root_id, letters, deliveries, runs, why_not, .. } = self.look_thoroughly(id).await?;
        let mut done = Retried::default();
        for letters in letters.chunks(CHUNK) {
            for (letter, sent) in letters.iter().zip(self.redrive(letters).await?) {
                match sent {
                    Ok(()) => done.redriven.push(letter.number),
                    Err(why) => done.refused.push((letter.job_id.clone(), why)),
                }
            }
        }
        for (run, parked) in runs {
            let act = self.act("job.woken", Some(&run.job_id), Some(&root_id), json!({}));
            self.store.record_audit(&[act]).await?;
            wake::run(self.nats()?, parked).await.map_err(Refused::Nats)?;
            done.woken.push(run.job_id);
        }
        let ids: Vec<&str> = deliveries.iter().map(|line| line.id.as_str()).collect();
        for ids in ids.chunks(CHUNK) {
            done.woken.extend(self.wake(ids, json!({})).await?);
        }
        match done.refused.first() {
            _ if !done.redriven.is_empty() || !done.woken.is_empty() => Ok(done),
            Some((_, why)) => Err(Refused::Conflict(why.clone())),
            None => Err(Refused::Conflict(why_not)),
        }
    }

    /// Redrives at most [`CHUNK`] letters. Each one's result, in their order.
    pub(super) async fn redrive(&self, letters: &[Letter]) -> Result<Vec<Result<(), String>>, Refused> {
        let context = self.nats()?;
        let all = Letters::open(context).await.map_err(Refused::Nats)?;
        let Self { store, clock, actor, .. } = *self;
        let redriver = Redriver { context, letters: &all, store, clock, actor };
        redriver.redrive(letters, &Change::default()).await.map_err(Refused::Nats)
    }

    /// Lets those of these deliveries that are parked go on. Their ids.
    pub(super) async fn wake(&self, ids: &[&str], detail: Value) -> Result<Vec<String>, Refused> {
        let act = |woken: &WokenDelivery| self.act("job.woken", Some(&woken.id), Some(&woken.root_id), detail.clone());
        let context = self.nats()?;
        let woken = self.store.wake_deliveries(ids, act, self.clock.now()).await?;
        let sent = join_all(woken.iter().map(|woken| wake::delivery(context, woken))).await;
        sent.into_iter().collect::<Result<Vec<()>, String>>().map_err(Refused::Nats)?;
        Ok(woken.into_iter().map(|woken| woken.id).collect())
    }

    pub(super) fn act(&self, action: &str, job: Option<&str>, root: Option<&str>, detail: Value) -> AuditEntry {
        AuditEntry {
            at: self.clock.now(),
            actor: self.actor.to_owned(),
            action: action.to_owned(),
            job_id: job.map(str::to_owned),
            root_id: root.map(str::to_owned),
            detail,
        }
    }
}

/// That there is no such job. `longer`: streams of which only a part was read.
pub(super) fn nowhere(id: &str, longer: &[String]) -> String {
    let but = match longer {
        [] => String::new(),
        longer => format!(" (of {} the first and the last 2,000 messages were read)", longer.join(", ")),
    };
    format!(
        "there is no job {id:?}: it is not delayed, no stream has it{but}, and it is not on record. Either the id is \
         wrong, or its records are pruned"
    )
}
