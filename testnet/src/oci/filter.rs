//! A bundle's `linux.seccomp` as a program for the kernel (`struct sock_filter`).
//!
//! A list, as it is written: a call without conditions on arguments is two instructions.
//! It takes the kernel longer than the tree that our own containers have, and it is what
//! was asked for. Programs of another architecture, and x32's, are killed: a filter by
//! numbers cannot speak of them.
//!
//! Pure: nothing here makes a system call.

use super::config::{Argument, Rule, Seccomp};
use super::refusal::{Refusal, absent};
use super::syscalls::number;

/// `SECCOMP_RET_*` of `linux/seccomp.h`.
const KILL_PROCESS: u32 = 0x8000_0000;
const ACTIONS: [(&str, u32); 6] = [
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
    ("SCMP_ACT_KILL", 0),
    ("SCMP_ACT_KILL_THREAD", 0),
    ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
    ("SCMP_ACT_TRAP", 0x3_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
];
/// Those that carry a number.
const ERRNO: u32 = 0x5_0000;
const TRACE: u32 = 0x7ff0_0000;

/// Instructions: load a word, compare, keep bits, return.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// Places in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_*` of `linux/audit.h`.
const HERE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
/// The bit that x32's calls have.
const X32: u32 = 0x4000_0000;

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    On,
    /// Behind this condition: it holds.
    Holds,
    /// Behind the whole rule: it does not.
    Fails,
}

