//! From messages to pages, and from their entries back to what was asked.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use prost::Message;

use super::{
    PART,
    page::{
        ChildEntry, CommitEntry, ContentEntry, DelayEntry, DeliveryEntry, FailureEntry, OutcomeEntry, Page,
        ReceiptEntry, Record, RunEntry, ShortageEntry,
    },
};
use crate::{
    kind::{Kind, Lane},
    meta::{IntakePosition, Meta, StreamPosition},
    plan::{Channel, Content, DeadReason, Delivered, InboxRow, Mark, Plan, PlannedDelivery, Receipt, Shortage, Unsent},
    policy::Wishes,
    store::{
        Child, Commit, DelayAsk, DelayStep, DirectClaims, FailedRun, LedgerEntry, LedgerRecord, RunState, Verdict,
    },
};

/// What an entry holds that this version does not know.
type Unknown = String;

/// Pages as their messages come.
#[derive(Debug, Default)]
pub struct Pages {
    whole: Vec<Page>,
    /// Of pages that have more messages.
    parts: HashMap<String, Vec<Bytes>>,
}

impl Pages {
    /// Adds the next message of the journal. One that cannot be read is passed over.
    pub fn add(&mut self, sequence: u64, subject: &str, body: Bytes) {
        let Some(part) = subject.strip_prefix(PART) else { return self.read(sequence, body) };
        let mut fields = part.split('.');
        let (id, _, of) = (fields.next(), fields.next(), fields.next().and_then(|of| of.parse::<usize>().ok()));
        let (Some(id), Some(of)) = (id, of) else {
            return tracing::warn!(sequence, "a message of the journal has a wrong subject, and is passed over");
        };
        // One connection publishes them, so they come in order.
        let parts = self.parts.entry(id.to_owned()).or_default();
        parts.push(body);
        if parts.len() == of {
            let body = Bytes::from(parts.concat());
            self.parts.remove(id);
            self.read(sequence, body);
        }
    }

    fn read(&mut self, sequence: u64, body: Bytes) {
        match Page::decode(body) {
            Ok(page) => self.whole.push(page),
            Err(why) => tracing::warn!(sequence, "a message of the journal cannot be read, and is passed over: {why}"),
        }
    }

    /// Those that are whole since the last time.
    pub fn take(&mut self) -> Vec<Page> {
        std::mem::take(&mut self.whole)
    }
}

/// What pages hold.
#[derive(Debug, Default)]
pub struct Entries {
    pub commits: Vec<Commit>,
    pub failures: Vec<FailedRun>,
    pub delays: Vec<DelayAsk>,
    pub outcomes: Vec<LedgerEntry>,
}

impl Entries {
    /// Passes over what this version does not know, such as a kind of a newer one.
    pub fn of(pages: Vec<Page>, kinds: &[Kind]) -> Self {
        let mut entries = Self::default();
        for page in pages {
            let worker: Arc<str> = page.worker.into();
            add(&mut entries.commits, page.commits, |entry| entry.read(&worker, kinds));
            add(&mut entries.failures, page.failures, |entry| entry.read(kinds));
            add(&mut entries.delays, page.delays, DelayEntry::read);
            add(&mut entries.outcomes, page.outcomes, |entry| entry.read(&worker));
        }
        entries
    }
}

fn add<E, T>(to: &mut Vec<T>, entries: Vec<E>, read: impl Fn(E) -> Result<T, Unknown>) {
    for entry in entries {
        match read(entry) {
            Ok(asked) => to.push(asked),
            Err(unknown) => {
                tracing::warn!("an entry of the journal is passed over, because this version does not know {unknown}");
            }
        }
    }
}

