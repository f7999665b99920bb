//! Publishing a job by hand: checked as the gateway checks it, noted under its id, and sent as an application would.

use serde_json::json;

use super::{
    access::Viewer,
    problem::{FieldError, Problem},
    state::Admin,
};
use crate::{
    clock::Random,
    effects::submit::{NotSubmitted, Submission, Wishes, submit_with},
    gateway::{Job, Reader, Refused},
    jobs,
    kind::{Kind, Lane, Queue},
    store::{AuditEntry, Offered},
};

impl Admin {
    /// A queue that jobs can be published to, by its durable.
    ///
    /// # Errors
    /// If there is none of this name, or its jobs are Carebell's own.
    pub fn open_queue(&self, name: &str) -> Result<Queue, Problem> {
        self.check_queue(name)?;
        let queue = jobs::registry().kinds().iter().flat_map(Kind::queues).find(|queue| queue.durable() == name);
        let open = queue.filter(|queue| queue.kind.is_published());
        open.ok_or_else(|| {
            Problem::conflict(format!(
                "jobs of the queue {name} are not published by hand: Carebell makes them, from schedules or from other jobs"
            ))
        })
    }

    /// Reads a job of a queue, and checks all of it. `key` is its id if it names none.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn read_job(&self, queue: Queue, text: &[u8], key: Option<&str>) -> Result<Job, Problem> {
        let reader = Reader::new(jobs::registry(), self.clock.clone(), Random::system());
        Ok(reader.read_for(queue, text, key)?)
    }

    /// Publishes a job. Returns whether the same one came before under its id.
    ///
    /// # Errors
    /// If its id is another job's, or a server is away.
    pub async fn publish(&self, viewer: &Viewer, job: Job) -> Result<bool, Problem> {
        let nats = self.jetstream()?;
        let now = self.clock.now();
        let noted = self.store.offer_jobs(&[job.offer(job.id.clone())], now).await?;
        if noted == [Offered::Conflict] {
            return Err(Problem::conflict(format!(
                "the id {} is another job's: it has another kind, lane or content, and is not a delayed job that could \
                 still be replaced",
                job.id
            )));
        }
        // Without a gateway nobody else would.
        self.store.prune_gateway_jobs(now).await?;
        let lane = job.kind.lane_for(job.lane).map(Lane::name);
        // Recorded first: whoever reads the log sees also an act whose outcome is not known.
        self.store
            .record_audit(&[AuditEntry {
                at: now,
                actor: viewer.name.clone(),
                action: "job.published".into(),
                job_id: Some(job.id.clone()),
                root_id: Some(job.id.clone()),
                detail: json!({ "kind": job.kind.name, "lane": lane, "at": job.at }),
            }])
            .await?;
        let submission = Submission {
            subject: job.kind.intake_subject(job.lane),
            job_id: job.id,
            body: job.body,
            content_type: "application/json",
            not_after: job.not_after,
            at: job.at,
            due: None,
        };
        let sent = submit_with(nats, submission, Wishes { headers: job.policy, trace: None }).await?;
        Ok(sent.duplicate || noted == [Offered::Same])
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.problem.detail().to_owned();
        let errors = refused.problem.into_errors().into_iter().map(|(path, detail)| {
            let path = if path.is_empty() { "body".to_owned() } else { path };
            FieldError { path, detail }
        });
        let errors: Vec<_> = errors.collect();
        if errors.is_empty() { Self::field("body", detail) } else { Self::fields(errors) }
    }
}

impl From<NotSubmitted> for Problem {
    fn from(why: NotSubmitted) -> Self {
        Self::unavailable("NATS", &why.to_string())
    }
}
