//! `testnet heal [A B]`: links become what they were when the fabric came up.

use std::path::Path;

use serde_json::json;
use testnet::complaint::Complaint;
use testnet::fabric::control::{self, Healing};

use super::{Report, Way, control_complaint, directions, open_with_links};
use crate::cli::Heal;

pub(crate) fn run(dir: &Path, args: &Heal) -> Result<Report, Complaint> {
    let fabric = open_with_links(dir)?;
    let (a, b) = match (&args.a, &args.b) {
        (Some(a), Some(b)) => (a.as_str(), b.as_str()),
        _ => ("*", "*"),
    };
    let on = directions(&fabric, a, b, Way::Both)?;
    let healing = if args.cuts { Healing::Cuts } else { Healing::Everything };
    let links = control::heal(&fabric, on, healing).map_err(control_complaint)?;
    let text = format!("healed {links} directions");
    Ok(Report::new(text, json!({ "healed": links })))
}
