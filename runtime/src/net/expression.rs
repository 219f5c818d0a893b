//! What packet rules are made of: load something into the register, compare it, act.
//!
//! The codec knows the commoner expressions by name; `ct`, `fib`, `nat` and `masq`
//! are written here with the numbers of `linux/netfilter/nf_tables.h`, which are
//! kernel ABI. All of them use one register, so an expression must be compared
//! before the next is loaded.

use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Meta,
    MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

use crate::container::Protocol;

use super::addresses::{Prefix6, Subnet};
use super::publish::number;

/// Where `payload` starts to count: the header of IP, the header behind it.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Offsets in a header of IPv4, of IPv6, and of the destination port in TCP's and UDP's.
const SOURCE_ADDRESS: u32 = 12;
const DESTINATION_ADDRESS: u32 = 16;
const SOURCE_ADDRESS6: u32 = 8;
const DESTINATION_ADDRESS6: u32 = 24;
const DESTINATION_PORT: u32 = 2;
/// Names of interfaces are compared with their padding.
const NAME_BYTES: usize = 16;

/// Connection tracking: attributes, keys, and the bits that we ask for.
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const ESTABLISHED_OR_RELATED: u32 = 0b110;
/// The destination was rewritten by a rule of somebody's.
const DESTINATION_NAT: u32 = 1 << 5;

/// Asking the routing table what kind of address a destination is.
const FIB_DREG: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 1 << 1;
/// One of this host.
const RTN_LOCAL: u32 = 2;

/// Rewriting a destination: attributes, and the kind. Family numbers are netfilter's.
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
const NAT_DESTINATION: u32 = 1;
const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;

/// The kernel's verdicts on packets, beside the jumps of nftables.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// A rule in the making.
#[derive(Debug, Default)]
pub(super) struct Rule(Vec<Expressions>);

/// Whether a condition must hold or must not.
#[derive(Clone, Copy, Debug)]
pub(super) enum Must {
    Be,
    NotBe,
}

impl Rule {
    /// The interface a packet came in by.
    pub(super) fn came_by(self, must: Must, name: &str) -> Self {
        self.load_meta(MetaKey::Iifname).compare(must, padded(name))
    }

    /// The interface it leaves by.
    pub(super) fn leaves_by(self, must: Must, name: &str) -> Self {
        self.load_meta(MetaKey::Oifname).compare(must, padded(name))
    }

    pub(super) fn out_of(self, subnet: Subnet) -> Self {
        self.load(NETWORK_HEADER, SOURCE_ADDRESS, 4).within(Must::Be, subnet)
    }

    pub(super) fn for_subnet(self, must: Must, subnet: Subnet) -> Self {
        self.load(NETWORK_HEADER, DESTINATION_ADDRESS, 4).within(must, subnet)
    }

    pub(super) fn out_of6(self, prefix: Prefix6) -> Self {
        let bytes = prefix.octets().to_vec();
        self.load(NETWORK_HEADER, SOURCE_ADDRESS6, 8).compare(Must::Be, bytes)
    }

    pub(super) fn for_address(self, must: Must, address: IpAddr) -> Self {
        let (offset, bytes) = match address {
            IpAddr::V4(address) => (DESTINATION_ADDRESS, address.octets().to_vec()),
            IpAddr::V6(address) => (DESTINATION_ADDRESS6, address.octets().to_vec()),
        };
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        self.load(NETWORK_HEADER, offset, length).compare(must, bytes)
    }

    /// To any address of this host.
    pub(super) fn for_this_host(mut self) -> Self {
        self.0.push(other(
            "fib",
            &[(FIB_DREG, 1), (FIB_RESULT, FIB_ADDRESS_TYPE), (FIB_FLAGS, FIB_DESTINATION)],
        ));
        self.compare(Must::Be, RTN_LOCAL.to_ne_bytes().to_vec())
    }

    pub(super) fn for_port(self, protocol: Protocol, port: u16) -> Self {
        self.load_meta(MetaKey::L4Proto)
            .compare(Must::Be, vec![number(protocol)])
            .load(TRANSPORT_HEADER, DESTINATION_PORT, 2)
            .compare(Must::Be, port.to_be_bytes().to_vec())
    }

