//! All channels together: one job to many people, and an outage of one channel that leaves the others alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use carebell::dev::{phone_service, webhook_endpoint};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{LIMIT, Process, Receivers, STEADY, World};

/// People reached the same way.
struct Group {
    /// Receivers refuse one in a hundred for good.
    people: usize,
    /// `None` if they chose nothing.
    choice: Option<&'static str>,
    /// Their addresses: `push`, `email`, `phone`, `webhook`.
    addresses: &'static [&'static str],
    /// With the reason of refused ones.
    deliveries: &'static [(&'static str, &'static str)],
}

/// 10,000 people. Few pushes, because decrypting them takes long in a debug build.
const GROUPS: [Group; 9] = [
    Group { people: 1500, choice: None, addresses: &["push"], deliveries: &[("web_push", "subscription_gone")] },
    Group { people: 2700, choice: None, addresses: &["email"], deliveries: &[("email", "bounced")] },
    Group { people: 2500, choice: Some("{sms}"), addresses: &["phone"], deliveries: &[("sms", "invalid_number")] },
    Group {
        people: 2000,
        choice: Some("{webhook}"),
        addresses: &["webhook"],
        deliveries: &[("webhook", "webhook_gone")],
    },
    Group {
        people: 500,
        choice: Some("{push,email,sms,webhook}"),
        addresses: &["push", "email", "phone", "webhook"],
        deliveries: &[
            ("web_push", "subscription_gone"),
            ("email", "bounced"),
            ("sms", "invalid_number"),
            ("webhook", "webhook_gone"),
        ],
    },
    // One channel of several chosen.
    Group {
        people: 200,
        choice: Some("{email}"),
        addresses: &["push", "email", "phone"],
        deliveries: &[("email", "bounced")],
    },
    // Inbox only.
    Group { people: 300, choice: Some("{}"), addresses: &["push", "email", "phone", "webhook"], deliveries: &[] },
    // No address.
    Group { people: 200, choice: None, addresses: &[], deliveries: &[] },
    // A channel that is not configured.
    Group { people: 100, choice: Some("{whatsapp}"), addresses: &["phone"], deliveries: &[("whatsapp", "no_channel")] },
];

/// Number of refused people in a group.
fn refused(group: &Group) -> usize {
    group.people / 100
}

fn people() -> impl Iterator<Item = (&'static Group, String, bool)> {
    GROUPS.iter().enumerate().flat_map(|(number, group)| {
        (0..group.people).map(move |one| (group, format!("u{number}-{one}"), one < refused(group)))
    })
}

/// Writes the people into the application's tables and the receivers.
async fn settle(world: &World, receivers: &Receivers) {
    let (mut users, mut choices, mut subscriptions, mut hooks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, (group, id, is_refused)) in people().enumerate() {
        let has = |what: &str| group.addresses.contains(&what);
        let email = has("email").then(|| format!("{id}@example.org"));
        if let Some(email) = email.as_ref().filter(|_| is_refused) {
            receivers.mail.refuse(email, "550 5.1.1 No such user");
        }
        // No provider is asked about a number without a country code.
        let phone = has("phone").then(|| format!("{}{number:05}", if is_refused { "0660" } else { "+43660" }));
        if has("push") {
            let subscription = world.push.subscribe(&id);
            if is_refused {
                world.push.unsubscribe(&id);
            }
            subscriptions.push((id.clone(), subscription));
        }
        if has("webhook") {
            hooks.push((id.clone(), receivers.hooks.subscribe(&id)));
            let gone = webhook_endpoint::Behaviour::Answer(410, vec![]);
            receivers.hooks.behave_always(&id, is_refused.then_some(gone));
        }
        choices.extend(group.choice.map(|choice| (id.clone(), choice)));
        users.push((id, email, phone));
    }
    sqlx::query(
        "INSERT INTO users (id, name, email, phone) \
         SELECT id, id, email, phone FROM unnest($1::text[], $2::text[], $3::text[]) AS u(id, email, phone)",
    )
    .bind(users.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>())
    .bind(users.iter().map(|(_, email, _)| email.as_deref()).collect::<Vec<_>>())
    .bind(users.iter().map(|(.., phone)| phone.as_deref()).collect::<Vec<_>>())
    .execute(&world.db)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO preferences (user_id, channels) \
         SELECT id, channels::text[] FROM unnest($1::text[], $2::text[]) AS c(id, channels)",
    )
    .bind(choices.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
    .bind(choices.iter().map(|(_, choice)| *choice).collect::<Vec<_>>())
    .execute(&world.db)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth) \
         SELECT id, id, endpoint, p256dh, auth FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) \
             AS s(id, endpoint, p256dh, auth)",
    )
    .bind(subscriptions.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
    .bind(subscriptions.iter().map(|(_, one)| one.endpoint.as_str()).collect::<Vec<_>>())
    .bind(subscriptions.iter().map(|(_, one)| one.p256dh.as_str()).collect::<Vec<_>>())
    .bind(subscriptions.iter().map(|(_, one)| one.auth.as_str()).collect::<Vec<_>>())
    .execute(&world.db)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO user_addresses (user_id, channel, address, secrets) \
         SELECT id, 'webhook', url, secret FROM unnest($1::text[], $2::text[], $3::text[]) AS h(id, url, secret)",
    )
    .bind(hooks.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
    .bind(hooks.iter().map(|(_, (url, _))| url.as_str()).collect::<Vec<_>>())
    .bind(hooks.iter().map(|(_, (_, secret))| secret.as_str()).collect::<Vec<_>>())
    .execute(&world.db)
    .await
    .unwrap();
}

