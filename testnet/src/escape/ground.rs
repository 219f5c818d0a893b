//! Where rows are played: a directory with roots for payloads, and canaries beside them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::bare;
use super::canary::{self, GONE_WITHIN, Host, LOOK_AGAIN, Watch};
use super::cell::{Ask, Isolator, Ours, Runc, Running, Told};

/// Every payload has this in its environment, with our pid: what is left of it is found by it.
const MARK: &str = "STARLING_ESCAPE";

/// Where the loader of glibc is, on x86-64 and on aarch64.
const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// As many harmless payloads as these run in the time that any of the others may take: on a
/// machine that is not slow, less than what is usual.
const PINGS: u32 = 30;

/// Directories that every root has.
const DIRECTORIES: [&str; 7] = ["proc", "sys", "dev", "tmp", "etc", "vol", "root"];

/// Which isolator is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Ours.
    Ours,
    /// Debian's runc, where some rows must fail.
    Runc,
}

/// The directory, the isolator, the canaries.
#[derive(Debug)]
pub struct Ground {
    dir: PathBuf,
    probe: PathBuf,
    isolator: Isolator,
    watch: Watch,
    /// Control groups that were called as the runtime's are before it was.
    namesakes: BTreeSet<PathBuf>,
    next: u32,
    /// Whether a harmless payload was seen to run.
    runs: bool,
    /// What was asked and told, for whoever wants to see.
    transcript: Vec<String>,
}

