//! Whether tasks run here, and what keeps a container in: kernel, namespaces, mounts,
//! filters, ids.

use super::limits::privileged_container;
use super::{Finding, Ground, Host, Switches, Trial};
use crate::plan::Kernel;

/// `close_range`, without which the keeper does not start.
const TASKS: (u32, u32) = (5, 9);
/// `mount_setattr`, with which a container is built.
const CONTAINERS: (u32, u32) = (5, 12);
/// Layers whose owners are mapped, for containers of root with ids of their own.
const MAPPED_LAYERS: (u32, u32) = (5, 19);

/// Ids that an ordinary user's container should have: what `useradd` grants.
const IDS_WANTED: u32 = 65_536;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut found = vec![kernel(host), user_namespaces(host), overlay(host)];
    found.push(mapped_mounts(host));
    found.push(seccomp(host));
    match host.ground.is_root() {
        true => found.push(landlock(host)),
        false => found.extend(processes(host)),
    }
    found.push(clocks(host));
    found.extend(ids(host));
    found
}

fn kernel(host: &Host) -> Finding {
    const NAME: &str = "kernel";
    let Kernel { major, minor } = host.facts.kernel;
    let release = &host.release;
    let newer = |(major, minor)| {
        format!("boot Linux {major}.{minor} or later   a newer release of the distribution has it")
    };
    let at_least = |(major, minor): (u32, u32)| host.facts.kernel.at_least(major, minor);
    if (major, minor) == (0, 0) {
        let what = format!("the kernel's version {release:?} cannot be read");
        return Finding::warn(NAME, what, newer(MAPPED_LAYERS));
    }
    if !at_least(TASKS) {
        let what = format!("Linux {release} is too old for any task: 5.9 is the oldest that works");
        return Finding::fail(
            NAME,
            what,
            newer(if host.ground.is_root() { MAPPED_LAYERS } else { CONTAINERS }),
        );
    }
    if !at_least(CONTAINERS) {
        let what = format!("Linux {release} runs plain processes only: containers need 5.12");
        return Finding::fail(
            NAME,
            what,
            newer(if host.ground.is_root() { MAPPED_LAYERS } else { CONTAINERS }),
        );
    }
    if host.ground.is_root() && !at_least(MAPPED_LAYERS) {
        let what = format!(
            "Linux {release} gives containers no ids of their own under an agent of root: that \
             needs 5.19, and only jobs with --trust host-ids run in containers"
        );
        return Finding::warn(NAME, what, newer(MAPPED_LAYERS));
    }
    Finding::ok(NAME, format!("Linux {release}"))
}

fn user_namespaces(host: &Host) -> Finding {
    const NAME: &str = "user namespaces";
    match &host.trials.user_namespace {
        Trial::Works => Finding::ok(NAME, "tried: a container gets ids of its own"),
        Trial::Untried(why) if host.facts.user_namespaces => {
            Finding::ok(NAME, format!("the kernel's switches allow them; not tried: {why}"))
        }
        Trial::Untried(why) => {
            let (reason, fix) = closed(host, &format!("not tried: {why}"));
            Finding::fail(NAME, format!("containers cannot run: {reason}"), fix)
        }
        Trial::Fails { at, why } => {
            let (reason, fix) = closed(host, &format!("to {at} gives \"{why}\""));
            Finding::fail(NAME, format!("containers cannot run: {reason}"), fix)
        }
    }
}

/// What closes user namespaces, and what opens them.
fn closed(host: &Host, seen: &str) -> (String, String) {
    let ground = &host.ground;
    let Switches { most, unprivileged, apparmor, selinux } = host.switches;
    let switch = |name: &str, value: &str| {
        let file = "/etc/sysctl.d/60-starling.conf";
        ground.as_root_in_shell(&format!("echo {name}={value} >> {file} && sysctl -p {file}"))
    };
    if !host.facts.namespaces.iter().any(|name| name == "user") {
        return (
            "the kernel was built without user namespaces".to_owned(),
            "boot a kernel with CONFIG_USER_NS=y   those of all large distributions have it"
                .to_owned(),
        );
    }
    if most == Some(0) {
        let reason = "user.max_user_namespaces is 0".to_owned();
        return (reason, switch("user.max_user_namespaces", "15000"));
    }
    if !ground.is_root() && unprivileged == Some(0) {
        let reason = "kernel.unprivileged_userns_clone is 0, so only root makes user namespaces";
        return (reason.to_owned(), switch("kernel.unprivileged_userns_clone", "1"));
    }
    if !ground.is_root() && apparmor == Some(1) {
        let reason = "AppArmor lets no ordinary program use user namespaces \
                      (kernel.apparmor_restrict_unprivileged_userns is 1)";
        return (reason.to_owned(), apparmor_profile(ground));
    }
    if let Some(inside) = &ground.inside {
        return (
            format!("{inside}, in which this runs, forbids user namespaces ({seen})"),
            privileged_container(ground),
        );
    }
    let fix = if selinux {
        ground.as_root("ausearch -m avc -ts recent   whether SELinux refused it")
    } else {
        "strace -f -e trace=unshare,mount starling doctor   which call is refused".to_owned()
    };
    (format!("user namespaces do not work here: {seen}"), fix)
}

/// A profile that lets this one program do what Ubuntu forbids to all others.
fn apparmor_profile(ground: &Ground) -> String {
    let profile = "profile starling /usr/{bin,local/bin}/starling flags=(unconfined) { userns, }";
    ground.as_root_in_shell(&format!(
        "printf 'abi <abi/4.0>,\\n{profile}\\n' > /etc/apparmor.d/starling && \
         apparmor_parser -r /etc/apparmor.d/starling"
    ))
}