/// The words of a filter.
pub(super) fn program(seccomp: &Seccomp) -> Result<Vec<u64>, Refusal> {
    const FIELD: &str = "linux.seccomp";
    absent(&format!("{FIELD}.listenerPath"), &seccomp.listener_path)?;
    absent(&format!("{FIELD}.listenerMetadata"), &seccomp.listener_metadata)?;
    for (at, flag) in seccomp.flags.iter().flatten().enumerate() {
        // One thread has nobody to synchronise with; the other is always given.
        if !["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"].contains(&flag.as_str())
        {
            return Err(Refusal::unknown(format!("{FIELD}.flags[{at}]")));
        }
    }
    let default = format!("{FIELD}.defaultAction");
    let default = action(&default, &seccomp.default_action, seccomp.default_errno_ret)?;
    let mut code = vec![
        word(LOAD, 0, 0, ARCHITECTURE),
        word(EQUAL, 1, 0, HERE),
        word(RETURN, 0, 0, KILL_PROCESS),
        word(LOAD, 0, 0, NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        code.extend([word(GREATER_OR_EQUAL, 0, 1, X32), word(RETURN, 0, 0, KILL_PROCESS)]);
    }
    for (at, rule) in seccomp.syscalls.iter().flatten().enumerate() {
        let field = format!("{FIELD}.syscalls[{at}]");
        let action = action(&format!("{field}.action"), &rule.action, rule.errno_ret)?;
        add_rule(&mut code, &field, rule, action)?;
    }
    code.push(word(RETURN, 0, 0, default));
    Ok(code)
}

fn action(field: &str, name: &str, number: Option<u32>) -> Result<u32, Refusal> {
    let number = number.unwrap_or(libc::EPERM as u32);
    if number > 0xffff {
        return Err(Refusal::new(field, format!("{number} is no error number")));
    }
    match (name, ACTIONS.iter().find(|(known, _)| *known == name)) {
        (_, Some((_, action))) => Ok(*action),
        ("SCMP_ACT_ERRNO", _) => Ok(ERRNO | number),
        ("SCMP_ACT_TRACE", _) => Ok(TRACE | number),
        _ => Err(Refusal::new(field, format!("{name:?} is none that this runtime knows"))),
    }
}

fn add_rule(code: &mut Vec<u64>, field: &str, rule: &Rule, action: u32) -> Result<(), Refusal> {
    let conditions = rule.args.iter().flatten().enumerate();
    let conditions: Vec<_> = conditions
        .map(|(at, argument)| condition(&format!("{field}.args[{at}]"), argument))
        .collect::<Result<_, _>>()?;
    let last = word(RETURN, 0, 0, action);
    for number in rule.names.iter().filter_map(|name| number(name)) {
        if conditions.is_empty() {
            code.extend([word(EQUAL, 0, 1, number), last]);
            continue;
        }
        let length: usize = conditions.iter().map(Vec::len).sum();
        // Behind the comparison: the conditions, the return.
        code.push(word(EQUAL, 0, jump(length + 1), number));
        let mut left = length + 1;
        for condition in &conditions {
            let mut inside = condition.len();
            for (operation, yes, no, value) in condition {
                (inside, left) = (inside - 1, left - 1);
                let to = |to: &To| match to {
                    To::On => 0,
                    To::Holds => jump(inside),
                    To::Fails => jump(left),
                };
                code.push(word(*operation, to(yes), to(no), *value));
            }
        }
        // The arguments were loaded over the number, which the next rule wants.
        code.extend([last, word(LOAD, 0, 0, NUMBER)]);
    }
    Ok(())
}

/// How far a jump goes. A rule has at most six conditions of five instructions.
fn jump(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

type Condition = Vec<(u16, To, To, u32)>;

/// Compares the two halves of an argument.
fn condition(field: &str, argument: &Argument) -> Result<Condition, Refusal> {
    let Argument { index, value, value_two, op } = argument;
    if *index > 5 {
        return Err(Refusal::new(format!("{field}.index"), "calls have six arguments"));
    }
    let (high, low) = (ARGUMENTS + 8 * index + 4, ARGUMENTS + 8 * index);
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let load = |place| (LOAD, To::On, To::On, place);
    let (upper, lower) = halves(*value);
    let equal = |yes: To, no: To| {
        vec![load(high), (EQUAL, To::On, no, upper), load(low), (EQUAL, yes, no, lower)]
    };
    // Decided by the upper halves unless they are equal.
    let ordered = |operation: u16, yes: To, no: To| {
        let upper_greater = (GREATER, yes, To::On, upper);
        let upper_equal = (EQUAL, To::On, no, upper);
        vec![load(high), upper_greater, upper_equal, load(low), (operation, yes, no, lower)]
    };
    Ok(match op.as_str() {
        "SCMP_CMP_EQ" => equal(To::Holds, To::Fails),
        "SCMP_CMP_NE" => equal(To::Fails, To::Holds),
        "SCMP_CMP_GT" => ordered(GREATER, To::Holds, To::Fails),
        "SCMP_CMP_GE" => ordered(GREATER_OR_EQUAL, To::Holds, To::Fails),
        "SCMP_CMP_LE" => ordered(GREATER, To::Fails, To::Holds),
        "SCMP_CMP_LT" => ordered(GREATER_OR_EQUAL, To::Fails, To::Holds),
        "SCMP_CMP_MASKED_EQ" => {
            let (wanted_upper, wanted_lower) = halves(value_two.unwrap_or(0));
            vec![
                load(high),
                (AND, To::On, To::On, upper),
                (EQUAL, To::On, To::Fails, wanted_upper),
                load(low),
                (AND, To::On, To::On, lower),
                (EQUAL, To::Holds, To::Fails, wanted_lower),
            ]
        }
        other => {
            return Err(Refusal::new(format!("{field}.op"), format!("{other:?} is no comparison")));
        }
    })
}

/// A `struct sock_filter`: code, jump if true, jump if false, operand.
fn word(code: u16, yes: u8, no: u8, operand: u32) -> u64 {
    u64::from(code) | u64::from(yes) << 16 | u64::from(no) << 24 | u64::from(operand) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does.
    fn verdict(code: &[u64], call: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut sum) = (0, 0_u32);
        loop {
            let word = code[at];
            let (yes, no, operand) = ((word >> 16) as u8, (word >> 24) as u8, (word >> 32) as u32);
            at += 1;
            let mut test = |holds: bool| at += usize::from(if holds { yes } else { no });
            match word as u16 {
                LOAD if operand == NUMBER => sum = call,
                LOAD if operand == ARCHITECTURE => sum = HERE,
                LOAD => {
                    let argument = arguments[(operand - ARGUMENTS) as usize / 8];
                    sum = if operand % 8 == 4 { (argument >> 32) as u32 } else { argument as u32 };
                }
                EQUAL => test(sum == operand),
                GREATER => test(sum > operand),
                GREATER_OR_EQUAL => test(sum >= operand),
                AND => sum &= operand,
                RETURN => return operand,
                other => panic!("{other:#x}"),
            }
        }
    }

    /// A comparison, and for which values it holds.
    type Case = (&'static str, fn(u64) -> bool);

    fn of(rules: &str) -> Result<Vec<u64>, Refusal> {
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rules}]}}"#);
        program(&serde_json::from_str(&text).expect("a filter"))
    }

    #[test]
    fn calls_are_told_apart_and_the_rest_gets_the_default() {
        let code = of(r#"{"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW"},
            {"names":["write"],"action":"SCMP_ACT_ERRNO","errnoRet":38}"#);
        let code = code.expect("a program");
        assert_eq!(verdict(&code, libc::SYS_read as u32, [0; 6]), 0x7fff_0000);
        assert_eq!(verdict(&code, libc::SYS_write as u32, [0; 6]), ERRNO | 38);
        assert_eq!(verdict(&code, libc::SYS_close as u32, [0; 6]), ERRNO | 1);
    }

    #[test]
    fn arguments_are_compared_whole() {
        let big = 0x1_0000_0005_u64;
        let holds: [Case; 6] = [
            ("EQ", |it| it == 0x1_0000_0005),
            ("NE", |it| it != 0x1_0000_0005),
            ("GT", |it| it > 0x1_0000_0005),
            ("GE", |it| it >= 0x1_0000_0005),
            ("LT", |it| it < 0x1_0000_0005),
            ("LE", |it| it <= 0x1_0000_0005),
        ];
        for (op, expected) in holds {
            let rule = format!(
                r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
                    {{"index":1,"value":7,"op":"SCMP_CMP_NE"}},
                    {{"index":2,"value":{big},"op":"SCMP_CMP_{op}"}}]}},
                   {{"names":["close"],"action":"SCMP_ACT_ALLOW"}}"#
            );
            let code = of(&rule).expect("a program");
            for value in [0, 4, 5, 6, big - 1, big, big + 1, 0x2_0000_0000, u64::MAX] {
                let seen = verdict(&code, libc::SYS_read as u32, [0, 0, value, 0, 0, 0]);
                assert_eq!(seen == 0x7fff_0000, expected(value), "{value:#x} {op}");
                let other = verdict(&code, libc::SYS_read as u32, [0, 7, value, 0, 0, 0]);
                assert_eq!(other, ERRNO | 1);
                assert_eq!(verdict(&code, libc::SYS_close as u32, [0; 6]), 0x7fff_0000);
            }
        }
    }

    #[test]
    fn masked_comparisons_look_at_the_masked_bits() {
        let code = of(r#"{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}"#);
        let code = code.expect("a program");
        let clone = libc::SYS_clone as u32;
        assert_eq!(verdict(&code, clone, [0x11, 0, 0, 0, 0, 0]), 0x7fff_0000);
        assert_eq!(verdict(&code, clone, [0x1000_0000, 0, 0, 0, 0, 0]), ERRNO | 1);
    }

    #[test]
    fn what_we_do_not_know_is_refused_by_name() {
        let rule = r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#;
        assert_eq!(of(rule).expect_err("refused").field, "linux.seccomp.syscalls[0].action");
        let rule = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#;
        assert_eq!(of(rule).expect_err("refused").field, "linux.seccomp.syscalls[0].args[0].index");
    }
}
