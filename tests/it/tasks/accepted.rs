//! Tasks that their endpoints accept, and end later.

use std::time::Duration;

use serde_json::json;

use super::site::{Options, Site};
use crate::support::{
    World,
    endpoint::{Does, answer},
};

#[tokio::test]
async fn an_accepted_task_reports_progress_and_ends_once() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    for job in ["slow", "other"] {
        site.endpoint.next(job, [answer(202, "")]);
        site.publish(job, &json!({ "patient": 7 })).await;
    }
    let token = site.accepted("slow", 1).await;
    let others = site.accepted("other", 1).await;
    let posted = &site.endpoint.posted("slow")[0];
    assert_eq!((posted.header("prefer"), posted.header("carebell-timeout")), ("respond-async, wait=2", "60"));
    assert!(token.len() == 43 && token != others);
    let stored: Vec<Vec<Vec<u8>>> =
        sqlx::query_scalar("SELECT tokens FROM job_tasks").fetch_all(&world.db).await.unwrap();
    assert!(stored.iter().flatten().all(|hash| hash.len() == 32), "only hashes are kept");

    let (status, said) = site.report("slow", "progress", &token, r#"{"percent": 60, "note": "3 of 5"}"#).await;
    assert_eq!((status, &said["cancel"]), (200, &json!(false)));
    assert!(said["deadline"].is_string());
    let percent = "SELECT COALESCE(percent, 0)::bigint FROM job_tasks WHERE job_id = 'slow'";
    world.eventually("60 % are on record", async || (world.count(percent).await == 60).then_some(())).await;
    assert_eq!(site.report("slow", "progress", &token, r#"{"percent": 40, "note": "again"}"#).await.0, 200);
    let note = "SELECT count(*) FROM job_tasks WHERE job_id = 'slow' AND note = 'again'";
    world.eventually("the note is on record", async || (world.count(note).await == 1).then_some(())).await;
    assert_eq!(world.count(percent).await, 60, "40 % after 60 % are 60 %");

    for (what, token, body, expected) in [
        ("progress", "nonsense", "{}", 401),
        ("done", others.as_str(), "{}", 401),
        ("progress", &token, r#"{"percent": 101}"#, 422),
        ("done", &token, r#"{"reslt": 1}"#, 422),
        ("done", &token, r#"{"effects": [{"id": "a", "kind": "reminder.shift", "job": {}}]}"#, 422),
        ("failed", &token, r#"{"outcome": "perhaps"}"#, 422),
    ] {
        let (status, said) = site.report("slow", what, token, body).await;
        assert_eq!(status, expected, "{what} {body}: {said}");
    }
    let (_, said) =
        site.report("slow", "done", &token, r#"{"effects": [{"id": "a", "kind": "reminder.shift", "job": {}}]}"#).await;
    assert!(said["error"].as_str().unwrap().contains("effects[0].kind: the declaration of search.index"), "{said}");
    assert_eq!(site.report("slow", "done", &token, vec![b' '; 300_000]).await.0, 413);
    assert_eq!(site.report("no-such-job", "done", &token, "{}").await.0, 401);

    let told = json!({ "result": { "n": 5 }, "effects": [{ "id": "next", "kind": "search.index", "job": {} }] });
    site.endpoint.next("slow~next", [answer(204, "")]);
    let (status, said) = site.report("slow", "done", &token, told.to_string()).await;
    assert_eq!((status, &said["repeated"]), (200, &json!(false)));
    assert_eq!(world.ended("slow").await, ("done".into(), None));
    assert_eq!(world.ended("slow~next").await, ("done".into(), None));
    let (status, said) = site.report("slow", "done", &token, told.to_string()).await;
    assert_eq!((status, &said["repeated"]), (200, &json!(true)));
    assert_eq!(site.report("slow", "progress", &token, "{}").await.0, 410);
    assert_eq!(site.report("slow", "failed", &token, r#"{"outcome": "retry"}"#).await.0, 410);
    assert_eq!(site.endpoint.posted("slow").len(), 1, "it was asked once");
    assert_eq!(site.attempts("slow").await, 0);
    let result: serde_json::Value =
        sqlx::query_scalar("SELECT result FROM job_runs WHERE job_id = 'slow'").fetch_one(&world.db).await.unwrap();
    assert_eq!(result, json!({ "n": 5 }));
    site.report("other", "done", &others, "").await;
    assert_eq!(world.ended("other").await, ("done".into(), None));
    world.queues_are_empty().await;
    site.stop().await;
}

#[tokio::test]
async fn a_completion_before_the_202_is_read_is_committed_at_once() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    let told = r#"{"result": {"fast": true}}"#.to_owned();
    site.endpoint.next("fast", [Does::EndsBeforeItAnswers(site.desk(), told)]);
    site.publish("fast", &json!({})).await;
    assert_eq!(world.ended("fast").await, ("done".into(), None));
    assert_eq!(site.endpoint.posted("fast").len(), 1);
    world.queues_are_empty().await;
    site.stop().await;
}

#[tokio::test]
async fn an_accepted_task_without_a_sign_of_life_is_a_failed_attempt() {
    let world = World::new().await;
    let options = Options { heartbeat: Duration::from_secs(2), attempts: 2, ..Options::later() };
    let site = Site::start(&world, options).await;
    site.endpoint.always("silent", answer(202, ""));
    site.publish("silent", &json!({})).await;
    let first = site.accepted("silent", 1).await;
    let second = site.accepted("silent", 2).await;
    assert_eq!(site.report("silent", "done", &first, "{}").await.0, 409, "another attempt has begun");
    // Signs of life keep it.
    for _ in 0..3 {
        assert_eq!(site.report("silent", "progress", &second, "").await.0, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(site.endpoint.posted("silent").len(), 2);
    assert_eq!(world.ended("silent").await, ("dead".into(), Some("exhausted".into())));
    let error = site.error("silent").await;
    assert!(error.contains("gave no sign of life in time"), "{error}");
    assert_eq!(site.report("silent", "done", &second, "{}").await.0, 410);
    site.stop().await;
}

#[tokio::test]
async fn a_task_is_not_done_after_its_deadline() {
    let world = World::new().await;
    let short = Duration::from_secs(1);
    let site =
        Site::start(&world, Options { deadline: short, heartbeat: short, attempts: 1, ..Options::later() }).await;
    site.endpoint.next("late", [answer(202, "")]);
    site.publish("late", &json!({})).await;
    let token = site.accepted("late", 1).await;
    assert_eq!(world.ended("late").await, ("dead".into(), Some("exhausted".into())));
    assert!(site.error("late").await.contains("missed its deadline"));
    assert_eq!(site.report("late", "done", &token, "{}").await.0, 410);
    assert_eq!(world.ended("late").await.0, "dead");
    site.stop().await;
}

#[tokio::test]
async fn an_endpoint_ends_a_task_by_each_outcome() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    let cases = [
        (r#"{"outcome": "permanent", "error": "no such patient"}"#, ("dead", Some("permanent"))),
        (r#"{"outcome": "skipped"}"#, ("skipped", Some("not_needed"))),
        (r#"{"outcome": "cancelled"}"#, ("skipped", Some("cancelled"))),
        (r#"{"outcome": "retry"}"#, ("done", None)),
        (r#"{"outcome": "later", "after": 1}"#, ("done", None)),
    ];
    for (number, (report, _)) in cases.iter().enumerate() {
        let job = format!("ends-{number}");
        site.endpoint.next(&job, [answer(202, ""), answer(200, "{}")]);
        site.publish(&job, &json!({})).await;
        let token = site.accepted(&job, 1).await;
        assert_eq!(site.report(&job, "failed", &token, *report).await.0, 200);
    }
    for (number, (report, (state, reason))) in cases.iter().enumerate() {
        let expected = ((*state).to_owned(), reason.map(ToOwned::to_owned));
        assert_eq!(world.ended(&format!("ends-{number}")).await, expected, "{report}");
    }
    assert!(site.error("ends-0").await.contains("the endpoint reports: no such patient"));
    assert_eq!((site.attempts("ends-3").await, site.attempts("ends-4").await), (1, 0));
    site.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_still_at_it_keeps_its_token() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    let busy = Does::Answer(409, vec![("retry-after", "600".into())], String::new());
    site.endpoint.next("still", [busy]);
    site.publish("still", &json!({})).await;
    let waits = "SELECT count(*) FROM job_runs WHERE job_id = 'still' AND reason = 'retry_later'";
    world.eventually("it waits", async || (world.count(waits).await == 1).then_some(())).await;
    let token = site.endpoint.posted("still")[0].token().to_owned();
    assert_eq!(site.report("still", "done", &token, r#"{"result": 1}"#).await.0, 200);
    assert_eq!(world.ended("still").await, ("done".into(), None), "it is woken long before the ten minutes");
    assert_eq!(site.endpoint.posted("still").len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn no_more_tasks_are_open_than_may_be_and_the_others_wait_without_an_attempt() {
    let world = World::new().await;
    let site = Site::start(&world, Options { in_flight: Some(2), ..Options::later() }).await;
    for number in 0..5 {
        site.endpoint.next(&format!("task-{number}"), [answer(202, "")]);
        site.publish(&format!("task-{number}"), &json!({})).await;
    }
    let mut ended = 0;
    while ended < 5 {
        let open: Vec<String> = world
            .eventually("a task is accepted", async || {
                let jobs: Vec<String> = sqlx::query_scalar(
                    "SELECT t.job_id FROM job_tasks t JOIN job_runs r USING (job_id) \
                     WHERE t.open AND t.state = 'accepted' AND r.state = 'open'",
                )
                .fetch_all(&world.db)
                .await
                .unwrap();
                (!jobs.is_empty()).then_some(jobs)
            })
            .await;
        assert!(open.len() <= 2, "{open:?}");
        for job in open {
            let token = site.accepted(&job, 1).await;
            assert_eq!(site.report(&job, "done", &token, "").await.0, 200);
            assert_eq!(world.ended(&job).await, ("done".into(), None));
            ended += 1;
        }
    }
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0);
    site.stop().await;
}
