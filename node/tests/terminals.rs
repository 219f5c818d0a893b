//! `exec -it`, `run -it` and `attach` at a real terminal, as people use them.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use support::terminal::Terminal;
use support::{Host, cluster, until};

/// Ctrl-C.
const INTERRUPT: &[u8] = &[3];

/// Ctrl-P Ctrl-Q.
const LEAVE: &[u8] = &[16, 17];

/// What answers each line; split so that what is typed does not show the same.
const ECHO: &str = "echo up; while read line; do echo \"got\"_$line; done";

/// Runs `t` through the first host, and waits until all know that it runs.
fn run(hosts: &[Host], words: &[&str]) {
    let told = hosts[0].run(&[&["run", "-d", "--name", "t"], words].concat());
    // On a busy machine it may be on one disk only, which the tests do not mind.
    assert!(matches!(told.code, 0 | 3), "{told:?}");
    until("it runs", || hosts.iter().all(|host| host.running("t") == 1));
}

/// Has a shell run something, and interrupts it. It is there when it says so; the shell drops
/// what is typed before it has its prompt back.
fn interrupt(terminal: &mut Terminal) {
    terminal.types(b"sh -c 'echo begun_$((5 + 6)); exec sleep 1000'\n");
    terminal.shows("begun_11");
    terminal.types(INTERRUPT);
    terminal.shows("$ ");
    terminal.types(b"echo alive_$((6 + 7))\n");
    terminal.shows("alive_13");
}

#[test]
fn a_shell_in_a_task_has_the_users_terminal() {
    let hosts = cluster(2);
    run(&hosts, &["--exec", "--", "sleep", "1000"]);
    for host in &hosts {
        let mut terminal = Terminal::of(&host.command(&["exec", "-it", "t", "sh"]), 40, 100);
        // Asked until it answers: what is typed before the terminal is raw is shown anyway.
        terminal.types(b"echo size_$(stty size)\n");
        terminal.shows("size_40 100");
        terminal.types(b"test -t 0 && test -t 2 && echo yes_$((1 + 1))\n");
        terminal.shows("yes_2");
        terminal.resize(50, 120);
        terminal.types_until(b"echo size_$(stty size)\n", "size_50 120");
        interrupt(&mut terminal);
        terminal.types(b"exit 7\n");
        assert_eq!(terminal.ends(), 7);
    }
}

#[test]
fn two_keys_leave_a_task_to_itself_and_it_can_be_come_back_to() {
    let hosts = cluster(2);
    run(&hosts, &["-it", "--exec", "--", "sh", "-c", ECHO]);
    for (at, host) in hosts.iter().enumerate() {
        for word in ["one", "two"] {
            let mut terminal = Terminal::of(&host.command(&["attach", "t"]), 24, 80);
            terminal.types(format!("{word}{at}\n").as_bytes());
            terminal.shows(&format!("got_{word}{at}"));
            terminal.types(LEAVE);
            assert_eq!(terminal.ends(), 0);
            assert_eq!(host.running("t"), 1, "it goes on");
        }
    }
    let mut terminal = Terminal::of(&hosts[1].command(&["attach", "t"]), 24, 80);
    // The end of what a terminal reads.
    terminal.types(b"last\n");
    terminal.shows("got_last");
    terminal.types(&[4]);
    assert_eq!(terminal.ends(), 0);
    until("it ended", || hosts[0].running("t") == 0);
}

#[test]
fn a_job_in_the_foreground_has_the_users_terminal() {
    let hosts = cluster(1);
    let words = ["run", "-it", "--name", "t", "--exec", "--", "sh"];
    let mut terminal = Terminal::of(&hosts[0].command(&words), 33, 99);
    terminal.types(b"echo tty_$(test -t 0 && echo yes)\n");
    terminal.shows("tty_yes");
    terminal.types(b"echo size_$(stty size)\n");
    terminal.shows("size_33 99");
    interrupt(&mut terminal);
    terminal.types(b"exit 9\n");
    assert_eq!(terminal.ends(), 9);
}

#[test]
fn who_attaches_to_a_task_that_reads_nothing_sees_what_it_writes() {
    let hosts = cluster(2);
    run(&hosts, &["--exec", "--", "sh", "-c", "while ! test -e go; do sleep 0.1; done; echo went"]);
    let child = hosts[1]
        .command(&["attach", "t"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut told = child;
    let mut note = String::new();
    let err = told.stderr.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(err), &mut note).expect("a note");
    assert!(note.contains("run -i"), "{note}");
    hosts[0].run(&["exec", "t", "--", "touch", "go"]).ok();
    let out = told.wait_with_output().expect("ended");
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(0), &b"went\n"[..]));
}

#[test]
fn ctrl_c_reaches_a_task_that_reads_nothing_unless_its_signals_are_kept_back() {
    let hosts = cluster(1);
    run(&hosts, &["--exec", "--", "sh", "-c", "trap 'exit 5' INT; while :; do sleep 0.1; done"]);
    let attach = |words: &[&str]| {
        let mut terminal = Terminal::of(&hosts[0].command(&[words, &["t"]].concat()), 24, 80);
        terminal.shows("run -i");
        terminal.types(&[3]);
        terminal.ends()
    };
    assert_eq!(attach(&["attach", "--sig-proxy=false"]), 130);
    assert_eq!(hosts[0].running("t"), 1, "it goes on");
    assert_eq!(attach(&["attach"]), 5);
}
