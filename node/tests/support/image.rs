//! A small root file system of this machine's own programs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the scripts of these tests call.
const PROGRAMS: [&str; 9] = ["sh", "cat", "id", "ls", "head", "tail", "sleep", "true", "hostname"];

/// A directory of a test, beside a host's own.
pub(crate) fn beside(host: &crate::support::Host, name: &str) -> PathBuf {
    let path = host.data().parent().expect("a home").join(name);
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// A path as a word of a command line.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Whether containers with ids of their own can be made here; says so if not.
pub(crate) fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: containers with ids of their own need root");
    }
    root
}

/// Makes it in this directory.
pub(crate) fn make(root: &Path) {
    fs::create_dir_all(root.join("bin")).expect("a directory");
    for name in PROGRAMS {
        let program = find(name);
        place(&program, &root.join("bin").join(name));
        for library in libraries(&program) {
            let to = root.join(library.strip_prefix("/").expect("absolute"));
            fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
            place(&library, &to);
        }
    }
    fs::create_dir_all(root.join("etc")).expect("a directory");
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:7:8::/:/bin/sh\n")
        .expect("written");
    symlink("/bin", root.join("sbin")).expect("a link");
}

fn place(from: &Path, to: &Path) {
    if !to.exists() {
        fs::copy(from, to).expect("copied");
    }
}

fn find(name: &str) -> PathBuf {
    let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("this machine has no {name}"))
}

fn libraries(program: &Path) -> Vec<PathBuf> {
    let told = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
