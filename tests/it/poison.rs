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
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Custom, Process, World, reminder, utc_now};

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

/// Headers that end a pull of the NATS client that gets them, its connection, or the client itself.
const KILLERS: [&[u8]; 8] = [
    b"NATS/1.0\r\nX-Note: a\rb\r\n\r\n",
    b"NATS/1.0\r\nX-Note: caf\xe9\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nX Note\x01: a\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0\r\nX: a\r\n\r\n more\r\n\r\n",
    b"NATS/1.0\r\nX: a\r\r\n b\r\n\r\n",
];

/// Past any client library.
pub async fn publish_raw(world: &World, subject: &str, headers: &[&[u8]]) {
    let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", world.nats.port())).await.unwrap();
    let mut bytes = b"CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_vec();
    for header in headers {
        bytes.extend(format!("HPUB {subject} {0} {0}\r\n", header.len()).bytes());
        bytes.extend_from_slice(header);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"PING\r\n");
    connection.write_all(&bytes).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"PONG\r\n") {
        assert_ne!(connection.read_buf(&mut said).await.unwrap(), 0, "{}", String::from_utf8_lossy(&said));
    }
}

#[tokio::test]
async fn headers_that_end_a_client_end_no_worker_and_hold_up_no_other_queue() {
    const EACH: usize = 6;
    // Neighbours of such a message come again after this.
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s").await;
    let killers: Vec<&[u8]> = (0..EACH).flat_map(|_| KILLERS).collect();
    let mut workers: Vec<Process> = Vec::new();
    for _ in 0..2 {
        let mut worker = Process::worker(&world, &[]);
        worker.ready().await;
        workers.push(worker);
    }
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    for number in 0..5 {
        world.publish_json("jobs.notification.bulk", &format!("bulk-{number}"), &news).await;
    }
    let since = tokio::time::Instant::now();
    publish_raw(&world, "jobs.notification.bulk", &killers).await;
    world.publish_json("jobs.notification.bulk", "after", &news).await;
    world.remind("dose").await;
    let ledger = world.ledger("dose").await;
    assert!(ledger.len() == 4 && ledger.iter().all(|line| line.state == "sent"), "{ledger:?}");
    let took = since.elapsed();
    println!("a critical reminder took {took:?} beside {} such messages", killers.len());
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");

    let letters = world.dead_letters_once(killers.len()).await;
    for (_, headers, _) in &letters {
        assert_eq!(headers.get("Carebell-Dead-Reason").unwrap().as_str(), "undecodable");
    }
    assert_eq!(world.ended("after").await.0, "done");
    for number in 0..5 {
        assert_eq!(world.ended(&format!("bulk-{number}")).await.0, "done");
    }
    world.queues_are_empty().await;

    // The critical lane itself.
    publish_raw(&world, "jobs.notification.critical", &killers).await;
    let since = tokio::time::Instant::now();
    world.publish_json("jobs.notification.critical", "urgent", &news).await;
    assert_eq!(world.ended("urgent").await.0, "done");
    let took = since.elapsed();
    println!("an urgent notification took {took:?} behind them");
    assert!(took < std::time::Duration::from_secs(30), "{took:?}");
    assert_eq!(world.dead_letters_once(2 * killers.len()).await.len(), 2 * killers.len());
    world.queues_are_empty().await;
    for mut worker in workers {
        assert!(!worker.says("the client has ended"), "{}", worker.output());
        assert_eq!(worker.terminate().await.code(), Some(0));
    }
}

/// The server says 100 to keep a pull alive, and the client passes such a message over.
#[tokio::test]
async fn messages_with_a_status_are_found_though_they_end_no_connection() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s").await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    publish_raw(&world, "jobs.notification.critical", &[b"NATS/1.0 100\r\n\r\n".as_slice(); 3]).await;
    let news = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish_json("jobs.notification.critical", "behind", &news).await;
    assert_eq!(world.ended("behind").await.0, "done");
    assert_eq!(world.dead_letters_once(3).await.len(), 3);
    world.queues_are_empty().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// A block of headers as a broken or hostile client might write it.
fn garbled(random: &mut StdRng) -> Vec<u8> {
    const NAMES: [&str; 14] = [
        "Carebell-Job-Id",
        "Carebell-At",
        "carebell-not-after",
        "Carebell-Attempts",
        "Carebell-Root-Id",
        "Carebell-Parked-As",
        "Content-Type",
        "traceparent",
        "tracestate",
        "Nats-Expected-Stream",
        "Nats-Rollup",
        "Status",
        "X",
        "",
    ];
    const VALUES: [&[u8]; 10] = [
        b"a",
        b"",
        b"2026-01-01T00:00:00Z",
        b"9999-12-31T23:59:60+99:99",
        b"application/json",
        b"-1",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"~x~y",
        b"\xff\xfe\x00",
        b"\xe2\x80\xaeevil",
    ];
    let mut block = [&b"NATS/1.0"[..], b"NATS/1.0 100 Idle Heartbeat", b"NATS/1.0 408", b"NATS/2.0", b"nats/1.0"]
        .choose_weighted(random, |line| if line.len() == 8 { 20 } else { 1 })
        .unwrap()
        .to_vec();
    block.extend(b"\r\n");
    for _ in 0..random.random_range(0..5) {
        block.extend(NAMES.choose(random).unwrap().bytes());
        block.extend(
            [&b": "[..], b":", b" : ", b""].choose_weighted(random, |colon| 4 * colon.len() + 1).unwrap().iter(),
        );
        block.extend_from_slice(VALUES.choose(random).unwrap());
        block.extend(
            [&b"\r\n"[..], b"\n", b"\r", b"\r\n \t"]
                .choose_weighted(random, |end| if end.len() == 2 { 9 } else { 1 })
                .unwrap()
                .iter(),
        );
    }
    block.extend(b"\r\n");
    // Single bytes, as a broken network card or a bug would change them.
    if random.random_bool(0.3) {
        let at = random.random_range(0..block.len());
        block[at] = random.random();
    }
    block
}

/// The same blocks on each run: the seed is the corpus.
#[tokio::test]
async fn garbled_headers_end_no_worker_and_critical_reminders_stay_in_time() {
    const BLOCKS: usize = 200;
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=2s").await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let mut random = StdRng::seed_from_u64(15);
    let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| garbled(&mut random)).collect();
    for (number, blocks) in blocks.chunks(BLOCKS / 5).enumerate() {
        let raw: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let lane = ["jobs.notification.bulk", "jobs.later.notification.bulk"][number % 2];
        publish_raw(&world, lane, &raw).await;
        let id = format!("dose-{number}");
        let since = tokio::time::Instant::now();
        let body = reminder("metformin", utc_now() - TimeDelta::minutes(i64::try_from(number).unwrap()));
        world.publish_json("jobs.reminder.medication", &id, &body).await;
        assert_eq!(world.ledger(&id).await.len(), 4);
        let took = since.elapsed();
        assert!(took < std::time::Duration::from_secs(5), "a critical reminder took {took:?}");
    }
    world.queues_are_empty().await;
    let stored = world.context.get_stream("JOBS").await.unwrap().cached_info().state.last_sequence;
    assert!(stored > BLOCKS as u64 / 2, "the server takes most of them: {stored}");
    assert!(!world.dead_letters().await.is_empty());
    assert_eq!(world.count("SELECT count(*) FROM delayed_jobs WHERE state = 'waiting'").await, 0);
    assert_eq!(worker.terminate().await.code(), Some(0), "the same process as at first");
}
