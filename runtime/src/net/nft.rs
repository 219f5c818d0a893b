//! Our table of packet rules, written and read over netlink.
//!
//! ```text
//! prerouting  not to 127/8, to this host ─┐
//! output      to this host ───────────────┴─▶ publish: one rule per published port
//! postrouting from the bridge outward, from 127/8 inward, redirected within: masquerade
//! forward     to the bridge from outside: only what was asked for or redirected
//! shield      from the bridge to 127/8: drop
//! ```
//!
//! The `nft` program is not needed and not run. Everything lies in one table of
//! ours, so nobody's rules are touched and all of ours go at once. Every change is
//! one batch: it happens whole or not at all, also if we die while asking for it.
//!
//! Publishing to 127.0.0.1 needs `route_localnet`, which opens the host's loopback
//! to its neighbours if it is set carelessly (CVE-2020-8558). So it is set on our
//! bridge alone, the shield drops what containers send to 127/8, and no packet from
//! elsewhere that claims to go to 127/8 is ever redirected into a container.
//!
//! A rule of a task says in its comment whose it is and which port it takes: what
//! the kernel holds is the only list of what is published, so a crash cannot make
//! the two differ.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NlaBuffer, NlasIterator, Parseable};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ExpressionAttribute, Hook, HookNumber, InetHookNumber,
    ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::container::Protocol;

use super::addresses::Subnet;
use super::expression::{Must, Rule};
use super::plan::Redirect;
use super::wire::{Heard, Wire, WireError};

/// Batches are addressed to the nftables subsystem by its number.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// The generic header of netfilter messages: family, version, resource.
const HEADER_BYTES: usize = 4;
/// Comments are an attribute of user data: kind 0, one byte of length, text and NUL.
const COMMENT: u8 = 0;

const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";
const FORWARD: &str = "forward";
const SHIELD: &str = "shield";
const PUBLISH: &str = "publish";

/// When our chains see a packet, by the names that `nft` gives these numbers:
/// `raw` is before connection tracking.
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// How many rules of ours are no task's.
const OWN_RULES: usize = 9;

type Batch = Vec<(u16, NetfilterMessage)>;

/// A rule of a task, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) task: String,
    pub(super) protocol: Protocol,
    pub(super) at: Option<Ipv4Addr>,
    pub(super) host_port: u16,
    /// The kernel's name for the rule.
    pub(super) handle: u64,
}

impl Published {
    /// Whether it is what a redirect says, but for where that leads.
    pub(super) fn is_of(&self, wanted: &Redirect) -> bool {
        let Redirect { protocol, at, host_port, .. } = *wanted;
        (self.protocol, self.at, self.host_port) == (protocol, at, host_port)
    }
}

/// A base chain of somebody's on the way of forwarded IPv4 packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForwardChain {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) drops: bool,
}

/// Makes the table, or puts right what is there; leaves published ports alone.
pub(super) fn make_table(
    wire: &mut Wire,
    table: &str,
    bridge: &str,
    subnet: Subnet,
) -> Result<(), WireError> {
    use InetHookNumber::{Forward, LocalOut, PostRouting, PreRouting};
    let mut batch = vec![(NLM_F_CREATE, table_message(table))];
    batch.push(chain(table, PUBLISH, None));
    for (name, kind, hook, priority) in [
        (PREROUTING, "nat", PreRouting, DSTNAT),
        (OUTPUT, "nat", LocalOut, DSTNAT),
        (POSTROUTING, "nat", PostRouting, SRCNAT),
        (FORWARD, "filter", Forward, FILTER),
        (SHIELD, "filter", PreRouting, RAW),
    ] {
        batch.push(chain(table, name, Some((kind, hook, priority))));
        batch.push((0, rules_of(table, name, None)));
    }
    for (name, expressions) in own_rules(bridge, subnet) {
        batch.push(rule(table, name, expressions, None));
    }
    commit(wire, batch)
}

