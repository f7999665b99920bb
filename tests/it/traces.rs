//! Traces, as a real collector receives them.

use carebell::dev::push_service::Behaviour;
use serde_json::json;

use crate::{
    cli::carebell,
    support::{Collector, FAMILY, Process, QUICK, Span, Worker, World, reminder, tree, utc_now},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PRODUCER: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{PRODUCER}-{flags}")
}

/// Publishes a reminder with trace headers.
async fn remind(world: &World, job_id: &str, flags: &str) {
    let parent = parent(flags);
    let headers = [
        ("Carebell-Job-Id", job_id),
        ("Content-Type", "application/json"),
        ("traceparent", &parent),
        ("tracestate", "congo=t61rcWkgMzE"),
    ];
    world.publish("jobs.reminder.medication", &headers, reminder("metformin", utc_now()).to_string()).await;
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found = named(spans, name);
    assert_eq!(found.len(), 1, "{name} in\n{}", tree(spans));
    found[0]
}

fn of_kind(spans: &[Span], kind: &str) -> usize {
    spans.iter().filter(|span| span.kind == kind).count()
}

/// Checks names, failure messages, attributes, events and the process.
fn nothing_personal(world: &World, collector: &Collector) {
    let output = collector.output();
    let said: Vec<&str> = output.lines().map(str::trim).filter(|line| is_said(line)).collect();
    assert!(said.iter().any(|line| line.starts_with("-> messaging.message.id:")), "{output}");
    let names = world.push.received().into_iter().map(|push| push.name);
    let texts = ["Metformin", "Rose", "500 mg", "Time to give", "browns", "example.org"].map(str::to_owned);
    for word in texts.into_iter().chain(names).chain(FAMILY.map(str::to_owned)) {
        for line in &said {
            assert!(!has_word(line, &word), "{word} in\n{line}");
        }
    }
}

/// Whether a line holds text from a program.
fn is_said(line: &str) -> bool {
    line.starts_with("->") || ["Name", "Status message"].iter().any(|field| line.starts_with(field))
}

/// `manager` does not contain the word `ana`.
fn has_word(text: &str, word: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
    text.match_indices(word)
        .any(|(at, _)| !is_letter(text[..at].chars().next_back()) && !is_letter(text[at + word.len()..].chars().next()))
}

#[tokio::test]
async fn a_reminder_is_one_tree_from_its_producer_to_its_pushes() {
    one_tree(World::new().await, false).await;
}

/// The same if the notification has a message.
#[tokio::test]
async fn a_reminder_whose_notification_has_a_message_is_one_tree() {
    one_tree(World::with_overrides(&format!("{QUICK},notification_critical.rate=50/s")).await, true).await;
}

