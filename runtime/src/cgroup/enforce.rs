//! Which limits hold on this machine, with a sentence for people: for adverts,
//! for warnings, for the doctor.
//!
//! Pure: a function of the [`Layout`].

use serde::{Deserialize, Serialize};

use super::layout::{Controller, Layout, Standing, Unified, Version};

/// Whether one kind of limit holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// By which version of control groups; none if it does not hold.
    pub by: Option<Version>,
    /// Where it holds, or why not and what would help.
    pub why: String,
}

impl Enforcement {
    /// Whether it holds at all.
    pub fn holds(&self) -> bool {
        self.by.is_some()
    }
}

/// Which kinds of limits hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Weight and quota of processor time.
    pub cpu: Enforcement,
    /// Memory.
    pub memory: Enforcement,
    /// Number of processes and threads.
    pub pids: Enforcement,
    /// Bandwidth of block devices.
    pub io: Enforcement,
    /// Which processors.
    pub cpuset: Enforcement,
    /// Which devices may be opened.
    pub devices: Enforcement,
    /// Whether every process of a task is found whatever it does, and so killed,
    /// frozen and counted.
    pub tracked: Enforcement,
}

impl Enforced {
    /// Every kind by its name, in a fixed order.
    pub fn all(&self) -> [(&'static str, &Enforcement); 7] {
        [
            ("cpu", &self.cpu),
            ("memory", &self.memory),
            ("pids", &self.pids),
            ("io", &self.io),
            ("cpuset", &self.cpuset),
            ("devices", &self.devices),
            ("tracked", &self.tracked),
        ]
    }
}

impl Layout {
    /// What the groups made by this layout can enforce.
    pub fn enforces(&self) -> Enforced {
        Enforced {
            cpu: self.limited(Controller::Cpu),
            memory: self.limited(Controller::Memory),
            pids: self.limited(Controller::Pids),
            io: self.limited(Controller::Io),
            cpuset: self.limited(Controller::Cpuset),
            devices: self.devices(),
            tracked: self.tracked(),
        }
    }

    /// The v2 hierarchy, if we may work in it.
    pub(super) fn usable(&self) -> Option<&Unified> {
        self.unified.as_ref().filter(|v2| !matches!(v2.standing, Standing::Refused { .. }))
    }

    fn limited(&self, controller: Controller) -> Enforcement {
        let name = controller.name();
        let yes = |by, why| Enforcement { by: Some(by), why };
        let no = |why| Enforcement { by: None, why };
        if let Some(v1) = self.legacy.iter().find(|v1| v1.controllers.contains(&controller)) {
            return match &v1.base {
                Some(base) => yes(Version::V1, format!("v1 controller in {}", base.display())),
                None => no(format!(
                    "the v1 controller at {} is not writable for us; run the agent as root, with \
                     /sys/fs/cgroup writable",
                    v1.mount.display()
                )),
            };
        }
        match &self.unified {
            None if self.legacy.is_empty() => no("no control groups are mounted".to_owned()),
            None => no(format!("the kernel has no {name} controller, or it is not mounted")),
            Some(Unified { standing: Standing::Refused { why }, .. }) => no(why.clone()),
            Some(v2) if v2.controllers.contains(&controller) => match &v2.standing {
                Standing::Delegated { base } => {
                    yes(Version::V2, format!("v2 controller, delegated at {}", base.display()))
                }
                _ => yes(Version::V2, format!("v2 controller at {}", v2.mount.display())),
            },
            Some(Unified { standing: Standing::Delegated { base }, .. }) => no(format!(
                "the {name} controller was not delegated to {}; name it in the unit's Delegate=",
                base.display()
            )),
            Some(_) => no(format!("the kernel has no {name} controller, or it is disabled")),
        }
    }

    fn devices(&self) -> Enforcement {
        let v1 = self.limited(Controller::Devices);
        match self.usable() {
            _ if v1.holds() => v1,
            Some(_) if self.root => Enforcement {
                by: Some(Version::V2),
                why: "a BPF program on the v2 group, if the kernel takes it".to_owned(),
            },
            _ => Enforcement {
                by: None,
                why: "needs root; an ordinary user's container is given no devices, and cannot \
                      make or open any"
                    .to_owned(),
            },
        }
    }

    fn tracked(&self) -> Enforcement {
        if self.usable().is_some() {
            let why = "v2 groups: everything of a task is killed in one step".to_owned();
            return Enforcement { by: Some(Version::V2), why };
        }
        if self.legacy.iter().any(|v1| v1.base.is_some()) {
            let why = "v1 groups: everything of a task is found, and killed one by one".to_owned();
            return Enforcement { by: Some(Version::V1), why };
        }
        let reason = self.limited(Controller::Pids).why;
        let why = format!("only by descent from the supervisor: {reason}");
        Enforcement { by: None, why }
    }
}
