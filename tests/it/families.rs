//! Reading a medication with its family's people equals reading them separately.

use std::collections::BTreeMap;

use carebell::{
    person::Person,
    plan::Channel,
    store::{DoseState, MedicationAsk, MedicationRecord, PeopleAsk, Store},
};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Executor;

use crate::{
    records::store,
    support::{LIMIT, Worker, World, sorted, utc_now},
};

const TYPE: &str = "MEDICATION_REMINDER";

fn ask(id: &str, scheduled_time: DateTime<Utc>, kind: &'static str) -> MedicationAsk {
    MedicationAsk { kind, id: id.into(), scheduled_time, looks_at_schedule: true }
}

async fn medication(store: &Store, id: &str, at: DateTime<Utc>) -> MedicationRecord {
    store.medications(&[ask(id, at, TYPE)]).await.unwrap().remove(0).unwrap()
}

async fn people(store: &Store, user_ids: &[String], kind: &str) -> BTreeMap<String, Person> {
    store.people(&[PeopleAsk { user_ids: user_ids.to_vec(), kind: kind.into() }]).await.unwrap().remove(0)
}

/// The browns are a mixed family, the greys have only unknown members, and the nobodies have none.
async fn families() -> Store {
    let store = store().await;
    let tables = "
        -- As with views over an application's own tables.
        ALTER TABLE family_members DROP CONSTRAINT family_members_user_id_fkey;
        INSERT INTO users (id, name, email, phone, locale, timezone) VALUES
            ('browsers', 'B', NULL, NULL, 'de-AT', 'Europe/Vienna'), ('choosy', 'C', 'c@example.org', NULL, 'fr', NULL),
            ('quiet', 'Q', NULL, '+4366012345678', NULL, 'Pacific/Auckland'), ('half', 'H', NULL, NULL, NULL, 'UTC'),
            ('elsewhere', 'E', 'e@example.org', '+4366012345679', 'es', NULL), ('silent', 'S', ' ', '', '', '');
        INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth)
            SELECT u || n, u, 'https://push.example/' || u || n, 'key-' || n, 'secret-' || n
            FROM (VALUES ('browsers', 3), ('choosy', 1), ('quiet', 2), ('half', 1)) AS of(u, many),
                 generate_series(1, many) AS n ORDER BY n DESC;
        INSERT INTO preferences (user_id, type, channels, quiet_from, quiet_to, quiet_zone) VALUES
            ('choosy', '*', '{email}', '22:00', '06:00', 'UTC'),
            ('choosy', 'MEDICATION_REMINDER', '{push,email}', '20:00', '07:00', 'Europe/Paris'),
            ('choosy', 'OTHER', '{}', NULL, NULL, NULL), ('quiet', '*', NULL, '21:30', '06:30', NULL),
            ('half', '*', '{}', '21:00', '05:00', 'Asia/Tokyo'), ('half', 'MEDICATION_REMINDER', '{push}', NULL, NULL, NULL),
            ('silent', 'OTHER', '{push}', NULL, NULL, NULL), ('stranger', 'MEDICATION_REMINDER', '{sms}', NULL, NULL, NULL);
        INSERT INTO user_addresses (id, user_id, channel, address, state) VALUES
            ('hook', 'elsewhere', 'webhook', 'https://hook.example/', 'active'),
            ('ended', 'elsewhere', 'webhook', 'https://ended.example/', 'gone'),
            ('other', 'elsewhere', 'sms', '+4366099999999', 'active'), ('bounced', 'elsewhere', 'email', 'e@example.org', 'gone');
        INSERT INTO families VALUES ('browns'), ('greys'), ('nobodies');
        INSERT INTO family_members (family_id, user_id) VALUES
            ('browns', 'silent'), ('browns', 'quiet'), ('browns', 'stranger'), ('browns', 'half'), ('browns', 'elsewhere'),
            ('browns', 'choosy'), ('browns', 'browsers'), ('greys', 'stranger'), ('greys', 'unknown');
        INSERT INTO care_recipients (id, family_id, name, timezone) VALUES ('rose', 'browns', 'Rose', 'Asia/Tokyo'),
            ('gus', 'greys', 'Gus', 'UTC'), ('sam', 'nobodies', 'Sam', 'UTC');
        INSERT INTO medications (id, care_recipient_id, name, dosage) VALUES ('of-browns', 'rose', 'Metformin', '500 mg'),
            ('of-greys', 'gus', 'Ramipril', '5 mg'), ('of-nobodies', 'sam', 'Aspirin', '1 g');
    ";
    store.pool().execute(tables).await.unwrap();
    store
}

#[tokio::test]
async fn the_people_are_those_that_are_read_by_themselves() {
    let store = families().await;
    let now = utc_now();
    let asks: Vec<MedicationAsk> = ["of-browns", "unknown", "of-greys", "of-nobodies", "of-browns"]
        .into_iter()
        .flat_map(|id| [TYPE, "OTHER", "NEITHER"].map(|kind| ask(id, now, kind)))
        .collect();
    let found = store.medications(&asks).await.unwrap();
    assert_eq!(found.len(), asks.len());
    for (ask, found) in asks.iter().zip(found) {
        let Some(found) = found else {
            assert_eq!(ask.id, "unknown");
            continue;
        };
        let family: &[&str] = match ask.id.as_str() {
            "of-browns" => &["browsers", "choosy", "elsewhere", "half", "quiet", "silent", "stranger"],
            "of-greys" => &["stranger", "unknown"],
            _ => &[],
        };
        assert_eq!(found.family, family, "{ask:?}");
        assert_eq!(found.people, people(&store, &found.family, ask.kind).await, "{ask:?}");
        let known = family.iter().filter(|id| !["stranger", "unknown"].contains(id)).count();
        assert_eq!(found.people.len(), known, "{ask:?}");
    }
    assert_eq!(store.medications(&[]).await, Ok(vec![]));
}