/// Expected number of deliveries by channel, state and reason.
fn planned() -> BTreeMap<(String, String, String), i64> {
    let mut planned = BTreeMap::new();
    for group in &GROUPS {
        for (channel, reason) in group.deliveries {
            let failed = if *reason == "no_channel" { group.people } else { refused(group) };
            for (state, reason, count) in [("failed", *reason, failed), ("sent", "", group.people - failed)] {
                if count > 0 {
                    *planned.entry(((*channel).into(), state.into(), reason.into())).or_default() +=
                        i64::try_from(count).unwrap();
                }
            }
        }
        // Who is not reached is on record too.
        if group.deliveries.is_empty() {
            let reason = if group.choice.is_some() { "opted_out" } else { "no_subscription" };
            let line = ("web_push".into(), "skipped".into(), reason.into());
            *planned.entry(line).or_default() += i64::try_from(group.people).unwrap();
        }
    }
    planned
}

#[tokio::test]
#[ignore = "soak: 10,000 people"]
async fn ten_thousand_people_are_reached_once_each_and_the_ledger_is_complete() {
    // Few enough at once for a busy machine to finish within `ack_wait`: redelivered messages are claimed twice.
    let overrides = [("email", 32), ("sms", 32), ("webhook", 32), ("web_push", 64)]
        .map(|(channel, places)| format!("deliver_{channel}_normal.concurrency={places}"));
    let world = World::with_overrides(&format!("{STEADY},{}", overrides.join(","))).await;
    let receivers = Receivers::start(&world).await;
    settle(&world, &receivers).await;
    let everyone: Vec<String> = people().map(|(_, id, _)| id).collect();
    assert_eq!(everyone.len(), 10_000);
    let planned = planned();
    let sent = |channel: &str| {
        let count = planned.get(&(channel.to_owned(), "sent".to_owned(), String::new()));
        usize::try_from(count.copied().unwrap_or_default()).unwrap()
    };
    let mut worker = Process::worker(&world, &receivers.with(&[]));
    worker.ready().await;
    let begun = Instant::now();
    let recipients: Vec<_> = everyone.iter().map(|id| json!({ "userId": id })).collect();
    let body = json!({ "recipients": recipients, "title": "The office is closed on Friday" });
    world.publish_json("jobs.notification.bulk", "news", &body).await;

    let long = Duration::from_mins(3);
    let phone = &receivers.phones.first;
    let (pushes, mails, texts, hooks) = tokio::join!(
        world.push.wait_for(sent("web_push"), long),
        receivers.mail.wait_for(sent("email"), long),
        phone.wait_for(sent("sms"), long),
        receivers.hooks.wait_for(sent("webhook"), long),
    );
    let (pushes, mails, texts, hooks) = (pushes.unwrap(), mails.unwrap(), texts.unwrap(), hooks.unwrap());
    let under_way = "SELECT count(*) FROM deliveries WHERE state IN ('pending', 'held', 'sending')";
    let ended = async || (world.count(under_way).await == 0).then_some(());
    world.eventually_within(long, "every delivery has ended", ended).await;
    let took = begun.elapsed();
    world.queues_are_empty().await;

    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT channel, state, COALESCE(reason, ''), count(*) FROM deliveries WHERE job_id = 'news' GROUP BY 1, 2, 3",
    )
    .fetch_all(&world.db)
    .await
    .unwrap();
    let found: BTreeMap<_, _> =
        rows.into_iter().map(|(channel, state, reason, count)| ((channel, state, reason), count)).collect();
    assert_eq!(found, planned);
    assert_eq!(world.count("SELECT count(DISTINCT user_id) FROM notifications WHERE job_id = 'news'").await, 10_000);
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 10_000);
    assert_eq!(world.count("SELECT count(*) FROM deliveries WHERE attempts > 0 OR claims > 1").await, 0);
    assert!(world.dead_letters().await.is_empty());
    let runs = world.runs("news").await;
    assert_eq!((runs.len(), runs["notification"].state.as_str()), (1, "done"));

    let distinct = |names: Vec<&str>| (names.len(), names.into_iter().collect::<BTreeSet<_>>().len());
    let twice = |channel: &str| (sent(channel), sent(channel));
    assert_eq!(distinct(pushes.iter().map(|push| push.name.as_str()).collect()), twice("web_push"));
    assert_eq!(distinct(mails.iter().map(|mail| mail.to[0].as_str()).collect()), twice("email"));
    assert_eq!(distinct(texts.iter().map(|text| text.to.as_str()).collect()), twice("sms"));
    assert_eq!(distinct(hooks.iter().map(|hook| hook.name.as_str()).collect()), twice("webhook"));
    let now = (world.push.received().len(), receivers.mail.received().len(), phone.counts().requests);
    assert_eq!(now, (pushes.len(), mails.len(), texts.len()), "nothing came after that");
    assert_eq!(receivers.hooks.received().len(), hooks.len());
    receivers.are_content(&world);
    let total: i64 = found.values().sum();
    println!("{total} deliveries to 10000 people: {} ms from publish to the last record", took.as_millis());
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// Number of notifications before and during an outage.
const ROUNDS: usize = 40;

