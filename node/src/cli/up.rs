//! `up`, `join` and `agent`: this host becomes a node.
//!
//! `up` and `join` are idempotent: an agent that answers already is reported,
//! not started twice. Whether this host founds a cluster or resumes its own is
//! the agent's to decide, since it alone reads its journal.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use gossip_core::grant::Role;
use gossip_core::resources::{parse_bytes, parse_cpu};
use gossip_core::slot::check_name;

use crate::agent::{Options, Purpose};
use crate::api::types::{Complaint, Status};
use crate::cli::client::{Answer, Client};
use crate::cli::door::Door;
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::paths::Places;
use crate::cli::settings::Settings;
use crate::cli::{block_on, daemon, token};

const PORT: u16 = 7827;
const OPERATOR_PORT: u16 = 7828;

/// How long a killed agent's socket may still take connections and break them off.
const DYING_FOR: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What this host offers, and where it is reached.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct HostArgs {
    /// What to call this host; its hostname if not said
    #[arg(long, env = "STARLING_NAME", value_parser = node_name, help_heading = "This host")]
    name: Option<String>,
    /// Where members reach it: IP[:PORT], several times or comma-separated [default: 0.0.0.0:7827]
    #[arg(long, value_name = "ADDR", env = "STARLING_LISTEN", value_delimiter = ',',
        value_parser = member_address, help_heading = "This host")]
    listen: Vec<SocketAddr>,
    /// Where operators reach it from afar: IP[:PORT]; one port above --listen if not said
    #[arg(long, value_name = "ADDR", env = "STARLING_OPERATOR_LISTEN",
        value_parser = operator_address, help_heading = "This host")]
    operator_listen: Option<SocketAddr>,
    /// Cores to offer, like 2, 0.5 or 500m; all of them if not said
    #[arg(long, value_name = "CORES", env = "STARLING_CPUS", value_parser = parse_cpu,
        help_heading = "This host")]
    cpus: Option<u64>,
    /// Memory to offer, like 512m or 8GiB; most of it if not said
    #[arg(long, env = "STARLING_MEMORY", value_parser = parse_bytes, help_heading = "This host")]
    memory: Option<u64>,
    /// Take jobs that could take this host over: its own user ids, its system's files
    #[arg(long, value_name = "BOOL", env = "STARLING_TRUST_JOBS", num_args = 0..=1,
        require_equals = true, default_missing_value = "true", help_heading = "This host")]
    trust_jobs: Option<bool>,
    /// Bytes a second to send of images to other hosts, like 10m; 0, the default, is no limit
    #[arg(long, value_name = "BYTES", env = "STARLING_IMAGE_RATE", value_parser = parse_bytes,
        help_heading = "This host")]
    image_rate: Option<u64>,
}

/// The flags of `up`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Become another host, with a new key: what one does that was removed from its cluster
    #[arg(long)]
    new: bool,
    /// Stay in the foreground instead of starting a daemon
    #[arg(long)]
    foreground: bool,
}

/// The flags of `join`.
#[derive(Args, Clone, Debug)]
pub(crate) struct JoinArgs {
    /// What `starling invite` printed on a member; `-` reads it from stdin
    #[arg(value_name = "TOKEN|-")]
    token: String,
    #[command(flatten)]
    host: HostArgs,
    /// Become another host, with a new key: what one does that was removed from its cluster
    #[arg(long)]
    new: bool,
    /// Stay in the foreground instead of starting a daemon
    #[arg(long)]
    foreground: bool,
}

/// The flags of the hidden `agent-start`, which `daemon` runs.
#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    host: HostArgs,
    #[arg(long)]
    purpose: PurposeWord,
    #[arg(long)]
    new: bool,
}

/// A purpose without its token, which never is an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PurposeWord {
    Resume,
    Found,
    Join,
}

fn node_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|bad| bad.to_string())
}

fn address(text: &str, port: u16) -> Result<SocketAddr, String> {
    let ip = |ip: IpAddr| SocketAddr::new(ip, port);
    text.parse().or_else(|_no_port| text.parse().map(ip)).map_err(|_not_an_address| {
        format!(
            "{text:?} is not an address; write it like 0.0.0.0:{port}, 192.168.1.20 or [::]:{port}"
        )
    })
}

