//! `carebell explain`: each reason through the command, as the operator's role.

mod care;
mod deliveries;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    cli::carebell,
    support::{FAMILY, LIMIT, Role, Worker, World, reminder, utc_now},
};

/// A world, and somebody on call who may do what `helm/servers/operator.sql` says.
struct Desk {
    world: World,
    role: Role,
}

/// Never in an answer, whatever is asked.
const PERSONAL: [&str; 6] = ["Metformin", "Rose", "500 mg", "Checkup", "Old Mill", "https://"];

impl Desk {
    async fn new() -> Self {
        Self::of(World::new().await).await
    }

    /// With Ana in Vienna and Rose in Tokyo.
    async fn of(world: World) -> Self {
        world.sql("UPDATE users SET timezone = 'Europe/Vienna' WHERE id = 'ana'").await;
        world.sql("UPDATE care_recipients SET timezone = 'Asia/Tokyo'").await;
        let role = world.role_with("operator").await;
        Self { world, role }
    }

    async fn run(&self, args: &[&str]) -> (bool, String, String) {
        let args = [&["explain"], args].concat();
        carebell(&self.world, &args, &[("DATABASE_URL", &self.role.url)]).await
    }

    /// The JSON, after a comparison with the text and with the page of reasons.
    async fn ask(&self, args: &[&str]) -> Value {
        let (well, text, error) = self.run(args).await;
        assert!(well, "{args:?}: {error}");
        let (well, said, error) = self.run(&[args, &["--output", "json"]].concat()).await;
        assert!(well, "{args:?}: {error}");
        let found: Value = serde_json::from_str(&said).unwrap();
        // Times of past and future go on between the two.
        let begin = |text: &str| text.split(':').next().unwrap().to_owned();
        assert_eq!(begin(text.lines().next().unwrap()), begin(found["sentence"].as_str().unwrap()), "{args:?}");
        assert!(!found["sentence"].as_str().unwrap().contains('\n'));
        for personal in PERSONAL {
            assert!(!text.contains(personal) && !said.contains(personal), "{personal} in {text}{said}");
        }
        let reason = found["reason"].as_str().unwrap();
        let page = include_str!("../../docs/OPERATIONS.md");
        assert!(page.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{reason}`"))), "{reason}");
        found
    }

    /// Told, reason and sentence.
    async fn verdict(&self, args: &[&str]) -> (String, String, String) {
        let found = self.ask(args).await;
        let part = |name: &str| found[name].as_str().unwrap().to_owned();
        (part("told"), part("reason"), part("sentence"))
    }

    /// Asserts told, reason, and a part of the sentence.
    async fn says(&self, args: &[&str], told: &str, reason: &str, part: &str) {
        let (found_told, found_reason, sentence) = self.verdict(args).await;
        assert_eq!((found_told.as_str(), found_reason.as_str()), (told, reason), "{args:?}: {sentence}");
        assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
    }

    /// About Rose's dose of metformin.
    async fn dose(&self, user: &str, at: &str, told: &str, reason: &str, part: &str) {
        self.says(&["--user", user, "--medication", "metformin", "--at", at], told, reason, part).await;
    }

    async fn close(self) {
        self.role.drop(&self.world).await;
    }
}

/// Reasons of the facts of an answer.
fn reasons(found: &Value) -> Vec<&str> {
    found["facts"].as_array().unwrap().iter().map(|fact| fact["reason"].as_str().unwrap()).collect()
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339()
}

#[tokio::test]
async fn a_job_is_explained_by_any_of_its_ids_and_in_each_state() {
    let desk = Desk::new().await;
    let world = &desk.world;
    desk.says(&["--user", "ana", "--job", "void"], "unknown", "nothing_known", "the records do not say whether ana")
        .await;

    let at = utc_now();
    let worker = Worker::without_scheduler(world);
    world.publish_json("jobs.reminder.medication", "first", &reminder("metformin", at)).await;
    world.everyone_has_it_once("first").await;
    world.publish_json("jobs.reminder.medication", "second", &reminder("metformin", at)).await;
    assert_eq!(world.ended("second").await.1.as_deref(), Some("already_sent"));
    let delivery = world.delivery_to("first", "ana").await.id;
    for id in ["first", "first~notification", &delivery] {
        desk.says(&["--user", "ana", "--job", id], "yes", "told", "ana was told by the job ").await;
    }
    desk.says(&["--user", "ana", "--job", "second"], "unknown", "already_sent", "another job had sent").await;
    // By the dose, the owner of the mark answers.
    desk.dose("ana", &rfc3339(at), "yes", "told", "ana was told of the dose of metformin at ").await;

    // Somebody of whom the notification did not know.
    world.sql("INSERT INTO users (id, name) VALUES ('eve', 'Eve')").await;
    let found = desk.ask(&["--user", "eve", "--medication", "metformin", "--at", &rfc3339(at)]).await;
    assert_eq!((&found["told"], &found["reason"]), (&json!("no"), &json!("not_a_recipient")));
    assert_eq!(reasons(&found)[1], "no_member", "{found}");

    let later = rfc3339(utc_now() + TimeDelta::hours(1));
    let headers = [("Carebell-Job-Id", "later"), ("Content-Type", "application/json"), ("Carebell-At", later.as_str())];
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Tea" }).to_string();
    world.publish("jobs.later.notification.normal", &headers, body).await;
    let waits = async || world.store.delayed_job("later").await.unwrap();
    world.eventually("it waits", waits).await;
    desk.says(&["--user", "ana", "--job", "later"], "not_yet", "delayed", "delayed the job until ").await;
    let (well, _, error) = carebell(world, &["jobs", "cancel", "later"], &[("DATABASE_URL", &desk.role.url)]).await;
    assert!(well, "{error}");
    desk.says(&["--user", "ana", "--job", "later"], "no", "cancelled", "the job was cancelled at ").await;

    let early = reminder("metformin", utc_now() + TimeDelta::hours(1));
    world.publish_json("jobs.reminder.medication", "early", &early).await;
    let waits = async || world.runs("early").await.remove("reminder.medication");
    world.eventually("it waits", waits).await;
    desk.says(&["--user", "ana", "--job", "early"], "not_yet", "not_due", "before it is due").await;
    worker.stop().await;

    world
        .sql(
            "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, children_pending, created_at, updated_at) \
             VALUES ('stuck', 'stuck', 'reminder.medication', 'JOBS', 7, 'done', true, now(), now())",
        )
        .await;
    world
        .sql(
            "INSERT INTO job_children (job_id, child_id, root_id, subject, body, not_after) \
             VALUES ('stuck', 'stuck~notification', 'stuck', 'jobs.notification.critical', '', now())",
        )
        .await;
    desk.says(&["--user", "ana", "--job", "stuck"], "not_yet", "unpublished", "not known to be published").await;
    world.sql("DELETE FROM job_children").await;
    desk.says(&["--user", "ana", "--job", "stuck"], "not_yet", "not_run", "no worker has recorded it").await;
    world.sql("UPDATE scheduler_state SET looked_at = now() - interval '1 hour'").await;
    desk.says(&["--user", "ana", "--job", "stuck"], "not_yet", "worker_down", "no worker has given a sign").await;
    desk.close().await;
}

#[tokio::test]
async fn all_notifications_of_a_time_in_one_sentence() {
    let desk = Desk::new().await;
    let world = &desk.world;
    let nothing = desk.ask(&["--user", "ana"]).await;
    assert_eq!((&nothing["told"], &nothing["reason"]), (&json!("unknown"), &json!("nothing_known")));
    assert!(reasons(&nothing).contains(&"signs_of_life"), "{nothing}");

    let worker = Worker::without_scheduler(world);
    let body = |channels: &[&str]| json!({ "recipients": [{ "userId": "ana" }], "title": "Tea", "channels": channels });
    world.publish_json("jobs.notification.normal", "one", &body(&[])).await;
    world.ledger("one").await;
    desk.says(&["--user", "ana"], "yes", "told", "ana was told by 1 of 1 notifications since ").await;
    world.publish_json("jobs.notification.normal", "two", &body(&["CHANNEL_IN_APP"])).await;
    world.ledger("two").await;
    let found = desk.ask(&["--user", "ana", "--since", "2h"]).await;
    assert_eq!((&found["told"], &found["reason"]), (&json!("partly"), &json!("inbox_only")), "{found}");
    let each = found["notifications"].as_array().unwrap();
    assert_eq!((&each[0]["job_id"], &each[1]["job_id"]), (&json!("two"), &json!("one")), "the newest first");
    assert_eq!(found["next"], json!(["carebell jobs show two"]));
    worker.stop().await;
    desk.close().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_a_hint() {
    let desk = Desk::new().await;
    let dose = |user, at| ["--user", user, "--medication", "metformin", "--at", at];
    let long = "x".repeat(101);
    let cases: [(&[&str], &str); 12] = [
        (&dose("anna", "2026-12-01T09:00:00Z"), "there is no user of this id in `users`"),
        (&dose("", "2026-12-01T09:00:00Z"), "`user` is required"),
        (&dose(&long, "2026-12-01T09:00:00Z"), "`user` must be an id of at most 100 bytes"),
        (&dose("a\u{1b}[2J", "2026-12-01T09:00:00Z"), "`user` must be an id"),
        (&dose("ana", "tomorrow"), "`tomorrow` is no time: expected an instant such as"),
        (&dose("ana", "09:00"), "on the care recipient's clocks"),
        (&["--user", "ana", "--medication", "metformin"], "--at"),
        (&["--user", "ana", "--at", "2026-12-01T09:00"], "--medication"),
        (&["--user", "ana", "--job", "dose 1'; DROP"], "`job` must be 1 to 192 of the characters"),
        (&["--user", "ana", "--shift", "a", "--job", "b"], "cannot be used with"),
        (&["--user", "ana", "--since", "100d"], "`since` must be at most 90 days"),
        (&["--user", "ana", "--since", "soon"], "--since"),
    ];
    for (args, expected) in cases {
        let (well, said, error) = desk.run(args).await;
        assert!(!well && said.is_empty() && error.contains(expected), "{args:?}: {error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
    // Odd, but an id.
    desk.says(&["--user", "ana", "--shift", "Ω / 17; %"], "no", "gone", "there is no such care record").await;
    desk.close().await;
}

/// As with an application that has views of these names, and somebody who ran an older `operator.sql`.
#[tokio::test]
async fn views_serve_and_a_table_that_cannot_be_read_is_named_and_left_out() {
    let world = World::new().await;
    world.sql("ALTER TABLE medication_logs RENAME TO intakes").await;
    world
        .sql(
            "CREATE VIEW medication_logs AS SELECT medication_id, scheduled_time, \
             CASE status WHEN 'taken' THEN 'GIVEN' ELSE status END AS status FROM intakes",
        )
        .await;
    let desk = Desk::of(world).await;
    let at = "2026-03-01T09:00:00Z";
    desk.world
        .sql(&format!(
            "INSERT INTO intakes (medication_id, scheduled_time, status) VALUES ('metformin', '{at}', 'taken')"
        ))
        .await;
    desk.dose("ana", at, "no", "already_given", "the dose is on record as given").await;

    let name = &desk.role.name;
    desk.world.sql(&format!("REVOKE SELECT ON medication_logs FROM {name}")).await;
    desk.world
        .sql(&format!("REVOKE SELECT (medication_id, scheduled_time, status) ON medication_logs FROM {name}"))
        .await;
    desk.world.sql(&format!("REVOKE SELECT (id, timezone) ON users FROM {name}")).await;
    desk.world.sql("UPDATE medications SET is_active = false").await;
    let found = desk.ask(&["--user", "ana", "--medication", "metformin", "--at", at]).await;
    assert_eq!((&found["reason"], &found["zone"]), (&json!("inactive"), &json!("UTC")));
    assert_eq!(found["unread"], json!(["users", "medication_logs"]));
    assert!(found["next"][0].as_str().unwrap().contains("helm/servers/operator.sql"), "{found}");
    desk.close().await;
}

#[tokio::test]
async fn a_pause_is_named_with_its_reason() {
    let desk = Desk::new().await;
    let worker = Worker::start(&desk.world);
    let pause = async |args: &[&str]| {
        let (well, _, error) = carebell(&desk.world, &[&["queues"], args].concat(), &[]).await;
        assert!(well, "{error}");
    };
    pause(&["pause", "--channel", "push", "--reason", "new keys", "--by", "olga", "--until", "2h"]).await;
    desk.world
        .eventually("the worker knows it", async || {
            desk.world.remind("held").await;
            let waits = "SELECT count(*) FROM deliveries WHERE job_id = 'held' AND state IN ('pending', 'held')";
            (desk.world.count(waits).await > 0).then_some(())
        })
        .await;
    let said = "olga has paused the channel web_push since";
    desk.says(&["--user", "ana", "--job", "held"], "not_yet", "paused", said).await;
    let (_, _, sentence) = desk.verdict(&["--user", "ana", "--job", "held"]).await;
    assert!(sentence.contains("new keys") && sentence.contains("until"), "{sentence}");
    pause(&["resume", "--channel", "push"]).await;
    desk.world.everyone_has_it_once("held").await;
    worker.stop().await;
    desk.close().await;
}
