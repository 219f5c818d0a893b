//! Who belongs to a cluster, through the shipped binary: invited, revoked, removed.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use support::{Host, Told, cluster, is_alive, kill, processes_of, until};

/// The states that a host gives the nodes it lists, former ones too: `h1 ready, h2 removed`.
fn states(host: &Host) -> String {
    let nodes = host.json(&["node", "ls", "--all"]);
    let items = nodes["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let each = items.iter().map(|node| format!("{} {}", text(&node["name"]), text(&node["state"])));
    each.collect::<Vec<_>>().join(", ")
}

/// Whether a host has a connection to another, and knows where that listens now.
fn reaches(host: &Host, other: &Host) -> bool {
    let there = other.json(&["status"]);
    let seen = host.json(&["node", "inspect", there["node"].as_str().expect("a key")]);
    seen["connected_at"].is_string() && seen["addresses"] == there["addresses"]
}

/// Whether a host says that it was removed, and by whom.
fn removed_by(host: &Host) -> Option<String> {
    let status = host.json(&["status"]);
    status["removed"]["by"]["name"].as_str().map(str::to_owned)
}

/// A failure with its code, and what it says.
fn fails(told: Told, code: &str) -> String {
    assert_eq!(told.code, 1, "{told:?}");
    let failure: serde_json::Value = serde_json::from_str(&told.err).expect("a failure");
    assert_eq!(failure["error"]["code"], code, "{failure}");
    failure["error"].to_string()
}

#[test]
fn a_removed_host_is_gone_everywhere_at_once_and_for_good() {
    let hosts = cluster(3);
    let [h1, h2, h3] = hosts.as_slice() else { panic!("three hosts") };
    let sleep = ["run", "-d", "--name", "web", "--replicas", "3", "--exec", "--", "sleep", "86400"];
    h1.run(&sleep).ok();
    until("all run", || hosts.iter().all(|host| host.running("web") == 3));
    let busy = fails(h2.run(&["--json", "node", "rm", "h3"]), "node_busy");
    assert!(busy.contains("--force"), "{busy}");
    let told = h2.run(&["node", "rm", "--force", "h3"]);
    assert_eq!((told.code, told.out.as_str()), (0, "h3 removed\n"), "{told:?}");
    for host in [h1, h2] {
        until("it is listed no more", || !host.run(&["node", "ls"]).ok().contains("h3"));
        assert!(states(host).contains("h3 removed"), "{}", states(host));
    }
    until("its work runs on the others", || {
        let tasks = h1.tasks("web");
        tasks.len() == 3 && tasks.iter().all(|(_, node, state)| node != "h3" && state == "running")
    });
    until("it knows by whom", || removed_by(h3).as_deref() == Some("h2"));
    let status = h3.run(&["status"]);
    assert!(status.out.contains("removed  this host, by h2"), "{status:?}");
    assert!(status.err.contains("starling up --new"), "{status:?}");
    let asked = fails(h3.run(&["--json", "run", "-d", "--exec", "--", "true"]), "removed");
    assert!(asked.contains("no member"), "{asked}");
    fails(h3.run(&["--json", "invite"]), "bad_invitation");
    until("it runs nothing any more", || {
        h3.json(&["status"])["free"] == h3.json(&["status"])["capacity"]
    });
    // Neither of them forgets it.
    for host in [h3, h2, h1] {
        host.crash_agent();
        // A new port: whoever stayed up is dialed, and learns of it.
        host.up();
        until("the two are together", || reaches(h1, h2) && reaches(h2, h1));
    }
    assert_eq!(states(h1), "h1 ready, h2 ready, h3 removed");
    assert_eq!(removed_by(h3).as_deref(), Some("h2"));
    assert_eq!(states(h2), "h1 ready, h2 ready, h3 removed");
    let again = fails(h1.run(&["--json", "node", "rm", "h3"]), "removed_before");
    assert!(again.contains("h2 removed it"), "{again}");
    // Its host comes back as another, under the same name.
    let token = h1.invite(2);
    let same = h3.run(&["join", "--new", &token]);
    assert!(same.err.contains("starling down"), "{same:?}");
    h3.run(&["down", "--stop-tasks"]).ok();
    h3.run(&["join", "--new", &token]).ok();
    until("it is another node", || states(h2).contains("h3 ready"));
    assert_eq!(removed_by(h3), None);
    assert!(h3.run(&["run", "--exec", "--", "true"]).code == 0);
    h3.run(&["down", "--stop-tasks"]).ok();
    let member = fails(h3.run(&["--json", "up", "--new"]), "not_anew");
    assert!(member.contains("is a member"), "{member}");
}

#[test]
fn a_host_that_slept_while_another_was_removed_parts_from_it_when_it_wakes() {
    let hosts = cluster(3);
    let [h1, h2, h3] = hosts.as_slice() else { panic!("three hosts") };
    let asleep = h3.agent();
    kill(asleep, "STOP");
    // Nobody is awake to confirm it.
    assert_eq!(h1.run(&["node", "rm", "h2"]).code, 3);
    until("h2 knows", || removed_by(h2).as_deref() == Some("h1"));
    kill(asleep, "CONT");
    until("the sleeper knows", || states(h3) == "h1 ready, h3 ready, h2 removed");
    // And one that slept while it was removed itself.
    kill(asleep, "STOP");
    h1.run(&["node", "rm", "h3"]).ok();
    kill(asleep, "CONT");
    until("it is told when it wakes", || removed_by(h3).as_deref() == Some("h1"));
    let alone = fails(h1.run(&["--json", "node", "rm", "h1"]), "only_member");
    assert!(alone.contains("--stop-tasks"), "{alone}");
}

#[test]
fn of_two_that_removed_each_other_all_keep_the_one_nearer_to_the_founder() {
    let hosts = cluster(3);
    let [h1, h2, h3] = hosts.as_slice() else { panic!("three hosts") };
    // h2 has not heard of it yet when it removes the other.
    let asleep = h2.agent();
    let own = fails(h2.run(&["--json", "node", "rm", "h2"]), "own_removal");
    assert!(own.contains("another member"), "{own}");
    let undecided = fails(h2.run(&["--json", "node", "rm", "h1"]), "grants_undecided");
    assert!(undecided.contains("h2") && undecided.contains("h3"), "{undecided}");
    kill(asleep, "STOP");
    let mut late = h2.command(&["node", "rm", "--keep-grants", "h1"]).spawn().expect("asks");
    h1.run(&["node", "rm", "h2"]).ok();
    kill(asleep, "CONT");
    late.wait().expect("is answered");
    for host in [h1, h3] {
        until("they agree", || states(host) == "h1 ready, h3 ready, h2 removed");
    }
    until("the other knows", || removed_by(h2).as_deref() == Some("h1"));
    assert_eq!(removed_by(h1), None);
}

#[test]
fn the_founder_may_be_removed_and_the_others_go_on() {
    let hosts = cluster(3);
    let [h1, h2, h3] = hosts.as_slice() else { panic!("three hosts") };
    let told = h2.run(&["node", "rm", "--keep-grants", "h1"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.err.contains("founded") && told.err.contains("undo"), "{told:?}");
    until("it knows", || removed_by(h1).as_deref() == Some("h2"));
    for host in [h2, h3] {
        until("the others stay", || states(host) == "h2 ready, h3 ready, h1 removed");
    }
    assert_eq!(h3.run(&["run", "--exec", "--", "true"]).code, 0);
    // Who was admitted through one that is removed without its grants is told how to return.
    let h4 = Host::new("h4");
    h4.join(&h3.invite(1));
    until("it is known", || states(h2).contains("h4 ready"));
    h2.run(&["node", "rm", "--drop-grants", "h3"]).ok();
    until("its guest is out", || states(h2).contains("h4 ungranted"));
    until("and knows through whom", || h4.json(&["status"])["removed"]["whom"]["name"] == "h3");
    let token = h2.invite(1);
    let early = fails(h4.run(&["--json", "join", &token]), "removed");
    assert!(early.contains("starling down, then starling join TOKEN"), "{early}");
    h4.run(&["down"]).ok();
    h4.join(&token);
    until("it is back", || states(h2).starts_with("h2 ready, h4 ready, "));
    until("for itself, too", || removed_by(&h4).is_none());
}

#[test]
fn invitations_are_listed_without_their_secret_and_taken_back_everywhere() {
    let hosts = cluster(2);
    let [h1, h2] = hosts.as_slice() else { panic!("two hosts") };
    let made = h1.json(&["invite", "--uses", "3", "--ttl", "10m"]);
    let token = made["token"].as_str().expect("a token").to_owned();
    let id = made["id"].as_str().expect("an id").to_owned();
    until("both list it", || {
        hosts.iter().all(|host| host.run(&["invite", "--list"]).ok().contains(&id[..12]))
    });
    let h3 = Host::new("h3");
    h3.join(&token);
    until("the other counts its use", || {
        let list = h2.json(&["invite", "ls"]);
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let it = items.iter().find(|it| it["id"] == id.as_str()).cloned().unwrap_or_default();
        it["used"] == 1 && it["uses"] == 3 && it["issuer"]["name"] == "h1" && it["state"] == "open"
    });
    let told = h2.run(&["invite", "--revoke", &id[..8]]);
    assert!(told.out.contains("revoked") && told.err.contains("1 joined"), "{told:?}");
    for host in &hosts {
        until("nobody lists it as open", || {
            !host.run(&["invite", "--list"]).ok().contains(&id[..12])
        });
        assert!(host.run(&["invite", "--list", "--all"]).ok().contains("revoked"));
    }
    let h4 = Host::new("h4");
    let refused = h4.run(&["join", &token]);
    assert!(refused.code == 1 && refused.err.contains("revoked"), "{refused:?}");
    fails(h1.run(&["--json", "invite", "--revoke", "ffffffff"]), "no_such_invitation");

    // Nothing that outlives the command has what admits: neither whole nor its secret part.
    let secret = secret_of(&token);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    // As a token holds it, and as it would stand in a text.
    let held = gossip_core::codec::to_cbor(&secret).expect("cbor");
    let whole = gossip_core::invite::Token::from_text(&token).expect("a token");
    let whole = gossip_core::codec::to_cbor(&whole).expect("cbor");
    assert!(whole.windows(held.len()).any(|window| window == held), "it would be found");
    let needles = [token.as_bytes(), &secret, &held, hex.as_bytes()];
    for host in hosts.iter().chain([&h3]) {
        assert!(is_alive(host.agent()));
        let of_all = |file: &str| -> Vec<u8> {
            let all = processes_of(host.data().parent().expect("a home")).into_iter();
            // One that ended meanwhile has nothing any more.
            all.flat_map(|pid| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default())
                .collect()
        };
        let (cmdline, environ) = (of_all("cmdline"), of_all("environ"));
        assert!(!cmdline.is_empty());
        let log = std::fs::read(host.data().join("agent.log")).expect("its log");
        let journal = std::fs::read(host.data().join("journal.redb")).expect("its journal");
        let list = host.run(&["--json", "invite", "--list", "--all"]).ok().into_bytes();
        for (what, bytes) in [
            ("arguments", cmdline),
            ("environment", environ),
            ("log", log),
            ("journal", journal),
            ("list", list),
        ] {
            for needle in needles {
                let found = bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{what} of {}", host.data().display());
            }
        }
    }
}

/// The seed in a token, as bytes: what signs a redemption.
fn secret_of(token: &str) -> Vec<u8> {
    #[derive(serde::Deserialize)]
    struct Half {
        secret: Vec<u8>,
    }
    let token = gossip_core::invite::Token::from_text(token).expect("a token");
    let bytes = gossip_core::codec::to_cbor(&token).expect("cbor");
    gossip_core::codec::from_cbor::<Half>(&bytes).expect("a secret").secret
}

#[test]
fn a_token_does_not_stay_in_the_arguments_of_whoever_joins() {
    let h1 = Host::new("h1");
    h1.up();
    let token = h1.invite(1);
    let h2 = Host::new("h2");
    // In the foreground the command itself is the agent.
    let mut agent = h2.command(&["join", "--foreground", &token]).spawn().expect("joins");
    until("it is a member", || states(&h1).contains("h2 ready"));
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", agent.id())).expect("its arguments");
    let words = String::from_utf8_lossy(&cmdline).replace('\0', " ");
    assert!(words.contains("join --foreground -") && !words.contains("sl1-"), "{words}");
    h2.run(&["down"]).ok();
    agent.wait().expect("ends");
}

#[test]
fn a_node_is_shown_in_full_with_who_admitted_it() {
    let hosts = cluster(2);
    let detail = hosts[0].json(&["node", "inspect", "h2"]);
    let chain: Vec<_> = detail["chain"].as_array().expect("a chain").iter().collect();
    assert!(chain.len() == 2 && chain[0]["name"] == "h1" && chain[1]["name"] == "h2", "{detail}");
    assert!(detail["over"] == "quic" || detail["over"] == "tcp", "{detail}");
    assert!(detail["answered_us"].as_u64().is_some_and(|us| us > 0), "{detail}");
    let id = detail["id"].as_str().expect("an id");
    let text = hosts[1].run(&["node", "inspect", &id[..8]]).ok();
    assert!(text.contains("h2") && text.contains("h1 > h2 (rank 1)"), "{text}");
    fails(hosts[0].run(&["--json", "node", "inspect", "nobody"]), "no_such_node");
    let status = hosts[0].run(&["status"]).ok();
    assert!(status.contains("heard    1 of 1 peers in the last 5 s"), "{status}");
}
