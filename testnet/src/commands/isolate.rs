//! `testnet isolate A`: one host alone, all others whole.

use std::path::Path;

use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::control;
use testnet::fabric::link::Change;

use super::{Report, Way, control_complaint, directions, host, open_with_links};
use crate::cli::OneHost;

pub(crate) fn run(dir: &Path, args: &OneHost) -> Result<Report, Complaint> {
    let fabric = open_with_links(dir)?;
    let name = &host(&fabric, &args.host)?.name;
    let on = directions(&fabric, name, "*", Way::Both)?;
    let links = control::set(&fabric, on, Change::CUT).map_err(control_complaint)?;
    let text = format!("{name} is cut off from all others");
    Ok(Report::new(text, json!({ "isolated": name, "cut": links })))
}
