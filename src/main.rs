//! The `hark` program: arguments → configuration → the gateway, until it is told to stop.

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match hark::cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // the control runtime: accepting, HTTP, webhooks; audio has threads of its own
    match tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build() {
        Ok(runtime) => runtime.block_on(cli.command.run()),
        Err(error) => {
            eprintln!("hark: no threads to run on: {error}");
            ExitCode::FAILURE
        }
    }
}
