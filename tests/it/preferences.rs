//! Preferences count when a notification is planned, and again when it is sent.

use std::sync::Arc;

use carebell::{
    channels::{Sender, sms::Sms},
    clock::Clock,
    config::Source,
    dev::push_service::Behaviour,
    jobs,
    plan::Channel,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::support::{Custom, LIMIT, Phones, Worker, World, reminder, sorted, utc_now};

fn news(user: &str) -> Value {
    json!({ "recipients": [{ "userId": user }], "title": "News", "type": "NEWS" })
}

/// Ana's quiet hours: from an hour ago until `seconds` from now, in a zone half a day away. Returns their end.
async fn quiet_for(world: &World, seconds: u32) -> DateTime<Utc> {
    let insert = format!(
        "INSERT INTO preferences (user_id, quiet_from, quiet_to, quiet_zone) \
         SELECT 'ana', (now - interval '1 hour')::time, (now + interval '{seconds} seconds')::time, 'Pacific/Auckland' \
         FROM (SELECT now() AT TIME ZONE 'Pacific/Auckland' AS now) AS clock \
         RETURNING now() + interval '{seconds} seconds'"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(insert)).fetch_one(&world.db).await.unwrap()
}

async fn inbox(world: &World) -> i64 {
    world.count("SELECT count(*) FROM notifications WHERE job_id = 'news'").await
}

#[tokio::test]
async fn a_choice_for_one_type_goes_before_the_choice_for_all() {
    let world = World::new().await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ana', '{}'), ('ben', '{}')").await;
    world.sql("INSERT INTO preferences (user_id, type, channels) VALUES ('ben', 'NEWS', '{push}')").await;
    let worker = Worker::start(&world);
    let body = json!({ "recipients": [{ "userId": "ana" }, { "userId": "ben" }, { "userId": "dan" }], "title": "News",
                       "type": "NEWS" });
    world.publish_json("jobs.notification.normal", "news", &body).await;
    world.push.wait_for(2, LIMIT).await.unwrap();
    // Ana's row only says why she has no push.
    let ledger = world.ledger("news").await;
    let found = ledger.iter().map(|line| (line.user_id.as_str(), line.state.as_str(), line.reason.as_deref()));
    let expected = [("ana", "skipped", Some("opted_out")), ("ben", "sent", None), ("dan", "sent", None)];
    assert_eq!(sorted(found.collect()), expected);
    assert_eq!(inbox(&world).await, 3, "the inbox always has it");
    worker.stop().await;
}

#[tokio::test]
async fn what_is_used_only_of_those_who_chose_it_is_on_record_where_a_job_names_it() {
    let world = World::new().await;
    world.sql("UPDATE users SET phone = '+4366012345678'").await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ben', '{sms}')").await;
    let worker = Worker::start(&world);
    let body = json!({ "recipients": [{ "userId": "ana" }, { "userId": "ben" }], "title": "News",
                       "channels": ["CHANNEL_SMS"] });
    world.publish_json("jobs.notification.normal", "news", &body).await;
    assert_eq!(world.ended("news").await.0, "done");
    let ledger = world.ledger("news").await;
    let found = ledger.iter().map(|line| {
        (line.user_id.as_str(), line.channel.as_str(), line.state.as_str(), line.reason.as_deref().unwrap())
    });
    assert_eq!(
        sorted(found.collect()),
        [("ana", "sms", "skipped", "not_opted_in"), ("ben", "sms", "failed", "no_channel")]
    );
    worker.stop().await;
}

/// Lines of the ledger without their ids, by user.
async fn lines(world: &World, root_id: &str) -> Vec<(String, String, String, String, bool)> {
    let ledger = world.ledger(root_id).await;
    let line = |line: carebell::store::LedgerLine| {
        (line.user_id, line.channel, line.state, line.reason.unwrap_or_default(), line.attempts + line.claims == 0)
    };
    sorted(ledger.into_iter().map(line).collect())
}

#[tokio::test]
async fn everyone_to_whom_nothing_is_sent_has_one_line_with_the_reason() {
    let world = World::new().await;
    world.sql("DELETE FROM push_subscriptions WHERE user_id IN ('ana', 'chloe')").await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ben', '{}'), ('chloe', '{sms,web_push}')").await;
    let worker = Worker::without_scheduler(&world);
    let users = ["ana", "ben", "chloe", "dan", "zoe"].map(|user| json!({ "userId": user }));
    let body = json!({ "recipients": users, "title": "News" });
    world.publish_json("jobs.notification.normal", "news", &body).await;
    world
        .publish_json(
            "jobs.notification.normal",
            "quiet",
            &json!({
        "recipients": [{ "userId": "dan" }], "title": "News", "channels": ["CHANNEL_IN_APP"] }),
        )
        .await;
    let line = |user: &str, channel: &str, state: &str, reason: &str, untried: bool| {
        (user.to_owned(), channel.to_owned(), state.to_owned(), reason.to_owned(), untried)
    };
    let expected = [
        line("ana", "web_push", "skipped", "no_subscription", true),
        line("ben", "web_push", "skipped", "opted_out", true),
        line("chloe", "sms", "failed", "no_channel", true),
        line("chloe", "web_push", "skipped", "no_subscription", true),
        line("dan", "web_push", "sent", "", false),
        line("zoe", "web_push", "skipped", "unknown_user", true),
    ];
    assert_eq!(lines(&world, "news").await, expected);
    assert_eq!(lines(&world, "quiet").await, [line("dan", "web_push", "skipped", "inbox_only", true)]);
    world.queues_are_empty().await;
    let stream = world.context.get_stream("DELIVERIES").await.unwrap();
    assert_eq!(stream.cached_info().state.last_sequence, 0, "only the push was sent, and that directly");
    assert_eq!(inbox(&world).await, 4, "nobody has an inbox of whom nothing is known");
    // The same recipients again, under the same id: a redelivery whose acknowledgement was lost.
    world.publish_json("jobs.notification.normal", "news", &body).await;
    world.queues_are_empty().await;
    assert_eq!(lines(&world, "news").await, expected);
    worker.stop().await;
}

#[tokio::test]
async fn quiet_hours_hold_what_is_not_critical_until_they_end() {
    let world = World::new().await;
    let worker = Worker::start(&world);
    // The worker must be up before the quiet hours end.
    world.publish_json("jobs.notification.normal", "first", &news("dan")).await;
    world.push.wait_for(1, LIMIT).await.unwrap();
    let over = quiet_for(&world, 12).await;
    world.publish_json("jobs.notification.normal", "news", &news("ana")).await;
    world.publish_json("jobs.notification.normal", "other", &news("ben")).await;
    world.push.wait_for(2, LIMIT).await.unwrap();
    assert_eq!(world.ledger("other").await.remove(0).state, "sent");
    let held = "SELECT count(*) FROM deliveries WHERE job_id = 'news' AND state = 'held' AND reason = 'quiet_hours' \
                AND held_until > now()";
    world.eventually("it is held", async || (world.count(held).await == 1).then_some(())).await;
    assert_eq!(inbox(&world).await, 1, "the inbox is silent and has it");
    let sent = world.ledger("news").await.remove(0);
    assert_eq!((sent.state.as_str(), sent.attempts, sent.reason), ("sent", 0, None));
    let early = format!("SELECT count(*) FROM deliveries WHERE job_id = 'news' AND sent_at < '{over}'");
    assert_eq!(world.count(&early).await, 0);
    worker.stop().await;
}

/// In the night when an hour repeats, quiet hours end at its second occurrence.
#[tokio::test]
async fn quiet_hours_are_those_of_the_persons_clocks() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let clock = Clock::manual("2027-10-31T00:45:00Z".parse().unwrap());
    let settings = Source::of(phones.one("SMS")).gateways().unwrap().remove(0);
    let sms: Arc<dyn Sender> = Arc::new(Sms::new(settings, clock.clone()).unwrap());
    let pipeline = Custom::sending(&world, jobs::registry(), clock.clone(), vec![sms]);
    world.sql("UPDATE users SET phone = '+4366012345678', timezone = 'Europe/Vienna' WHERE id IN ('ana', 'ben')").await;
    world
        .sql(
            "INSERT INTO preferences (user_id, channels, quiet_from, quiet_to) \
             VALUES ('ana', '{sms}', '22:00', '02:30'), ('ben', '{sms}', '22:00', '07:00')",
        )
        .await;
    let headers = |id: &'static str| {
        let never = "2999-01-01T00:00:00Z";
        [("Carebell-Job-Id", id), ("Content-Type", "application/json"), ("Carebell-Not-After", never)]
    };
    // 02:30 has passed once. In 15 minutes it is 02:00 again.
    let ends = ["2027-10-31T01:30:00Z", "2027-11-16T06:00:00Z"].map(|at| at.parse().unwrap());
    for (user, end, sent) in [("ana", ends[0], 1), ("ben", ends[1], 2)] {
        world.publish("jobs.notification.normal", &headers(user), news(user).to_string()).await;
        let held = async || {
            let line = world.store.ledger_of(user).await.unwrap().pop();
            line.filter(|line| line.state == "held")
        };
        let line = world.eventually("it is held", held).await;
        assert_eq!((line.reason.as_deref(), line.held_until), (Some("quiet_hours"), Some(end)), "{user}");
        // The server would resume the message in a year.
        clock.advance(end - clock.now());
        let again = json!({ "deliveryId": line.id }).to_string();
        let id: [(&str, &str); 4] = [
            ("Carebell-Job-Id", &line.id),
            ("Carebell-Root-Id", user),
            ("Content-Type", "application/json"),
            ("Carebell-Not-After", "2999-01-01T00:00:00Z"),
        ];
        world.publish("deliver.sms.normal", &id, again).await;
        let line = world.ledger(user).await.remove(0);
        assert_eq!((line.state.as_str(), line.attempts, line.sent_at), ("sent", 0, Some(end)), "{user}");
        assert_eq!(phones.first.counts().accepted, sent);
        // 23:30 on a day without a clock change.
        clock.advance("2027-11-15T22:30:00Z".parse::<DateTime<Utc>>().unwrap() - clock.now());
    }
    pipeline.stop().await;
}

