//! The console in a real browser.

use carebell::{admin::access::Role, dev::push_service::Behaviour};
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{ADMIN_TOKEN, Browser, Console, Settings, Worker, World, utc_now};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";

/// A world with something of each kind to see.
async fn lived_in() -> (World, Worker, Console) {
    let world = World::new().await;
    let worker = Worker::start(&world);
    world.remind("dose-1").await;
    world.everyone_has_it_once("dose-1").await;
    let later = (utc_now() + TimeDelta::hours(3)).to_rfc3339();
    let delayed = [("Carebell-Job-Id", "tomorrow"), ("Carebell-At", &*later), ("Content-Type", "application/json")];
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish("jobs.later.notification.normal", &delayed, news.to_string()).await;
    world.publish("jobs.notification.normal", &[("Carebell-Job-Id", "broken")], "not protobuf").await;
    world.dead_letters_once(1).await;
    world
        .eventually("it is noted", async || {
            (world.count("SELECT count(*) FROM delayed_jobs WHERE state = 'waiting'").await == 1).then_some(())
        })
        .await;
    let console = Console::start(&world).await;
    (world, worker, console)
}

const PAGES: [(&str, &str, &str); 24] = [
    ("overview", "/console", "Overview"),
    ("jobs", "/console/jobs", "Jobs"),
    ("jobs-failed", "/console/jobs?status=failed&since=1h", "Jobs"),
    ("jobs-active", "/console/jobs?status=active", "Jobs"),
    ("people", "/console/people", "People"),
    ("person", "/console/people/ana?since=1h", "Person ana"),
    ("providers", "/console/providers", "Providers"),
    ("api", "/console/api", "API"),
    ("due", "/console/due", "Due in the next hour"),
    ("job", "/console/jobs/dose-1", "Job dose-1"),
    ("queues", "/console/queues", "Queues"),
    ("queue", "/console/queues/notification_bulk", "Queue notification_bulk"),
    ("schedules", "/console/schedules", "Schedules"),
    ("schedule", "/console/schedules/carebell.prune", "Schedule carebell.prune"),
    ("schedule-new", "/console/new-schedule", "New schedule"),
    ("operations", "/console/operations", "Operations"),
    ("operation", "/console/operations/1", "Operation 1"),
    ("operation-new", "/console/new-operation?act=retry&status=dead", "New operation"),
    ("operation-refused", "/console/new-operation?act=cancel&status=done", "New operation"),
    ("publish", "/console/publish", "Publish a job"),
    ("audit", "/console/audit", "Audit"),
    ("delayed", "/console/delayed", "Delayed jobs"),
    ("dead-letters", "/console/dead-letters", "Dead letters"),
    ("dead-letter", "/console/dead-letters/1", "Dead letter 1"),
];

#[tokio::test]
async fn each_page_is_whole_in_light_and_dark_wide_and_narrow() {
    let (world, worker, console) = lived_in().await;
    world
        .sql(
            "INSERT INTO operations (act, filter, counted, reason, actor, state, done, skipped, failed, note, leased_until, \
             started_at, updated_at) VALUES ('retry', '{\"status\": [\"dead\"]}', 10, 'their outage is over', 'ana', \
             'running', 4, '{\"it has changed meanwhile\": 1}', '{\"no stream\": 1}', 'NATS: no answer', \
             now() + interval '1 hour', now(), now())",
        )
        .await;
    for is_dark in [false, true] {
        let Some(browser) = Browser::start(Settings { is_dark, ..Settings::default() }).await else { return };
        browser.open(&format!("{}/console/queues", console.url)).await;
        browser.write("#token", ADMIN_TOKEN).await;
        browser.picture(if is_dark { "sign-in-dark" } else { "sign-in" }).await;
        browser.press(ENTER).await;
        browser.shows("h1", "Queues").await;
        for (name, path, title) in PAGES {
            browser.open(&format!("{}{path}", console.url)).await;
            browser.shows("h1", title).await;
            for (form, width) in [("wide", 1200), ("narrow", 360)] {
                browser.resize(width, 900).await;
                assert!(!browser.overflows().await, "{path} is wider than {width}");
                assert_eq!(browser.findings().await, Vec::<String>::new(), "{path}, {form}, dark: {is_dark}");
                browser.picture(&format!("{name}-{form}{}", if is_dark { "-dark" } else { "" })).await;
            }
            assert_eq!(browser.complaints().await, Vec::<String>::new(), "{path}");
        }
        browser.run("document.querySelector('main').append(document.createElement('img'))").await;
        let found = browser.findings().await;
        assert!(found.iter().any(|finding| finding.contains("image-alt")), "the rules are at work: {found:?}");
        browser.close().await;
    }
    worker.stop().await;
}

