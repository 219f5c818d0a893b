//! A command at a real terminal: keys typed at one end of a pty, the screen read at it.
//!
//! The command runs in a session of its own whose controlling terminal the pty is, so that
//! Ctrl-C, resizing and raw modes do what they do for people.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::{LOOK_EVERY, PATIENCE};

/// How long an answer to keys may take before they are typed again.
const ANSWERS_IN: Duration = Duration::from_secs(1);

/// A command and the terminal it was started at.
pub(crate) struct Terminal {
    keys: File,
    /// Kept open, so that the terminal outlives the command.
    screen: OwnedFd,
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    /// Starts a command at a terminal of this many rows and columns.
    pub(crate) fn of(command: &Command, rows: u16, columns: u16) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keys).expect("granted");
        unlockpt(&keys).expect("unlocked");
        let name = ptsname(&keys, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let screen = rustix::fs::open(name, flags, Mode::empty()).expect("its other end");
        size(&keys, rows, columns);
        let before = tcgetattr(&screen).expect("its modes");
        let end = || screen.try_clone().expect("a copy");
        let mut at_terminal = Command::new("setsid");
        at_terminal.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => at_terminal.env(name, value),
                None => at_terminal.env_remove(name),
            };
        }
        at_terminal.stdin(end()).stdout(end()).stderr(end());
        let child = at_terminal.spawn().expect("setsid runs");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let keys = File::from(keys);
        let (mut from, into) = (keys.try_clone().expect("a copy"), Arc::clone(&shown));
        // It ends when the last end of the terminal is closed.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut piece) {
                let mut shown = into.lock().unwrap_or_else(PoisonError::into_inner);
                shown.extend_from_slice(&piece[..length]);
            }
        });
        Self { keys, screen, before, shown, child }
    }

    pub(crate) fn types(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("typed");
    }

    /// Waits until a text is shown that was not waited for before.
    pub(crate) fn shows(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.has_shown(text) {
            assert!(Instant::now() < end, "never {text:?}, but {:?}", self.shown_now());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Types again and again until a text is shown: for what comes some other way than the
    /// keys, or while something begins that they are meant for.
    pub(crate) fn types_until(&mut self, keys: &[u8], text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.types(keys);
            let again = Instant::now() + ANSWERS_IN;
            while Instant::now() < again {
                if self.has_shown(text) {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
            assert!(again < end, "never {text:?}, but {:?}", self.shown_now());
        }
    }

    fn shown_now(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    fn has_shown(&self, text: &str) -> bool {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let found = shown.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = found {
            shown.drain(..at + text.len());
        }
        found.is_some()
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        size(&self.keys, rows, columns);
    }

    /// Waits for the command's end, and looks that the terminal is as it was before.
    pub(crate) fn ends(mut self) -> i32 {
        let code = self.child.wait().expect("ended").code();
        let after = tcgetattr(&self.screen).expect("its modes");
        let modes = |of: &Termios| (of.input_modes, of.output_modes, of.local_modes);
        assert_eq!(modes(&after), modes(&self.before), "the terminal is as it was");
        code.unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(of: impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(of, size).expect("a size");
}
