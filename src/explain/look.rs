//! Reads whatever bears on a question. A table that this role may not read, or that a view lacks, is noted and passed
//! over.

use std::future::Future;

use chrono::{DateTime, Utc};

use super::question::{About, OddHour, Question};
use crate::{
    pauses::Pause,
    preferences::Preferences,
    schedule::Zone,
    scheduler::care::care_job_id,
    store::{
        AddressLine, CareEvent, CareKind, CareMedication, CareReminder, DelayedLine, DoseAsk, DoseSchedule, DoseState,
        InboxLine, LedgerLine, Liveness, PlannedLine, ReminderLine, RunLine, Store, StoreError, SubscriptionCount,
        TimesOfDay,
    },
    text,
};

/// Whatever was found.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The person's zone, empty if they have none; `None` if there is no such user.
    pub zone: Option<String>,
    pub care: Care,
    /// The dose, or the start.
    pub instant: Option<DateTime<Utc>>,
    pub hour: Option<OddHour>,
    pub reminders: Vec<Reminder>,
    pub jobs: Vec<KnownJob>,
    pub subscriptions: Option<SubscriptionCount>,
    pub addresses: Vec<AddressLine>,
    pub preferences: Option<Preferences>,
    pub life: Option<Liveness>,
    pub pauses: Vec<Pause>,
    pub looked_at: Vec<&'static str>,
    pub unread: Vec<&'static str>,
}

/// The care record of the question.
#[derive(Debug, Default)]
pub(super) enum Care {
    /// None is asked about, or it cannot be read.
    #[default]
    Unread,
    /// It does not exist.
    Gone,
    Medication {
        record: CareMedication,
        dose: Option<DoseState>,
        schedules: Option<Vec<DoseSchedule>>,
        /// As a worker judges it.
        is_dose: Option<bool>,
    },
    Event(CareKind, CareEvent),
}

/// One reminder of the dose or event: by the plan of the scheduler, or by its lead alone.
#[derive(Debug)]
pub(super) struct Reminder {
    pub due: DateTime<Utc>,
    pub planned: Option<ReminderLine>,
    pub job_id: String,
}

/// The records of one root, those of the person only.
#[derive(Debug)]
pub(super) struct KnownJob {
    pub root_id: String,
    pub runs: Vec<RunLine>,
    pub unpublished: Vec<PlannedLine>,
    pub ledger: Vec<LedgerLine>,
    pub inbox: Option<InboxLine>,
    pub delayed: Option<DelayedLine>,
}

impl Known {
    /// Whether any record of Carebell names the person.
    pub fn names_them(&self) -> bool {
        self.jobs.iter().any(|job| !job.ledger.is_empty() || job.inbox.is_some())
    }

    /// The person's zone.
    pub fn zone(&self) -> Zone {
        self.zone.as_deref().map_or_else(Zone::utc, text::zone)
    }

    /// The care recipient's zone.
    pub fn care_zone(&self) -> Option<Zone> {
        match &self.care {
            Care::Medication { record, .. } => Some(text::zone(&record.zone)),
            Care::Event(_, event) => Some(text::zone(&event.zone)),
            Care::Unread | Care::Gone => None,
        }
    }
}

/// Reads for one question.
pub(super) struct Reader<'a> {
    pub store: &'a Store,
    pub question: &'a Question,
    pub now: DateTime<Utc>,
    pub known: Known,
}

