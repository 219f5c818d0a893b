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
//! ours for IPv4, and one of the same name for IPv6 where the host has it, so nobody's rules are touched and all of ours go at once. Every change is
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

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

use super::addresses::{Prefix6, Subnet};
use super::expression::{Must, Rule};
use super::plan::{Family, Redirect};
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
const OWN_RULES6: usize = 8;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

type Batch = Vec<(u16, NetfilterMessage)>;

/// A rule of a task, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) task: String,
    pub(super) protocol: Protocol,
    pub(super) family: Family,
    pub(super) at: Option<IpAddr>,
    pub(super) host_port: u16,
    /// The kernel's name for the rule.
    pub(super) handle: u64,
}

impl Published {
    /// Whether it is what a redirect says, but for where that leads.
    pub(super) fn is_of(&self, wanted: &Redirect) -> bool {
        let Redirect { protocol, at, host_port, .. } = *wanted;
        let own = (self.family, self.protocol, self.at, self.host_port);
        own == (wanted.family(), protocol, at, host_port)
    }
}

/// A base chain of somebody's on the way of forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForwardChain {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) drops: bool,
}

/// What of a table is its own, and no task's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own {
    V4(Subnet),
    V6(Prefix6),
}

impl Own {
    fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    fn rules(self, bridge: &str) -> Vec<(&'static str, Expressions)> {
        match self {
            Self::V4(subnet) => own_rules(bridge, subnet).into(),
            Self::V6(prefix) => own_rules6(bridge, prefix).into(),
        }
    }
}

/// Makes the table, or puts right what is there; leaves published ports alone.
pub(super) fn make_table(
    wire: &mut Wire,
    table: &str,
    bridge: &str,
    own: Own,
) -> Result<(), WireError> {
    use InetHookNumber::{Forward, LocalOut, PostRouting, PreRouting};
    let to = Table { family: own.family(), name: table };
    let mut batch = vec![(NLM_F_CREATE, to.creation())];
    batch.push(to.chain(PUBLISH, None));
    for (name, kind, hook, priority) in [
        (PREROUTING, "nat", PreRouting, DSTNAT),
        (OUTPUT, "nat", LocalOut, DSTNAT),
        (POSTROUTING, "nat", PostRouting, SRCNAT),
        (FORWARD, "filter", Forward, FILTER),
        (SHIELD, "filter", PreRouting, RAW),
    ] {
        batch.push(to.chain(name, Some((kind, hook, priority))));
        batch.push((0, to.rules_of(name, None)));
    }
    let rules = own.rules(bridge).into_iter();
    batch.extend(rules.map(|(name, expressions)| to.rule(name, expressions, None)));
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

/// The same for IPv6, whose loopback cannot be published (see `publish`) and needs no
/// shield: the kernel takes nothing for ::1 from elsewhere. Ours says so all the same.
fn own_rules6(bridge: &str, prefix: Prefix6) -> [(&'static str, Expressions); OWN_RULES6] {
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let inward = || Rule::default().came_by(Must::NotBe, bridge).leaves_by(Must::Be, bridge);
    let outward = |must| Rule::default().out_of6(prefix).leaves_by(must, bridge);
    let local = || Rule::default().for_address(Must::NotBe, loopback).for_this_host();
    [
        (PREROUTING, local().jump(PUBLISH)),
        (OUTPUT, local().jump(PUBLISH)),
        (POSTROUTING, outward(Must::NotBe).masquerade()),
        (POSTROUTING, outward(Must::Be).redirected().masquerade()),
        (FORWARD, inward().known().accept()),
        (FORWARD, inward().redirected().accept()),
        (FORWARD, inward().drop()),
        (SHIELD, Rule::default().came_by(Must::Be, bridge).for_address(Must::Be, loopback).drop()),
    ]
}

/// Whether the table has all the rules that do not belong to a task. They are counted,
/// not read: who removes rules removes them by the chain, the table, or all at once.
pub(super) fn is_whole(wire: &mut Wire, table: &str, family: Family) -> Result<bool, WireError> {
    let listed = rules(wire, family, vec![RuleAttribute::Table(table.to_owned())])?;
    let own = listed.iter().filter(|heard| {
        let all: Vec<_> =
            attributes(heard).filter_map(|one| RuleAttribute::parse(&one).ok()).collect();
        all.contains(&RuleAttribute::Table(table.to_owned()))
            && !all.contains(&RuleAttribute::Chain(PUBLISH.to_owned()))
    });
    let wanted = if family == Family::V4 { OWN_RULES } else { OWN_RULES6 };
    Ok(own.count() == wanted)
}

/// The rules that these name; none where there is no such table.
fn rules(
    wire: &mut Wire,
    family: Family,
    attributes: Vec<RuleAttribute>,
) -> Result<Vec<Heard>, WireError> {
    match wire.dump(&of(family, NfTablesMessage::GetRule(RuleMessage { attributes }))) {
        // A kernel without IPv6 knows no such family.
        Err(error) if error.is(&[libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) => {
            Ok(Vec::new())
        }
        listed => listed,
    }
}

/// Removes the tables of both kinds with all that is in them; fine if there are none.
pub(super) fn remove_table(wire: &mut Wire, table: &str) -> Result<(), WireError> {
    for family in FAMILIES {
        let name = TableAttribute::Name(table.to_owned());
        let message = NfTablesMessage::DeleteTable(TableMessage { attributes: vec![name] });
        match commit(wire, vec![(0, of(family, message))]) {
            Err(error) if error.is(&[libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) => {}
            done => done?,
        }
    }
    Ok(())
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
        wanted = wanted.for_address(Must::Be, address);
    }
    let wanted = wanted
        .for_port(redirect.protocol, redirect.host_port)
        .redirect(redirect.address, redirect.port);
    // Whatever the address, its last colon is before the port.
    let at = redirect.at.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let comment = format!("{task} {} {at}:{}", redirect.protocol, redirect.host_port);
    let to = Table { family: redirect.family(), name: table };
    commit(wire, vec![to.rule(PUBLISH, wanted, Some(&comment))])
}

/// Closes published ports.
pub(super) fn withdraw(wire: &mut Wire, table: &str, rules: &[Published]) -> Result<(), WireError> {
    if rules.is_empty() {
        return Ok(());
    }
    let gone = rules.iter().map(|rule| {
        let to = Table { family: rule.family, name: table };
        (0, to.rules_of(PUBLISH, Some(rule.handle)))
    });
    commit(wire, gone.collect())
}

/// What is published, and by which task. Nothing if there is no table.
pub(super) fn published(wire: &mut Wire, table: &str) -> Result<Vec<Published>, WireError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let attributes =
            vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(PUBLISH.to_owned())];
        let listed = rules(wire, family, attributes)?;
        found.extend(listed.iter().filter_map(|heard| task_rule(heard, table, family)));
    }
    Ok(found)
}

