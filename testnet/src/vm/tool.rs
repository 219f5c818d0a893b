//! One program of this machine, run to its end, its words kept for when it fails.
//!
//! Must never show anything: what a program says goes into the error, or back.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::VmError;

/// Where administrators' programs are, though an ordinary user's path may not say so.
const MORE: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
/// How much of what a failed program said is repeated.
const SAID_BYTES: usize = 600;

/// The path of a program, if it is installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(MORE.map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A program by its name, with nothing to read.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    command.stdin(Stdio::null()).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Runs it and gives what it wrote to standard output.
pub(crate) fn call(command: &mut Command) -> Result<String, VmError> {
    let name = name(command);
    let output =
        command.output().map_err(|source| VmError::Start { program: name.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stderr, output.stdout]
        .iter()
        .map(|bytes| last_words(&String::from_utf8_lossy(bytes)))
        .find(|said| !said.is_empty())
        .unwrap_or_else(|| "it said nothing".to_owned());
    Err(VmError::Failed { program: name, status: output.status, said })
}

/// The end of a text, on one line.
pub(super) fn last_words(text: &str) -> String {
    let text = text.trim().replace('\n', "; ");
    let skipped = text.chars().count().saturating_sub(SAID_BYTES);
    text.chars().skip(skipped).collect()
}

fn name(command: &Command) -> String {
    let path = Path::new(command.get_program());
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_named_with_its_last_words() {
        let error = call(program("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"]));
        let text = error.expect_err("it failed").to_string();
        assert!(text.contains("sh ") && text.contains('3') && text.contains("one; two"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_not_found() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-as-this"), None);
    }
}
