//! Every sentence of an explanation. Ids only: no name, title, place or address.

mod reasons;

use chrono::{DateTime, SecondsFormat, TimeDelta, Timelike, Utc};

use super::{
    cause::{Cause, NoDose, Told},
    question::{About, OddHour, Question},
};
use crate::{
    channels::NOBODY,
    plan::Channel,
    preferences::Preferences,
    schedule::Zone,
    store::{AddressLine, InboxLine, LedgerLine, Liveness, RunLine, SubscriptionCount},
};

/// The setting of a sentence.
pub(super) struct Scene<'a> {
    pub question: &'a Question,
    /// Of the person.
    pub zone: Zone,
    /// Of the care recipient.
    pub care_zone: Option<Zone>,
    /// The dose or the start.
    pub instant: Option<DateTime<Utc>>,
    pub now: DateTime<Utc>,
}

/// `2026-12-01 09:00 Europe/Vienna (2026-12-01T08:00:00Z)`
pub(super) fn when(at: DateTime<Utc>, zone: Zone) -> String {
    let utc = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    if zone == Zone::utc() {
        return utc;
    }
    let pattern = if at.second() == 0 { "%Y-%m-%d %H:%M" } else { "%Y-%m-%d %H:%M:%S" };
    format!("{} {zone} ({utc})", at.with_timezone(&zone).format(pattern))
}

/// The one sentence: `ana was not told of the dose of metformin at …: …`
pub(super) fn sentence(scene: &Scene<'_>, causes: &[Cause]) -> String {
    let Some(first) = causes.first() else { return String::new() };
    let user = &scene.question.user_id;
    let subject = subject(scene);
    let is_ahead = scene.instant.is_some_and(|at| at > scene.now);
    let told = match first.told() {
        Told::Yes => format!("{user} was told {subject}"),
        Told::Partly => format!("{user} was told in part {subject}"),
        Told::Perhaps => format!("{user} was perhaps told {subject}"),
        Told::NotYet => format!("{user} has not been told {subject} yet"),
        Told::No if is_ahead => format!("{user} will not be told {subject}"),
        Told::No => format!("{user} was not told {subject}"),
        Told::Unknown => format!("the records do not say whether {user} was told {subject}"),
    };
    let read = match first {
        Cause::Delivery(line) if first.told() == Told::Yes => reading(scene, line, causes),
        _ => String::new(),
    };
    format!("{told}: {}{read}", cause(scene, first))
}

fn subject(scene: &Scene<'_>) -> String {
    let zone = scene.care_zone.unwrap_or(scene.zone);
    let at = scene.instant.map(|at| format!(" at {}", when(at, zone))).unwrap_or_default();
    match &scene.question.about {
        About::Dose { medication_id, .. } => format!("of the dose of {medication_id}{at}"),
        About::Appointment(id) => format!("of the appointment {id}{at}"),
        About::Shift(id) => format!("of the shift {id}{at}"),
        About::Job(id) => format!("by the job {id}"),
        About::Last(since) => format!("of anything since {}", when(scene.now - *since, scene.zone)),
    }
}

/// `; they read it at …`
fn reading(scene: &Scene<'_>, line: &LedgerLine, causes: &[Cause]) -> String {
    // The inbox row was written with the delivery.
    let row = causes.iter().find_map(|cause| match cause {
        Cause::Inbox(row) if (row.created_at - line.created_at).abs() < TimeDelta::seconds(1) => Some(row),
        _ => None,
    });
    match row.and_then(|row| row.read_at) {
        Some(at) => format!("; they read it at {}", when(at, scene.zone)),
        None => "; it is unread in their inbox".to_owned(),
    }
}

/// Of all notifications in a time.
pub(super) fn summary(scene: &Scene<'_>, told: usize, all: usize, are_more: bool, last_other: Option<&str>) -> String {
    let user = &scene.question.user_id;
    let since = match scene.question.about {
        About::Last(time) => when(scene.now - time, scene.zone),
        _ => String::new(),
    };
    let others = last_other.map(|sentence| format!("; the last of the others: {sentence}")).unwrap_or_default();
    let newest = if are_more { "the newest " } else { "" };
    format!("{user} was told by {told} of {newest}{all} notifications since {since}{others}")
}

