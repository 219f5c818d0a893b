//! The system calls of a container: Docker's default profile as a BPF program.
//!
//! ```text
//! other architecture ── kill
//! call number ──tree of ranges──▶ allow │ EPERM │ ENOSYS │ look at an argument
//! ```
//!
//! A tree and not a list: a list has an instruction for each of the 330 calls, and the
//! kernel checks and translates every one at each start (600 us instead of 40).
//!
//! What differs from Docker, and why:
//! - `ioctl` with TIOCSTI or TIOCLINUX gets EPERM: they type into the terminal that a
//!   task may share with whoever started it.
//! - Arguments are compared as the kernel takes them, by their low 32 bits: the calls
//!   in question take an `int`, and garbage above it must neither hide TIOCSTI nor
//!   refuse an honest call.
//! - Processes of another architecture (32-bit x86 through `int 0x80` too) are killed,
//!   and x32 gets ENOSYS. Docker gives them the same list by name; but the 32-bit
//!   `socketcall` hides its arguments from any filter, and a second list of numbers
//!   would serve images that nobody runs here. Killed and not refused: a program whose
//!   every call fails, `exit` included, ends in a crash that explains nothing.
//! - `ptrace` and `process_vm_*` do not ask for Linux 4.8, before which a tracer got
//!   past the filter: containers are mounted with calls that came with 5.2.
//!
//! Calls that are newer than the profile get ENOSYS, as runc does it, so that programs
//! fall back; older ones that it lacks get EPERM.
//!
//! Pure: nothing here makes a system call; `sys::seccomp` installs.

mod assembler;
mod table;
#[cfg(test)]
mod tests;

use assembler::{Assembler, Label, Test};
use table::{CLONE, CLONE3, Call, GROUPS, IOCTL, NONE, PERSONALITY, SOCKET};

use crate::capability::{Capability, CapabilitySet};

/// What a program tells the kernel: linux/seccomp.h.
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const REFUSED: u32 = ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = ERRNO | libc::ENOSYS as u32;

/// Places in `struct seccomp_data`: the call's number, the architecture, and the low
/// halves of the first two arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST: u32 = 16;
const SECOND: u32 = 24;

/// Highest number that the profile names, on both architectures: `removexattrat`.
const LAST: u16 = 466;

/// Address families as bits: those of moby's list. Not among them, besides families
/// that Linux no longer has: AF_ALG (38), which containers do not need, and AF_VSOCK
/// (40), which reaches the hypervisor past every network namespace.
const FAMILIES: u64 = families(&[(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36)])
    | families(&[(39, 39), (41, 45)]);

/// Personalities that a process may take: Linux, Linux with the 32-bit `uname`
/// (setarch), both with UNAME26, and "tell me".
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// TIOCSTI and TIOCLINUX: they type into a terminal.
const TYPING: [u32; 2] = [0x5412, 0x541c];

/// The `CLONE_NEW*` flags of `clone`. CLONE_NEWTIME is none of them: there its bit
/// belongs to the exit signal.
const NAMESPACES: u32 = 0x7e02_0000;

/// Room for the largest program we build, so that it is allocated once.
const INSTRUCTIONS: usize = 256;

/// An architecture whose call numbers we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// What the kernel calls it: linux/audit.h.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }
}

const HERE: Arch = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 };
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("seccomp/table.rs knows the system calls of x86_64 and aarch64 only");

/// A filter, ready to be installed. Each word is a `struct sock_filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program(Vec<u64>);

impl Program {
    /// For whoever installs it.
    pub(crate) fn words(&self) -> &[u64] {
        &self.0
    }
}

/// What [`Program::words`] gave. The kernel checks every program it is given.
impl From<Vec<u64>> for Program {
    fn from(words: Vec<u64>) -> Self {
        Self(words)
    }
}

/// The filter of this machine's architecture for a task that can hold these
/// capabilities at most. As in Docker a capability brings the calls that need it.
pub(crate) fn program(caps: CapabilitySet) -> Program {
    container(HERE, caps)
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse,
    Unknown,
    Socket,
    Personality,
    Ioctl,
    Clone,
}

