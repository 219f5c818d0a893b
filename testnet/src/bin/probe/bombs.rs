//! Payloads that take all they can get: of processes, memory, descriptors, files, patience.
//!
//! Each stops at a bound of its own that is far beyond any limit a row sets, so a
//! container without limits shows as `unbounded` and not as a dead host.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use testnet::sys::raw::{self, Side};

use crate::facts;

/// Bounds beyond which nothing bounds the container.
const FORKS_MAX: usize = 2_000;
const MEMORY_MAX: usize = 1 << 30;
const FILES_MAX: usize = 300_000;
const FDS_MAX: usize = 1 << 20;
const SHM_MAX: usize = 512 << 20;
const LOG_SECONDS: u64 = 2;

/// For ever, for those that are to be killed.
const FOR_EVER: Duration = Duration::from_secs(600);

pub(crate) fn run(words: &[String]) -> ExitCode {
    match words.first().map(String::as_str) {
        Some("fork") => forks(),
        Some("memory") => memory(),
        Some("fds") => descriptors(),
        Some("shm") => fill("/dev/shm/fill"),
        Some("inodes") => inodes("/tmp"),
        Some("log") => log(LOG_SECONDS),
        Some("flood") => log(FOR_EVER.as_secs()),
        Some("spin") => spin(),
        Some("eat") => eat(),
        Some("deaf") => deaf(),
        Some("zombies") => zombies(),
        Some("daemon") => daemon(),
        Some("ping") => println!("pong"),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn say(what: &str) {
    println!("{what}");
    let _ = io::stdout().flush();
}

fn forks() {
    for count in 0..FORKS_MAX {
        match raw::clone_plainly(0) {
            Ok(Side::Child) => {
                sleep(FOR_EVER);
                raw::exit_now(0);
            }
            Ok(Side::Parent(_)) => {}
            Err(error) => {
                say(&format!("bounded {count} {}", facts::name(&error)));
                return sleep(FOR_EVER);
            }
        }
    }
    say("unbounded");
}

fn memory() {
    const STEP: usize = 4 << 20;
    let mut held = Vec::new();
    say("begun");
    while held.len() * STEP < MEMORY_MAX {
        held.push(vec![1u8; STEP]);
    }
    say("unbounded");
}

fn descriptors() {
    let mut held = Vec::new();
    while held.len() < FDS_MAX {
        match File::open("/") {
            Ok(file) => held.push(file),
            Err(error) => return say(&format!("bounded {} {}", held.len(), facts::name(&error))),
        }
    }
    say("unbounded");
}

fn fill(path: &str) {
    let piece = vec![1u8; 1 << 20];
    let opened = OpenOptions::new().create(true).write(true).truncate(true).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return say(&format!("bounded 0 {}", facts::name(&error))),
    };
    for count in 0..SHM_MAX >> 20 {
        if let Err(error) = file.write_all(&piece) {
            return say(&format!("bounded {count} {}", facts::name(&error)));
        }
    }
    say("unbounded");
}

fn inodes(dir: &str) {
    for count in 0..FILES_MAX {
        if let Err(error) = fs::write(format!("{dir}/{count}"), "") {
            return say(&format!("bounded {count} {}", facts::name(&error)));
        }
    }
    say("unbounded");
}

/// Uses all the processors there are, and more.
fn spin() {
    const SPINNERS: usize = 16;
    say("begun");
    let until = Instant::now() + FOR_EVER;
    std::thread::scope(|scope| {
        for _ in 0..SPINNERS {
            scope.spawn(|| while Instant::now() < until {});
        }
    });
}

/// Begins processes that take memory until they are killed, again and again.
fn eat() {
    say("begun");
    let until = Instant::now() + FOR_EVER;
    while Instant::now() < until {
        match raw::clone_plainly(0) {
            Ok(Side::Child) => {
                // The one of them that the kernel picks.
                let _ = fs::write("/proc/self/oom_score_adj", "1000");
                memory();
                raw::exit_now(0);
            }
            Ok(Side::Parent(_)) => {
                while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
            }
            Err(_) => sleep(Duration::from_millis(1)),
        }
    }
}

fn log(seconds: u64) {
    let piece = vec![b'x'; 64 << 10];
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut out = io::stdout().lock();
    while Instant::now() < until {
        if out.write_all(&piece).is_err() {
            return;
        }
    }
}

fn deaf() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        raw::ignore(signal);
    }
    say("deaf");
    sleep(FOR_EVER);
}

fn zombies() {
    let mut made = 0;
    while made < 500 {
        match raw::clone_plainly(0) {
            Ok(Side::Child) => raw::exit_now(0),
            Ok(Side::Parent(_)) => made += 1,
            Err(_) => break,
        }
    }
    say(&format!("zombies {made}"));
    sleep(FOR_EVER);
}

/// As a daemon leaves its parent: twice forked, in a session of its own.
fn daemon() {
    match raw::clone_plainly(0) {
        Ok(Side::Child) => {
            let _ = rustix::process::setsid();
            if let Ok(Side::Child) = raw::clone_plainly(0) {
                for signal in [libc::SIGTERM, libc::SIGHUP] {
                    raw::ignore(signal);
                }
                sleep(FOR_EVER);
            }
            raw::exit_now(0);
        }
        _ => say("left"),
    }
    sleep(Duration::from_millis(100));
}