async fn one_tree(world: World, has_message: bool) {
    let collector = Collector::start().await;
    let messages = usize::from(has_message);
    let mut worker = Process::worker(&world, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.http())]);
    worker.ready().await;
    remind(&world, "dose-1", "01").await;
    world.everyone_has_it_once("dose-1").await;
    world.queues_are_empty().await;
    // A worker that stops flushes its spans.
    assert!(worker.terminate().await.success(), "{}", worker.output());
    let enough = |spans: &[Span]| {
        of_kind(spans, "CLIENT") >= 4 && of_kind(spans, "CONSUMER") >= 6 && of_kind(spans, "PRODUCER") >= messages
    };
    let spans = collector.spans_once("four pushes", enough).await;
    println!("{}", tree(&spans));

    assert_eq!(spans.len(), 10 + messages, "{}", tree(&spans));
    assert!(spans.iter().all(|span| span.trace == TRACE && span.status.0 == "UNSET"), "{spans:#?}");
    let reminder = only(&spans, "process jobs.reminder.medication");
    let notification = only(&spans, "process work.notification.critical");
    // Jaeger's graph needs the parent, the conventions want the link.
    assert_eq!((reminder.parent.as_str(), &reminder.links[..]), (PRODUCER, &[PRODUCER.to_owned()][..]));
    assert_eq!(reminder.states, ["congo=t61rcWkgMzE"]);
    let before = if has_message {
        let sent = only(&spans, "send work.notification.critical");
        assert_eq!((&sent.parent, &sent.links[..]), (&reminder.id, &[][..]));
        sent
    } else {
        reminder
    };
    assert_eq!((&notification.parent, &notification.links), (&before.id, &vec![before.id.clone()]));
    assert_eq!(notification.states, ["congo=t61rcWkgMzE"], "vendor state is passed on");
    let deliveries = named(&spans, "process deliver.web_push.critical");
    let requests = named(&spans, "POST");
    assert_eq!((deliveries.len(), requests.len()), (4, 4));
    let ledger = world.ledger("dose-1").await;
    for delivery in &deliveries {
        assert_eq!((&delivery.parent, &delivery.links), (&notification.id, &vec![notification.id.clone()]));
        assert!(ledger.iter().any(|line| line.id == delivery.attributes["messaging.message.id"]));
        let request = requests.iter().find(|request| request.parent == delivery.id).expect("each has its request");
        let (host, port) = world.push.host_port().split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let attributes: Vec<(&str, &str)> =
            request.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("carebell.answer", "accepted"),
            ("carebell.channel", "web_push"),
            ("http.request.method", "POST"),
            ("http.response.status_code", "201"),
            ("server.address", &host),
            ("server.port", &port),
        ];
        assert_eq!(attributes, expected);
    }
    assert_eq!(of_kind(&spans, "CONSUMER"), 6);
    assert_eq!(of_kind(&spans, "PRODUCER"), messages);
    assert_eq!(of_kind(&spans, "CLIENT"), 4);

    let expected = [
        ("carebell.attempt", "1"),
        ("carebell.delivered", "1"),
        ("carebell.kind", "notification"),
        ("carebell.outcome", "done"),
        ("carebell.root_id", "dose-1"),
        ("carebell.sequence", if has_message { "1" } else { "0" }),
        ("carebell.stream", "WORK"),
        ("messaging.consumer.group.name", "notification_critical"),
        ("messaging.destination.name", "work.notification.critical"),
        ("messaging.message.body.size", &notification.attributes["messaging.message.body.size"]),
        ("messaging.message.id", "dose-1~notification"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.system", "nats"),
    ];
    let attributes: Vec<(&str, &str)> =
        notification.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(attributes, expected);
    nothing_personal(&world, &collector);
}

