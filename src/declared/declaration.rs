//! A declared kind, as its file says it, with all values checked.

use std::{path::PathBuf, time::Duration};

use url::Url;

use crate::{channels::outbound::AllowedHost, kind::Kind, policy::Policy};

/// A kind that an endpoint carries out.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Name and lanes; its stage is [`crate::kind::Stage::Task`].
    pub kind: Kind,
    /// Told to the endpoint, so that it knows the shape of a job.
    pub version: u32,
    /// How the job's body reaches the endpoint.
    pub form: BodyForm,
    /// Who carries it out.
    pub endpoint: Endpoint,
    /// Attempts, backoff, jitter, timeout of one attempt, concurrency of a process, rate.
    pub policy: Policy,
    /// How long an accepted job may take until its end.
    pub deadline: Duration,
    /// How long an accepted job may be silent; at most `deadline`.
    pub heartbeat: Duration,
    /// When a job expires whose producer set no `Carebell-Not-After`, after its publication.
    pub expires: Duration,
    /// Open tasks over all processes.
    pub in_flight: Option<u32>,
    /// Kinds that its effects may be of.
    pub may_publish: Vec<String>,
    /// Days that completed runs stay on record.
    pub keep_days: Option<u32>,
    /// Completed runs that stay on record at most.
    pub keep_last: Option<u32>,
    /// Days that dead runs stay on record.
    pub keep_dead: Option<u32>,
    /// Of the files, in hexadecimal: shows whether an installation runs another version.
    pub digest: String,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyForm {
    /// Canonical JSON.
    Json,
    /// Protobuf.
    Protobuf,
}

/// Who carries out the jobs of a kind.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// An HTTP endpoint.
    Http(Http),
    /// An ADR-32 service of this name.
    Nats(String),
}

/// An HTTP endpoint.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where jobs are posted.
    pub url: Url,
    /// Holds the secrets of Standard Webhooks (`whsec_…`), a line each; the first signs first.
    pub secret_file: PathBuf,
    /// How it may answer.
    pub mode: Mode,
    /// What follows if it may have done a job, and did not say so.
    pub after_unknown: AfterUnknown,
    /// PEM file of additional trusted roots.
    pub ca_file: Option<PathBuf>,
    /// Hosts that may have a private address or another port than 443.
    pub allowed_hosts: Vec<AllowedHost>,
}

/// How an endpoint may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With the result.
    Sync,
    /// With 202, and the result later.
    Async,
    /// As it likes.
    Either,
}

/// What follows on silence after a request went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterUnknown {
    /// The request is sent again, with the same `webhook-id`.
    SendAgain,
    /// The job is dead.
    Stop,
}
