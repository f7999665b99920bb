//! `docs/INBOX.md`: its statements work and use indexes, its service worker shows a push.

use std::{collections::BTreeMap, fs, path::Path};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool, Row, postgres::PgRow};

use crate::support::{LIMIT, Node, Worker, World, connect_options, database, pool, sorted};

fn doc() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/INBOX.md")).unwrap()
}

/// Code blocks by the name in their first comment.
fn blocks(language: &str, comment: &str) -> BTreeMap<String, String> {
    let (doc, fence) = (doc(), format!("\n```{language}\n{comment} "));
    let blocks = doc.split(&fence).skip(1);
    blocks
        .map(|block| {
            let (name, rest) = block.split_once('\n').unwrap();
            (name.to_owned(), rest.split("```").next().unwrap().trim().trim_end_matches(';').to_owned())
        })
        .collect()
}

/// A database with 50,000 notifications of 500 users (two fifths unread, a fifth archived) and 1,000 subscriptions.
async fn loaded() -> String {
    let url = database().await;
    let mut connection = PgConnection::connect_with(&connect_options(&url)).await.unwrap();
    sqlx::raw_sql(
        // Rows share instants, so only the id orders them. Full statistics keep plans stable.
        "SET default_statistics_target = 1000; \
         INSERT INTO notifications \
             (id, job_id, user_id, type, title, body, created_at, seen_at, read_at, archived_at) \
         SELECT gen_random_uuid()::text, 'job-' || n, 'user-' || n % 500, 'GENERAL', 'Title ' || n, 'Body', t, \
             CASE WHEN n / 500 % 5 > 0 THEN t END, CASE WHEN n / 500 % 5 > 1 THEN t END, \
             CASE WHEN n / 500 % 5 > 3 THEN t END \
         FROM generate_series(0, 49999) n, \
             LATERAL (SELECT '2027-03-01 09:00:00.123456Z'::timestamptz + n / 1500 * interval '1 minute' AS t) at; \
         INSERT INTO push_subscriptions (user_id, endpoint, p256dh, auth) \
         SELECT 'user-' || n % 500, 'https://push.example/' || n, 'p' || n, 'a' || n FROM generate_series(0, 999) n; \
         ANALYZE notifications; ANALYZE push_subscriptions",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    url
}

fn nodes(plan: &Value) -> Vec<&Value> {
    let below = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    [plan].into_iter().chain(below).collect()
}

/// Indexes and rows that a plan reads.
fn reads(name: &str, plan: &Value) -> (Vec<String>, f64) {
    let (mut indexes, mut rows) = (Vec::new(), 0.0);
    for node in nodes(plan) {
        let kind = node["Node Type"].as_str().unwrap();
        let answered =
            ["Aggregate", "Limit", "Subquery Scan", "ModifyTable", "Result", "Bitmap Heap Scan", "BitmapAnd"];
        let from_index = ["Index Scan", "Index Only Scan", "Bitmap Index Scan"].contains(&kind);
        assert!(from_index || answered.contains(&kind), "{name} has a {kind}: {plan:#}");
        if from_index {
            indexes.push(node["Index Name"].as_str().unwrap().to_owned());
            let number = |key: &str| node[key].as_f64().unwrap_or_default();
            rows += (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops");
        }
    }
    (indexes, rows)
}

#[tokio::test]
async fn each_statement_is_answered_from_an_index_and_reads_little() {
    let url = loaded().await;
    let mut connection = PgConnection::connect_with(&connect_options(&url)).await.unwrap();
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM notifications WHERE user_id = 'user-7' ORDER BY created_at DESC LIMIT 10")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let of_user = "'user-7'".to_owned();
    let page = format!("{of_user}, 20");
    let marked = format!("{of_user}, '{{{}}}'", ids.join(","));
    // Parameters, the required index if any, and the most entries to read. Marks may read all hundred rows; rollbacks
    // leave entries.
    let statements = [
        ("unread count", of_user.clone(), "notifications_unread", 100.0),
        ("unread list", page.clone(), "notifications_unread", 20.0),
        // A fifth is archived and skipped.
        ("first page", page.clone(), "notifications_user", 30.0),
        ("next page", format!("{page}, '2027-03-01 09:20:00.123456Z', '8'"), "notifications_user", 30.0),
        ("mark seen", marked.clone(), "", 200.0),
        ("mark read", marked.clone(), "", 200.0),
        ("mark all read", format!("{of_user}, '2027-03-01 09:20:00.123456Z'"), "notifications_unread", 200.0),
        ("archive", marked, "", 200.0),
        ("delete of a user", of_user.clone(), "notifications_user", 200.0),
        ("subscribe", format!("{of_user}, 'https://push.example/7', 'p', 'a'"), "", 0.0),
        ("unsubscribe", format!("{of_user}, 'https://push.example/7'"), "push_subscriptions_endpoint_key", 1.0),
    ];
    let sql = blocks("sql", "--");
    let mut names: Vec<&str> = statements.iter().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    assert_eq!(sql.keys().collect::<Vec<_>>(), names, "the statements of docs/INBOX.md are those that are tested");

    // Drivers use either mode.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        for (name, parameters, index, most) in &statements {
            let explain = format!(
                "DEALLOCATE ALL; SET plan_cache_mode = {mode}; BEGIN; PREPARE statement AS {}; \
                 EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE statement ({parameters}); ROLLBACK",
                sql[*name]
            );
            let row = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_one(&mut connection).await.unwrap();
            let plan: Value = row.get(0);
            let (indexes, rows) = reads(name, &plan[0]["Plan"]);
            assert!(
                index.is_empty() || indexes.iter().any(|used| used == index),
                "{name} ({mode}) uses {indexes:?}: {plan:#}"
            );
            assert!(rows <= *most, "{name} ({mode}) reads {rows} rows: {plan:#}");
        }
    }
}

