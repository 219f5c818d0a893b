//! What a file holds by the time its header is written.
//!
//! A header tells the size before the content. Files that the kernel makes up as they are
//! read (`/proc`, `/sys`) tell none or a wrong one, and ordinary ones may change meanwhile.
//! So small files and made-up ones are read first, and their header tells what was read;
//! only a large ordinary file is believed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::io::Errno;

/// Files up to this are read before their header is written.
const SMALL_BYTES: u64 = 256 << 10;

/// The most that a made-up file may hold: more than any that is of use elsewhere.
const MADE_UP_BYTES: u64 = 16 << 20;

/// File systems whose files the kernel makes up: `linux/magic.h`.
const MADE_UP: [u64; 9] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
];

/// Whether a file, or a directory's files, are made up.
pub(super) fn is_made_up(of: impl AsFd) -> bool {
    rustix::fs::fstatfs(of).is_ok_and(|found| {
        // The width and sign of the type are the architecture's.
        MADE_UP.contains(&((found.f_type as u64) & 0xffff_ffff))
    })
}

/// A file's content.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it.
    Read(Vec<u8>),
    /// So many bytes, not read yet.
    Awaited(u64),
}

impl Content {
    /// Reads what is not to be believed. `size` is what the file says of itself.
    pub(super) fn of(file: &mut File, size: u64) -> io::Result<Self> {
        let made_up = is_made_up(&*file);
        if !made_up && size > SMALL_BYTES {
            return Ok(Self::Awaited(size));
        }
        // One that says that it is empty may not be; what an ordinary one gained since it
        // was opened is left out.
        let most = if made_up || size == 0 { MADE_UP_BYTES } else { size };
        let mut bytes = Vec::new();
        file.by_ref().take(most).read_to_end(&mut bytes)?;
        if made_up && bytes.len() as u64 == most && file.read(&mut [0])? > 0 {
            let why = format!("it tells no size, and holds more than {} MiB", most >> 20);
            return Err(io::Error::other(why));
        }
        Ok(Self::Read(bytes))
    }

    /// How much there is.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Read(bytes) => bytes.len() as u64,
            Self::Awaited(size) => *size,
        }
    }
}

/// Whether a process that a file was about is gone, which is as if the file were.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(path: &str, size: u64) -> Content {
        Content::of(&mut File::open(path).expect("opened"), size).expect("read")
    }

    #[test]
    fn what_the_kernel_makes_up_is_read_whatever_it_says() {
        for size in [0, 1, 4096, 1 << 40] {
            let Content::Read(bytes) = read("/proc/self/status", size) else { panic!("read") };
            assert!(bytes.starts_with(b"Name:"), "{size}");
        }
        let online = read("/sys/devices/system/cpu/online", 4096);
        assert!(matches!(&online, Content::Read(bytes) if bytes.len() < 100), "{online:?}");
        assert!(is_made_up(File::open("/proc").expect("opened")));
    }

    #[test]
    fn an_ordinary_file_is_what_it_was_when_it_was_opened() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("written");
        assert!(!is_made_up(&file));
        let mut at_start = |size| {
            use std::io::Seek as _;
            file.rewind().expect("at its start");
            Content::of(&mut file, size).expect("read").length()
        };
        assert_eq!(at_start(4), 4, "it grew");
        assert_eq!(at_start(20), 10, "it shrank");
        assert_eq!(at_start(SMALL_BYTES + 1), SMALL_BYTES + 1, "it is awaited");
    }
}
