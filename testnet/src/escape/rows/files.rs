//! Ways out by paths: links in images, races with mounts, descriptors left open.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::ran;
use crate::escape::Ground;
use crate::escape::cell::{Ask, First, Ids, Streams};

/// Starts against a target that is being swapped.
const SWAPPED_STARTS: usize = 40;

/// Descriptors that a careless runtime may have left open.
const LEAKED: std::ops::Range<u32> = 3..21;

/// Everything that must be hidden or read-only, whatever an image brings.
const GUARDED: [&str; 4] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger",
    "/proc/sys/vm/overcommit_memory",
    "/proc/irq/default_smp_affinity",
];

pub(super) fn overwrite_program(ground: &mut Ground) -> io::Result<Vec<String>> {
    let told = ground.probe(&["reopen", "/proc/self/exe", "/proc/1/exe"])?;
    let mut broken = ran(&told);
    broken.extend(told.succeeded("reopen"));
    // A script whose interpreter is whatever starts it.
    let root = ground.root_for_our_program()?;
    fs::write(root.join("entry"), "#!/proc/self/exe\n")?;
    fs::set_permissions(root.join("entry"), fs::Permissions::from_mode(0o755))?;
    let mut ask = Ask::probe(root, &["facts"]);
    "/entry".clone_into(&mut ask.argv[0]);
    // Whatever it does, the canaries tell; that it ends is all that is asked.
    ground.run(&ask)?;
    broken.extend(hunted(ground, Ids::Usual)?);
    Ok(broken)
}

/// Programs started in a running container while its own process lies in wait for what
/// starts them.
fn hunted(ground: &mut Ground, ids: Ids) -> io::Result<Vec<String>> {
    const STARTS: usize = 10;
    let root = ground.root()?;
    let hunter = match ground.start(&Ask { ids, ..Ask::probe(root, &["hunt"]) })? {
        Ok(hunter) => hunter,
        Err(reason) => return Ok(vec![format!("the hunter did not run: {reason}")]),
    };
    let mut broken = Vec::new();
    for _ in 0..STARTS {
        let told = ground.exec(&hunter, &["/probe", "bomb", "ping"], None)?;
        if told.lines != ["pong"] {
            broken.push(format!("a program did not run inside: {told:?}"));
        }
    }
    let (told, _) = ground.isolator().stop(&hunter)?;
    broken.extend(ran(&told));
    broken.extend(told.succeeded("reopen"));
    Ok(broken)
}

/// The harmless devices, which a container has in common with its host.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

pub(super) fn host_devices(ground: &mut Ground) -> io::Result<Vec<String>> {
    let mut broken = Vec::new();
    let mut words = vec!["chmod", "/tmp"];
    words.extend(DEVICES);
    for ids in [Ids::Usual, Ids::Host] {
        let before = DEVICES.map(|path| fs::metadata(path).map(|about| about.permissions()).ok());
        let root = ground.root()?;
        let other = ground.start(&Ask { ids, ..Ask::probe(&root, &["bomb", "deaf"]) })?;
        let told = ground.run(&Ask { ids, ..Ask::probe(&root, &words) })?;
        let mut all = vec![told];
        if let Ok(other) = other {
            let mut argv = vec!["/probe"];
            argv.extend(&words);
            all.push(ground.exec(&other, &argv, None)?);
            ground.isolator().stop(&other)?;
        }
        for told in all {
            broken.extend(ran(&told));
            if told.value("chmod /tmp") != Some("ok") {
                broken.push(format!("not even /tmp can be changed: {:?}", told.lines));
            }
        }
        for (path, before) in DEVICES.iter().zip(before) {
            let now = fs::metadata(path)?.permissions();
            if let Some(before) = before.filter(|before| *before != now) {
                broken.push(format!("{path} of the host has mode {:o}", now.mode()));
                fs::set_permissions(path, before)?;
            }
        }
    }
    Ok(broken)
}

pub(super) fn overwrite_as_host(ground: &mut Ground) -> io::Result<Vec<String>> {
    let mut broken = Vec::new();
    for (ids, first) in
        [(Ids::Host, First::Payload), (Ids::Usual, First::Reaper), (Ids::Host, First::Reaper)]
    {
        let root = ground.root()?;
        let ask = Ask { ids, first, ..Ask::probe(root, &["reopen", "/proc/1/exe"]) };
        let told = ground.run(&ask)?;
        let which = format!("{ids:?} ids, {first:?} first");
        broken.extend(
            ran(&told)
                .into_iter()
                .chain(told.succeeded("reopen"))
                .map(|it| format!("{which}: {it}")),
        );
    }
    broken.extend(hunted(ground, Ids::Host)?);
    Ok(broken)
}

