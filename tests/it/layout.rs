//! The rules of the source tree: directions of imports, working links, and kinds, consumers, tests and docs as one
//! set.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use carebell::{
    config, jobs,
    kind::{CANCEL, DELAYED, Kind, Stage},
    plan::Channel,
    wire,
};

mod circles;
mod headers;
mod links;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Names forbidden in a part, with the reason.
const FORBIDDEN: &[(&[&str], &str, &str)] = &[
    (&["clock", "kind", "plan", "policy", "wire", "text", "checkpoint"], "crate::store", "the vocabulary stands alone"),
    (
        &["clock", "kind", "plan", "policy", "wire", "text", "checkpoint"],
        "crate::effects",
        "the vocabulary stands alone",
    ),
    (&["store"], "crate::effects", "SQL knows nothing of what is done with it"),
    (&["store"], "crate::pipeline", "SQL knows nothing of what is done with it"),
    (
        &["store", "channels", "effects", "dead_letter", "job", "streams", "templates"],
        "crate::jobs",
        "kinds are known only above",
    ),
    (&["channels", "job", "jobs", "store"], "crate::effects", "work decides, and leaves effects to its plan"),
    (&["channels"], "crate::store", "a channel sends; it does not look things up"),
    (&["effects", "dead_letter", "channels"], "crate::pipeline", "nothing below the pipeline settles"),
    (&["templates"], "crate::store", "a text is made of what the job gives"),
    (&["templates"], "crate::effects", "a text is made of what the job gives"),
    (&["templates"], "crate::pipeline", "a text is made of what the job gives"),
    (&["schedule"], "crate::store", "when a schedule is due is reckoned, not looked up"),
    (&["schedule"], "crate::effects", "when a schedule is due is reckoned, not looked up"),
    (&["schedule"], "crate::pipeline", "when a schedule is due is reckoned, not looked up"),
    (&["telemetry"], "crate::store", "who has something to count counts it; telemetry asks nobody"),
    (&["telemetry"], "crate::pipeline", "who has something to count counts it; telemetry asks nobody"),
    (&["telemetry"], "crate::effects", "who has something to count counts it; telemetry asks nobody"),
    (&["telemetry"], "crate::channels", "who has something to count counts it; telemetry asks nobody"),
    (&["pipeline", "effects", "dead_letter", "channels", "store", "jobs", "job"], "crate::cli", "only main names it"),
    (&["pipeline", "effects", "dead_letter", "channels", "store", "jobs", "job"], "crate::worker", "it ties all"),
    (&["pipeline", "effects", "dead_letter", "channels", "store", "jobs", "job"], "crate::dev", "not in production"),
];

/// Who may name a library: a part, or a folder of one.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("async_nats", &["pipeline", "effects", "dead_letter", "intake", "streams", "dev", "nats", "worker"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_proto", &["dev"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("reqwest", &["channels", "telemetry", "admin/oidc"]),
    ("jsonwebtoken", &["admin/oidc"]),
    ("lettre", &["channels/email"]),
    ("object_store", &["documents"]),
    ("cron", &["schedule"]),
    ("minijinja", &["templates", "channels/email"]),
    ("prometheus", &["telemetry"]),
    ("rustix", &["doctor"]),
];

/// All of this program that a part may name, where the list is short.
const MAY_IMPORT: &[(&str, &[&str])] = &[(
    "scheduler",
    &[
        "checkpoint",
        "clock",
        "effects::submit",
        "health",
        "kind",
        "meta",
        "schedule",
        "scheduler",
        "store",
        "text",
        "wire",
    ],
)];

/// A source file: its part (`pipeline` for `src/pipeline.rs` and all below `src/pipeline/`) and its lines of code.
struct Source {
    path: PathBuf,
    part: String,
    code: Vec<String>,
}

/// Each file of `src/`: its path below it, and its text.
fn rust_files() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let src = Path::new(ROOT).join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    let file = |path: PathBuf| (path.strip_prefix(&src).unwrap().to_owned(), fs::read_to_string(&path).unwrap());
    paths.into_iter().map(file).collect()
}

fn sources() -> Vec<Source> {
    let source = |(path, text): (PathBuf, String)| {
        let part = path.iter().next().unwrap().to_string_lossy();
        let part = part.trim_end_matches(".rs").to_owned();
        Source { path: Path::new("src").join(path), part, code: code(&text) }
    };
    rust_files().into_iter().map(source).collect()
}

