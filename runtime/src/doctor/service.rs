//! What is around the agent: its unit, its user's session, other engines.

use super::{Finding, Host, Unit};

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(host.unit.iter().map(|unit| of_unit(unit, host)));
    if host.ground.user_manager && !host.ground.is_root() {
        found.push(lingering(host));
    }
    found.extend(host.engines.iter().map(|(name, socket)| {
        let what = format!(
            "{name} is here too ({}): what it runs is not counted in what this node offers",
            socket.display()
        );
        Finding::ok("other engines", what)
    }));
    found
}

fn of_unit(unit: &Unit, host: &Host) -> Finding {
    const NAME: &str = "systemd unit";
    let process = unit.kill_mode.as_deref() == Some("process");
    let delegates = unit
        .delegate
        .as_deref()
        .is_some_and(|value| !matches!(value, "" | "no" | "false" | "off" | "0"));
    let lacks = match (process, delegates) {
        (true, true) => {
            let what = format!("{} has KillMode=process and Delegate=", unit.name);
            return Finding::ok(NAME, what);
        }
        (false, true) => "has no KillMode=process: a restart of the agent kills its tasks",
        (true, false) => "has no Delegate=yes: systemd may undo the limits of tasks",
        (false, false) => {
            "has neither KillMode=process nor Delegate=yes: a restart of the agent kills its \
             tasks, and systemd may undo their limits"
        }
    };
    let name = &unit.name;
    let (dir, reload) = if host.ground.is_root() {
        (format!("/etc/systemd/system/{name}.d"), "systemctl daemon-reload")
    } else {
        (format!("~/.config/systemd/user/{name}.d"), "systemctl --user daemon-reload")
    };
    let fix = format!(
        "mkdir -p {dir} && printf '[Service]\\nKillMode=process\\nDelegate=yes\\n' > \
         {dir}/starling.conf && {reload}   then restart the unit"
    );
    Finding::warn(NAME, format!("{name} {lacks}"), fix)
}

fn lingering(host: &Host) -> Finding {
    const NAME: &str = "lingering";
    if host.lingers {
        return Finding::ok(
            NAME,
            format!("what {} runs outlives the last logout", host.ground.user),
        );
    }
    let what = format!("agent and tasks end when {} logs out for the last time", host.ground.user);
    Finding::warn(NAME, what, "loginctl enable-linger")
}

/// What a unit's files say, main file first, later ones over earlier ones.
pub(super) fn read_unit(name: &str, texts: &[String]) -> Unit {
    let mut unit = Unit { name: name.to_owned(), ..Unit::default() };
    for text in texts {
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Service]") else {
                continue;
            };
            match key.trim() {
                "KillMode" => unit.kill_mode = Some(value.trim().to_owned()),
                "Delegate" => unit.delegate = Some(value.trim().to_owned()),
                _ => {}
            }
        }
    }
    unit
}
