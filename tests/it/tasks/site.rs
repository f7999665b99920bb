//! A pipeline with two declared kinds, `search.index` and `slow.kind`, an endpoint, and the desk that it reports to.

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use axum::http::StatusCode;
use bytes::Bytes;
use carebell::{
    channels::{Channels, breaker::BreakerPolicy, outbound::AllowedHost},
    clock::{Clock, Random},
    declared::{AfterUnknown, BodyForm, Carrier, Declaration, Endpoint, Http, Mode},
    effects::Effects,
    health::Health,
    http,
    job::Context,
    jobs,
    kind::Kind,
    pipeline::{
        Decoder, Form, Parts, Pipeline, Registry,
        registry::{Runnable, Work},
    },
    policy::Policy,
    store::Store,
    streams::Streams,
    tasks::{self, Tasks},
    templates::Templates,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{LIMIT, World, adjustments, endpoint::TaskEndpoint};

pub const KIND: Kind = Kind::task("search.index", &[]);
pub const SLOW: Kind = Kind::task("slow.kind", &[]);

/// How `search.index` is declared.
#[derive(Clone, Debug)]
pub struct Options {
    pub mode: Mode,
    pub after_unknown: AfterUnknown,
    pub in_flight: Option<u32>,
    pub deadline: Duration,
    pub heartbeat: Duration,
    pub attempts: u32,
    pub timeout: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Sync,
            after_unknown: AfterUnknown::SendAgain,
            in_flight: None,
            deadline: Duration::from_mins(1),
            heartbeat: Duration::from_secs(30),
            attempts: 3,
            timeout: "2s",
        }
    }
}

impl Options {
    pub fn later() -> Self {
        Self { mode: Mode::Async, ..Self::default() }
    }
}

/// Reads JSON objects.
struct Reads {
    declaration: Arc<Declaration>,
    carrier: Tasks,
}

struct Job {
    declaration: Arc<Declaration>,
    carrier: Tasks,
    body: Bytes,
}

impl Decoder for Reads {
    fn decode(&self, body: &Bytes, form: Form) -> Result<Box<dyn Runnable>, String> {
        if form != Form::Json || !self.to_json(body, form)?.is_object() {
            return Err("expected a JSON object".into());
        }
        let (declaration, carrier) = (Arc::clone(&self.declaration), self.carrier.clone());
        Ok(Box::new(Job { declaration, carrier, body: body.clone() }))
    }

    fn to_json(&self, body: &Bytes, _: Form) -> Result<Value, String> {
        serde_json::from_slice(body).map_err(|_| "no JSON".into())
    }
}

impl Runnable for Job {
    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + TimeDelta::from_std(self.declaration.expires).unwrap()
    }

    fn work(self: Box<Self>, cx: Context) -> Work {
        self.carrier.carry(self.declaration, self.body, cx)
    }
}

pub fn declaration(kind: Kind, endpoint: (&str, &Path), options: &Options) -> Declaration {
    let url: url::Url = endpoint.0.parse().unwrap();
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    Declaration {
        kind,
        version: 2,
        form: BodyForm::Json,
        endpoint: Endpoint::Http(Http {
            secret_file: endpoint.1.to_owned(),
            mode: options.mode,
            after_unknown: options.after_unknown,
            ca_file: None,
            allowed_hosts: AllowedHost::list("allowed_hosts", &host).unwrap(),
            url,
        }),
        policy: Policy::from_metadata(&metadata(options)).unwrap(),
        deadline: options.deadline,
        heartbeat: options.heartbeat,
        expires: Duration::from_hours(1),
        in_flight: options.in_flight,
        may_publish: vec!["notification".into(), KIND.name.into()],
        keep_days: None,
        keep_last: None,
        keep_dead: None,
        digest: "0".into(),
    }
}

fn metadata(options: &Options) -> HashMap<String, String> {
    let attempts = options.attempts.to_string();
    [("attempts", attempts.as_str()), ("backoff", "fixed 50ms"), ("jitter", "0%"), ("timeout", options.timeout)]
        .into_iter()
        .chain([("concurrency", "8")])
        .map(|(key, value)| (format!("carebell.{key}"), value.to_owned()))
        .collect()
}

/// The streams of `streams/`, and consumers of the two kinds.
fn streams(overrides: &str, options: &Options) -> Streams {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("streams");
    let mut files: Vec<(String, String)> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect();
    files.sort();
    for kind in [KIND, SLOW] {
        for (stream, prefix) in [("JOBS", "jobs"), ("WORK", "work")] {
            let model = files.iter().find(|(name, _)| name == "WORK.maintenance_prune.json").unwrap();
            let mut json: Value = serde_json::from_str(&model.1).unwrap();
            let durable = kind.name.replace('.', "_");
            json["durable_name"] = json!(durable);
            json["filter_subject"] = json!(format!("{prefix}.{}", kind.name));
            json["metadata"] = json!(metadata(options));
            json["max_deliver"] = json!(options.attempts + 10);
            files.push((format!("{stream}.{durable}.json"), json.to_string()));
        }
    }
    Streams::read(files, &adjustments(overrides)).unwrap()
}

/// A worker with both kinds. Its desk's port.
pub struct Running {
    pub pipeline: Pipeline,
    pub port: u16,
    pub stop: CancellationToken,
}