fn member_address(text: &str) -> Result<SocketAddr, String> {
    address(text, PORT)
}

fn operator_address(text: &str) -> Result<SocketAddr, String> {
    address(text, OPERATOR_PORT)
}

impl HostArgs {
    fn settings(self) -> Settings {
        Settings {
            name: self.name,
            listen: self.listen,
            operator_listen: self.operator_listen,
            cpu_milli: self.cpus,
            memory_bytes: self.memory,
            trust_jobs: self.trust_jobs,
            image_rate: self.image_rate,
        }
    }
}

/// `starling up`.
pub(crate) fn up(args: UpArgs, places: &Places, out: Output) -> Result<u8, Failed> {
    let UpArgs { host, new, foreground } = args;
    let start = Start { host, new, foreground, purpose: Purpose::Found };
    start.run(places, out, |_status| Ok("already runs"))
}

/// `starling join`.
pub(crate) fn join(args: JoinArgs, places: &Places, out: Output) -> Result<u8, Failed> {
    let (token, text) = token::read(args.token)?;
    if token.invitation.role == Role::Operator {
        return Err(Complaint::new("bad_token", "this token makes an operator, not a node")
            .because("it was made by `starling invite --operator`")
            .hint("starling invite   on a member makes one for hosts")
            .into());
    }
    let cluster = token.invitation.cluster;
    let purpose = Purpose::Join(text);
    let start = Start { host: args.host, new: args.new, foreground: args.foreground, purpose };
    start.run(places, out, |status| {
        if let Some(removed) = &status.removed {
            let new = if removed.whom.id == status.node { "--new " } else { "" };
            return Err(Complaint::new(
                "removed",
                "this host is no member of its cluster any more",
            )
            .because(format!("{} removed {}", removed.by.name, removed.whom.name))
            .hint(format!("starling down, then starling join {new}TOKEN")));
        }
        if status.cluster == cluster {
            return Ok("is a member already");
        }
        let (own, other) = (status.cluster.short(), cluster.short());
        Err(Complaint::new("other_cluster", "this host is a member of another cluster")
            .because(format!("its cluster is {own}, and the token is for {other}"))
            .hint("starling down, then starling join --data DIR TOKEN   with a new directory"))
    })
}

struct Start {
    host: HostArgs,
    new: bool,
    foreground: bool,
    purpose: Purpose,
}

impl Start {
    fn run(
        self,
        places: &Places,
        out: Output,
        runs_already: impl Fn(&Status) -> Result<&'static str, Complaint>,
    ) -> Result<u8, Failed> {
        let said = self.host.settings();
        let some_said = !said.is_empty();
        if let Some((answer, status)) = block_on(running(places))? {
            let word = runs_already(&status)?;
            if self.foreground || self.new {
                return Err(in_the_way(&status).into());
            }
            if some_said {
                out.note("settings change at the next start: starling down, then starling up");
            }
            return tell(out, &answer, &status, word).map(|()| 0);
        }
        let settings = said.or(Settings::load(&places.data)?);
        let mut options = settings.clone().options(places, self.purpose);
        options.anew = self.new;
        if self.foreground {
            return foreground(options, some_said.then_some(settings));
        }
        daemon::start(&options, places)?;
        if some_said && let Err(error) = settings.save(&places.data) {
            out.warn(&format!("the settings are not remembered for the next start: {error}"));
        }
        let Some((answer, status)) = block_on(running(places))? else {
            return Err(Complaint::new("start", "the agent was ready, and is gone")
                .hint(format!("see {}", places.log().display()))
                .into());
        };
        let joined = matches!(options.purpose, Purpose::Join(_));
        tell(out, &answer, &status, if joined { "joined" } else { "is up" })?;
        if !joined && status.view.known <= 1 {
            out.note("next: starling invite   makes a token, with which other hosts join");
        }
        Ok(0)
    }
}

/// `starling agent`: what systemd runs.
pub(crate) fn agent(host: HostArgs, places: &Places) -> Result<u8, Failed> {
    if !places.data.exists() {
        return Err(Complaint::new("no_cluster", "this host is in no cluster yet")
            .because(format!("{} does not exist", places.data.display()))
            .hint("starling up   founds one, and starling join TOKEN joins one")
            .into());
    }
    let settings = host.settings().or(Settings::load(&places.data)?);
    foreground(settings.options(places, Purpose::Resume), None)
}

