//! Tests on real servers: nats-server, Postgres, a strict push service, and the program itself.
//!
//! - `cargo test` skips the soak tests: long storms, masses and outages, marked `#[ignore = "soak: …"]`.
//! - `cargo test -- --include-ignored` runs them too, as `.ci/run` always does.
//! - `cargo test --test it -- part_of_a_name` runs single tests.
//!
//! Tests mostly wait, so `.cargo/config.toml` runs more at a time than there are cores. `RUST_TEST_THREADS` in the
//! environment wins.

// One assertion a line reads better here than an error path that cannot be tested.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

mod acts;
mod acts_on_many;
mod admin;
mod admin_aliases;
mod admin_document;
mod admin_faults;
mod admin_oidc;
mod admin_proxy;
mod admin_publish;
mod admin_reads;
mod admin_rights;
mod admin_schedules;
mod admin_zones;
mod alert_refill;
mod alerts;
mod alike;
mod applications;
mod bad_input;
mod beside;
mod breakers;
mod bridge;
mod callbacks;
mod cancelled;
mod care_reminders;
mod channel_names;
mod chart;
mod cli;
mod cluster;
mod combined;
mod connections;
mod console;
mod counts;
mod crashes;
mod dead_letters;
mod delayed;
mod deliver_email;
mod deliver_sms;
mod deliver_voice;
mod deliver_web_push;
mod deliver_webhook;
mod deliver_whatsapp;
mod dev;
mod direct_sends;
mod doctor;
mod document_cleanup;
mod document_upload;
mod email;
mod events;
mod explain;
mod failover;
mod families;
mod field;
mod full;
mod gateway;
mod gateway_bounds;
mod gateway_rights;
mod image;
mod inbox;
mod jobs_show;
mod lanes;
mod layout;
mod leaders;
mod listeners;
mod lists;
mod logs;
mod maintenance_prune;
mod maintenance_subscriptions;
mod many_hosts;
mod metrics;
mod mixed;
mod notification;
mod operations;
mod outages;
mod patience;
mod pauses;
mod pipeline;
mod poison;
mod preferences;
mod prisma;
mod producers;
mod punctuality;
mod queues;
mod rate_limits;
mod readme;
mod records;
mod recovery;
mod reminder_appointment;
mod reminder_medication;
mod reminder_shift;
mod report_ledger;
mod retries;
mod scheduler;
mod schedules;
mod secure;
mod shutdown;
mod states;
mod storm;
mod strangers;
mod streams;
mod sweep;
mod tasks;
mod templates;
mod testkit;
mod traces;
mod unsettled;
mod views;
mod waits;
mod way;
mod web_push;