fn container(arch: Arch, caps: CapabilitySet) -> Program {
    let mut code = Assembler::with_capacity(INSTRUCTIONS);
    let killed = code.ret(KILL);
    let unknown = code.ret(UNKNOWN);
    let refused = code.ret(REFUSED);
    let allowed = code.ret(ALLOW);
    let families = runs(|family| FAMILIES >> family & 1 == 1);
    let socket = code.tree(&labelled(&families, allowed, refused));
    let socket = code.load(FIRST, socket);
    let personality = code.tree(&labelled(&only(&PERSONALITIES), allowed, refused));
    let personality = code.load(FIRST, personality);
    let ioctl = code.tree(&labelled(&only(&TYPING), refused, allowed));
    let ioctl = code.load(SECOND, ioctl);
    let clone = code.branch(Test::AnyBit, NAMESPACES, refused, allowed);
    let clone = code.load(FIRST, clone);
    let label = |verdict| match verdict {
        Verdict::Allow => allowed,
        Verdict::Refuse => refused,
        Verdict::Unknown => unknown,
        Verdict::Socket => socket,
        Verdict::Personality => personality,
        Verdict::Ioctl => ioctl,
        Verdict::Clone => clone,
    };
    let mut ranges = Vec::with_capacity(INSTRUCTIONS);
    let mut before = None;
    for (number, verdict) in (0..).zip(verdicts(arch, caps)) {
        if before != Some(verdict) {
            ranges.push((number, label(verdict)));
            before = Some(verdict);
        }
    }
    let calls = code.tree(&ranges);
    let calls = code.load(NUMBER, calls);
    let start = code.branch(Test::Equal, arch.audit(), calls, killed);
    let start = code.load(ARCHITECTURE, start);
    Program(code.finish(start))
}

/// The verdict for every number of the profile, and one more for all above.
fn verdicts(arch: Arch, caps: CapabilitySet) -> [Verdict; LAST as usize + 2] {
    let mut verdicts = [Verdict::Refuse; LAST as usize + 2];
    let mut set = |call: &Call, verdict| {
        let number = match arch {
            Arch::X86_64 => call.x86_64,
            Arch::Aarch64 => call.aarch64,
        };
        if number != NONE
            && let Some(slot) = verdicts.get_mut(usize::from(number))
        {
            *slot = verdict;
        }
    };
    let held = |needs: Option<Capability>| needs.is_none_or(|needed| caps.contains(needed));
    for group in GROUPS.iter().filter(|group| held(group.needs)) {
        group.calls.iter().for_each(|call| set(call, Verdict::Allow));
    }
    let free = held(Some(Capability::SYS_ADMIN));
    set(&SOCKET, Verdict::Socket);
    set(&PERSONALITY, Verdict::Personality);
    set(&IOCTL, Verdict::Ioctl);
    set(&CLONE, if free { Verdict::Allow } else { Verdict::Clone });
    set(&CLONE3, if free { Verdict::Allow } else { Verdict::Unknown });
    verdicts[usize::from(LAST) + 1] = Verdict::Unknown;
    verdicts
}

const fn families(ranges: &[(u32, u32)]) -> u64 {
    let (mut bits, mut index) = (0, 0);
    while index < ranges.len() {
        let (first, last) = ranges[index];
        bits |= (u64::MAX >> (63 - (last - first))) << first;
        index += 1;
    }
    bits
}

/// Where the answer changes over the 64 numbers that a bit set holds; false above.
fn runs(member: impl Fn(u32) -> bool) -> Vec<(u32, bool)> {
    let answers = (0..u64::BITS).map(|number| (number, member(number)));
    let mut runs: Vec<(u32, bool)> = answers.chain([(u64::BITS, false)]).collect();
    runs.dedup_by_key(|(_, answer)| *answer);
    runs
}

/// True for these ascending values, false between and around them.
fn only(values: &[u32]) -> Vec<(u32, bool)> {
    let mut runs = vec![(0, false)];
    for &value in values {
        // A run of no length gives way to the one that begins there too.
        runs.pop_if(|(start, _)| *start == value);
        runs.push((value, true));
        runs.extend(value.checked_add(1).map(|next| (next, false)));
    }
    runs
}

fn labelled(runs: &[(u32, bool)], yes: Label, no: Label) -> Vec<(u32, Label)> {
    runs.iter().map(|&(start, answer)| (start, if answer { yes } else { no })).collect()
}