type Expressions = Vec<ListAttribute<ExpressionAttribute>>;

/// All rules that do not belong to a task, each with its chain.
fn own_rules(bridge: &str, subnet: Subnet) -> [(&'static str, Expressions); OWN_RULES] {
    let loopback = Subnet::around(Ipv4Addr::LOCALHOST, 8);
    let inward = || Rule::default().came_by(Must::NotBe, bridge).leaves_by(Must::Be, bridge);
    [
        (
            PREROUTING,
            Rule::default().for_subnet(Must::NotBe, loopback).for_this_host().jump(PUBLISH),
        ),
        (OUTPUT, Rule::default().for_this_host().jump(PUBLISH)),
        (POSTROUTING, Rule::default().out_of(subnet).leaves_by(Must::NotBe, bridge).masquerade()),
        (POSTROUTING, Rule::default().out_of(loopback).leaves_by(Must::Be, bridge).masquerade()),
        (
            POSTROUTING,
            Rule::default().out_of(subnet).leaves_by(Must::Be, bridge).redirected().masquerade(),
        ),
        (FORWARD, inward().known().accept()),
        (FORWARD, inward().redirected().accept()),
        (FORWARD, inward().drop()),
        (SHIELD, Rule::default().came_by(Must::Be, bridge).for_subnet(Must::Be, loopback).drop()),
    ]
}

/// Whether the table has all the rules that do not belong to a task. They are counted,
/// not read: who removes rules removes them by the chain, the table, or all at once.
pub(super) fn is_whole(wire: &mut Wire, table: &str) -> Result<bool, WireError> {
    let listed = rules(wire, vec![RuleAttribute::Table(table.to_owned())])?;
    let own = listed.iter().filter(|heard| {
        let all: Vec<_> =
            attributes(heard).filter_map(|one| RuleAttribute::parse(&one).ok()).collect();
        all.contains(&RuleAttribute::Table(table.to_owned()))
            && !all.contains(&RuleAttribute::Chain(PUBLISH.to_owned()))
    });
    Ok(own.count() == OWN_RULES)
}

/// The rules that these name; none where there is no such table.
fn rules(wire: &mut Wire, attributes: Vec<RuleAttribute>) -> Result<Vec<Heard>, WireError> {
    match wire.dump(&ours(NfTablesMessage::GetRule(RuleMessage { attributes }))) {
        Err(error) if error.is(&[libc::ENOENT]) => Ok(Vec::new()),
        listed => listed,
    }
}

/// Removes the table with all that is in it.
pub(super) fn remove_table(wire: &mut Wire, table: &str) -> Result<(), WireError> {
    let name = TableAttribute::Name(table.to_owned());
    let message = NfTablesMessage::DeleteTable(TableMessage { attributes: vec![name] });
    commit(wire, vec![(0, ours(message))])
}

/// Opens a port into a container.
pub(super) fn publish(
    wire: &mut Wire,
    table: &str,
    task: &str,
    redirect: &Redirect,
) -> Result<(), WireError> {
    let mut wanted = Rule::default();
    if let Some(address) = redirect.at {
        wanted = wanted.for_address(address);
    }
    let wanted = wanted
        .for_port(redirect.protocol, redirect.host_port)
        .redirect(redirect.address, redirect.port);
    let at = redirect.at.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let comment = format!("{task} {} {at}:{}", redirect.protocol, redirect.host_port);
    commit(wire, vec![rule(table, PUBLISH, wanted, Some(&comment))])
}

/// Closes published ports.
pub(super) fn withdraw(wire: &mut Wire, table: &str, handles: &[u64]) -> Result<(), WireError> {
    if handles.is_empty() {
        return Ok(());
    }
    let gone = handles.iter().map(|handle| (0, rules_of(table, PUBLISH, Some(*handle))));
    commit(wire, gone.collect())
}

/// What is published, and by which task. Nothing if there is no table.
pub(super) fn published(wire: &mut Wire, table: &str) -> Result<Vec<Published>, WireError> {
    let attributes =
        vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(PUBLISH.to_owned())];
    Ok(rules(wire, attributes)?.iter().filter_map(|heard| task_rule(heard, table)).collect())
}

