//! Acts on all that a filter finds. [`crate::acts`] carries them out, in whichever console holds them.

use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    access::{Role, Viewer},
    problem::Problem,
    query::{JobQuery, given},
    state::Admin,
};
use crate::{
    acts::{Act, Carrier, Preview, Spec},
    clock::Random,
    jobs,
    kind::Kind,
    plan::DeadReason,
    store::OperationRow,
};

/// Which jobs an operation acts on. Fields are combined by AND; one that is empty or missing lets all pass.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Of `retry`: dead (the default), held or open; of `cancel`: waiting, pending, delayed, held or open.
    pub status: Option<String>,
    /// For example reminder.medication.
    pub kind: Option<String>,
    /// For example `notification_normal`. Not beside `kind`.
    pub queue: Option<String>,
    /// Jobs that concern this user, which is on record. Not of dead ones.
    pub user: Option<String>,
    /// Of this application.
    pub application: Option<String>,
    /// Died, or first recorded, since: an instant (RFC 3339), or an age such as 2h.
    pub since: Option<String>,
    /// Died, or first recorded, before: an instant, or an age.
    pub until: Option<String>,
    /// Of dead ones: permanent, exhausted, crashed, undecodable, `unknown_kind` or unscheduled.
    pub reason: Option<String>,
}

impl Admin {
    /// What an operation would act on.
    ///
    /// # Errors
    /// If it is malformed, too much for one, or needs another role; or if a server is away.
    pub async fn preview_operation(&self, viewer: &Viewer, act: &str, which: &Which) -> Result<Preview, Problem> {
        let spec = self.spec(viewer, act, which).await?;
        Ok(self.acting(&viewer.name).preview(spec).await?)
    }

    /// Begins an operation, if there is no more to act on than was confirmed.
    ///
    /// # Errors
    /// As those of the preview, and if there is more by now.
    pub async fn begin_operation(
        &self,
        viewer: &Viewer,
        act: &str,
        which: &Which,
        count: u64,
        reason: &str,
    ) -> Result<OperationRow, Problem> {
        let spec = self.spec(viewer, act, which).await?;
        Ok(self.acting(&viewer.name).begin(spec, count, reason).await?)
    }

    async fn spec(&self, viewer: &Viewer, act: &str, which: &Which) -> Result<Spec, Problem> {
        let act = Act::parse(act).ok_or_else(|| {
            let all: Vec<&str> = Act::ALL.into_iter().map(Act::name).collect();
            Problem::field("act", format!("expected {}", all.join(", ")))
        })?;
        if act == Act::Empty {
            if viewer.role < Role::Admin {
                return Err(Problem::forbidden(viewer.role, Role::Admin));
            }
            let name = given(which.queue.as_ref()).ok_or_else(|| Problem::field("queue", "expected its name"))?;
            self.check_queue(name)?;
            let queue = jobs::registry().kinds().iter().flat_map(Kind::queues).find(|queue| queue.durable() == name);
            let why = "the messages of this queue ask for delays, and are no jobs: cancel those";
            return queue.map(Spec::Queue).ok_or_else(|| Problem::conflict(why));
        }
        let Which { status, kind, queue, user, application, since, until, reason } = which.clone();
        let query = JobQuery { status, kind, queue, user, application, since, until, ..JobQuery::default() };
        let filter = query.filter(self.clock.now())?;
        let reason = given(reason.as_ref()).map(|name| {
            DeadReason::parse(name).ok_or_else(|| Problem::field("reason", "expected the reason of a dead letter"))
        });
        if let Some(user) = &filter.user {
            self.look_at(viewer, user, "operations").await?;
        }
        Ok(Spec::of(act, filter, reason.transpose()?)?)
    }

    /// Carries out operations, those of other consoles too that do so no more.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        Carrier {
            store: self.store.clone(),
            nats: self.nats.clone(),
            streams: self.streams.clone(),
            clock: self.clock.clone(),
            holder: Random::system().uuid(self.clock.now()).to_string(),
        }
    }
}