pub(super) fn swapped_target(ground: &mut Ground) -> io::Result<Vec<String>> {
    let canary = ground.canary();
    let volume = ground.directory()?;
    fs::create_dir_all(volume.join("d/x"))?;
    symlink(&canary, volume.join("l"))?;
    let over = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (over, volume) = (Arc::clone(&over), volume.clone());
        thread::spawn(move || {
            let (a, b) = (volume.join("d"), volume.join("l"));
            while !over.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
                // Both states for about as long as a start takes.
                thread::yield_now();
            }
        })
    };
    let mut started = 0;
    let mut outcome = Ok(());
    let mut broken = Vec::new();
    for _ in 0..SWAPPED_STARTS {
        let ask = ground.root().map(|root| Ask {
            binds: vec![(volume.clone(), "/vol".to_owned())],
            tmpfs: vec!["/vol/d/x".to_owned()],
            ..Ask::probe(root, &["make", "/vol/d/x/made"])
        });
        match ask.and_then(|ask| ground.run(&ask)) {
            Ok(told) => started += usize::from(told.refused.is_none()),
            Err(error) => outcome = Err(error),
        }
    }
    over.store(true, Ordering::Relaxed);
    let _ = swapper.join();
    outcome?;
    if started == 0 {
        broken.push("no start came through, so no race was run".to_owned());
    }
    Ok(broken)
}

pub(super) fn leaked_directory(ground: &mut Ground) -> io::Result<Vec<String>> {
    let mut broken = Vec::new();
    let root = ground.root()?;
    for number in LEAKED {
        let ask = Ask {
            directory: Some(format!("/proc/self/fd/{number}")),
            ..Ask::probe(&root, &["facts"])
        };
        broken.extend(outside(&ground.run(&ask)?, number));
    }
    symlink("/proc/self/fd/7", root.join("link"))?;
    let ask = Ask { directory: Some("/link".to_owned()), ..Ask::probe(&root, &["facts"]) };
    broken.extend(outside(&ground.run(&ask)?, 7));
    let told = ground.run(&Ask::probe(&root, &["facts"]))?;
    broken.extend(ran(&told));
    let fds: Vec<_> = told.all("fd").collect();
    if fds.len() != 3 {
        broken.push(format!("descriptors beside the three usual ones: {fds:?}"));
    }
    broken.extend(leaked_into(ground, &root)?);
    Ok(broken)
}

/// The same for programs that come later.
fn leaked_into(ground: &mut Ground, root: &Path) -> io::Result<Vec<String>> {
    let other = match ground.start(&Ask::probe(root, &["bomb", "deaf"]))? {
        Ok(other) => other,
        Err(reason) => return Ok(vec![format!("the payload did not run: {reason}")]),
    };
    let mut broken = Vec::new();
    let facts = ["/probe", "facts"];
    for number in LEAKED {
        let told = ground.exec(&other, &facts, Some(&format!("/proc/self/fd/{number}")))?;
        broken.extend(outside(&told, number).map(|it| format!("exec: {it}")));
    }
    broken.extend(outside(&ground.exec(&other, &facts, Some("/link"))?, 7));
    let told = ground.exec(&other, &facts, Some("/tmp"))?;
    broken.extend(ran(&told));
    let fds: Vec<_> = told.all("fd").collect();
    if fds.len() != 3 || told.value("cwd") != Some("/tmp") {
        broken.push(format!("exec: descriptors beside the three usual ones: {fds:?}"));
    }
    ground.isolator().stop(&other)?;
    Ok(broken)
}

/// Names by which a tree that was left attached above or below the root is met.
const ABOVE: [&str; 5] =
    ["/..", "/../..", "/proc/self/root/..", "/proc/1/root/..", "/proc/self/cwd/.."];

pub(super) fn left_attached(ground: &mut Ground) -> io::Result<Vec<String>> {
    let canary = ground.canary();
    let mut broken = Vec::new();
    let root = ground.root()?;
    fs::write(root.join("marker"), "")?;
    let mut words = vec!["list"];
    words.extend(ABOVE);
    let told = ground.run(&Ask::probe(&root, &words))?;
    broken.extend(ran(&told));
    for above in ABOVE {
        let words = format!("list {above}");
        let names: Vec<_> = told.all(&words).collect();
        if !names.iter().any(|name| *name == "marker" || name.starts_with("- ")) {
            broken.push(format!("{above} is not the container's root: it holds {names:?}"));
        }
    }
    let inside = canary.strip_prefix("/").unwrap_or(&canary).display().to_string();
    let paths: Vec<_> = ABOVE.iter().map(|above| format!("{above}/{inside}/file")).collect();
    let mut words = vec!["read"];
    words.extend(paths.iter().map(String::as_str));
    let told = ground.run(&Ask::probe(&root, &words))?;
    let read = told.all("read").filter(|line| line.contains('"'));
    broken.extend(read.map(|line| format!("a file of the host was read: {line}")));
    // Of one's own mounts none shows a directory of the host but the devices it was given.
    let told = ground.run(&Ask::probe(&root, &["facts"]))?;
    let targets: Vec<_> = told.all("mount").filter_map(|line| line.split(' ').nth(4)).collect();
    let roots = targets.iter().filter(|target| **target == "/").count();
    if roots != 1 {
        broken.push(format!("{roots} mounts are at /: the host's tree is still attached"));
    }
    Ok(broken)
}

