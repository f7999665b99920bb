//! People and producers see how far a task is and what came of it, and cancel it. Each with their own permissions.

use carebell::{admin::access::Role, store::RunLine};
use reqwest::StatusCode;
use serde_json::json;

use super::site::{Options, Site};
use crate::{
    cli::carebell,
    support::{
        Console, Door, World,
        endpoint::{Does, answer},
        peek, store,
    },
};

/// The gateway, for an application that may publish the kind.
async fn door(world: &World) -> Door {
    let token = Door::token(world, "labs", &["--kinds", "notification"], &[]).await;
    world.sql("UPDATE gateway_tokens SET kinds = '{search.*}'").await;
    Door::with_token(world, &[], token).await
}

#[tokio::test]
async fn progress_and_result_are_shown_to_people_and_to_the_producer() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    let door = door(&world).await;
    let console = Console::start(&world).await;
    let cookie = console.sign_in(&console.token("vera", Role::Viewer).await).await;
    site.endpoint.next("lab", [answer(202, "")]);
    site.publish("lab", &json!({})).await;
    let token = site.accepted("lab", 1).await;
    site.report("lab", "progress", &token, r#"{"percent": 60, "note": "3 of 5"}"#).await;
    let of = async || world.runs("lab").await.remove("search.index").unwrap();
    let run: RunLine = world
        .eventually("the progress is on record", async || {
            Some(of().await).filter(|run| run.task.as_ref().is_some_and(|task| task.percent.is_some()))
        })
        .await;
    assert_eq!(run.task.unwrap().note.as_deref(), Some("3 of 5"));
    let (well, said, error) = carebell(&world, &["jobs", "show", "lab"], &[]).await;
    assert!(well && said.contains("its task is accepted") && said.contains("60 %: 3 of 5"), "{said}{error}");
    let seen = door.get("/v1/jobs/lab").await.body;
    assert_eq!(
        (&seen["state"], &seen["percent"], &seen["note"]),
        (&json!("running"), &json!(60), &json!("3 of 5")),
        "{seen}"
    );
    let (status, page) = console.page("/console/jobs/lab", &cookie).await;
    assert!(status == StatusCode::OK && page.contains("60 %") && page.contains("3 of 5"), "{page}");

    let asked = door.delete("lab").await;
    assert_eq!((asked.status, &asked.body["cancelled"]), (StatusCode::ACCEPTED, &json!(false)));
    let (_, said, _) = carebell(&world, &["jobs", "show", "lab"], &[]).await;
    assert!(said.contains("cancellation asked for at"), "{said}");
    site.report("lab", "done", &token, r#"{"result": {"value": 7}}"#).await;
    assert_eq!(world.ended("lab").await, ("done".into(), None));
    let seen = door.get("/v1/jobs/lab").await.body;
    assert_eq!(
        (&seen["state"], &seen["ended"], &seen["result"]),
        (&json!("done"), &json!(true), &json!({ "value": 7 }))
    );
    let (_, said, _) = carebell(&world, &["jobs", "show", "lab"], &[]).await;
    assert!(said.contains(r#"result {"value":7}"#), "{said}");
    let (_, page) = console.page("/console/jobs/lab", &cookie).await;
    assert!(page.contains("Result:"), "{page}");
    assert_eq!(door.delete("lab").await.status, StatusCode::CONFLICT);
    let (well, _, error) = carebell(&world, &["jobs", "cancel", "lab", "--by", "olga"], &[]).await;
    assert!(!well && error.contains("job lab has already run: done"), "{error}");
    site.stop().await;
}

#[tokio::test]
async fn people_and_producers_cancel_what_is_parked_at_once_and_ask_what_is_under_way() {
    let world = World::new().await;
    let site = Site::start(&world, Options { attempts: 10, ..Options::default() }).await;
    let door = door(&world).await;
    let busy = || Does::Answer(429, vec![("retry-after", "600".into())], String::new());
    for job in ["one", "two"] {
        site.endpoint.next(job, [busy()]);
        site.publish(job, &json!({})).await;
    }
    site.endpoint.always("runs", Does::Hangs);
    site.publish("runs", &json!({})).await;
    let waits = "SELECT count(*) FROM job_runs WHERE reason = 'retry_later'";
    world.eventually("two wait", async || (world.count(waits).await == 2).then_some(())).await;
    world
        .eventually("two are parked", async || (peek(&world.context, "HOLD", "hold.>").await == 2).then_some(()))
        .await;
    let (well, said, error) = carebell(&world, &["jobs", "cancel", "one", "--by", "olga"], &[]).await;
    assert!(well && said.contains("job one is cancelled"), "{said}{error}");
    assert_eq!(world.ended("one").await, ("skipped".into(), Some("cancelled".into())));
    assert_eq!(door.delete("two").await.status, StatusCode::OK);
    assert_eq!(world.ended("two").await, ("skipped".into(), Some("cancelled".into())));
    let (well, said, error) = carebell(&world, &["jobs", "cancel", "runs", "--by", "olga"], &[]).await;
    assert!(well && said.contains("job runs may be under way"), "{said}{error}");
    assert_eq!(world.ended("runs").await, ("skipped".into(), Some("cancelled".into())), "before its next attempt");
    assert!(site.endpoint.posted("runs").len() < 10);
    let acts = "SELECT count(*) FROM audit_log WHERE action = 'job.cancelled'";
    assert_eq!(world.count(acts).await, 3);
    site.stop().await;
}

#[tokio::test]
async fn a_worker_carries_out_tasks_with_the_permissions_of_a_worker() {
    let world = World::new().await;
    let role = world.role_with("worker").await;
    let mut site = Site::without_worker(&world, Options { in_flight: Some(5), ..Options::later() }).await;
    let limited = store(&role.url, 4);
    site.work_as(&limited).await;
    site.endpoint.next("lab", [answer(202, "")]);
    site.publish("lab", &json!({})).await;
    let token = site.accepted("lab", 1).await;
    assert_eq!(site.report("lab", "progress", &token, r#"{"percent": 5}"#).await.0, 200);
    let percent = "SELECT COALESCE(percent, 0)::bigint FROM job_tasks";
    world.eventually("the progress is on record", async || (world.count(percent).await == 5).then_some(())).await;
    assert_eq!(site.report("lab", "done", &token, "").await.0, 200);
    assert_eq!(world.ended("lab").await, ("done".into(), None));
    let open = "SELECT count(*) FROM job_tasks WHERE open";
    world.eventually("its row is closed", async || (world.count(open).await == 0).then_some(())).await;
    site.stop().await;
    limited.close().await;
    role.drop(&world).await;
}
