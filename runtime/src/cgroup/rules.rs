//! Which devices a task may open or make, for containers that share the host's user
//! namespace or were given a device: in v1 the `devices` controller, in v2 a program that
//! the kernel asks.
//!
//! An allow-list: what no rule names is refused. The program's input is
//! `struct bpf_cgroup_dev_ctx` of the kernel's `include/uapi/linux/bpf.h`.

use std::fmt;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::layout::{Controller, Version};
use super::{CgroupError, Slot};
use crate::sys::cgroup::{self as bpf, Instruction};

/// Most rules: each takes up to nine instructions, and the kernel takes 4096 from
/// everybody.
const RULES_MAX: usize = 256;

/// What kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// What may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Make its node, not open it.
    Make,
    /// Open it for reading.
    Read,
    /// Open it for reading and writing.
    ReadWrite,
    /// All three.
    All,
}

/// Allows something with some devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Their kind.
    pub kind: DeviceKind,
    /// Their major number; all when none is given.
    pub major: Option<u32>,
    /// Their minor number; all when none is given.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: Access,
}

impl Access {
    fn letters(self) -> &'static str {
        match self {
            Self::Make => "m",
            Self::Read => "r",
            Self::ReadWrite => "rw",
            Self::All => "rwm",
        }
    }

    /// `BPF_DEVCG_ACC_*`.
    fn bits(self) -> i32 {
        let bit = |letter| match letter {
            'm' => 1,
            'r' => 2,
            _ => 4,
        };
        self.letters().chars().map(bit).sum()
    }
}

/// As v1's `devices.allow` takes it.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        write!(f, "{kind} ")?;
        match self.major {
            Some(major) => write!(f, "{major}:")?,
            None => f.write_str("*:")?,
        }
        match self.minor {
            Some(minor) => write!(f, "{minor} ")?,
            None => f.write_str("* ")?,
        }
        f.write_str(self.access.letters())
    }
}

/// The program: 1 in register 0 if a rule matches, else 0.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    // Register 1 points to (access << 16 | kind), major, minor. 2: kind, 3: access,
    // 4: major, 5: minor.
    let mut code = vec![
        Instruction::load(2, 1, 0),
        Instruction::and(2, 0xffff),
        Instruction::load(3, 1, 0),
        Instruction::shift_right(3, 16),
        Instruction::load(4, 1, 4),
        Instruction::load(5, 1, 8),
    ];
    for rule in rules {
        // `BPF_DEVCG_DEV_*`.
        let kind = match rule.kind {
            DeviceKind::Block => 1,
            DeviceKind::Char => 2,
        };
        let numbers = [(4, rule.major), (5, rule.minor)];
        let numbers =
            numbers.into_iter().filter_map(|(register, number)| Some((register, number?)));
        let numbers: Vec<_> = numbers.collect();
        // Behind each test: the further tests, and the two instructions that allow.
        let mut left = 2 + i16::try_from(numbers.len()).unwrap_or(0);
        code.push(Instruction::unless_equal(2, kind, left + 3));
        code.push(Instruction::copy(1, 3));
        code.push(Instruction::and(1, rule.access.bits()));
        code.push(Instruction::unless_same(1, 3, left));
        for (register, number) in numbers {
            left -= 1;
            // Numbers have 12 and 20 bits; one that has more matches nothing.
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            code.push(Instruction::unless_equal(register, number, left));
        }
        code.extend([Instruction::set(0, 1), Instruction::exit()]);
    }
    code.extend([Instruction::set(0, 0), Instruction::exit()]);
    code
}

/// Whether the kernel takes a program that decides on devices, from this process.
pub(crate) fn try_program() -> std::io::Result<()> {
    bpf::load_device_program(&program(&[])).map(drop)
}

