//! The filter against a reading of the table that shares nothing with the compiler,
//! for every call and odd arguments; then against the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hint::black_box;
use std::io;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::sys;
use crate::sys::forked::{self, Outcome};

/// What the kernel shows to a filter.
#[derive(Clone, Copy, Debug)]
struct Data {
    number: u32,
    arch: u32,
    args: [u64; 2],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16 | 24 => self.args[(offset as usize - 16) / 8] as u32,
            other => panic!("a load from {other}"),
        }
    }
}

/// Runs a program as the kernel does, and says how many instructions it took.
fn interpret(program: &Program, data: &Data) -> (u32, usize) {
    let (mut at, mut loaded, mut steps) = (0, 0, 0);
    loop {
        let word = program.words()[at];
        let (yes, no) = ((word >> 16 & 0xff) as usize, (word >> 24 & 0xff) as usize);
        let constant = (word >> 32) as u32;
        steps += 1;
        at += 1;
        match word as u16 {
            0x20 => loaded = data.word(constant),
            0x06 => return (constant, steps),
            0x05 => at += constant as usize,
            0x15 => at += if loaded == constant { yes } else { no },
            0x35 => at += if loaded >= constant { yes } else { no },
            0x45 => at += if loaded & constant != 0 { yes } else { no },
            other => panic!("instruction {other:#x}"),
        }
    }
}

const OK: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// The profile as one would read it aloud, call by call.
fn expected(arch: Arch, caps: CapabilitySet, data: &Data) -> u32 {
    if data.arch != arch.audit() {
        return 0x8000_0000;
    }
    let admin = caps.contains(Capability::SYS_ADMIN);
    let (first, second) = (data.args[0] as u32, data.args[1] as u32);
    let numbers: [u32; 4] = match arch {
        Arch::X86_64 => [41, 135, 16, 56],
        Arch::Aarch64 => [198, 92, 29, 220],
    };
    let allowed = if data.number == numbers[0] {
        let refused = [12, 19, 20, 23, 25, 34, 37, 38, 40];
        first <= 45 && !refused.contains(&first)
    } else if data.number == numbers[1] {
        [0, 8, 131_072, 131_080, u32::MAX].contains(&first)
    } else if data.number == numbers[2] {
        second != libc::TIOCSTI as u32 && second != 0x541c
    } else if data.number == numbers[3] {
        let namespaces = libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP;
        admin || first & namespaces as u32 == 0
    } else if data.number == 435 {
        return if admin { OK } else { ENOSYS };
    } else if data.number > 466 {
        return ENOSYS;
    } else {
        GROUPS.iter().any(|group| {
            group.needs.is_none_or(|needed| caps.contains(needed))
                && group.calls.iter().any(|call| u32::from(number(arch, call)) == data.number)
        })
    };
    if allowed { OK } else { EPERM }
}

fn number(arch: Arch, call: &Call) -> u16 {
    if arch == Arch::X86_64 { call.x86_64 } else { call.aarch64 }
}

/// No capability, each alone, Docker's default, all.
fn sets() -> Vec<CapabilitySet> {
    let mut sets = vec![CapabilitySet::EMPTY, CapabilitySet::CONTAINER, CapabilitySet::ALL];
    sets.extend((0..41).map(|bit| CapabilitySet::from_bits(1 << bit)));
    sets
}

#[test]
fn the_program_decides_as_the_table_reads_for_every_call_and_odd_arguments() {
    let mut values: BTreeSet<u64> = (0..70).collect();
    for bit in 0..64 {
        values.extend([1 << bit, (1 << bit) - 1, u64::MAX << bit]);
    }
    for odd in [0x5411, 0x5412, 0x5413, 0x541b, 0x541c, 0x541d, 0x2_0008, 0x2_0009, 0x7e02_0011] {
        values.extend([odd, odd | 0xdead_beef_0000_0000, odd | 1 << 32]);
    }
    let numbers = (0..600).chain([0x4000_0000, 0x4000_0029, 0x7fff_ffff, u32::MAX]);
    let numbers: Vec<u32> = numbers.collect();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for caps in sets() {
            let program = container(arch, caps);
            for &number in &numbers {
                // All of them where an argument matters, a few where it must not.
                let step =
                    if [16, 29, 41, 56, 92, 135, 198, 220].contains(&number) { 1 } else { 60 };
                for &value in values.iter().step_by(step) {
                    let data = Data { number, arch: arch.audit(), args: [value, value] };
                    let found = interpret(&program, &data).0;
                    assert_eq!(found, expected(arch, caps, &data), "{arch:?} {caps} {data:x?}");
                }
            }
        }
    }
}

