//! The producer: publishes each job at its time, and again until the server acknowledges it.

use std::{sync::Arc, time::Duration};

use async_nats::{
    ConnectOptions, HeaderMap,
    jetstream::{self, message::PublishMessage},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::jobs::Job;
use crate::support::utc_now;

/// For an acknowledgement, before publishing again.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Published {
    /// When each job could first run, by number.
    pub ready: Vec<DateTime<Utc>>,
    pub again: usize,
}

/// Reconnects as soon as the server is back.
pub async fn connect(urls: &str) -> jetstream::Context {
    let options = ConnectOptions::new()
        .ignore_discovered_servers()
        .ping_interval(PATIENCE)
        .reconnect_delay_callback(|_| Duration::from_millis(50));
    let client = options.connect(urls.split(',').collect::<Vec<_>>()).await.unwrap();
    jetstream::context::ContextBuilder::new().timeout(PATIENCE).ack_timeout(PATIENCE).build(client)
}

pub async fn publish(context: jetstream::Context, jobs: Arc<Vec<Job>>, start: Instant) -> Published {
    let mut tasks = JoinSet::new();
    for number in 0..jobs.len() {
        for send in 0..jobs[number].sends.len() {
            let (context, jobs) = (context.clone(), Arc::clone(&jobs));
            tasks.spawn(async move {
                let job = &jobs[number];
                sleep_until(start + job.sends[send]).await;
                (number, insist(&context, job).await)
            });
        }
    }
    let mut published = Published { ready: vec![DateTime::<Utc>::MAX_UTC; jobs.len()], again: 0 };
    while let Some(done) = tasks.join_next().await {
        let (number, (ready, again)) = done.unwrap();
        published.ready[number] = published.ready[number].min(ready);
        published.again += again;
    }
    published
}

/// Answers when the job can run, and the number of failed publishes.
async fn insist(context: &jetstream::Context, job: &Job) -> (DateTime<Utc>, usize) {
    let mut again = 0;
    loop {
        let due = job.delay.map(|delay| utc_now() + TimeDelta::from_std(delay).unwrap());
        if send(context, job, due).await {
            return (due.unwrap_or_else(utc_now), again);
        }
        again += 1;
        sleep(Duration::from_millis(100)).await;
    }
}

async fn send(context: &jetstream::Context, job: &Job, due: Option<DateTime<Utc>>) -> bool {
    let mut headers = HeaderMap::new();
    for (name, value) in &job.headers {
        headers.insert(*name, value.as_str());
    }
    let subject = match due {
        None => job.subject.clone(),
        Some(due) => {
            let due = due.to_rfc3339_opts(SecondsFormat::Micros, true);
            headers.insert("Carebell-At", due.as_str());
            job.subject.replacen("jobs.", "jobs.later.", 1)
        }
    };
    let message = PublishMessage::build().headers(headers).payload(job.body.clone());
    match context.send_publish(subject, message).await {
        Ok(acknowledged) => acknowledged.await.is_ok(),
        Err(_) => false,
    }
}
