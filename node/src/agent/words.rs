//! What the runtime says of a launch, in the words of whoever wrote the job.
//!
//! ```text
//! the runtime's field        the job's field    the flag        what to do
//! container.cap_drop    ──▶  cap-drop       ──▶ --cap-drop  ──▶ names as in capabilities(7)…
//! ```
//!
//! One table, for whatever is refused before anything runs and for whatever keeps a task
//! from starting. A user never reads a word that they cannot write.

use std::cmp::Ordering;

use gossip_core::fact::TaskEnd;
use gossip_core::resources::show_bytes;
use runtime::cgroup::LimitFlaw;
use runtime::image::Platform;
use runtime::{ControlError, ExecError, Launch, Mount, Place, PlanFlaw, Problem, StartFault};

use super::naming;
use crate::api::types::Complaint;

/// One thing that a job can say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// How the runtime's names of it begin.
    inner: &'static str,
    /// In a job as JSON.
    pub(crate) field: &'static str,
    /// On a command line.
    pub(crate) flag: &'static str,
    /// What may be written there.
    pub(crate) hint: &'static str,
}

const fn w(
    inner: &'static str,
    field: &'static str,
    flag: &'static str,
    hint: &'static str,
) -> Word {
    Word { inner, field, flag, hint }
}

const CAPS: &str = "names are those of capabilities(7), like NET_RAW or CHOWN, or ALL";
const MOUNTS: &str = "write it like /srv/data:/data, or data:/data for a volume; not at /, /proc, \
                      /sys or /dev, and each place once";
const BPS: &str = "write a whole disk of the node and bytes a second, like /dev/sda:10m";
const IOPS: &str = "write a whole disk of the node and a number a second, like /dev/sda:500";
const TRUST: &str = "nodes started with --trust-jobs grant it";
const PUBLISH: Word = w(
    "container.network.publish",
    "ports",
    "--publish",
    "write it like 8080:80, 127.0.0.1:8080:80/udp or 80",
);

