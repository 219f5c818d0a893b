//! `exec` and `attach`: a program beside a task's own, and the task's own.

use clap::{ArgAction, Args};

use crate::api::types::Complaint;
use crate::cli::client::Client;
use crate::cli::errors::Failed;
use crate::cli::inside::{self, Ended, Keys, Session, Signals};
use crate::cli::interrupt::or_interrupt;
use crate::cli::job::{variable, variables};
use crate::cli::terminal::{self, Raw};
use crate::session::{Opening, Size};

/// What a program gets for a terminal if this end has none to take the size of.
const SIZE: Size = Size { rows: 24, columns: 80 };

/// The program is not there.
const NO_SUCH_PROGRAM: u8 = 127;
/// It is, and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;

/// The flags of `exec`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExecArgs {
    /// Give it this command's standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run as USER[:GROUP] of the container; the task's own if not said
    #[arg(short, long)]
    user: Option<String>,
    /// Start in this directory of the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Set a variable beside the task's; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// A task as JOB.INDEX, or a job that has one
    task: String,
    /// The program and its arguments
    #[arg(value_name = "CMD", trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// The flags of `attach`.
#[derive(Args, Clone, Debug)]
pub(crate) struct AttachArgs {
    /// Only show what it writes
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on, so that Ctrl-C ends it; with =false Ctrl-C ends only this command
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = true,
        num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true)]
    sig_proxy: bool,
    /// A task as JOB.INDEX, or a job that has one
    task: String,
}

/// `starling exec`.
pub(crate) async fn exec(args: ExecArgs, client: &mut Client) -> Result<u8, Failed> {
    let terminal = args.tty.then(|| terminal::size().unwrap_or(SIZE));
    if args.tty && args.interactive && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Complaint::new("usage", "standard input is no terminal")
            .because("-t makes a terminal of it")
            .hint("starling exec -i …   passes a pipe on")
            .into());
    }
    let opening = Opening::Exec {
        argv: args.command,
        env: variables(args.env, |name| std::env::var(name).ok()),
        directory: args.workdir,
        user: args.user,
        input: args.interactive,
        terminal,
    };
    let session = Session::open(client, &args.task, opening).await.map_err(told_apart)?;
    let keys = if args.interactive { Keys::Sent } else { Keys::Closed };
    let raw = args.tty && args.interactive;
    connect(session, keys, raw, Signals::Passed).await.map_err(told_apart)
}

/// As a shell says it, so that a script can tell whose failure it was: 127 for a program
/// that is not there, 126 for one that cannot be executed, 125 for all that is ours.
fn told_apart(failed: Failed) -> Failed {
    match failed.code() {
        Some("no_such_program") => failed.exiting(NO_SUCH_PROGRAM),
        Some("not_executable") => failed.exiting(NOT_EXECUTABLE),
        _ => failed.before_start(),
    }
}

/// `starling attach`.
pub(crate) async fn attach(args: AttachArgs, client: &mut Client) -> Result<u8, Failed> {
    let opening = Opening::Attach { terminal: terminal::size(), output: true };
    let session = Session::open(client, &args.task, opening).await?;
    let keys = if args.no_stdin { Keys::Closed } else { Keys::Left };
    // Where nothing reads, Ctrl-C is a signal and no key.
    let raw = !args.no_stdin && session.is_read;
    if args.sig_proxy {
        return connect(session, keys, raw, Signals::Passed).await;
    }
    // Its end restores the terminal, too.
    or_interrupt(connect(session, keys, raw, Signals::Kept)).await
}

async fn connect(session: Session, keys: Keys, raw: bool, signals: Signals) -> Result<u8, Failed> {
    let taken = if raw { Raw::take() } else { None };
    let ended = session.connect(keys, signals).await;
    drop(taken);
    Ok(match ended? {
        Ended::Exit(code) => inside::exit(code),
        Ended::Left => {
            inside::say_left();
            0
        }
    })
}
