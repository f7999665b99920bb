//! Tries what a producer must not be able to do, as that producer (`docs/SECURITY_MODEL.md`). Nothing is stored, changed
//! or read: what would be permitted fails for another reason.

use std::path::Path;

use super::{
    check::{Check, Item, some},
    nats::{FOR_NO_STREAM, unreachable},
};
use crate::{
    config::{NatsConfig, NatsUser, Source},
    health::Health,
    intake, jobs,
    kind::{Kind, Queue},
    nats::{Connection, PermissionProbe, ProbeReply},
};

/// Subjects of Carebell's own streams, and those of earlier versions.
const INTERNAL: [&str; 14] = [
    "work.notification.normal",
    "work.maintenance.prune",
    "deliver.web_push.normal",
    "hold.JOBS.0",
    "resume.work.notification.normal",
    "dead.notification.JOBS.0",
    "journal.page",
    "events.default.job.done",
    "sched.doctor",
    "due.notification.normal",
    "intake.doctor.notification.normal",
    "jobs.maintenance.prune",
    "jobs.later.maintenance.prune",
    "$JS.ACK.WORK.notification_normal.1.0.0.0.0",
];

/// Calls of the API that read, change or empty streams, with bodies that change nothing.
const API: [(&str, &str); 9] = [
    ("$JS.API.STREAM.INFO.JOBS", ""),
    ("$JS.API.STREAM.MSG.GET.JOBS", ""),
    ("$JS.API.STREAM.MSG.DELETE.HOLD", ""),
    ("$JS.API.STREAM.PURGE.HOLD", r#"{"filter":"hold.doctor.none"}"#),
    ("$JS.API.STREAM.PURGE.DEAD_LETTERS", r#"{"filter":"dead.doctor.none"}"#),
    ("$JS.API.STREAM.DELETE.CAREBELL_NO_SUCH_STREAM", ""),
    ("$JS.API.STREAM.UPDATE.CAREBELL_NO_SUCH_STREAM", ""),
    ("$JS.API.CONSUMER.CREATE.JOBS", ""),
    ("$JS.API.CONSUMER.MSG.NEXT.JOBS.notification_normal", r#"{"batch":0}"#),
];

/// Where others' jobs, letters and answers can be read.
const LISTENED_TO: [&str; 10] = [
    ">",
    "jobs.>",
    "intake.>",
    "work.>",
    "hold.>",
    "dead.>",
    "journal.>",
    "events.>",
    "_INBOX_carebell.>",
    "$JS.EVENT.>",
];

/// Headers that only Carebell and the server set.
const FORGED: [&str; 11] = [
    "Carebell-Root-Id",
    "Carebell-Delayed-By",
    "Carebell-Parked-As",
    "Carebell-Att",
    "carebell-not-after",
    "Nats-Rollup",
    "Nats-Schedule",
    "Nats-Schedule-Next",
    "Nats-Schedule-Source",
    "Nats-Schedule-Rollup",
    "Nats-Scheduler",
];

/// A producer: its credentials, and where its answers arrive.
#[derive(Clone, Debug)]
pub struct Producer {
    /// The path of a `.creds` file, or `user:password`.
    pub credentials: String,
    /// Its inbox prefix.
    pub inbox_prefix: String,
}

impl Producer {
    fn config(&self, source: &Source) -> Result<NatsConfig, String> {
        let own = source.nats().map_err(|problem| problem.to_string())?;
        let mut config = NatsConfig { user: None, creds: None, inbox_prefix: self.inbox_prefix.clone(), ..own };
        let path = Path::new(&self.credentials);
        match self.credentials.split_once(':').filter(|_| !path.exists()) {
            Some((name, password)) => {
                config.user = Some(NatsUser::Password { name: name.to_owned(), password: password.to_owned() });
            }
            None => config.creds = Some(path.to_owned()),
        }
        Ok(config)
    }
}

/// Tries everything as the producer.
pub async fn examine_producer(source: &Source, producer: &Producer) -> Vec<Check> {
    let config = match producer.config(source) {
        Ok(config) => config,
        Err(why) => return vec![Check::not_checked(Item::ProducerJobs, why)],
    };
    let connection = match crate::nats::open(&config, &Health::new()).await {
        Ok(connection) => connection,
        Err(error) => return vec![unreachable(&error)],
    };
    let queues: Vec<Queue> =
        jobs::registry().kinds().iter().filter(|kind| kind.is_published()).flat_map(Kind::queues).collect();
    let (granted, unheard) = match granted(&connection, &queues).await {
        Ok(subjects) => subjects,
        Err(why) => {
            let advice = "let it subscribe to its inbox, and name that with --producer-inbox";
            return vec![Check::fail(Item::ProducerJobs, why, advice)];
        }
    };
    let subjects = INTERNAL.map(|subject| probe(subject, Some(FOR_NO_STREAM), ""));
    let calls = API.map(|(subject, body)| probe(subject, None, body));
    vec![
        may_publish(&granted, &unheard),
        refused(Item::ProducerSubjects, &connection, &subjects, "publish to subjects of Carebell's own").await,
        refused(Item::ProducerApi, &connection, &calls, "ask the API of JetStream").await,
        listening(&connection).await,
        headers(),
        answers(source, &connection, granted.first()).await,
    ]
}

fn probe(subject: &str, header: Option<(&'static str, &'static str)>, body: &'static str) -> PermissionProbe {
    PermissionProbe { subject: subject.to_owned(), header, body, is_answered: true }
}

/// The subjects of jobs that it may publish, and those that it might but no stream takes.
async fn granted(connection: &Connection, queues: &[Queue]) -> Result<(Vec<String>, Vec<String>), String> {
    let subjects: Vec<String> = queues.iter().map(Queue::intake_subject).collect();
    let probes: Vec<PermissionProbe> = subjects.iter().map(|subject| probe(subject, Some(FOR_NO_STREAM), "")).collect();
    let replies = connection.probe(&probes).await?;
    let (mut granted, mut unheard) = (Vec::new(), Vec::new());
    for (subject, reply) in subjects.into_iter().zip(replies) {
        match reply {
            ProbeReply::Said { .. } => granted.push(subject),
            ProbeReply::Nobody => unheard.push(subject),
            ProbeReply::Refused | ProbeReply::Silent => {}
        }
    }
    Ok((granted, unheard))
}

fn may_publish(granted: &[String], unheard: &[String]) -> Check {
    let item = Item::ProducerJobs;
    if granted.is_empty() && !unheard.is_empty() {
        let advice = "run `carebell streams apply`, unless `carebell doctor` says that the cluster has no leader";
        return Check::warn(item, format!("no stream takes {}", some(unheard)), advice);
    }
    if granted.is_empty() {
        let advice = "grant it its kinds, as helm/carebell/nats has them";
        return Check::warn(item, "it may publish no job", advice);
    }
    Check::ok(item, format!("it may publish to {}", granted.join(", ")))
}

async fn refused(item: Item, connection: &Connection, probes: &[PermissionProbe], what: &str) -> Check {
    let replies = match connection.probe(probes).await {
        Ok(replies) => replies,
        Err(why) => return Check::not_checked(item, why),
    };
    let permitted: Vec<String> = probes
        .iter()
        .zip(&replies)
        .filter(|(_, reply)| matches!(reply, ProbeReply::Said { .. } | ProbeReply::Silent))
        .map(|(probe, _)| probe.subject.clone())
        .collect();
    if permitted.is_empty() {
        return Check::ok(item, format!("it may not {what}: {} tried", probes.len()));
    }
    let advice = "give it no more than helm/carebell/nats/producer.conf, or an account of its own";
    Check::fail(item, format!("it may {what}: {}", some(&permitted)), advice)
}

async fn listening(connection: &Connection) -> Check {
    let item = Item::ProducerSubscriptions;
    match connection.may_subscribe(&LISTENED_TO).await {
        Err(why) => Check::not_checked(item, why),
        Ok(open) if open.is_empty() => Check::ok(item, format!("it can read nothing: {} tried", LISTENED_TO.len())),
        Ok(open) => {
            let advice = "let it subscribe to its own inbox only";
            Check::fail(item, format!("it may subscribe to {}", some(&open)), advice)
        }
    }
}

/// What workers of this version do with forged headers.
fn headers() -> Check {
    let believed: Vec<String> =
        FORGED.iter().filter(|name| intake::may_set(name)).map(|name| (*name).to_owned()).collect();
    if believed.is_empty() {
        return Check::ok(Item::ProducerHeaders, "workers refuse headers that only Carebell and the server set");
    }
    Check::fail(Item::ProducerHeaders, format!("workers believe {}", some(&believed)), "report this as a bug")
}

/// The server sends the answer to a publish to any subject of the publisher's account.
async fn answers(source: &Source, connection: &Connection, job: Option<&String>) -> Check {
    let item = Item::ProducerReplies;
    let Some(job) = job else { return Check::not_checked(item, "it may publish no job") };
    let listening = async {
        let own = source.nats().map_err(|problem| problem.to_string())?;
        let own = crate::nats::open(&own, &Health::new()).await.map_err(|error| error.to_string())?;
        connection.is_answered_at(&own, &probe(job, Some(FOR_NO_STREAM), "")).await
    };
    match listening.await {
        Err(why) => Check::not_checked(item, why),
        Ok(false) => Check::ok(item, "answers to it reach no subject of Carebell's account"),
        Ok(true) => Check::warn(
            item,
            "it is in Carebell's account, where the server answers on any subject that it names; Carebell finds and \
             mends what that can do",
            "give an application that is not wholly trusted an account of its own (docs/PRODUCERS.md)",
        ),
    }
}
