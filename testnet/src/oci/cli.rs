//! The command line of `oci`: the one that container engines and the validation suite use.
//!
//! Only words, and the way to [`life`](super::life). Errors are three lines on the standard
//! error, and with `--log` a line of the log too.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use runtime::{Recipient, TaskId};

use super::life::{Force, Home, SPEC};
use super::signals;
use crate::complaint::{Complaint, FAILED, USAGE};

/// Where containers are remembered unless `--root` says otherwise.
const ROOT: &str = "/run/starling-oci";

/// Runs OCI bundles on Starling's isolator. Needs root.
#[derive(Debug, Parser)]
#[command(
    name = "oci",
    disable_version_flag = true,
    after_help = "Examples:\n  \
        oci run --bundle ./busybox box              all of the below at once\n  \
        oci create --bundle ./busybox --pid-file /tmp/p box\n  \
        oci start box\n  \
        oci state box                                JSON, as the specification has it\n  \
        oci kill box KILL && oci delete box\n\n\
        What a bundle asks for and cannot be done is refused by the name of its field.\n\
        Exit codes: 0 done, 1 failed, 2 usage; of `run`: the program's."
)]
struct Cli {
    /// Where containers are remembered, and their keeper works
    #[arg(long, value_name = "DIR", default_value = ROOT, global = true)]
    root: PathBuf,
    /// Also write errors to this file
    #[arg(long, value_name = "FILE", global = true)]
    log: Option<PathBuf>,
    /// How
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,
    /// Print the versions of program and specification
    #[arg(short, long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container, up to but not including its program
    #[command(after_help = "Example:\n  oci create --bundle ./busybox --pid-file /tmp/p box")]
    Create(Create),
    /// Let a created container's program begin
    #[command(after_help = "Example:\n  oci start box")]
    Start(Name),
    /// Print what a container does
    #[command(after_help = "Example:\n  oci state box | jq -r .status")]
    State(Name),
    /// Send a signal to a created or running container's program
    #[command(
        after_help = "Examples:\n  oci kill box\n  oci kill box KILL\n  oci kill --all box 9"
    )]
    Kill(Kill),
    /// Remove a stopped container
    #[command(after_help = "Examples:\n  oci delete box\n  oci delete --force box")]
    Delete(Delete),
    /// Create, start, wait, delete
    #[command(after_help = "Example:\n  oci run --bundle ./busybox box; echo $?")]
    Run(Create),
    #[command(hide = true, after_help = "Example:\n  oci keeper DIR")]
    Keeper { dir: PathBuf },
}

#[derive(Debug, Args)]
struct Name {
    /// The container
    id: TaskId,
}

#[derive(Debug, Args)]
struct Create {
    /// Its directory, with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write the number of its first process here
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// A socket that gets its terminal; not to be had yet, nor is process.terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// A name for it: A-Z a-z 0-9 . _ -
    id: TaskId,
}

#[derive(Debug, Args)]
struct Kill {
    /// Every process of it
    #[arg(short, long)]
    all: bool,
    /// The container
    id: TaskId,
    /// By name or number
    #[arg(default_value = "TERM", value_parser = signals::parse)]
    signal: i32,
}

#[derive(Debug, Args)]
struct Delete {
    /// Whatever it does, and whether or not it is there
    #[arg(short, long)]
    force: bool,
    /// The container
    id: TaskId,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // Before anything else: a keeper has one thread and little memory.
    let mut words = std::env::args_os().skip(1);
    if let (Some(word), Some(dir)) = (words.next(), words.next())
        && word == "keeper"
    {
        return runtime::keeper_main(Path::new(&dir));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.exit_code() == 0 { 0 } else { USAGE });
        }
    };
    match perform(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(complaint) => {
            eprintln!("{complaint}");
            log(&cli, &complaint);
            ExitCode::from(complaint.code())
        }
    }
}

fn perform(cli: &Cli) -> Result<u8, Complaint> {
    let Some(command) = &cli.command else {
        if cli.version {
            print(&format!("oci version {}\nspec: {SPEC}\n", env!("CARGO_PKG_VERSION")));
            return Ok(0);
        }
        let why = "one of create, start, state, kill, delete, run is needed";
        return Err(Complaint::new("no command", why, "`oci --help` has examples").with_code(USAGE));
    };
    let home = Home::at(&cli.root)?;
    let waiter = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let waiter =
        waiter.map_err(|error| Complaint::caused("cannot begin", &error, "free some memory"))?;
    waiter.block_on(async {
        match command {
            Command::Create(args) => {
                args.check()?;
                let pid_file = args.pid_file.as_deref();
                home.create(&args.id, &args.bundle, pid_file).await.map(|_| 0)
            }
            Command::Run(args) => {
                args.check()?;
                let pid_file = args.pid_file.as_deref();
                let code = home.run(&args.id, &args.bundle, pid_file).await?;
                Ok(u8::try_from(code).unwrap_or(FAILED))
            }
            Command::Start(args) => home.start(&args.id).await.map(|()| 0),
            Command::State(args) => {
                print(&format!("{}\n", home.state(&args.id).await?.text()));
                Ok(0)
            }
            Command::Kill(args) => {
                let to = if args.all { Recipient::All } else { Recipient::Main };
                home.kill(&args.id, args.signal, to).await.map(|()| 0)
            }
            Command::Delete(args) => {
                let force = if args.force { Force::Yes } else { Force::No };
                home.delete(&args.id, force).await.map(|()| 0)
            }
            // Taken before anything else, with its directory.
            Command::Keeper { .. } => Ok(0),
        }
    })
}

impl Create {
    fn check(&self) -> Result<(), Complaint> {
        match &self.console_socket {
            None => Ok(()),
            Some(_) => Err(Complaint::new(
                "there is no terminal to hand out",
                "--console-socket belongs to process.terminal, which this runtime cannot do yet",
                "create it without a terminal",
            )),
        }
    }
}

fn print(text: &str) {
    // Whoever reads may have stopped reading.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn log(cli: &Cli, complaint: &Complaint) {
    let Some(path) = &cli.log else { return };
    let said = complaint.to_string().replace('\n', "; ");
    let line = match cli.log_format {
        LogFormat::Text => format!("level=error msg={said:?}\n"),
        LogFormat::Json => format!("{}\n", serde_json::json!({"level": "error", "msg": said})),
    };
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("warning: cannot write to {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            assert!(help.is_some_and(|help| help.contains("Example")), "{}", command.get_name());
        }
    }
}