/// At three in the morning.
#[tokio::test]
async fn a_failed_job_is_found_sent_back_and_seen_to_succeed() {
    let (world, worker, console) = lived_in().await;
    world.push.behave("ana", Behaviour::status(400));
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish_json("jobs.notification.normal", "refused", &news).await;
    world.dead_letters_once(2).await;
    let Some(browser) = Browser::start(Settings::default()).await else { return };
    browser.open(&format!("{}/console", console.url)).await;
    browser.write("#token", ADMIN_TOKEN).await;
    browser.press(ENTER).await;
    browser.shows(".verdict", "2 failed for good").await;
    browser.click("a[href='/console/dead-letters']").await;
    browser.click("a[href='/console/dead-letters/2']").await;
    browser.shows(".facts", "400").await;
    browser.picture("dead-letter-refused").await;

    browser.click("form[action$='/redrive'] button").await;
    browser.shows(".note", "The job is sent back to its queue.").await;
    browser.open(&format!("{}/console/jobs/refused", console.url)).await;
    browser.shows("#way", "All 1 deliveries were accepted.").await;
    browser.shows("#way", "dead_letter.redriven").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_failed_job_is_retried_on_its_page_and_seen_to_succeed_live() {
    let (world, worker, console) = lived_in().await;
    world.push.behave("ana", Behaviour::status(400));
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish_json("jobs.notification.normal", "refused", &news).await;
    world.dead_letters_once(2).await;
    let Some(browser) = Browser::start(Settings::default()).await else { return };
    browser.open(&format!("{}/console/jobs/refused", console.url)).await;
    browser.write("#token", ADMIN_TOKEN).await;
    browser.press(ENTER).await;
    browser.shows("h1", "Job refused").await;
    browser.shows("#choices", "dead letter: it would run now.").await;
    assert_eq!(browser.findings().await, Vec::<String>::new());
    browser.picture("job-refused").await;
    browser.click("#choices form[action$='/retry'] button").await;
    browser.shows(".note", "The job is tried again.").await;
    // The page is not loaded again.
    browser.shows("#way", "All 1 deliveries were accepted.").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
    worker.stop().await;
}

/// Without scripts, so that each step is a page.
#[tokio::test]
async fn an_operation_is_looked_at_confirmed_and_cancelled_in_the_middle() {
    const DEAD: usize = 60;
    let (world, worker, console) = lived_in().await;
    world.push.behave_always("ana", Some(Behaviour::status(400)));
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    for number in 0..DEAD {
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &news).await;
    }
    world.dead_letters_once(1 + DEAD).await;
    // The second batch waits for these rows.
    let mut blocking = world.db.begin().await.unwrap();
    let last = "SELECT id FROM deliveries WHERE state = 'dead' ORDER BY updated_at DESC LIMIT 5 FOR UPDATE";
    sqlx::query(last).execute(&mut *blocking).await.unwrap();
    let Some(browser) = Browser::start(Settings { without_scripts: true, ..Settings::default() }).await else { return };
    browser.open(&format!("{}/console/dead-letters", console.url)).await;
    browser.write("#token", ADMIN_TOKEN).await;
    browser.press(ENTER).await;
    browser.click("a[href='/console/new-operation?act=retry&status=dead']").await;
    browser.click("option[value=permanent]").await;
    browser.click("form.filters button").await;
    browser.shows(".card h2", "60 jobs").await;
    browser.shows(".card", "it would run now").await;
    browser.picture("operation-preview").await;
    browser.write("input[name=reason]", "their outage is over").await;
    browser.click(".card form button").await;
    browser.shows(".note", "The operation has begun.").await;
    world
        .eventually("a part is done", async || (world.count("SELECT done FROM operations").await == 50).then_some(()))
        .await;
    browser.open(&format!("{}/console/operations/1", console.url)).await;
    browser.shows(".facts", "50 of 60 done").await;
    browser.picture("operation-running").await;
    browser.click("form[action$='/cancel'] button").await;
    browser.shows(".note", "The operation is cancelled.").await;
    browser.shows(".facts", "cancelled").await;
    blocking.rollback().await.unwrap();
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_queue_is_paused_and_resumed() {
    let (world, worker, console) = lived_in().await;
    let Some(browser) = Browser::start(Settings::default()).await else { return };
    browser.open(&format!("{}/console/queues/notification_bulk", console.url)).await;
    browser.write("#token", ADMIN_TOKEN).await;
    browser.press(ENTER).await;
    browser.write("input[name=reason]", "wrong text").await;
    browser.click("option[value='']").await;
    browser.click("form[action$='/pause'] button").await;
    browser
        .shows(".note.warn", "ADMIN_TOKEN has paused the queue notification_bulk: wrong text. It has to be resumed.")
        .await;
    browser.picture("queue-paused").await;
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world
        .eventually("the worker knows it", async || {
            world.publish_json("jobs.notification.bulk", "held", &news).await;
            let queue = console.get("/queues/notification_bulk").await;
            (queue.body["waiting"].as_u64() > Some(0) && queue.body["pulls"] == 0).then_some(())
        })
        .await;
    browser.open(&format!("{}/console", console.url)).await;
    browser.shows(".verdict", "ADMIN_TOKEN has paused the queue notification_bulk (wrong text)").await;
    browser.open(&format!("{}/console/queues/notification_bulk", console.url)).await;
    browser.click("form[action$='/resume'] button").await;
    browser.shows(".note", "It is resumed.").await;
    assert_eq!(world.ledger("held").await[0].state, "sent");
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn pages_are_kept_current() {
    let (world, worker, console) = lived_in().await;
    let Some(browser) = Browser::start(Settings::default()).await else { return };
    browser.open(&format!("{}/console", console.url)).await;
    browser.write("#token", ADMIN_TOKEN).await;
    browser.press(ENTER).await;
    browser.shows(".verdict", "1 failed for good").await;
    world.publish("jobs.notification.normal", &[("Carebell-Job-Id", "broken-2")], "not protobuf").await;
    world.dead_letters_once(2).await;
    browser.shows(".verdict", "2 failed for good").await;
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn without_scripts_and_by_keyboard_alone_all_is_reached() {
    let (_world, worker, console) = lived_in().await;
    let Some(browser) = Browser::start(Settings { without_scripts: true, ..Settings::default() }).await else { return };
    browser.open(&format!("{}/console", console.url)).await;
    browser.write("#token", ADMIN_TOKEN).await;
    browser.press(ENTER).await;
    browser.shows("h1", "Overview").await;
    // Skip link, brand, then overview, jobs, queues, delayed.
    browser.press(&TAB.repeat(6)).await;
    browser.press(ENTER).await;
    browser.shows("h1", "Delayed jobs").await;
    browser.shows("tbody th", "tomorrow").await;
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn texts_of_strangers_are_shown_as_text() {
    let (world, worker, console) = lived_in().await;
    let cookie = console.sign_in(ADMIN_TOKEN).await;
    let subject = "jobs.notification.normal";
    world.publish(subject, &[("Carebell-Job-Id", "<img src=x onerror=alert(1)>")], "x").await;
    world.dead_letters_once(2).await;
    let (status, page) = console.page("/console/dead-letters", &cookie).await;
    assert!(status == StatusCode::OK && !page.contains("<img"), "{page}");
    let (status, _) = console.page("/console/dead-letters/99", &cookie).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    worker.stop().await;
}

#[tokio::test]
async fn acts_need_their_role_and_leave_their_record() {
    let (world, worker, console) = lived_in().await;
    let viewer = console.sign_in(&console.token("vera", Role::Viewer).await).await;
    let operator = console.sign_in(&console.token("otto", Role::Operator).await).await;
    let (_, page) = console.page("/console/dead-letters/1", &viewer).await;
    assert!(!page.contains("Discard for good"), "{page}");
    let discard = "/console/dead-letters/1/discard";
    let act = async |path: &str, cookie: &str, fields: &[(&str, &str)]| {
        console.submit(path, cookie, fields).send().await.unwrap().status()
    };
    assert_eq!(act(discard, &viewer, &[("why", "x")]).await, StatusCode::FORBIDDEN);
    assert_eq!(act(discard, &operator, &[("why", " ")]).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(act(discard, &operator, &[("why", "by mistake")]).await, StatusCode::SEE_OTHER);
    assert_eq!(act(discard, &operator, &[("why", "again")]).await, StatusCode::NOT_FOUND);
    let (_, page) = console.page("/console/dead-letters/1", &operator).await;
    assert!(page.contains("it was discarded by otto"), "{page}");

    let schedule = "/console/schedules/carebell.prune";
    assert_eq!(act(&format!("{schedule}/pause"), &viewer, &[]).await, StatusCode::FORBIDDEN);
    for (act_of, shown) in [("pause", "It is paused."), ("resume", "It is resumed.")] {
        assert_eq!(act(&format!("{schedule}/{act_of}"), &operator, &[]).await, StatusCode::SEE_OTHER);
        let (_, page) = console.page(&format!("{schedule}?done={act_of}d"), &operator).await;
        assert!(page.contains(shown), "{page}");
    }
    assert_eq!(act(&format!("{schedule}/delete"), &operator, &[]).await, StatusCode::SEE_OTHER);
    assert_eq!(console.page(schedule, &operator).await.0, StatusCode::NOT_FOUND);
    let pause = "/console/queues/notification_bulk/pause";
    assert_eq!(act(pause, &operator, &[("reason", "x"), ("hours", "-1")]).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(act(pause, &operator, &[("reason", ""), ("hours", "1")]).await, StatusCode::UNPROCESSABLE_ENTITY);
    let (_, page) = console.page("/console/audit?actor=otto", &operator).await;
    assert!(page.contains("schedule.deleted") && !page.contains("token.added"), "{page}");
    assert_eq!(console.page("/console/audit", &viewer).await.0, StatusCode::FORBIDDEN);

    assert_eq!(act("/console/jobs/tomorrow/cancel", &viewer, &[]).await, StatusCode::FORBIDDEN);
    assert_eq!(act("/console/jobs/tomorrow/cancel", &operator, &[]).await, StatusCode::SEE_OTHER);
    assert_eq!(act("/console/jobs/tomorrow/cancel", &operator, &[]).await, StatusCode::CONFLICT);
    let foreign = console.request(Method::POST, "/console/jobs/tomorrow/cancel").header("cookie", &operator);
    assert_eq!(foreign.header("origin", "https://evil.example").send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let acts = world.count("SELECT count(*) FROM audit_log WHERE actor = 'otto'").await;
    assert_eq!(acts, 6, "the sign-in too");
    worker.stop().await;
}

#[tokio::test]
async fn a_coordinator_sees_whether_somebody_was_told_without_scripts() {
    let (world, worker, console) = lived_in().await;
    world.sql("UPDATE notifications SET read_at = now() WHERE user_id = 'ana'").await;
    let coordinator = console.token("cora", Role::Coordinator).await;
    let Some(browser) = Browser::start(Settings { without_scripts: true, ..Settings::default() }).await else { return };
    browser.open(&format!("{}/console/people", console.url)).await;
    browser.write("#token", &coordinator).await;
    browser.press(ENTER).await;
    browser.write("input[name=id]", "ana").await;
    browser.press(ENTER).await;
    browser.shows("h1", "Person ana").await;
    browser.shows(".note.good", "told").await;
    browser.shows("tbody", "web_push").await;
    browser.click("a[href='/console/jobs?user=ana']").await;
    browser.shows("h1", "Jobs").await;
    browser.shows("tbody", "dose-1~notification").await;
    browser.click("option[value=failed]").await;
    browser.click("form.filters button").await;
    browser.shows(".table", "No such jobs are on record.").await;
    let looks = world.count("SELECT count(*) FROM audit_log WHERE action = 'person.viewed' AND actor = 'cora'").await;
    assert_eq!(looks, 3);
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn numbers_lead_to_what_they_count_and_the_chart_has_its_table() {
    let (world, worker, console) = lived_in().await;
    let Some(browser) = Browser::start(Settings::default()).await else { return };
    world
        .eventually("the worker counts", async || {
            (world.count("SELECT count(*) FROM outcome_counts WHERE outcome = 'dead'").await > 0).then_some(())
        })
        .await;
    world.sql("UPDATE outcome_counts SET minute = minute - interval '1 minute'").await;
    browser.open(&format!("{}/console", console.url)).await;
    browser.write("#token", ADMIN_TOKEN).await;
    browser.press(ENTER).await;
    browser.shows("#workers", "up for").await;
    browser.shows(".chart figcaption", "Jobs that ended in the last hour").await;
    browser.click(".chart summary").await;
    browser.shows(".chart details", "Completed").await;
    browser.click("a[href='/console/jobs?status=failed&since=24h']").await;
    browser.shows("h1", "Jobs").await;
    browser.shows("tbody", "broken").await;
    browser.open(&format!("{}/console/queues/notification_normal", console.url)).await;
    browser.click("a[href='/console/jobs?queue=notification_normal&status=dead&since=1h']").await;
    browser.shows("tbody th", "broken").await;
    browser.open(&format!("{}/console/queues", console.url)).await;
    browser.click("a[href='/console/jobs?status=waiting&queue=notification_normal']").await;
    browser.shows("h1", "Jobs").await;
    browser.open(&format!("{}/console/providers", console.url)).await;
    browser.click("a[href='/console/jobs?kind=deliver.web_push&status=completed&since=1h']").await;
    browser.shows("tbody", "deliver_web_push_critical").await;
    world.publish_json("jobs.notification.normal", "broken-2", &json!({ "title": 3 })).await;
    world.dead_letters_once(2).await;
    browser.open(&format!("{}/console/dead-letters", console.url)).await;
    browser.click("section td a[href*='error=']").await;
    browser.shows("main", "Those of the newest that died of undecodable.").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.close().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_viewer_meets_no_people_and_odd_values_are_shown_as_text() {
    let (world, worker, console) = lived_in().await;
    let viewer = console.sign_in(&console.token("vera", Role::Viewer).await).await;
    let admin = console.sign_in(ADMIN_TOKEN).await;
    for path in ["/console/people", "/console/people/ana", "/console/jobs?user=ana"] {
        assert_eq!(console.page(path, &viewer).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    let (_, page) = console.page("/console/jobs", &viewer).await;
    assert!(!page.contains("/console/people") && !page.contains("name=\"user\""), "{page}");
    for path in ["/console/channels/pause", "/console/providers/x/resume"] {
        let act = console.submit(path, &viewer, &[("name", "email"), ("reason", "x"), ("hours", "")]).send().await;
        assert_eq!(act.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
    }
    let fields = |name| [("name", name), ("reason", "<script>alert(1)</script>"), ("hours", "1")];
    let paused = console.submit("/console/channels/pause", &admin, &fields("email")).send().await.unwrap();
    assert_eq!(paused.status(), StatusCode::SEE_OTHER);
    let (_, page) = console.page("/console/providers?done=paused", &viewer).await;
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>alert"), "{page}");
    let resumed = console.submit("/console/channels/email/resume", &admin, &[]).send().await.unwrap();
    assert_eq!(resumed.status(), StatusCode::SEE_OTHER);
    let markup = "%3Cimg%20src%3Dx%3E";
    for path in ["/console/jobs?status=", "/console/jobs?since=", "/console/jobs?cursor=", "/console/people/ana?job="] {
        let (status, page) = console.page(&format!("{path}{markup}"), &admin).await;
        assert!(status == StatusCode::UNPROCESSABLE_ENTITY && !page.contains("<img"), "{path}: {page}");
    }
    let (status, page) = console.page(&format!("/console/jobs?user={markup}"), &admin).await;
    assert!(status == StatusCode::OK && !page.contains("<img"), "{page}");
    world.sql("UPDATE job_runs SET reason = '<img src=x>' WHERE job_id = 'dose-1'").await;
    let (_, page) = console.page("/console/jobs", &admin).await;
    assert!(page.contains("&lt;img src=x&gt;") && !page.contains("<img"), "{page}");
    worker.stop().await;
}
