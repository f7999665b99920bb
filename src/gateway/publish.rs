//! Publishes jobs: first a row for each, so that its id is one job's alone, then its message. A crash in between leaves
//! a row; the producer, which has no answer, sends the job again and finds its own row.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, stream};

use super::{
    access::Caller,
    job::{Job, Refused},
    problem::Problem,
    state::Gateway,
};
use crate::{
    checkpoint::{self, Step},
    effects::submit::{NotSubmitted, Submission, Wishes, submit_with},
    store::Offered,
};

/// Publishes of one request whose acknowledgements are awaited.
const IN_FLIGHT: usize = 1000;

/// A job that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id, as its application gave it.
    pub id: String,
    /// Whether an earlier request brought the same job.
    pub duplicate: bool,
}

/// The answer to a job.
pub type Answer = Result<Accepted, Refused>;

impl Gateway {
    /// Publishes jobs, each with an id of its own. Answers in the order given.
    pub async fn publish(&self, caller: &Caller, jobs: Vec<Job>, trace: Option<&str>) -> Vec<Answer> {
        if jobs.is_empty() {
            return Vec::new();
        }
        let offers: Vec<_> = jobs.iter().map(|job| job.offer(caller.scoped(&job.id))).collect();
        // Before the rows: they would keep the ids of jobs that cannot be published now.
        let noted = match self.jetstream() {
            Ok(_) => self.store.offer_jobs(&offers, self.clock.now()).await.map_err(Problem::from),
            Err(problem) => Err(problem),
        };
        let noted = match noted {
            Ok(noted) => noted,
            Err(problem) => {
                let refused = |job: Job| Err(Refused { id: Some(job.id), problem: Box::new(problem.clone()) });
                return jobs.into_iter().map(refused).collect();
            }
        };
        checkpoint::reached(Step::Offered);
        let silent = AtomicBool::new(false);
        let published = stream::iter(jobs.into_iter().zip(noted)).map(|(job, noted)| {
            let silent = &silent;
            async move {
                let id = job.id.clone();
                let done = match noted {
                    Offered::Conflict => Err(Problem::conflict(format!(
                        "the id {id} is another job's: it has another kind, lane or `job`, and is not a delayed job \
                         that could still be replaced"
                    ))),
                    // The rest of a batch would wait for its timeouts one after another.
                    _ if silent.load(Ordering::Relaxed) => {
                        Err(Problem::unavailable("NATS has not acknowledged another job of this request"))
                    }
                    noted => self
                        .send(caller, job, trace, silent)
                        .await
                        .map(|stored| Accepted { id: id.clone(), duplicate: stored || noted == Offered::Same }),
                };
                done.map_err(|problem| Refused { id: Some(id), problem: problem.into() })
            }
        });
        published.buffered(IN_FLIGHT).collect().await
    }

    /// Whether the stream had it already.
    async fn send(&self, caller: &Caller, job: Job, trace: Option<&str>, silent: &AtomicBool) -> Result<bool, Problem> {
        let submission = Submission {
            subject: caller.subject(job.kind, job.lane),
            job_id: job.id,
            body: job.body,
            content_type: "application/json",
            not_after: job.not_after,
            at: job.at,
            due: None,
        };
        let wishes = Wishes { headers: job.policy, trace: trace.map(ToOwned::to_owned) };
        let sent = submit_with(self.jetstream()?, submission, wishes).await;
        sent.map(|sent| sent.duplicate).map_err(|why| {
            silent.fetch_or(matches!(why, NotSubmitted::Other(_)), Ordering::Relaxed);
            why.into()
        })
    }
}
