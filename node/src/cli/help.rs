//! The help that `starling --help` prints: all commands, in groups, on one screen.
//!
//! The sentences are the commands' own, so that they cannot differ; a command
//! that is in no group fails a test.

use std::fmt::Write as _;

use clap::Command;

const GROUPS: [(&str, &[&str]); 6] = [
    ("Jobs", &["run", "ps", "jobs", "logs", "wait", "stop", "rm"]),
    ("Running tasks", &["exec", "cp", "attach", "kill", "pause", "unpause", "stats", "top"]),
    ("Images", &["image", "bundle"]),
    ("Explanations", &["status", "why", "events"]),
    ("Cluster", &["invite", "login", "node"]),
    ("This host", &["up", "join", "down", "agent", "doctor", "runtime", "demo", "version"]),
];

/// Gives the command its help.
pub(crate) fn grouped(command: Command) -> Command {
    let text = text(&command);
    command.help_template(format!(
        "{{about}}\n\nUsage: starling [OPTIONS] COMMAND …\n\n{text}\nGlobal options:\n{{options}}\n\n\
         `starling COMMAND --help` shows flags and examples. First steps:\n  \
         starling up && starling run --exec -- echo hello\n"
    ))
}

fn text(command: &Command) -> String {
    let mut text = String::new();
    for (group, names) in GROUPS {
        let _infallible = writeln!(text, "{group}:");
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _infallible = writeln!(text, "  {name:<9}{about}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    #[test]
    fn every_command_is_in_one_group_and_explains_itself_with_examples() {
        let command = command();
        let grouped: Vec<&str> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let name = sub.get_name();
            assert_eq!(grouped.iter().filter(|n| **n == name).count(), 1, "{name}");
            assert!(sub.get_about().is_some(), "{name}");
            let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            let count = examples.lines().filter(|line| line.contains("starling")).count();
            assert!((2..=3).contains(&count), "{name} has {count} examples");
        }
        for name in grouped {
            assert!(command.find_subcommand(name).is_some_and(|sub| !sub.is_hide_set()), "{name}");
        }
    }

    #[test]
    fn the_top_help_fits_one_screen() {
        let help = command().render_help().to_string();
        assert!(help.lines().count() <= 56, "{} lines\n{help}", help.lines().count());
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}
