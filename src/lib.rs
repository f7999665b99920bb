//! Carebell turns reminder and notification jobs, protobuf messages on NATS `JetStream`, into inbox rows and deliveries
//! that arrive once, on time, or end in a dead-letter stream where a person can see why.
//!
//! The path of a job:
//!
//! 1. [`pipeline`] pulls a message from the consumer of its kind and lane, and decodes it with the [`wire`] types;
//! 2. [`effects`] decides whether it may run;
//! 3. its kind, one of [`jobs`], decides in [`job::Job::work`] and returns a [`plan::Plan`]; a delivery's `work` also
//!    sends, through [`channels`];
//! 4. [`effects`] commits the plan through [`store`] and publishes its children;
//! 5. [`pipeline`] settles the message. [`dead_letter`] keeps jobs that failed for good.
//!
//! `docs/ARCHITECTURE.md` draws this path file by file. The modules below are grouped in four layers.

// The program: commands, configuration, the worker around everything, and servers for tests.
pub mod acts;
pub mod admin;
pub mod cli;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod drafts;
pub mod explain;
pub mod gateway;
pub mod health;
pub mod http;
pub mod worker;

// The path of a job: from pull to settle, and the modules that publish or bury jobs beside it.
pub mod callbacks;
pub mod dead_letter;
pub mod effects;
pub mod jobs;
pub mod pipeline;
pub mod scheduler;
pub mod tasks;

// The outside: people, Postgres, NATS, the texts, and what is measured.
pub mod channels;
pub mod documents;
pub mod group;
pub mod intake;
pub mod nats;
pub mod reads;
pub mod store;
pub mod streams;
pub mod telemetry;
pub mod templates;

// The vocabulary: types and small tools that the other layers share.
pub mod checkpoint;
pub mod clock;
mod cut;
pub mod declared;
pub mod events;
pub mod header;
mod host;
pub mod job;
pub mod kind;
pub mod meta;
mod near;
pub mod pauses;
pub mod person;
pub mod plan;
pub mod policy;
pub mod preferences;
pub mod retry;
pub mod schedule;
pub mod show;
pub mod text;
mod when;
pub mod wire;
