//! One netlink socket: requests with their answers, and dumps.
//!
//! Blocking on purpose. Every answer is made by the kernel inside the call that
//! asks for it, so there is nothing to wait for and no reactor to trouble; the
//! receive timeout is only a guard against a kernel that forgets.
//!
//! A socket belongs for ever to the network namespace of the thread that opened
//! it. That is how we work inside a container: a thread goes there, opens a
//! socket, and the socket comes back without it.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The kernel answers within the call; this long only if it is broken.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// A dump that was overtaken by a change is asked for again this often.
const DUMP_TRIES: usize = 8;

/// Message types of every netlink family: `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The dump is inconsistent: something changed while it was made.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The answer repeats only the header of the request.
const NLM_F_CAPPED: u16 = 0x100;
/// The answer carries attributes behind the request.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The attribute with the kernel's sentence about an error.
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER_BYTES: usize = 16;

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket could not be opened, written or read.
    #[error("cannot talk to the kernel's network configuration")]
    Socket(#[source] io::Error),
    /// The kernel refused; `said` is its own explanation, if it gave one.
    #[error("the kernel refused{}", explained(said))]
    Refused {
        /// Its words, often none.
        said: String,
        /// Its error number.
        source: io::Error,
    },
    /// What it sent is not netlink.
    #[error("the kernel's answer makes no sense")]
    Garbled,
    /// A dump kept changing under our eyes.
    #[error("the network configuration changes faster than it can be read")]
    Restless,
}

fn explained(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

impl WireError {
    /// Whether the kernel refused with one of these error numbers.
    pub(super) fn is(&self, codes: &[i32]) -> bool {
        matches!(self, Self::Refused { source, .. }
            if source.raw_os_error().is_some_and(|code| codes.contains(&code)))
    }
}

/// One message of a dump: its type and what follows the netlink header.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

/// A netlink socket of one family, in one network namespace.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    sequence: u32,
}

impl Wire {
    /// Opens a socket in the calling thread's network namespace; `protocol` is one
    /// of `netlink_sys::protocols`.
    pub(super) fn open(protocol: isize) -> Result<Self, WireError> {
        let connect = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(ANSWER_WAIT))?;
            // Both only make refusals more readable; old kernels lack them.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            Ok(socket)
        };
        Ok(Self { socket: connect().map_err(WireError::Socket)?, sequence: 0 })
    }

    /// Asks for one thing, and waits for the kernel's yes or no.
    pub(super) fn ask<M: NetlinkSerializable>(
        &mut self,
        flags: u16,
        message: M,
    ) -> Result<(), WireError> {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, flags | NLM_F_ACK, message);
        self.send(&bytes)?;
        self.answers(sequence, sequence, 1)
    }

    /// Asks for several things that happen all or not at all: nftables' batches,
    /// which `begin` and `end` enclose.
    pub(super) fn ask_together<M: NetlinkSerializable>(
        &mut self,
        begin: M,
        messages: Vec<(u16, M)>,
        end: M,
    ) -> Result<(), WireError> {
        let mut bytes = Vec::new();
        let count = messages.len();
        let first = self.append(&mut bytes, 0, begin);
        for (flags, message) in messages {
            self.append(&mut bytes, flags | NLM_F_ACK, message);
        }
        let last = self.append(&mut bytes, 0, end);
        self.send(&bytes)?;
        self.answers(first, last, count)
    }

    /// Everything the kernel lists when asked with this message.
    pub(super) fn dump<M: NetlinkSerializable + Clone>(
        &mut self,
        message: &M,
    ) -> Result<Vec<Heard>, WireError> {
        for _ in 0..DUMP_TRIES {
            let mut bytes = Vec::new();
            let sequence = self.append(&mut bytes, NLM_F_DUMP, message.clone());
            self.send(&bytes)?;
            if let Some(listed) = self.listing(sequence)? {
                return Ok(listed);
            }
        }
        Err(WireError::Restless)
    }

    fn append<M: NetlinkSerializable>(
        &mut self,
        bytes: &mut Vec<u8>,
        flags: u16,
        message: M,
    ) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut whole = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        whole.finalize();
        let start = bytes.len();
        bytes.resize(start + whole.buffer_len().next_multiple_of(4), 0);
        whole.serialize(&mut bytes[start..]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), WireError> {
        self.socket.send(bytes, 0).map(drop).map_err(WireError::Socket)
    }

    /// Waits for `count` answers to requests numbered `first..=last`. A refusal of
    /// the first itself is the last word on all of them.
    fn answers(&mut self, first: u32, last: u32, count: usize) -> Result<(), WireError> {
        let (mut left, mut refusal) = (count, None);
        while left > 0 {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                let message = message?;
                let number = message.sequence_number();
                // Answers to an earlier request that we gave up on.
                if message.message_type() != NLMSG_ERROR || !(first..=last).contains(&number) {
                    continue;
                }
                let answer = verdict(&message);
                left = left.saturating_sub(1);
                if number == first && answer.is_err() {
                    left = 0;
                }
                refusal = refusal.or(answer.err());
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn listing(&mut self, sequence: u32) -> Result<Option<Vec<Heard>>, WireError> {
        let (mut listed, mut steady) = (Vec::new(), true);
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                let message = message?;
                if message.sequence_number() != sequence {
                    continue;
                }
                steady &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_DONE => return Ok(steady.then_some(listed)),
                    NLMSG_ERROR => {
                        verdict(&message)?;
                    }
                    kind => listed.push(Heard { kind, body: message.payload().to_vec() }),
                }
            }
        }
    }

    fn receive(&self) -> Result<Vec<u8>, WireError> {
        self.socket.recv_from_full().map(|(bytes, _)| bytes).map_err(WireError::Socket)
    }
}

/// The messages of one datagram.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, WireError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.len() < HEADER_BYTES {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(rest) else {
            rest = &[];
            return Some(Err(WireError::Garbled));
        };
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(message))
    })
}

/// What an answer says: an error number, zero for yes, then what was asked, then
/// perhaps a sentence.
fn verdict(message: &NetlinkBuffer<&[u8]>) -> Result<(), WireError> {
    let body = message.payload();
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Err(WireError::Garbled);
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(code.saturating_neg());
    let said = (message.flags() & (NLM_F_ACK_TLVS | NLM_F_CAPPED) == NLM_F_ACK_TLVS | NLM_F_CAPPED)
        .then(|| NlasIterator::new(rest.get(HEADER_BYTES..).unwrap_or_default()))
        .and_then(|mut all| {
            all.find_map(|one| one.ok().filter(|one| one.kind() == NLMSGERR_ATTR_MSG))
        })
        .map(|text| String::from_utf8_lossy(text.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    Err(WireError::Refused { said, source })
}