/// A cause or fact without its subject, so that it can follow a colon.
pub(super) fn cause(scene: &Scene<'_>, cause: &Cause) -> String {
    let local = |at: DateTime<Utc>| when(at, scene.zone);
    match cause {
        Cause::Delivery(line) => delivery(scene, line),
        Cause::Run(line) => run(scene, line),
        Cause::Delayed(line) => match (line.state.as_str(), line.due) {
            ("waiting", Some(due)) => format!("its application delayed the job until {}", local(due)),
            ("cancelled", _) => format!("the job was cancelled at {}", local(line.updated_at)),
            (_, Some(due)) => format!("the job was delayed until {}, and no worker has recorded it since", local(due)),
            (state, None) => format!("the job was delayed ({state})"),
        },
        Cause::Unpublished { job_id } => {
            format!("the job {job_id} is planned, and not known to be published")
        }
        Cause::NotRun { job_id, published_at, is_worker_up } => {
            let why = if *is_worker_up { "" } else { ": no worker has given a sign of life for a minute" };
            format!("the job {job_id} was published at {}, and no worker has recorded it{why}", local(*published_at))
        }
        Cause::NotARecipient { job_id, at } => {
            format!("they were not among the recipients when {job_id} was planned at {}", local(*at))
        }
        Cause::Unrecorded { job_id, at } => format!(
            "{job_id} wrote an inbox row at {} and no delivery: a version that did not record why planned it",
            local(*at)
        ),
        Cause::UnknownUser => "there is no such user in `users`".to_owned(),
        Cause::Gone => "there is no such care record: it was deleted, or the id is wrong".to_owned(),
        Cause::NoMember => "they are not a member of the care recipient's family".to_owned(),
        Cause::NotTheirShift { is_assigned: true } => "the shift is assigned to somebody else".to_owned(),
        Cause::NotTheirShift { .. } => "the shift is assigned to nobody".to_owned(),
        Cause::Inactive => "the medication is not active".to_owned(),
        Cause::Cancelled => "it was called off".to_owned(),
        Cause::Over => "it is completed".to_owned(),
        Cause::Given => "the dose is on record as given".to_owned(),
        Cause::SkippedDose => "the dose is on record as skipped on purpose".to_owned(),
        Cause::NoDose(why) => no_dose(why),
        Cause::NotDue { due, is_planned: true } => format!("the reminder is planned for {}", local(*due)),
        Cause::NotDue { due, .. } => format!(
            "the reminder is due at {}, and is not planned yet (doses are 15 minutes ahead, others up to a week)",
            local(*due)
        ),
        Cause::SchedulerDown { due, looked_at } => {
            let last = looked_at.map_or_else(|| "never".to_owned(), |at| format!("last at {}", local(at)));
            format!("the reminder was due at {}, and a scheduler looked at the care tables {last}", local(*due))
        }
        Cause::SchedulerBehind { due, overdue } => format!(
            "the reminder was due at {} and is not published: schedulers are up and behind ({overdue} are overdue)",
            local(*due)
        ),
        Cause::NotPlanned { due, looked_at } => format!(
            "no reminder is on record for {}, though a scheduler looked at the care tables at {}: the record was written \
             or changed after it was due",
            local(*due),
            local(*looked_at)
        ),
        Cause::Paused(pause) => {
            let until =
                pause.until.map_or_else(|| "until somebody resumes it".to_owned(), |at| format!("until {}", local(at)));
            let (scope, since) = (pause.scope.name(), local(pause.since));
            format!("{} has paused the {scope} {} since {since}, {until}: {}", pause.actor, pause.name, pause.reason)
        }
        Cause::Nothing => "nothing is on record".to_owned(),
        Cause::Inbox(row) => inbox(scene, row),
        Cause::Hour(OddHour::Skipped) => {
            "the clock skips that time on that day, so the dose is due when the gap ends".to_owned()
        }
        Cause::Hour(OddHour::Repeated) => {
            "the clock shows that time twice on that day, and the dose is due the first time".to_owned()
        }
        Cause::Subscriptions(count) => subscriptions(count),
        Cause::Addresses(lines) => addresses(lines),
        Cause::Preferences(chosen) => chosen_in_words(scene, chosen),
        Cause::Life(life) => signs_of_life(scene, life),
    }
}

