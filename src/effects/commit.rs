use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use prost::Message as _;

use super::{Admission, Effects, Refused, publish};
use crate::{
    checkpoint::{self, Step},
    kind::{Lane, Stage},
    meta::Meta,
    plan::{Plan, PlannedDelivery},
    store::{Child, Commit, CommitOutcome, Committed, DirectClaims, PendingChildren, RunState},
    wire,
};

/// A notification committed with its reminder.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedNotification {
    /// Identity.
    pub meta: Meta,
    /// Plan.
    pub plan: Plan,
}

/// Result of [`Effects::commit_and_claim`].
#[derive(Debug)]
pub struct CarriedOut {
    /// Result of the commit.
    pub committed: Committed,
    /// Whether the notification planned with a reminder was written.
    pub followed: bool,
    /// Messages of the deliveries that this worker claimed. Publish one only if somebody else has to send it;
    /// [`Effects::note_published`] then ends the run.
    pub claimed: Vec<Child>,
    /// Messages to publish in any case.
    pub others: Vec<Child>,
}

impl Effects {
    /// Carries out a plan: one commit, then its children published.
    ///
    /// # Errors
    /// The database refuses the data; nothing was written.
    pub async fn carry_out(&self, meta: &Meta, not_after: DateTime<Utc>, plan: Plan) -> Result<Committed, Refused> {
        if meta.kind.stage == Stage::Delivery {
            checkpoint::reached(Step::Sent);
            return self.record_receipt(meta, plan.receipt).await;
        }
        // Boxed to keep a delivery's state smaller than a commit's.
        Box::pin(self.end_run(meta, not_after, RunState::Done, None, plan)).await
    }

    /// Commits a plan and the notification planned with it, and claims `pushes`, which this worker sends. Leaves
    /// publishing to the caller.
    ///
    /// `pushes` are delivery ids. `None` if another task of this worker may be sending them; then it gives up no claim
    /// either.
    ///
    /// # Errors
    /// As [`Self::carry_out`].
    pub async fn commit_and_claim(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        plan: Plan,
        notification: Option<PlannedNotification>,
        pushes: Option<HashSet<String>>,
    ) -> Result<CarriedOut, Refused> {
        let deliveries = match &notification {
            Some(PlannedNotification { meta, plan }) => deliveries_of(meta, not_after, plan),
            None => deliveries_of(meta, not_after, &plan),
        };
        let gives_up_claims = pushes.is_some();
        let claims = pushes.map(|ids| DirectClaims { worker: Arc::clone(&self.worker), ids });
        let is_combined = notification.is_some();
        let mut commit = self.commit_of(meta, not_after, plan);
        if let Some(PlannedNotification { meta, plan }) = notification {
            commit.next = Some(Box::new(Commit { direct: claims, ..self.commit_of(&meta, not_after, plan) }));
            commit.children.clear();
        } else {
            commit.direct = claims;
        }
        checkpoint::reached(Step::Worked);
        let CommitOutcome { committed, followed, claimed, earlier: _ } = self.commits.ask(commit).await?;
        checkpoint::reached(Step::Committed);
        let committed = match committed {
            // If this message committed it and the answer was lost, nobody sends the claimed pushes.
            Committed::Duplicate => self.duplicate(meta, gives_up_claims).await?,
            committed => committed,
        };
        let is_written = committed == Committed::Fresh && (followed || !is_combined);
        let (claimed, mut others): (Vec<Child>, Vec<Child>) =
            deliveries.into_iter().partition(|child| claimed.contains(&child.job_id));
        if !is_written {
            others.clear();
        }
        Ok(CarriedOut { committed, followed, claimed, others })
    }