/// Longer names before those that they begin with.
static WORDS: [Word; 47] = [
    w("container.cap_add", "cap-add", "--cap-add", CAPS),
    w("container.cap_drop", "cap-drop", "--cap-drop", CAPS),
    w(
        "container.changes",
        "read_only",
        "--read-only",
        "leave it out: changes are kept on the node's disk",
    ),
    w(
        "container.devices",
        "devices",
        "--device",
        "write it like /dev/ttyUSB0, or /dev/ttyUSB0:/dev/modem:r",
    ),
    w(
        "container.hostname",
        "hostname",
        "--hostname",
        "letters, digits, dots and hyphens, 64 at most, the first no dot or hyphen",
    ),
    w("container.ids", "trust", "--trust host-ids", TRUST),
    w(
        "container.names",
        "names",
        "--add-host, --dns or its kin",
        "write --add-host NAME:IP, --dns IP, --dns-search DOMAIN, --dns-option ndots:2",
    ),
    w(TMPFS, "mounts", "--tmpfs", "write it like /tmp:size=64m,mode=1777; at least 4k"),
    w("container.mounts", "mounts", "--volume", MOUNTS),
    PUBLISH,
    w(
        "container.image",
        "image",
        "the image",
        "starling image ls   which there are; starling image load FILE or pull NAME brings one",
    ),
    w(
        "container.network",
        "network",
        "--network",
        "there are bridge, host and none; none and host need less of the node, and starling \
         doctor   says what that lacks",
    ),
    w(
        "container.root",
        "root",
        "--rootfs",
        "name a directory with the container's files, or a tar archive of one",
    ),
    w("container.seccomp", "trust", "--trust all-calls", TRUST),
    w("container.shm_bytes", "shm-bytes", "--shm-size", "write it like 64m; at least 4k"),
    w(
        "container.sysctls",
        "sysctls",
        "--sysctl",
        "what belongs to a container alone can be set: net.*, fs.mqueue.*, kernel.msg*, \
         kernel.sem, kernel.shm*",
    ),
    w(
        "container.user",
        "user",
        "--user",
        "write USER or USER:GROUP, by a name that the container's files know or a number; a \
         container has the ids 0 to 65535",
    ),
    w("process.files", "files", "--ship", "a file or a directory that is here, of at most 64g"),
    w("process.user", "user", "--user", "write USER or USER:GROUP, by name or number"),
    w("limits.cpu_quota_milli", "cpu-milli", "--cpus", "write it like 2, 0.5 or 500m"),
    w("limits.cpu_weight", "resources", "--reserve-cpu", "write it like 2, 0.5 or 500m"),
    w(
        "limits.cpuset_cpus",
        "cpuset-cpus",
        "--cpuset-cpus",
        "write processors of the node that runs it, like 0-1 or 0,2",
    ),
    w(
        "limits.io_weight",
        "io-weight",
        "--blkio-weight",
        "write 10 to 1000, 100 being usual; a node's kernel needs the bfq scheduler or io.cost",
    ),
    w("limits.io.read_bps", "io", "--device-read-bps", BPS),
    w("limits.io.write_bps", "io", "--device-write-bps", BPS),
    w("limits.io.read_iops", "io", "--device-read-iops", IOPS),
    w("limits.io.write_iops", "io", "--device-write-iops", IOPS),
    w("limits.io", "io", "--device-read-bps and its like", BPS),
    w(
        "limits.memory_low",
        "memory-reservation",
        "--memory-reservation",
        "write it like 32m, not more than --memory",
    ),
    w("limits.memory_max", "memory-bytes", "--memory", "write it like 64m; at least 512k"),
    w("limits.memory_high", "memory-bytes", "--memory", "write it like 64m; at least 512k"),
    w(
        "limits.pids_max",
        "pids",
        "--pids-limit",
        "write 1 to 4194304, or -1 or 0 for any number; 2048 is usual",
    ),
    w(
        "limits.swap",
        "swap-bytes",
        "--memory-swap",
        "write memory and swap together, like 1g beside -m 512m, or -1 for any; it needs --memory",
    ),
    w(
        "rlimits",
        "ulimits",
        "--ulimit",
        "write NAME=SOFT[:HARD], the soft one not above the hard one; names are as, core, cpu, \
         data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, \
         sigpending, stack",
    ),
    w("oom_score_adj", "oom_score_adj", "--oom-score-adj", "write -1000 to 1000, or leave it out"),
    w(
        "container.entrypoint",
        "entrypoint",
        "--entrypoint",
        "it takes the place of an image's own, and \"\" of it with nothing; a command follows it",
    ),
    w(
        "health",
        "health",
        "--health-cmd and its like",
        "write a line for the task's /bin/sh, times like 10s or 1m30s, and 1 to 1000 retries",
    ),
    w("labels", "labels", "--label", "write NAME=VALUE; a name holds no ="),
    w(
        "restart",
        "restart",
        "--restart",
        "write no, on-failure, on-failure:3, always or unless-stopped",
    ),
    w("directory", "directory", "--workdir", "write an absolute path without .., like /srv/app"),
    w(
        "argv",
        "argv",
        "the command",
        "a program and its arguments, with the variables at most 1 MiB and 16384 words",
    ),
    w("env", "env", "--env", "write NAME=VALUE; a name holds no ="),
    w("stop_signal", "stop_signal", "--stop-signal", "write it like SIGINT, INT or 2"),
    w("stop_grace_ms", "stop_grace_ms", "--stop-timeout", "write it like 10, 30s or 5m"),
    w("streams", "streams", "--tty", "a terminal has at most 10000 lines and columns"),
    w("groups", "groups", "--replicas or --array", "starling run --help"),
    w("", "job", "the job", "starling run --help   what the flags take"),
];

/// No name of the runtime's: its mounts are one list.
const TMPFS: &str = "container.mounts.tmpfs";

/// The word that a name of the runtime's stands for; the last of all for an unknown one.
pub(crate) fn word(inner: &str) -> &'static Word {
    let found = WORDS.iter().find(|word| inner.starts_with(word.inner));
    found.unwrap_or(&WORDS[WORDS.len() - 1])
}

/// The word that is written with a flag of `run`.
pub(crate) fn of_flag(flag: &str) -> Option<&'static Word> {
    WORDS.iter().find(|word| word.flag == flag)
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Somebody at a command line.
    Flags,
    /// A program that wrote JSON.
    Fields,
}

/// Flags that take an amount of bytes.
const BYTES: [&str; 5] =
    ["--memory", "--memory-reservation", "--memory-swap", "--shm-size", "--tmpfs"];

/// What a limit was given, as people write it.
fn given(limit: &LimitFlaw) -> String {
    let flag = word(&format!("limits.{}", limit.field)).flag;
    match limit.given.parse() {
        Ok(bytes) if BYTES.contains(&flag) => show_bytes(bytes),
        _ => limit.given.clone(),
    }
}