fn delivery(scene: &Scene<'_>, line: &LedgerLine) -> String {
    let local = |at: DateTime<Utc>| when(at, scene.zone);
    let channel = &line.channel;
    // A webhook's host may be personal.
    let is_webhook = *channel == Channel::Webhook.name();
    let provider = line.provider.as_deref().filter(|name| *name != NOBODY && !is_webhook);
    let by = provider.map(|name| format!(" by {name}")).unwrap_or_default();
    let answer = line.answer.as_deref().filter(|answer| *answer != NOBODY && !is_webhook);
    let answered = answer.map(|answer| format!(" (answer: {answer})")).unwrap_or_default();
    let failures = match line.failures.last() {
        Some(failure) if !is_webhook => {
            format!("{}, last at {}: {}", attempts(line.attempts), local(failure.at), failure.answer)
        }
        _ => attempts(line.attempts),
    };
    let reason = line.reason.as_deref().unwrap_or_default();
    match line.state.as_str() {
        "sent" | "delivered" => {
            let sent = line.sent_at.map(|at| format!(" at {}", local(at))).unwrap_or_default();
            let arrived = line.delivered_at.map(|at| format!(", and reported as delivered at {}", local(at)));
            let quiet = if line.overrode_quiet_hours { ", in quiet hours because it is critical" } else { "" };
            format!("{channel} was accepted{by}{sent}{}{quiet}", arrived.unwrap_or_default())
        }
        "unknown" => format!(
            "{channel} may have been sent at {}: no answer came{by}, and it is not sent again",
            local(line.updated_at)
        ),
        "sending" => format!("a worker has been sending {channel} since {}", local(line.updated_at)),
        "pending" => format!("{channel} waits for a worker since {} ({failures})", local(line.updated_at)),
        "held" => {
            let until = line.held_until.unwrap_or(line.updated_at);
            let is_past = until < scene.now;
            let past = if is_past { ", which has passed: it waits for a worker" } else { "" };
            let why = match reason {
                "quiet_hours" => format!("{channel} is held by their quiet hours"),
                "provider_down" => format!("the provider of {channel} is down ({failures}), and the next try is"),
                "retry_later" => format!("the provider of {channel} asked for patience, and the next try is"),
                "retry" => format!("{channel} failed ({failures}), and the next try is"),
                other => format!("{channel} is held ({other})"),
            };
            let at = if reason == "quiet_hours" { "until" } else { "at" };
            format!("{why} {at} {}{past}", local(until))
        }
        "dead" => {
            format!("{channel} failed for good at {} ({reason}, {failures}){answered}", local(line.updated_at))
        }
        "expired" if reason == "quiet_hours" => {
            format!("{channel} would have expired at {} in their quiet hours", local(line.not_after))
        }
        "expired" => format!("{channel} expired at {}, before it was sent", local(line.not_after)),
        state => {
            let why = reasons::of_delivery(state, reason, line.claims > 0);
            format!("{channel} was not sent: {why}{answered}")
        }
    }
}

fn attempts(count: i32) -> String {
    match count {
        1 => "1 failed attempt".to_owned(),
        count => format!("{count} failed attempts"),
    }
}

fn run(scene: &Scene<'_>, run: &RunLine) -> String {
    let RunLine { kind, job_id, reason, last_error, updated_at, .. } = run;
    let at = when(*updated_at, scene.zone);
    let error = last_error.as_deref().map(|error| format!("; last failure: {error}")).unwrap_or_default();
    let reason = reason.as_deref().unwrap_or_default();
    let failures = attempts(run.attempts);
    match run.state.as_str() {
        "open" if reason == "delayed" => format!("its application delayed the job {job_id}"),
        "open" if reason == "not_due" => {
            format!("the application published {job_id} before it is due, and it waits until then")
        }
        "open" => format!("{kind} {job_id} is not finished ({failures}, {at}){error}"),
        "dead" => format!("{kind} {job_id} failed for good at {at} ({reason}, {failures}){error}"),
        "expired" => format!("{kind} {job_id} expired before it ran at {at}"),
        _ => format!("{} ({kind} {job_id}, {at})", reasons::of_run(reason)),
    }
}

