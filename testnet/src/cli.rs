//! The command line: what can be asked for, with an example for each.
//!
//! Only shapes and words live here. Must never do anything: by the time a
//! command runs, everything it was given has been parsed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand};
use testnet::complaint::{Complaint, USAGE};
use testnet::fabric::amount::{Chance, Rate, Span};
use testnet::fabric::link::Change;
use testnet::sim::Mutant;
use testnet::vm::suite;

/// Runs real Starling agents on a network that can be broken at will.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        testnet up 3                 three agents, one cluster, one fabric\n  \
        testnet cut h1 h2            h1 and h2 no longer reach each other\n  \
        testnet partition h1,h2 h3   two sides\n  \
        testnet heal                 the network is whole again\n  \
        testnet down                 nothing is left\n\n\
        Exit codes: 0 done, 1 failed, 2 usage, 69 nothing is up."
)]
pub(crate) struct Cli {
    /// Where the fabric keeps its record, sockets, logs and the hosts' data
    /// [default: starling-testnet-UID in $XDG_RUNTIME_DIR or /tmp]
    #[arg(long, global = true, value_name = "DIR", env = "TESTNET_DATA")]
    data: Option<PathBuf>,

    /// Print data as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The fabric's directory.
    pub(crate) fn directory(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
            let parent = runtime.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
            let uid = rustix::process::geteuid().as_raw();
            parent.join(format!("starling-testnet-{uid}"))
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start N agents as one cluster on one fabric
    #[command(after_help = "Examples:\n  \
        testnet up 3\n  \
        testnet up 5 --delay 20 --jitter 5 --loss 0.1     as over a continent\n  \
        testnet up 3 --starling ./starling --data /tmp/a  this binary, a second fabric\n\n\
        As root, every host gets a network namespace (10.83.0.1, ...). Otherwise, or with\n\
        --loopback, hosts share the loopback interface (127.83.0.1, ...) and links cannot be broken.")]
    Up(Up),
    /// Stop the agents and their tasks, and leave nothing behind
    #[command(after_help = "Example:\n  testnet down")]
    Down,
    /// List the hosts, how they are, and the links in trouble
    #[command(after_help = "Examples:\n  testnet ls\n  testnet ls --json")]
    Ls,
    /// Let nothing pass between two hosts
    #[command(after_help = "Examples:\n  \
        testnet cut h1 h2\n  \
        testnet cut h1 h2 --one-way   h2 still reaches h1, and gets no answer")]
    Cut(Cut),
    /// Make links what they were when the fabric came up
    #[command(after_help = "Examples:\n  \
        testnet heal           every link\n  \
        testnet heal h1 h2     both directions of this one\n  \
        testnet heal --cuts    end cuts, keep delay and loss")]
    Heal(Heal),
    /// Cut a host off from all others
    #[command(after_help = "Example:\n  testnet isolate h2")]
    Isolate(OneHost),
    /// Cut groups of hosts off from each other
    #[command(after_help = "Examples:\n  \
        testnet partition h1,h2 h3,h4,h5\n  \
        testnet partition h1 h2 h3\n\n\
        Hosts that are in no group keep all their links. Earlier cuts stay: heal first.")]
    Partition(Partition),
    /// Show or change what is wrong with a link
    #[command(after_help = "Examples:\n  \
        testnet link h1 h2                          show both directions\n  \
        testnet link h1 h2 --loss 5 --delay 20\n  \
        testnet link h1 '*' --rate 1000 --one-way   slow upload\n  \
        testnet link '*' '*' --loss 0               back to none")]
    Link(LinkArgs),
    /// Freeze a host's agent; its tasks go on
    #[command(after_help = "Examples:\n  \
        testnet pause h1         the agent\n  \
        testnet pause h1 --all   keeper, supervisors and tasks too")]
    Pause(Torment),
    /// Let a paused host go on
    #[command(after_help = "Example:\n  testnet resume h1")]
    Resume(OneHost),
    /// Kill everything a host runs, as a power cut would
    #[command(after_help = "Examples:\n  \
        testnet kill h1\n  \
        testnet kill h1 --agent-only   as a crash of the agent would")]
    Kill(Kill),
    /// Start a host's agent again
    #[command(after_help = "Example:\n  testnet kill h1 && testnet restart h1\n\n\
        An agent that runs is ended first (SIGTERM); tasks stay.")]
    Restart(OneHost),
    /// Run a command on a host
    #[command(after_help = "Examples:\n  \
        testnet exec h1 -- starling status\n  \
        testnet exec h2 -- ping 10.83.0.1\n\n\
        STARLING_SOCKET is set, and `starling` is the one the fabric runs.")]
    Exec(Exec),
    /// Step the pure cores through seeded faults in virtual time
    #[command(after_help = "Examples:\n  \
        testnet sim --seeds 2000\n  \
        testnet sim --first 17 --trace      everything that happens in run 17\n  \
        testnet sim --mutant never-yield    a flaw on purpose, which a judge must catch\n\n\
        A run follows from its seed alone. Exits with 1 if anything was violated.")]
    Sim(Sim),
    /// Measure the shipped binary against what it must reach
    #[command(after_help = "Examples:\n  \
        testnet bench run-latency\n  \
        testnet bench run-latency --rounds 20 --json\n  \
        testnet bench runtime --install-peers          against crun, runc, bubblewrap\n  \
        testnet bench images --install-peers           against podman, docker, tar\n\n\
        Exits with 1 when a must is missed, with 3 when a peer could not be measured.")]
    Bench(Bench),
    /// Run the runtime's tests, or a command, in a virtual machine with cgroup v2
    #[command(after_help = "Examples:\n  \
        testnet vm                                the runtime's tests as root\n  \
        testnet vm --all                          and as both kinds of user, and the escapes, as one\n  \
        testnet vm --user                         as an ordinary user, with and without a cgroup\n  \
        testnet vm --user=undelegated --test tasks    one test binary, without a cgroup\n  \
        testnet vm --package testnet --test escape    the escapes, on the guest's kernel\n  \
        testnet vm --filter crash -v              some of them, with all that is said\n  \
        testnet vm -- cat /sys/fs/cgroup/cgroup.controllers\n  \
        testnet vm --with ./starling -- ./starling --help\n\n\
        Needs apt, and installs QEMU if root. The first run downloads some 60 MB into target/vm.\n\
        Exit codes: 1 a test or the command failed, 3 the guest itself did.")]
    Vm(Vm),
    /// Try the escapes of the last years on a container
    #[command(after_help = "Examples:\n  \
        testnet escape\n  \
        testnet escape E8 E14           only these\n  \
        testnet escape --runtime runc   rows that must fail there do\n  \
        testnet escape --bless          write down anew what a container sees\n\n\
        Exits with 1 if anything got out, or if a row cannot fail.")]
    Escape(Escape),
    /// Try the public OCI validation suite on our runtime, and on crun and runc beside it
    #[command(after_help = "Examples:\n  \
        testnet oci-validate                    all of it: some minutes\n  \
        testnet oci-validate --only-ours        without crun and runc\n  \
        testnet oci-validate kill mounts        only these tests\n\n\
        Takes root. The first time fetches the suite's source and a compiler from Debian,\n\
        and keeps what it builds. Exits with 1 if anything fails on ours that is not in\n\
        testnet/src/oci/suite/known.txt.")]
    OciValidate(OciValidate),
    /// Be the switch of a fabric
    #[command(hide = true)]
    Switch,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// How many hosts
    #[arg(value_name = "N")]
    pub(crate) hosts: usize,
    /// The agent's binary [default: built with cargo]
    #[arg(long, value_name = "PATH")]
    pub(crate) starling: Option<PathBuf>,
    /// Use loopback addresses even as root
    #[arg(long)]
    pub(crate) loopback: bool,
    /// Let hosts send up to 64 KiB as one frame: much faster, and lost at once
    #[arg(long)]
    pub(crate) bulk: bool,
    /// Keep what came up when something fails
    #[arg(long)]
    pub(crate) keep: bool,
    /// Seed of the switch's dice [default: a new one, printed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) faults: FaultArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FaultArgs {
    /// Frames that vanish
    #[arg(long, value_name = "PERCENT")]
    loss: Option<Chance>,
    /// Added to every frame
    #[arg(long, value_name = "MS")]
    delay: Option<Span>,
    /// Up to this much more, different for each frame
    #[arg(long, value_name = "MS")]
    jitter: Option<Span>,
    /// What passes per second; 0 is unlimited
    #[arg(long, value_name = "KBIT")]
    rate: Option<Rate>,
    /// Frames that arrive twice
    #[arg(long, value_name = "PERCENT")]
    duplicate: Option<Chance>,
    /// Frames that arrive with one bit wrong, past all checksums
    #[arg(long, value_name = "PERCENT")]
    corrupt: Option<Chance>,
}

impl FaultArgs {
    pub(crate) fn change(&self) -> Change {
        Change {
            cut: None,
            loss: self.loss,
            delay: self.delay,
            jitter: self.jitter,
            rate: self.rate,
            duplicate: self.duplicate,
            corrupt: self.corrupt,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cut {
    pub(crate) a: String,
    pub(crate) b: String,
    /// Only what A sends to B
    #[arg(long)]
    pub(crate) one_way: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Heal {
    #[arg(requires = "b")]
    pub(crate) a: Option<String>,
    pub(crate) b: Option<String>,
    /// End cuts only
    #[arg(long)]
    pub(crate) cuts: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OneHost {
    pub(crate) host: String,
}

#[derive(Debug, Args)]
pub(crate) struct Partition {
    /// Hosts that stay together, separated by commas
    #[arg(value_name = "A,B", num_args = 2.., required = true)]
    pub(crate) groups: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LinkArgs {
    /// A host, or * for all
    pub(crate) a: String,
    /// A host, or * for all
    pub(crate) b: String,
    /// Only what A sends to B
    #[arg(long)]
    pub(crate) one_way: bool,
    #[command(flatten)]
    pub(crate) faults: FaultArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Torment {
    pub(crate) host: String,
    /// Everything the host runs, not only the agent
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    pub(crate) host: String,
    /// The agent only; keeper, supervisors and tasks live on
    #[arg(long)]
    pub(crate) agent_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    pub(crate) host: String,
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// How many runs
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) seeds: u64,
    /// The seed of the first run; the others follow
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) first: u64,
    /// How many nodes a run has
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) nodes: usize,
    /// Tamper with the shell around the cores
    #[arg(long, value_name = "NAME")]
    pub(crate) mutant: Option<Mutant>,
    /// Run the first seed only, and write down everything that happens
    #[arg(long)]
    pub(crate) trace: bool,
}

/// Which cgroups ordinary users have in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Users {
    /// One of its own, as from systemd
    Delegated,
    /// None
    Undelegated,
    /// First the one, then the other
    Both,
}

#[derive(Debug, Args)]
pub(crate) struct Vm {
    /// The runtime's tests as root and as both kinds of user, and the escapes: half an hour
    #[arg(long, conflicts_with_all = ["user", "package", "tests", "command"])]
    pub(crate) all: bool,
    /// As an ordinary user: with a cgroup of its own, without, or once each
    #[arg(long, value_enum, num_args(0..=1), require_equals(true), value_name = "CGROUP",
        default_missing_value = "both")]
    pub(crate) user: Option<Users>,
    /// Whose tests
    #[arg(long, value_name = "NAME", default_value = suite::PACKAGE, conflicts_with = "command")]
    pub(crate) package: String,
    /// Only these test binaries; `lib` are the tests in the package itself
    #[arg(long = "test", value_name = "NAME", conflicts_with = "command")]
    pub(crate) tests: Vec<String>,
    /// Only tests whose name holds this
    #[arg(long, value_name = "TEXT", conflicts_with = "command")]
    pub(crate) filter: Option<String>,
    /// A file or tree to bring along, at the same path
    #[arg(long = "with", value_name = "PATH")]
    pub(crate) carry: Vec<PathBuf>,
    /// Main memory of the guest
    #[arg(long, value_name = "MIB", default_value_t = 1536,
        value_parser = clap::value_parser!(u32).range(256..=65536))]
    pub(crate) memory: u32,
    /// Processors of the guest
    #[arg(long, value_name = "N", default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: u32,
    /// How long each command (each test binary) may take
    #[arg(long, value_name = "SECONDS", default_value_t = 1800,
        value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) timeout: u64,
    /// Use the processor instead of emulating one
    #[arg(long)]
    pub(crate) kvm: bool,
    /// Keep the guest's initramfs, and say how to start it again
    #[arg(long)]
    pub(crate) keep: bool,
    /// Show both serial ports as they speak
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// What to run instead of the tests
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What to measure
    #[arg(value_name = "NAME")]
    pub(crate) name: Benchmark,
    /// Interleaved rounds, at least five
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) rounds: u32,
    /// The agent's binary [default: built with cargo; `runtime` takes its own keeper]
    #[arg(long, value_name = "PATH")]
    pub(crate) starling: Option<PathBuf>,
    /// runtime: no-op processes in all
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) tasks: u32,
    /// runtime: containers that sleep at once
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) crowd: u32,
    /// runtime, images: install the peers from the distribution first
    #[arg(long)]
    pub(crate) install_peers: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Benchmark {
    /// Loading, pulling and running an image, against podman, Docker and the machine
    Images,
    /// A container's and a process's start, against crun, runc, bubblewrap and the machine
    Runtime,
    /// `run --exec -- true` on another peer, from the CLI's start to its exit
    RunLatency,
}

