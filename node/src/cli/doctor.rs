//! `doctor`: what this host can and cannot enforce, each with its fix.
//!
//! The runtime examines the machine; here is added what is the cluster's: the
//! ports, and the agent if one answers. It works without one.
//!
//! Must never: change the host, or say more of an agent than its status does.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use runtime::doctor::{Finding, Host, State, Trials, diagnose, worst};
use serde_json::json;

use crate::api::types::Status;
use crate::cli::block_on;
use crate::cli::client::Client;
use crate::cli::door::Door;
use crate::cli::errors::{FAILED, Failed};
use crate::cli::output::{Format, Output};
use crate::cli::paths::Places;

/// The members' port where `--listen` names none, and the operators' above it.
const MEMBERS: u16 = 7827;

/// `starling doctor`.
pub(crate) fn run(places: &Places, out: Output) -> Result<u8, Failed> {
    // First: it forks, and asking an agent may begin threads.
    let trials = Trials::run(&places.data);
    let status = ask(places)?;
    let host = Host::probe(&places.data, status.as_ref().map(|status| status.pid), trials);
    let mut findings = diagnose(&host);
    findings.extend(ports(status.as_ref(), &free));
    findings.extend(agent(status.as_ref(), places, &findings));
    let state = worst(&findings);
    match out.format {
        Format::Json => {
            let document = json!({ "state": state, "findings": findings });
            out.json(document.to_string().as_bytes())?;
        }
        Format::Quiet => {
            let troubled = findings.iter().filter(|finding| finding.state != State::Ok);
            troubled.map(|finding| finding.name).try_for_each(|name| out.line(name))?;
        }
        Format::Human => {
            for line in text(&findings) {
                out.line(&line)?;
            }
            out.note(&summary(&findings));
        }
    }
    Ok(if state == State::Fail { FAILED } else { 0 })
}

/// The agent's status; none if there is no agent to ask.
fn ask(places: &Places) -> Result<Option<Status>, Failed> {
    let mut client = Client::new(Door::Unix(places.socket_to_ask().to_owned()));
    // Whatever is wrong with an agent does not make the host another.
    block_on(async { Ok(client.get("/v1/status").await.and_then(|answer| answer.parse()).ok()) })
}

/// One line each; below it the fix, unless it is the one above.
fn text(findings: &[Finding]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut last = None;
    for finding in findings {
        let word = match finding.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        lines.push(format!("{word:<5} {:<17} {}", finding.name, finding.what));
        if let Some(fix) = &finding.fix {
            if last != Some(fix) {
                lines.push(format!("       fix: {fix}"));
            }
            last = Some(fix);
        }
    }
    lines
}

fn summary(findings: &[Finding]) -> String {
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    match (count(State::Fail), count(State::Warn)) {
        (0, 0) => "nothing to mend".to_owned(),
        (0, warnings) => format!("{warnings} of {} could be better", findings.len()),
        (failures, warnings) => {
            format!("{failures} of {} fail, {warnings} could be better", findings.len())
        }
    }
}

/// Whether a port can be had: `udp` or `tcp`, and its number.
type Port<'a> = &'a dyn Fn(&str, u16) -> io::Result<()>;

fn free(protocol: &str, port: u16) -> io::Result<()> {
    let address = (Ipv4Addr::UNSPECIFIED, port);
    match protocol {
        "udp" => UdpSocket::bind(address).map(drop),
        _ => TcpListener::bind(address).map(drop),
    }
}

fn ports(status: Option<&Status>, free: Port<'_>) -> Vec<Finding> {
    const NAME: &str = "ports";
    if let Some(status) = status {
        // The agent's own word; whether others hear it there only they can say.
        let listens = status.addresses.iter().chain(&status.operator_addresses);
        let listens: Vec<_> = listens.map(String::as_str).collect();
        return vec![Finding::ok(NAME, format!("the agent listens at {}", listens.join(" ")))];
    }
    let wanted = [("udp", MEMBERS), ("tcp", MEMBERS), ("udp", MEMBERS + 1)];
    let found: Vec<_> = wanted
        .into_iter()
        .filter_map(|(protocol, port)| {
            let error = free(protocol, port).err()?;
            let flag = if protocol == "udp" { "-lunp" } else { "-ltnp" };
            let what = match error.kind() {
                ErrorKind::AddrInUse => {
                    format!("{protocol} port {port} is taken by another program")
                }
                _ => format!("{protocol} port {port} cannot be had: {error}"),
            };
            let fix = format!(
                "starling up --listen 0.0.0.0:{}   or free it: ss {flag} 'sport = :{port}' says \
                 who has it",
                MEMBERS + 10
            );
            Some(Finding::fail(NAME, what, fix))
        })
        .collect();
    if found.is_empty() {
        let what = format!("{MEMBERS} (udp, tcp) and {} (udp) are free", MEMBERS + 1);
        return vec![Finding::ok(NAME, what)];
    }
    found
}

/// What the agent says of itself, as far as nothing above says it already.
fn agent(status: Option<&Status>, places: &Places, said: &[Finding]) -> Vec<Finding> {
    const NAME: &str = "agent";
    let Some(status) = status else {
        let what = format!("none answers at {}", places.socket_to_ask().display());
        return vec![Finding::ok(NAME, what)];
    };
    let runs =
        format!("{} runs as process {}, version {}", status.name, status.pid, status.version);
    let mut found = vec![Finding::ok(NAME, runs)];
    let news = status.warnings.iter().filter(|news| said.iter().all(|told| told.what != **news));
    found.extend(news.map(|news| {
        let what = format!("it says of where it was started: {news}");
        let fix = "starling down && starling up   from where the limits above are enforced";
        Finding::warn(NAME, what, fix)
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_and_a_fix_is_said_once_in_a_row() {
        let findings = [
            Finding::ok("kernel", "Linux 6.1"),
            Finding::warn("cpu limit", "not limited", "sudo starling up"),
            Finding::warn("memory limit", "not limited", "sudo starling up"),
            Finding::fail("clock", "behind", "date -s"),
        ];
        assert_eq!(
            text(&findings),
            [
                "ok    kernel            Linux 6.1",
                "warn  cpu limit         not limited",
                "       fix: sudo starling up",
                "warn  memory limit      not limited",
                "FAIL  clock             behind",
                "       fix: date -s",
            ]
        );
        assert_eq!(summary(&findings), "1 of 4 fail, 2 could be better");
        assert_eq!(summary(&findings[..1]), "nothing to mend");
    }

    #[test]
    fn a_taken_port_fails_with_another_to_take() {
        assert_eq!(
            ports(None, &|_, _| Ok(())),
            [Finding::ok("ports", "7827 (udp, tcp) and 7828 (udp) are free")]
        );
        let taken = |protocol: &str, port| match (protocol, port) {
            ("tcp", MEMBERS) => Err(io::Error::from(ErrorKind::AddrInUse)),
            _ => Ok(()),
        };
        let found = ports(None, &taken);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].state, State::Fail);
        assert_eq!(found[0].what, "tcp port 7827 is taken by another program");
        let fix = found[0].fix.as_deref().expect("a fix");
        assert!(fix.starts_with("starling up --listen 0.0.0.0:7837   "), "{fix}");
    }
}
