//! Examples of each command, shown by `--help` and by the manual.

use clap::Command;

/// A command's words, and lines to copy.
type Examples = (&'static [&'static str], &'static [&'static str]);

const EXAMPLES: &[Examples] = &[
    (&["dev"], &["carebell dev", "carebell dev --once --json"]),
    (&["testkit"], &["carebell testkit --json", "carebell testkit --port 4400"]),
    (&["run"], &["carebell run", "carebell run --only pipeline,dead-letters", "carebell --config carebell.toml run"]),
    (
        &["publish"],
        &[
            r#"carebell publish notification --json '{"recipients":[{"userId":"ana"}],"title":"Hello"}'"#,
            r#"carebell publish notification --job-id hello-1 --delay 5m --json '{"recipients":[{"userId":"ana"}],"title":"Hello"}'"#,
            "carebell publish --from jobs.jsonl",
        ],
    ),
    (&["migrate"], &["carebell migrate", "carebell migrate --care-tables"]),
    (&["streams", "check"], &["carebell streams check", "carebell streams check --dir streams --json"]),
    (&["streams", "apply"], &["carebell streams apply", "carebell streams apply --wait 5m"]),
    (&["streams", "upgrade"], &["carebell streams upgrade"]),
    (&["jobs", "show"], &["carebell jobs show dose-17", "carebell jobs show dose-17 --json"]),
    (
        &["jobs", "list"],
        &[
            "carebell jobs list --state failed --since 1h",
            "carebell jobs list --user ana --limit 100 --json",
            "carebell jobs list --queue deliver_web_push_critical --state held",
        ],
    ),
    (&["jobs", "delayed"], &["carebell jobs delayed --limit 20"]),
    (&["jobs", "cancel"], &["carebell jobs cancel dose-17 --by ana"]),
    (&["jobs", "retry"], &["carebell jobs retry dose-17 --dry-run", "carebell jobs retry dose-17 --by ana"]),
    (
        &["explain"],
        &[
            "carebell explain --user ana --medication metformin --at 2026-12-01T09:00",
            "carebell explain --user ana --shift night-17 --json",
            "carebell explain --user ana --since 48h",
        ],
    ),
    (&["queues", "list"], &["carebell queues list", "carebell queues list --json"]),
    (
        &["queues", "pause"],
        &[
            "carebell queues pause notification_bulk --until 2h --reason 'wrong text'",
            "carebell queues pause --channel web_push --reason 'new keys'",
            "carebell queues pause --provider fcm.googleapis.com --until 30m --reason 'their outage'",
        ],
    ),
    (&["queues", "resume"], &["carebell queues resume notification_bulk", "carebell queues resume --channel web_push"]),
    (
        &["queues", "show"],
        &["carebell queues show reminder_medication", "carebell queues show notification_bulk --json"],
    ),
    (
        &["queues", "empty"],
        &[
            "carebell queues empty notification_bulk --reason 'wrong text'",
            "carebell queues empty notification_bulk --count 4711 --reason 'wrong text'",
        ],
    ),
    (
        &["operations", "preview"],
        &[
            "carebell operations preview retry --died-of exhausted --since 2h",
            "carebell operations preview cancel --state held --queue deliver_sms_normal",
        ],
    ),
    (
        &["operations", "start"],
        &[
            "carebell operations start retry --died-of exhausted --since 2h --count 312 --reason 'their outage is over'",
            "carebell operations start cancel --state delayed --application board --count 12 --reason 'moved' --detach",
        ],
    ),
    (&["operations", "run"], &["carebell operations run 7"]),
    (&["operations", "list"], &["carebell operations list --json"]),
    (&["operations", "show"], &["carebell operations show 7"]),
    (&["operations", "cancel"], &["carebell operations cancel 7 --by ana"]),
    (&["workers", "list"], &["carebell workers list", "carebell workers list --json"]),
    (
        &["dead-letters", "list"],
        &["carebell dead-letters list --limit 20", "carebell dead-letters list --reason exhausted --json"],
    ),
    (&["dead-letters", "show"], &["carebell dead-letters show 17", "carebell dead-letters show dose-17"]),
    (
        &["dead-letters", "redrive"],
        &["carebell dead-letters redrive 17", "carebell dead-letters redrive --all --rate 50/s --dry-run"],
    ),
    (&["dead-letters", "discard"], &["carebell dead-letters discard 17 --why 'published by mistake'"]),
    (
        &["schedules", "preview"],
        &[
            "carebell schedules preview '0 9 * * 1-5' --tz Europe/London",
            "carebell schedules preview '30 2 * * *' --tz Europe/Berlin --from 2027-03-26 -n 5",
        ],
    ),
    (
        &["schedules", "add"],
        &[
            r#"carebell schedules add daily --cron '0 9 * * *' --tz Europe/London --kind notification --json '{"recipients":[{"userId":"ana"}],"title":"Good morning"}'"#,
        ],
    ),
    (&["schedules", "list"], &["carebell schedules list", "carebell schedules list --owner medication:metformin"]),
    (&["schedules", "show"], &["carebell schedules show daily"]),
    (&["schedules", "pause"], &["carebell schedules pause daily"]),
    (&["schedules", "resume"], &["carebell schedules resume daily"]),
    (&["schedules", "delete"], &["carebell schedules delete daily"]),
    (&["schedules", "run-now"], &["carebell schedules run-now daily"]),
    (&["admin"], &["carebell admin"]),
    (&["gateway"], &["carebell gateway"]),
    (
        &["gateway", "tokens", "add"],
        &[
            "carebell gateway tokens add billing --kinds notification",
            "carebell gateway tokens add board --application board --kinds notification,reminder.* --rate 500",
        ],
    ),
    (&["gateway", "tokens", "list"], &["carebell gateway tokens list"]),
    (&["gateway", "tokens", "revoke"], &["carebell gateway tokens revoke billing"]),
    (&["tokens", "add"], &["carebell tokens add ana --role operator --expires 90days"]),
    (&["tokens", "list"], &["carebell tokens list"]),
    (&["tokens", "revoke"], &["carebell tokens revoke ana"]),
    (&["keys", "generate"], &["carebell keys generate >> carebell.env"]),
    (&["doctor"], &["carebell doctor", "carebell doctor --offline --json", "carebell doctor --producer app.creds"]),
    (&["completions"], &["carebell completions bash > /etc/bash_completion.d/carebell"]),
    (&["manual"], &["carebell manual /usr/local/share/man/man1"]),
];