/// What is wrong with a job, wherever it would run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    word: &'static Word,
    what: String,
}

impl Fault {
    /// Of a launch's flaw. The launch tells which of the mounts it is.
    pub(crate) fn of(flaw: &PlanFlaw, launch: Option<&Launch>) -> Self {
        let is_tmpfs = |launch: &Launch| match &launch.place {
            Place::Container(container) => {
                let at = flaw.field.split(['[', ']']).nth(1).and_then(|at| at.parse().ok());
                let mount = at.and_then(|at: usize| container.mounts.get(at));
                matches!(mount, Some(Mount::Tmpfs { .. }))
            }
            Place::Process(_) => false,
        };
        let in_mounts = flaw.field.starts_with("container.mounts[");
        let inner = if in_mounts && launch.is_some_and(is_tmpfs) { TMPFS } else { &flaw.field };
        let what = match &flaw.problem {
            Problem::Limit(limit) => format!("{} cannot be; {}", given(limit), limit.wanted),
            Problem::Range { value, least, most } if flaw.field.ends_with("bytes") => {
                match value.cmp(least) {
                    Ordering::Less => format!("{} is too little", show_bytes(*value)),
                    _ => format!("{} is more than {}", show_bytes(*value), show_bytes(*most)),
                }
            }
            other => other.to_string(),
        };
        Self { word: word(inner), what }
    }

    /// Of what the job's own check says, which begins with the field.
    pub(crate) fn of_spec(bad: impl std::fmt::Display) -> Self {
        let text = bad.to_string();
        let (field, what) = text.split_once(": ").unwrap_or(("", &text));
        // Of several with one field the last is about all of it.
        let known = WORDS.iter().rev().find(|word| !field.is_empty() && word.field == field);
        match known {
            Some(word) => Self { word, what: what.to_owned() },
            None => Self { word: word(""), what: text },
        }
    }

    /// Where, and what is wrong there.
    pub(crate) fn reason(&self, reader: Reader) -> String {
        let at = match reader {
            Reader::Flags => self.word.flag,
            Reader::Fields => self.word.field,
        };
        if self.word.inner.is_empty() { self.what.clone() } else { format!("{at}: {}", self.what) }
    }

    /// Which word it is about, and what is wrong, for whoever tells it in another way.
    pub(crate) fn parts(self) -> (&'static Word, String) {
        (self.word, self.what)
    }

    /// As whoever submitted it is told.
    pub(crate) fn complaint(&self, code: &str, reader: Reader) -> Complaint {
        Complaint::new(code, "this cannot be a job")
            .because(self.reason(reader))
            .hint(self.word.hint)
    }
}

/// Parts a reason from what helps, in the one sentence that a task's end has room for.
pub(crate) const HINT: &str = "; hint: ";

/// The end of a task that this host cannot start.
pub(crate) fn not_started(code: i32, word: &Word, what: &str, hint: Option<&str>) -> TaskEnd {
    let hint = hint.unwrap_or(word.hint);
    let reason = naming::short(&format!("{}: {what}{HINT}{hint}", word.flag));
    TaskEnd::NotStarted { code, reason }
}

/// What helps where an image is made for other machines.
const STRANGE: &str = "run it where there are such nodes (starling node ls), use an image for this kind, or give \
                       the node an emulator (binfmt_misc; on Debian qemu-user-static)";

/// That an image is made for machines of another kind than this one, if it is.
pub(crate) fn strange(platform: &str) -> Option<String> {
    let (said, here) = (Platform::said(platform)?, Platform::here());
    here.is_strange_to(&said).then(|| format!("it is made for {said}, and this node is {here}"))
}

/// Why no program of an image starts that is made for another kind of machine, if it is.
pub(crate) fn strange_end(platform: &str) -> Option<TaskEnd> {
    let what = strange(platform)?;
    let flag = word("container.image").flag;
    let reason = naming::short(&format!("{flag}: {what}{HINT}{STRANGE}"));
    Some(TaskEnd::NotStarted { code: NO_PROGRAM_OF_OURS, reason })
}

/// What a shell exits with where a program is there and cannot be executed.
const NO_PROGRAM_OF_OURS: i32 = 126;

