//! The program: where it may be, and executing it.

use std::collections::BTreeMap;
use std::ffi::CString;

use rustix::io::Errno;

use crate::sys::{self, CStrings};

/// Where programs are when the environment does not say.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments and environment, in the form that exec takes.
#[derive(Debug)]
pub(super) struct Program {
    candidates: Vec<CString>,
    argv: CStrings,
    env: CStrings,
}

impl Program {
    /// None if some text of it holds a zero byte, or nothing is to be run.
    pub(super) fn new(argv: &[String], env: &BTreeMap<String, String>) -> Option<Self> {
        let path = env.get("PATH").map(String::as_str);
        let candidates = candidates(argv.first()?, path)?;
        let argv = argv.iter().map(|word| CString::new(word.as_str()).ok());
        let env = env.iter().map(|(name, value)| CString::new(format!("{name}={value}")).ok());
        let argv = CStrings::new(argv.collect::<Option<_>>()?);
        Some(Self { candidates, argv, env: CStrings::new(env.collect::<Option<_>>()?) })
    }

    /// Tries each candidate as a shell does: one that may not be executed is
    /// remembered, a better one may follow. Allocates nothing; returns only if none
    /// can be executed.
    pub(super) fn execute(&self) -> Errno {
        let mut failure = Errno::NOENT;
        for path in &self.candidates {
            match sys::exec(path, &self.argv, &self.env) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => failure = Errno::ACCESS,
                error => return error,
            }
        }
        failure
    }
}

fn candidates(program: &str, path: Option<&str>) -> Option<Vec<CString>> {
    if program.contains('/') {
        return Some(vec![CString::new(program).ok()?]);
    }
    let directories = path.unwrap_or(USUAL_PATH).split(':');
    directories
        // POSIX: an empty entry is the working directory.
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| CString::new(format!("{directory}/{program}")).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_path_of_the_task() {
        let text = |program, path| -> Vec<String> {
            let found = candidates(program, path).expect("no zero bytes");
            found.into_iter().map(|path| path.into_string().expect("UTF-8")).collect()
        };
        assert_eq!(text("/bin/true", Some("/x")), ["/bin/true"]);
        assert_eq!(text("true", Some("/x::/y")), ["/x/true", "./true", "/y/true"]);
        assert!(text("true", None).contains(&"/usr/bin/true".to_owned()));
    }
}
