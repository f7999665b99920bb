//! Arguments, environment, signals; nothing else.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    carebell::cli::main(carebell::cli::Cli::parse()).await
}
