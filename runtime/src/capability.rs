//! The pieces of root's power: their names, sets of them, and Docker's default set.
//!
//! Pure: what a task may keep is computed here, and applied by `sys::capability`.
//!
//! Invariant: a name that is not known is an error that names it, never skipped: a
//! misspelt `drop` must not leave a power in place.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One capability, by its number in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(u8);

macro_rules! capabilities {
    ($($name:ident)*) => {
        /// All that Linux has known since 5.9, at the index of their numbers.
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "the kernel's names")]
        enum Number { $($name),* }

        #[allow(missing_docs, dead_code, reason = "capabilities(7) describes them")]
        impl Capability {
            $(pub(crate) const $name: Self = Self(Number::$name as u8);)*
        }
    };
}

// In the order of linux/capability.h, which is that of the numbers.
capabilities! {
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
}

/// Stands for every capability, in Docker's `cap_add` and `cap_drop` and here.
const ALL: &str = "ALL";

/// The printed form of the empty set.
const NOTHING: &str = "NONE";

/// A name that no capability has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no capability; they are called like CAP_NET_RAW or NET_RAW, and ALL is all")]
pub struct UnknownCapability {
    /// What was given.
    pub given: String,
}

impl FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        let bare = match text.get(..4) {
            Some(prefix) if prefix.eq_ignore_ascii_case("CAP_") => &text[4..],
            _ => text,
        };
        (0u8..)
            .zip(NAMES)
            .find(|(_, name)| name.eq_ignore_ascii_case(bare))
            .map(|(number, _)| Self(number))
            .ok_or_else(|| UnknownCapability { given: text.to_owned() })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", NAMES.get(usize::from(self.0)).unwrap_or(&"UNKNOWN"))
    }
}

/// A set of capabilities. In records it is its printed form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// Every capability that we know.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// What Docker leaves to root in a container: moby, `oci/caps/defaults.go`.
    pub const CONTAINER: Self = Self::of(&[
        Capability::CHOWN,
        Capability::DAC_OVERRIDE,
        Capability::FSETID,
        Capability::FOWNER,
        Capability::MKNOD,
        Capability::NET_RAW,
        Capability::SETGID,
        Capability::SETUID,
        Capability::SETFCAP,
        Capability::SETPCAP,
        Capability::NET_BIND_SERVICE,
        Capability::SYS_CHROOT,
        Capability::KILL,
        Capability::AUDIT_WRITE,
    ]);

    /// The set of these.
    pub const fn of(members: &[Capability]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < members.len() {
            bits |= 1 << members[index].0;
            index += 1;
        }
        Self(bits)
    }

    /// The kernel's form: bit n is capability n.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// A set in the kernel's form; what we have no name for is left out.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// Whether the capability is in it.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability.0) != 0
    }

    /// What is in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is here and not in the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// This set with some added and some dropped, by Docker's rules: adding ALL gives
    /// all but the dropped; dropping ALL gives the added and nothing else; otherwise
    /// the dropped go first, so that what is both dropped and added stays.
    pub fn with<T: AsRef<str>>(self, add: &[T], drop: &[T]) -> Result<Self, UnknownCapability> {
        let (add, add_all) = named(add)?;
        let (drop, drop_all) = named(drop)?;
        Ok(match (add_all, drop_all) {
            (true, _) => Self::ALL.without(drop),
            (false, true) => add,
            (false, false) => Self(self.without(drop).0 | add.0),
        })
    }

    fn members(self) -> impl Iterator<Item = Capability> {
        (0u8..).take(NAMES.len()).map(Capability).filter(move |&one| self.contains(one))
    }
}

/// The capabilities named one by one, and whether ALL was among the names.
fn named<T: AsRef<str>>(names: &[T]) -> Result<(CapabilitySet, bool), UnknownCapability> {
    let mut set = CapabilitySet::EMPTY;
    let mut all = false;
    for name in names.iter().map(AsRef::as_ref) {
        if name.eq_ignore_ascii_case(ALL) {
            all = true;
        } else {
            set.0 |= CapabilitySet::of(&[name.parse()?]).0;
        }
    }
    Ok((set, all))
}

impl FromStr for CapabilitySet {
    type Err = UnknownCapability;

    /// Names with commas between them, `ALL` or `NONE`.
    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        if text.eq_ignore_ascii_case(NOTHING) {
            return Ok(Self::EMPTY);
        }
        let names: Vec<_> = text.split(',').map(str::trim).collect();
        Self::EMPTY.with(&names, &[])
    }
}

impl TryFrom<String> for CapabilitySet {
    type Error = UnknownCapability;

    fn try_from(text: String) -> Result<Self, UnknownCapability> {
        text.parse()
    }
}

impl From<CapabilitySet> for String {
    fn from(set: CapabilitySet) -> Self {
        set.to_string()
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => return f.write_str(ALL),
            Self::EMPTY => return f.write_str(NOTHING),
            _ => {}
        }
        for (index, member) in self.members().enumerate() {
            write!(f, "{}{member}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CapabilitySet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        for text in ["CAP_NET_RAW", "NET_RAW", "cap_net_raw", "Net_Raw"] {
            assert_eq!(text.parse(), Ok(Capability::NET_RAW), "{text}");
        }
        for text in ["", "CAP_", "CAP_CAP_KILL", "NET RAW", "all", "é", "CAé"] {
            let refused = text.parse::<Capability>();
            assert_eq!(refused, Err(UnknownCapability { given: text.to_owned() }));
        }
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(Capability::SYS_ADMIN, Capability(21));
        assert_eq!(Capability::CHECKPOINT_RESTORE, Capability(40));
        assert_eq!(CapabilitySet::ALL.bits(), 0x1ff_ffff_ffff);
        // As /proc shows it in a container of Docker's.
        assert_eq!(CapabilitySet::CONTAINER.bits(), 0xa804_25fb);
    }

    #[test]
    fn sets_print_as_they_parse() {
        let some = CapabilitySet::of(&[Capability::KILL, Capability::BPF]);
        assert_eq!(some.to_string(), "CAP_KILL,CAP_BPF");
        for set in [some, CapabilitySet::EMPTY, CapabilitySet::ALL, CapabilitySet::CONTAINER] {
            assert_eq!(set.to_string().parse(), Ok(set));
            let json = serde_json::to_string(&set).expect("a string");
            assert_eq!(serde_json::from_str::<CapabilitySet>(&json).ok(), Some(set));
        }
        assert_eq!("kill, nope".parse::<CapabilitySet>().map_err(|e| e.given), Err("nope".into()));
    }

    #[test]
    fn adding_and_dropping_follow_dockers_rules() {
        let of = CapabilitySet::of;
        let start = of(&[Capability::CHOWN, Capability::KILL]);
        let cases: [(&[&str], &[&str], CapabilitySet); 7] = [
            (&[], &[], start),
            (&["BPF"], &["CHOWN"], of(&[Capability::KILL, Capability::BPF])),
            (&["KILL"], &["KILL"], start),
            (&["BPF"], &["ALL"], of(&[Capability::BPF])),
            (&[], &["all"], CapabilitySet::EMPTY),
            (&["ALL"], &["KILL"], CapabilitySet::ALL.without(of(&[Capability::KILL]))),
            (&["ALL"], &["ALL"], CapabilitySet::ALL),
        ];
        for (add, drop, expected) in cases {
            assert_eq!(start.with(add, drop), Ok(expected), "+{add:?} -{drop:?}");
        }
        assert!(start.with(&["ALL"], &["SYS_ADMN"]).is_err());
    }
}