impl Ground {
    /// Lays it out; `keeper` is the program of ours that becomes the keeper.
    pub fn lay(which: Which, probe: &Path, keeper: &Path) -> io::Result<Self> {
        static LAID: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let name = if which == Which::Ours { "ours" } else { "runc" };
        let name = format!("starling-escape-{name}-{pid}-{}", LAID.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let mut namesakes = BTreeSet::new();
        let isolator = match which {
            Which::Ours => {
                // A copy: an escape that overwrites it must not overwrite the original.
                let program = dir.join("agent");
                bare::copy(keeper, &program)?;
                let runtime = dir.join("runtime");
                fs::DirBuilder::new().mode(0o700).create(&runtime)?;
                // A new directory may have the number of one that is gone.
                namesakes = groups_of(&fs::metadata(&runtime)?);
                Isolator::Ours(Box::new(Ours::open(&runtime, &program)?))
            }
            Which::Runc => Isolator::Runc(Runc::open(&dir.join("runc"))?),
        };
        let bare = dir.join("probe");
        bare::copy(probe, &bare)?;
        let canary = dir.join("canary");
        fs::create_dir(&canary)?;
        fs::write(canary.join("file"), "a canary\n")?;
        fs::write(canary.join("secret"), "a secret\n")?;
        fs::set_permissions(canary.join("secret"), fs::Permissions::from_mode(0o600))?;
        let watch = Watch {
            files: vec![canary, isolator.program().to_owned()],
            mounts: dir.display().to_string(),
            name: format!("escape-{pid}-"),
        };
        let transcript = Vec::new();
        Ok(Self { dir, probe: bare, isolator, watch, namesakes, next: 0, runs: false, transcript })
    }

    /// What no payload may change.
    pub fn canary(&self) -> PathBuf {
        self.dir.join("canary")
    }

    /// A new directory of the host.
    pub fn directory(&mut self) -> io::Result<PathBuf> {
        self.next += 1;
        let dir = self.dir.join(format!("d{}", self.next));
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        Ok(dir)
    }

    /// A new root with the probe and whatever it needs to run.
    pub fn root(&mut self) -> io::Result<PathBuf> {
        let root = self.directory()?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        for name in DIRECTORIES {
            fs::create_dir(root.join(name))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\n")?;
        fs::copy(&self.probe, root.join("probe"))?;
        bring_libraries(&self.probe, &root)?;
        Ok(root)
    }

    /// A root in which the isolator's own program could run too.
    pub fn root_for_our_program(&mut self) -> io::Result<PathBuf> {
        let root = self.root()?;
        bring_libraries(self.isolator.program(), &root)?;
        Ok(root)
    }

    /// A root in which this path is a link to there, whatever was at it.
    pub fn root_with_link(&mut self, path: &str, there: &Path) -> io::Result<PathBuf> {
        let root = self.root()?;
        let link = root.join(path);
        if link.is_dir() {
            fs::remove_dir_all(&link)?;
        } else if link.exists() {
            fs::remove_file(&link)?;
        }
        fs::create_dir_all(link.parent().unwrap_or(&root))?;
        symlink(there, link)?;
        Ok(root)
    }

    /// The isolator.
    pub fn isolator(&mut self) -> &mut Isolator {
        &mut self.isolator
    }

    /// Whether the isolator is ours.
    pub fn is_ours(&self) -> bool {
        self.isolator.is_ours()
    }

    /// Runs a payload to its end.
    pub fn run(&mut self, ask: &Ask) -> io::Result<Told> {
        let ask = self.marked(ask);
        let told = self.isolator.run(&ask)?;
        let outcome = match &told.refused {
            Some(reason) => format!("refused: {reason}"),
            None => format!("{}\n  {}", told.end, told.lines.join("\n  ")),
        };
        self.transcript.push(format!("{}: {outcome}", ask.argv.join(" ")));
        Ok(told)
    }

    /// What was asked and told since this was asked last.
    pub fn take_transcript(&mut self) -> Vec<String> {
        std::mem::take(&mut self.transcript)
    }

    /// Starts a payload.
    pub fn start(&mut self, ask: &Ask) -> io::Result<Result<Running, String>> {
        let ask = self.marked(ask);
        self.isolator.start(&ask)
    }

    /// Runs another program in a container that runs.
    pub fn exec(
        &mut self,
        running: &Running,
        argv: &[&str],
        directory: Option<&str>,
    ) -> io::Result<Told> {
        let told = self.isolator.exec(running, argv, directory)?;
        self.transcript.push(format!("exec {} in {directory:?}: {told:?}", argv.join(" ")));
        Ok(told)
    }

    /// Why not even a harmless payload runs: then nothing that is refused proves a thing.
    pub fn why_nothing_runs(&mut self) -> Option<String> {
        if self.runs {
            return None;
        }
        match self.probe(&["bomb", "ping"]) {
            Ok(told) if told.lines == ["pong"] => {
                self.runs = true;
                None
            }
            Ok(told) => Some(format!("no container runs: {told:?}")),
            Err(error) => Some(format!("no container runs: {error}")),
        }
    }

    /// Runs the probe with these words in a default container.
    pub fn probe(&mut self, words: &[&str]) -> io::Result<Told> {
        let root = self.root()?;
        self.run(&Ask::probe(root, words))
    }

    /// This long, or longer where this machine is slow just now.
    pub fn patience(&mut self, usual: Duration) -> io::Result<Duration> {
        let began = Instant::now();
        self.probe(&["bomb", "ping"])?;
        Ok(usual.max(began.elapsed() * PINGS))
    }

    /// The probe on the host.
    pub fn probe_path(&self) -> &Path {
        &self.probe
    }

    /// Where the isolator's own files are, on the host.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("runtime")
    }

    fn marked(&self, ask: &Ask) -> Ask {
        let mut ask = ask.clone();
        ask.env.insert(MARK.to_owned(), format!("{}.", self.watch.name));
        ask
    }

    /// The host as it is.
    pub fn look(&self) -> Host {
        self.watch.look()
    }

    /// What is not as it was.
    pub fn changes(&self, before: &Host) -> Vec<String> {
        self.watch.changes(before)
    }

    /// Takes it away.
    pub fn clear(self) -> io::Result<()> {
        let runtime = fs::metadata(self.runtime_dir());
        self.isolator.close();
        let left = runtime
            .map_or_else(|_| Vec::new(), |about| left_behind(&self.dir, &about, &self.namesakes));
        if !left.is_empty() {
            return Err(io::Error::other(left.join(", ")));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        if mounts.contains(&*self.dir.to_string_lossy()) {
            let dir = self.dir.display();
            return Err(io::Error::other(format!(
                "something is mounted below {dir}: left as it is"
            )));
        }
        fs::remove_dir_all(&self.dir)
    }
}

/// What an isolator that was closed still has of this machine.
fn left_behind(dir: &Path, runtime: &fs::Metadata, namesakes: &BTreeSet<PathBuf>) -> Vec<String> {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let groups = groups_of(runtime);
        let groups = groups.difference(namesakes).map(|at| format!("the cgroup {}", at.display()));
        let processes = canary::mentioning("cmdline", &dir.to_string_lossy());
        let left: Vec<_> =
            groups.chain(processes.iter().map(|pid| format!("the process {pid}"))).collect();
        if left.is_empty() || Instant::now() > until {
            return left;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The control groups that a runtime in this directory has, wherever they are.
fn groups_of(runtime: &fs::Metadata) -> BTreeSet<PathBuf> {
    let tree = format!("starling-{:x}-{:x}", runtime.dev(), runtime.ino());
    let mut groups = BTreeSet::new();
    canary::groups(Path::new("/sys/fs/cgroup"), &tree, &mut groups);
    groups
}

fn bring_libraries(program: &Path, root: &Path) -> io::Result<()> {
    for library in libraries(program)? {
        let target = root.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(target.parent().unwrap_or(root))?;
        fs::copy(&library, target)?;
    }
    Ok(())
}

/// The libraries that a program loads, by the loader's own account; `ldd`, which asks it
/// too, is not on every machine. A static program loads none.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(loader) = LOADERS.into_iter().find(|path| Path::new(path).exists()) else {
        return Ok(Vec::new());
    };
    // Of a static program it says no here, and would fall over below.
    if !Command::new(loader).arg("--verify").arg(program).output()?.status.success() {
        return Ok(Vec::new());
    }
    let output = Command::new(loader).arg("--list").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path =
        |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).filter(|path| path.exists()).collect())
}
