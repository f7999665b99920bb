//! Entry point: arguments, environment, signals.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    carebell::cli::main(carebell::cli::Cli::from_arguments()).await
}
