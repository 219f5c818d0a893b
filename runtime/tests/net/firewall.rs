//! Somebody else's firewall, as Docker and ufw leave it: written with the codecs and not
//! with `nft`, which need not be installed.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, HookNumber,
    InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Register,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
/// Batches are addressed to the nftables subsystem by its number.
const NFTABLES: u16 = 10;

/// A chain on the way of forwarded packets that drops them all.
pub(crate) fn drop_forwarded() {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    let hook = Hook::Number(HookNumber::Inet(InetHookNumber::Forward));
    let attributes = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(CHAIN.to_owned()),
        ChainAttribute::Hook(vec![hook, Hook::Priority(0)]),
        ChainAttribute::Type("filter".to_owned()),
        ChainAttribute::Policy(0),
    ];
    let chain = NfTablesMessage::NewChain(ChainMessage { attributes });
    write(vec![NfTablesMessage::NewTable(table), chain]);
}

/// A rule in it that speaks of an interface.
pub(crate) fn accept_from(interface: &str) {
    let mut name = interface.as_bytes().to_vec();
    name.resize(16, 0);
    let register = Meta::DestinationRegister(Register::Reg1);
    let expressions = [
        Expressions::Meta(vec![register, Meta::Key(MetaKey::Iifname)]),
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(name)),
        ]),
    ];
    let attributes = vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(CHAIN.to_owned()),
        RuleAttribute::Expressions(expressions.map(ListAttribute::from).to_vec()),
    ];
    write(vec![NfTablesMessage::NewRule(RuleMessage { attributes })]);
}

/// Removes all rules for IPv4.
pub(crate) fn flush() {
    flush_family(NetfilterProtoFamily::IPv4);
}

/// Removes all rules, as `nft flush ruleset` does.
pub(crate) fn flush_all() {
    flush_family(NetfilterProtoFamily::Unspec);
}

fn flush_family(family: NetfilterProtoFamily) {
    let all = NfTablesMessage::DeleteTable(TableMessage { attributes: Vec::new() });
    write_for(family, vec![all]);
}

/// Removes all rules of one chain of a table.
pub(crate) fn flush_chain(table: &str, chain: &str) {
    let attributes =
        vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())];
    write(vec![NfTablesMessage::DeleteRule(RuleMessage { attributes })]);
}

fn write(messages: Vec<NfTablesMessage>) {
    write_for(NetfilterProtoFamily::IPv4, messages);
}

fn write_for(family: NetfilterProtoFamily, messages: Vec<NfTablesMessage>) {
    let mark = |which| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
        (0, NetfilterMessage::new(header, NetfilterMessageInner::None(which)))
    };
    let mut batch = vec![mark(ControlMessage::BatchBegin)];
    let asked = messages.len();
    batch.extend(messages.into_iter().map(|message| {
        let header = NetfilterHeader::new(family, 0, 0);
        (NLM_F_CREATE | NLM_F_ACK, NetfilterMessage::new(header, message))
    }));
    batch.push(mark(ControlMessage::BatchEnd));
    let mut bytes = Vec::new();
    for (flags, message) in batch {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut whole = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        whole.finalize();
        let start = bytes.len();
        bytes.resize(start + whole.buffer_len().next_multiple_of(4), 0);
        whole.serialize(&mut bytes[start..]);
    }
    let mut socket = Socket::new(NETLINK_NETFILTER).expect("a socket");
    socket.bind_auto().expect("bound");
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).expect("sent");
    for _ in 0..asked {
        let (answer, _) = socket.recv_from_full().expect("an answer");
        assert_eq!(answer[16..20], [0; 4], "the kernel refused");
    }
}
