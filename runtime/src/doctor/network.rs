//! Whether containers on a bridge are connected.

use super::{Finding, Host};

/// What stands between a sentence of the network and its cure.
const CURE: &str = "; the cure: ";

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    const BRIDGE: &str = "bridge network";
    let ground = &host.ground;
    if let Some(reason) = &host.bridging.refused {
        let what = format!("containers get --network host or none only: {reason}");
        let fix = match &ground.inside {
            Some(_) => super::limits::privileged_container(ground),
            None if !ground.is_root() => {
                "sudo starling up   an agent of root has a bridge".to_owned()
            }
            None => "modprobe -a nf_tables nft_nat nft_masq bridge veth".to_owned(),
        };
        return vec![Finding::warn(BRIDGE, what, fix)];
    }
    let mut found = vec![Finding::ok(BRIDGE, "nf_tables and netlink answer")];
    let forwarding = if host.bridging.forwards {
        "net.ipv4.ip_forward is on"
    } else {
        "net.ipv4.ip_forward is off; the agent turns it on for its first container on a bridge"
    };
    found.push(Finding::ok("forwarding", forwarding));
    found.extend(host.bridging.warnings.iter().map(|warning| {
        // A sentence without a cure says itself where to look.
        let (what, fix) = warning.split_once(CURE).unwrap_or((warning, ""));
        let fix = (!fix.is_empty()).then(|| ground.as_root_in_shell(fix));
        Finding { fix, ..Finding::warn("firewall", what, "") }
    }));
    if host.bridging.warnings.is_empty() {
        found.push(Finding::ok("firewall", "no rules of others drop forwarded packets"));
    }
    found
}
