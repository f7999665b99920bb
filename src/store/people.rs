//! `users`, `user_addresses` and `preferences`.

use chrono::NaiveTime;
use serde_json::Value;
use sqlx::{
    Decode, Postgres, Row, Type,
    error::BoxDynError,
    postgres::{PgRow, PgTypeInfo, PgValueFormat, PgValueRef},
};

use super::{asks::at_position, database::Store, error::StoreError};
use crate::{
    person::{People, Person, Subscription},
    plan::Channel,
    preferences::{Preferences, QuietHours, TimeOfDay},
};

/// Trimmed from addresses in `users`, here and in `sql/claim_deliveries.sql`.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Longest address in bytes. Longer ones do not fit into an index.
const LONGEST: usize = 320;

/// Reads the columns of a [`Person`] for each user `u`, beside others. `q.type` is the notification type.
macro_rules! person {
    ($select:literal, $from:literal) => {
        concat!(
            $select,
            "u.id, u.email, u.phone, u.locale, u.timezone, \
             COALESCE(t.channels, d.channels) AS channels, COALESCE(t.quiet_from, d.quiet_from) AS quiet_from, \
             COALESCE(t.quiet_to, d.quiet_to) AS quiet_to, COALESCE(t.quiet_zone, d.quiet_zone) AS quiet_zone, \
             s.ids AS subscription_ids, s.endpoints, s.p256dhs, s.auths, \
             (SELECT jsonb_agg(jsonb_build_array(a.channel, a.state, \
                         CASE WHEN a.channel = 'webhook' THEN a.id ELSE a.address END) ORDER BY a.address) \
              FROM user_addresses a WHERE a.user_id = u.id) AS addresses",
            $from,
            "LEFT JOIN LATERAL (SELECT array_agg(b.id) AS ids, array_agg(b.endpoint) AS endpoints, \
                                       array_agg(b.p256dh) AS p256dhs, array_agg(b.auth) AS auths \
                                FROM (SELECT * FROM push_subscriptions b WHERE b.user_id = u.id \
                                          AND (b.problem IS NULL OR b.problem_of <> encode(sha256(convert_to(b.endpoint || ' ' || b.p256dh || ' ' || b.auth, 'UTF8')), 'hex')) \
                                      ORDER BY b.id) b) s ON true \
             LEFT JOIN preferences t ON t.user_id = u.id AND t.type = q.type \
             LEFT JOIN preferences d ON d.user_id = u.id AND d.type = '*'"
        )
    };
}
pub(super) use person;

/// Recipients of one notification.
#[derive(Clone, Debug)]
pub struct PeopleAsk {
    /// Recipients.
    pub user_ids: Vec<String>,
    /// Notification type, which selects preferences.
    pub kind: String,
}

/// Reads the columns of [`person`].
pub(super) fn read_person(row: &PgRow) -> Result<Person, StoreError> {
    let email: Option<String> = row.try_get("email")?;
    let phone: Option<String> = row.try_get("phone")?;
    let mut known: Vec<(Channel, bool, String)> = Vec::new();
    for entry in row.try_get::<Option<Value>, _>("addresses")?.as_ref().and_then(Value::as_array).into_iter().flatten()
    {
        let text = |index: usize| entry[index].as_str().unwrap_or_default();
        if let Some(channel) = Channel::parse(text(0)) {
            known.push((channel, text(1) == "active", text(2).to_owned()));
        }
    }
    let mut addresses: Vec<(Channel, String)> = Vec::new();
    for channel in Channel::ALL {
        let active = known.iter().filter(|(of, active, _)| *of == channel && *active);
        let before = addresses.len();
        addresses.extend(active.map(|(_, _, address)| (channel, address.clone())));
        let own = match channel {
            Channel::Email => email.as_deref(),
            Channel::Sms | Channel::WhatsApp | Channel::Voice => phone.as_deref(),
            Channel::WebPush | Channel::Webhook => None,
        };
        let own = own.map(|own| own.trim_matches(BLANKS)).filter(|own| (1..=LONGEST).contains(&own.len()));
        let is_gone = |own: &str| known.iter().any(|(of, _, address)| *of == channel && address == own);
        if let Some(own) = own.filter(|own| addresses.len() == before && !is_gone(own)) {
            addresses.push((channel, own.to_owned()));
        }
    }
    Ok(Person {
        locale: row.try_get::<Option<String>, _>("locale")?.unwrap_or_default(),
        preferences: Preferences { channels: read_channels(row)?, quiet: read_quiet_hours(row)? },
        subscriptions: read_subscriptions(row)?,
        addresses,
    })
}

