//! What a container may do with the devices it was given.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use runtime::{Access, Container, Device, Ids};

use crate::image::{Image, hosts_ids, told};
use crate::stage::Stage;

/// One that opening does not harm, and that not every container has.
fn harmless() -> Option<PathBuf> {
    let found = ["/dev/fuse", "/dev/net/tun", "/dev/loop-control"].map(PathBuf::from);
    let is_device =
        |path: &Path| path.metadata().is_ok_and(|found| found.file_type().is_char_device());
    let found = found.into_iter().find(|path| is_device(path));
    if found.is_none() {
        eprintln!("SKIPPED: this machine has no device that is safe to open");
    }
    found
}

const TRY: &str = "for d in x null; do (: < /dev/$d) 2>/dev/null && echo $d is read; \
    (: > /dev/$d) 2>/dev/null && echo $d is written; done; true";

#[tokio::test]
async fn a_device_for_reading_is_not_written_whosever_ids_a_container_has() {
    let Some(source) = harmless().filter(|_| hosts_ids()) else { return };
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    let cases = [Ids::Own, Ids::Host].map(|ids| [Access::Read, Access::Write].map(|a| (ids, a)));
    for (at, (ids, access)) in cases.into_iter().flatten().enumerate() {
        let change = |container: &mut Container| {
            let (source, target) = (source.clone(), "/dev/x".into());
            container.devices.push(Device { source, target, access });
            container.ids = ids;
            if ids == Ids::Host {
                container.id_base = None;
            }
        };
        let said = told(&mut stage, image.script(&format!("t{at}"), TRY, change)).await;
        let wanted = match access {
            Access::Read => "x is read\nnull is read\nnull is written\n",
            Access::Write => "x is read\nx is written\nnull is read\nnull is written\n",
        };
        assert_eq!(said, wanted, "{ids:?} {access:?}");
    }
    // Supervisors and their groups are used again, by tasks that have no such rules.
    for at in 0..8 {
        let script = "(: > /dev/null) && (: < /dev/zero) && echo fine";
        let said = told(&mut stage, image.script(&format!("u{at}"), script, |_| {})).await;
        assert_eq!(said, "fine\n");
    }
}

#[tokio::test]
async fn the_hosts_root_opens_no_device_that_it_makes() {
    if !hosts_ids() {
        return;
    }
    let mut stage = Stage::set().await;
    let image = Image::of(&stage);
    // With the power to mount a place where nodes are devices; reading this one is harmless.
    let script = "mount -t tmpfs none /tmp && mknod /tmp/m c 1 11 && head -c 1 /tmp/m 2>&1 | \
        grep -c 'Operation not permitted'";
    let change = |container: &mut Container| {
        container.ids = Ids::Host;
        container.id_base = None;
        container.cap_add.insert("SYS_ADMIN".into());
    };
    assert_eq!(told(&mut stage, image.script("t", script, change)).await, "1\n");
}