pub(crate) const NOT_FOUND: &str = "the program is looked up in PATH among the files where it runs: those \
                         of --rootfs, or the node's; a script's first line names one of them, too";
pub(crate) const NOT_EXECUTABLE: &str = "it needs the right to be executed, and to be a script that begins \
                              with #! or a program for the node's processor";
const NO_DIRECTORY: &str = "--workdir is a directory of whichever node runs it; a container makes \
                            one that is missing";

/// A reason of the runtime's why a program did not start, with its fields in the user's
/// words and what helps.
pub(crate) fn in_words(fault: StartFault, reason: &str) -> String {
    let reason = without_step(reason);
    let hint = match fault {
        StartFault::NotFound => NOT_FOUND,
        StartFault::NotExecutable | StartFault::UnknownFormat => NOT_EXECUTABLE,
        StartFault::Directory => NO_DIRECTORY,
        StartFault::User => word("container.user").hint,
        _ => {
            if let Some((what, hint)) = reason.split_once(TAKEN) {
                let port = what.rsplit(": ").next().unwrap_or(what);
                return format!("{}: {port} is already in use{HINT}{hint}", PUBLISH.flag);
            }
            let Some(word) = named(reason) else { return reason.to_owned() };
            return format!("{}: {}{HINT}{}", word.flag, tail(reason), word.hint);
        }
    };
    format!("{reason}{HINT}{hint}")
}

/// Between a port that is taken and what helps.
const TAKEN: &str = " is already in use; ";

/// A reason without the number of the step that failed: `starling runtime plan` counts
/// them, and users do not.
pub(crate) fn without_step(reason: &str) -> &str {
    reason.rsplit_once(" (step ").map_or(reason, |(reason, _)| reason)
}

/// Why something could not be done to a task, without the runtime's name of the task.
pub(crate) fn refusal(error: &(dyn std::error::Error + 'static)) -> String {
    let of_exec = error.downcast_ref().and_then(|error| match error {
        ExecError::Task(error) => Some(error),
        _ => None,
    });
    match error.downcast_ref().or(of_exec) {
        Some(ControlError::Refused { reason, .. }) => reason.clone(),
        Some(ControlError::NotRunning { .. }) => "it is not running any more".to_owned(),
        _ => super::chain(error),
    }
}

/// The word that a reason names by the runtime's name.
fn named(reason: &str) -> Option<&'static Word> {
    WORDS.iter().filter(|word| !word.inner.is_empty()).find(|word| {
        // What cannot be limited is named without the `limits` before it.
        let short = word.inner.strip_prefix("limits.").filter(|_| reason.contains("limit"));
        reason.starts_with(word.inner) || short.is_some_and(|short| has_word(reason, short))
    })
}

/// Whether a name stands there as a whole word.
fn has_word(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_./".contains(c);
    text.split(|c: char| !is_part(c)).any(|word| word == name)
}

/// A reason without the name that it begins with.
fn tail(reason: &str) -> &str {
    match reason.split_once(": ") {
        Some((head, rest)) if !head.contains(' ') => rest,
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_own_word() {
        for entry in &WORDS {
            assert_eq!(word(entry.inner).inner, entry.inner, "an earlier one hides it");
        }
        assert_eq!(word("container.network.publish[0].port").flag, "--publish");
        assert_eq!(word("limits.io.write_iops").flag, "--device-write-iops");
        assert_eq!(word("nothing known").inner, "");
    }

    #[test]
    fn reasons_of_the_runtime_are_told_in_the_users_words() {
        let told = |reason| in_words(StartFault::System, reason);
        let network = told("container.network: this machine cannot do that: no nftables");
        assert!(network.starts_with("--network: this machine cannot do that: no nft"), "{network}");
        let weight = told("cannot limit the task: io_weight is asked for; nothing for it");
        assert!(weight.starts_with("--blkio-weight: cannot limit the task"), "{weight}");
        assert_eq!(told("mount overlay at /: no space left"), "mount overlay at /: no space left");
        assert_eq!(
            told("cannot mount overlay at /: no space left (step 7)"),
            "cannot mount overlay at /: no space left"
        );
        let taken = told(
            "cannot connect its network: port 80/tcp of this host is already in use; publish \
             another one (step 13)",
        );
        let port =
            "--publish: port 80/tcp of this host is already in use; hint: publish another one";
        assert_eq!(taken, port);
        assert!(in_words(StartFault::NotFound, "execute x: no such file").contains("PATH"));
    }
}
