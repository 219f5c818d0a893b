//! A container in which a payload runs: one of ours, or one of an old runc.
//!
//! Both get the same question ([`Ask`]) and give the same answer ([`Told`]), so a
//! row does not know which it tests. runc's is what `runc spec` makes for root,
//! which is how rows are shown to be able to fail.

mod copies;
mod ours;
mod runc;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use self::ours::Ours;
pub use self::runc::Runc;

/// Most processes and memory of a payload, unless its row says otherwise.
const PIDS: u32 = 64;
const MEMORY_BYTES: u64 = 128 << 20;

/// Where a payload's files come from.
#[derive(Clone, Debug)]
pub enum Files {
    /// A directory.
    Directory(PathBuf),
    /// A tar archive, which the isolator unpacks.
    Tar(PathBuf),
}

/// Whose ids a payload's users are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The isolator's default.
    Usual,
    /// The host's.
    Host,
}

/// Where a payload's streams lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// To the log.
    Logged,
    /// To a terminal.
    Terminal,
}

/// Who is the first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The payload.
    Payload,
    /// The isolator's own reaper.
    Reaper,
}

/// A payload, and the container it is to run in: a default one, but for this.
#[derive(Clone, Debug)]
pub struct Ask {
    /// None for a plain process of the host, as nobody.
    pub files: Option<Files>,
    /// What runs.
    pub argv: Vec<String>,
    /// Where it starts.
    pub directory: Option<String>,
    /// Directories of the host, and where they appear, writable.
    pub binds: Vec<(PathBuf, String)>,
    /// Memory as files.
    pub tmpfs: Vec<String>,
    /// `USER[:GROUP]`.
    pub user: String,
    /// Whether it has the host's network.
    pub host_network: bool,
    /// Whose ids it has.
    pub ids: Ids,
    /// Who is the first process.
    pub first: First,
    /// Where its streams lead.
    pub streams: Streams,
    /// Most processes.
    pub pids: u32,
    /// Most memory.
    pub memory: u64,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Directories of the host that a plain process must not see into.
    pub hidden: Vec<PathBuf>,
}

impl Ask {
    /// The probe, with these words, over these files.
    pub fn probe(files: impl Into<PathBuf>, words: &[&str]) -> Self {
        let mut argv = vec!["/probe".to_owned()];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        Self {
            files: Some(Files::Directory(files.into())),
            argv,
            directory: None,
            binds: Vec::new(),
            tmpfs: Vec::new(),
            user: "0:0".to_owned(),
            host_network: false,
            ids: Ids::Usual,
            first: First::Payload,
            streams: Streams::Logged,
            pids: PIDS,
            memory: MEMORY_BYTES,
            env: BTreeMap::new(),
            hidden: Vec::new(),
        }
    }
}

/// What a payload said, and what became of it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Why it never ran.
    pub refused: Option<String>,
    /// What it printed.
    pub lines: Vec<String>,
    /// How it ended.
    pub end: String,
}

impl Told {
    /// The first line that begins with these words: the rest of it.
    pub fn value(&self, words: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(words)?.strip_prefix(' '))
    }

    /// The rest of every line that begins with these words.
    pub fn all<'a>(&'a self, words: &'a str) -> impl Iterator<Item = &'a str> {
        let rest = move |line: &'a String| line.strip_prefix(words)?.strip_prefix(' ');
        self.lines.iter().filter_map(rest)
    }

    /// Lines with these first words that ended with `ok`: what should not have worked.
    pub fn succeeded(&self, words: &str) -> Vec<String> {
        let done = self.all(words).filter_map(|rest| rest.strip_suffix(" ok"));
        done.map(|what| format!("{words} {what}")).collect()
    }
}

/// A payload that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its first process on the host.
    pub pid: u32,
    /// Its name.
    pub id: String,
}

/// What containers are made by.
#[derive(Debug)]
pub enum Isolator {
    /// Ours.
    Ours(Box<Ours>),
    /// Debian's runc.
    Runc(Runc),
}

impl Isolator {
    /// Runs a payload to its end.
    pub fn run(&mut self, ask: &Ask) -> io::Result<Told> {
        match self.start(ask)? {
            Ok(running) => self.wait(&running),
            Err(reason) => Ok(Told { refused: Some(reason), ..Told::default() }),
        }
    }

    /// Starts a payload; the reason if it is refused.
    pub fn start(&mut self, ask: &Ask) -> io::Result<Result<Running, String>> {
        match self {
            Self::Ours(ours) => ours.start(ask),
            Self::Runc(runc) => runc.start(ask),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, running: &Running) -> io::Result<Told> {
        match self {
            Self::Ours(ours) => ours.wait(running),
            Self::Runc(runc) => runc.wait(running),
        }
    }

    /// Runs another program in its container, to its end.
    pub fn exec(
        &mut self,
        running: &Running,
        argv: &[&str],
        directory: Option<&str>,
    ) -> io::Result<Told> {
        match self {
            Self::Ours(ours) => ours.exec(running, argv, directory),
            Self::Runc(runc) => runc.exec(running, argv, directory),
        }
    }

    /// What it has printed so far.
    pub fn so_far(&mut self, running: &Running) -> io::Result<Vec<String>> {
        match self {
            Self::Ours(ours) => ours.so_far(running),
            Self::Runc(runc) => runc.so_far(running),
        }
    }

    /// Ends it after a second of grace, and says how long that took.
    pub fn stop(&mut self, running: &Running) -> io::Result<(Told, std::time::Duration)> {
        let began = std::time::Instant::now();
        match self {
            Self::Ours(ours) => ours.stop(running)?,
            Self::Runc(runc) => runc.stop(running)?,
        }
        let told = self.wait(running)?;
        Ok((told, began.elapsed()))
    }

    /// Ours, for what only that does.
    pub fn ours(&mut self) -> Option<&mut Ours> {
        match self {
            Self::Ours(ours) => Some(ours),
            Self::Runc(_) => None,
        }
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    /// The program on the host that an escape would overwrite.
    pub fn program(&self) -> &Path {
        match self {
            Self::Ours(ours) => ours.program(),
            Self::Runc(runc) => runc.program(),
        }
    }

    /// Gives everything back.
    pub fn close(self) {
        if let Self::Ours(ours) = self {
            ours.close();
        }
    }
}
