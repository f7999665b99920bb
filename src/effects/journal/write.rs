//! From what was asked and answered to the entries of a page.

use chrono::{DateTime, Utc};

use super::page::{
    AttemptEntry, ChildEntry, CommitEntry, ContentEntry, DeadEntry, DelayEntry, DeliveryEntry, FailureEntry, HeldEntry,
    InboxEntry, MarkEntry, OutcomeEntry, Page, ReceiptEntry, Record, RunEntry, ShortageEntry,
};
use crate::{
    meta::Meta,
    plan::{Delivered, Plan, Reason, Receipt, Shortage, Unsent},
    store::{
        Child, Commit, CommitOutcome, Committed, DelayAnswer, DelayAsk, DelayStep, FailedRun, LedgerEntry,
        LedgerRecord, RunState, Verdict,
    },
};

/// An ask that is kept in the journal once it is answered.
pub trait Kept<Answer>: Sized {
    /// Adds what the database holds now.
    fn keep(&self, answer: &Answer, page: &mut Page);
}

impl Page {
    fn written_by(&mut self, worker: &str) {
        if self.worker.is_empty() {
            worker.clone_into(&mut self.worker);
        }
    }
}

impl Kept<CommitOutcome> for Commit {
    fn keep(&self, outcome: &CommitOutcome, page: &mut Page) {
        let (is_mark_taken, followed) = match (outcome.committed, outcome.earlier) {
            (Committed::Fresh, _) => (false, outcome.followed),
            (Committed::MarkTaken, _) => (true, false),
            // Its answer was lost, and so it is on no page.
            (Committed::Duplicate, Some(earlier)) => (earlier.is_mark_taken, earlier.followed),
            (Committed::Duplicate, None) | (Committed::InFlight(_), _) => return,
        };
        page.commits.push(if is_mark_taken {
            CommitEntry::without_effects(self)
        } else {
            CommitEntry::fresh(self, followed)
        });
        if let Some(direct) = self.next.as_deref().unwrap_or(self).direct.as_ref() {
            page.written_by(&direct.worker);
        }
    }
}

impl Kept<bool> for FailedRun {
    fn keep(&self, is_written: &bool, page: &mut Page) {
        let (error, dead) = match &self.verdict {
            Verdict::Attempt { error, .. } => (error.clone(), None),
            Verdict::Dead { error, reason } => (error.clone(), Some(reason.name().to_owned())),
            Verdict::Released(_) => return,
        };
        if *is_written {
            page.failures.push(FailureEntry { run: run(&self.meta), error, dead, now: micros(self.now) });
        }
    }
}

impl Kept<DelayAnswer> for DelayAsk {
    fn keep(&self, answer: &DelayAnswer, page: &mut Page) {
        if !matches!(answer, DelayAnswer::Taken(_) | DelayAnswer::Again) {
            return;
        }
        page.delays.push(DelayEntry {
            step: match self.step {
                DelayStep::Wait => 0,
                DelayStep::Run => 1,
                DelayStep::Cancel => 2,
            },
            job_id: self.job_id.clone(),
            application: self.application.clone(),
            kind: self.kind.to_owned(),
            lane: self.lane.map(ToOwned::to_owned),
            due: self.due.map(micros),
            size: self.size as u64,
            stream: self.position.stream.clone(),
            created: micros(self.position.created),
            sequence: self.position.sequence,
            now: micros(self.now),
        });
    }
}

impl Kept<bool> for LedgerEntry {
    fn keep(&self, is_written: &bool, page: &mut Page) {
        let record = match &self.record {
            LedgerRecord::Receipt(receipt) => Record::Receipt(receipt_entry(receipt)),
            LedgerRecord::Expired(reason) => Record::Expired((*reason).to_owned()),
            LedgerRecord::Skipped(reason) => Record::Skipped((*reason).to_owned()),
            LedgerRecord::Held(until, reason) => {
                Record::Held(HeldEntry { until: micros(*until), reason: (*reason).to_owned() })
            }
            LedgerRecord::Verdict(Verdict::Attempt { error, until }) => {
                Record::Attempt(AttemptEntry { error: error.clone(), until: until.map(micros) })
            }
            LedgerRecord::Verdict(Verdict::Dead { error, reason }) => {
                Record::Dead(DeadEntry { error: error.clone(), reason: reason.name().to_owned() })
            }
            LedgerRecord::Verdict(Verdict::Released(_)) => return,
        };
        if !is_written {
            return;
        }
        page.written_by(&self.worker);
        page.outcomes.push(OutcomeEntry {
            id: self.id.clone(),
            sequence: self.sequence,
            delivered: self.delivered,
            now: micros(self.now),
            record: Some(record),
        });
    }
}

