//! Cancellations of tasks: those that wait end at once; those under way are asked to.

use carebell::{
    declared::Mode,
    store::{AuditEntry, TaskCancel, WaitingRun},
};
use serde_json::json;

use super::site::{Options, Site};
use crate::support::{
    World,
    endpoint::{Does, answer},
    utc_now,
};

async fn cancel(world: &World, job: &str, waits: bool) -> TaskCancel {
    let act = AuditEntry {
        at: utc_now(),
        actor: "ops".into(),
        action: "job.cancelled".into(),
        job_id: Some(job.into()),
        root_id: Some(job.into()),
        detail: json!({}),
    };
    world.store.cancel_task(&WaitingRun::root(job), waits, false, &act).await.unwrap()
}

#[tokio::test]
async fn an_accepted_task_is_told_of_its_cancellation_and_ends_when_it_says_so() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    site.endpoint.next("stops", [answer(202, "")]);
    site.publish("stops", &json!({})).await;
    let token = site.accepted("stops", 1).await;
    assert_eq!(cancel(&world, "stops", true).await, TaskCancel::Asked);
    let (_, said) = site.report("stops", "progress", &token, r#"{"percent": 10}"#).await;
    assert_eq!(said["cancel"], json!(true));
    let told = world
        .eventually("the endpoint is told", async || {
            site.endpoint.posted("stops").into_iter().find(|posted| posted.path == "/jobs/cancel")
        })
        .await;
    assert_ne!(told.header("webhook-id"), site.endpoint.posted("stops")[0].header("webhook-id"));
    assert_eq!(world.runs("stops").await["search.index"].state, "open", "its endpoint has not confirmed it");
    assert_eq!(site.report("stops", "failed", &token, r#"{"outcome": "cancelled"}"#).await.0, 200);
    assert_eq!(world.ended("stops").await, ("skipped".into(), Some("cancelled".into())));
    assert_eq!(cancel(&world, "stops", true).await, TaskCancel::Over("skipped".into(), Some("cancelled".into())));
    site.stop().await;
}

#[tokio::test]
async fn an_endpoint_confirms_a_cancellation_in_its_answer() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    site.endpoint.next("stops", [answer(202, "")]);
    let confirms = Does::Answer(204, vec![("carebell-outcome", "cancelled".into())], String::new());
    site.endpoint.next("stops cancel", [confirms]);
    site.publish("stops", &json!({})).await;
    site.accepted("stops", 1).await;
    assert_eq!(cancel(&world, "stops", true).await, TaskCancel::Asked);
    assert_eq!(world.ended("stops").await, ("skipped".into(), Some("cancelled".into())));
    site.stop().await;
}

#[tokio::test]
async fn a_completion_before_the_confirmation_wins() {
    let world = World::new().await;
    let site = Site::start(&world, Options::later()).await;
    site.endpoint.next("wins", [answer(202, "")]);
    site.publish("wins", &json!({})).await;
    let token = site.accepted("wins", 1).await;
    assert_eq!(cancel(&world, "wins", true).await, TaskCancel::Asked);
    assert_eq!(site.report("wins", "done", &token, r#"{"result": 7}"#).await.0, 200);
    assert_eq!(world.ended("wins").await, ("done".into(), None));
    assert_eq!(site.report("wins", "failed", &token, r#"{"outcome": "cancelled"}"#).await.0, 410);
    site.stop().await;
}

#[tokio::test]
async fn a_running_job_that_answers_at_once_is_cancelled_before_its_next_attempt() {
    let world = World::with_overrides("*.backoff=fixed 1s,*.jitter=0%,*.ack_wait=5s").await;
    for (job, wanted) in [("fails", ("skipped", Some("cancelled"))), ("succeeds", ("done", None))] {
        let site = Site::start(&world, Options { mode: Mode::Sync, ..Options::default() }).await;
        let last = if job == "fails" { answer(500, "") } else { answer(200, "{}") };
        site.endpoint.always(job, last);
        site.endpoint.next(job, [answer(500, "")]);
        site.publish(job, &json!({})).await;
        if job == "fails" {
            let failed = "SELECT count(*) FROM job_runs WHERE job_id = 'fails' AND attempts = 1";
            world.eventually("it has failed once", async || (world.count(failed).await == 1).then_some(())).await;
            assert_eq!(cancel(&world, job, false).await, TaskCancel::Asked);
        }
        let (state, reason) = world.ended(job).await;
        assert_eq!((state.as_str(), reason.as_deref()), wanted);
        if job == "fails" {
            assert_eq!(site.endpoint.posted(job).len(), 1, "it is not asked again");
        }
        site.stop().await;
    }
}

#[tokio::test]
async fn a_parked_task_is_cancelled_at_once_and_never_sent_again() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    let busy = Does::Answer(429, vec![("retry-after", "2".into())], String::new());
    site.endpoint.next("waits", [busy]);
    site.publish("waits", &json!({})).await;
    let waits = "SELECT count(*) FROM job_runs WHERE job_id = 'waits' AND reason = 'retry_later'";
    world.eventually("it waits", async || (world.count(waits).await == 1).then_some(())).await;
    assert_eq!(cancel(&world, "waits", true).await, TaskCancel::Ended);
    assert_eq!(world.ended("waits").await, ("skipped".into(), Some("cancelled".into())));
    world.queues_are_empty().await;
    assert_eq!(site.endpoint.posted("waits").len(), 1);
    site.stop().await;
}
