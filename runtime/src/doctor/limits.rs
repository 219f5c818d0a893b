//! Which limits hold: one finding for each kind, and one for how that is done.

use super::{Finding, Ground, Trial};
use crate::cgroup::{Controller, Enforcement, Layout, Standing, Unified, Version};

/// Which kinds of limits hold on this machine, and what helps where one does not.
///
/// Cheap and without side effects: the agent asks it at each start.
pub fn limits(layout: &Layout, ground: &Ground) -> Vec<Finding> {
    judge(layout, ground, &Trial::of_device_programs())
}

/// The same, where it was tried whether the kernel takes programs that decide on devices.
pub(super) fn judge(layout: &Layout, ground: &Ground, programs: &Trial) -> Vec<Finding> {
    let held = layout.enforces();
    let by = |name, controller, kind: &str, held: &Enforcement| {
        if held.holds() {
            return Finding::ok(name, format!("enforced: {}", held.why));
        }
        let lack = Lack::of(layout, controller);
        let what = format!("{kind} of tasks is not limited: {}", lack.reason(controller, ground));
        Finding::warn(name, what, lack.fix(controller, ground))
    };
    let mut found = vec![groups(layout, ground)];
    found.push(by("cpu limit", Controller::Cpu, "processor time", &held.cpu));
    found.push(by("memory limit", Controller::Memory, "the memory", &held.memory));
    found.push(by("pids limit", Controller::Pids, "the number of processes", &held.pids));
    found.push(by("io limit", Controller::Io, "the disk bandwidth", &held.io));
    found.push(by("cpuset limit", Controller::Cpuset, "the choice of cores", &held.cpuset));
    found.push(devices(layout, &held.devices, ground, programs));
    found.push(tracking(layout, &held.tracked, ground));
    found
}

fn groups(layout: &Layout, ground: &Ground) -> Finding {
    const NAME: &str = "control groups";
    let lack = match &layout.unified {
        None if layout.legacy.is_empty() => Lack::NoGroups,
        Some(Unified { standing: Standing::Refused { .. }, .. })
            if layout.legacy.iter().all(|v1| v1.base.is_none()) =>
        {
            Lack::refused(layout)
        }
        None if layout.legacy.iter().all(|v1| v1.base.is_none()) => Lack::NotOursV1,
        _ => return Finding::ok(NAME, layout.to_string()),
    };
    let what = format!("no limit can be enforced: {}", lack.reason(Controller::Pids, ground));
    Finding::warn(NAME, what, lack.fix(Controller::Pids, ground))
}

const UNRESTRICTED: &str = "containers with the host's ids may open any device, and none is \
    given for reading only";

fn devices(layout: &Layout, held: &Enforcement, ground: &Ground, programs: &Trial) -> Finding {
    const NAME: &str = "device limit";
    // Of version 2 only the kernel knows whether this user may.
    if held.by == Some(Version::V2)
        && ground.is_root()
        && let Trial::Fails { why, .. } = programs
    {
        let what =
            format!("{UNRESTRICTED}: the kernel takes no program that decides on devices: {why}");
        return Finding::warn(
            NAME,
            what,
            "run the agent with CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN",
        );
    }
    if held.holds() {
        return Finding::ok(NAME, format!("enforced: {}", held.why));
    }
    if !ground.is_root() {
        // Such an agent gives no task the host's ids, so there is nothing to enforce.
        let what = "not needed: a container without the host's ids cannot make or open devices";
        return Finding::ok(NAME, what);
    }
    let lack = Lack::of(layout, Controller::Devices);
    let what = format!("{UNRESTRICTED}: {}", lack.reason(Controller::Devices, ground));
    Finding::warn(NAME, what, lack.fix(Controller::Devices, ground))
}

fn tracking(layout: &Layout, held: &Enforcement, ground: &Ground) -> Finding {
    const NAME: &str = "tracking";
    if held.holds() {
        return Finding::ok(NAME, held.why.clone());
    }
    let lack = Lack::of(layout, Controller::Pids);
    let what = format!(
        "processes that leave a plain task's session may outlive it: {}",
        lack.reason(Controller::Pids, ground)
    );
    Finding::warn(NAME, what, lack.fix(Controller::Pids, ground))
}

