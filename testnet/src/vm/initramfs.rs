//! The guest's first root: a shell, the modules up to the disk, what to run, and
//! the files this run brings along, at the same absolute paths as here.
//!
//!     /init  /bin/busybox  /boot/*.ko  /vm/{nonce,plan.sh,N.sh,...}  /files/...
//!
//! Must never hold anything from the packages: that is the base's disk.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::base::Base;
use super::cpio::Archive;
use super::{Guest, Job, VmError, io_error};

const BOOT: &str = include_str!("boot.sh");
const INIT: &str = include_str!("init.sh");
const ENTER: &str = include_str!("enter.sh");
/// Loaded before anything runs: a task in a namespace may not load them itself.
/// What a kernel does not have is passed over.
const MODULES: &str = "overlay fuse loop tun veth bridge dummy br_netfilter macvlan ipvlan vxlan \
    wireguard nf_tables nft_chain_nat nft_masq nft_nat nft_redir nft_ct nft_counter nft_limit \
    nft_reject_inet nft_fib_inet nft_numgen nft_compat nf_conntrack xt_MASQUERADE xt_nat \
    xt_conntrack xt_addrtype xt_comment sch_netem sch_tbf sch_htb sch_fq_codel sch_ingress \
    cls_u32 cls_bpf act_mirred dm_mod dm_flakey bfq\n";

/// Writes the archive to `to`.
pub(super) fn write(
    base: &Base,
    guest: &Guest,
    jobs: &[Job],
    nonce: &str,
    to: &Path,
) -> Result<(), VmError> {
    let failed = io_error(to);
    let file = File::create(to).map_err(&failed)?;
    let mut archive = Archive::new(BufWriter::new(file));
    let mut fixed = || -> io::Result<()> {
        for dir in ["/proc", "/sys", "/dev", "/files", "/vm"] {
            archive.directory(Path::new(dir))?;
        }
        archive.copy(&base.busybox(), Path::new("/bin/busybox"))?;
        archive.copy(&base.boot(), Path::new("/boot"))?;
        archive.bytes(Path::new("/init"), 0o755, BOOT.as_bytes())?;
        archive.bytes(Path::new("/vm/init.sh"), 0o755, INIT.as_bytes())?;
        archive.bytes(Path::new("/vm/enter.sh"), 0o755, ENTER.as_bytes())?;
        archive.bytes(Path::new("/vm/modules"), 0o644, MODULES.as_bytes())?;
        archive.bytes(Path::new("/vm/nonce"), 0o644, nonce.as_bytes())?;
        archive.bytes(Path::new("/vm/plan.sh"), 0o644, plan(guest, jobs).as_bytes())?;
        for (number, job) in jobs.iter().enumerate() {
            archive.directory(&place(&job.dir))?;
            let path = format!("/vm/{number}.sh");
            archive.bytes(Path::new(&path), 0o755, &script(job))?;
        }
        Ok(())
    };
    fixed().map_err(&failed)?;
    for path in guest.carry.iter().collect::<BTreeSet<_>>() {
        archive.copy(path, &place(path)).map_err(io_error(path))?;
    }
    archive.finish().map(drop).map_err(&failed)
}

/// Where a file goes so that the guest finds it under its own path. /bin and
/// the like are links there, which a directory must not replace.
fn place(path: &Path) -> PathBuf {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let first = inside.components().next();
    let linked = ["bin", "sbin", "lib", "lib64"].map(OsStr::new);
    let is_linked = matches!(first, Some(Component::Normal(name)) if linked.contains(&name));
    let root = if is_linked { "/files/usr" } else { "/files" };
    Path::new(root).join(inside)
}

fn plan(guest: &Guest, jobs: &[Job]) -> String {
    let seconds = guest.limit.as_secs().max(1);
    let lines = jobs.iter().enumerate();
    lines.map(|(number, job)| format!("run {number} {} {seconds}\n", job.who.word())).collect()
}

fn script(job: &Job) -> Vec<u8> {
    let mut script = b"cd ".to_vec();
    script.extend(quoted(job.dir.as_os_str()));
    script.extend(b" || exit 126\nexec");
    for word in &job.argv {
        script.push(b' ');
        script.extend(quoted(word));
    }
    script.push(b'\n');
    script
}

/// One word to a shell, whatever is in it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend(b"'\\''"),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::process::Command;

    use super::super::Who;
    use super::*;

    #[test]
    fn a_shell_runs_exactly_the_words_it_was_given_where_it_was_told() {
        let words = ["printf", "%s\n", "a b", "it's", "$HOME `x` \"y\"", "", "*"];
        let argv = words.map(OsString::from).to_vec();
        let job = Job { title: String::new(), dir: PathBuf::from("/"), argv, who: Who::Root };
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(OsStr::from_bytes(&script(&job)))
            .output()
            .expect("a shell");
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(said, "a b\nit's\n$HOME `x` \"y\"\n\n*\n");
    }

    #[test]
    fn files_keep_their_paths_but_never_replace_the_links_of_a_merged_root() {
        assert_eq!(place(Path::new("/opt/x")), Path::new("/files/opt/x"));
        assert_eq!(place(Path::new("/bin/x")), Path::new("/files/usr/bin/x"));
        assert_eq!(place(Path::new("/binary/x")), Path::new("/files/binary/x"));
    }
}