#[tokio::test]
async fn what_would_expire_in_quiet_hours_stays_in_the_inbox() {
    let world = World::new().await;
    quiet_for(&world, 600).await;
    let worker = Worker::start(&world);
    let soon = (utc_now() + chrono::TimeDelta::seconds(300)).to_rfc3339();
    let headers =
        [("Carebell-Job-Id", "news"), ("Content-Type", "application/json"), ("Carebell-Not-After", soon.as_str())];
    world.publish("jobs.notification.normal", &headers, news("ana").to_string()).await;
    let ended = world.ledger("news").await.remove(0);
    assert_eq!((ended.state.as_str(), ended.reason.as_deref()), ("expired", Some("quiet_hours")));
    assert_eq!(inbox(&world).await, 1);
    assert_eq!(world.push.counts().requests, 0);
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn critical_goes_out_in_quiet_hours_and_that_is_on_record() {
    let world = World::new().await;
    quiet_for(&world, 600).await;
    let worker = Worker::start(&world);
    world.publish_json("jobs.reminder.medication", "dose", &reminder("metformin", utc_now())).await;
    world.everyone_has_it_once("dose").await;
    let to_ana = world.delivery_to("dose", "ana").await;
    assert_eq!((to_ana.state.as_str(), to_ana.reason.as_deref()), ("sent", Some("quiet_hours_overridden")));
    assert!(to_ana.overrode_quiet_hours);
    let to_ben = world.delivery_to("dose", "ben").await;
    assert_eq!((to_ben.reason, to_ben.overrode_quiet_hours), (None, false));
    worker.stop().await;
}

#[tokio::test]
async fn whoever_opts_out_while_it_waits_gets_nothing() {
    let world = World::new().await;
    world.push.behave("ana", Behaviour::retry_after(429, "6"));
    world.push.behave("ben", Behaviour::retry_after(429, "6"));
    let worker = Worker::start(&world);
    world.publish_json("jobs.notification.normal", "news", &news("ana")).await;
    let named = json!({ "recipients": [{ "userId": "ben" }], "title": "News", "channels": ["CHANNEL_PUSH"] });
    world.publish_json("jobs.notification.normal", "named", &named).await;
    let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'retry_later'";
    world.eventually("both wait", async || (world.count(held).await == 2).then_some(())).await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ana', '{email}'), ('ben', '{email}')").await;
    let ended = world.ledger("news").await.remove(0);
    assert_eq!((ended.state.as_str(), ended.reason.as_deref()), ("skipped", Some("opted_out")));
    let ended = world.ledger("named").await.remove(0);
    assert_eq!(ended.state, "sent", "the job named the channel");
    worker.stop().await;
}

/// The tables' constraints list the channels by hand.
#[tokio::test]
async fn each_channel_can_be_chosen_and_have_an_address() {
    let world = World::new().await;
    for channel in Channel::ALL {
        let choose = sqlx::query("INSERT INTO preferences (user_id, type, channels) VALUES ('ana', $1, ARRAY[$1])");
        let chosen = choose.bind(channel.name()).execute(&world.db).await;
        chosen.unwrap_or_else(|error| panic!("a migration must let {channel:?} into preferences: {error}"));
        if channel == Channel::WebPush {
            continue; // Its addresses are push_subscriptions.
        }
        let add = sqlx::query("INSERT INTO user_addresses (user_id, channel, address) VALUES ('ana', $1, 'somewhere')");
        let added = add.bind(channel.name()).execute(&world.db).await;
        added.unwrap_or_else(|error| panic!("a migration must let {channel:?} into user_addresses: {error}"));
    }
}

#[tokio::test]
async fn what_was_asked_for_and_reaches_nobody_is_on_record() {
    let world = World::new().await;
    world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ana', '{webhook}')").await;
    let worker = Worker::start(&world);
    let raw = json!({ "recipients": [{ "email": "eve@example.org" }], "title": "News", "channels": ["CHANNEL_PUSH"] });
    for (job, body, expected) in [
        ("nowhere", news("ana"), ("webhook", "failed", "no_address")),
        ("otherwise", raw, ("email", "skipped", "not_named")),
    ] {
        world.publish_json("jobs.notification.normal", job, &body).await;
        let lines = world.ledger(job).await;
        let found: Vec<_> = lines
            .iter()
            .map(|line| (line.channel.as_str(), line.state.as_str(), line.reason.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(found, [expected]);
    }
    worker.stop().await;
}