fn no_dose(why: &NoDose) -> String {
    match why {
        NoDose::NoSchedule => {
            "the medication has no times in `medication_schedules`, so Carebell plans no reminder: its application has to \
             publish it"
                .to_owned()
        }
        NoDose::Rests => "none of the medication's schedules is ACTIVE".to_owned(),
        NoDose::NotBegun(day) => format!("the medication's schedule begins on {day}"),
        NoDose::Ended(day) => format!("the medication's schedule ended on {day}"),
        NoDose::Weekday(day) => format!("the medication has no dose on {}s", day.format("%A")),
        NoDose::OtherTimes(times) => {
            let times: Vec<&str> = times.iter().map(|time| time.strip_suffix(":00").unwrap_or(time)).collect();
            format!("the medication's doses of that day are at {}, on the care recipient's clocks", times.join(", "))
        }
    }
}

fn inbox(scene: &Scene<'_>, row: &InboxLine) -> String {
    let steps = [("archived", row.archived_at), ("read", row.read_at), ("seen", row.seen_at)];
    let last = steps.into_iter().find_map(|(word, at)| at.map(|at| format!("{word} at {}", when(at, scene.zone))));
    let last = last.unwrap_or_else(|| "unread".to_owned());
    format!("it is in their inbox since {}, {last}", when(row.created_at, scene.zone))
}

fn subscriptions(count: &SubscriptionCount) -> String {
    let SubscriptionCount { usable, malformed, problems } = count;
    let browsers = if *usable == 1 { "subscription" } else { "subscriptions" };
    let malformed = match malformed {
        0 => String::new(),
        count => format!(", and {count} malformed: {}", problems.join("; ")),
    };
    format!("they have {usable} usable push {browsers} now{malformed}")
}

fn addresses(lines: &[AddressLine]) -> String {
    let line = |line: &AddressLine| {
        let reason = line.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} {} {}{reason}", line.count, line.channel, line.state)
    };
    format!("their further addresses now: {}", lines.iter().map(line).collect::<Vec<_>>().join(", "))
}

fn chosen_in_words(scene: &Scene<'_>, chosen: &Preferences) -> String {
    let channels = chosen.channels.as_ref().map(|channels| {
        let names: Vec<&str> = channels.iter().map(|channel| channel.name()).collect();
        if names.is_empty() { "no channel".to_owned() } else { names.join(", ") }
    });
    let channels = channels.unwrap_or_else(|| "the default channels".to_owned());
    let quiet = chosen.quiet.as_ref().map(|quiet| {
        let times = match (quiet.from, quiet.to) {
            (from, to) if from == to => format!("all day {}", quiet.zone),
            (from, to) => format!("{} to {} {}", from.format("%H:%M"), to.format("%H:%M"), quiet.zone),
        };
        match chosen.quiet_until(Channel::WebPush, scene.now) {
            Some(until) => format!(", with quiet hours {times}, now until {}", when(until, scene.zone)),
            None => format!(", with quiet hours {times}"),
        }
    });
    format!("their preferences now: {channels}{}", quiet.unwrap_or_default())
}

fn signs_of_life(scene: &Scene<'_>, life: &Liveness) -> String {
    let at = |at: Option<DateTime<Utc>>| at.map_or_else(|| "never".to_owned(), |at| when(at, scene.zone));
    let Liveness { care_looked_at, sign_of_life, last_run, overdue } = *life;
    format!(
        "last look of a scheduler at the care tables: {}; last sign of life of a worker: {}; last recorded job: {}; \
         overdue reminders: {overdue}",
        at(care_looked_at),
        at(sign_of_life),
        at(last_run)
    )
}

/// Advice for the cause that decided, one line a step.
pub(super) fn next(causes: &[Cause], unread: &[&'static str]) -> Vec<String> {
    let mut steps = Vec::new();
    if !unread.is_empty() {
        steps.push(format!(
            "{} could not be read: the columns are missing, or this role lacks a grant of helm/servers/operator.sql",
            unread.join(", ")
        ));
    }
    if let Some(first) = causes.first() {
        steps.extend(reasons::advice(first.code()).map(str::to_owned));
        if let Some(job_id) = first.job_id().filter(|_| first.told() != Told::Yes) {
            steps.push(format!("carebell jobs show {job_id}"));
        }
    }
    steps
}
