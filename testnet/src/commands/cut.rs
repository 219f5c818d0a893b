//! `testnet cut A B`: nothing passes, in one direction or both.

use std::path::Path;

use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::control;
use testnet::fabric::link::Change;

use super::{Report, Way, control_complaint, directions, open_with_links};
use crate::cli::Cut;

pub(crate) fn run(dir: &Path, args: &Cut) -> Result<Report, Complaint> {
    let fabric = open_with_links(dir)?;
    let way = Way::from_flag(args.one_way);
    let on = directions(&fabric, &args.a, &args.b, way)?;
    let links = control::set(&fabric, on, Change::CUT).map_err(control_complaint)?;
    let text = format!("cut {} {} {}", args.a, way.arrow(), args.b);
    Ok(Report::new(text, json!({ "cut": links })))
}
