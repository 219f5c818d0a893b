//! `testnet switch` (hidden): be the switch, inside its namespace.
//!
//! Started by `up` only; ends when the fabric's record is gone.

use std::path::Path;

use serde_json::Value;
use testnet::complaint::Complaint;
use testnet::fabric::switch;

use super::Report;

pub(crate) fn run(dir: &Path) -> Result<Report, Complaint> {
    switch::run(dir).map_err(|error| {
        Complaint::caused("the switch ended", &error, "it is started by `testnet up`, not by hand")
    })?;
    Ok(Report::new("the fabric is gone", Value::Null))
}
