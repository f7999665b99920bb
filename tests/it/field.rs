//! Cases from the field: inputs and failures that people met, each with the right value. `cargo test field` runs them,
//! and `docs/FIELD.md` lists them.

mod commands;
mod databases;
mod producers;
mod texts;
mod time;
mod work;
mod zones;
