//! A program without what only debuggers need.
//!
//! The probe of a debug build is twenty times as long as what is loaded of it, and every row
//! copies it, packs it and unpacks it, which an emulated processor takes minutes over. `strip`
//! is not on every machine, so what the loader reads is kept, by elf(5), and nothing else.
//!
//! Must never change the original.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a program's head, where its tables are named.
const HEAD: usize = 64;

/// Copies a program's segments; what is no program for 64 bits is copied whole.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    let program = fs::OpenOptions::new().read(true).write(true).open(to)?;
    let mut head = [0; HEAD];
    program.read_at(&mut head, 0)?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Ok(());
    }
    let number = |bytes: &[u8], at: usize, len: usize| {
        let bytes = bytes.get(at..at + len).unwrap_or_default();
        bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (table, entry, count) = (number(&head, 32, 8), number(&head, 54, 2), number(&head, 56, 2));
    let mut segments = vec![0; usize::try_from(entry * count).map_err(io::Error::other)?];
    program.read_exact_at(&mut segments, table)?;
    let of = segments.chunks(usize::try_from(entry.max(1)).map_err(io::Error::other)?);
    let end = of.map(|it| number(it, 8, 8).saturating_add(number(it, 32, 8))).max();
    program.set_len(end.unwrap_or(0).max(table + entry * count))?;
    // Of sections, which only debuggers need, none is left to be found.
    program.write_all_at(&[0; 8], 40)?;
    program.write_all_at(&[0; 4], 60)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_bare_copy_is_smaller_and_runs() {
        let own = std::env::current_exe().expect("a program");
        let dir = std::env::temp_dir().join(format!("testnet-bare-{}", std::process::id()));
        fs::create_dir(&dir).expect("a directory");
        let copy = dir.join("copy");
        super::copy(&own, &copy).expect("copied");
        let size = |path: &Path| fs::metadata(path).expect("there").len();
        assert!(size(&copy) < size(&own), "{} of {}", size(&copy), size(&own));
        assert!(Command::new(&copy).arg("--help").output().expect("started").status.success());
        // What is no program is copied as it is.
        fs::write(dir.join("script"), "#!/bin/sh\n").expect("written");
        super::copy(&dir.join("script"), &copy).expect("copied");
        assert_eq!(fs::read(&copy).expect("read"), b"#!/bin/sh\n");
        fs::remove_dir_all(&dir).expect("removed");
    }
}