fn outside(told: &crate::escape::cell::Told, number: u32) -> Option<String> {
    let cwd = told.value("cwd")?;
    let inside = cwd.starts_with('/') && !cwd.contains("starling-escape");
    (!inside).then(|| format!("it started in descriptor {number}, which is {cwd}"))
}

pub(super) fn linked_null(ground: &mut Ground) -> io::Result<Vec<String>> {
    let mut broken = Vec::new();
    for there in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"] {
        let root = ground.root_with_link("dev/null", Path::new(there))?;
        let mut words = vec!["write"];
        words.extend(GUARDED);
        let told = ground.run(&Ask::probe(&root, &words))?;
        broken.extend(ran(&told));
        broken.extend(told.succeeded("write"));
        let told = ground.run(&Ask::probe(&root, &["write", "/dev/null"]))?;
        broken.extend(ran(&told));
        let told = ground
            .run(&Ask::probe(&root, &["read", "/proc/kcore", "/proc/keys", "/proc/timer_list"]))?;
        broken.extend(ran(&told));
        let read = told.all("read").filter(|line| line.contains('"') && !line.contains(" 0 "));
        broken.extend(read.map(|line| format!("a masked file can be read: {line}")));
    }
    Ok(broken)
}

pub(super) fn linked_console(ground: &mut Ground) -> io::Result<Vec<String>> {
    let mut broken = Vec::new();
    for (link, there) in [
        ("dev/console", "/proc/sys/kernel/core_pattern"),
        ("dev/pts", "/"),
        ("dev/ptmx", "/proc/sysrq-trigger"),
        ("dev/tty", "/proc/sysrq-trigger"),
    ] {
        let root = ground.root_with_link(link, Path::new(there))?;
        let ask = Ask { streams: Streams::Terminal, ..Ask::probe(root, &["facts"]) };
        let told = ground.run(&ask)?;
        broken.extend(ran(&told).into_iter().map(|it| format!("{link}: {it}")));
        let bad =
            told.all("fd").filter(|fd| !fd.contains(" /dev/pts/") && !fd.contains("/dev/console"));
        broken.extend(bad.map(|fd| format!("{link}: no terminal of its own: {fd}")));
    }
    Ok(broken)
}

pub(super) fn false_proc(ground: &mut Ground) -> io::Result<Vec<String>> {
    let canary = ground.canary();
    let root = ground.root_with_link("proc", &canary)?;
    // It may be refused, or a real /proc may be made inside: the canaries tell.
    ground.run(&Ask::probe(&root, &["facts"]))?;
    let root = ground.root_with_link("proc", Path::new("/tmp"))?;
    ground.run(&Ask::probe(&root, &["facts"]))?;

    let volume = ground.directory()?;
    let bait = [
        "self/attr/exec",
        "self/attr/apparmor/exec",
        "self/uid_map",
        "self/oom_score_adj",
        "sys/kernel/core_pattern",
    ];
    for path in bait {
        let file = volume.join(path);
        fs::create_dir_all(file.parent().unwrap_or(&volume))?;
        fs::write(file, "bait")?;
    }
    let root = ground.root()?;
    let ask = Ask {
        binds: vec![(volume.clone(), "/proc".to_owned())],
        ..Ask::probe(&root, &["list", "/proc"])
    };
    ground.run(&ask)?;
    let ask = Ask { tmpfs: vec!["/proc".to_owned()], ..Ask::probe(&root, &["list", "/proc"]) };
    ground.run(&ask)?;
    let eaten =
        bait.iter().filter(|path| fs::read(volume.join(path)).ok().as_deref() != Some(b"bait"));
    Ok(eaten.map(|path| format!("what was meant for /proc/{path} went to a volume")).collect())
}

pub(super) fn linked_dev(ground: &mut Ground) -> io::Result<Vec<String>> {
    let canary = ground.canary();
    let relative =
        Path::new("../../../../../../../..").join(canary.strip_prefix("/").unwrap_or(&canary));
    let mut broken = Vec::new();
    for there in [canary, relative] {
        for link in ["dev", "sys", "tmp"] {
            let root = ground.root_with_link(link, &there)?;
            let told = ground.run(&Ask::probe(root, &["facts"]))?;
            // Refused or made inside; but where it ran, its devices are its own.
            if told.refused.is_none()
                && link == "dev"
                && told.value("dev /dev/null char 1:3").is_none()
            {
                broken.push("it ran without a /dev/null of its own".to_owned());
            }
        }
    }
    Ok(broken)
}
