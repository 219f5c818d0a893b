//! The command line: what may be typed, and which file answers it.
//!
//! One short file per command under `cli/`; they share a client (`client`,
//! `door`, `lines`), one printer (`output`, `table`, `times`) and one way to
//! fail (`errors`). The client runs on one thread and looks nothing up: a `run`
//! of a short program is mostly the program.
//!
//! Must never: decide anything that the agent decides. It asks and shows.

mod advice;
mod bundle;
pub(crate) mod client;
mod container;
mod cp;
mod daemon;
mod docker;
mod doctor;
pub(crate) mod door;
mod down;
pub(crate) mod errors;
mod events;
mod exec;
mod follow;
mod health;
mod help;
mod id_file;
mod image;
mod inside;
mod interrupt;
mod invite;
mod job;
mod job_name;
mod lines;
mod listed;
mod login;
mod logs;
mod mounts;
mod names;
mod node;
mod output;
mod paths;
mod plan;
mod progress;
mod ps;
mod resources;
mod restart;
mod run;
mod security;
mod settings;
mod ship;
mod status;
mod stop;
mod table;
mod tasks;
mod terminal;
mod times;
mod token;
mod typing;
mod up;
mod usage;
mod version;
mod wait;
mod waiting;
mod why;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::api::types::Complaint;
use crate::cli::client::Client;
use crate::cli::door::Door;
use crate::cli::errors::Failed;
use crate::cli::image::ImageCommand;
use crate::cli::output::{Format, Output};
use crate::cli::paths::{Places, Surroundings};

/// Turns a handful of machines into one computer: any peer takes a job, peers bid, the best one runs it
#[derive(Debug, Parser)]
#[command(
    name = "starling",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Debug)]