impl CommitEntry {
    /// The commit. `worker`: the page's.
    fn read(self, worker: &Arc<str>, kinds: &[Kind]) -> Result<Commit, Unknown> {
        let now = instant(self.now)?;
        let direct: HashSet<String> =
            self.deliveries.iter().filter(|row| row.direct).map(|row| row.id.clone()).collect();
        Ok(Commit {
            meta: self.run.read(kinds, now)?,
            state: match self.state.as_str() {
                "done" => RunState::Done,
                "skipped" => RunState::Skipped,
                "expired" => RunState::Expired,
                other => return Err(format!("the state {other:?}")),
            },
            reason: self.reason.map(interned),
            plan: Plan {
                mark: self
                    .mark
                    .map(|mark| {
                        let instant = instant(mark.instant)?;
                        Ok::<_, Unknown>(Mark { record_id: mark.record_id, instant, lead_minutes: mark.lead_minutes })
                    })
                    .transpose()?,
                shortage: self.shortage.map(ShortageEntry::read),
                contents: self.contents.into_iter().map(ContentEntry::read).collect::<Result<_, _>>()?,
                inbox: self
                    .inbox
                    .into_iter()
                    .map(|row| InboxRow { id: row.id, user_id: row.user_id, locale: row.locale })
                    .collect(),
                deliveries: self.deliveries.into_iter().map(DeliveryEntry::read).collect::<Result<_, _>>()?,
                result: self.result.map(|json| serde_json::from_str(&json).map_err(|_| "a result")).transpose()?,
                ..Plan::default()
            },
            children: self.children.into_iter().map(ChildEntry::read).collect::<Result<_, _>>()?,
            next: self.next.map(|next| next.read(worker, kinds)).transpose()?.map(Box::new),
            not_after: instant(self.not_after)?,
            direct: (!direct.is_empty()).then(|| DirectClaims { worker: Arc::clone(worker), ids: direct }),
            now,
        })
    }
}

impl FailureEntry {
    /// The failed run.
    fn read(self, kinds: &[Kind]) -> Result<FailedRun, Unknown> {
        let now = instant(self.now)?;
        let verdict = match self.dead {
            None => Verdict::Attempt { error: self.error, until: None },
            Some(reason) => Verdict::Dead { error: self.error, reason: dead_reason(&reason)? },
        };
        Ok(FailedRun { meta: self.run.read(kinds, now)?, verdict, now })
    }
}

impl DelayEntry {
    /// What was noted of the delayed job.
    fn read(self) -> Result<DelayAsk, Unknown> {
        Ok(DelayAsk {
            step: match self.step {
                0 => DelayStep::Wait,
                1 => DelayStep::Run,
                2 => DelayStep::Cancel,
                other => return Err(format!("the step {other}")),
            },
            job_id: self.job_id,
            application: self.application,
            kind: interned(self.kind),
            lane: self.lane.map(interned),
            due: self.due.map(instant).transpose()?,
            size: usize::try_from(self.size).unwrap_or(usize::MAX),
            position: IntakePosition { created: instant(self.created)?, sequence: self.sequence, stream: self.stream },
            now: instant(self.now)?,
        })
    }
}

impl OutcomeEntry {
    /// The outcome. `worker`: the page's.
    fn read(self, worker: &Arc<str>) -> Result<LedgerEntry, Unknown> {
        Ok(LedgerEntry {
            id: self.id,
            sequence: self.sequence,
            delivered: self.delivered,
            worker: Arc::clone(worker),
            record: match self.record.ok_or("an outcome")? {
                Record::Receipt(receipt) => LedgerRecord::Receipt(receipt.read()?),
                Record::Expired(reason) => LedgerRecord::Expired(interned(reason)),
                Record::Skipped(reason) => LedgerRecord::Skipped(interned(reason)),
                Record::Held(held) => LedgerRecord::Held(instant(held.until)?, interned(held.reason)),
                Record::Attempt(attempt) => LedgerRecord::Verdict(Verdict::Attempt {
                    error: attempt.error,
                    until: attempt.until.map(instant).transpose()?,
                }),
                Record::Dead(dead) => {
                    LedgerRecord::Verdict(Verdict::Dead { error: dead.error, reason: dead_reason(&dead.reason)? })
                }
            },
            now: instant(self.now)?,
        })
    }
}