/// Equal reads could both be wrong, so some values are checked.
#[tokio::test]
async fn what_is_chosen_for_reminders_goes_before_what_is_chosen_for_all() {
    let store = families().await;
    let found = medication(&store, "of-browns", utc_now()).await;
    assert_eq!((found.timezone.as_str(), found.name.as_str()), ("Asia/Tokyo", "Metformin"), "not those of a user");
    let channels = |user: &str| found.people[user].preferences.channels.clone();
    assert_eq!(channels("choosy"), Some(vec![Channel::WebPush, Channel::Email]));
    assert_eq!(channels("half"), Some(vec![Channel::WebPush]));
    assert_eq!(channels("quiet"), None);
    assert_eq!(channels("silent"), None, "chosen for another type");
    assert!(found.people["half"].preferences.quiet.is_some(), "chosen for all types only");
    assert_eq!(found.people["browsers"].addresses(Channel::WebPush), ["browsers1", "browsers2", "browsers3"]);
    assert_eq!(found.people["browsers"].locale, "de-AT");
    assert_eq!(found.people["elsewhere"].addresses(Channel::Webhook), ["hook"]);
    assert_eq!(found.people["elsewhere"].addresses(Channel::Sms), ["+4366099999999"]);
    assert_eq!(found.people["elsewhere"].addresses(Channel::Email), [""; 0]);
}

/// The dose does not depend on the size of the family or on other logs.
#[tokio::test]
async fn the_dose_is_that_of_its_own_instant() {
    let store = families().await;
    let now = utc_now();
    let at = |minutes| now + TimeDelta::minutes(minutes);
    for (minutes, status) in [(1, "MISSED"), (2, "SKIPPED"), (3, "SKIPPED"), (3, "GIVEN"), (3, "GIVEN")] {
        sqlx::query("INSERT INTO medication_logs (medication_id, scheduled_time, status) VALUES ('of-browns', $1, $2)")
            .bind(at(minutes))
            .bind(status)
            .execute(store.pool())
            .await
            .unwrap();
    }
    for (minutes, dose) in [(0, DoseState::Open), (1, DoseState::Open), (2, DoseState::Skipped), (3, DoseState::Given)]
    {
        let found = medication(&store, "of-browns", at(minutes)).await;
        assert_eq!((found.dose, found.family.len(), found.people.len()), (dose, 7, 6), "{minutes}");
        assert_eq!(medication(&store, "of-greys", at(minutes)).await.dose, DoseState::Open);
    }
}

#[tokio::test]
async fn a_reminder_goes_to_those_who_exist_as_each_of_them_wants_it() {
    let world = World::new().await;
    world.sql("ALTER TABLE family_members DROP CONSTRAINT family_members_user_id_fkey").await;
    world.sql("INSERT INTO family_members (family_id, user_id) VALUES ('browns', 'stranger')").await;
    world.subscribe("anas-tablet", "ana").await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ben', '{}'), ('chloe', '{push}')").await;
    world
        .sql(
            "INSERT INTO preferences (user_id, type, channels) \
             VALUES ('ben', 'MEDICATION_REMINDER', '{push}'), ('chloe', 'MEDICATION_REMINDER', '{}')",
        )
        .await;
    world.sql("INSERT INTO families VALUES ('greys')").await;
    world.sql("INSERT INTO family_members (family_id, user_id) VALUES ('greys', 'stranger')").await;
    world.sql("INSERT INTO care_recipients (id, family_id, name) VALUES ('gus', 'greys', 'Gus')").await;
    world.sql("INSERT INTO medications VALUES ('aspirin', 'gus', 'Aspirin', '1 g')").await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.push.wait_for(4, LIMIT).await.unwrap();
    let ledger = world.ledger("dose").await;
    let to = sorted(ledger.iter().map(|line| (line.user_id.as_str(), line.state.as_str())).collect());
    // Those who are not reached have a line that says why.
    let reached = [("ana", "sent"), ("ana", "sent"), ("ben", "sent"), ("chloe", "skipped"), ("dan", "sent")];
    assert_eq!(to, [&reached[..], &[("stranger", "skipped")]].concat());
    let inbox: Vec<String> = world.inbox("dose").await.into_iter().map(|row| row.user_id).collect();
    assert_eq!(inbox, crate::support::FAMILY, "whatever the channels");

    let body = crate::support::reminder("aspirin", utc_now());
    world.publish_json("jobs.reminder.medication", "nobodys", &body).await;
    assert_eq!(world.ended("nobodys").await.0, "done");
    assert_eq!(world.ended("nobodys~notification").await, ("skipped".into(), Some("no_recipients".into())));
    world.queues_are_empty().await;
    assert_eq!(world.push.counts().requests, 4);
    worker.stop().await;
}