/// Milliseconds from publish to acceptance, of pushes, mails and webhooks.
struct Latencies([Vec<f64>; 3]);

impl Latencies {
    fn medians(&mut self) -> [f64; 3] {
        self.0.each_mut().map(|took| {
            took.sort_by(f64::total_cmp);
            took[took.len() / 2]
        })
    }

    /// Median and 95th percentile of each channel.
    fn figures(&mut self) -> String {
        let [push, mail, hook] = &mut self.0;
        let figures = [("push", push), ("e-mail", mail), ("webhook", hook)].map(|(name, took)| {
            took.sort_by(f64::total_cmp);
            format!("{name} {:.1}/{:.1} ms", took[took.len() / 2], took[took.len() * 95 / 100])
        });
        figures.join(", ")
    }
}

/// A family reached by different channels, and a provider that will fail.
struct Outage {
    world: World,
    receivers: Receivers,
    worker: Process,
    came: usize,
}

impl Outage {
    async fn new() -> Self {
        // Backoff long enough for the breaker to open before a delivery runs out of attempts.
        let overrides = format!("{STEADY},deliver_sms_normal.backoff=fixed 5s,deliver_sms_normal.attempts=8");
        let world = World::with_overrides(&overrides).await;
        let receivers = Receivers::start(&world).await;
        receivers.hook(&world, "dan").await;
        world.sql("UPDATE users SET email = 'ben@example.org' WHERE id = 'ben'").await;
        world.sql("UPDATE users SET phone = '+4366012345678' WHERE id = 'chloe'").await;
        world
            .sql(
                "INSERT INTO preferences (user_id, channels) \
                 VALUES ('ana', '{push}'), ('ben', '{email}'), ('chloe', '{sms}'), ('dan', '{webhook}')",
            )
            .await;
        let mut worker = Process::worker(&world, &receivers.with(&[]));
        worker.ready().await;
        Self { world, receivers, worker, came: 0 }
    }

