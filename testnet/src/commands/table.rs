//! Columns for people: the hosts, and the links with their faults.
//!
//! Must never be parsed by anything; programs have `--json`.

use testnet::fabric::control::LinkRow;
use testnet::fabric::link::Faults;

/// Lines of cells, each column as wide as its widest cell.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let text: String = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", text.trim_end())
    };
    rows.iter().map(line).collect()
}

/// What is wrong with links, one direction a line.
pub(super) fn links(rows: &[LinkRow], left_out: usize) -> String {
    let mut lines = vec![cells(["LINK", "FAULTS", "DELIVERED", "CUT", "LOST", "OVERFLOWED"])];
    for LinkRow { from, to, faults, tally } in rows {
        lines.push(vec![
            format!("{from} -> {to}"),
            words(*faults),
            tally.delivered.to_string(),
            tally.cut.to_string(),
            tally.lost.to_string(),
            tally.overflowed.to_string(),
        ]);
    }
    let mut text = columns(&lines);
    if left_out > 0 {
        text.push_str(&format!("and {left_out} more\n"));
    }
    text
}

/// A header's cells.
pub(super) fn cells<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

/// The faults that are set, by name.
pub(super) fn words(faults: Faults) -> String {
    let plain = Faults::default();
    let told = [
        (faults.cut, "cut".to_owned()),
        (faults.loss != plain.loss, format!("loss {}", faults.loss)),
        (faults.delay != plain.delay, format!("delay {}", faults.delay)),
        (faults.jitter != plain.jitter, format!("jitter {}", faults.jitter)),
        (faults.rate != plain.rate, format!("rate {}", faults.rate)),
        (faults.duplicate != plain.duplicate, format!("duplicate {}", faults.duplicate)),
        (faults.corrupt != plain.corrupt, format!("corrupt {}", faults.corrupt)),
    ];
    let words: Vec<_> = told.into_iter().filter(|told| told.0).map(|told| told.1).collect();
    if words.is_empty() {
        return "none".to_owned();
    }
    words.join(", ")
}