/// Why a kind does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// Nothing is mounted.
    NoGroups,
    /// v2 is there, and nothing of it is this user's.
    NotDelegated,
    /// v2 is there, and root may not write.
    ReadOnly,
    /// v1 is there, and not ours to write.
    NotOursV1,
    /// Our part of v2 lacks this controller.
    NotPassedOn,
    /// The machine lacks it.
    NoController,
}

impl Lack {
    fn of(layout: &Layout, controller: Controller) -> Self {
        if layout.legacy.iter().any(|v1| v1.controllers.contains(&controller)) {
            return Self::NotOursV1;
        }
        match &layout.unified {
            None if layout.legacy.is_empty() => Self::NoGroups,
            None => Self::NoController,
            Some(Unified { standing: Standing::Refused { .. }, .. }) => Self::refused(layout),
            Some(Unified { standing: Standing::Delegated { .. }, .. }) => Self::NotPassedOn,
            Some(_) => Self::NoController,
        }
    }

    fn refused(layout: &Layout) -> Self {
        if layout.root { Self::ReadOnly } else { Self::NotDelegated }
    }

    fn reason(self, controller: Controller, ground: &Ground) -> String {
        match self {
            Self::NoGroups => "no control groups are mounted".to_owned(),
            Self::NotDelegated => {
                format!("no control group is delegated to {}, who runs this", ground.user)
            }
            Self::ReadOnly => "/sys/fs/cgroup cannot be written".to_owned(),
            Self::NotOursV1 => {
                format!("{} may not write the v1 control groups", ground.user)
            }
            Self::NotPassedOn => {
                format!("the controller {} is not delegated to this service", controller.name())
            }
            Self::NoController => {
                format!("the kernel has no controller {}, or it is not mounted", controller.name())
            }
        }
    }

    fn fix(self, controller: Controller, ground: &Ground) -> String {
        match self {
            _ if ground.inside.is_some() && self != Self::NoController => {
                privileged_container(ground)
            }
            Self::NoGroups => ground.as_root_in_shell(
                "mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
            ),
            Self::NotDelegated if ground.user_manager => {
                "systemd-run --user --scope -p Delegate=yes starling up".to_owned()
            }
            Self::NotDelegated | Self::NotOursV1 if !ground.is_root() => {
                "sudo starling up   an agent of root limits everything".to_owned()
            }
            Self::NotDelegated | Self::ReadOnly | Self::NotOursV1 => {
                "mount -o remount,rw /sys/fs/cgroup".to_owned()
            }
            Self::NotPassedOn => delegate(ground),
            Self::NoController => boot(controller),
        }
    }
}

/// How a container is started in which an agent can limit its tasks.
pub(super) fn privileged_container(ground: &Ground) -> String {
    let engine = match ground.inside.as_deref() {
        Some("podman") => "podman",
        _ => "docker",
    };
    format!(
        "{engine} run --privileged -v starling:/var/lib/starling IMAGE   on the host of this container"
    )
}

fn delegate(ground: &Ground) -> String {
    let (unit, words) = if ground.is_root() {
        ("starling.service", "Delegate=yes")
    } else {
        ("user@.service", "Delegate=cpu cpuset io memory pids")
    };
    let dir = format!("/etc/systemd/system/{unit}.d");
    let command = format!(
        "mkdir -p {dir} && printf '[Service]\\n{words}\\n' > {dir}/delegate.conf && \
         systemctl daemon-reload"
    );
    let then = if ground.is_root() { "then restart the unit" } else { "then log in again" };
    format!("{}   {then}", ground.as_root_in_shell(&command))
}

fn boot(controller: Controller) -> String {
    match controller {
        // Raspberry Pi OS boots with it switched off.
        Controller::Memory => "boot with cgroup_enable=memory on the kernel's command line   on a \
             Raspberry Pi: at the end of the line in /boot/firmware/cmdline.txt"
            .to_owned(),
        other => format!(
            "grep CGROUP /boot/config-$(uname -r)   whether a kernel with the controller {} is \
             needed, or cgroup_disable= stands in /proc/cmdline",
            other.name()
        ),
    }
}