/// The names of all tables of IPv4 rules.
pub(super) fn tables(wire: &mut Wire) -> Result<Vec<String>, WireError> {
    let all = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    let listed = wire.dump(&ours(all))?;
    let name = |heard: &Heard| {
        attributes(heard).find_map(|one| match TableAttribute::parse(&one) {
            Ok(TableAttribute::Name(name)) => Some(name),
            _ => None,
        })
    };
    Ok(listed.iter().filter_map(name).collect())
}

/// All chains that see forwarded packets and may let them fall, ours included.
pub(super) fn forward_chains(wire: &mut Wire) -> Result<Vec<ForwardChain>, WireError> {
    let all = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    let listed = wire.dump(&message(NetfilterProtoFamily::Unspec, all))?;
    Ok(listed.iter().filter_map(forward_chain).collect())
}

/// Whether a rule anywhere in a table speaks of this text, such as an interface.
pub(super) fn mentions(
    wire: &mut Wire,
    family: u8,
    table: &str,
    text: &str,
) -> Result<bool, WireError> {
    let attributes = vec![RuleAttribute::Table(table.to_owned())];
    let all = NfTablesMessage::GetRule(RuleMessage { attributes });
    let listed = wire.dump(&message(NetfilterProtoFamily::Other(family), all))?;
    let text = text.as_bytes();
    Ok(listed.iter().any(|heard| heard.body.windows(text.len()).any(|part| part == text)))
}

fn commit(wire: &mut Wire, batch: Batch) -> Result<(), WireError> {
    let mark = |which| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
        NetfilterMessage::new(header, NetfilterMessageInner::None(which))
    };
    wire.ask_together(mark(ControlMessage::BatchBegin), batch, mark(ControlMessage::BatchEnd))
}

fn message(family: NetfilterProtoFamily, inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner)
}

fn ours(inner: NfTablesMessage) -> NetfilterMessage {
    message(NetfilterProtoFamily::IPv4, inner)
}

fn table_message(table: &str) -> NetfilterMessage {
    let name = TableAttribute::Name(table.to_owned());
    ours(NfTablesMessage::NewTable(TableMessage { attributes: vec![name] }))
}

/// A chain; with a kind, hook and priority one that sees packets by itself.
fn chain(
    table: &str,
    name: &str,
    base: Option<(&str, InetHookNumber, i32)>,
) -> (u16, NetfilterMessage) {
    let mut attributes =
        vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(name.to_owned())];
    if let Some((kind, hook, priority)) = base {
        attributes.push(ChainAttribute::Hook(vec![
            Hook::Number(HookNumber::Inet(hook)),
            Hook::Priority(priority.cast_unsigned()),
        ]));
        attributes.push(ChainAttribute::Type(kind.to_owned()));
    }
    (NLM_F_CREATE, ours(NfTablesMessage::NewChain(ChainMessage { attributes })))
}

fn rule(
    table: &str,
    chain: &str,
    expressions: Expressions,
    comment: Option<&str>,
) -> (u16, NetfilterMessage) {
    let mut attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions),
    ];
    attributes.extend(comment.map(|text| RuleAttribute::UserData(commented(text))));
    let new = NfTablesMessage::NewRule(RuleMessage { attributes });
    (NLM_F_CREATE | NLM_F_APPEND, ours(new))
}

/// The removal of one rule, or of all of a chain.
fn rules_of(table: &str, chain: &str, handle: Option<u64>) -> NetfilterMessage {
    let mut attributes =
        vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())];
    attributes.extend(handle.map(RuleAttribute::Handle));
    ours(NfTablesMessage::DeleteRule(RuleMessage { attributes }))
}