/// An inbox read and marked by the document's statements.
struct Inbox {
    db: PgPool,
    sql: BTreeMap<String, String>,
}

type Key = (DateTime<Utc>, String);

impl Inbox {
    const USER: &str = "user-7";

    fn query(&self, name: &str) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
        sqlx::query(sqlx::AssertSqlSafe(self.sql[name].clone()))
    }

    async fn unread(&self) -> (i64, Vec<Key>) {
        let count = self.query("unread count").bind(Self::USER).fetch_one(&self.db).await.unwrap().get(0);
        let list = self.query("unread list").bind(Self::USER).bind(1000_i64).fetch_all(&self.db).await.unwrap();
        (count, list.iter().map(key).collect())
    }

    async fn pages(&self, size: i64) -> Vec<Key> {
        let mut page = self.query("first page").bind(Self::USER).bind(size).fetch_all(&self.db).await.unwrap();
        let mut all: Vec<Key> = Vec::new();
        while let Some(last) = page.last() {
            let (created_at, id) = key(last);
            all.extend(page.iter().map(key));
            let next = self.query("next page").bind(Self::USER).bind(size).bind(created_at).bind(id);
            page = next.fetch_all(&self.db).await.unwrap();
        }
        all
    }

    async fn mark(&self, name: &str, user: &str, keys: &[Key]) -> u64 {
        let ids: Vec<&str> = keys.iter().map(|(_, id)| id.as_str()).collect();
        self.query(name).bind(user).bind(ids).execute(&self.db).await.unwrap().rows_affected()
    }

    async fn all(&self, condition: &str) -> Vec<Key> {
        let query = format!("SELECT created_at, id FROM notifications WHERE user_id = $1 AND {condition}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).bind(Self::USER).fetch_all(&self.db).await.unwrap();
        let mut keys: Vec<Key> = rows.iter().map(key).collect();
        keys.sort_by(|one, other| other.cmp(one));
        keys
    }
}

fn key(row: &PgRow) -> Key {
    (row.get("created_at"), row.get("id"))
}

#[tokio::test]
async fn the_statements_read_and_mark_what_they_say() {
    let inbox = Inbox { db: pool(&loaded().await), sql: blocks("sql", "--") };
    let (count, unread) = inbox.unread().await;
    assert_eq!((count, &unread), (40, &inbox.all("read_at IS NULL").await));
    let pages = inbox.all("archived_at IS NULL").await;
    assert_eq!(pages.len(), 80);
    for size in [1, 7, 20, 80, 1000] {
        assert_eq!(inbox.pages(size).await, pages, "pages of {size}");
    }

    let unseen = inbox.all("seen_at IS NULL").await;
    assert_eq!(inbox.mark("mark seen", "user-8", &unseen).await, 0, "rows of others stay untouched");
    assert_eq!(inbox.mark("mark seen", Inbox::USER, &unseen[..5]).await, 5);
    assert_eq!(inbox.mark("mark seen", Inbox::USER, &unseen[..6]).await, 1, "once only");
    assert_eq!(inbox.unread().await.0, 40, "seen is not read");

    assert_eq!(inbox.mark("mark read", Inbox::USER, &unread[..3]).await, 3);
    assert_eq!(inbox.mark("mark read", Inbox::USER, &unread[..3]).await, 0);
    assert_eq!(inbox.unread().await.1, unread[3..]);
    assert_eq!(inbox.mark("archive", Inbox::USER, &unread[2..4]).await, 2);
    assert_eq!(inbox.unread().await.1, unread[4..], "archiving implies reading");
    assert_eq!(inbox.pages(9).await.len(), 78);
    assert_eq!(inbox.all("read_at IS NOT NULL AND seen_at IS NULL").await, []);
    assert_eq!(inbox.all("archived_at IS NOT NULL AND read_at IS NULL").await, []);

    let shown = unread[10].0;
    let all_read = inbox.query("mark all read").bind(Inbox::USER).bind(shown);
    all_read.execute(&inbox.db).await.unwrap();
    let later = unread[4..].iter().filter(|(created_at, _)| *created_at > shown);
    assert_eq!(inbox.unread().await.1, later.cloned().collect::<Vec<_>>());

    sqlx::raw_sql("UPDATE notifications SET read_at = NULL, user_id = 'user-7' WHERE user_id IN ('user-7', 'user-8')")
        .execute(&inbox.db)
        .await
        .unwrap();
    assert_eq!(inbox.unread().await.0, 100, "the count stops at 100");
    inbox.query("delete of a user").bind(Inbox::USER).execute(&inbox.db).await.unwrap();
    assert_eq!(inbox.pages(10).await, []);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM notifications").fetch_one(&inbox.db).await.unwrap();
    assert_eq!(left, 49_800);
}

