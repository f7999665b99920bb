//! `report.ledger`: the numbers of a day, a week or a month, to a store and to people.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Worker, World, decode};

const REPORT: &str = "work.report.ledger";

/// A published job, and its deliveries: channel, lane, state and seconds until they were accepted.
struct Way<'a> {
    id: &'a str,
    kind: &'a str,
    lane: &'a str,
    state: &'a str,
    at: &'a str,
    deliveries: &'a [(&'a str, &'a str, &'a str, Option<i32>)],
}

impl Way<'_> {
    async fn insert(&self, world: &World) {
        let Self { id, kind, lane, state, at, deliveries } = self;
        world
            .sql(&format!(
                "INSERT INTO job_runs (job_id, root_id, kind, lane, stream, stream_seq, state, created_at, updated_at) \
                 VALUES ('{id}', '{id}', '{kind}', nullif('{lane}', ''), 'JOBS', 1, '{state}', '{at}', '{at}'), \
                        ('{id}~notification', '{id}', 'notification', 'normal', 'WORK', 1, 'done', '{at}', '{at}')"
            ))
            .await;
        for (number, (channel, lane, state, seconds)) in deliveries.iter().enumerate() {
            let sent = seconds.map_or("NULL".into(), |seconds| format!("'{at}'::timestamptz + interval '{seconds} s'"));
            world
                .sql(&format!(
                    "INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, state, sent_at, not_after, \
                                             created_at, updated_at) \
                     VALUES ('{id}-{number}', '{id}', '{id}', 'ana', '{channel}', '{number}', '{lane}', '{state}', {sent}, \
                             '{at}', '{at}', '{at}')"
                ))
                .await;
        }
    }
}

async fn ways(world: &World) {
    let (reminder, at) = ("reminder.medication", "2027-02-10T12:00:00Z");
    for way in [
        Way {
            id: "told",
            kind: reminder,
            lane: "",
            state: "done",
            at,
            deliveries: &[("web_push", "critical", "sent", Some(1)), ("email", "critical", "delivered", Some(400))],
        },
        Way {
            id: "late",
            kind: reminder,
            lane: "",
            state: "done",
            at,
            deliveries: &[("web_push", "critical", "failed", None), ("email", "critical", "sent", Some(301))],
        },
        Way {
            id: "missed",
            kind: reminder,
            lane: "",
            state: "done",
            at,
            deliveries: &[("web_push", "critical", "expired", None), ("email", "critical", "skipped", None)],
        },
        Way {
            id: "quiet",
            kind: "notification",
            lane: "normal",
            state: "done",
            at,
            deliveries: &[("email", "normal", "skipped", None)],
        },
        Way {
            id: "open",
            kind: "notification",
            lane: "bulk",
            state: "done",
            at,
            deliveries: &[("email", "normal", "held", None)],
        },
        Way { id: "skipped", kind: reminder, lane: "", state: "skipped", at, deliveries: &[] },
        Way { id: "expired", kind: reminder, lane: "", state: "expired", at, deliveries: &[] },
        Way { id: "dead", kind: "alert.refill", lane: "", state: "dead", at, deliveries: &[] },
        // Vienna's 10 February has begun, and the day after has.
        Way { id: "first", kind: reminder, lane: "", state: "skipped", at: "2027-02-09T23:00:00Z", deliveries: &[] },
        Way {
            id: "before",
            kind: reminder,
            lane: "",
            state: "skipped",
            at: "2027-02-09T22:59:59.999999Z",
            deliveries: &[],
        },
        Way { id: "after", kind: reminder, lane: "", state: "dead", at: "2027-02-10T23:00:00Z", deliveries: &[] },
    ] {
        way.insert(world).await;
    }
}

async fn result(world: &World, id: &str) -> Value {
    assert_eq!(world.ended(id).await, ("done".into(), None));
    sqlx::query_scalar("SELECT result FROM job_runs WHERE job_id = $1").bind(id).fetch_one(&world.db).await.unwrap()
}