#[test]
fn another_architecture_is_killed_whatever_it_calls() {
    for (arch, other) in [
        (Arch::X86_64, 0x4000_0003), // i386, through int 0x80
        (Arch::X86_64, Arch::Aarch64.audit()),
        (Arch::Aarch64, 0x4000_0028), // arm
        (Arch::Aarch64, 0),
    ] {
        let program = container(arch, CapabilitySet::ALL);
        for number in 0..600 {
            let data = Data { number, arch: other, args: [0, 0] };
            assert_eq!(interpret(&program, &data).0, KILL, "{arch:?} {data:x?}");
        }
    }
}

#[test]
fn far_targets_are_reached_by_a_second_jump() {
    let mut code = Assembler::default();
    let last = code.ret(1);
    let filler: Vec<_> = (0..600).map(|number| (number, code.ret(number + 10))).collect();
    let mut ranges = filler.clone();
    ranges.push((600, last));
    let tree = code.tree(&ranges);
    let start = code.load(NUMBER, tree);
    let program = Program(code.finish(start));
    for number in 0..700 {
        let found = interpret(&program, &Data { number, arch: 0, args: [0, 0] }).0;
        assert_eq!(found, if number < 600 { number + 10 } else { 1 });
    }
}

#[test]
fn programs_are_small_and_shallow() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for caps in sets() {
            let program = container(arch, caps);
            let steps = |number| {
                interpret(&program, &Data { number, arch: arch.audit(), args: [45, 45] }).1
            };
            let deepest = (0..600).map(steps).max();
            assert!(program.words().len() <= 200, "{arch:?} {caps}: {}", program.words().len());
            assert!(deepest <= Some(20), "{arch:?} {caps}: {deepest:?}");
            assert_eq!(Program::from(program.words().to_vec()), program);
        }
    }
}

/// What the compiled programs allow, in words: the committed list.
fn listing() -> String {
    let mut names: BTreeMap<&str, (u16, u16)> = BTreeMap::new();
    let special = [SOCKET, PERSONALITY, IOCTL, CLONE, CLONE3];
    for call in GROUPS.iter().flat_map(|group| group.calls).chain(&special) {
        names.insert(call.name, (call.x86_64, call.aarch64));
    }
    let mut text =
        String::from("# Generated by a test: name, number on x86_64, on aarch64, who may.\n");
    for (name, (x86_64, aarch64)) in names {
        let who = |arch, number: u16| (number != NONE).then(|| allowed_to(arch, number));
        let both = [who(Arch::X86_64, x86_64), who(Arch::Aarch64, aarch64)];
        let mut known: Vec<String> = both.into_iter().flatten().collect();
        known.dedup();
        assert_eq!(known.len(), 1, "{name} differs between architectures: {known:?}");
        let shown = |number: u16| if number == NONE { "-".to_owned() } else { number.to_string() };
        text += &format!("{name} {} {} {}\n", shown(x86_64), shown(aarch64), known[0]);
    }
    text
}

fn allowed_to(arch: Arch, number: u16) -> String {
    let verdict = |caps, argument| {
        let args = [argument, argument];
        interpret(&container(arch, caps), &Data { number: number.into(), arch: arch.audit(), args })
            .0
    };
    // No family, no personality; typing; every namespace.
    let odd = [63, 0x5412, u64::from(NAMESPACES)];
    let always = |caps| odd.iter().all(|&argument| verdict(caps, argument) == OK);
    if always(CapabilitySet::EMPTY) {
        return "all".to_owned();
    }
    let one = |bit| CapabilitySet::from_bits(1u64 << bit);
    let holders = (0..41).map(one).filter(|&caps| always(caps));
    let mut words: Vec<_> = holders.map(|caps| caps.to_string()).collect();
    if verdict(CapabilitySet::EMPTY, 0) == OK {
        words.insert(0, "arguments".to_owned());
    }
    words.join(" ")
}

#[test]
fn the_committed_list_is_what_the_program_allows() {
    let found = listing();
    if std::env::var_os("RENEW_ALLOWED").is_some() {
        fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/allowed.txt"), &found)
            .expect("a writable source tree");
    }
    assert_eq!(
        found,
        include_str!("allowed.txt"),
        "if meant: set RENEW_ALLOWED and look at the diff"
    );
}

