//! What a process is called where others look: in its `cmdline`, which is its own memory.
//!
//! ```text
//! arg_start                       arg_end
//! │ / u s r / b i n / … \0 … \0 │ before
//! │ t i t l e \0 · · · · · · · · │ after: the end is not 0, so the kernel stops at the first 0
//! ```
//!
//! A fork has the words of the process that it is a copy of. This needs no power and no
//! memory, so it may be called between fork and exec; what cannot be found stays as it is.

use std::ffi::CStr;
use std::ptr;

use rustix::fs::{Mode, OFlags};

/// Longer than any `stat` of a process: its 52 numbers at their longest.
const STAT_BYTES: usize = 52 * 21 + 64;

/// Which words `arg_start` and `arg_end` are, counted from the one behind the name.
const ARG_START: usize = 45;

/// Calls this process so, for `ps` and whoever else reads its `cmdline` and `comm`. Of the
/// title at most 15 bytes are its `comm`.
///
/// To be called by a process with one thread that reads its own arguments no more.
pub(crate) fn set_title(title: &CStr) {
    // A name that is not set keeps the one of the process it was forked from.
    let _ = rustix::thread::set_name(title);
    let mut stat = [0; STAT_BYTES];
    let Some((start, end)) = read_stat(&mut stat).and_then(arguments) else { return };
    let title = title.to_bytes();
    let area = end - start;
    // The first 0, and what is not 0 at the end.
    let length = title.len().min(area - 2);
    let first = ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel put this process's arguments into `start..end`, on its stack, which
    // is mapped and writable, and at least 2 bytes long. No other thread runs that could read
    // them meanwhile, and the caller promises that this one holds no reference to them.
    unsafe {
        ptr::copy_nonoverlapping(title.as_ptr(), first, length);
        ptr::write_bytes(first.add(length), 0, 1);
        ptr::write_bytes(first.add(length + 1), b' ', area - length - 1);
    }
}

fn read_stat(into: &mut [u8; STAT_BYTES]) -> Option<&[u8]> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/stat", flags, Mode::empty()).ok()?;
    let length = rustix::io::read(&file, &mut into[..]).ok()?;
    into.get(..length)
}

/// Where the arguments begin and end, if there is room for a title.
fn arguments(stat: &[u8]) -> Option<(usize, usize)> {
    let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
    let mut words = stat.get(name_ends + 2..)?.split(|byte| *byte == b' ').skip(ARG_START);
    let mut number = || words.next().and_then(|word| str::from_utf8(word).ok()?.parse().ok());
    let (start, end): (usize, usize) = (number()?, number()?);
    (start > 0 && end.checked_sub(start)? > 2).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::super::forked::{Outcome, run};
    use super::*;

    #[test]
    fn a_fork_is_called_what_it_wants() {
        let called = run(|| {
            set_title(c"a-title");
            let mut text = [0; 64];
            let read = |path, into: &mut [u8]| {
                let file = rustix::fs::open(path, OFlags::RDONLY, Mode::empty());
                file.and_then(|file| rustix::io::read(&file, into)).unwrap_or(0)
            };
            let length = read(c"/proc/self/cmdline", &mut text);
            let is_title = text[..length] == *b"a-title\0";
            let length = read(c"/proc/self/comm", &mut text);
            i32::from(!is_title) + 2 * i32::from(text[..length] != *b"a-title\n")
        });
        assert_eq!(called, Outcome::Exited(0));
    }

    #[test]
    fn what_makes_no_sense_is_left_alone() {
        let numbers = |count| "7 ".repeat(count);
        let good = format!("1 (a) b) S {}100 200 0\n", numbers(44));
        assert_eq!(arguments(good.as_bytes()), Some((100, 200)));
        for bad in ["", "1 (a) S", ")", "1 (a) S 1 2 3"] {
            assert_eq!(arguments(bad.as_bytes()), None, "{bad}");
        }
        for (start, end) in [("0", "9"), ("100", "102"), ("200", "100"), ("x", "100")] {
            let odd = format!("1 (a) S {}{start} {end} 0\n", numbers(44));
            assert_eq!(arguments(odd.as_bytes()), None, "{odd}");
        }
    }
}
