//! `testnet partition A,B C,D`: no group reaches another.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use testnet::complaint::{Complaint, USAGE};
use testnet::fabric::Fabric;
use testnet::fabric::control::{self, Directions};
use testnet::fabric::link::Change;

use super::{Report, control_complaint, host, open_with_links};
use crate::cli::Partition;

pub(crate) fn run(dir: &Path, args: &Partition) -> Result<Report, Complaint> {
    let fabric = open_with_links(dir)?;
    let groups = groups(&fabric, &args.groups)?;
    let mut on = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let others = groups.iter().enumerate().filter(|(other, _)| *other != number);
        let others: BTreeSet<&str> = others.flat_map(|(_, other)| other.iter().copied()).collect();
        on.push(Directions::between(group.iter().copied(), others));
    }
    let links = control::set(&fabric, on, Change::CUT).map_err(control_complaint)?;
    let sides: Vec<String> =
        groups.iter().map(|group| Vec::from_iter(group.iter().copied()).join(",")).collect();
    let text = format!("partitioned: {}", sides.join(" | "));
    Ok(Report::new(text, json!({ "groups": groups, "cut": links })))
}

fn groups<'a>(fabric: &'a Fabric, given: &[String]) -> Result<Vec<BTreeSet<&'a str>>, Complaint> {
    let mut placed = BTreeSet::new();
    let mut groups = Vec::new();
    for text in given {
        let mut group = BTreeSet::new();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            let name = host(fabric, name)?.name.as_str();
            group.insert(name);
            if !placed.insert(name) {
                return Err(twice(name));
            }
        }
        groups.push(group);
    }
    Ok(groups)
}

fn twice(name: &str) -> Complaint {
    Complaint::new(
        "this is not a partition",
        format!("{name} is named twice"),
        "name each host once; a host in no group keeps all its links",
    )
    .with_code(USAGE)
}
