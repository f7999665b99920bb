//! Everything on real servers: nats-server, Postgres, a strict push service, and the program itself.

// One assertion a line reads better here than an error path that cannot be tested.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

mod cli;
mod crashes;
mod deliver_web_push;
mod dev;
mod doctor;
mod jobs_show;
mod layout;
mod notification;
mod outages;
mod pipeline;
mod records;
mod reminder_medication;
mod shutdown;
mod streams;
mod way;
mod web_push;
