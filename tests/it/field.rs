//! Cases from the field: inputs and failures that people met, each with the right value. `cargo test field` runs them,
//! and `docs/FIELD.md` lists them.

mod databases;
mod texts;
mod time;
mod zones;