/// User data as `nft` writes and lists comments, of 127 bytes at most: task ids have
/// 100, what follows them 26.
fn commented(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(0);
    [&[COMMENT, length], text.as_bytes(), &[0]].concat()
}

fn comment(data: &[u8]) -> Option<String> {
    let text = data.strip_prefix(&[COMMENT])?.get(1..)?.strip_suffix(&[0])?;
    String::from_utf8(text.to_vec()).ok()
}

fn attributes(heard: &Heard) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(heard.body.get(HEADER_BYTES..).unwrap_or_default()).filter_map(Result::ok)
}

/// A rule in our publishing chain, if the kernel lists one: kernels before 5.10
/// list all chains of all tables whatever one asks for.
fn task_rule(heard: &Heard, table: &str) -> Option<Published> {
    let (mut here, mut handle, mut said) = (true, None, None);
    for one in attributes(heard) {
        match RuleAttribute::parse(&one).ok() {
            Some(RuleAttribute::Table(name)) => here &= name == table,
            Some(RuleAttribute::Chain(name)) => here &= name == PUBLISH,
            Some(RuleAttribute::Handle(number)) => handle = Some(number),
            Some(RuleAttribute::UserData(data)) => said = comment(&data),
            _ => {}
        }
    }
    if here { parsed(&said?, handle?) } else { None }
}

/// What a comment of ours says.
fn parsed(comment: &str, handle: u64) -> Option<Published> {
    let mut words = comment.split(' ');
    let (task, protocol) = (words.next()?.to_owned(), words.next()?);
    let (at, host_port) = words.next()?.rsplit_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let at = Some(at.parse().ok()?).filter(|at: &Ipv4Addr| !at.is_unspecified());
    Some(Published { task, protocol, at, host_port: host_port.parse().ok()?, handle })
}

/// A filtering chain on the way of forwarded IPv4 packets.
fn forward_chain(heard: &Heard) -> Option<ForwardChain> {
    let family = *heard.body.first()?;
    let parsed = ChainMessage::parse(heard.body.get(HEADER_BYTES..)?).ok()?;
    let (mut table, mut chain, mut drops, mut hooked, mut filters) =
        (String::new(), String::new(), false, false, false);
    for one in parsed.attributes {
        match one {
            ChainAttribute::Table(name) => table = name,
            ChainAttribute::Name(name) => chain = name,
            ChainAttribute::Policy(policy) => drops = policy == 0,
            ChainAttribute::Type(kind) => filters = kind == "filter",
            ChainAttribute::Hook(hook) => {
                let number = Hook::Number(HookNumber::Inet(InetHookNumber::Forward));
                hooked = hook.contains(&number);
            }
            _ => {}
        }
    }
    let families = [u8::from(NetfilterProtoFamily::IPv4), u8::from(NetfilterProtoFamily::Inet)];
    (hooked && filters && families.contains(&family)).then_some(ForwardChain {
        family,
        table,
        chain,
        drops,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_what_it_was_and_anything_else_is_none() {
        for text in ["job.0.task", "x", &"y".repeat(100)] {
            assert_eq!(comment(&commented(text)).as_deref(), Some(text));
        }
        let whole = format!("{} udp 192.168.100.200:65535", "z".repeat(100));
        assert!(whole.len() <= 127, "nft lists no longer ones");
        let read = parsed(&whole, 9).expect("done");
        let at = Some(Ipv4Addr::new(192, 168, 100, 200));
        assert_eq!((read.protocol, read.at, read.host_port), (Protocol::Udp, at, 65535));
        assert_eq!(parsed("x tcp 0.0.0.0:80", 1).expect("done").at, None);
        assert_eq!(parsed("made by hand", 1), None);
        for odd in [&[][..], &[0], &[0, 1], &[1, 2, b'x', 0], &[0, 2, 0xff, 0]] {
            assert_eq!(comment(odd), None, "{odd:?}");
        }
    }
}