/// Starts a worker in this process.
pub async fn work(
    store: &Store,
    context: async_nats::jetstream::Context,
    overrides: &str,
    endpoint: (&str, &Path),
    options: &Options,
) -> Running {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let clock = Clock::system();
    let health = Health::new();
    let streams = streams(overrides, options);
    streams.apply(&context).await.unwrap();
    let search = Arc::new(declaration(KIND, endpoint, options));
    let slow = Arc::new(declaration(SLOW, endpoint, &Options::default()));
    let tasks = Tasks::new([Arc::clone(&search), Arc::clone(&slow)], &clock, health.metrics()).unwrap();
    let mut registry = jobs::registry();
    for declaration in [search, slow] {
        registry = registry.with_decoder(declaration.kind, Arc::new(Reads { declaration, carrier: tasks.clone() }));
    }
    let registry: Registry = registry;
    tasks.know(&registry);
    let effects = Effects::start(store, context.clone(), clock.clone(), &health);
    let stop = CancellationToken::new();
    let listener = http::listen(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = tasks::routes(&tasks, &effects, stop.clone());
    tokio::spawn(http::listener::serve(listener, routes, stop.clone()));
    let metrics = health.metrics().clone();
    tokio::spawn(tasks::watch(tasks.clone(), effects.clone(), metrics, clock.clone(), stop.clone()));
    let documents = carebell::documents::Documents::new(carebell::documents::Settings::default(), &clock).unwrap();
    let parts = Parts {
        registry,
        streams,
        context,
        own_connections: None,
        effects,
        channels: Channels::new(Vec::new(), BreakerPolicy::default(), clock.clone(), health.metrics()),
        documents,
        templates: Templates::load(None).unwrap(),
        clock,
        random: Random::system(),
        health,
        max_concurrency: None,
    };
    Running { pipeline: Pipeline::start(&parts).unwrap(), port, stop }
}

pub struct Site<'a> {
    world: &'a World,
    pub endpoint: TaskEndpoint,
    pub options: Options,
    running: Option<Running>,
}

impl<'a> Site<'a> {
    pub async fn start(world: &'a World, options: Options) -> Self {
        let mut site = Self::without_worker(world, options).await;
        site.work().await;
        site
    }

    pub async fn without_worker(world: &'a World, options: Options) -> Self {
        let endpoint = TaskEndpoint::start(world.directory.path()).await;
        streams(&world.overrides, &options).apply(&world.context).await.unwrap();
        Self { world, endpoint, options, running: None }
    }

    pub async fn work(&mut self) {
        let store = self.world.store.clone();
        self.work_as(&store).await;
    }

    pub async fn work_as(&mut self, store: &Store) {
        let Self { world, endpoint, options, .. } = self;
        let at = (endpoint.url.as_str(), endpoint.secret_file.as_path());
        let running = work(store, world.context.clone(), &world.overrides, at, options).await;
        self.running = Some(running);
    }

    pub async fn publish(&self, job_id: &str, body: &Value) {
        self.publish_to(KIND.name, job_id, body).await;
    }

    pub async fn publish_to(&self, kind: &str, job_id: &str, body: &Value) {
        self.world.publish_json(&format!("jobs.{kind}"), job_id, body).await;
    }

    /// Where its endpoint reports.
    pub fn desk(&self) -> String {
        format!("http://127.0.0.1:{}", self.running.as_ref().unwrap().port)
    }

    /// Status and body.
    pub async fn report(&self, job: &str, what: &str, token: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let url = format!("{}/tasks/{job}/{what}", self.desk());
        let answer = reqwest::Client::new().post(url).bearer_auth(token).body(body).send().await.unwrap();
        let status = answer.status();
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR);
        (status.as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    /// The token of the `number`-th request for a job, once its 202 is on record.
    pub async fn accepted(&self, job: &str, number: usize) -> String {
        let row = format!(
            "SELECT count(*) FROM job_runs JOIN job_tasks USING (job_id) WHERE job_id = '{job}' \
             AND job_runs.reason = 'accepted' AND job_tasks.state = 'accepted' AND open"
        );
        self.world
            .eventually(&format!("{job} is accepted"), async || {
                let posted = self.endpoint.posted(job);
                let token = posted.get(number - 1).map(|posted| posted.token().to_owned());
                token.filter(|token| !token.is_empty())
            })
            .await;
        self.world
            .eventually(&format!("{job} waits"), async || (self.world.count(&row).await == 1).then_some(()))
            .await;
        self.endpoint.posted(job)[number - 1].token().to_owned()
    }

    pub async fn error(&self, job: &str) -> String {
        self.world.store.runs_of(job).await.unwrap().remove(0).last_error.unwrap_or_default()
    }

    pub async fn attempts(&self, job: &str) -> i32 {
        self.world.store.runs_of(job).await.unwrap().remove(0).attempts
    }

    pub async fn stop(mut self) {
        if let Some(Running { pipeline, stop, .. }) = self.running.take() {
            pipeline.drain(LIMIT).await;
            stop.cancel();
        }
    }

    /// Does not wait for what hangs.
    pub fn abandon(mut self) {
        self.running.take();
    }
}
