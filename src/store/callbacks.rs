//! Delivery reports, which a provider sends after it accepted a message.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{database::Store, error::StoreError, keyed::Statement, named_sql::NamedSql};
use crate::plan::{Channel, Report};

static RECORD_REPORT: NamedSql = NamedSql::new(include_str!("sql/record_report.sql"));

/// A provider's report on one delivery.
#[derive(Clone, Debug)]
pub struct Reported {
    /// `deliveries.id`.
    pub id: String,
    /// Channel.
    pub channel: Channel,
    /// Outcome.
    pub report: Report,
    /// Provider.
    pub provider: String,
    /// The provider's id of the message.
    pub provider_id: String,
    /// The provider's words: `deliveries.answer` if the delivery failed or has no other answer.
    pub words: String,
    /// Time.
    pub now: DateTime<Utc>,
}

/// Outcome of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// The delivery now has this state.
    Changed(&'static str),
    /// An equivalent outcome was on record.
    Known,
    /// This channel has no such delivery.
    Missing,
}

impl Store {
    /// Records a provider's report. Reports may come twice, in any order, and before the worker records the provider's
    /// answer; the row ends the same ([`Report`]).
    ///
    /// `record_deliveries` does not overwrite the report. A delivery that waits for another attempt is not claimed
    /// again.
    pub async fn record_report(&self, reported: &Reported) -> Result<Noted, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query("SELECT state, reason FROM deliveries WHERE id = $1 AND channel = $2 FOR UPDATE")
            .bind(&reported.id)
            .bind(reported.channel.name())
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(Noted::Missing) };
        let (state, reason): (String, Option<String>) = (row.try_get("state")?, row.try_get("reason")?);
        let Some((state, reason)) = reported.report.changes(&state, reason.as_deref()) else {
            return Ok(Noted::Known);
        };
        record(reported, state, reason)?.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Noted::Changed(state))
    }
}

fn record<'q>(
    reported: &'q Reported,
    state: &'static str,
    reason: Option<&'q str>,
) -> Result<Statement<'q>, StoreError> {
    RECORD_REPORT
        .bind()
        .value("id", &reported.id)
        .value("state", state)
        .value("reason", reason)
        .value("provider", &reported.provider)
        .value("provider_id", &reported.provider_id)
        .value("words", &reported.words)
        .value("now", reported.now)
        .statement()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_names_what_is_bound() {
        let reported = Reported {
            id: "1".into(),
            channel: Channel::Sms,
            report: Report::Delivered,
            provider: "twilio".into(),
            provider_id: "SM1".into(),
            words: "delivered".into(),
            now: DateTime::UNIX_EPOCH,
        };
        assert!(record(&reported, "delivered", None).is_ok());
    }
}
