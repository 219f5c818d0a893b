//! A virtual machine of our own: a current kernel where we are root over all of it.
//!
//!     apt ─▶ base (kernel, disk)      files, commands ─▶ initramfs
//!                      └──────────────┬──────────────────────┘
//!                                QEMU guest ─▶ serial ports ─▶ Outcome
//!
//! Many machines that build this have no cgroup v2, no modules or no root; a guest
//! has them all, in QEMU's own emulation (TCG), so /dev/kvm is not needed. What
//! runs there finds a Debian of this machine's release, systemd's layout of
//! cgroups without systemd, an ext4 root, and its own files at their own paths.
//!
//! Must never change this machine, but for installing QEMU when told to; and
//! nothing of a run outlives the caller, not even a kill -9.

mod base;
mod cpio;
mod debian;
mod initramfs;
mod modules;
mod qemu;
mod report;
pub mod suite;
pub(crate) mod tool;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use report::{End, Ran};

/// Told what is being done, in words.
pub type Say<'a> = &'a mut dyn FnMut(&str);

/// Why no guest ran.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    #[error("guests are x86-64 only, and this machine is {}", std::env::consts::ARCH)]
    Architecture,
    #[error("not installed on this machine: {}", packages.join(" "))]
    Missing { packages: Vec<&'static str> },
    #[error("apt-get, apt-cache and dpkg-deb are needed to fetch a kernel and a root")]
    NoApt,
    #[error("apt knows no kernel that {package} depends on")]
    NoKernel { package: &'static str },
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
    #[error("{program} ended with {status}: {said}")]
    Failed { program: String, status: ExitStatus, said: String },
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cargo built no tests of {package}")]
    NoTests { package: String },
}

/// Turns an error about this path into ours.
fn io_error(path: &Path) -> impl Fn(io::Error) -> VmError {
    let path = path.to_owned();
    move |source| VmError::Io { path: path.clone(), source }
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU itself: works everywhere, some ten times slower.
    Tcg,
    /// The processor, where /dev/kvm really works.
    Kvm,
}

/// A guest to be.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Where the base is kept, and a run's own files while it lasts.
    pub cache: PathBuf,
    /// Main memory.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    pub accelerator: Accelerator,
    /// How long each command may take.
    pub limit: Duration,
    /// Files and trees to bring along, absolute, at the same path there.
    pub carry: Vec<PathBuf>,
    /// What becomes of the initramfs afterwards.
    pub afterwards: Afterwards,
}

/// What becomes of a run's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    Remove,
    /// For a guest to be started again by hand, as [`Outcome::by_hand`] says.
    Keep,
}

/// As whom a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Root,
    /// An ordinary user (uid 65534, with subordinate ids) who owns the command's cgroup.
    Delegated,
    /// The same user in a cgroup that is root's, as without systemd.
    Undelegated,
}

impl Who {
    /// The word the guest's init knows it by.
    pub fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Delegated => "delegated",
            Self::Undelegated => "undelegated",
        }
    }
}

/// One command to run in a guest.
#[derive(Clone, Debug)]
pub struct Job {
    /// For people.
    pub title: String,
    /// Where it runs; made if it is not there.
    pub dir: PathBuf,
    pub argv: Vec<OsString>,
    pub who: Who,
}

/// What happens while a guest runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something is being prepared.
    Step(&'a str),
    Booted {
        kernel: &'a str,
    },
    Started {
        number: usize,
    },
    /// A command's own words.
    Output {
        number: usize,
        line: &'a str,
    },
    Ended {
        number: usize,
        run: &'a Ran,
    },
    /// The kernel's words, and QEMU's.
    Console(&'a str),
    /// Nothing was said for a while.
    Quiet,
}

/// How a guest went out of existence.
#[derive(Debug)]
pub enum Close {
    /// Every command was run, and the power went off.
    Done,
    /// Its kernel panicked.
    Panicked { line: String },
    /// It did not come as far as the first command.
    Broken { why: String },
    /// It was killed: nothing was heard in time.
    Hung { phase: &'static str },
    /// QEMU ended, and the guest had not said that it is done.
    Died { status: ExitStatus, last: String },
}

/// What a guest left behind: words.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of the jobs.
    pub runs: Vec<Ran>,
    /// The guest's kernel; empty if it never got so far.
    pub kernel: String,
    /// From power on to the first command, by the guest's clock.
    pub booted: Option<Duration>,
    /// The whole run by this machine's clock, preparations left out.
    pub took: Duration,
    pub close: Close,
    /// Warnings, bugs and oopses of the guest's kernel.
    pub alarms: Vec<String>,
    /// How to start this guest again, if its files were kept.
    pub by_hand: Option<String>,
}

impl Outcome {
    /// This one and that of another guest, as one.
    pub fn and(mut self, next: Self) -> Self {
        self.runs.extend(next.runs);
        self.alarms.extend(next.alarms);
        Self { took: self.took + next.took, close: next.close, ..self }
    }
}

/// The packages that must be installed before a guest can run.
pub fn missing() -> Result<Vec<&'static str>, VmError> {
    if cfg!(target_arch = "x86_64") { Ok(debian::missing()) } else { Err(VmError::Architecture) }
}

/// Installs what is missing; needs root.
pub fn install(packages: &[&str]) -> Result<(), VmError> {
    if !debian::has_apt() {
        return Err(VmError::NoApt);
    }
    debian::install(packages)
}

/// Runs these commands one after the other in a guest of their own.
pub fn run(
    guest: &Guest,
    jobs: &[Job],
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, VmError> {
    let packages = missing()?;
    if !packages.is_empty() {
        return Err(VmError::Missing { packages });
    }
    let base = base::Base::ready(&guest.cache, &mut |step| watch(Event::Step(step)))?;
    sweep(&guest.cache);
    let nonce = nonce();
    let run_file = RunFile {
        path: guest.cache.join(match guest.afterwards {
            Afterwards::Remove => format!("run-{}.cpio", std::process::id()),
            // Under a name that no sweep takes.
            Afterwards::Keep => format!("kept-{}.cpio", std::process::id()),
        }),
        afterwards: guest.afterwards,
    };
    watch(Event::Step("packing what the guest is to run"));
    initramfs::write(&base, guest, jobs, &nonce, &run_file.path)?;
    let command = qemu::command(&base, guest, &run_file.path);
    let by_hand =
        (guest.afterwards == Afterwards::Keep).then(|| format!("{command:?}").replace('"', "'"));
    let mut heard = report::Heard::new(&nonce, jobs.len());
    watch(Event::Step("booting"));
    let began = Instant::now();
    let close = qemu::run(command, &mut heard, qemu::Deadlines::of(guest.limit), watch)?;
    Ok(Outcome {
        took: began.elapsed(),
        close,
        by_hand,
        kernel: heard.kernel,
        booted: heard.booted,
        alarms: heard.alarms,
        runs: heard.runs,
    })
}

/// The archive of one run, which goes when the run does.
struct RunFile {
    path: PathBuf,
    afterwards: Afterwards,
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if self.afterwards == Afterwards::Remove {
            // Left behind, it is swept by the next run.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the archives of runs whose process is gone.
fn sweep(cache: &Path) {
    let Ok(entries) = cache.read_dir() else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pid = name.strip_prefix("run-").and_then(|name| name.strip_suffix(".cpio"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// A word that no output holds by chance.
fn nonce() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}{:x}", now.as_nanos(), std::process::id())
}
