//! What this process may do, and giving it up.
//!
//! Runs between fork and exec: system calls only, nothing is allocated. rustix has
//! safe forms of all of them.
//!
//! Invariant: after [`become_user_with`] nothing outside the given set can be got
//! back, whatever is executed.

use rustix::io::Errno;
use rustix::thread::{self, CapabilitiesSecureBits, CapabilitySets, Gid, Uid};

use crate::capability::{Capability, CapabilitySet};
use crate::exact::Powers;

/// Numbers that a set of 64 bits can hold.
const NUMBERS: u32 = u64::BITS;

/// What this process holds now. A set wanted for a task that exceeds it cannot be
/// given: even root lacks some on many machines.
pub(crate) fn own() -> Result<CapabilitySet, Errno> {
    let sets = thread::capabilities(None)?;
    Ok(CapabilitySet::from_bits(sets.permitted.bits()))
}

/// Turns root of this user namespace into the task's user, with `caps` as the most
/// that the task can ever hold. Root gets all of `caps`; any other user gets none and
/// keeps them as the bound of what files can give, as in Docker. Nothing becomes
/// inheritable or ambient.
///
/// The order, and why:
/// 1. Secure bits go: whoever started the agent may have set some that keep
///    capabilities over a change of user, or deny them to root at exec.
/// 2. The bounding set shrinks while CAP_SETPCAP is still there.
/// 3. The ambient set is emptied.
/// 4. Groups, then group, then user: each step needs a capability that the last ends.
/// 5. The sets themselves, last: they may no longer hold what the steps above need.
///
/// Before: `setsid`, mounts, limits, all that needs root. After: no-new-privileges,
/// then the seccomp filter, then exec.
///
/// EINVAL for the ids -1, which mean "leave as it is" to the kernel; EPERM where this
/// process lacks CAP_SETPCAP, CAP_SETUID, CAP_SETGID or, for root, one of `caps`, and where
/// secure bits are locked.
pub(crate) fn become_user_with(
    uid: u32,
    gid: u32,
    groups: &[Gid],
    caps: CapabilitySet,
) -> Result<(), Errno> {
    let leaves = |id: u32| id == u32::MAX;
    if leaves(uid) || leaves(gid) {
        return Err(Errno::INVAL);
    }
    if !thread::capabilities_secure_bits()?.is_empty() {
        thread::set_capabilities_secure_bits(CapabilitiesSecureBits::empty())?;
    }
    bound(caps)?;
    thread::clear_ambient_capability_set()?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    match thread::set_thread_groups(groups) {
        // A namespace of one id, made without root, gave up setgroups for good: no other
        // group exists in it, whatever an image's files say. With the capability in hand
        // that is the only reason for a refusal.
        Err(Errno::PERM) if own()?.contains(Capability::SETGID) => {}
        set => set?,
    }
    thread::set_thread_res_gid(group, group, group)?;
    thread::set_thread_res_uid(user, user, user)?;
    hold(if uid == 0 { caps } else { CapabilitySet::EMPTY })
}

/// Turns root of this user namespace into a user with exactly these powers, whoever it
/// is. As [`become_user_with`], but that the sets differ from each other, and that a user
/// other than root keeps what it is given over the change of ids.
pub(crate) fn become_exactly(
    (uid, gid): (u32, u32),
    groups: &[Gid],
    powers: &Powers,
) -> Result<(), Errno> {
    if [uid, gid].contains(&u32::MAX) {
        return Err(Errno::INVAL);
    }
    if !thread::capabilities_secure_bits()?.is_empty() {
        thread::set_capabilities_secure_bits(CapabilitiesSecureBits::empty())?;
    }
    bound(powers.bounding)?;
    thread::clear_ambient_capability_set()?;
    thread::set_keep_capabilities(true)?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    thread::set_thread_groups(groups)?;
    thread::set_thread_res_gid(group, group, group)?;
    thread::set_thread_res_uid(user, user, user)?;
    let set = |caps: CapabilitySet| thread::CapabilitySet::from_bits_retain(caps.bits());
    let (effective, permitted) = (set(powers.effective), set(powers.permitted));
    let inheritable = set(powers.inheritable);
    thread::set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?;
    thread::set_keep_capabilities(false)?;
    (0..NUMBERS)
        .filter(|number| powers.ambient.bits() & (1 << number) != 0)
        .try_for_each(|number| thread::configure_capability_in_ambient_set(bit(number), true))
}