/// A retry, a wait and a redrive stay in the trace, over gRPC and across workers.
#[tokio::test]
async fn what_fails_waits_or_is_sent_back_stays_in_its_trace() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let grpc = collector.grpc();
    let traced = [("OTEL_EXPORTER_OTLP_ENDPOINT", grpc.as_str()), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    world.push.behave_times("ana", 1, Behaviour::status(503));
    world.push.behave_times("ben", 1, Behaviour::retry_after(429, "1"));
    world.push.behave_times("chloe", 1, Behaviour::status(400));
    let mut worker = Process::worker(&world, &traced);
    worker.ready().await;
    let three = ["ana", "ben", "chloe"].map(|user| json!({ "userId": user }));
    let family = json!({ "recipients": three, "title": "Hello" });
    let publish = ["publish", "notification", "--job-id", "hello", "--json", &family.to_string()];
    let (well, said, note) = carebell(&world, &publish, &traced).await;
    assert!(well, "{said}{note}");
    world.dead_letters_once(1).await;
    let (well, said, note) = carebell(&world, &["dead-letters", "redrive", "1"], &traced).await;
    assert!(well, "{said}{note}");
    world.eventually("all three have it", async || (world.push.counts().accepted == 3).then_some(())).await;
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());

    let enough = |spans: &[Span]| {
        of_kind(spans, "CLIENT") >= 6 && of_kind(spans, "CONSUMER") >= 8 && of_kind(spans, "PRODUCER") >= 3
    };
    let spans = collector.spans_once("six requests of seven runs", enough).await;
    println!("{}", tree(&spans));
    let publish = only(&spans, "send jobs.notification.normal");
    assert_eq!((publish.parent.as_str(), publish.kind.as_str()), ("", "PRODUCER"), "it begins the trace");
    assert!(spans.iter().all(|span| span.trace == publish.trace), "{}", tree(&spans));
    assert_eq!(only(&spans, "process jobs.notification.normal").parent, publish.id);

    let of = async |user: &str| {
        let id = world.delivery_to("hello", user).await.id;
        spans.iter().filter(move |span| span.kind == "CONSUMER" && span.attributes["messaging.message.id"] == id)
    };
    let first = of("ana").await.find(|span| span.attributes["carebell.outcome"] == "retry").unwrap();
    assert_eq!((first.status.0.as_str(), first.attributes["error.type"].as_str()), ("ERROR", "retry"));
    assert!(first.status.1.contains("503"), "{first:?}");
    assert_eq!(first.events, ["retry"]);
    let second = of("ana").await.find(|span| span.attributes["carebell.outcome"] == "done").unwrap();
    assert_eq!((second.attributes["carebell.attempt"].as_str(), &second.parent), ("2", &first.parent));

    let held = of("ben").await.find(|span| span.attributes["carebell.outcome"] == "waits").unwrap();
    assert_eq!(
        (&held.events[..], held.attributes["carebell.reason"].as_str()),
        (&["parked".to_owned()][..], "retry_later")
    );
    assert_eq!(held.status.0, "UNSET", "nothing has failed");
    let resumed = of("ben").await.find(|span| span.attributes["carebell.outcome"] == "done").unwrap();
    assert_eq!((&resumed.parent, &resumed.links), (&held.parent, &held.links), "of the same origin");

    let dead = of("chloe").await.find(|span| span.attributes["carebell.sequence"] == "0").unwrap();
    assert_eq!((dead.attributes["error.type"].as_str(), dead.events[0].as_str()), ("permanent", "exception"));
    let redriven = of("chloe").await.find(|span| span.attributes["carebell.outcome"] == "done").unwrap();
    let again = spans.iter().find(|span| span.id == redriven.parent).expect("the span of the redrive");
    // Only the failure of the direct send published a message.
    let buried = of("chloe").await.find(|span| span.attributes["carebell.sequence"] != "0").unwrap();
    assert_eq!((again.name.as_str(), &again.parent), ("send deliver.web_push.normal", &buried.parent));
    let message = spans.iter().find(|span| span.id == buried.parent).expect("the span of the publish");
    assert_eq!((message.name.as_str(), &message.parent), ("send deliver.web_push.normal", &dead.parent));
    nothing_personal(&world, &collector);
}

#[tokio::test]
async fn a_delayed_job_stays_in_its_trace_and_one_of_the_scheduler_begins_one() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let http = collector.http();
    let traced = [("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str())];
    let mut worker = Process::worker(&world, &traced);
    worker.ready().await;
    let hello = json!({ "recipients": [{ "userId": "ana" }], "title": "Hello" }).to_string();
    let publish = ["publish", "notification", "--job-id", "later", "--delay", "1s", "--json", &hello];
    let (well, said, note) = carebell(&world, &publish, &traced).await;
    assert!(well, "{said}{note}");
    world.make_due("WHERE name = 'carebell.subscriptions'").await;
    world.sql("NOTIFY carebell_schedules").await;
    world.ledger("later").await;
    let maintained = "SELECT count(*) FROM job_runs WHERE kind = 'maintenance.subscriptions' AND state = 'done'";
    world.eventually("maintenance is done", async || (world.count(maintained).await == 1).then_some(())).await;
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());

    let all = |spans: &[Span]| {
        let names = ["POST", "process work.maintenance.subscriptions", "send jobs.later.notification.normal"];
        names.iter().all(|name| !named(spans, name).is_empty())
    };
    let spans = collector.spans_once("both", all).await;
    println!("{}", tree(&spans));
    let sent = only(&spans, "send jobs.later.notification.normal");
    let waits = only(&spans, "process jobs.notification.normal");
    assert_eq!((sent.parent.as_str(), &waits.parent, &waits.trace), ("", &sent.id, &sent.trace));
    assert_eq!(only(&spans, "process work.notification.normal").trace, sent.trace);
    assert_eq!(only(&spans, "POST").trace, sent.trace);
    let scheduled = only(&spans, "send work.maintenance.subscriptions");
    let run = only(&spans, "process work.maintenance.subscriptions");
    assert_eq!((scheduled.parent.as_str(), scheduled.kind.as_str()), ("", "PRODUCER"), "it begins the trace");
    assert_eq!((&run.parent, &run.trace), (&scheduled.id, &scheduled.trace));
    assert_ne!(scheduled.trace, sent.trace);
    nothing_personal(&world, &collector);
}

