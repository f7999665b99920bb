//! All SQL. Nothing else names `sqlx`.
//!
//! `database` holds the connections; each other file holds the statements of some tables. Statements with many
//! parameters are in `store/sql/` (`named_sql`). Writes take groups of jobs, which share a commit (`group.rs`).
//!
//! Functions fail with a [`StoreError`] if the database does not answer or refuses the statement. Unless a function
//! says otherwise, it then wrote nothing.

#![expect(clippy::missing_errors_doc, reason = "the errors are the same everywhere: see above")]

mod admin;
mod asks;
mod audit;
mod callbacks;
mod care;
mod care_reminders;
mod catch_up;
mod check;
mod claims;
mod commit;
mod commits;
mod database;
mod delayed_jobs;
mod deliveries;
mod demo;
mod error;
mod explain;
mod failures;
mod gateway;
mod inspect;
mod keyed;
mod ledger;
mod listen;
pub mod lists;
mod maintenance;
mod migrate;
mod migrations;
mod named_sql;
mod operations;
mod parked;
mod pauses;
mod people;
mod place;
mod rate_limits;
mod reports;
mod runs;
mod schedules;
mod shortages;
mod subscriptions;
mod tallies;
mod task_cancels;
mod tasks;
mod timelines;
mod verdict;
mod waiting;

pub use self::{
    admin::{SessionRow, TokenRow},
    audit::{ActFilter, AuditEntry},
    callbacks::{Noted, Reported},
    care::{
        AppointmentRecord, CareEvent, CareMedication, DoseAsk, DoseSchedule, DoseState, DoseTimes, Event, EventStatus,
        Horizon, MedicationAsk, MedicationRecord, OddRows, PlanChanges, ShiftRecord, Supply, SupplyRecord, TimesOfDay,
    },
    care_reminders::{CARE_CHANGED, CareKind, CarePlan, CareReminder, DueReminders},
    catch_up::{LostOutcomes, TimelineLock, TimelineRecord},
    check::{CommitRisk, Lacks, Probe, ServerFacts},
    claims::{AROUND_A_SEND, CRASHES, Claim, ClaimAsk, Claimed, Webhook},
    commit::{Child, Commit, CommitOutcome, Committed, DirectClaims, EarlierCommit, RunState},
    database::Store,
    delayed_jobs::{DelayAnswer, DelayAsk, DelayStep, DelayedCount, DelayedLine, OverdueJob},
    demo::{DemoAddress, DemoMember},
    error::StoreError,
    explain::{AddressLine, Liveness, MarkLine, ReminderLine, SubscriptionCount},
    failures::FailedRun,
    gateway::{GatewayToken, JobRun, JobState, Offer, Offered},
    inspect::{AttemptLine, InboxLine, LedgerLine, PlannedLine, RunLine, TaskLine, Trail, TrailTotals},
    ledger::{LedgerEntry, LedgerRecord},
    listen::Listener,
    maintenance::{FinishedRoots, PruneCursor, Surplus},
    operations::{EndedNow, NewOperation, OperationRow, Progress, ToEnd},
    parked::{ClaimLine, WokenDelivery},
    pauses::PAUSES_CHANGED,
    people::PeopleAsk,
    place::{Database, DatabaseProblem},
    rate_limits::{BookAsk, Booked},
    reports::{LedgerCounts, LedgerCursor, LedgerKey, Outcomes},
    runs::{PendingChildren, RunAsk, RunRecord},
    schedules::{
        Advance, CHANGED, DueSchedules, Edit, NextDue, NextInstant, PublishedInstant, Replace, ScheduleRow,
        ScheduleSpec,
    },
    subscriptions::Orphans,
    tallies::{CountRow, WorkerReport},
    task_cancels::TaskCancel,
    tasks::{NewTask, ParkedTask, TaskChange, TaskProgress, TaskRow, TaskState},
    timelines::Timeline,
    verdict::Verdict,
    waiting::{Cancellation, WaitingRun},
};