impl Reader<'_> {
    async fn read<T>(
        &mut self,
        table: &'static str,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Option<T>, StoreError> {
        if !self.known.looked_at.contains(&table) {
            self.known.looked_at.push(table);
        }
        match read.await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_of_schema() => {
                self.known.unread.push(table);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The person, without what may be sent to them.
    pub async fn user(&mut self) -> Result<(), StoreError> {
        let zone = self.read("users", self.store.zone_of_user(&self.question.user_id)).await?;
        // Whoever cannot be looked up counts as existing.
        self.known.zone = zone.unwrap_or_else(|| Some(String::new()));
        Ok(())
    }

    /// The care record and its reminders.
    pub async fn care(&mut self) -> Result<(), StoreError> {
        let (store, user_id) = (self.store, self.question.user_id.as_str());
        let (kind, id, leads) = match &self.question.about {
            About::Dose { medication_id, at } => {
                let record = self.read("medications", store.care_medication(medication_id, user_id)).await?;
                let zone = match &record {
                    Some(Some(record)) => text::zone(&record.zone),
                    _ => Zone::utc(),
                };
                let (instant, hour) = at.instant(zone);
                (self.known.instant, self.known.hour) = (Some(instant), hour);
                let dose = self.read("medication_logs", store.dose_state(medication_id, instant)).await?;
                let schedules = self.read("medication_schedules", store.dose_schedules(medication_id)).await?;
                let ask = DoseAsk { medication_id: medication_id.clone(), times: TimesOfDay::of(zone, instant) };
                let is_dose = self.read("medication_schedules", store.are_doses(&[ask])).await?;
                let is_dose = is_dose.and_then(|answers| answers.into_iter().next().flatten());
                let active = schedules.iter().flatten().filter(|schedule| schedule.is_active);
                let leads: Vec<i32> = active.flat_map(|schedule| schedule.leads.iter().copied()).collect();
                self.known.care = match record {
                    None => Care::Unread,
                    Some(None) => Care::Gone,
                    Some(Some(record)) => Care::Medication { record, dose, schedules, is_dose },
                };
                (CareKind::Medication, medication_id.as_str(), leads)
            }
            About::Appointment(id) => {
                (CareKind::Appointment, id.as_str(), self.event(CareKind::Appointment, id).await?)
            }
            About::Shift(id) => (CareKind::Shift, id.as_str(), self.event(CareKind::Shift, id).await?),
            About::Job(_) | About::Last(_) => return Ok(()),
        };
        let Some(instant) = self.known.instant else { return Ok(()) };
        let planned = self.read("care_reminders", store.reminders_of(kind, id, instant)).await?.unwrap_or_default();
        let marks = self.read("reminder_marks", store.marks_of(kind, id, instant)).await?.unwrap_or_default();
        let of_plan = planned.iter().map(|line| line.lead_minutes);
        let mut leads: Vec<i32> = leads.into_iter().chain(of_plan).collect();
        leads.extend(marks.iter().map(|mark| mark.lead_minutes));
        if leads.is_empty() {
            leads.push(0);
        }
        leads.sort_unstable();
        leads.dedup();
        let mut roots: Vec<String> = marks.into_iter().map(|mark| mark.job_id).collect();
        for lead_minutes in leads {
            let due = instant - chrono::TimeDelta::minutes(i64::from(lead_minutes));
            let planned = planned.iter().find(|line| line.lead_minutes == lead_minutes).cloned();
            let due_at = planned.as_ref().map_or(due, |line| line.due_at);
            let record_id = id.to_owned();
            let job_id =
                care_job_id(&CareReminder { kind, record_id, instant, lead_minutes, due_at, overtaken: false });
            roots.push(job_id.clone());
            self.known.reminders.push(Reminder { due: due_at, planned, job_id });
        }
        roots.sort_unstable();
        roots.dedup();
        for root_id in roots {
            self.job(&root_id).await?;
        }
        Ok(())
    }

    /// An event's leads.
    async fn event(&mut self, kind: CareKind, id: &str) -> Result<Vec<i32>, StoreError> {
        let table = if kind == CareKind::Shift { "caregiver_shifts" } else { "appointments" };
        let found = self.read(table, self.store.care_event(kind, id, &self.question.user_id)).await?;
        self.known.instant = found.as_ref().and_then(|event| event.as_ref().map(|event| event.starts_at));
        let leads = found.iter().flatten().flat_map(|event| event.leads.clone()).collect();
        self.known.care = match found {
            None => Care::Unread,
            Some(None) => Care::Gone,
            Some(Some(event)) => Care::Event(kind, event),
        };
        Ok(leads)
    }

    /// The records of a root, if there are any.
    pub async fn job(&mut self, root_id: &str) -> Result<(), StoreError> {
        let (store, user_id) = (self.store, self.question.user_id.as_str());
        let runs = self.read("job_runs", store.runs_of(root_id)).await?.unwrap_or_default();
        let ledger = self.read("deliveries", store.ledger_of_user(root_id, user_id)).await?.unwrap_or_default();
        let inbox = self.read("notifications", store.inbox_of(root_id, Some(user_id))).await?.unwrap_or_default();
        let unpublished = self.read("job_children", store.planned_of(root_id)).await?.unwrap_or_default();
        let delayed = self.read("delayed_jobs", store.delayed_job(root_id)).await?.flatten();
        let inbox = inbox.into_iter().next();
        if !runs.is_empty() || !ledger.is_empty() || inbox.is_some() || !unpublished.is_empty() || delayed.is_some() {
            let root_id = root_id.to_owned();
            self.known.jobs.push(KnownJob { root_id, runs, unpublished, ledger, inbox, delayed });
        }
        Ok(())
    }

    /// The newest notifications of the person, and their records.
    pub async fn jobs_since(
        &mut self,
        since: DateTime<Utc>,
        most: usize,
    ) -> Result<Vec<(String, DateTime<Utc>)>, StoreError> {
        let found = self
            .read(
                "notifications",
                self.store.inbox_since(&self.question.user_id, since, i64::try_from(most).unwrap_or(i64::MAX)),
            )
            .await?;
        let roots = found.unwrap_or_default();
        for (root_id, _) in &roots {
            self.job(root_id).await?;
        }
        Ok(roots)
    }

    /// The job of the question, by any id of its way.
    pub async fn job_by_any_id(&mut self, id: &str) -> Result<(), StoreError> {
        let root = self.read("job_runs", self.store.root_of(id)).await?.flatten();
        self.job(root.as_deref().unwrap_or(id)).await
    }

    /// Addresses, preferences, signs of life.
    pub async fn surroundings(&mut self) -> Result<(), StoreError> {
        let (store, user_id, now) = (self.store, self.question.user_id.as_str(), self.now);
        self.known.subscriptions = self.read("push_subscriptions", store.subscriptions_of(user_id)).await?;
        self.known.addresses = self.read("user_addresses", store.addresses_of(user_id)).await?.unwrap_or_default();
        let kind = match &self.question.about {
            About::Dose { .. } => "MEDICATION_REMINDER",
            About::Appointment(_) => "APPOINTMENT_REMINDER",
            About::Shift(_) => "SHIFT_REMINDER",
            About::Job(_) | About::Last(_) => "*",
        };
        let zone = self.known.zone.clone().unwrap_or_default();
        self.known.preferences = self.read("preferences", store.preferences_of(user_id, kind, &zone)).await?;
        self.known.life = self.read("scheduler_state", store.liveness(now)).await?;
        self.known.pauses = self.read("pauses", store.pauses(now)).await?.unwrap_or_default();
        Ok(())
    }
}
