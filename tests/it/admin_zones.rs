//! Instants of reminders are shown on the care recipient's clocks too.

use serde_json::json;

use crate::support::{ADMIN_TOKEN, Console, Worker, World};

#[tokio::test]
async fn instants_of_reminders_have_the_care_recipient_s_zone_beside_the_viewer_s() {
    let world = World::new().await;
    world.sql("UPDATE care_recipients SET timezone = 'America/New_York'").await;
    let worker = Worker::start(&world);
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    // Its body says whose it is.
    world.publish_json("jobs.reminder.medication", "broken", &json!({ "medicationId": "metformin" })).await;
    world.publish_json("jobs.notification.normal", "other", &json!({ "title": 3 })).await;
    world.dead_letters_once(2).await;
    worker.stop().await;
    let own = "care~reminder.medication:metformin:2026-12-01T14:00:00Z:0";
    world.sql(&format!("UPDATE job_runs SET job_id = replace(job_id, 'dose', '{own}'), root_id = '{own}'")).await;
    world
        .sql(
            "INSERT INTO care_reminders (kind, record_id, instant, lead_minutes, due_at) VALUES \
             ('reminder.medication', 'metformin', now() + interval '20 min', 0, now() + interval '20 min')",
        )
        .await;
    let console = Console::start(&world).await;
    let cookie = console.sign_in(ADMIN_TOKEN).await;
    let job = format!("/console/jobs/{}", own.replace(':', "%3A").replace('~', "%7E"));
    let broken = if console.get("/dead-letters/1").await.body["job_id"] == "broken" { 1 } else { 2 };
    let (of_rose, of_nobody) =
        (format!("/console/dead-letters/{broken}"), format!("/console/dead-letters/{}", 3 - broken));
    let theirs = " America/New_York)";
    for path in ["/console/jobs", "/console/due", "/console/dead-letters", &*job, &*of_rose] {
        let (status, page) = console.page(path, &cookie).await;
        assert!(status.is_success() && page.contains(theirs) && page.contains(" UTC</time>"), "{path}: {page}");
    }
    let (_, page) = console.page(&of_nobody, &cookie).await;
    assert!(!page.contains(theirs), "{page}");

    let set = console.submit("/console/zone", &cookie, &[("zone", "America/New_York"), ("next", "/console")]);
    let zone =
        set.send().await.unwrap().headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (_, page) = console.page(&job, &format!("{cookie}; {zone}")).await;
    assert!(!page.contains(theirs) && page.contains(" EST</time>"), "not twice the same: {page}");

    // Without the care tables there are no zones, and the pages stay.
    world.sql("ALTER TABLE care_recipients RENAME TO somewhere_else").await;
    let (status, page) = console.page(&job, &cookie).await;
    assert!(status.is_success() && !page.contains(theirs), "{page}");
    assert!(console.page("/console/due", &cookie).await.0.is_success());
}
