//! Who waits for an order, on a page that the keeper and all supervisors share.
//!
//! A waiting supervisor has a seat with its process id in it. That is all there is:
//! no counter that a killed process could leave wrong, since the keeper empties the
//! seats of the dead when it reaps them.

#![allow(unsafe_code, reason = "shared memory has no safe form; each block argues its case")]

use std::io;
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

use rustix::process::Pid;

/// Most supervisors that wait. A few dozen pages each; one that ends its task and
/// finds no seat leaves.
const SEATS: usize = 16;

/// A seat kept for a supervisor that is being forked.
const RESERVED: i32 = -1;

#[derive(Debug)]
struct Board {
    seats: [AtomicI32; SEATS],
    leaving: AtomicBool,
}

/// The page, for the life of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seats(&'static Board);

/// The number of a seat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat(usize);

impl Seats {
    /// Empty seats, shared with every later fork of this process.
    pub(crate) fn set_up() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping overlaps nothing.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Board>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is page-aligned, large enough, zeroed (a valid value of
        // every field) and never unmapped; all its fields are atomic, so processes and
        // threads may share it.
        Ok(Self(unsafe { &*page.cast::<Board>() }))
    }

    fn exchange(self, at: usize, from: i32, to: i32) -> bool {
        self.0
            .seats
            .get(at)
            .is_some_and(|seat| seat.compare_exchange(from, to, SeqCst, SeqCst).is_ok())
    }

    fn take(self, holder: i32) -> Option<Seat> {
        (0..SEATS).find(|at| self.exchange(*at, 0, holder)).map(Seat)
    }

    /// Keeps a seat for a process that is about to be.
    pub(crate) fn reserve(self) -> Option<Seat> {
        self.take(RESERVED)
    }

    /// Puts the process for which it was kept into a seat; both sides of the fork may.
    pub(crate) fn confirm(self, Seat(at): Seat, pid: Pid) {
        self.exchange(at, RESERVED, pid.as_raw_nonzero().get());
    }

    /// A seat for a process that comes back from its work.
    pub(crate) fn sit(self, pid: Pid) -> Option<Seat> {
        self.take(pid.as_raw_nonzero().get())
    }

    /// Empties a seat that the caller holds.
    pub(crate) fn rise(self, Seat(at): Seat) {
        if let Some(seat) = self.0.seats.get(at) {
            seat.store(0, SeqCst);
        }
    }

    /// Empties the seat of a dead process.
    pub(crate) fn vacate(self, pid: Pid) {
        (0..SEATS).for_each(|at| {
            self.exchange(at, pid.as_raw_nonzero().get(), 0);
        });
    }

    /// How many wait, or soon will.
    pub(crate) fn taken(self) -> usize {
        self.0.seats.iter().filter(|seat| seat.load(SeqCst) != 0).count()
    }

    /// Whether the keeper was asked to leave, and no launch came since.
    pub(crate) fn is_leaving(self) -> bool {
        self.0.leaving.load(SeqCst)
    }

    pub(crate) fn set_leaving(self, leaving: bool) {
        self.0.leaving.store(leaving, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_one_processes_until_it_rises_or_dies() {
        let seats = Seats::set_up().expect("a page");
        let pid = |number| Pid::from_raw(number).expect("a pid");
        let kept = seats.reserve().expect("a seat");
        assert_eq!(seats.taken(), 1);
        seats.confirm(kept, pid(5));
        seats.confirm(kept, pid(6));
        seats.vacate(pid(6));
        assert_eq!(seats.taken(), 1);
        seats.vacate(pid(5));
        assert_eq!(seats.taken(), 0);
        let all: Vec<_> = std::iter::from_fn(|| seats.sit(pid(7))).collect();
        assert_eq!(all.len(), SEATS);
        seats.rise(all[3]);
        assert!(seats.reserve().is_some() && seats.reserve().is_none());
    }
}