impl RunEntry {
    fn read(self, kinds: &[Kind], now: DateTime<Utc>) -> Result<Meta, Unknown> {
        let kind = kinds.iter().find(|kind| kind.name == self.kind).copied();
        Ok(Meta {
            root_id: if self.root_id.is_empty() { self.job_id.clone() } else { self.root_id },
            kind: kind.ok_or_else(|| format!("the kind {:?}", self.kind))?,
            lane: self.lane.as_deref().and_then(Lane::parse).unwrap_or(Lane::Critical),
            position: StreamPosition {
                stream: self.stream,
                sequence: self.sequence,
                delivered: self.delivered,
                published: now,
            },
            resumed: false,
            not_after: None,
            trace: self.trace,
            wishes: Wishes::default(),
            delay: None,
            due: None,
            waited: None,
            job_id: self.job_id,
        })
    }
}

impl ShortageEntry {
    fn read(self) -> Shortage {
        let medication_id = self.medication_id;
        match self.told_by {
            None => Shortage::Found { medication_id, refill_at: self.refill_at },
            Some(told_by) => Shortage::Over { medication_id, told_by },
        }
    }
}

impl ContentEntry {
    fn read(self) -> Result<Content, Unknown> {
        let data = if self.data.is_empty() { Ok(serde_json::Map::new()) } else { serde_json::from_str(&self.data) };
        Ok(Content {
            locale: self.locale,
            kind: self.kind,
            title: self.title,
            body: self.body,
            url: self.url,
            data: data.map_err(|_| "the data of a text")?,
            tag: self.tag,
        })
    }
}

impl DeliveryEntry {
    fn read(self) -> Result<PlannedDelivery, Unknown> {
        Ok(PlannedDelivery {
            id: self.id,
            user_id: self.user_id,
            channel: Channel::parse(&self.channel).ok_or_else(|| format!("the channel {:?}", self.channel))?,
            address: self.address,
            locale: self.locale,
            lane: Lane::parse(&self.lane).ok_or_else(|| format!("the lane {:?}", self.lane))?,
            named: self.named,
            unsent: match self.unsent {
                0 => None,
                1 => Some(Unsent::NoChannel),
                2 => Some(Unsent::NoAddress),
                3 => Some(Unsent::NotNamed),
                4 => Some(Unsent::NotOptedIn),
                5 => Some(Unsent::NoSubscription),
                6 => Some(Unsent::OptedOut),
                7 => Some(Unsent::InboxOnly),
                8 => Some(Unsent::UnknownUser),
                other => return Err(format!("the reason {other} of an unsent delivery")),
            },
        })
    }
}

impl ChildEntry {
    fn read(self) -> Result<Child, Unknown> {
        Ok(Child {
            job_id: self.job_id,
            root_id: self.root_id,
            subject: self.subject,
            body: self.body,
            not_after: instant(self.not_after)?,
            trace: self.trace,
            due: None,
            at: self.at.map(instant).transpose()?,
            is_json: self.is_json,
        })
    }
}

impl ReceiptEntry {
    fn read(self) -> Result<Receipt, Unknown> {
        Ok(Receipt {
            state: match self.state {
                0 => Delivered::Sent,
                1 => Delivered::Failed,
                2 => Delivered::Unknown,
                other => return Err(format!("the state {other} of a receipt")),
            },
            reason: self.reason.map(interned),
            provider: self.provider,
            provider_id: self.provider_id,
            answer: self.answer,
            address_gone: self.address_gone,
            tried: self.tried,
            overrode_quiet_hours: self.overrode_quiet_hours,
        })
    }
}

fn instant(micros: i64) -> Result<DateTime<Utc>, Unknown> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| format!("the instant {micros}"))
}

fn dead_reason(name: &str) -> Result<DeadReason, Unknown> {
    DeadReason::parse(name).ok_or_else(|| format!("the reason {name:?}"))
}

/// A name that lives as long as the program, as those in the code do. There are a few dozen, each kept once.
fn interned(name: String) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let name: &'static str = Box::leak(name.into_boxed_str());
    names.insert(name);
    name
}