/// A command whose `--help` ends with examples.
pub(super) fn add_to(command: Command) -> Command {
    let mut whole = command;
    for (words, lines) in EXAMPLES {
        let text = format!("Examples:\n  {}", lines.join("\n  "));
        whole = at(whole, words, text);
    }
    whole
}

fn at(command: Command, words: &[&'static str], text: String) -> Command {
    match words {
        [] => command.after_help(text),
        [word, rest @ ..] => command.mut_subcommand(word, |inner| at(inner, rest, text)),
    }
}

/// All commands that do something, each by its words.
pub(super) fn leaves(command: &Command) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let name = inner.get_name().to_owned();
        if inner.has_subcommands() {
            let below = leaves(inner).into_iter();
            found.extend(below.map(|words| [vec![name.clone()], words].concat()));
        }
        if !inner.is_subcommand_required_set() {
            found.push(vec![name]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use clap::{Arg, CommandFactory};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_command_has_examples_and_each_example_is_a_command() {
        let has: BTreeSet<Vec<String>> =
            EXAMPLES.iter().map(|(words, _)| words.iter().map(ToString::to_string).collect()).collect();
        let all: BTreeSet<Vec<String>> = leaves(&Cli::command()).into_iter().collect();
        assert_eq!(has, all);
        for (words, lines) in EXAMPLES {
            for line in *lines {
                let arguments = shlex::split(line.split(" >").next().unwrap()).unwrap();
                let matches =
                    Cli::command().try_get_matches_from(&arguments).unwrap_or_else(|why| panic!("{line}: {why}"));
                let mut inner = &matches;
                for word in *words {
                    let (name, next) = inner.subcommand().unwrap();
                    assert_eq!(name, *word, "{line}");
                    inner = next;
                }
            }
        }
    }

    #[test]
    fn the_page_of_commands_names_each_command_and_each_exit_code() {
        let page = fs::read_to_string("docs/COMMANDS.md").unwrap();
        let named: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `carebell "))
            .filter_map(|row| row.split('`').next())
            .collect();
        let all: BTreeSet<String> = leaves(&Cli::command()).into_iter().map(|words| words.join(" ")).collect();
        assert_eq!(named, all.iter().map(String::as_str).collect());
    }

    #[test]
    fn whatever_prints_a_result_can_print_json() {
        let mut command = Cli::command();
        command.build();
        for words in leaves(&command) {
            let mut inner = &command;
            for word in &words {
                inner = inner.find_subcommand(word).unwrap();
            }
            let prints_nothing_else =
                ["run", "admin", "gateway", "dev", "completions", "manual"].contains(&words.join(" ").as_str());
            let output = inner.get_arguments().any(|argument: &Arg| argument.get_id() == "output");
            assert!(output || prints_nothing_else, "{} has no --output", words.join(" "));
        }
    }
}
