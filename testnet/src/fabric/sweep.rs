//! Taking a fabric away so that nothing is left: processes, namespaces,
//! cables, mounts, the directory.
//!
//! In that order, because each holds the next. The record goes last, so a
//! sweep that failed can be tried again. Must never delete through a mount: a
//! task's rootfs may have the host's own /proc below it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::hosts::{self, Marks, Survivors};
use super::netns::{self, NetnsError};
use super::{Fabric, Ground, prefix_of};
use crate::sys;

/// What could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Survivors(#[from] Survivors),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("{} is still mounted", path.display())]
    Mounted { path: PathBuf },
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// What a sweep took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    pub processes: usize,
    pub namespaces: usize,
    pub mounts: usize,
}

/// Takes a fabric away.
pub fn fabric(fabric: &Fabric) -> Result<Swept, SweepError> {
    let mut swept =
        Swept { processes: hosts::kill(&Marks::of_fabric(fabric))?, ..Swept::default() };
    if fabric.ground == Ground::Netns {
        swept.namespaces = netns::existing(&fabric.prefix).len();
        netns::remove(&fabric.prefix)?;
    }
    swept.mounts = unmount_below(&fabric.dir)?;
    remove_dir(&fabric.dir)?;
    Ok(swept)
}

/// Takes away what a fabric left whose directory was lost; `None` when it left nothing.
pub fn leftovers(dir: &Path) -> Result<Option<Swept>, SweepError> {
    let real = dir.canonicalize().or_else(|_gone| std::path::absolute(dir));
    let prefix = prefix_of(&real.unwrap_or_else(|_none| dir.to_owned()));
    let names = netns::existing(&prefix);
    if names.is_empty() {
        return Ok(None);
    }
    let marks: Vec<_> = names.iter().map(|name| Marks::of_namespace(name)).collect();
    let processes = hosts::kill(&marks)?;
    netns::remove(&prefix)?;
    Ok(Some(Swept { processes, namespaces: names.len(), mounts: 0 }))
}

fn unmount_below(dir: &Path) -> Result<usize, SweepError> {
    let mounted = mounts_below(dir);
    for path in mounted.iter().rev() {
        // Judged by what is left, not by each attempt.
        let _ = sys::detach_mount(path);
    }
    match mounts_below(dir).pop() {
        Some(path) => Err(SweepError::Mounted { path }),
        None => Ok(mounted.len()),
    }
}

fn remove_dir(dir: &Path) -> Result<(), SweepError> {
    let record = dir.join(super::RECORD);
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| *path != record) {
        let gone = match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        absent(gone).map_err(|source| SweepError::Remove { path, source })?;
    }
    let end = absent(fs::remove_file(&record)).and_then(|()| absent(fs::remove_dir(dir)));
    end.map_err(|source| SweepError::Remove { path: dir.to_owned(), source })
}

fn absent(gone: io::Result<()>) -> io::Result<()> {
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Mount points in a directory, in the order they were mounted.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(unescape).filter(|point| point != dir && point.starts_with(dir)).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        for (text, path) in [
            ("/a/b", "/a/b"),
            ("/with\\040space", "/with space"),
            ("/back\\134slash", "/back\\slash"),
            ("/end\\", "/end\\"),
        ] {
            assert_eq!(unescape(text), Path::new(path));
        }
    }

    #[test]
    fn a_directory_is_not_below_its_namesake() {
        assert!(mounts_below(Path::new("/proc-not-there")).is_empty());
    }
}
