//! What comes out of the guest's two serial ports, made sense of line by line.
//!
//! The report port carries the commands' own output, and between it lines that
//! begin with a mark nobody can guess:
//!
//!     MARK booted SECONDS KERNEL     MARK start N
//!     MARK end N CODE HUNDREDTHS PROCESSES MOUNTS
//!     MARK broken WORDS              MARK done
//!
//! The other port is the kernel's console, where a panic is said. Must never
//! wait or fail: nonsense on a port is output like any other.

use std::time::Duration;

/// More of one command's output is not kept: a test that floods says nothing new.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Alarms of the kernel are shown up to this many.
const ALARMS_MAX: usize = 20;
/// What a kernel says when something is wrong with it, though it lives on.
const ALARMS: [&str; 6] = [
    "BUG:",
    "WARNING:",
    "Oops:",
    "general protection fault",
    "blocked for more than",
    "EXT4-fs error",
];

/// How one command went.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// Standard output and error, as they came.
    pub output: String,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// Whether it was ever started.
    pub started: bool,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The exit code; 128 and a signal's number for one that was killed.
    pub code: i32,
    /// How long it ran, by the guest's clock.
    pub took: Duration,
    /// Processes of its cgroup that outlived it for two seconds.
    pub processes: u32,
    /// Mounts that are there since.
    pub mounts: i32,
}

/// Something the caller may want to know at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Booted,
    Started(usize),
    Output(usize),
    Ended(usize),
    Nothing,
}

/// All that was heard so far.
#[derive(Debug)]
pub(super) struct Heard {
    mark: String,
    pub(super) runs: Vec<Ran>,
    current: Option<usize>,
    pub(super) kernel: String,
    pub(super) booted: Option<Duration>,
    pub(super) done: bool,
    pub(super) broken: Option<String>,
    pub(super) panic: Option<String>,
    pub(super) alarms: Vec<String>,
    /// The console's last line that says anything.
    pub(super) last: String,
}

impl Heard {
    pub(super) fn new(nonce: &str, commands: usize) -> Self {
        Self {
            mark: format!("vm-{nonce}: "),
            runs: vec![Ran::default(); commands],
            current: None,
            kernel: String::new(),
            booted: None,
            done: false,
            broken: None,
            panic: None,
            alarms: Vec::new(),
            last: String::new(),
        }
    }

    /// A line of the report port, its end included.
    pub(super) fn report(&mut self, line: &str) -> Seen {
        let Some(words) = line.strip_prefix(&self.mark) else {
            return self.output(line);
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        match &words[..] {
            ["booted", seconds, kernel] => {
                self.kernel = (*kernel).to_owned();
                self.booted = seconds.parse().ok().map(Duration::from_secs_f64);
                Seen::Booted
            }
            ["start", number] => match number.parse() {
                Ok(number) if number < self.runs.len() => {
                    self.current = Some(number);
                    self.runs[number].started = true;
                    Seen::Started(number)
                }
                _ => Seen::Nothing,
            },
            ["end", number, rest @ ..] => self.end(number, rest),
            ["broken", why @ ..] => {
                self.broken = Some(why.join(" "));
                Seen::Nothing
            }
            ["done"] => {
                self.done = true;
                Seen::Nothing
            }
            _ => Seen::Nothing,
        }
    }

    /// A line of the kernel's console.
    pub(super) fn console(&mut self, line: &str) {
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        self.last = line.to_owned();
        if line.contains("Kernel panic") && self.panic.is_none() {
            self.panic = Some(line.to_owned());
        }
        if ALARMS.iter().any(|alarm| line.contains(alarm)) && self.alarms.len() < ALARMS_MAX {
            self.alarms.push(line.to_owned());
        }
    }

    fn output(&mut self, line: &str) -> Seen {
        let Some(current) = self.current else { return Seen::Nothing };
        let output = &mut self.runs[current].output;
        if output.len() + line.len() <= OUTPUT_BYTES_MAX {
            output.push_str(line);
        }
        Seen::Output(current)
    }

    fn end(&mut self, number: &str, rest: &[&str]) -> Seen {
        let [code, took, processes, mounts] = rest else { return Seen::Nothing };
        let Some(run) = number.parse().ok().and_then(|at: usize| self.runs.get_mut(at)) else {
            return Seen::Nothing;
        };
        let took: u64 = took.parse().unwrap_or_default();
        run.end = Some(End {
            code: code.parse().unwrap_or(-1),
            took: Duration::from_millis(took.saturating_mul(10)),
            processes: processes.parse().unwrap_or_default(),
            mounts: mounts.parse().unwrap_or_default(),
        });
        // Every mark is written behind an end of line of its own.
        if run.output.ends_with('\n') {
            run.output.pop();
        }
        self.current.take().map_or(Seen::Nothing, Seen::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str]) -> Heard {
        let mut heard = Heard::new("n1", 2);
        for line in lines {
            heard.report(line);
        }
        heard
    }

    #[test]
    fn output_belongs_to_the_command_that_runs_and_marks_to_nobody() {
        let heard = heard(&[
            "noise before\n",
            "vm-n1: booted 3.5 6.1.0\n",
            "\n",
            "vm-n1: start 0\n",
            "one\n",
            "vm-other: end 0 0 1 0 0\n",
            "two without an end\n",
            "vm-n1: end 0 3 150 2 -1\n",
            "between\n",
            "vm-n1: start 1\n",
            "three\n",
        ]);
        assert_eq!(heard.booted, Some(Duration::from_millis(3500)));
        assert_eq!(heard.runs[0].output, "one\nvm-other: end 0 0 1 0 0\ntwo without an end");
        let end = End { code: 3, took: Duration::from_millis(1500), processes: 2, mounts: -1 };
        assert_eq!(heard.runs[0].end, Some(end));
        assert_eq!((heard.runs[1].output.as_str(), heard.runs[1].end), ("three\n", None));
        assert!(!heard.done);
    }

    #[test]
    fn nonsense_behind_the_mark_is_passed_over() {
        let heard =
            heard(&["vm-n1: start 7\n", "vm-n1: end x\n", "vm-n1: end 9 0 0 0 0\n", "vm-n1: \n"]);
        assert!(heard.runs.iter().all(|run| !run.started && run.end.is_none()));
    }

    #[test]
    fn a_panic_and_an_alarm_are_told_apart() {
        let mut heard = heard(&[]);
        heard.console("[    1.0] EXT4-fs (vda): mounted filesystem\r\n");
        assert!(heard.panic.is_none() && heard.alarms.is_empty());
        heard.console("[    2.0] WARNING: CPU: 0 PID: 1 at fs/x.c:1\r\n");
        heard.console("[    2.1] Kernel panic - not syncing: Attempted to kill init!\r\n");
        assert_eq!(heard.alarms.len(), 1);
        assert!(heard.panic.is_some_and(|line| line.contains("kill init")));
    }
}