#[test]
fn the_numbers_are_those_of_the_kernels_headers() {
    let headers = [
        (Arch::X86_64, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        (Arch::Aarch64, "/usr/include/asm-generic/unistd.h"),
    ];
    for (arch, path) in headers {
        let Ok(text) = fs::read_to_string(path) else {
            eprintln!("SKIPPED: no {path}");
            continue;
        };
        let numbers: BTreeMap<_, u16> = text.lines().filter_map(definition).collect();
        let mut compared = 0;
        for call in GROUPS.iter().flat_map(|group| group.calls) {
            // The generic table knows it by the name of its 32-bit form.
            let name = if call.name == "newfstatat" { "fstatat" } else { call.name };
            if let Some(&known) = numbers.get(name).or_else(|| numbers.get(call.name)) {
                assert_eq!(number(arch, call), known, "{arch:?} {}", call.name);
                compared += 1;
            }
        }
        assert!(compared > 200, "{path}: {compared}");
    }
}

fn definition(line: &str) -> Option<(&str, u16)> {
    let rest = line.strip_prefix("#define __NR")?;
    let rest = rest.strip_prefix("3264_").or_else(|| rest.strip_prefix('_'))?;
    let (name, number) = rest.split_once(char::is_whitespace)?;
    Some((name, number.trim().parse().ok()?))
}

#[test]
fn building_a_filter_takes_well_under_a_tenth_of_a_millisecond() {
    let mut took: Vec<_> = (0..200)
        .map(|_| {
            let begun = Instant::now();
            black_box(container(HERE, black_box(CapabilitySet::CONTAINER)));
            begun.elapsed()
        })
        .collect();
    took.sort();
    let size = container(HERE, CapabilitySet::CONTAINER).words().len();
    let program = container(HERE, CapabilitySet::CONTAINER);
    let mut loaded: Vec<_> = (0..51).map(|_| load(&program)).collect();
    loaded.sort();
    eprintln!("{size} instructions, built in {:?}, loaded in {} us", took[100], loaded[25]);
    // Ten times the aim: this is the unoptimised build, on a machine that is busy.
    assert!(took[100].as_micros() < 1000, "{:?}", took[100]);
}

/// The microseconds that a child's loading of the filter takes.
fn load(program: &Program) -> i32 {
    let outcome = forked::run(|| {
        let _ = rustix::thread::set_no_new_privs(true);
        let begun = Instant::now();
        match sys::seccomp::install(program) {
            Ok(()) => begun.elapsed().as_micros().min(254) as i32,
            Err(_) => 255,
        }
    });
    match outcome {
        Outcome::Exited(us @ 0..255) => us,
        other => panic!("{other:?}"),
    }
}

/// The error number of a system call; 0 if it did something.
fn errno(number: libc::c_long, args: [u64; 6]) -> i32 {
    match sys::seccomp::call(number, args) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error(),
    }
}

/// In a filtered child: 0 if all of these calls end as said, else the place in the list
/// of the first that does not.
fn filtered(caps: CapabilitySet, calls: &[(libc::c_long, [u64; 6], i32)]) -> Outcome {
    let program = program(caps);
    forked::run(|| {
        if rustix::thread::set_no_new_privs(true).is_err()
            || sys::seccomp::install(&program).is_err()
        {
            return 100;
        }
        match calls.iter().position(|(number, args, wanted)| errno(*number, *args) != *wanted) {
            None => 0,
            Some(place) => 1 + place as i32,
        }
    })
}

