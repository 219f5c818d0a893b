//! Which addresses the containers of a host get, and who has which.
//!
//! Pure. A subnet is chosen once, so that it hides nothing that the host can reach
//! already; addresses go round in it, so that one just given up is the last to be
//! given out again, and a client with an old answer does not meet a stranger.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where containers live if the host has no route there yet, in order. The first is
/// what people who know container hosts expect; then some far from it, for hosts
/// whose company routes all of 10.0.0.0/8; the last is for those that route all private
/// ranges: it is set apart for measuring networks (RFC 2544), which nobody reaches.
const CANDIDATES: [Subnet; 14] = [
    candidate([10, 88]),
    candidate([10, 89]),
    candidate([10, 90]),
    candidate([10, 91]),
    candidate([10, 92]),
    candidate([10, 93]),
    candidate([10, 94]),
    candidate([10, 95]),
    candidate([172, 28]),
    candidate([172, 29]),
    candidate([172, 30]),
    candidate([172, 31]),
    candidate([192, 168]),
    candidate([198, 19]),
];

const fn candidate([a, b]: [u8; 2]) -> Subnet {
    Subnet { base: u32::from_be_bytes([a, b, 0, 0]), prefix: 16 }
}

/// Smallest useful subnet: a gateway, and more than a handful of containers.
const PREFIX_MAX: u8 = 28;
/// Larger ones are a typing error; the names of our interfaces have room for this.
const PREFIX_MIN: u8 = 12;

/// A range of IPv4 addresses; the first is the host's own, the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// Text that is no subnet for containers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no subnet for containers: write it like 10.88.0.0/16, with a prefix length \
         of {PREFIX_MIN} to {PREFIX_MAX} and no address bits behind it"
)]
pub struct BadSubnet {
    /// What was given.
    pub given: String,
}

impl Subnet {
    /// The range around an address, of this prefix length (0 to 32).
    pub(super) fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: u32::from(address) & mask(prefix), prefix }
    }

    /// How many leading bits all its addresses share.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Its lowest address, which names it.
    pub fn base(self) -> Ipv4Addr {
        self.base.into()
    }

    /// The host's address in it.
    pub fn gateway(self) -> Ipv4Addr {
        self.nth(1)
    }

    /// Its highest address, which means all of them.
    pub(super) fn last(self) -> Ipv4Addr {
        self.nth(!mask(self.prefix))
    }

    pub(super) fn mask(self) -> Ipv4Addr {
        mask(self.prefix).into()
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.base & shorter == other.base & shorter
    }

    /// What of an address tells it from others in here.
    pub(super) fn number(self, address: Ipv4Addr) -> u32 {
        u32::from(address) & !mask(self.prefix)
    }

    pub(super) fn nth(self, number: u32) -> Ipv4Addr {
        (self.base | number).into()
    }

    /// The next address after number `last` that nobody holds, and its number; none
    /// when all are taken. The first is the gateway's, the outermost two are special.
    pub(super) fn free(self, last: u32, held: &BTreeSet<Ipv4Addr>) -> Option<(u32, Ipv4Addr)> {
        let end = !mask(self.prefix);
        let after = last.clamp(1, end);
        (after + 1..end)
            .chain(2..=after.min(end - 1))
            .map(|number| (number, self.nth(number)))
            .find(|(_, address)| !held.contains(address))
    }
}

/// The first candidate that covers nothing of what the host reaches already; behind the
/// candidates any part of 10.0.0.0/8.
pub(super) fn choose(routes: &[Subnet]) -> Option<Subnet> {
    let rest = (0..=u8::MAX).map(|part| candidate([10, part]));
    let free = |subnet: &Subnet| !routes.iter().any(|route| route.overlaps(*subnet));
    CANDIDATES.into_iter().chain(rest).find(free)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        text.split_once('/')
            .and_then(|(base, prefix)| {
                let (base, prefix) = (base.parse().ok()?, prefix.parse().ok()?);
                let subnet = Self::around(base, prefix);
                let sound = (PREFIX_MIN..=PREFIX_MAX).contains(&prefix) && subnet.base() == base;
                sound.then_some(subnet)
            })
            .ok_or_else(|| BadSubnet { given: text.to_owned() })
    }
}

/// A range of IPv6 addresses of this host's own: local ones (RFC 4193) with 64 bits for
/// containers, which leave the host behind its own address only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix6([u8; 8]);