struct Global {
    /// The agent's data directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "STARLING_DATA",
        hide_env = true,
        help_heading = "Global options"
    )]
    data: Option<PathBuf>,
    /// The agent's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "STARLING_SOCKET",
        hide_env = true,
        help_heading = "Global options"
    )]
    socket: Option<PathBuf>,
    /// Ask another host's agent
    #[arg(long, global = true, value_name = "HOST[:PORT]", help_heading = "Global options")]
    peer: Option<String>,
    /// Print the API's JSON
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Print names only, and no notes
    #[arg(short, long, global = true, conflicts_with = "json", help_heading = "Global options")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program on whichever node suits best
    #[command(after_help = "Examples:\n  starling run --rm -it alpine sh\n  \
        starling run -d --name web --replicas 3 -p 8080:80 nginx:1.27\n  \
        starling run --array 100 --cpus 1 -m 512m --exec -- ./simulate")]
    Run(Box<run::RunArgs>),
    /// List tasks and where they run
    #[command(after_help = "Examples:\n  starling ps\n  starling ps -a web\n  \
        starling ps --json | jq -r '.items[] | [.task, .node_name] | @tsv'")]
    Ps(ps::PsArgs),
    /// List jobs
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  starling jobs\n  starling stop $(starling jobs -q)"
    )]
    Jobs(ps::JobsArgs),
    /// Show what a job's tasks wrote
    #[command(after_help = "Examples:\n  starling logs web\n  starling logs -f -n 20 web.2\n  \
        starling logs -t web | grep error")]
    Logs(logs::LogsArgs),
    /// Run another program beside a task's own, inside it
    #[command(
        after_help = "Examples:\n  starling exec web.2 -- ls /\n  starling exec -it web.2 sh\n  \
        tar c conf | starling exec -i web.2 -- tar x -C /srv"
    )]
    Exec(exec::ExecArgs),
    /// Copy files out of a task, or into it
    #[command(after_help = "A plain process has its scratch directory, where its paths begin.\n\n\
        Examples:\n  starling cp web.2:/var/log/app.log .\n  starling cp conf/. web.2:/srv/conf\n  \
        starling cp web.2:/srv - | tar t")]
    Cp(cp::CpArgs),
    /// Type into a task that was started with -i, and see what it writes
    #[command(
        after_help = "Ctrl-P Ctrl-Q leaves it running. Ctrl-C is passed on and may end it, unless \
        --sig-proxy=false.\n\nExamples:\n  starling attach shell\n  \
        starling attach --no-stdin --sig-proxy=false web.1"
    )]
    Attach(exec::AttachArgs),
    /// Send tasks a signal
    #[command(after_help = "Examples:\n  starling kill web.2\n  starling kill -s HUP web.1 web.2")]
    Kill(tasks::KillArgs),
    /// Freeze tasks: they keep their memory and get no CPU
    #[command(after_help = "Examples:\n  starling pause train.3\n  starling pause web.1 web.2")]
    Pause(tasks::TasksNamed),
    /// Let paused tasks go on
    #[command(after_help = "Examples:\n  starling unpause train.3\n  starling unpause web.1 web.2")]
    Unpause(tasks::TasksNamed),
    /// Show what tasks use
    #[command(after_help = "Examples:\n  starling stats\n  starling stats -f web.1 web.2\n  \
        starling stats --json | jq '.items[] | [.task, .memory_bytes]'")]
    Stats(tasks::StatsArgs),
    /// List the processes of a task
    #[command(after_help = "Examples:\n  starling top web.2\n  starling top web.2 --json")]
    Top {
        /// A task as JOB.INDEX, or a job that has one
        task: String,
    },
    /// Wait until jobs are over; exit with their exit code
    #[command(after_help = "Examples:\n  starling wait train\n  \
        starling wait --timeout 10m train && starling logs train")]
    Wait(wait::WaitArgs),
    /// Stop jobs; their names and logs stay
    #[command(after_help = "Examples:\n  starling stop web\n  starling stop web worker")]
    Stop(stop::JobsNamed),
    /// Stop jobs if they still run, and forget them
    #[command(after_help = "Examples:\n  starling rm web\n  starling rm train-1 train-2")]
    Rm(stop::RmArgs),
    /// Load, pull, list, save and remove images
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Examples:\n  starling image load app.tar\n  starling image ls\n  \
        starling image where app"
    )]
    Image {
        #[command(subcommand)]
        command: image::ImageCommand,
    },
    /// Carry jobs and their images to another cluster in a file
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Examples:\n  starling bundle export -o shop.bundle web worker\n  \
        starling bundle show shop.bundle\n  starling bundle import shop.bundle"
    )]
    Bundle {
        #[command(subcommand)]
        command: bundle::BundleCommand,
    },
    /// Docker's word for `image ls`
    #[command(hide = true)]
    Images(image::LsArgs),
    /// Docker's word for `image load`
    #[command(hide = true)]
    Load(image::LoadArgs),
    /// Docker's word for `image pull`
    #[command(hide = true)]
    Pull(image::PullArgs),
    /// Docker's word for `image push`
    #[command(hide = true)]
    Push(image::PushArgs),
    /// Docker's word for `image save`
    #[command(hide = true)]
    Save(image::SaveArgs),
    /// Docker's word for `image import`
    #[command(hide = true)]
    Import(image::ImportArgs),
    /// Docker's word for `image tag`
    #[command(hide = true)]
    Tag(image::TagArgs),
    /// Docker's word for `image rm`
    #[command(hide = true)]
    Rmi(image::RmArgs),
    /// Show this host's agent and its cluster
    #[command(after_help = "Examples:\n  starling status\n  \
        starling status --json | jq .cluster_free")]
    Status,
    /// Say, node by node, why a job does not run
    #[command(after_help = "Examples:\n  starling why train\n  \
        starling why train --json | jq .opinions")]
    Why {
        /// A name, an id, or the beginning of an id
        job: String,
    },
    /// Show what this host's agent saw and did
    #[command(after_help = "Examples:\n  starling events\n  starling events -f --job web\n  \
        starling events -f --json | jq -c 'select(.event == \"awarded\")'")]
    Events(events::EventsArgs),
    /// Make a token with which other hosts join; list and revoke those there are
    #[command(after_help = "Examples:\n  starling invite --ttl 2d --uses 10\n  \
        starling invite -q | ssh other-host starling join -\n  \
        starling invite --list && starling invite --revoke 3fe0a1c2")]
    Invite(invite::InviteArgs),
    /// Redeem an operator's token, so that --peer reaches the cluster from here
    #[command(after_help = "Examples:\n  starling login sl1-…\n  \
        ssh first-host starling invite --operator -q | starling login -\n  \
        starling --peer first-host ps")]
    Login(login::LoginArgs),
    /// List, inspect and remove the members of the cluster
    #[command(
        visible_alias = "nodes",
        after_help = "Examples:\n  starling node ls\n  starling node inspect h2\n  \
        starling node rm h3"
    )]
    Node {
        #[command(subcommand)]
        command: Option<node::NodeCommand>,
    },
    /// Start the agent here; the first host's makes a cluster
    #[command(
        after_help = "Examples:\n  starling up\n  starling up --name bay --cpus 4 --memory 8g\n  \
        starling up --foreground --data /srv/starling"
    )]
    Up(up::UpArgs),
    /// Start the agent here, as a member of an existing cluster
    #[command(after_help = "Examples:\n  starling join sl1-…\n  \
        ssh first-host starling invite -q | starling join -")]
    Join(up::JoinArgs),
    /// Stop the agent here; tasks go on
    #[command(after_help = "Examples:\n  starling down\n  starling down --stop-tasks")]
    Down(down::DownArgs),
    /// Run the agent in the foreground, as systemd does
    #[command(after_help = "Examples:\n  starling agent\n  \
        STARLING_LOG=debug starling agent --data /srv/starling")]
    Agent(up::HostArgs),
    /// Say what this host can and cannot enforce, each with its fix
    #[command(after_help = "Examples:\n  starling doctor\n  \
        starling doctor --json | jq -r '.findings[] | select(.state != \"ok\") | .fix'")]
    Doctor,
    /// Look into the container runtime of this host
    #[command(after_help = "Examples:\n  starling runtime plan --exec -- echo hello\n  \
        starling runtime plan --rootfs /srv/alpine -- sh")]
    Runtime {
        #[command(subcommand)]
        command: plan::RuntimeCommand,
    },
    /// Print this program's version
    #[command(after_help = "Examples:\n  starling version\n  starling version --json")]
    Version,
    /// Show a cluster on this machine, and what it survives, in 90 seconds
    #[command(after_help = "Examples:\n  starling demo\n  TMPDIR=/var/tmp starling demo")]
    Demo,
    /// What `up` and `join` start
    #[command(hide = true)]
    AgentStart(up::StartArgs),
    /// One task of the demo's array
    #[command(hide = true)]
    PiSlice,
}

