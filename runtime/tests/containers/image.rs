//! A small image from this machine's programs, and containers over it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::{Container, End, IDS, Launch, LogStream, Place, Root};

use crate::stage::{Stage, id};

/// What the scripts of these tests call.
const PROGRAMS: [&str; 23] = [
    "sh", "cat", "ls", "id", "readlink", "stat", "head", "sleep", "env", "grep", "mkdir", "touch",
    "ln", "rm", "sort", "tr", "wc", "df", "mknod", "chown", "sed", "true", "mount",
];

/// Ranges for these tests, far from those of others.
static NEXT_RANGE: AtomicU32 = AtomicU32::new(0);

/// A directory that is gone with the test, and an image in it.
pub(crate) struct Image {
    pub(crate) root: PathBuf,
}

/// Whether containers can have the host's ids here; says so if not.
pub(crate) fn hosts_ids() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: containers with the ids of the host need root");
    }
    root
}

/// Whether what only a runtime of root does can be done here: it connects networks, and
/// makes containers by another's description. Says so if not.
pub(crate) fn root_user() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this takes a runtime of root");
    }
    root
}

/// Whether containers can have more ids than one; says so if not.
pub(crate) fn many_ids() -> bool {
    let many = rustix::process::geteuid().is_root() || are_ids_granted();
    if !many {
        eprintln!("SKIPPED: containers with many ids need root, or granted ids and newuidmap");
    }
    many && containers()
}

/// Whether this ordinary user was granted ids, and there is a program that hands them out.
pub(crate) fn are_ids_granted() -> bool {
    granted("/etc/subuid").is_some() && granted("/etc/subgid").is_some()
}

/// The first id that this file grants to this user, if there is a program that hands it out.
pub(crate) fn granted(file: &str) -> Option<u32> {
    if !Path::new("/usr/bin/newuidmap").exists() {
        return None;
    }
    let name = Command::new("id").arg("-un").output().expect("id").stdout;
    let name = format!("{}:", String::from_utf8_lossy(&name).trim());
    let text = fs::read_to_string(file).unwrap_or_default();
    let range = text.lines().find_map(|line| line.strip_prefix(&name))?;
    range.split(':').next()?.parse().ok()
}

/// The host's id that is root in a container.
pub(crate) fn root_of(launch: &Launch) -> u32 {
    match &launch.place {
        // Root of an ordinary user's containers is that user.
        Place::Container(it) => it.id_base.unwrap_or(rustix::process::geteuid().as_raw()),
        Place::Process(_) => panic!("a container"),
    }
}

/// Whether any containers can be made here: an ordinary user's need what the kernel and
/// the machine's settings allow, which is asked of a program that is not ours.
pub(crate) fn containers() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let mut ask = Command::new("unshare");
    let ask = ask.args(["--user", "--mount", "--pid", "--fork", "true"]);
    let said = ask.output().expect("unshare").stderr;
    if !said.is_empty() {
        eprintln!("SKIPPED: {}", String::from_utf8_lossy(&said).trim());
    }
    said.is_empty()
}

impl Image {
    /// A root file system below a stage's directory.
    pub(crate) fn of(stage: &Stage) -> Self {
        let root = stage.path().join("image");
        for directory in ["bin", "etc", "tmp", "root", "home/app"] {
            fs::create_dir_all(root.join(directory)).expect("made");
        }
        let ours = PathBuf::from(env!("CARGO_BIN_EXE_keeper-for-tests"));
        let programs = PROGRAMS.iter().map(|name| (find(name), *name)).chain([(ours, "talk")]);
        for (program, name) in programs {
            copy(&program, &root.join("bin").join(name));
            for library in libraries(&program) {
                let to = root.join(library.strip_prefix("/").expect("absolute"));
                fs::create_dir_all(to.parent().expect("a parent")).expect("made");
                copy(&library, &to);
            }
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n\
            99999999999:x:0:0::/:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).expect("written");
        let group = "root:x:0:\nwheel:x:10:root\nvideo:x:44:app\napp:x:1001:\n";
        fs::write(root.join("etc/group"), group).expect("written");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(root.join("home/app"), Some(1000), Some(1001)).expect("owned");
        }
        Self { root }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn link(&self, target: &str, name: &str) {
        let _ = fs::remove_dir_all(self.path(name));
        let _ = fs::remove_file(self.path(name));
        symlink(target, self.path(name)).expect("linked");
    }

    /// A container over it that runs a script.
    pub(crate) fn script(
        &self,
        name: &str,
        text: &str,
        change: impl FnOnce(&mut Container),
    ) -> Launch {
        let mut container = Container::new(Root::Directory(self.root.clone()));
        let range = NEXT_RANGE.fetch_add(1, Ordering::Relaxed);
        // Another process of tests begins elsewhere.
        let start = 1_200_000_000 + std::process::id() % 4096 * 65_536;
        // Only root may choose.
        container.id_base = rustix::process::geteuid().is_root().then_some(start + range * IDS);
        change(&mut container);
        let place = Place::Container(Box::new(container));
        let mut launch = Launch { place, ..Launch::new(id(name), ["/bin/sh", "-c", text]) };
        launch.env.insert("PATH".into(), "/bin".into());
        launch
    }
}

/// What a container says on standard output, given that it ends well.
pub(crate) async fn told(stage: &mut Stage, launch: Launch) -> String {
    let name = launch.id.to_string();
    stage.launch(launch).await.expect("started");
    let output = stage.output(&name).await;
    let text = |wanted| -> String {
        let bytes = output.iter().filter(|(stream, _)| *stream == wanted);
        String::from_utf8(bytes.flat_map(|(_, bytes)| bytes.clone()).collect()).expect("text")
    };
    let end = stage.end(&name).await;
    let (out, err) = (text(LogStream::Stdout), text(LogStream::Stderr));
    assert_eq!(end, End::Exited { code: 0 }, "{out}\n{err}");
    out
}

/// Why a launch did not start.
pub(crate) async fn refused(stage: &mut Stage, launch: Launch) -> String {
    stage.launch(launch).await.expect_err("refused").to_string()
}

fn find(name: &str) -> PathBuf {
    let places =
        ["/bin", "/usr/bin", "/sbin", "/usr/sbin"].map(|place| Path::new(place).join(name));
    places.into_iter().find(|place| place.exists()).unwrap_or_else(|| panic!("no {name} here"))
}

fn copy(from: &Path, to: &Path) {
    if !to.exists() {
        fs::copy(from, to).expect("copied");
    }
}

/// The libraries that a program needs, its loader too: what `ldd` asks the loader.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let mut ask = Command::new(program);
    let out = ask.env("LD_TRACE_LOADED_OBJECTS", "1").output().expect("asked").stdout;
    let text = String::from_utf8(out).expect("text");
    let paths = text.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}
