//! A learning switch of perfect ports and faulty links, without its sockets.
//!
//! A frame comes in at a port; the mesh finds where it goes (learned address,
//! or every other port), asks the link of that direction for its fate, and
//! either hands it on at once or keeps it until it is due.
//!
//! Must never grow without bound, whatever is sent: held frames, their bytes
//! and learned addresses are limited. Holds no clock and no randomness but
//! its seed, and does no I/O: the caller lends the time and takes the frames.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::link::{Arrival, Dice, Faults, Link, Nanos};

/// What precedes each frame: the kernel's note about checksums and segments.
pub const PREFIX_BYTES: usize = 10;
/// Two addresses and a type.
const ETHERNET_BYTES: usize = 14;
/// No frame is shorter than its headers.
pub const FRAME_BYTES_MIN: usize = PREFIX_BYTES + ETHERNET_BYTES;
/// All frames held back together: a minute of a slow fabric, a tenth of a second of a fast one.
const HELD_BYTES_MAX: usize = 128 << 20;
/// Addresses remembered; a host has one, and a few more if its tasks bridge.
const LEARNED_MAX: usize = 4_096;

/// A host's address on the fabric.
pub type Mac = [u8; 6];

/// Takes a frame that leaves by a port.
pub type Send<'a> = &'a mut dyn FnMut(usize, &[u8]);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    // Ordered by time, then by order of departure.
    at: Nanos,
    number: u64,
    from: usize,
    to: usize,
    severed: u32,
    frame: Vec<u8>,
}

/// The fabric between `ports` hosts.
#[derive(Debug)]
pub struct Mesh {
    ports: usize,
    links: Vec<Link>,
    dice: Dice,
    learned: BTreeMap<Mac, usize>,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    departed: u64,
}

impl Mesh {
    /// A fabric whose every direction has the same faults.
    pub fn new(ports: usize, seed: u64, faults: Faults) -> Self {
        Self {
            ports,
            links: vec![Link::new(faults); ports * ports],
            dice: Dice::seeded(seed),
            learned: BTreeMap::new(),
            held: BinaryHeap::new(),
            held_bytes: 0,
            departed: 0,
        }
    }

    /// Tells beforehand who is at a port, so that nobody is flooded with what
    /// is meant for a host that has not spoken yet.
    pub fn teach(&mut self, mac: Mac, port: usize) {
        self.learn(mac, port);
    }

    /// The direction from one port to another.
    pub fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from * self.ports + to]
    }

    /// The direction from one port to another, to be changed.
    pub fn link_mut(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.ports + to]
    }

    /// When the next held frame is due.
    pub fn deadline(&self) -> Option<Nanos> {
        self.held.peek().map(|Reverse(next)| next.at)
    }

    /// Takes in a frame (prefix included) that came from a host.
    pub fn carry(&mut self, now: Nanos, from: usize, frame: &[u8], send: Send<'_>) {
        let Some((to, by)) = addresses(frame) else {
            return; // A runt: nothing a host's kernel sends.
        };
        self.learn(by, from);
        match self.learned.get(&to) {
            Some(&port) if port == from => {}
            Some(&port) => self.hop(now, from, port, frame, send),
            None => (0..self.ports)
                .filter(|&port| port != from)
                .for_each(|port| self.hop(now, from, port, frame, send)),
        }
    }

    /// Hands on every held frame that is due.
    pub fn deliver_due(&mut self, now: Nanos, send: Send<'_>) {
        while self.deadline().is_some_and(|at| at <= now) {
            let Some(Reverse(due)) = self.held.pop() else {
                return;
            };
            self.held_bytes -= due.frame.len();
            let link = self.link_mut(due.from, due.to);
            if link.release(due.severed) {
                link.delivered();
                send(due.to, &due.frame);
            }
        }
    }

    fn hop(&mut self, now: Nanos, from: usize, to: usize, frame: &[u8], send: Send<'_>) {
        let link = &mut self.links[from * self.ports + to];
        let fate = link.offer(now, &mut self.dice, frame.len(), FRAME_BYTES_MIN);
        for Arrival { at, flip } in fate.into_iter().flatten() {
            if at <= now && flip.is_none() {
                link.delivered();
                send(to, frame);
                continue;
            }
            if self.held_bytes + frame.len() > HELD_BYTES_MAX {
                link.overflowed();
                continue;
            }
            let mut frame = frame.to_vec();
            if let Some(bit) = flip {
                frame[bit / 8] ^= 1 << (bit % 8);
            }
            link.hold();
            self.held_bytes += frame.len();
            self.departed += 1;
            self.held.push(Reverse(Held {
                at,
                number: self.departed,
                from,
                to,
                severed: link.severed(),
                frame,
            }));
        }
    }

    fn learn(&mut self, mac: Mac, port: usize) {
        let known = self.learned.contains_key(&mac);
        if !is_group(mac) && (known || self.learned.len() < LEARNED_MAX) {
            self.learned.insert(mac, port);
        }
    }
}

/// Receiver and sender of a frame.
fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    let ethernet = frame.get(PREFIX_BYTES..FRAME_BYTES_MIN)?;
    let (to, rest) = ethernet.split_first_chunk()?;
    Some((*to, *rest.first_chunk()?))
}

fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::super::amount::{Chance, Span};
    use super::super::link::Change;
    use super::*;

    const EVERYONE: Mac = [0xff; 6];

    fn mac(host: u8) -> Mac {
        [2, 0, 0, 0, 0, host]
    }

    fn frame(to: Mac, by: Mac, body: u8) -> Vec<u8> {
        [&[0; PREFIX_BYTES][..], &to, &by, &[8, 0], &[body; 40]].concat()
    }

    /// Carries one frame and lists the ports it left by.
    fn carry(mesh: &mut Mesh, from: usize, frame: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        mesh.carry(0, from, frame, &mut |port, _| out.push(port));
        out
    }

    #[test]
    fn an_unknown_receiver_is_flooded_and_a_learned_one_is_not() {
        let mut mesh = Mesh::new(3, 1, Faults::default());
        assert_eq!(carry(&mut mesh, 0, &frame(mac(1), mac(0), 1)), [1, 2]);
        assert_eq!(carry(&mut mesh, 1, &frame(mac(0), mac(1), 1)), [0]);
        assert_eq!(carry(&mut mesh, 0, &frame(mac(1), mac(0), 1)), [1]);
        assert_eq!(carry(&mut mesh, 2, &frame(EVERYONE, mac(2), 1)), [0, 1]);
        assert_eq!(carry(&mut mesh, 0, &frame(mac(0), mac(0), 1)), [0; 0], "never back");
    }

    #[test]
    fn a_taught_address_is_never_flooded() {
        let mut mesh = Mesh::new(3, 1, Faults::default());
        mesh.teach(mac(1), 1);
        assert_eq!(carry(&mut mesh, 0, &frame(mac(1), mac(0), 1)), [1]);
    }

    #[test]
    fn a_group_address_is_never_learned_and_runts_are_ignored() {
        let mut mesh = Mesh::new(3, 1, Faults::default());
        carry(&mut mesh, 1, &frame(mac(0), EVERYONE, 1));
        assert_eq!(carry(&mut mesh, 0, &frame(EVERYONE, mac(0), 1)), [1, 2]);
        assert_eq!(carry(&mut mesh, 0, &[0; FRAME_BYTES_MIN - 1]), [0; 0]);
    }

    #[test]
    fn learned_addresses_are_bounded() {
        let mut mesh = Mesh::new(2, 1, Faults::default());
        for number in 0..u32::try_from(LEARNED_MAX).expect("small") + 100 {
            let [a, b, c, d] = number.to_be_bytes();
            carry(&mut mesh, 0, &frame(EVERYONE, [2, 1, a, b, c, d], 1));
        }
        assert_eq!(mesh.learned.len(), LEARNED_MAX);
    }

    #[test]
    fn delayed_frames_come_out_in_order_of_time() {
        let mut mesh = Mesh::new(2, 1, Faults::default());
        let late = Change { delay: Span::of_micros(5), ..Change::default() };
        mesh.link_mut(0, 1).set(late.applied_to(Faults::default()));
        for (now, body) in [(0, 1), (1_000, 2)] {
            mesh.carry(now, 0, &frame(mac(1), mac(0), body), &mut |_, _| {
                panic!("nothing leaves at once")
            });
        }
        assert_eq!(mesh.deadline(), Some(5_000));
        let mut out = Vec::new();
        mesh.deliver_due(4_999, &mut |_, _| panic!("nothing is due"));
        mesh.deliver_due(6_000, &mut |_, frame| out.push(frame[FRAME_BYTES_MIN]));
        assert_eq!(out, [1, 2]);
        assert_eq!((mesh.deadline(), mesh.held_bytes), (None, 0));
    }

    #[test]
    fn a_cut_is_one_direction_of_one_pair() {
        let mut mesh = Mesh::new(3, 1, Faults::default());
        mesh.link_mut(0, 1).set(Change::CUT.applied_to(Faults::default()));
        assert_eq!(carry(&mut mesh, 0, &frame(EVERYONE, mac(0), 1)), [2]);
        assert_eq!(carry(&mut mesh, 1, &frame(EVERYONE, mac(1), 1)), [0, 2]);
        assert_eq!(mesh.link(0, 1).tally().cut, 1);
    }

    #[test]
    fn a_corrupted_frame_differs_in_one_bit_behind_its_addresses() {
        let mut mesh = Mesh::new(2, 1, Faults::default());
        let corrupt = Change { corrupt: Chance::of_ppm(1_000_000), ..Change::default() };
        mesh.link_mut(0, 1).set(corrupt.applied_to(Faults::default()));
        let sent = frame(mac(1), mac(0), 0);
        let mut came = Vec::new();
        mesh.carry(0, 0, &sent, &mut |_, _| panic!("held until due"));
        mesh.deliver_due(0, &mut |_, frame| came = frame.to_vec());
        let turned: u32 = sent.iter().zip(&came).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(turned, 1);
        assert_eq!(sent[..FRAME_BYTES_MIN], came[..FRAME_BYTES_MIN]);
    }
}
