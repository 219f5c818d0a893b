//! `testnet escape`: every way out, one line each, and what a container sees.

use std::fs;
use std::time::Instant;

use serde_json::json;
use testnet::complaint::{Complaint, USAGE};
use testnet::escape::golden;
use testnet::escape::{FAILS_ON_RUNC, Ground, ROWS, Row, Verdict, Which};
use testnet::program;

use super::Report;
use crate::cli::{Escape, Isolator};

/// What a row's outcome is called.
const HELD: &str = "held";
const BROKEN: &str = "BROKEN";
const NOT_APPLICABLE: &str = "not applicable";

pub(crate) fn run(args: &Escape) -> Result<Report, Complaint> {
    let failed = |what: &str, error: std::io::Error| {
        Complaint::caused(what, &error, "it takes root, and cargo to build the probe")
    };
    let rows = chosen(&args.rows)?;
    let which = match args.runtime {
        Isolator::Ours => Which::Ours,
        Isolator::Runc => Which::Runc,
    };
    let probe = program::build("probe").map_err(|error| failed("there is no probe", error))?;
    let keeper = std::env::current_exe().map_err(|error| failed("there is no keeper", error))?;
    let keeper = args.starling.clone().unwrap_or(keeper);
    let mut ground = Ground::lay(which, &probe, &keeper)
        .map_err(|error| failed("there is no ground to play on", error))?;
    let mut told = Told::default();
    for row in rows {
        let began = Instant::now();
        let verdict = row.play(&mut ground);
        told.add(row, &verdict, which, began.elapsed().as_secs_f64());
        let transcript = ground.take_transcript();
        if args.trace {
            transcript.iter().for_each(|it| told.text.push_str(&format!("     {it}\n")));
        }
    }
    if which == Which::Ours && args.rows.is_empty() {
        told.profile(&mut ground, args.bless);
    }
    if let Err(error) = ground.clear() {
        told.failed = true;
        told.text.push_str(&format!("left behind: {error}\n"));
    }
    let report = Report::new(told.text, json!({"rows": told.rows, "golden": told.golden}));
    Ok(if told.failed { report.failed() } else { report })
}

fn chosen(ids: &[String]) -> Result<Vec<&'static Row>, Complaint> {
    let known = |id: &&String| ROWS.iter().any(|row| row.id.eq_ignore_ascii_case(id));
    if let Some(id) = ids.iter().find(|id| !known(id)) {
        let hint = "rows are E1 to E26, some with letters";
        return Err(Complaint::new(
            format!("there is no row {id}"),
            hint,
            "run all of them to see their names",
        )
        .with_code(USAGE));
    }
    let wanted =
        |row: &&Row| ids.is_empty() || ids.iter().any(|id| row.id.eq_ignore_ascii_case(id));
    Ok(ROWS.iter().filter(wanted).collect())
}

#[derive(Debug, Default)]
struct Told {
    text: String,
    rows: Vec<serde_json::Value>,
    golden: Vec<String>,
    failed: bool,
}

impl Told {
    fn add(&mut self, row: &Row, verdict: &Verdict, which: Which, seconds: f64) {
        let (word, details) = match verdict {
            Verdict::Held => (HELD, Vec::new()),
            Verdict::Broken(what) => (BROKEN, what.clone()),
            Verdict::NotApplicable(why) => (NOT_APPLICABLE, vec![(*why).to_owned()]),
        };
        let is_broken = word == BROKEN;
        let expected = which == Which::Runc && row.must_fail_on_runc();
        let reason = FAILS_ON_RUNC.iter().find(|(id, _)| *id == row.id).map(|(_, why)| *why);
        let remark = match (expected, is_broken) {
            (true, true) => format!("  (as it must be here: {})", reason.unwrap_or_default()),
            (true, false) if word == HELD => {
                "  (and should be BROKEN here: the row cannot fail)".to_owned()
            }
            _ => String::new(),
        };
        // On runc, other failures tell of runc and are no fault of ours.
        self.failed |= if which == Which::Runc { expected && !is_broken } else { is_broken };
        self.text.push_str(&format!("{:<5}{word:<15}{}{remark}\n", row.id, row.name));
        details.iter().for_each(|it| self.text.push_str(&format!("       {it}\n")));
        self.rows.push(json!({
            "id": row.id, "name": row.name, "verdict": word, "details": details,
            "must_fail": expected, "seconds": seconds,
        }));
    }

    fn profile(&mut self, ground: &mut Ground, bless: bool) {
        let seen = match golden::take(ground) {
            Ok(seen) => seen,
            Err(error) => {
                self.failed = true;
                self.text.push_str(&format!("golden BROKEN: {error}\n"));
                return;
            }
        };
        let path = golden::path();
        if bless {
            let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
            if let Err(error) = parent.and_then(|()| fs::write(&path, &seen)) {
                self.failed = true;
                self.text.push_str(&format!("golden cannot be written: {error}\n"));
            }
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        self.golden = golden::differences(&committed, &seen);
        let word = if self.golden.is_empty() { HELD } else { BROKEN };
        self.failed |= !self.golden.is_empty();
        self.text.push_str(&format!(
            "     {word:<15}what a default container sees (golden/container.txt)\n"
        ));
        self.golden.iter().for_each(|it| self.text.push_str(&format!("       {it}\n")));
    }
}
