//! `testnet`: builds a fabric of real agents, breaks it on demand, takes it away.
//!
//! Parses, dispatches, prints: every command returns a report or a complaint,
//! and only this file writes them out. Must never exit with a code other than
//! those in [`testnet::complaint`], except as the program `exec` became.

mod bench;
mod cli;
mod commands;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use testnet::complaint::{Complaint, FAILED};

use self::cli::{Cli, Command};
use self::commands::Report;

fn main() -> ExitCode {
    // Before anything else: a keeper has one thread and little memory.
    let mut words = std::env::args_os().skip(1);
    if let (Some(word), Some(dir)) = (words.next(), words.next())
        && word == "keeper"
    {
        return runtime::keeper_main(Path::new(&dir));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.exit_code() == 0 => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&cli::complaint(&error)),
    };
    match dispatch(&cli) {
        Ok(report) => {
            report.print(cli.json);
            if report.has_failed() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
        }
        Err(complaint) => fail(&complaint),
    }
}

fn dispatch(cli: &Cli) -> Result<Report, Complaint> {
    use commands as c;
    let dir = &cli.directory();
    match &cli.command {
        Command::Up(args) => c::up::run(dir, args),
        Command::Bench(args) => c::bench::run(args),
        Command::Down => c::down::run(dir),
        Command::Ls => c::ls::run(dir),
        Command::Cut(args) => c::cut::run(dir, args),
        Command::Heal(args) => c::heal::run(dir, args),
        Command::Isolate(args) => c::isolate::run(dir, args),
        Command::Partition(args) => c::partition::run(dir, args),
        Command::Link(args) => c::link::run(dir, args),
        Command::Pause(args) => c::pause::run(dir, args),
        Command::Resume(args) => c::resume::run(dir, args),
        Command::Kill(args) => c::kill::run(dir, args),
        Command::Restart(args) => c::restart::run(dir, args),
        Command::Escape(args) => c::escape::run(args),
        Command::Exec(args) => c::exec::run(dir, args),
        Command::OciValidate(args) => c::oci_validate::run(args),
        Command::Sim(args) => c::sim::run(args),
        Command::Vm(args) => c::vm::run(args),
        Command::Switch => c::switch::run(dir),
    }
}

fn fail(complaint: &Complaint) -> ExitCode {
    eprintln!("{complaint}");
    ExitCode::from(complaint.code())
}