/// The paths that code names, one a line, with `use` trees spelt out.
fn code(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut lines: Vec<String> = code.lines().map(str::to_owned).collect();
    for item in code.split(';') {
        // The last line that begins with `use`, whatever block it is in; not the word in a text.
        let starts = |line: &str| {
            let line = line.trim_start();
            ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
                .into_iter()
                .find_map(|word| line.strip_prefix(word))
                .map(str::len)
        };
        let mut rest = item.len();
        for line in item.split('\n').collect::<Vec<_>>().into_iter().rev() {
            if let Some(length) = starts(line) {
                let tree = &item[rest - length..];
                expand("", &tree.split_whitespace().collect::<String>(), &mut lines);
                break;
            }
            rest = rest.saturating_sub(line.len() + 1);
        }
    }
    lines
}

/// `crate::{a::{b,c},d}` → `crate::a::b`, `crate::a::c`, `crate::d`
fn expand(prefix: &str, tree: &str, into: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        into.push(format!("{prefix}{tree}"));
        return;
    };
    let head = format!("{prefix}{}", &tree[..open]);
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if start < at {
                    expand(&head, &inner[start..at], into);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn breaches(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for line in &source.code {
            for (parts, path, reason) in FORBIDDEN {
                let names = line.contains(&format!("{path}::")) || line.trim_end().ends_with(path);
                if parts.contains(&source.part.as_str()) && names {
                    found.push(format!("{}: `{path}` ({reason})", source.path.display()));
                }
            }
            for (part, allowed) in MAY_IMPORT.iter().filter(|(part, _)| *part == source.part) {
                for named in line.split("crate::").skip(1) {
                    // A tree is spelt out on lines of its own.
                    if named.trim_start_matches(|c| is_word(c) || c == ':').starts_with('{') {
                        continue;
                    }
                    let is = |path: &&str| named.strip_prefix(path).is_some_and(|rest| !rest.starts_with(is_word));
                    if !allowed.iter().any(is) {
                        found.push(format!("{}: {part} names `crate::{named}`", source.path.display()));
                    }
                }
            }
            for (library, parts) in MAY_NAME {
                let names = line.contains(&format!("{library}::")) || line.trim() == format!("use {library}");
                let path = source.path.to_string_lossy();
                let is_in = |place: &&str| **place == source.part || path.contains(&format!("src/{place}/"));
                if names && !parts.iter().any(is_in) {
                    found.push(format!("{}: `{library}` (only {parts:?} name it)", source.path.display()));
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn imports_go_one_way() {
    assert_eq!(breaches(&sources()), Vec::<String>::new());
}

#[test]
fn a_forbidden_import_is_found() {
    let source = |part: &str, text: &str| Source { path: part.into(), part: part.into(), code: code(text) };
    let breaching = [
        source("effects", "use crate::jobs::registry;"),
        source("effects", "use crate::{\n    clock::Clock,\n    jobs,\n};"),
        source("channels", "use crate::{kind::{Kind, Lane}, jobs::{self, notification}};"),
        source("jobs", "fn f() { crate::effects::publish::send(); }"),
        source("jobs", "use sqlx::Row;"),
        source("http", "use async_nats::{self, jetstream};"),
        source("store", "pub(crate) use crate::pipeline::Registry;"),
        source("scheduler", "use crate::{store::Store, jobs};"),
        source("scheduler", "use crate::effects::{submit::submit, Effects};"),
        source("scheduler", "fn f() { crate::stores::go(); }"),
        source("schedule", "use crate::store::Store;"),
        source("schedule", "use sqlx::Row;"),
        source("cli", "fn f() { cron::Schedule::from_str(); }"),
        source("channels", "use lettre::Address;"),
        source("channels", "use minijinja::Environment;"),
        source("templates", "use crate::store::Store;"),
        source("pipeline", "use prometheus::Counter;"),
        source("telemetry", "use crate::store::Store;"),
    ];
    for one in breaching {
        assert_eq!(breaches(std::slice::from_ref(&one)).len(), 1, "in {}: {:?}", one.part, one.code);
    }
    let fine = source("effects", "// crate::jobs is not for here\nuse crate::{job::Meta, store::Store};");
    let also = source("scheduler", "use crate::{effects::submit::{Producer, submit}, store, wire};");
    assert_eq!(breaches(&[fine, also]), Vec::<String>::new());
}

/// Both come with web-push. A worker seals with aws-lc-rs; `carebell dev` and unit tests open with `ece`, as another
/// implementation.
#[test]
fn a_worker_uses_no_second_cryptography() {
    for (path, text) in rust_files() {
        let code = circles::code(&text);
        let names =
            |library: &str| code.match_indices(&format!("{library}::")).any(|(at, _)| !code[..at].ends_with(is_word));
        let is_dev = path.starts_with("dev");
        assert!(is_dev || !["ece", "openssl"].into_iter().any(names), "{}", path.display());
    }
}

#[test]
fn only_settle_acknowledges_and_only_the_consumer_pulls() {
    for source in sources() {
        let name = source.path.file_name().unwrap().to_string_lossy().into_owned();
        let text = source.code.join("\n");
        for (call, files) in [
            (".acknowledge(", &["settle.rs"][..]),
            (".terminate(", &["settle.rs"]),
            // The advisories are no jobs: their handler is small and stands alone.
            (".ack_with(", &["message.rs", "advisories.rs"]),
            (".fetch()", &["advisories.rs"]),
            ("Pull::ask(", &["consumer.rs"]),
        ] {
            assert!(!text.contains(call) || files.contains(&name.as_str()), "{}: {call}", source.path.display());
        }
    }
}

#[test]
fn kinds_consumers_and_tests_are_the_same_set() {
    let registry = jobs::registry();
    let (channels, others): (Vec<Kind>, Vec<Kind>) =
        registry.kinds().iter().partition(|kind| kind.stage == Stage::Delivery);
    let expected: Vec<Kind> = Channel::ALL.into_iter().map(Channel::kind).collect();
    assert_eq!(channels, expected, "src/jobs.rs has a delivery by each channel of src/plan.rs");
    let expected: BTreeSet<String> = registry
        .kinds()
        .iter()
        .flat_map(Kind::queues)
        .chain([DELAYED, CANCEL])
        .flat_map(|queue| streams_of(queue.kind).iter().map(move |stream| format!("{stream}.{}.json", queue.durable())))
        .collect();
    let consumers: BTreeSet<String> = fs::read_dir(Path::new(ROOT).join("streams"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| {
            name.matches('.').count() == 2 && !name.starts_with("ADVISORIES.") && !name.starts_with("EVENTS.")
        })
        .collect();
    assert_eq!(consumers, expected, "streams/ has a consumer file for each queue and stream");

    let main = fs::read_to_string(Path::new(ROOT).join("tests/it/main.rs")).unwrap();
    let jobs: BTreeSet<String> = fs::read_dir(Path::new(ROOT).join("src/jobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let kinds: BTreeSet<String> = registry.kinds().iter().map(|kind| kind.name.replace('.', "_")).collect();
    let mut expected: BTreeSet<String> = others.iter().map(|kind| kind.name.replace('.', "_")).collect();
    expected.insert("deliver".into());
    assert_eq!(jobs, expected, "src/jobs has one file for each kind, and one for all deliveries");
    for channel in Channel::ALL {
        let name = wire::Channel::from_str_name(channel.name());
        assert!(name.is_some(), "a job cannot name {channel:?}: it is missing in proto/carebell/v1/jobs.proto");
    }
    for kind in channels {
        let folder = kind.name.trim_start_matches("deliver.");
        let path = format!("src/channels/{folder}/mod.rs");
        assert!(Path::new(ROOT).join(&path).is_file(), "{path} is missing: a channel is a folder");
    }
    for kind in registry.kinds().iter().filter(|kind| kind.stage == Stage::Reminder) {
        let path = format!("src/templates/en/{kind}.txt");
        assert!(Path::new(ROOT).join(&path).is_file(), "{path} is missing");
    }
    for kind in kinds {
        assert!(Path::new(ROOT).join(format!("tests/it/{kind}.rs")).is_file(), "tests/it/{kind}.rs is missing");
        assert!(main.contains(&format!("\nmod {kind};")), "tests/it/main.rs lacks `mod {kind};`");
    }
}

/// The streams that hold jobs of a kind.
fn streams_of(kind: Kind) -> &'static [&'static str] {
    match kind.stage {
        Stage::Delivery => &["DELIVERIES"],
        Stage::Maintenance => &["WORK"],
        // Declared kinds, which have no files in `streams/`, are in no registry of the program.
        Stage::Reminder | Stage::Notification | Stage::Task => &["JOBS", "WORK"],
        Stage::Delay => &["JOBS"],
    }
}

fn consumer_file(stream: &str, durable: &str) -> serde_json::Value {
    let path = Path::new(ROOT).join(format!("streams/{stream}.{durable}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn each_consumer_filters_the_subject_of_its_queue() {
    for kind in jobs::registry().kinds() {
        for queue in kind.queues() {
            let files: Vec<serde_json::Value> = streams_of(*kind)
                .iter()
                .map(|stream| {
                    let mut json = consumer_file(stream, &queue.durable());
                    let subject = if *stream == "JOBS" { queue.intake_subject() } else { queue.subject() };
                    assert_eq!(json["filter_subject"].take(), subject);
                    json
                })
                .collect();
            assert!(files.iter().all(|file| *file == files[0]), "{}: one policy in all streams", queue.durable());
            let metadata = &files[0]["metadata"];
            let most = metadata.get("carebell.max_attempts").unwrap_or(&metadata["carebell.attempts"]);
            let attempts: i64 = most.as_str().unwrap().parse().unwrap();
            let deliveries = &files[0]["max_deliver"];
            assert_eq!(*deliveries, attempts + 10, "{}: the net under the recorded attempts", queue.durable());
        }
    }
}

#[test]
fn the_configuration_page_names_every_variable() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/CONFIGURATION.md")).unwrap();
    for (variable, _) in config::VARIABLES.iter().chain(config::OTEL_VARIABLES) {
        let documented = page.contains(&format!("`{variable}`"));
        assert_eq!(documented, !variable.starts_with("CAREBELL_"), "{variable}");
    }
}

/// The page is the list of the field's cases.
#[test]
fn the_field_page_names_every_test_of_the_field() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/FIELD.md")).unwrap();
    let files = fs::read_dir(Path::new(ROOT).join("tests/it/field")).unwrap().map(|entry| entry.unwrap().path());
    let mut tests = Vec::new();
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text = fs::read_to_string(&file).unwrap();
        for part in text.split("test]\n").skip(1) {
            let name = part.split_once("fn ").unwrap().1.split('(').next().unwrap();
            tests.push(name.to_owned());
        }
    }
    let rows = page.lines().filter_map(|line| line.strip_suffix("` |")?.rsplit('`').next().map(str::to_owned));
    let listed: BTreeSet<String> = rows.filter(|cell| !cell.contains('/')).collect();
    assert_eq!(listed, tests.into_iter().collect());
}

#[test]
fn every_file_that_the_docs_name_is_there() {
    for doc in [
        "README.md",
        "docs/ARCHITECTURE.md",
        "docs/RELIABILITY.md",
        "docs/PRODUCERS.md",
        "docs/INBOX.md",
        "docs/OPERATIONS.md",
        "docs/SCHEDULES.md",
        "docs/TEMPLATES.md",
        "docs/METRICS.md",
        "docs/CHANNELS.md",
        "docs/CONFIGURATION.md",
        "docs/FIELD.md",
        "docs/SECURITY_MODEL.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        let text = fs::read_to_string(Path::new(ROOT).join(doc)).unwrap();
        for word in text.split(['`', ' ', '(', ')', '\n', ',']) {
            let is_path = ["src/", "tests/", "docs/", "streams/", "proto/", "migrations/", "helm/", "image/"]
                .iter()
                .any(|at| word.starts_with(at));
            if is_path && !word.contains(['<', '*', '{', '…']) {
                let path = word.split('#').next().unwrap_or_default().trim_end_matches(['.', ':', ';']);
                assert!(Path::new(ROOT).join(path).exists(), "{doc} names {word}");
            }
        }
    }
}

/// A guide's example is a diff: the file has its context lines in order, and an added migration comes after the
/// existing ones.
#[test]
fn the_guides_fit_the_files_that_they_change() {
    let migrations: Vec<String> = fs::read_dir(Path::new(ROOT).join("migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    for (guide, least) in [("docs/ADDING_A_JOB.md", 8), ("docs/ADDING_A_CHANNEL.md", 15)] {
        let text = fs::read_to_string(Path::new(ROOT).join(guide)).unwrap();
        let diff = text.split("```diff\n").nth(1).unwrap().split("\n```").next().unwrap();
        let mut file: Vec<String> = Vec::new();
        let mut checked = 0;
        for line in diff.lines() {
            if let Some(path) = line.strip_prefix("--- a/") {
                let there = fs::read_to_string(Path::new(ROOT).join(path));
                file = there.unwrap_or_else(|_| panic!("{guide} names {path}")).lines().map(str::to_owned).collect();
            } else if line.starts_with("--- /dev/null") {
                file.clear();
            } else if let Some(number) = line.strip_prefix("+++ b/migrations/").and_then(|name| name.split('_').next())
            {
                let taken = migrations.iter().find(|name| name.starts_with(&format!("{number}_")));
                assert_eq!(taken, None, "{guide} adds a migration of a number that is taken");
            } else if let Some(there) =
                line.strip_prefix(' ').or(line.strip_prefix('-')).filter(|line| !line.is_empty())
            {
                let at = file.iter().position(|known| known == there);
                let at =
                    at.unwrap_or_else(|| panic!("{guide} shows a line that is not there, or not there yet: {there}"));
                file.drain(..=at);
                checked += 1;
            }
        }
        assert!(checked >= least, "{guide}: {checked} lines of context");
    }
}