    /// Part of a conversation that was allowed before.
    pub(super) fn known(self) -> Self {
        self.tracked(CT_STATE, ESTABLISHED_OR_RELATED)
    }

    /// Sent to a published port, ours or anybody's.
    pub(super) fn redirected(self) -> Self {
        self.tracked(CT_STATUS, DESTINATION_NAT)
    }

    pub(super) fn drop(self) -> Vec<ListAttribute<ExpressionAttribute>> {
        self.end(vec![VerdictAttribute::Code(Verdict::Other(DROP))])
    }

    pub(super) fn accept(self) -> Vec<ListAttribute<ExpressionAttribute>> {
        self.end(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))])
    }

    pub(super) fn jump(self, chain: &str) -> Vec<ListAttribute<ExpressionAttribute>> {
        let chain = VerdictAttribute::Chain(chain.to_owned());
        self.end(vec![VerdictAttribute::Code(Verdict::Jump), chain])
    }

    /// Gives the packet this host's address on the interface it leaves by.
    pub(super) fn masquerade(mut self) -> Vec<ListAttribute<ExpressionAttribute>> {
        self.0.push(other("masq", &[]));
        self.listed()
    }

    /// Sends it to an address and port instead.
    pub(super) fn redirect(
        mut self,
        address: IpAddr,
        port: u16,
    ) -> Vec<ListAttribute<ExpressionAttribute>> {
        let (family, address) = match address {
            IpAddr::V4(address) => (NFPROTO_IPV4, address.octets().to_vec()),
            IpAddr::V6(address) => (NFPROTO_IPV6, address.octets().to_vec()),
        };
        for (register, bytes) in
            [(Register::Reg1, address), (Register::Reg2, port.to_be_bytes().to_vec())]
        {
            self.0.push(Expressions::Immediate(vec![
                Immediate::DestinationRegister(register),
                Immediate::Data(DataAttribute::Value(bytes)),
            ]));
        }
        self.0.push(other(
            "nat",
            &[
                (NAT_TYPE, NAT_DESTINATION),
                (NAT_FAMILY, family),
                (NAT_ADDRESS, u32::from(Register::Reg1)),
                (NAT_PORT, u32::from(Register::Reg2)),
            ],
        ));
        self.listed()
    }

    fn load(mut self, base: u32, offset: u32, bytes: u32) -> Self {
        self.0.push(Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(bytes),
        ]));
        self
    }

    fn load_meta(mut self, key: MetaKey) -> Self {
        let register = Meta::DestinationRegister(Register::Reg1);
        self.0.push(Expressions::Meta(vec![register, Meta::Key(key)]));
        self
    }

    fn compare(mut self, must: Must, bytes: Vec<u8>) -> Self {
        let operator = match must {
            Must::Be => Operator::Equal,
            Must::NotBe => Operator::NotEqual,
        };
        self.0.push(Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(bytes)),
        ]));
        self
    }

    fn masked(mut self, mask: [u8; 4]) -> Self {
        self.0.push(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(4),
            Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
            Bitwise::Xor(DataAttribute::Value(vec![0; 4])),
        ]));
        self
    }

    fn within(self, must: Must, subnet: Subnet) -> Self {
        self.masked(subnet.mask().octets()).compare(must, subnet.base().octets().to_vec())
    }

    /// Any of these bits of what connection tracking knows.
    fn tracked(mut self, key: u32, bits: u32) -> Self {
        self.0.push(other("ct", &[(CT_DREG, 1), (CT_KEY, key)]));
        self.masked(bits.to_ne_bytes()).compare(Must::NotBe, vec![0; 4])
    }

    fn end(mut self, verdict: Vec<VerdictAttribute>) -> Vec<ListAttribute<ExpressionAttribute>> {
        self.0.push(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ]));
        self.listed()
    }

    fn listed(self) -> Vec<ListAttribute<ExpressionAttribute>> {
        self.0.into_iter().map(ListAttribute::from).collect()
    }
}

/// An expression that the codec has no type for: big-endian numbers all.
fn other(name: &str, numbers: &[(u16, u32)]) -> Expressions {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes: numbers
            .iter()
            .map(|(kind, number)| DefaultNla::new(*kind, number.to_be_bytes().to_vec()))
            .collect(),
    }
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_BYTES, 0);
    bytes
}