    /// Gives up claims of direct sends, and publishes their messages for others to send.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn give_up_claims(&self, job_id: &str, carried_out: CarriedOut) -> Result<(), Refused> {
        self.store.release_direct(job_id, &self.worker).await?;
        let CarriedOut { mut claimed, others, .. } = carried_out;
        claimed.extend(others);
        self.publish(job_id, &claimed).await;
        Ok(())
    }

    /// Ends a run: one commit, then its children published.
    pub(super) async fn end_run(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        state: RunState,
        reason: Option<&'static str>,
        plan: Plan,
    ) -> Result<Committed, Refused> {
        let deliveries = deliveries_of(meta, not_after, &plan);
        let commit = Commit { state, reason, ..self.commit_of(meta, not_after, plan) };
        let mut children = commit.children.clone();
        children.extend(deliveries);
        checkpoint::reached(Step::Worked);
        let committed = self.commits.ask(commit).await?.committed;
        checkpoint::reached(Step::Committed);
        match committed {
            Committed::Fresh => self.publish(&meta.job_id, &children).await,
            // If this message committed it and the answer was lost, its children are unpublished.
            Committed::Duplicate => return self.duplicate(meta, false).await,
            Committed::MarkTaken | Committed::InFlight(_) => {}
        }
        Ok(committed)
    }

    /// Finishes the run that was committed before, if this message did it.
    async fn duplicate(&self, meta: &Meta, gives_up_claims: bool) -> Result<Committed, Refused> {
        Ok(match self.look_up_and(meta, gives_up_claims).await? {
            Admission::Again(wait) => Committed::InFlight(wait),
            _ => Committed::Duplicate,
        })
    }

    fn commit_of(&self, meta: &Meta, not_after: DateTime<Utc>, plan: Plan) -> Commit {
        Commit {
            meta: meta.clone(),
            state: RunState::Done,
            reason: None,
            children: next_of(meta, not_after, &plan).into_iter().chain(effects_of(meta, &plan)).collect(),
            plan,
            next: None,
            not_after,
            direct: None,
            now: self.clock.now(),
        }
    }

    /// Publishes all children of a committed run.
    pub async fn publish(&self, job_id: &str, children: &[Child]) {
        if children.is_empty() {
            return;
        }
        self.publish_some(children).await;
        self.note_published(job_id).await;
    }

    /// Publishes some children; others are still under way.
    pub async fn publish_some(&self, children: &[Child]) {
        publish::children(&self.context, children).await;
    }

    /// Notes that a run has no children left to publish.
    pub async fn note_published(&self, job_id: &str) {
        checkpoint::reached(Step::Published);
        // The note only saves the reconciler work, so the job does not depend on it.
        self.published.tell(job_id.to_owned()).await;
    }

    /// Publishes children of a committed run that may be unpublished, but no push that its worker may be sending. Answers
    /// how long that has left.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn publish_pending(&self, job_id: &str) -> Result<Option<Duration>, Refused> {
        let PendingChildren { children, claimed_at } = self.pending_children(job_id).await?;
        let Some(claimed_at) = claimed_at else {
            self.publish(job_id, &children).await;
            return Ok(None);
        };
        self.publish_some(&children).await;
        Ok(Some(self.wait_until(claimed_at + self.patience)))
    }

    /// Children of a committed run that may be unpublished.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn pending_children(&self, job_id: &str) -> Result<PendingChildren, Refused> {
        Ok(self.store.pending_children(job_id, self.clock.now() - self.patience).await?)
    }
}

fn next_of(meta: &Meta, not_after: DateTime<Utc>, plan: &Plan) -> Option<Child> {
    let next = plan.next.as_ref()?;
    Some(Child {
        job_id: next.job_id(&meta.root_id),
        root_id: meta.root_id.clone(),
        subject: next.kind.subject(next.lane),
        body: next.body.clone(),
        not_after,
        trace: meta.trace.clone(),
        due: meta.due.filter(|_| next.lane != Lane::Bulk),
        at: None,
        is_json: false,
    })
}

/// Messages of the jobs that an endpoint asked for. Each is a root of its own.
fn effects_of<'a>(meta: &'a Meta, plan: &'a Plan) -> impl Iterator<Item = Child> + 'a {
    plan.effects.iter().map(|effect| Child {
        job_id: effect.job_id.clone(),
        root_id: effect.job_id.clone(),
        subject: effect.kind.subject(effect.lane),
        body: effect.body.clone(),
        not_after: effect.not_after,
        trace: meta.trace.clone(),
        due: None,
        at: effect.at,
        is_json: true,
    })
}

/// Messages of a plan's deliveries, without those that are never sent.
fn deliveries_of(meta: &Meta, not_after: DateTime<Utc>, plan: &Plan) -> Vec<Child> {
    let sent = plan.deliveries.iter().filter(|row| row.unsent.is_none());
    let message = |row: &PlannedDelivery| Child {
        job_id: row.id.clone(),
        root_id: meta.root_id.clone(),
        subject: row.channel.kind().subject(row.lane),
        body: wire::Delivery { delivery_id: row.id.clone() }.encode_to_vec(),
        not_after,
        trace: meta.trace.clone(),
        due: meta.due,
        at: None,
        is_json: false,
    };
    sent.map(message).collect()
}