#[test]
fn the_kernel_refuses_what_the_profile_refuses() {
    let a = |first: u64, second: u64| [first, second, 0, 0, 0, 0];
    let (perm, nosys, badf) = (libc::EPERM, libc::ENOSYS, libc::EBADF);
    let high = 0xdead_beef_0000_0000;
    let newuser = libc::CLONE_NEWUSER as u64;
    let calls = [
        (libc::SYS_unshare, a(newuser, 0), perm),
        (libc::SYS_unshare, a(0, 0), perm),
        (libc::SYS_mount, a(0, 0), perm),
        (libc::SYS_setns, a(0, 0), perm),
        (libc::SYS_bpf, a(0, 0), perm),
        (libc::SYS_io_uring_setup, a(1, 0), perm),
        (libc::SYS_keyctl, a(0, 0), perm),
        (libc::SYS_add_key, a(0, 0), perm),
        (libc::SYS_request_key, a(0, 0), perm),
        (libc::SYS_userfaultfd, a(0, 0), perm),
        (libc::SYS_clone, a(newuser | libc::SIGCHLD as u64, 0), perm),
        (libc::SYS_clone, a(newuser | high, 0), perm),
        (libc::SYS_clone3, a(0, 0), nosys),
        (libc::SYS_personality, a(0xffff_ffff, 0), 0),
        (libc::SYS_personality, a(0x0040_0000, 0), perm), // ADDR_NO_RANDOMIZE
        (libc::SYS_socket, a(libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64), perm),
        (libc::SYS_socket, a(libc::AF_VSOCK as u64 | high, libc::SOCK_STREAM as u64), perm),
        (libc::SYS_socket, a(libc::AF_ALG as u64, libc::SOCK_SEQPACKET as u64), perm),
        (libc::SYS_socket, a(libc::AF_UNIX as u64, libc::SOCK_STREAM as u64), 0),
        (libc::SYS_socket, a(libc::AF_UNIX as u64 | high, libc::SOCK_STREAM as u64), 0),
        (libc::SYS_ioctl, a(u64::MAX, libc::TIOCSTI), perm),
        (libc::SYS_ioctl, a(u64::MAX, libc::TIOCSTI | high), perm),
        (libc::SYS_ioctl, a(u64::MAX, 0x541c | high), perm),
        (libc::SYS_ioctl, a(u64::MAX, libc::TIOCGWINSZ), badf),
        (libc::SYS_chroot, a(0, 0), perm),
        (467, a(0, 0), nosys),
        (5000, a(0, 0), nosys),
        (0x4000_0000 | libc::SYS_getpid, a(0, 0), nosys), // x32
        (libc::SYS_getppid, a(0, 0), 0),
    ];
    assert_eq!(filtered(CapabilitySet::EMPTY, &calls), Outcome::Exited(0));
}

#[test]
fn capabilities_bring_the_calls_that_need_them() {
    let none = [0; 6];
    let calls = [
        (libc::SYS_unshare, none, 0),
        (libc::SYS_mount, none, libc::EFAULT),
        (libc::SYS_clone3, none, libc::EINVAL),
        (libc::SYS_chroot, none, libc::EPERM),
        (libc::SYS_keyctl, [u64::MAX; 6], libc::EPERM),
    ];
    let caps = CapabilitySet::of(&[Capability::SYS_ADMIN]);
    assert_eq!(filtered(caps, &calls), Outcome::Exited(0));
    let calls = [(libc::SYS_chroot, none, libc::EFAULT)];
    let caps = CapabilitySet::of(&[Capability::SYS_CHROOT]);
    assert_eq!(filtered(caps, &calls), Outcome::Exited(0));
}

#[test]
fn a_program_with_threads_and_a_shell_with_pipes_run_under_the_filter() {
    let myself = std::env::current_exe().expect("a path");
    let harmless = "capability::tests::sets_print_as_they_parse";
    for (path, args) in [
        (myself, ["--exact", harmless]),
        ("/bin/sh".into(), ["-c", "ls / | sort | head -n 1 && sleep 0.01 & wait $!"]),
    ] {
        let program = program(CapabilitySet::CONTAINER);
        let mut command = Command::new(path);
        command.args(args).stdout(Stdio::null());
        forked::before_exec(&mut command, move || {
            rustix::thread::set_no_new_privs(true)?;
            sys::seccomp::install(&program).map_err(io::Error::from)
        });
        assert!(command.status().expect("a child").success(), "{command:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_32_bit_door_is_shut() {
    let program = program(CapabilitySet::ALL);
    let open = forked::run(|| sys::seccomp::call_as_i386(20));
    if open == Outcome::Killed(libc::SIGSEGV) {
        eprintln!("SKIPPED: this kernel has no 32-bit calls");
        return;
    }
    assert_eq!(open, Outcome::Exited(0), "getpid of i386 works without a filter");
    let shut = forked::run(|| {
        let _ = rustix::thread::set_no_new_privs(true);
        let _ = sys::seccomp::install(&program);
        sys::seccomp::call_as_i386(20)
    });
    assert_eq!(shut, Outcome::Killed(libc::SIGSYS));
}
