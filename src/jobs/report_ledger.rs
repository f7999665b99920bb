//! `report.ledger`: what was sent, late, missed, failed and expired in a day, a week or a month.
//!
//! The period is the last whole one before the job's instant, so the same job reports of the same period whenever it runs.
//! Its `work` writes the files before the commit; a repetition writes them again.

mod page;
mod period;

use chrono::{DateTime, TimeDelta, Utc};
use prost::Message as _;
use serde_json::json;

use self::period::{Length, Period};
use super::{
    document_upload::{key, store_failed, store_name},
    notification::Notification,
};
use crate::{
    documents::{Document, Key},
    job::{Context, Failure, Invalid, Job, Outcome, field},
    kind::{Kind, Lane},
    meta::{Meta, SCHEDULE},
    plan::{NextJob, Plan},
    schedule::{Zone, zone},
    store::{LedgerCounts, LedgerCursor},
    wire,
};

/// Accepted more than so long after its job was first on record, a delivery is late in a report.
const LATE: TimeDelta = TimeDelta::minutes(5);

/// A weekend without the store.
const USEFUL_FOR: TimeDelta = TimeDelta::days(3);

/// Bytes of a prefix, so that there is room for a name.
const PREFIX: &str = "reports";

/// A report of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerReport {
    length: Length,
    zone: Zone,
    at: Option<DateTime<Utc>>,
    store: Option<(String, Key)>,
    /// Who is told, without a text.
    told: Option<wire::Notification>,
}

impl Job for LedgerReport {
    const KIND: Kind = Kind::maintenance("report.ledger");

    type Wire = wire::LedgerReport;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        let length = match wire::ReportPeriod::try_from(wire.period) {
            Ok(wire::ReportPeriod::Day) => Length::Day,
            Ok(wire::ReportPeriod::Week) => Length::Week,
            Ok(wire::ReportPeriod::Month) => Length::Month,
            _ => {
                let expected = "must be REPORT_PERIOD_DAY, REPORT_PERIOD_WEEK or REPORT_PERIOD_MONTH";
                return Err(Invalid::new("period", expected));
            }
        };
        let zone = match wire.zone.as_str() {
            "" => Zone::utc(),
            name => zone(name).map_err(|error| Invalid::new("zone", format!("is unknown: {error}")))?,
        };
        let store = match (wire.store.is_empty(), wire.prefix.as_str()) {
            (true, "") => None,
            (true, _) => return Err(Invalid::new("store", "is required with a prefix")),
            (false, "") => Some((store_name("store", wire.store)?, key("prefix", PREFIX)?)),
            (false, prefix) => {
                // With the longest name of a file.
                key("prefix", &format!("{prefix}/ledger-month-0000-00.html"))?;
                Some((store_name("store", wire.store)?, key("prefix", prefix)?))
            }
        };
        let told = if wire.recipients.is_empty() {
            None
        } else {
            let told = wire::Notification {
                recipients: wire.recipients,
                url: wire.link,
                r#type: "LEDGER_REPORT".into(),
                ..wire::Notification::default()
            };
            Notification::parse(wire::Notification { title: "-".into(), ..told.clone() })?;
            Some(told)
        };
        if store.is_none() && told.is_none() {
            return Err(Invalid::new("store", "is required, or `recipients`"));
        }
        let at = wire.at.map(|at| field::instant("at", Some(at))).transpose()?;
        Ok(Self { length, zone, at, store, told })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let at = self.at.unwrap_or_else(|| scheduled_for(&cx.meta));
        let Some(period) = Period::before(at, self.length, self.zone) else {
            return Err(Failure::permanent("`at` has no period before it: it must be in the years 1970 to 2099"));
        };
        let mut counts = LedgerCounts::default();
        let mut next = Some(LedgerCursor::from(period.from));
        while let Some(from) = next {
            let counted = cx.store.count_ledger(&from, period.until, LATE, &mut counts);
            next = counted.await.map_err(Failure::reading)?;
        }
        let totals = page::totals(&counts);
        let mut files = Vec::new();
        if let Some((name, prefix)) = &self.store {
            let store = cx.documents.store(name).map_err(Failure::permanent)?;
            for (ending, content_type, bytes) in [
                ("html", "text/html; charset=utf-8", page::html(&period, &counts)),
                ("csv", "text/csv; charset=utf-8", page::csv(&counts)),
            ] {
                let file = format!("{}/ledger-{}.{ending}", prefix.as_str(), period.name);
                let key = Key::parse(&file).map_err(Failure::permanent)?;
                let document = Document::of(key, content_type, &bytes);
                if let Err(failure) = store.replace(&document, bytes).await {
                    return store_failed(failure);
                }
                files.push(json!({ "key": file, "bytes": document.size, "sha256": document.sha256 }));
            }
        }
        let result = json!({
            "period": period.name, "from": period.from, "until": period.until, "zone": self.zone.name(),
            "store": self.store.map(|(name, _)| name), "files": files, "totals": totals,
        });
        let next = self.told.map(|told| {
            let variables = json!({
                "period": period.label, "told": totals.told, "late": totals.late, "missed": totals.missed,
                "expired": totals.expired, "dead": totals.dead,
            });
            let text = wire::Notification {
                own_template: Self::KIND.name.into(),
                variables: wire::json_to_struct(variables),
                ..told
            };
            let body = text.encode_to_vec();
            NextJob { kind: Notification::KIND, lane: Lane::Normal, suffix: "notification", body, recipients: None }
        });
        Ok(Outcome::Done(Plan { next, result: Some(result), ..Plan::default() }))
    }
}

/// The schedule's instant, or when the job was published by hand: never the present.
fn scheduled_for(meta: &Meta) -> DateTime<Utc> {
    let of_schedule = meta.job_id.strip_prefix(SCHEDULE).and_then(|rest| {
        // Both the name and the instant may hold colons.
        rest.match_indices(':').find_map(|(at, _)| DateTime::parse_from_rfc3339(&rest[at + 1..]).ok())
    });
    of_schedule.map_or(meta.position.published, |at| at.to_utc())
}
