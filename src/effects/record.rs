//! Records outcomes of deliveries, and of jobs without a plan.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::{Effects, Patience, Refused};
use crate::{
    checkpoint::{self, Step},
    kind::Stage,
    meta::Meta,
    plan::{DeadReason, Plan, Reason, Receipt},
    retry::Once,
    store::{Committed, FailedRun, LedgerEntry, LedgerRecord, RunState, Verdict},
};

/// Wait before recording again.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// Whether an outcome is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// On record.
    Yes,
    /// Not on record: the job has ended, or another worker took it because this one was silent.
    Superseded,
    /// Not on record: an earlier delivery of the same message may be under way for this long.
    InFlight(Duration),
}

impl Written {
    fn from_answer(written: bool) -> Self {
        if written { Self::Yes } else { Self::Superseded }
    }
}

impl Effects {
    /// Carries out a plan, which may be empty, and records that nobody is told.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn skip(
        &self,
        meta: &Meta,
        not_after: DateTime<Utc>,
        reason: Reason,
        plan: Plan,
    ) -> Result<Written, Refused> {
        if meta.kind.stage == Stage::Delivery {
            let record = match reason {
                Reason::Expired | Reason::QuietHours => LedgerRecord::Expired(reason.name()),
                _ => LedgerRecord::Skipped(reason.name()),
            };
            return self.record_delivery(meta, record).await;
        }
        let state = if reason == Reason::Expired { RunState::Expired } else { RunState::Skipped };
        let committed = self.end_run(meta, not_after, state, Some(reason.name()), plan).await?;
        Ok(match committed {
            Committed::Fresh | Committed::MarkTaken => Written::Yes,
            Committed::Duplicate => Written::Superseded,
            Committed::InFlight(wait) => Written::InFlight(wait),
        })
    }

    /// Records a failure or release.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn record(&self, meta: &Meta, verdict: Verdict) -> Result<Written, Refused> {
        if meta.kind.stage == Stage::Delivery {
            return self.record_delivery(meta, LedgerRecord::Verdict(verdict)).await;
        }
        let failed = FailedRun { meta: meta.clone(), verdict, now: self.clock.now() };
        let written = self.failures.ask(failed).await?;
        checkpoint::reached(Step::Recorded);
        Ok(Written::from_answer(written))
    }

    /// Records a wait.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn record_wait(&self, meta: &Meta, until: DateTime<Utc>, reason: Reason) -> Result<Written, Refused> {
        if meta.kind.stage == Stage::Delivery {
            return self.record_delivery(meta, LedgerRecord::Held(until, reason.name())).await;
        }
        self.record(meta, Verdict::Released(Some(reason))).await
    }

    /// Records that a message kills its workers, without claiming a delivery.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn record_crashed(&self, meta: &Meta, error: &str) -> Result<Written, Refused> {
        if meta.kind.stage == Stage::Delivery {
            self.store.record_crashed_delivery(&self.claim_ask(meta, Patience::default()), error).await?;
            return Ok(Written::Yes);
        }
        self.record(meta, Verdict::Dead { error: error.into(), reason: DeadReason::Crashed }).await
    }

    /// Records how a send ended, however long that takes: without a record it would be sent again.
    pub(super) async fn record_receipt(&self, meta: &Meta, receipt: Option<Receipt>) -> Result<Committed, Refused> {
        let Some(receipt) = receipt else { return Ok(Committed::Fresh) };
        let mut told = Once::new();
        loop {
            match self.record_delivery(meta, LedgerRecord::Receipt(receipt.clone())).await {
                Ok(Written::Yes) => return Ok(Committed::Fresh),
                Ok(Written::Superseded) => return Ok(Committed::Duplicate),
                Ok(Written::InFlight(wait)) => return Ok(Committed::InFlight(wait)),
                Err(Refused::Data(why)) => return Err(Refused::Data(why)),
                Err(Refused::Fault(why) | Refused::Unavailable(why)) => {
                    if told.is_first() {
                        tracing::error!(job = meta.job_id, "its outcome cannot be recorded, again soon: {why}");
                    }
                    sleep(RECORD_AGAIN).await;
                }
            }
        }
    }

    async fn record_delivery(&self, meta: &Meta, record: LedgerRecord) -> Result<Written, Refused> {
        let entry = LedgerEntry {
            id: meta.job_id.clone(),
            sequence: meta.position.sequence,
            delivered: meta.position.delivered,
            worker: Arc::clone(&self.worker),
            record,
            now: self.clock.now(),
        };
        let written = self.ledger.ask(entry).await?;
        checkpoint::reached(Step::Recorded);
        Ok(Written::from_answer(written))
    }
}