#[tokio::test]
async fn a_subscription_follows_its_browser() {
    let world = World::new().await;
    let inbox = Inbox { db: world.db.clone(), sql: blocks("sql", "--") };
    world.sql("DELETE FROM push_subscriptions").await;
    let browser = world.push.subscribe("browser");
    for user in ["ana", "ana", "ben"] {
        let subscribe = inbox.query("subscribe").bind(user).bind(&browser.endpoint);
        subscribe.bind(&browser.p256dh).bind(&browser.auth).execute(&world.db).await.unwrap();
    }
    assert_eq!(world.count("SELECT count(*) FROM push_subscriptions").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM push_subscriptions WHERE user_id = 'ben'").await, 1);
    let worker = Worker::start(&world);
    let body = json!({ "recipients": [{ "userId": "ana" }, { "userId": "ben" }], "title": "Hello" });
    world.publish_json("jobs.notification.normal", "hello", &body).await;
    world.push.wait_for(1, LIMIT).await.unwrap();
    let ledger = world.ledger("hello").await;
    let found = ledger.iter().map(|line| (line.user_id.as_str(), line.state.as_str(), line.reason.as_deref()));
    assert_eq!(sorted(found.collect()), [("ana", "skipped", Some("no_subscription")), ("ben", "sent", None)]);
    worker.stop().await;

    for (user, left) in [("ana", 1), ("ben", 0)] {
        inbox.query("unsubscribe").bind(user).bind(&browser.endpoint).execute(&world.db).await.unwrap();
        assert_eq!(world.count("SELECT count(*) FROM push_subscriptions").await, left);
    }
}

/// A browser that records what the service worker does.
const BROWSER: &str = "
    const handlers = {}, did = {};
    globalThis.self = {
        addEventListener: (name, handler) => { handlers[name] = handler; },
        registration: { showNotification: async (...shown) => { did.shown = shown; } },
        clients: { openWindow: async (url) => { did.opened = url; } },
    };
    const BEGIN = () => {
        const waitUntil = () => {};
        const data = { json: () => JSON.parse(process.argv[1]) };
        handlers.push({ data, waitUntil });
        const notification = { close: () => { did.closed = true; }, data: did.shown[1].data };
        handlers.notificationclick({ notification, waitUntil });
        console.log(JSON.stringify(did));
    };
";

#[tokio::test]
async fn the_service_worker_shows_a_push_and_opens_its_link() {
    let Some(node) = Node::find() else { return };
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.remind("dose-1").await;
    let push = world.push.wait_for(1, LIMIT).await.unwrap()[0].json();
    worker.stop().await;

    let js = blocks("js", "//");
    let program = format!("{BROWSER}\n{}\n{}\nBEGIN();", js["in the page"], js["service-worker.js"]);
    let output = node.evaluate(&program, &[&push.to_string()]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let did: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(did["shown"][0], "💊 Medication Reminder");
    assert_eq!(did["shown"][1]["body"], "Time to give Metformin (500 mg) to Rose");
    for field in ["icon", "badge", "tag"] {
        assert_eq!(did["shown"][1][field], push[field]);
    }
    assert_eq!((&did["closed"], &did["opened"]), (&json!(true), &json!("/medications?id=metformin")));

    // The document's example is a shortened push.
    let example = doc().split("\n```json\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    let mut example: Value = serde_json::from_str(&example).unwrap();
    let of_this_dose = |tag: &Value| tag.as_str().unwrap().starts_with("medication-metformin-");
    assert!(of_this_dose(&push["tag"]) && of_this_dose(&example["tag"]));
    example["tag"] = push["tag"].clone();
    contains(&push, &example);
}

fn contains(whole: &Value, part: &Value) {
    match part {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| contains(&whole[name], value)),
        value => assert_eq!(whole, value),
    }
}
