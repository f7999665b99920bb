//! Carebell turns reminder and notification jobs, protobuf messages on NATS `JetStream`, into inbox rows and Web
//! Pushes that arrive once, on time, or end in a dead-letter stream where a person can see why.
//!
//! One way through, in the order in which a job takes it:
//!
//! 1. [`pipeline`] pulls a message from the durable consumer of its kind and lane, and reads it with the [`wire`] types;
//! 2. [`effects`] looks up whether it may run: a job that has run before is not run again;
//! 3. its kind, one of [`jobs`], decides in [`job::Job::work`] and answers a [`plan::Plan`];
//! 4. [`effects`] commits the plan through [`store`] and publishes what follows from it, or a channel of [`channels`]
//!    sends the one delivery that the job is. Where all goes well, [`pipeline`] plans a reminder's notification with
//!    it, in one commit, and sends the pushes, without messages for them;
//! 5. [`pipeline`] settles the message; what failed for good is kept by [`dead_letter`].
//!
//! [`templates`] makes what people read, [`streams`] holds the streams and consumers, [`policy`] how each queue behaves, [`schedule`] reckons when a schedule
//! is due, [`scheduler`] publishes it then, [`worker`] ties all together, and [`dev`] starts the private servers that `carebell dev` and the tests share.
//! `docs/ARCHITECTURE.md` tells the reasons.

pub mod callbacks;
pub mod channels;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dead_letter;
pub mod dev;
pub mod doctor;
pub mod effects;
pub mod group;
pub mod health;
pub mod http;
pub mod job;
pub mod jobs;
pub mod kind;
pub mod meta;
pub mod nats;
pub mod person;
pub mod pipeline;
pub mod plan;
pub mod policy;
pub mod preferences;
pub mod reads;
pub mod retry;
pub mod schedule;
pub mod scheduler;
pub mod store;
pub mod streams;
pub mod telemetry;
pub mod templates;
pub mod text;
pub mod wire;
pub mod worker;
