//! Rows of `sql/commit.sql`.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::types::Json;

use super::super::{
    commit::{Child, Commit},
    named_sql::rows,
};
use crate::meta::split;
use crate::plan::{Content, InboxRow as Inbox, PlannedDelivery, Unsent};

rows! {
    pub struct RunRow<'q> {
        job_id: &'q str,
        root_id: &'q str,
        kind: &'static str,
        lane: Option<&'static str>,
        stream: &'q str,
        sequence: i64,
        state: &'static str,
        reason: Option<&'static str>,
        publishes: bool,
        result: Option<&'q Value>,
        now: DateTime<Utc>,
        record_id: Option<&'q str>,
        instant: Option<DateTime<Utc>>,
        lead_minutes: Option<i32>,
    }
}

rows! {
    pub struct ChildRow<'q> {
        run_id: &'q str,
        job_id: &'q str,
        root_id: &'q str,
        subject: &'q str,
        body: &'q [u8],
        not_after: DateTime<Utc>,
        trace: Option<&'q str>,
        at: Option<DateTime<Utc>>,
        is_json: bool,
    }
}

rows! {
    /// The run of a notification planned with its reminder.
    pub struct NextRunRow<'q> {
        reminder_id: &'q str,
        job_id: &'q str,
        root_id: &'q str,
        kind: &'static str,
        lane: Option<&'static str>,
        stream: &'q str,
        sequence: i64,
        publishes: bool,
        now: DateTime<Utc>,
    }
}

rows! {
    pub struct ContentRow<'q> {
        run_id: &'q str,
        root_id: &'q str,
        /// Of the root, for the inbox.
        application: &'q str,
        /// Of the root, as its application gave it.
        id: &'q str,
        locale: &'q str,
        kind: &'q str,
        title: &'q str,
        body: &'q str,
        url: Option<&'q str>,
        data: Json<&'q Map<String, Value>>,
        tag: Option<&'q str>,
        now: DateTime<Utc>,
    }
}

rows! {
    /// `content` is the position of its text among the [`ContentRow`]s, counted from 1.
    pub struct InboxRow<'q> {
        run_id: &'q str,
        id: &'q str,
        user_id: &'q str,
        content: i32,
    }
}

rows! {
    /// `worker` is set if that worker sends it directly.
    pub struct LedgerRow<'q> {
        id: &'q str,
        root_id: &'q str,
        run_id: &'q str,
        user_id: &'q str,
        channel: &'static str,
        address: &'q str,
        locale: &'q str,
        lane: &'static str,
        named: bool,
        subject: Option<String>,
        state: &'static str,
        reason: Option<&'static str>,
        not_after: DateTime<Utc>,
        trace: Option<&'q str>,
        now: DateTime<Utc>,
        worker: Option<&'q str>,
    }
}

impl<'q> RunRow<'q> {
    pub fn of(commit: &'q Commit) -> Self {
        let Commit { meta, plan, .. } = commit;
        let mark = plan.mark.as_ref();
        Self {
            job_id: &meta.job_id,
            root_id: &meta.root_id,
            kind: meta.kind.name,
            lane: meta.recorded_lane(),
            stream: &meta.position.stream,
            sequence: meta.position.sequence,
            state: commit.state.name(),
            reason: commit.reason,
            publishes: commit.publishes(),
            result: plan.result.as_ref(),
            now: commit.now,
            record_id: mark.map(|mark| mark.record_id.as_str()),
            instant: mark.map(|mark| mark.instant),
            lead_minutes: mark.map(|mark| mark.lead_minutes),
        }
    }
}

impl<'q> ChildRow<'q> {
    pub fn of(commit: &'q Commit, child: &'q Child) -> Self {
        Self {
            run_id: &commit.meta.job_id,
            job_id: &child.job_id,
            root_id: &child.root_id,
            subject: &child.subject,
            body: &child.body,
            not_after: child.not_after,
            trace: child.trace.as_deref(),
            at: child.at,
            is_json: child.is_json,
        }
    }
}

impl<'q> NextRunRow<'q> {
    pub fn of(reminder: &'q Commit, next: &'q Commit) -> Self {
        let meta = &next.meta;
        Self {
            reminder_id: &reminder.meta.job_id,
            job_id: &meta.job_id,
            root_id: &meta.root_id,
            kind: meta.kind.name,
            lane: meta.recorded_lane(),
            stream: &meta.position.stream,
            sequence: meta.position.sequence,
            publishes: next.publishes(),
            now: next.now,
        }
    }
}

impl<'q> ContentRow<'q> {
    pub fn of(commit: &'q Commit, content: &'q Content) -> Self {
        let (application, id) = split(&commit.meta.root_id);
        Self {
            run_id: &commit.meta.job_id,
            root_id: &commit.meta.root_id,
            application,
            id,
            locale: &content.locale,
            kind: &content.kind,
            title: &content.title,
            body: &content.body,
            url: content.url.as_deref(),
            data: Json(&content.data),
            tag: content.tag.as_deref(),
            now: commit.now,
        }
    }
}

impl<'q> InboxRow<'q> {
    /// Contents are counted in the order of the commits, as [`ContentRow`]s are.
    pub fn all(commits: &[&'q Commit]) -> Vec<Self> {
        let mut rows = Vec::with_capacity(commits.iter().map(|commit| commit.plan.inbox.len()).sum());
        let mut contents_before = 0;
        for commit in commits {
            let contents = &commit.plan.contents;
            for Inbox { id, user_id, locale } in &commit.plan.inbox {
                // A plan has a text for each language of its rows.
                let content = contents.iter().position(|content| content.locale == *locale).unwrap_or(0);
                let content = i32::try_from(contents_before + content + 1).unwrap_or(i32::MAX);
                rows.push(Self { run_id: &commit.meta.job_id, id, user_id, content });
            }
            contents_before += contents.len();
        }
        rows
    }
}

impl<'q> LedgerRow<'q> {
    pub fn of(commit: &'q Commit, delivery: &'q PlannedDelivery) -> Self {
        let direct = commit.direct.as_ref().filter(|direct| direct.ids.contains(&delivery.id));
        let (state, reason) = match delivery.unsent {
            None if direct.is_some() => ("sending", None),
            None => ("pending", None),
            Some(Unsent::NoChannel) => ("failed", Some("no_channel")),
            Some(Unsent::NoAddress) => ("failed", Some("no_address")),
            Some(Unsent::NotNamed) => ("skipped", Some("not_named")),
            Some(Unsent::NotOptedIn) => ("skipped", Some("not_opted_in")),
            Some(Unsent::NoSubscription) => ("skipped", Some("no_subscription")),
            Some(Unsent::OptedOut) => ("skipped", Some("opted_out")),
            Some(Unsent::InboxOnly) => ("skipped", Some("inbox_only")),
            Some(Unsent::UnknownUser) => ("skipped", Some("unknown_user")),
        };
        Self {
            id: &delivery.id,
            root_id: &commit.meta.root_id,
            run_id: &commit.meta.job_id,
            user_id: &delivery.user_id,
            channel: delivery.channel.name(),
            address: &delivery.address,
            locale: &delivery.locale,
            lane: delivery.lane.name(),
            named: delivery.named,
            subject: delivery.unsent.is_none().then(|| delivery.channel.kind().subject(delivery.lane)),
            state,
            reason,
            not_after: commit.not_after,
            trace: commit.meta.trace.as_deref(),
            now: commit.now,
            worker: direct.map(|direct| &*direct.worker),
        }
    }
}