/// All that may be typed.
fn command() -> clap::Command {
    help::grouped(Cli::command())
}

/// Reads the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    token::hide();
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(usage) if usage.kind() == ErrorKind::MissingSubcommand => {
            // Nobody is left to be told that stderr is closed.
            let _closed = write!(std::io::stderr(), "{}", command().render_help());
            return ExitCode::from(errors::USAGE);
        }
        Err(help) if is_help(help.kind()) => {
            // Nobody is left to be told that the stream is closed.
            let _closed = help.print();
            return ExitCode::from(if help.use_stderr() { errors::USAGE } else { 0 });
        }
        Err(usage) => {
            let words: Vec<_> = std::env::args_os().skip(1).collect();
            return ExitCode::from(usage::told(&command(), &usage, &words));
        }
    };
    let out = Output { format: format_of(&cli.global) };
    let exit = match dispatch(cli, out) {
        Ok(exit) => exit,
        Err(failed) => failed.report(out.format.failures()),
    };
    ExitCode::from(exit)
}

/// Whether somebody asked for help, or said nothing at all.
fn is_help(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

fn format_of(global: &Global) -> Format {
    match (global.json, global.quiet) {
        (true, _) => Format::Json,
        (false, true) => Format::Quiet,
        (false, false) => Format::Human,
    }
}

fn dispatch(cli: Cli, out: Output) -> Result<u8, Failed> {
    let Global { data, socket, peer, .. } = cli.global;
    match cli.command {
        Command::Version => return version::run(out),
        Command::Demo => return block_on(crate::demo::run()).map(|()| 0),
        Command::PiSlice => {
            crate::demo::pi_slice();
            return Ok(0);
        }
        _ => {}
    }
    if let Command::Bundle { command: bundle::BundleCommand::Show(args) } = &cli.command {
        return bundle::show(args, out);
    }
    if let Command::Login(args) = cli.command {
        return block_on(login::run(args, out));
    }
    if let Some(peer) = peer {
        return match cli.command {
            Command::Up(_) | Command::Join(_) | Command::Agent(_) | Command::AgentStart(_) => {
                Err(Complaint::new("local_only", "an agent is started on its own host")
                    .hint("run this command there, without --peer")
                    .into())
            }
            Command::Doctor | Command::Runtime { .. } => {
                Err(Complaint::new("local_only", "a host is examined by itself")
                    .hint("run this command there, without --peer")
                    .into())
            }
            Command::Down(args) => {
                block_on(down::run(args, &mut Client::new(Door::peer(&peer)), None, out))
            }
            command => block_on(ask(command, &mut Client::new(Door::peer(&peer)), out)),
        };
    }
    let places = Places::choose(data.as_deref(), socket.as_deref(), &Surroundings::here())?;
    match cli.command {
        Command::Up(args) => up::up(args, &places, out),
        Command::Join(args) => up::join(args, &places, out),
        Command::Agent(args) => up::agent(args, &places),
        Command::AgentStart(args) => up::agent_start(args, &places),
        Command::Doctor => doctor::run(&places, out),
        Command::Runtime { command: plan::RuntimeCommand::Plan(args) } => {
            block_on(plan::run(*args, &places, out))
        }
        Command::Down(args) => {
            let mut client = Client::new(Door::Unix(places.socket));
            block_on(down::run(args, &mut client, Some(&places.data), out))
        }
        command => {
            let mut client = Client::new(Door::Unix(places.socket_to_ask().to_owned()));
            block_on(ask(command, &mut client, out))
        }
    }
}

async fn ask(command: Command, client: &mut Client, out: Output) -> Result<u8, Failed> {
    match command {
        Command::Run(args) => run::run(*args, client, out).await,
        Command::Ps(args) => ps::ps(args, client, out).await,
        Command::Jobs(args) => ps::jobs(args, client, out).await,
        Command::Logs(args) => logs::run(args, client, out).await,
        Command::Exec(args) => exec::exec(args, client).await,
        Command::Cp(args) => cp::run(args, client, out).await,
        Command::Attach(args) => exec::attach(args, client).await,
        Command::Kill(args) => tasks::kill(args, client, out).await,
        Command::Pause(args) => tasks::pause(args, client, out).await,
        Command::Unpause(args) => tasks::unpause(args, client, out).await,
        Command::Stats(args) => tasks::stats(args, client, out).await,
        Command::Top { task } => tasks::top(&task, client, out).await,
        Command::Wait(args) => wait::run(args, client, out).await,
        Command::Stop(args) => stop::stop(args, client, out).await,
        Command::Rm(args) => stop::rm(args, client, out).await,
        Command::Image { command } => image::run(command, client, out).await,
        Command::Images(args) => image::run(ImageCommand::Ls(args), client, out).await,
        Command::Load(args) => image::run(ImageCommand::Load(args), client, out).await,
        Command::Pull(args) => image::run(ImageCommand::Pull(args), client, out).await,
        Command::Push(args) => image::run(ImageCommand::Push(args), client, out).await,
        Command::Save(args) => image::run(ImageCommand::Save(args), client, out).await,
        Command::Import(args) => image::run(ImageCommand::Import(args), client, out).await,
        Command::Tag(args) => image::run(ImageCommand::Tag(args), client, out).await,
        Command::Rmi(args) => image::run(ImageCommand::Rm(args), client, out).await,
        Command::Bundle { command } => bundle::run(command, client, out).await,
        Command::Status => status::run(client, out).await,
        Command::Why { job } => why::run(&job, client, out).await,
        Command::Events(args) => events::run(args, client, out).await,
        Command::Invite(args) => invite::run(args, client, out).await,
        Command::Node { command } => node::run(command, client, out).await,
        Command::Up(_)
        | Command::Join(_)
        | Command::Down(_)
        | Command::Agent(_)
        | Command::AgentStart(_)
        | Command::Login(_)
        | Command::Doctor
        | Command::Runtime { .. }
        | Command::Demo
        | Command::PiSlice
        | Command::Version => {
            Err(Complaint::new("usage", "this is no question to an agent").into())
        }
    }
}

/// Runs a client's command on this thread; what still writes then is left behind.
fn block_on<T>(command: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failed::from(Complaint::new("start", "the command cannot run").because(error))
    })?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn commands_are_found_by_their_other_names() {
        let read = |words: &[&str]| {
            Cli::try_parse_from(std::iter::once(&"starling").chain(words)).map(|cli| cli.command)
        };
        assert!(matches!(read(&["ls"]), Ok(Command::Jobs(_))));
        assert!(matches!(read(&["nodes"]), Ok(Command::Node { command: None })));
        assert!(matches!(read(&["node", "ls"]), Ok(Command::Node { command: Some(_) })));
        assert!(matches!(read(&["ps", "-a", "web", "--json"]), Ok(Command::Ps(_))));
        let typo = read(&["statsu"]).expect_err("a typo").to_string();
        assert!(typo.contains("status"), "{typo}");
    }

    #[test]
    fn global_flags_stand_anywhere_but_after_a_command_to_run() {
        let words = ["starling", "run", "--exec", "--json", "--", "echo", "--quiet", "--peer", "x"];
        let cli = Cli::try_parse_from(words).expect("parses");
        assert!(cli.global.json && !cli.global.quiet && cli.global.peer.is_none());
    }
}