/// The trace survives redelivery and redrive.
#[tokio::test]
async fn a_job_without_a_trace_begins_one_and_keeps_it() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=5s").await;
    let collector = Collector::start().await;
    let http = collector.http();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str());
    world.remind("dose-2").await;
    let mut doomed = Process::worker(&world, &[endpoint, ("CAREBELL_ABORT_AT", "committed")]);
    assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
    let mut heir = Process::worker(&world, &[endpoint]);
    heir.ready().await;
    world.everyone_has_it_once("dose-2").await;
    world.publish_json("jobs.notification.normal", "broken", &json!({ "title": "" })).await;
    world.dead_letters_once(1).await;
    let (well, said, note) = carebell(&world, &["dead-letters", "redrive", "1"], &[endpoint]).await;
    assert!(well, "{said}{note}");
    world.dead_letters_with("Carebell-Redrives", "1").await;
    world.queues_are_empty().await;
    assert!(heir.terminate().await.success());

    let enough =
        |spans: &[Span]| of_kind(spans, "CLIENT") >= 4 && named(spans, "process work.notification.normal").len() == 1;
    let spans = collector.spans_once("four pushes and two deaths", enough).await;
    let again = only(&spans, "process jobs.reminder.medication");
    assert!(again.parent.is_empty() && again.links.is_empty(), "{again:?}");
    let sent = only(&spans, "send deliver.web_push.critical");
    assert_eq!(sent.trace, again.trace, "the run of the worker that died was of the same trace");
    let first = only(&spans, "process jobs.notification.normal");
    let redriven = only(&spans, "send work.notification.normal");
    let second = only(&spans, "process work.notification.normal");
    assert_eq!((&redriven.parent, &second.parent), (&first.id, &redriven.id), "{}", tree(&spans));
    assert!(first.trace == second.trace && first.trace != again.trace);
}

/// Another worker publishes the planned children in the same trace.
#[tokio::test]
async fn a_trace_survives_its_worker() {
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=5s").await;
    let collector = Collector::start().await;
    remind(&world, "dose-3", "01").await;
    let http = collector.http();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str());
    let mut doomed = Process::worker(&world, &[endpoint, ("CAREBELL_ABORT_AT", "committed")]);
    assert_eq!(doomed.ended().await.code(), Some(134), "{}", doomed.output());
    let mut heir = Process::worker(&world, &[endpoint]);
    heir.ready().await;
    world.everyone_has_it_once("dose-3").await;
    world.queues_are_empty().await;
    assert!(heir.terminate().await.success());
    let spans = collector.spans_once("four pushes", |spans| of_kind(spans, "CLIENT") >= 4).await;
    assert!(spans.iter().all(|span| span.trace == TRACE), "{}", tree(&spans));
    let again = only(&spans, "process jobs.reminder.medication");
    assert_eq!(again.attributes["carebell.outcome"], "duplicate", "its work was committed");
    let sent = only(&spans, "send deliver.web_push.critical");
    assert!(sent.parent != again.id && sent.parent != PRODUCER, "it follows from the run that planned it");
}

