//! The binary `starling`: who is being started, decided before anything else.
//!
//! Three programs share it: the keeper, which must be single-threaded and so
//! is recognised here by hand before clap, a thread or tokio exists; the agent,
//! which runs on many threads; and the client, which runs on one.
//!
//! Nothing here may allocate a thread, read configuration or print: that is
//! for whoever is dispatched to.

mod agent;
mod api;
mod cli;
mod demo;
mod remote;
mod session;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|word| word == "keeper") {
        let Some(dir) = args.next() else {
            eprintln!("error: `starling keeper` is started by the agent, with a directory");
            return ExitCode::from(2);
        };
        return runtime::keeper_main(Path::new(&dir));
    }
    cli::main()
}