/// `starling agent-start`: the daemon that `daemon::start` spawned.
pub(crate) fn agent_start(args: StartArgs, places: &Places) -> Result<u8, Failed> {
    let (ready, token) = daemon::detach().map_err(|error| {
        Failed::from(Complaint::new("start", "the agent cannot detach").because(error))
    })?;
    let purpose = match args.purpose {
        PurposeWord::Resume => Purpose::Resume,
        PurposeWord::Found => Purpose::Found,
        PurposeWord::Join => Purpose::Join(token),
    };
    let mut options = args.host.settings().options(places, purpose);
    options.ready = Some(ready);
    options.anew = args.new;
    foreground(options, None)
}

fn foreground(options: Options, remember: Option<Settings>) -> Result<u8, Failed> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("STARLING_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info"));
    // Refused only if somebody else set the logger up already.
    let _already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
    if let Some(settings) = remember {
        let kept =
            std::fs::create_dir_all(&options.data).and_then(|()| settings.save(&options.data));
        if let Err(error) = kept {
            tracing::warn!(%error, "the settings are not remembered for the next start");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failed::from(Complaint::new("start", "the agent gets no threads").because(error))
    })?;
    let result = runtime.block_on(crate::agent::run(options));
    runtime.shutdown_background();
    result?;
    Ok(0)
}

/// The agent that answers in these places, if one does.
async fn running(places: &Places) -> Result<Option<(Answer, Status)>, Failed> {
    let until = Instant::now() + DYING_FOR;
    loop {
        match look(places).await {
            // An agent that is being killed: its last thread closes the socket in a moment.
            Err(failed) if failed.code() == Some("broken") && Instant::now() < until => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            seen => return seen,
        }
    }
}

async fn look(places: &Places) -> Result<Option<(Answer, Status)>, Failed> {
    let mut client = Client::new(Door::Unix(places.socket.clone()));
    match client.get("/v1/status").await {
        Ok(answer) => {
            let status = answer.parse()?;
            Ok(Some((answer, status)))
        }
        Err(failed) if failed.code() == Some("unreachable") && !places.socket.exists() => Ok(None),
        Err(failed) if failed.code() == Some("unreachable") => deserted(places, failed),
        Err(failed) => Err(failed),
    }
}

/// A socket without an agent is what a killed one leaves; one that is not ours is in the way.
fn deserted(places: &Places, failed: Failed) -> Result<Option<(Answer, Status)>, Failed> {
    match std::os::unix::net::UnixStream::connect(&places.socket) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(None),
        _ => Err(failed),
    }
}

fn in_the_way(status: &Status) -> Complaint {
    Complaint::new("running", "an agent runs here already")
        .because(format!("`{}` is process {}", status.name, status.pid))
        .hint("starling down   stops it; tasks go on")
}

fn tell(out: Output, answer: &Answer, status: &Status, word: &str) -> Result<(), Failed> {
    match out.format {
        Format::Json => out.json(answer.bytes()),
        Format::Quiet => out.line(&status.name),
        Format::Human => {
            let members = status.view.known.max(1);
            let plural = if members == 1 { "" } else { "s" };
            out.line(&format!(
                "{} {word}: cluster {}, {members} member{plural}, offers {}",
                status.name,
                status.cluster.short(),
                status.capacity
            ))?;
            status.warnings.iter().for_each(|warning| out.note(&format!("warning: {warning}")));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_no_port() {
        let cases = [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("10.0.0.1", "10.0.0.1:7827"),
            ("::1", "[::1]:7827"),
            ("[::]:0", "[::]:0"),
        ];
        for (text, read) in cases {
            assert_eq!(member_address(text).map(|a| a.to_string()).as_deref(), Ok(read), "{text}");
        }
        for text in ["", "localhost", "1.2.3.4:99999", "example.org:1"] {
            assert!(member_address(text).is_err(), "{text}");
        }
        assert_eq!(operator_address("1.2.3.4").map(|a| a.port()), Ok(7828));
    }
}