fn overlay(host: &Host) -> Finding {
    const NAME: &str = "overlayfs";
    let module = host.ground.as_root(
        "modprobe overlay   and at each boot: echo overlay > /etc/modules-load.d/overlay.conf",
    );
    let newer = "boot Linux 5.19 or later   overlayfs in user namespaces came with 5.11";
    match (&host.trials.overlay_in_user_namespace, &host.trials.overlay) {
        (Trial::Works, _) => Finding::ok(NAME, "tried: mounts in a user namespace too"),
        (_, Trial::Works) => Finding::warn(
            NAME,
            "mounts for root, not in a user namespace: only jobs with --trust host-ids run in \
             containers",
            newer,
        ),
        _ if !host.facts.overlay => {
            let what = "containers cannot run: the kernel has no overlayfs, or has not loaded it";
            Finding::fail(NAME, what, module)
        }
        (Trial::Untried(why), _) => {
            Finding::ok(NAME, format!("the kernel has it; in a user namespace not tried: {why}"))
        }
        (Trial::Fails { at, why }, _) => {
            let what =
                format!("containers cannot run: to {at} in a user namespace gives \"{why}\"");
            Finding::fail(NAME, what, newer)
        }
    }
}

fn mapped_mounts(host: &Host) -> Finding {
    const NAME: &str = "id-mapped mounts";
    let dir = host.storage.as_ref().map(|storage| storage.exists.display().to_string());
    let dir = dir.unwrap_or_else(|| "the data directory".to_owned());
    match &host.trials.mapped_mount {
        Trial::Works => Finding::ok(NAME, format!("tried: {dir} is shown with a container's ids")),
        Trial::Untried(why) => Finding::ok(NAME, format!("not needed here: {why}")),
        Trial::Fails { at, why } => Finding::warn(
            NAME,
            format!(
                "files below {dir} cannot be shown with a container's ids (to {at} gives \
                 \"{why}\"): only jobs with --trust host-ids run in containers"
            ),
            "starling up --data DIR   in a directory on ext4, xfs or btrfs, with Linux 5.19 or later",
        ),
    }
}

fn seccomp(host: &Host) -> Finding {
    const NAME: &str = "seccomp";
    if host.facts.seccomp {
        return Finding::ok(NAME, "a container's system calls are filtered as Docker does");
    }
    Finding::fail(
        NAME,
        "the kernel filters no system calls, so only jobs with --trust all-calls run in containers",
        "boot a kernel with CONFIG_SECCOMP_FILTER=y   those of all large distributions have it",
    )
}

/// Of root's agent, whose tasks have users of their own; of others see `processes`.
fn landlock(host: &Host) -> Finding {
    const NAME: &str = "landlock";
    match host.facts.landlock {
        0 => Finding::ok(NAME, "missing, and not needed: tasks run as users of their own"),
        version => Finding::ok(NAME, format!("version {version}")),
    }
}

/// What opens user namespaces opens this too; and where it is Landlock that is missing,
/// the kernel's command line has to name it beside what is there.
fn processes(host: &Host) -> Vec<Finding> {
    let mut found = super::processes(&host.facts, &host.ground);
    for finding in found.iter_mut().filter(|finding| finding.state != super::State::Ok) {
        if finding.name != "landlock" {
            finding.fix = Some(closed(host, "tried").1);
        } else if host.facts.landlock == 0 && host.facts.kernel.at_least(6, 12) {
            let first =
                if host.modules.is_empty() { String::new() } else { format!(",{}", host.modules) };
            finding.fix =
                Some(format!("boot with lsm=landlock{first} on the kernel's command line"));
        }
    }
    found
}

fn clocks(host: &Host) -> Finding {
    const NAME: &str = "time namespaces";
    if host.facts.namespaces.iter().any(|name| name == "time") {
        return Finding::ok(NAME, "a container can have clocks of its own");
    }
    Finding::ok(NAME, "missing, and rarely needed: no container has clocks of its own here")
}

/// What an ordinary user was granted; root needs no grant.
fn ids(host: &Host) -> Option<Finding> {
    const NAME: &str = "granted ids";
    let (facts, ground) = (&host.facts, &host.ground);
    if ground.is_root() {
        return None;
    }
    let most =
        |ranges: &[crate::plan::IdRange]| ranges.iter().map(|range| range.count).max().unwrap_or(0);
    let count = most(&facts.subuids).min(most(&facts.subgids));
    if facts.id_helpers && count + 1 >= IDS_WANTED {
        return Some(Finding::ok(NAME, format!("{count} ids for containers of {}", ground.user)));
    }
    let alone = "a container has one user only, and images that use others fail";
    if !facts.id_helpers {
        let what = format!("newuidmap and newgidmap are not installed: {alone}");
        let fix = "apt install uidmap   Debian, Ubuntu; elsewhere: dnf install shadow-utils";
        return Some(Finding::warn(NAME, what, ground.as_root(fix)));
    }
    let what = if count == 0 {
        format!("no ids are granted to {}: {alone}", ground.user)
    } else {
        format!("{count} ids are granted to {}, and images may use {IDS_WANTED}", ground.user)
    };
    let first = host.next_grant;
    let range = format!("{first}-{}", u64::from(first) + u64::from(IDS_WANTED) - 1);
    let fix = format!("usermod --add-subuids {range} --add-subgids {range} {}", ground.user);
    Some(Finding::warn(NAME, what, ground.as_root(&fix)))
}