fn job(more: &Value) -> Value {
    let mut job = json!({ "period": "REPORT_PERIOD_DAY", "zone": "Europe/Vienna", "store": "archive", "at": "2027-02-11T05:00:00Z" });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

#[tokio::test]
async fn a_day_is_counted_by_kind_channel_and_lane_and_the_same_job_makes_the_same_bytes() {
    let world = World::new().await;
    ways(&world).await;
    let root = world.directory.path().join("documents");
    std::fs::create_dir(&root).unwrap();
    let store = format!("archive=file://{}", root.display());
    let worker = Worker::with(&world, &[("DOCUMENT_STORES", &store)]);
    world.publish_json(REPORT, "report", &job(&json!({}))).await;
    let said = result(&world, "report").await;
    let totals = json!({ "told": 1, "late": 1, "missed": 1, "expired": 1, "dead": 1 });
    assert_eq!((&said["totals"], &said["period"]), (&totals, &json!("day-2027-02-10")));
    assert_eq!(said["from"], "2027-02-09T23:00:00Z");
    let read =
        |ending: &str| std::fs::read_to_string(root.join(format!("reports/ledger-day-2027-02-10.{ending}"))).unwrap();
    let (html, csv) = (read("html"), read("csv"));
    let numbers: Vec<&str> = csv.lines().skip(1).filter(|line| !line.ends_with(",0")).collect();
    assert_eq!(
        numbers,
        [
            "jobs,alert.refill,,,dead,1",
            "jobs,notification,,bulk,open,1",
            "jobs,notification,,normal,quiet,1",
            "jobs,reminder.medication,,,told,1",
            "jobs,reminder.medication,,,late,1",
            "jobs,reminder.medication,,,missed,1",
            "jobs,reminder.medication,,,skipped,2",
            "jobs,reminder.medication,,,expired,1",
            "deliveries,notification,email,normal,skipped,1",
            "deliveries,notification,email,normal,open,1",
            "deliveries,reminder.medication,email,critical,late,2",
            "deliveries,reminder.medication,email,critical,skipped,1",
            "deliveries,reminder.medication,web_push,critical,sent,1",
            "deliveries,reminder.medication,web_push,critical,failed,1",
            "deliveries,reminder.medication,web_push,critical,expired,1",
        ]
    );
    assert!(html.contains("Europe/Vienna, from 2027-02-10T00:00:00+01:00 until 2027-02-11T00:00:00+01:00"), "{html}");
    assert!(!html.contains("ana") && !csv.contains("ana"), "no person is in a report");

    world.publish_json(REPORT, "again", &job(&json!({}))).await;
    assert_eq!(result(&world, "again").await, said);
    assert_eq!((read("html"), read("csv")), (html, csv));
    for (period, name) in [("WEEK", "week-2027-W05"), ("MONTH", "month-2027-01")] {
        let wanted = json!({ "period": format!("REPORT_PERIOD_{period}"), "prefix": "a/b" });
        world.publish_json(REPORT, name, &job(&wanted)).await;
        let said = result(&world, name).await;
        assert_eq!((&said["period"], &said["totals"]["told"]), (&json!(name), &json!(0)));
        assert!(root.join(format!("a/b/ledger-{name}.csv")).is_file());
    }
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_schedules_instant_decides_whenever_its_job_runs_and_people_are_told_numbers() {
    let world = World::new().await;
    ways(&world).await;
    let worker = Worker::start(&world);
    let mut told = job(&json!({ "recipients": [{ "userId": "ana" }], "link": "/reports" }));
    told.as_object_mut().unwrap().retain(|name, _| !["store", "at"].contains(&name.as_str()));
    let id = "schedule~ledger:of:days:2027-02-11T06:00:00Z";
    world.publish_json(REPORT, id, &told).await;
    assert_eq!(result(&world, id).await["period"], "day-2027-02-10");
    let inbox = world.inbox(id).await;
    assert_eq!(inbox.len(), 1);
    assert_eq!(inbox[0].title, "Report 2027-02-10");
    assert_eq!(inbox[0].body, "In time: 1, late: 1, missed: 1, expired: 1, given up: 1");
    assert_eq!(inbox[0].url, "/reports");
    assert_eq!(world.ledger(id).await[0].state, "sent");
    world.queues_are_empty().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_report_that_cannot_be_names_its_field() {
    for (change, expected) in [
        (json!({ "period": "REPORT_PERIOD_UNSPECIFIED" }), "`period` must be REPORT_PERIOD_DAY"),
        (json!({ "zone": "Europe/Wien" }), "`zone` is unknown: there is no time zone `Europe/Wien`"),
        (json!({ "store": "" }), "`store` is required, or `recipients`"),
        (json!({ "store": "", "prefix": "a" }), "`store` is required with a prefix"),
        (json!({ "prefix": "../a" }), "`prefix` must be"),
        (json!({ "recipients": [{ "email": "nobody" }] }), "`recipients.email`"),
        (json!({ "recipients": [{ "userId": "ana" }], "link": "ftp://x" }), "`url`"),
        (json!({ "at": "0001-01-01T00:00:00Z" }), "`at` must be an instant"),
    ] {
        let refused = decode("report.ledger", &job(&change)).unwrap_err();
        assert!(refused.contains(expected), "{change}: {refused}");
    }
    decode("report.ledger", &job(&json!({}))).unwrap();
}

/// Jobs of a span, with two deliveries each, one a second.
async fn seed(world: &World, first: DateTime<Utc>, jobs: u32) {
    for statement in [
        "INSERT INTO job_runs (job_id, root_id, kind, stream, stream_seq, state, created_at, updated_at) \
         SELECT 'w' || n || suffix, 'w' || n, kind, 'JOBS', n, 'done', AT, AT FROM WAYS, \
                (VALUES ('', 'reminder.medication'), ('~notification', 'notification')) AS k(suffix, kind)",
        "INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, state, sent_at, not_after, created_at, \
                                 updated_at) \
         SELECT 'd' || n || channel, 'w' || n, 'w' || n, 'ana', channel, 'ana', 'critical', 'sent', AT, AT, AT, AT \
         FROM WAYS, (VALUES ('web_push'), ('email')) AS c(channel)",
        "ANALYZE",
    ] {
        let statement = statement.replace("WAYS", &format!("generate_series(1, {jobs}) n"));
        world.sql(&statement.replace("AT", &format!("'{first}'::timestamptz + n * interval '1 s'"))).await;
    }
}

#[tokio::test]
#[ignore = "soak: a ledger of a million rows"]
async fn a_report_reads_its_period_and_not_the_ledger() {
    const JOBS: u32 = 500_000;
    let world = World::new().await;
    let first: DateTime<Utc> = "2027-02-08T00:00:00Z".parse().unwrap();
    let since = Instant::now();
    seed(&world, first, JOBS).await;
    println!("{JOBS} jobs are there after {:?}", since.elapsed());
    let recipients = json!([{ "userId": "ana" }]);
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&world.db).await.unwrap();
    for mode in ["auto", "force_generic_plan"] {
        world.sql(&format!("ALTER DATABASE \"{name}\" SET plan_cache_mode = {mode}")).await;
        let worker = Worker::without_scheduler(&world);
        for (period, at, told) in [
            ("DAY", first + TimeDelta::hours(30), 86_399),
            ("WEEK", first + TimeDelta::days(7), 500_000),
            ("DAY", first - TimeDelta::days(7), 0),
        ] {
            let job = json!({ "period": format!("REPORT_PERIOD_{period}"), "at": at, "recipients": recipients });
            let id = format!("{mode}-{told}");
            let since = Instant::now();
            world.publish_json(REPORT, &id, &job).await;
            let said = result(&world, &id).await;
            println!("{mode}: {} jobs in {:?}", said["totals"]["told"], since.elapsed());
            assert_eq!(said["totals"]["told"], told);
        }
        worker.stop().await;
    }
}
