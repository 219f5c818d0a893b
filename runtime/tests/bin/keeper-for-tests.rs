//! The binary the tests hand to the runtime as the agent's own program.
//!
//! It knows one command, `keeper DIR`. It must never do anything before
//! handing over, just as the real binary must not: no threads, no async.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(word), Some(dir)) if word == "keeper" => runtime::keeper_main(Path::new(&dir)),
        _ => {
            eprintln!("usage: keeper-for-tests keeper DIR");
            ExitCode::FAILURE
        }
    }
}