impl Slot {
    /// Allows these devices and no others to whoever joins the slot from now on, until
    /// [`all_devices`](Self::all_devices). Call it before [`descriptors`](Self::descriptors).
    pub fn devices(&mut self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        if rules.len() > RULES_MAX {
            return Err(CgroupError::Rules { given: rules.len() });
        }
        if self.trunk.branch_of(Controller::Devices).is_some() {
            self.restricted = true;
            self.join(Controller::Devices)?;
            let Some((Version::V1, group)) = self.of(Controller::Devices) else { return Ok(()) };
            group.write("devices.deny", "a")?;
            return rules
                .iter()
                .try_for_each(|rule| group.write("devices.allow", &rule.to_string()));
        }
        let Some(group) = self.unified() else {
            return Err(CgroupError::NoDevices { slot: self.name.clone() });
        };
        let refused = |source| CgroupError::Bpf { path: group.path().to_owned(), source };
        let program = bpf::load_device_program(&program(rules)).map_err(refused)?;
        bpf::attach_device_program(group.as_fd(), program.as_fd()).map_err(refused)?;
        // All attached programs must agree, so for a moment both sets of rules hold.
        let old = self.program.replace(program);
        self.detach(old)
    }

    /// Takes the restriction back, for the next task.
    pub fn all_devices(&mut self) -> Result<(), CgroupError> {
        if self.restricted
            && let Some((Version::V1, group)) = self.of(Controller::Devices)
        {
            group.write("devices.allow", "a")?;
            self.restricted = false;
        }
        let old = self.program.take();
        self.detach(old)
    }

    fn detach(&self, program: Option<std::os::fd::OwnedFd>) -> Result<(), CgroupError> {
        let Some((group, program)) = self.unified().zip(program) else { return Ok(()) };
        bpf::detach_device_program(group.as_fd(), program.as_fd())
            .map_err(|source| CgroupError::Bpf { path: group.path().to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets a program as the kernel would.
    fn allows(code: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut register = [0u64; 11];
        let mut at = 0;
        loop {
            let word = code[at].encoded();
            let (op, dst, src) =
                (word & 0xff, (word >> 8 & 0xf) as usize, (word >> 12 & 0xf) as usize);
            let (offset, value) = ((word >> 16) as u16 as i16, (word >> 32) as u32);
            at += 1;
            let mut skip = || at = at.checked_add_signed(offset.into()).expect("a place");
            match op {
                0x61 => register[dst] = context[offset as usize / 4].into(),
                0x57 => register[dst] &= u64::from(value),
                0x77 => register[dst] >>= value,
                0xbf => register[dst] = register[src],
                0xb7 => register[dst] = value.into(),
                0x55 if register[dst] != u64::from(value) => skip(),
                0x5d if register[dst] != register[src] => skip(),
                0x55 | 0x5d => {}
                0x95 => return register[0] == 1,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_a_rule_names_and_nothing_else() {
        let char = DeviceKind::Char;
        let rules = [
            DeviceRule { kind: char, major: Some(1), minor: Some(3), access: Access::ReadWrite },
            DeviceRule { kind: char, major: Some(136), minor: None, access: Access::All },
            DeviceRule { kind: DeviceKind::Block, major: None, minor: None, access: Access::Make },
        ];
        let code = program(&rules);
        let (block, char, make, read, write) = (1, 2, 1, 2, 4);
        for (kind, access, major, minor, wanted) in [
            (char, read, 1, 3, true),
            (char, read | write, 1, 3, true),
            (char, make, 1, 3, false),
            (char, read | make, 1, 3, false),
            (char, read, 1, 5, false),
            (char, read, 2, 3, false),
            (block, read, 1, 3, false),
            (char, read | write | make, 136, 77, true),
            (block, make, 8, 1, true),
            (block, read, 8, 1, false),
        ] {
            let allowed = allows(&code, kind, access, major, minor);
            assert_eq!(allowed, wanted, "{kind} {access} {major}:{minor}");
        }
        assert!(!allows(&program(&[]), char, read, 1, 3));
    }

    #[test]
    fn the_longest_program_is_one_everybody_may_load() {
        let rule = DeviceRule {
            kind: DeviceKind::Char,
            major: Some(1),
            minor: Some(2),
            access: Access::All,
        };
        assert!(program(&[rule; RULES_MAX]).len() <= 4096);
    }

    #[test]
    fn rules_are_written_as_v1_takes_them() {
        let rule =
            |major, minor, access| DeviceRule { kind: DeviceKind::Char, major, minor, access };
        assert_eq!(rule(Some(1), Some(3), Access::ReadWrite).to_string(), "c 1:3 rw");
        assert_eq!(rule(Some(136), None, Access::All).to_string(), "c 136:* rwm");
        assert_eq!(rule(None, None, Access::Make).to_string(), "c *:* m");
    }
}