fn receipt_entry(receipt: &Receipt) -> ReceiptEntry {
    ReceiptEntry {
        state: match receipt.state {
            Delivered::Sent => 0,
            Delivered::Failed => 1,
            Delivered::Unknown => 2,
        },
        reason: receipt.reason.map(ToOwned::to_owned),
        provider: receipt.provider.clone(),
        provider_id: receipt.provider_id.clone(),
        answer: receipt.answer.clone(),
        address_gone: receipt.address_gone,
        tried: receipt.tried.clone(),
        overrode_quiet_hours: receipt.overrode_quiet_hours,
    }
}

impl CommitEntry {
    /// `followed`: whether the notification planned with it was written too.
    fn fresh(commit: &Commit, followed: bool) -> Self {
        let Plan { mark, shortage, contents, inbox, deliveries, result, .. } = &commit.plan;
        let is_direct = |id: &String| commit.direct.as_ref().is_some_and(|direct| direct.ids.contains(id));
        Self {
            run: run(&commit.meta),
            state: commit.state.name().to_owned(),
            reason: commit.reason.map(ToOwned::to_owned),
            result: result.as_ref().map(ToString::to_string),
            mark: mark.as_ref().map(|mark| MarkEntry {
                record_id: mark.record_id.clone(),
                instant: micros(mark.instant),
                lead_minutes: mark.lead_minutes,
            }),
            shortage: shortage.as_ref().map(shortage_entry),
            contents: contents
                .iter()
                .map(|content| ContentEntry {
                    locale: content.locale.clone(),
                    kind: content.kind.clone(),
                    title: content.title.clone(),
                    body: content.body.clone(),
                    url: content.url.clone(),
                    data: if content.data.is_empty() {
                        String::new()
                    } else {
                        serde_json::to_string(&content.data).unwrap_or_default()
                    },
                    tag: content.tag.clone(),
                })
                .collect(),
            inbox: inbox
                .iter()
                .map(|row| InboxEntry { id: row.id.clone(), user_id: row.user_id.clone(), locale: row.locale.clone() })
                .collect(),
            deliveries: deliveries
                .iter()
                .map(|row| DeliveryEntry {
                    id: row.id.clone(),
                    user_id: row.user_id.clone(),
                    channel: row.channel.name().to_owned(),
                    address: row.address.clone(),
                    locale: row.locale.clone(),
                    lane: row.lane.name().to_owned(),
                    named: row.named,
                    unsent: match row.unsent {
                        None => 0,
                        Some(Unsent::NoChannel) => 1,
                        Some(Unsent::NoAddress) => 2,
                        Some(Unsent::NotNamed) => 3,
                        Some(Unsent::NotOptedIn) => 4,
                        Some(Unsent::NoSubscription) => 5,
                        Some(Unsent::OptedOut) => 6,
                        Some(Unsent::InboxOnly) => 7,
                        Some(Unsent::UnknownUser) => 8,
                    },
                    direct: is_direct(&row.id),
                })
                .collect(),
            children: commit.children.iter().map(child_entry).collect(),
            next: commit.next.as_deref().filter(|_| followed).map(|next| Box::new(Self::fresh(next, false))),
            not_after: micros(commit.not_after),
            now: micros(commit.now),
        }
    }

    /// Another job owns its mark.
    fn without_effects(commit: &Commit) -> Self {
        Self {
            run: run(&commit.meta),
            state: RunState::Skipped.name().to_owned(),
            reason: Some(Reason::AlreadySent.name().to_owned()),
            not_after: micros(commit.not_after),
            now: micros(commit.now),
            ..Self::default()
        }
    }
}

fn shortage_entry(shortage: &Shortage) -> ShortageEntry {
    match shortage {
        Shortage::Found { medication_id, refill_at } => {
            ShortageEntry { medication_id: medication_id.clone(), refill_at: *refill_at, told_by: None }
        }
        Shortage::Over { medication_id, told_by } => {
            ShortageEntry { medication_id: medication_id.clone(), refill_at: 0, told_by: Some(told_by.clone()) }
        }
    }
}

fn child_entry(child: &Child) -> ChildEntry {
    ChildEntry {
        job_id: child.job_id.clone(),
        root_id: child.root_id.clone(),
        subject: child.subject.clone(),
        body: child.body.clone(),
        not_after: micros(child.not_after),
        trace: child.trace.clone(),
        at: child.at.map(micros),
        is_json: child.is_json,
    }
}

fn run(meta: &Meta) -> RunEntry {
    RunEntry {
        job_id: meta.job_id.clone(),
        root_id: if meta.root_id == meta.job_id { String::new() } else { meta.root_id.clone() },
        kind: meta.kind.name.to_owned(),
        stream: meta.position.stream.clone(),
        sequence: meta.position.sequence,
        delivered: meta.position.delivered,
        trace: meta.trace.clone(),
        lane: meta.recorded_lane().map(ToOwned::to_owned),
    }
}

fn micros(instant: DateTime<Utc>) -> i64 {
    instant.timestamp_micros()
}