#[derive(Debug, Args)]
pub(crate) struct Escape {
    /// Rows to try [default: all]
    #[arg(value_name = "ROW")]
    pub(crate) rows: Vec<String>,
    /// On whose containers
    #[arg(long, value_name = "NAME", default_value = "ours")]
    pub(crate) runtime: Isolator,
    /// Show what every payload said
    #[arg(long)]
    pub(crate) trace: bool,
    /// Write down anew what a default container sees
    #[arg(long)]
    pub(crate) bless: bool,
    /// The program that becomes the keeper [default: this one]
    #[arg(long, value_name = "PATH")]
    pub(crate) starling: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct OciValidate {
    /// Tests to run [default: all]
    #[arg(value_name = "TEST")]
    pub(crate) tests: Vec<String>,
    /// Our OCI runtime [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) oci: Option<PathBuf>,
    /// Not on crun and runc
    #[arg(long)]
    pub(crate) only_ours: bool,
    /// Where the suite is kept [default: target/oci-validation]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Isolator {
    /// Ours
    Ours,
    /// Debian's runc, with what `runc spec` says
    Runc,
}

/// A command line that does not parse, in three lines.
pub(crate) fn complaint(error: &clap::Error) -> Complaint {
    let text = error.to_string();
    let told: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let first = told.first().copied().unwrap_or("no command");
    let missing = told.iter().skip(1).take_while(|line| line.starts_with('<'));
    let mut what = first.trim_start_matches("error: ").to_owned();
    missing.for_each(|name| {
        what.push(' ');
        what.push_str(name);
    });
    let why = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => {
            let usage = usage.to_string();
            let usage = usage.trim_start_matches("Usage:").trim().replace('\n', " ");
            format!("the usage is `{usage}`")
        }
        _ => match what.split_once("': ") {
            Some((value, reason)) => {
                let reason = reason.to_owned();
                what = format!("{value}'");
                reason
            }
            None => "the command line does not say what it should".to_owned(),
        },
    };
    Complaint::new(what, why, "`testnet --help` and `testnet COMMAND --help` have examples")
        .with_code(USAGE)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            let shown = help.is_some_and(|help| help.contains("Example"));
            assert!(shown || command.is_hide_set(), "{}", command.get_name());
        }
    }

    #[test]
    fn nonsense_is_refused_in_three_lines_with_the_usage_code() {
        for line in [
            &["testnet", "up"][..],
            &["testnet", "up", "x"],
            &["testnet", "heal", "h1"],
            &["testnet", "partition", "h1,h2"],
            &["testnet", "link", "h1", "h2", "--loss", "101"],
            &["testnet", "frobnicate"],
        ] {
            let error = Cli::try_parse_from(line).expect_err("nonsense");
            let complaint = complaint(&error);
            assert_eq!(complaint.code(), USAGE, "{line:?}");
            assert_eq!(complaint.to_string().lines().count(), 3, "{complaint}");
        }
    }
}