/// The names of all tables of rules, those of both kinds once.
pub(super) fn tables(wire: &mut Wire) -> Result<BTreeSet<String>, WireError> {
    let all = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    let name = |heard: &Heard| {
        attributes(heard).find_map(|one| match TableAttribute::parse(&one) {
            Ok(TableAttribute::Name(name)) => Some(name),
            _ => None,
        })
    };
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        names.extend(wire.dump(&of(family, all.clone()))?.iter().filter_map(name));
    }
    Ok(names)
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

fn of(family: Family, inner: NfTablesMessage) -> NetfilterMessage {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    message(family, inner)
}

/// A table of ours, and what is said of it.
#[derive(Clone, Copy, Debug)]
struct Table<'a> {
    family: Family,
    name: &'a str,
}

impl Table<'_> {
    fn creation(self) -> NetfilterMessage {
        let attributes = vec![TableAttribute::Name(self.name.to_owned())];
        of(self.family, NfTablesMessage::NewTable(TableMessage { attributes }))
    }

    /// A chain; with a kind, hook and priority one that sees packets by itself.
    fn chain(
        self,
        name: &str,
        base: Option<(&str, InetHookNumber, i32)>,
    ) -> (u16, NetfilterMessage) {
        let mut attributes = vec![
            ChainAttribute::Table(self.name.to_owned()),
            ChainAttribute::Name(name.to_owned()),
        ];
        if let Some((kind, hook, priority)) = base {
            attributes.push(ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(hook)),
                Hook::Priority(priority.cast_unsigned()),
            ]));
            attributes.push(ChainAttribute::Type(kind.to_owned()));
        }
        let new = NfTablesMessage::NewChain(ChainMessage { attributes });
        (NLM_F_CREATE, of(self.family, new))
    }

    fn rule(
        self,
        chain: &str,
        expressions: Expressions,
        comment: Option<&str>,
    ) -> (u16, NetfilterMessage) {
        let mut attributes = vec![
            RuleAttribute::Table(self.name.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
        ];
        attributes.extend(comment.map(|text| RuleAttribute::UserData(commented(text))));
        let new = NfTablesMessage::NewRule(RuleMessage { attributes });
        (NLM_F_CREATE | NLM_F_APPEND, of(self.family, new))
    }

    /// The removal of one rule, or of all of a chain.
    fn rules_of(self, chain: &str, handle: Option<u64>) -> NetfilterMessage {
        let mut attributes = vec![
            RuleAttribute::Table(self.name.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
        ];
        attributes.extend(handle.map(RuleAttribute::Handle));
        of(self.family, NfTablesMessage::DeleteRule(RuleMessage { attributes }))
    }
}

/// User data as `nft` writes comments. It lists them up to 127 bytes: of task ids that
/// have 100 a port of an IPv6 address is longer, which the kernel does not mind.
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
fn task_rule(heard: &Heard, table: &str, family: Family) -> Option<Published> {
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
    if here { parsed(&said?, family, handle?) } else { None }
}

/// What a comment of ours says.
fn parsed(comment: &str, family: Family, handle: u64) -> Option<Published> {
    let mut words = comment.split(' ');
    let (task, protocol) = (words.next()?.to_owned(), words.next()?);
    let (at, host_port) = words.next()?.rsplit_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let at = Some(at.parse().ok()?).filter(|at: &IpAddr| !at.is_unspecified());
    Some(Published { task, protocol, family, at, host_port: host_port.parse().ok()?, handle })
}

/// A filtering chain on the way of forwarded packets.
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
    let families =
        [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6, NetfilterProtoFamily::Inet];
    let families = families.map(u8::from);
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
        let read = parsed(&whole, Family::V4, 9).expect("done");
        let at = Some(IpAddr::from([192, 168, 100, 200]));
        assert_eq!((read.protocol, read.at, read.host_port), (Protocol::Udp, at, 65535));
        assert_eq!(parsed("x tcp 0.0.0.0:80", Family::V6, 1).expect("done").at, None);
        let six = parsed("x tcp fd00::7:80", Family::V6, 1).expect("done");
        assert_eq!((six.at, six.host_port), ("fd00::7".parse().ok(), 80));
        assert_eq!(parsed("made by hand", Family::V4, 1), None);
        for odd in [&[][..], &[0], &[0, 1], &[1, 2, b'x', 0], &[0, 2, 0xff, 0]] {
            assert_eq!(comment(odd), None, "{odd:?}");
        }
    }
}