/// All jobs that follow carry the decision.
#[tokio::test]
async fn what_is_not_sampled_is_handed_on_and_not_exported() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let mut worker = Process::worker(&world, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.http())]);
    worker.ready().await;
    remind(&world, "dose-4", "00").await;
    world.everyone_has_it_once("dose-4").await;
    let kept: String = sqlx::query_scalar("SELECT trace FROM deliveries LIMIT 1").fetch_one(&world.db).await.unwrap();
    assert_eq!(kept, format!("{} congo=t61rcWkgMzE", parent("00")));
    // A sampled job, to have something to wait for.
    world
        .publish_json("jobs.notification.normal", "last", &json!({ "recipients": [{ "userId": "ana" }], "title": "x" }))
        .await;
    world.ledger("last").await;
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());
    let spans = collector.spans_once("the other job", |spans| of_kind(spans, "CLIENT") >= 1).await;
    assert!(spans.iter().all(|span| span.trace != TRACE), "{}", tree(&spans));
}

/// Each job is traced whole or not at all.
#[tokio::test]
async fn a_share_is_of_whole_traces() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let http = collector.http();
    let share = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
    ];
    let mut worker = Process::worker(&world, &share);
    worker.ready().await;
    let hello = json!({ "recipients": [{ "userId": "ana" }], "title": "x" });
    let jobs: Vec<String> = (0..40).map(|number| format!("n-{number}")).collect();
    for job in &jobs {
        world.publish_json("jobs.notification.normal", job, &hello).await;
    }
    for job in &jobs {
        world.ledger(job).await;
    }
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());
    let sampled = world.count("SELECT count(*) FROM deliveries WHERE trace LIKE '%-01'").await;
    let told = world.count("SELECT count(*) FROM deliveries WHERE trace LIKE '%-00'").await;
    assert_eq!(sampled + told, 40, "unsampled jobs carry that decision");
    let sampled = usize::try_from(sampled).unwrap();
    assert!((1..40).contains(&sampled), "{sampled} of 40, which chance makes 0 or 40 once in a lifetime");
    let spans = collector.spans_once("all that is sampled", |spans| spans.len() >= 3 * sampled).await;
    let roots = named(&spans, "process jobs.notification.normal").len();
    let counts = [spans.len(), roots, of_kind(&spans, "CLIENT")];
    assert_eq!(counts, [3 * sampled, sampled, sampled], "{}", tree(&spans));
}

/// A missing collector costs only its spans.
#[tokio::test]
async fn jobs_go_on_without_a_collector() {
    let world = World::new().await;
    let mut collector = Collector::away().await;
    let http = collector.http();
    let mut worker = Process::worker(
        &world,
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &http), ("OTEL_BSP_SCHEDULE_DELAY", "50"), ("OTEL_BSP_MAX_QUEUE_SIZE", "10")],
    );
    worker.ready().await;
    let tell_everyone = async |job: &str| {
        let everyone = FAMILY.map(|user| json!({ "userId": user }));
        let body = json!({ "recipients": everyone, "title": "x" });
        world.publish_json("jobs.notification.normal", job, &body).await;
        world.ledger(job).await;
    };
    tell_everyone("dose-5").await;
    worker.line("it says so", |line| line.step().filter(|(_, step)| step.contains("cannot be exported"))).await;
    let lost = async |worker: &mut Process, reason: &str| {
        let (_, text) = worker.get("/metrics").await;
        let name = format!("carebell_spans_lost_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok())
    };
    assert!(lost(&mut worker, "not_exported").await.unwrap() > 0.0);
    // Each job makes ten spans, and there is room for ten.
    let mut number = 0;
    world
        .eventually("some spans find no room", async || {
            number += 1;
            tell_everyone(&format!("crowd-{number}")).await;
            (lost(&mut worker, "queue_full").await? > 0.0).then_some(())
        })
        .await;
    let said =
        |worker: &Process| std::fs::read_to_string(worker.log_file()).unwrap().matches("cannot be exported").count();
    assert_eq!(said(&worker), 1, "a line now and then:\n{}", worker.output());

    assert!(collector.come().await);
    world.remind("dose-8").await;
    collector.spans_once("a span", |spans| !spans.is_empty()).await;
    world.eventually("it is back", async || worker.says("accepts spans again").then_some(())).await;
    drop(collector);
    world.remind("dose-9").await;
    world.ledger("dose-9").await;
    // `terminate` has a time limit.
    assert!(worker.terminate().await.success(), "a missing collector delays no stop");
}