impl Prefix6 {
    /// How many leading bits its addresses share.
    pub(super) const BITS: u8 = 64;

    /// The one that belongs to this text: `fd`, forty bits that look random, no subnet.
    pub(super) fn of(text: &str) -> Self {
        // FNV-1a of 64 bits, folded: nobody gains by finding another text of one range.
        let mixed = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [a, b, c, d, e, f, g, h] = mixed.to_be_bytes();
        Self([0xfd, a ^ f, b ^ g, c ^ h, d, e, 0, 0])
    }

    /// The range around an address of it, if that is a local one.
    pub(super) fn around(address: Ipv6Addr) -> Option<Self> {
        let [first @ 0xfd, b, c, d, e, f, g, h, ..] = address.octets() else { return None };
        Some(Self([first, b, c, d, e, f, g, h]))
    }

    /// What all its addresses begin with.
    pub(super) fn octets(self) -> [u8; 8] {
        self.0
    }

    pub(super) fn nth(self, number: u32) -> Ipv6Addr {
        let bits = (u128::from(u64::from_be_bytes(self.0)) << 64) | u128::from(number);
        bits.into()
    }

    /// The host's address in it.
    pub(super) fn gateway(self) -> Ipv6Addr {
        self.nth(1)
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.nth(0), Self::BITS)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one that belongs to an address: whoever remembers either is right about
    /// both, however often the address changes hands. Locally administered.
    pub(super) fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x53, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("it parses")
    }

    #[test]
    fn a_subnet_prints_what_it_parses_and_refuses_the_rest() {
        for text in ["10.88.0.0/16", "192.168.4.0/24", "172.16.0.0/12", "10.0.0.16/28"] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for text in ["10.88.0.1/16", "10.0.0.0/8", "10.0.0.0/29", "10.88.0.0", "x/16", "1.2.3/16"] {
            assert_eq!(text.parse::<Subnet>(), Err(BadSubnet { given: text.to_owned() }));
        }
    }

    #[test]
    fn a_hosts_own_range_of_six_is_local_and_no_other_hosts() {
        let (one, two) = (Prefix6::of("machine-1 a"), Prefix6::of("machine-2 a"));
        assert_ne!(one, two);
        assert_eq!(one.gateway().octets()[0], 0xfd);
        assert_eq!(Prefix6::around(one.nth(0x105)), Some(one));
        assert_eq!(Prefix6::around(Ipv6Addr::LOCALHOST), None);
        assert!(one.nth(0x105).to_string().ends_with("::105"), "{one}");
        assert!(one.to_string().ends_with("::/64"), "{one}");
    }

    #[test]
    fn the_subnet_chosen_hides_nothing_the_host_reaches() {
        assert_eq!(choose(&[]), Some(subnet("10.88.0.0/16")));
        assert_eq!(choose(&[subnet("10.88.4.0/24")]), Some(subnet("10.89.0.0/16")));
        let all_of_ten = Subnet::around(Ipv4Addr::new(10, 0, 0, 0), 8);
        assert_eq!(choose(&[all_of_ten]), Some(subnet("172.28.0.0/16")));
        let private = [all_of_ten, subnet("172.16.0.0/12"), subnet("192.168.0.0/16")];
        assert_eq!(choose(&private), Some(subnet("198.19.0.0/16")));
        assert_eq!(choose(&CANDIDATES), Some(subnet("10.0.0.0/16")));
        assert_eq!(choose(&[Subnet::around(Ipv4Addr::UNSPECIFIED, 0)]), None);
    }

    #[test]
    fn an_address_in_use_is_never_given_out_and_one_given_up_comes_last() {
        let small = subnet("10.0.0.0/28");
        let (mut held, mut last) = (BTreeSet::new(), 0);
        for expected in 2..=14 {
            let (number, address) = small.free(last, &held).expect("done");
            assert_eq!((number, address), (expected, Ipv4Addr::new(10, 0, 0, expected as u8)));
            assert!(held.insert(address));
            last = number;
        }
        assert_eq!(small.free(last, &held), None, "all thirteen are taken");
        held.remove(&small.nth(5));
        assert_eq!(small.free(last, &held), Some((5, small.nth(5))));
        held.remove(&small.nth(9));
        assert_eq!(small.free(5, &held), Some((9, small.nth(9))), "5 was just given up");
    }
}
