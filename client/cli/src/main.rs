//! `wmall`: every role and every command in one binary, so that versions cannot skew.
//!
//! Data goes to stdout, progress and errors to stderr. Exit codes are in `exit.rs`.

mod args;
mod cmd;
mod end;
mod exit;
mod output;
mod progress;

use std::process::ExitCode;

/// glibc's allocator halves the speed of receiving QUIC.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::Failure::local("cannot start the runtime", &error).report(),
    };
    let outcome = runtime.block_on(async {
        end::watch(&args.command);
        cmd::run(args).await
    });
    // A blocking read of a terminal or pipe must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