/// Drops from the bounding set all that `caps` lacks, also what we have no name for.
/// A set that cannot be read is an error, not an empty one: a filter that we run under
/// may refuse the question.
fn bound(caps: CapabilitySet) -> Result<(), Errno> {
    for number in (0..NUMBERS).filter(|number| caps.bits() & (1 << number) == 0) {
        match thread::capability_is_in_bounding_set(bit(number)) {
            Ok(true) => thread::remove_capability_from_bounding_set(bit(number))?,
            Ok(false) => {}
            // The first number that the kernel does not know: there are no gaps.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes `caps` the permitted and effective set, and empties the inheritable one.
fn hold(caps: CapabilitySet) -> Result<(), Errno> {
    let set = thread::CapabilitySet::from_bits_retain(caps.bits());
    let inheritable = thread::CapabilitySet::empty();
    thread::set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable })
}

fn bit(number: u32) -> thread::CapabilitySet {
    thread::CapabilitySet::from_bits_retain(1 << number)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::capability::Capability;
    use crate::seccomp::Program;
    use crate::sys;
    use crate::sys::forked::{self, Outcome};

    /// Is root, with enough to play this: said where not.
    fn root() -> bool {
        let wanted = CapabilitySet::CONTAINER.without(own().expect("capget"));
        if wanted != CapabilitySet::EMPTY {
            eprintln!("SKIPPED: this process lacks {wanted}");
        }
        wanted == CapabilitySet::EMPTY
    }

    /// The capability lines of /proc after becoming that user and executing `cat`.
    fn sets_after_exec(uid: u32, caps: CapabilitySet) -> Vec<(String, u64)> {
        let mut command = Command::new("/bin/cat");
        command.arg("/proc/self/status");
        let become_it = move || {
            become_user_with(uid, uid, &[Gid::from_raw(7)], caps).map_err(std::io::Error::from)
        };
        forked::before_exec(&mut command, become_it);
        let out = command.output().expect("cat");
        let text = String::from_utf8(out.stdout).expect("UTF-8");
        let line = |line: &str| {
            let (name, value) = line.split_once(":\t")?;
            let bits = u64::from_str_radix(value, 16).ok()?;
            name.starts_with("Cap").then(|| (name.to_owned(), bits))
        };
        assert!(text.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{text}");
        assert!(text.contains("\nGroups:\t7 \n"), "{text}");
        text.lines().filter_map(line).collect()
    }

    #[test]
    fn root_keeps_exactly_what_it_was_given() {
        if !root() {
            return;
        }
        let caps = CapabilitySet::CONTAINER.without(CapabilitySet::of(&[Capability::KILL]));
        let bits = caps.bits();
        let names = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        let expected: Vec<_> =
            names.iter().map(|n| n.to_string()).zip([0, bits, bits, bits, 0]).collect();
        assert_eq!(sets_after_exec(0, caps), expected);
    }

    #[test]
    fn another_user_holds_nothing_and_keeps_the_bound() {
        if !root() {
            return;
        }
        let bits = CapabilitySet::CONTAINER.bits();
        let held = sets_after_exec(12345, CapabilitySet::CONTAINER);
        assert_eq!(held.iter().map(|(_, bits)| *bits).collect::<Vec<_>>(), [0, 0, 0, bits, 0]);
    }

    #[test]
    fn a_bound_that_cannot_be_read_is_not_taken_for_empty() {
        // prctl(PR_CAPBSET_READ) gives ENOSYS: load, compare, load, compare, two ends.
        let question = [
            0x20,
            0x0300_0015 | (libc::SYS_prctl as u64) << 32,
            0x20 | 16 << 32,
            0x0100_0015 | (libc::PR_CAPBSET_READ as u64) << 32,
            0x06 | 0x0005_0026 << 32,
            0x06 | 0x7fff_0000 << 32,
        ];
        let filter = Program::from(question.to_vec());
        let outcome = forked::run(|| {
            if thread::set_no_new_privs(true).is_err() || sys::seccomp::install(&filter).is_err() {
                return 1;
            }
            match become_user_with(0, 0, &[], CapabilitySet::EMPTY) {
                Err(Errno::NOSYS) => 0,
                _ => 2,
            }
        });
        assert_eq!(outcome, Outcome::Exited(0));
    }

    #[test]
    fn nobody_becomes_the_id_that_means_no_change() {
        for (uid, gid) in [(u32::MAX, 1), (1, u32::MAX)] {
            let outcome =
                forked::run(|| match become_user_with(uid, gid, &[], CapabilitySet::EMPTY) {
                    Err(Errno::INVAL) => 0,
                    _ => 1,
                });
            assert_eq!(outcome, Outcome::Exited(0));
        }
    }
}
