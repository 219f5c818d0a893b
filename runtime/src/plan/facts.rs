//! What this machine can do, probed once: the half of every plan that is not the
//! launch.
//!
//! Plain data, so that plans for machines we do not have are made in tests, and
//! that `doctor` shows what the plans will go by.

use std::fs;

use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::sandbox::veil;

/// Most grants read of `/etc/subuid`: one user has one or two.
const GRANTS: usize = 64;

/// A kernel's version, as far as it decides what can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kernel {
    /// Before the first dot.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

impl Kernel {
    /// From what `uname -r` says: `6.18.44-fc-v657`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        Some(Self { major, minor: numbers.next()?.parse().ok()? })
    }

    /// Whether it is this version or a later one.
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }
}

/// Ids that somebody may give to containers: a line of `/etc/subuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// What this machine can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Which kernel it has.
    pub kernel: Kernel,
    /// Whom the runtime runs as.
    pub uid: u32,
    /// With which group.
    pub gid: u32,
    /// What the runtime may do: bit n is capability n.
    pub capabilities: u64,
    /// Kinds of namespaces that can be made, as `/proc/self/ns` calls them.
    pub namespaces: Vec<String>,
    /// Whether the runtime may make user namespaces.
    pub user_namespaces: bool,
    /// Whether a plain process of this user can have mounts of its own: tried. Root's
    /// need none, for they have other users.
    #[serde(default)]
    pub own_mounts: bool,
    /// Whether the kernel knows overlayfs.
    pub overlay: bool,
    /// Whether it filters system calls.
    pub seccomp: bool,
    /// Version of landlock; 0 where there is none.
    pub landlock: u32,
    /// User ids granted to the runtime's user, when that is not root.
    pub subuids: Vec<IdRange>,
    /// Group ids granted to it.
    pub subgids: Vec<IdRange>,
    /// Whether `newuidmap` and `newgidmap` are installed, which hand these out.
    pub id_helpers: bool,
}

impl Facts {
    /// Looks. What cannot be read counts as absent.
    pub fn probe() -> Self {
        let uid = geteuid().as_raw();
        let release = rustix::system::uname();
        let capabilities =
            rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits());
        let grants = if uid == 0 { None } else { user_names(uid) };
        let granted =
            |file| grants.as_ref().map(|names| read_grants(file, names)).unwrap_or_default();
        let installed = |name: &str| {
            ["/usr/bin", "/bin", "/usr/local/bin"]
                .iter()
                .any(|dir| fs::exists(format!("{dir}/{name}")).unwrap_or(false))
        };
        Self {
            kernel: Kernel::parse(&release.release().to_string_lossy())
                .unwrap_or(Kernel { major: 0, minor: 0 }),
            uid,
            gid: getegid().as_raw(),
            capabilities,
            namespaces: namespaces(),
            user_namespaces: may_make_user_namespaces(uid),
            own_mounts: uid != 0 && veil::is_possible(),
            overlay: text("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay")),
            seccomp: text("/proc/sys/kernel/seccomp/actions_avail").contains("errno"),
            landlock: crate::sys::landlock::abi().unwrap_or(0),
            subuids: granted("/etc/subuid"),
            subgids: granted("/etc/subgid"),
            id_helpers: installed("newuidmap") && installed("newgidmap"),
        }
    }

    /// Whether the runtime is root with the powers that containers need.
    pub fn privileged(&self) -> bool {
        /// `CAP_SYS_ADMIN` of `linux/capability.h`.
        const SYS_ADMIN: u32 = 21;
        self.uid == 0 && self.capabilities & (1 << SYS_ADMIN) != 0
    }

    /// Whether overlayfs shows layers whose owners are mapped: Linux 5.19.
    pub fn mapped_layers(&self) -> bool {
        self.privileged() && self.kernel.at_least(5, 19)
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| !name.ends_with("_for_children"));
    names.sort();
    names
}

fn may_make_user_namespaces(uid: u32) -> bool {
    let number = |path: &str| text(path).trim().parse::<u64>().ok();
    let some = number("/proc/sys/user/max_user_namespaces").is_some_and(|most| most > 0);
    // Debian's and Ubuntu's switches, which bind only ordinary users.
    let open = number("/proc/sys/kernel/unprivileged_userns_clone") != Some(0)
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") != Some(1);
    some && (uid == 0 || open)
}

/// What `/etc/subuid` may call a user: its number, and its name if it has one.
fn user_names(uid: u32) -> Option<Vec<String>> {
    let mut names = vec![uid.to_string()];
    names.extend(text("/etc/passwd").lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    }));
    Some(names)
}

fn read_grants(file: &str, names: &[String]) -> Vec<IdRange> {
    parse_grants(&text(file), names)
}

/// The grants to whom any of these names means.
pub(super) fn parse_grants(text: &str, names: &[String]) -> Vec<IdRange> {
    let grant = |line: &str| {
        let mut fields = line.trim().split(':');
        names.iter().any(|name| Some(name.as_str()) == fields.clone().next()).then_some(())?;
        let first = fields.nth(1)?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        (count > 0 && u32::checked_add(first, count).is_some()).then_some(IdRange { first, count })
    };
    text.lines().filter_map(grant).take(GRANTS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_first_two_numbers() {
        let kernel = Kernel::parse("6.18.44-fc-v657").expect("a version");
        assert_eq!(kernel, Kernel { major: 6, minor: 18 });
        assert!(kernel.at_least(6, 18) && kernel.at_least(5, 19) && !kernel.at_least(7, 0));
        assert_eq!(Kernel::parse("5.15-rc1"), Some(Kernel { major: 5, minor: 15 }));
        assert_eq!(Kernel::parse("Linux"), None);
    }

    #[test]
    fn grants_are_read_by_name_and_number_and_nonsense_is_left_out() {
        let text = "# none\nann:100000:65536\nbob:1:2\n1000:300000:10\nann:4294967295:2\nann:x:1\nann:7:0\n";
        let names = ["1000".to_owned(), "ann".to_owned()];
        let wanted = [(100_000, 65_536), (300_000, 10)];
        let wanted = wanted.map(|(first, count)| IdRange { first, count });
        assert_eq!(parse_grants(text, &names), wanted);
    }

    #[test]
    fn this_machine_answers_and_survives_being_written_down() {
        let facts = Facts::probe();
        assert!(facts.kernel.at_least(4, 0), "{facts:?}");
        assert!(facts.namespaces.contains(&"mnt".to_owned()), "{facts:?}");
        let text = serde_json::to_string(&facts).expect("written");
        assert_eq!(serde_json::from_str::<Facts>(&text).expect("read"), facts);
    }
}
