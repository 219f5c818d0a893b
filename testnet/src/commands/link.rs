//! `testnet link A B`: shows or changes what is wrong with a link.

use std::path::Path;

use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::control;
use testnet::fabric::link::Change;

use super::{Report, Way, control_complaint, directions, open_with_links, table};
use crate::cli::LinkArgs;

pub(crate) fn run(dir: &Path, args: &LinkArgs) -> Result<Report, Complaint> {
    let fabric = open_with_links(dir)?;
    let on = directions(&fabric, &args.a, &args.b, Way::from_flag(args.one_way))?;
    let change = args.faults.change();
    if change != Change::default() {
        control::set(&fabric, on.clone(), change).map_err(control_complaint)?;
    }
    let (links, left_out) = control::show(&fabric, on).map_err(control_complaint)?;
    let text = table::links(&links, left_out);
    Ok(Report::new(text, json!({ "links": links, "left_out": left_out })))
}
