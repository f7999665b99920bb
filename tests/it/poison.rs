//! Poison jobs, and healthy ones beside them in the same queue.

use carebell::{
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    pipeline::Registry,
    plan::Reason,
    wire,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use tokio::io::AsyncWriteExt;

use crate::support::{Custom, LIMIT, Process, World, peek, reminder, utc_now};

/// Replaces `reminder.medication`. The id selects the behaviour.
struct Poison {
    id: String,
}

impl Job for Poison {
    const KIND: Kind = Kind::reminder("reminder.medication");

    type Wire = wire::MedicationReminder;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        match wire.medication_id.as_str() {
            "unreadable" => Err(Invalid::new("medication_id", "is not to be read")),
            "panics-early" => panic!("while it is read"),
            _ => Ok(Self { id: wire.medication_id }),
        }
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + TimeDelta::hours(1)
    }

    async fn work(self, _cx: &Context) -> Result<Outcome, Failure> {
        match self.id.as_str() {
            "healthy" => Ok(Outcome::Skipped(Reason::Gone)),
            "permanent" => Err(Failure::permanent("no way")),
            "panics" => panic!("while it works"),
            _ => Err(Failure::retry("no luck")),
        }
    }
}

const KINDS_OF_POISON: [(&str, &str); 5] = [
    ("unreadable", "undecodable"),
    ("panics-early", "undecodable"),
    ("permanent", "permanent"),
    ("panics", "exhausted"),
    ("fails", "exhausted"),
];

#[tokio::test]
async fn a_flood_of_poison_harms_no_healthy_job_of_its_queue() {
    const EACH: usize = 40;
    let world = World::new().await;
    let publish = async |what: &str, number: usize| {
        let body = reminder(what, utc_now());
        world.publish_json("jobs.reminder.medication", &format!("{what}-{number}"), &body).await;
    };
    // Ahead of all healthy jobs, and among them.
    join_all((0..EACH).flat_map(|number| KINDS_OF_POISON.map(|(what, _)| publish(what, number)))).await;
    for number in 0..EACH {
        publish("healthy", number).await;
        join_all(KINDS_OF_POISON.map(|(what, _)| publish(what, EACH + number))).await;
    }
    let pipeline = Custom::start(&world, Registry::default().with::<Poison>());
    for number in 0..EACH {
        assert_eq!(world.ended(&format!("healthy-{number}")).await.0, "skipped");
    }
    let all = KINDS_OF_POISON.len() * 2 * EACH;
    let letters = world.dead_letters_once(all).await;
    world.queues_are_empty().await;
    assert_eq!(world.dead_letters().await.len(), all, "one for each");
    for (what, reason) in KINDS_OF_POISON {
        let id = |number: usize| format!("{what}-{number}");
        for id in (0..2 * EACH).map(id) {
            let of_it = letters.iter().filter(|(_, headers, _)| headers.get("Carebell-Job-Id").unwrap().as_str() == id);
            let reasons: Vec<&str> =
                of_it.map(|(_, headers, _)| headers.get("Carebell-Dead-Reason").unwrap().as_str()).collect();
            assert_eq!(reasons, [reason], "{id}");
        }
    }
    let healthy = "SELECT count(*) FROM job_runs WHERE job_id LIKE 'healthy-%' AND attempts = 0 AND state = 'skipped'";
    assert_eq!(world.count(healthy).await, i64::try_from(EACH).unwrap());
    pipeline.stop().await;
}

/// This header ends every NATS client. The worker cannot catch it.
async fn publish_killer(world: &World) {
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", world.nats.port())).await.unwrap();
    let header = "NATS/1.0\r\nX-Note: a\rb\r\n\r\n";
    let publish = format!(
        "CONNECT {{\"headers\":true,\"verbose\":false}}\r\nHPUB jobs.reminder.medication {0} {0}\r\n{header}\r\nPING\r\n",
        header.len()
    );
    connection.write_all(publish.as_bytes()).await.unwrap();
    let stored = async || (peek(&world.context, "JOBS", "jobs.reminder.medication").await == 1).then_some(());
    world.eventually("the killer is in the queue", stored).await;
}

#[tokio::test]
async fn a_message_that_ends_each_worker_is_buried_without_any_other_job_and_healthy_ones_get_through() {
    // The fewest deliveries possible: one attempt, and ten for lost workers.
    let policy = "*.attempts=1,*.max_attempts=1,*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s";
    let world = World::with_overrides(policy).await;
    publish_killer(&world).await;
    let mut workers: Vec<Process> = (0..2).map(|_| Process::worker(&world, &[]).may_end()).collect();
    let mut deaths = 0;
    let mut healthy = 0;
    // In production a supervisor restarts workers.
    world
        .eventually_within(3 * LIMIT, "it is in the dead letters", async || {
            for worker in &mut workers {
                if worker.says("the NATS client has ended") && worker.says("stopped") {
                    assert_eq!(worker.ended().await.code(), Some(1));
                    *worker = Process::worker(&world, &[]).may_end();
                    deaths += 1;
                    if deaths == 2 {
                        let dose = reminder("metformin", utc_now());
                        world.publish_json("jobs.reminder.medication", "healthy", &dose).await;
                        healthy = deaths;
                    }
                }
            }
            (!world.dead_letters().await.is_empty()).then_some(())
        })
        .await;
    println!("{deaths} workers ended");
    assert!(healthy > 0 && deaths >= 5, "{deaths} workers were ended by it");
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].1.get("Carebell-Dead-Reason").unwrap().as_str(), "undecodable");
    let ledger = world.ledger("healthy").await;
    assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    world.queues_are_empty().await;
    // Pushes sent but not recorded are repeated and replace the first.
    let counts = world.push.counts();
    assert_eq!(counts.accepted - counts.replaced, 4, "{counts:?}");
}