    /// Publishes one by one, and waits for everything but the text message.
    async fn notify(&mut self, what: &str) -> Latencies {
        let mut took = [Vec::new(), Vec::new(), Vec::new()];
        for number in 0..ROUNDS {
            self.came += 1;
            let n = self.came;
            let recipients = ["ana", "ben", "chloe", "dan"].map(|user| json!({ "userId": user }));
            let body = json!({ "recipients": recipients, "title": "News" });
            let since = Instant::now();
            self.world.publish_json("jobs.notification.normal", &format!("{what}-{number}"), &body).await;
            let ms = || since.elapsed().as_secs_f64() * 1000.0;
            let (push, mail, hook) = tokio::join!(
                async { self.world.push.wait_until(LIMIT, |counts| counts.accepted >= n).await.map(|_| ms()) },
                async { self.receivers.mail.wait_until(LIMIT, |counts| counts.accepted >= n).await.map(|_| ms()) },
                async { self.receivers.hooks.wait_for(n, LIMIT).await.map(|_| ms()) },
            );
            for (took, came) in took.iter_mut().zip([push.unwrap(), mail.unwrap(), hook.unwrap()]) {
                took.push(came);
            }
        }
        Latencies(took)
    }

    /// Answers how many texts the provider had accepted before it failed.
    async fn run(&mut self, name: &str, behaviour: phone_service::Behaviour) -> usize {
        self.notify("warm").await;
        let mut before = self.notify("calm").await;
        let phone = &self.receivers.phones.first;
        let had = phone.wait_for(self.came, LIMIT).await.unwrap().len();
        assert_eq!(had, 2 * ROUNDS);
        phone.behave_always(Some(behaviour));
        let mut during = self.notify("storm").await;
        // None waited for the provider, which is still down.
        assert_eq!(self.receivers.phones.first.counts().accepted, had, "no text message was taken meanwhile");
        println!("{name}: median/p95 before: {}", before.figures());
        println!("{name}: median/p95 during: {}", during.figures());
        // Allows for a busy machine: waiting for the provider would take seconds.
        for (before, during) in before.medians().into_iter().zip(during.medians()) {
            assert!(during <= 5.0 * before + 500.0, "{name}: {during} ms as against {before} ms before");
        }
        self.worker.line("its breaker opened", |line| line.tells_of_a_provider_that_is_down().then_some(())).await;
        assert_eq!(self.receivers.phones.first.counts().accepted, had);
        self.receivers.phones.first.behave_always(None);
        had
    }

    /// Texts of the outage by state, once all have ended.
    async fn texts(&self) -> BTreeMap<String, usize> {
        let mut states = BTreeMap::new();
        for number in 0..ROUNDS {
            let ledger = self.world.ledger(&format!("storm-{number}")).await;
            assert_eq!(ledger.len(), 4);
            for line in ledger {
                if line.channel == "sms" {
                    *states.entry(line.state).or_default() += 1;
                } else {
                    assert_eq!((line.state.as_str(), line.attempts), ("sent", 0), "{}", line.channel);
                }
            }
        }
        states
    }

    async fn end(mut self) {
        self.world.queues_are_empty().await;
        assert!(self.world.dead_letters().await.is_empty());
        let n = self.came;
        let came = (self.world.push.received().len(), self.receivers.mail.received().len());
        assert_eq!((came, self.receivers.hooks.received().len()), ((n, n), n), "each once");
        self.receivers.are_content(&self.world);
        assert_eq!(self.worker.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
#[ignore = "soak: 120 notifications by four channels, and an outage"]
async fn a_provider_of_texts_that_refuses_slows_no_other_channel_and_loses_no_text() {
    let mut outage = Outage::new().await;
    let had = outage.run("503", phone_service::Behaviour::status(503)).await;
    assert_eq!(outage.texts().await, BTreeMap::from([("sent".to_owned(), ROUNDS)]));
    assert_eq!(outage.receivers.phones.first.counts().accepted, had + ROUNDS, "each once");
    outage.end().await;
}

/// A silent provider may have sent a text: it is recorded as unknown and not sent again. At most the queue's
/// concurrency is affected before the breaker opens.
#[tokio::test]
#[ignore = "soak: 120 notifications by four channels, and an outage"]
async fn a_provider_of_texts_that_is_silent_slows_no_other_channel_and_loses_no_text() {
    let mut outage = Outage::new().await;
    let had = outage.run("silence", phone_service::Behaviour::Hang).await;
    let states = outage.texts().await;
    let (sent, unknown) = (states.get("sent").copied().unwrap_or(0), states.get("unknown").copied().unwrap_or(0));
    assert_eq!(sent + unknown, ROUNDS, "{states:?}");
    assert!((5..=20).contains(&unknown), "{states:?}");
    assert_eq!(outage.receivers.phones.first.counts().accepted, had + sent, "each once");
    outage.end().await;
}