#[tokio::test]
async fn opentelemetrys_own_switches_are_honoured() {
    let (world, collector) = (World::new().await, Collector::start().await);
    let http = collector.http();
    let off = [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_SAMPLER", "always_off")];
    for (number, switch) in off.into_iter().enumerate() {
        let mut worker = Process::worker(&world, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &http), switch]);
        worker.ready().await;
        let job = format!("off-{number}");
        remind(&world, &job, "01").await;
        world.ledger(&job).await;
        let kept = "SELECT trace FROM deliveries WHERE job_id = $1 LIMIT 1";
        let kept: String = sqlx::query_scalar(kept).bind(&job).fetch_one(&world.db).await.unwrap();
        assert!(kept.starts_with(&parent("01")), "{switch:?}: passed on unchanged, {kept}");
        assert!(worker.terminate().await.success());
    }
    let named = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str()),
        ("OTEL_PROPAGATORS", "none"),
        ("OTEL_SERVICE_NAME", "bell"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test%20bed"),
    ];
    let mut worker = Process::worker(&world, &named);
    worker.ready().await;
    remind(&world, "alone", "01").await;
    world.ledger("alone").await;
    let kept = "SELECT count(*) FROM deliveries WHERE job_id = 'alone' AND trace IS NOT NULL";
    assert_eq!(world.count(kept).await, 0, "nothing is passed on");
    world.queues_are_empty().await;
    assert!(worker.terminate().await.success());
    let spans = collector.spans_once("the last job", |spans| of_kind(spans, "CONSUMER") >= 6).await;
    assert!(spans.iter().all(|span| span.trace != TRACE), "producers' contexts are not read");
    assert!(spans.iter().all(|span| !span.attributes.values().any(|value| value.starts_with("off-"))));
    let said = collector.output();
    assert!(said.contains("service.name: Str(bell)") && said.contains("Str(test bed)"), "{said}");
}

#[tokio::test]
async fn a_variable_that_is_none_is_refused_at_start() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[("OTEL_TRACES_SAMPLER", "sometimes")]);
    assert_eq!(worker.ended().await.code(), Some(1));
    assert!(worker.says("carebell: OTEL_TRACES_SAMPLER is malformed; expected always_on,"), "{}", worker.output());
}

#[tokio::test]
async fn without_a_collector_contexts_are_handed_on() {
    let world = World::new().await;
    remind(&world, "dose-10", "01").await;
    let worker = Worker::start(&world);
    world.ledger("dose-10").await;
    let kept: String = sqlx::query_scalar("SELECT trace FROM deliveries LIMIT 1").fetch_one(&world.db).await.unwrap();
    assert_eq!(kept, format!("{} congo=t61rcWkgMzE", parent("01")));
    worker.stop().await;
}

/// This collector speaks TLS and accepts no spans.
#[tokio::test]
async fn a_collector_is_trusted_by_the_roots_that_are_named() {
    let world = World::new().await;
    let https = format!("https://{}", world.push.host_port());
    let roots = world.environment()["WEB_PUSH_CA_FILE"].clone();
    let cases = [
        ("grpc", None, "UnknownIssuer"),
        ("grpc", Some(&roots), "gRPC code: Internal"),
        ("http/protobuf", None, "network error"),
        ("http/protobuf", Some(&roots), "status code: 404"),
    ];
    for (number, (protocol, roots, said)) in cases.into_iter().enumerate() {
        let mut environment = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", https.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ];
        environment.extend(roots.map(|roots| ("OTEL_EXPORTER_OTLP_CERTIFICATE", roots.as_str())));
        let mut worker = Process::worker(&world, &environment);
        worker.ready().await;
        // One span only: larger bodies are refused for their size.
        let gone = reminder("nothing", utc_now());
        world.publish_json("jobs.reminder.medication", &format!("gone-{number}"), &gone).await;
        let told = |step: &str| step.contains("cannot be exported").then(|| step.to_owned());
        let line = worker.line("it says so", |line| told(&line.step()?.1)).await;
        assert!(line.contains(said), "{protocol}, {roots:?}: {line}");
        assert!(worker.terminate().await.success());
    }
}
