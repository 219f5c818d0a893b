//! Where data lies: how much room is left, and whether the file system can do what is
//! asked of it. And the clock, by which everything kept there is dated.

use super::{Finding, Host, Storage};

/// The journal needs this much to go on at all.
const FREE_MIN: u64 = 64 << 20;
/// Below this no ordinary image fits.
const FREE_WANTED: u64 = 1 << 30;
/// Files that an ordinary image has.
const FILES_WANTED: u64 = 20_000;

/// The year this program was made in began then; no right clock is earlier.
const MADE: u64 = 1_767_225_600; // 2026-01-01

/// What forgets everything when the machine is switched off.
const VOLATILE: [&str; 2] = ["tmpfs", "ramfs"];
/// What a container's changes cannot lie on: `overlayfs` refuses it as its upper layer.
const NO_UPPER: [&str; 7] = ["overlay", "nfs", "cifs", "9p", "fuse", "vfat", "ecryptfs"];
/// What forgets locks or syncs late, over a network.
const REMOTE: [&str; 2] = ["nfs", "cifs"];

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(storage) = &host.storage {
        found.push(place(storage, host));
        found.push(kind(storage, host));
        found.push(space(storage));
    }
    found.push(clock(host));
    found
}

fn place(storage: &Storage, host: &Host) -> Finding {
    const NAME: &str = "data directory";
    let dir = storage.dir.display();
    if !storage.writable {
        let what = format!(
            "{} may not write {}, where {dir} lies or would be made",
            host.ground.user,
            storage.exists.display()
        );
        let fix = "starling up --data DIR   in a directory that this user can write";
        return Finding::fail(NAME, what, fix);
    }
    let made = if storage.exists == storage.dir { "" } else { ", made by the first start" };
    Finding::ok(NAME, format!("{dir}{made}"))
}

fn kind(storage: &Storage, host: &Host) -> Finding {
    const NAME: &str = "file system";
    let (kind, mount) = (storage.kind.as_str(), storage.mount.display());
    let elsewhere = match &host.ground.inside {
        Some(_) => super::limits::privileged_container(&host.ground),
        None => "starling up --data DIR   in a directory on a disk of this machine".to_owned(),
    };
    if !storage.executes {
        let what =
            format!("{kind} at {mount} is mounted noexec: no program of a container can start");
        let fix = host.ground.as_root(&format!("mount -o remount,exec {mount}"));
        return Finding::fail(NAME, what, fix);
    }
    if VOLATILE.contains(&kind) {
        let what =
            format!("{kind} at {mount}: this member and its tasks are forgotten at shutdown");
        return Finding::warn(NAME, what, elsewhere);
    }
    if REMOTE.contains(&kind) {
        let what = format!(
            "{kind} at {mount}: the journal is only as safe as that server, and containers cannot \
             write to their root"
        );
        return Finding::warn(NAME, what, elsewhere);
    }
    if NO_UPPER.contains(&kind) {
        let what = format!("{kind} at {mount}: containers cannot write to their root there");
        return Finding::warn(NAME, what, elsewhere);
    }
    Finding::ok(NAME, format!("{kind} at {mount}"))
}

fn space(storage: &Storage) -> Finding {
    const NAME: &str = "disk space";
    let mount = storage.mount.display();
    let what = format!("{} of {} free at {mount}", bytes(storage.free), bytes(storage.total));
    let make = format!("du -xh -d 2 {mount} | sort -h | tail   what takes the room");
    if storage.free < FREE_MIN {
        return Finding::fail(NAME, format!("{what}: the agent cannot keep its journal"), make);
    }
    if storage.files_free == Some(0) {
        let what = format!("no more files can be made at {mount}: the agent cannot start");
        return Finding::fail(NAME, what, format!("df -i {mount}   and remove files there"));
    }
    if storage.free < FREE_WANTED {
        return Finding::warn(NAME, format!("{what}: few images fit"), make);
    }
    if let Some(files) = storage.files_free.filter(|files| *files < FILES_WANTED) {
        let what = format!("{what}, but for {files} more files only: few images fit");
        return Finding::warn(NAME, what, format!("df -i {mount}   and remove files there"));
    }
    Finding::ok(NAME, what)
}

fn clock(host: &Host) -> Finding {
    const NAME: &str = "clock";
    if host.clock >= MADE {
        return Finding::ok(NAME, "later than this program's making");
    }
    let what = "the clock is years behind: invitations and certificates will be refused";
    let fix = if host.ground.systemd {
        "timedatectl set-ntp true"
    } else {
        "date -s 'YYYY-MM-DD HH:MM'   and run an NTP client"
    };
    Finding::fail(NAME, what, host.ground.as_root(fix))
}

fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    format!("{} {name}", count / unit)
}