/// `preferences.channels`.
pub(super) fn read_channels(row: &PgRow) -> Result<Option<Vec<Channel>>, StoreError> {
    let names: Option<Vec<String>> = row.try_get("channels")?;
    Ok(names.map(|names| names.iter().filter_map(|name| Channel::parse(name)).collect()))
}

/// `quiet_from`, `quiet_to` and `quiet_zone` of `preferences`, and `users.timezone`.
pub(super) fn read_quiet_hours(row: &PgRow) -> Result<Option<QuietHours>, StoreError> {
    let from = row.try_get::<Option<Clock>, _>("quiet_from")?.map(|Clock(from)| from);
    let to = row.try_get::<Option<Clock>, _>("quiet_to")?.map(|Clock(to)| to);
    let zone: Option<&str> = row.try_get("quiet_zone")?;
    let users_zone: Option<&str> = row.try_get("timezone")?;
    Ok(QuietHours::new(from, to, zone, users_zone))
}

/// A `time` with 24:00, which the client would read as 00:00.
struct Clock(TimeOfDay);

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

impl Type<Postgres> for Clock {
    fn type_info() -> PgTypeInfo {
        <NaiveTime as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Clock {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Binary && value.as_bytes()? == DAY.to_be_bytes() {
            return Ok(Self(TimeOfDay::EndOfDay));
        }
        Ok(Self(TimeOfDay::At(NaiveTime::decode(value)?)))
    }
}

/// Four columns of the same length, null if there is no subscription.
fn read_subscriptions(row: &PgRow) -> Result<Vec<(String, Subscription)>, StoreError> {
    let column = |name| Ok::<_, StoreError>(row.try_get::<Option<Vec<String>>, _>(name)?.unwrap_or_default());
    let (ids, endpoints) = (column("subscription_ids")?, column("endpoints")?);
    let keys = column("p256dhs")?.into_iter().zip(column("auths")?);
    let subscription = |(endpoint, (p256dh, auth))| Subscription { endpoint, p256dh, auth };
    Ok(ids.into_iter().zip(endpoints.into_iter().zip(keys).map(subscription)).collect())
}

impl Store {
    /// Existing users, in the order asked.
    pub async fn people(&self, asks: &[PeopleAsk]) -> Result<Vec<People>, StoreError> {
        let users =
            || (1_i64..).zip(asks).flat_map(|(position, ask)| ask.user_ids.iter().map(move |id| (position, id, ask)));
        let statement = sqlx::query(person!(
            "SELECT q.position, ",
            " FROM unnest($1::bigint[], $2::text[], $3::text[]) AS q(position, id, type) \
                     JOIN users u ON u.id = q.id "
        ))
        .bind(users().map(|(position, ..)| position).collect::<Vec<_>>())
        .bind(users().map(|(_, id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(users().map(|(.., ask)| ask.kind.as_str()).collect::<Vec<_>>());
        let rows = self.keyed.fetch_all(statement).await?;
        let mut people = vec![People::new(); asks.len()];
        for row in rows {
            at_position(&mut people, &row)?.insert(row.try_get("id")?, read_person(&row)?);
        }
        Ok(people)
    }
}
