use chrono::{DateTime, Utc};

use super::super::failed::Failed;
use crate::{
    dead_letter::Filter,
    plan::DeadReason,
    when::{WHEN, parse_when},
};

/// Filters, combined by AND.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Filters {
    /// Of this kind, for example reminder.medication
    #[arg(long)]
    kind: Option<String>,
    #[arg(
        long,
        value_parser = parse_reason,
        help = "With this reason: permanent, exhausted, crashed, undecodable, unknown_kind or unscheduled"
    )]
    reason: Option<DeadReason>,
    /// Of this job or a job that followed from it; repeatable
    #[arg(long = "job-id", value_name = "ID")]
    job_ids: Vec<String>,
    /// Dead since this instant: RFC 3339, or an age such as 2h
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Dead before this instant: RFC 3339, or an age
    #[arg(long, value_name = "WHEN")]
    before: Option<String>,
}

impl Filters {
    pub(super) fn filter(&self, now: DateTime<Utc>) -> Result<Filter, Failed> {
        let instant = |option: &str, text: &Option<String>| {
            let text = text.as_ref();
            text.map(|text| parse_when(text, now).ok_or_else(|| Failed(format!("{option}: {WHEN}")))).transpose()
        };
        Ok(Filter {
            kind: self.kind.clone(),
            reason: self.reason,
            job_ids: self.job_ids.clone(),
            since: instant("--since", &self.since)?,
            before: instant("--before", &self.before)?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { kind, reason, job_ids, since, before } = self;
        kind.is_none() && reason.is_none() && job_ids.is_empty() && since.is_none() && before.is_none()
    }
}

pub(crate) fn parse_reason(text: &str) -> Result<DeadReason, String> {
    DeadReason::parse(text)
        .ok_or_else(|| "expected permanent, exhausted, crashed, undecodable, unknown_kind or unscheduled".to_owned())
}
