//! `--security-opt`: Docker's and Podman's words for what a container is kept from.
//!
//! Each either is what is done anyway, or becomes trust that a node must grant, or is
//! refused. None is ever left out in silence: whoever asks for less than Docker's usual
//! confinement gets it by name, and whoever asks for more is told.

use gossip_core::container::Trust;

/// What one of them asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecurityWord {
    /// What is done anyway.
    Usual,
    /// What only a node that trusts its jobs grants.
    Trusted(Trust),
}

/// Reads `seccomp=unconfined`, `no-new-privileges`, `label:disable` and their kin.
pub(crate) fn option(text: &str) -> Result<SecurityWord, String> {
    let at = text.find(['=', ':']);
    let (name, value) = at.map_or((text, ""), |at| (&text[..at], &text[at + 1..]));
    let refused = |why: &str| Err(why.to_owned());
    match (name, value) {
        ("no-new-privileges", "" | "true" | "1") => Ok(SecurityWord::Usual),
        ("no-new-privileges", "false" | "0") => {
            refused("it is always on: nothing in a task gets more privileges than it began with")
        }
        ("seccomp", "unconfined") => Ok(SecurityWord::Trusted(Trust::AllCalls)),
        ("seccomp", "builtin" | "default") => Ok(SecurityWord::Usual),
        ("seccomp", _) => {
            refused("a profile of one's own is not read; there are builtin and unconfined")
        }
        ("systempaths", "unconfined") => Ok(SecurityWord::Trusted(Trust::SystemPaths)),
        // Podman's name for the same.
        ("unmask", "ALL" | "all") => Ok(SecurityWord::Trusted(Trust::SystemPaths)),
        ("mask" | "unmask", _) => {
            refused("paths are hidden or shown all together; systempaths=unconfined shows them")
        }
        // No profile is loaded, so there is none to do without.
        ("apparmor", "unconfined") | ("label", "disable") => Ok(SecurityWord::Usual),
        ("apparmor", _) => refused(
            "no profiles of AppArmor are applied; a container has ids of its own, few \
                     capabilities and a seccomp filter",
        ),
        ("label", _) => refused(
            "no labels of SELinux are set; a container has ids of its own, few \
                     capabilities and a seccomp filter",
        ),
        _ => refused(
            "it is not known; write seccomp=unconfined, systempaths=unconfined or \
             no-new-privileges",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_granted_by_name_or_refused() {
        use SecurityWord::{Trusted, Usual};
        for (text, word) in [
            ("no-new-privileges", Usual),
            ("no-new-privileges:true", Usual),
            ("no-new-privileges=true", Usual),
            ("seccomp=unconfined", Trusted(Trust::AllCalls)),
            ("seccomp:unconfined", Trusted(Trust::AllCalls)),
            ("seccomp=builtin", Usual),
            ("systempaths=unconfined", Trusted(Trust::SystemPaths)),
            ("unmask=ALL", Trusted(Trust::SystemPaths)),
            ("apparmor=unconfined", Usual),
            ("label=disable", Usual),
            ("label:disable", Usual),
        ] {
            assert_eq!(option(text), Ok(word), "{text}");
        }
        for (text, why) in [
            ("no-new-privileges=false", "always on"),
            ("seccomp=/etc/profile.json", "builtin and unconfined"),
            ("apparmor=docker-default", "AppArmor"),
            ("label=type:svirt_t", "SELinux"),
            ("unmask=/proc/acpi", "systempaths=unconfined"),
            ("writable-cgroups=true", "not known"),
            ("", "not known"),
        ] {
            let told = option(text).expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
