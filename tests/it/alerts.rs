//! Alert rules, dashboard and docs name only existing metrics. Each alert has a test (`helm/check-rules`) and a
//! runbook.

use std::{collections::BTreeSet, fmt::Write as _, fs, io::Write as _, path::Path, process::Command};

use carebell::{
    pipeline::punctuality::OBJECTIVE,
    telemetry::names::{Metric, Spec},
};
use serde_json::{Value, json};

use crate::support::not_checked;

/// Names of metrics in a text. Series of a histogram count as the histogram.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_name = |word: &&str| ["carebell_", "messaging_", "process_"].iter().any(|start| word.starts_with(start));
    let bare = |word: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|ending| word.strip_suffix(ending));
        histogram.unwrap_or(word).to_owned()
    };
    words.filter(is_name).map(bare).collect()
}

/// Begins the names of recorded series.
const RECORDED: &str = "carebell:";

fn known() -> BTreeSet<String> {
    Metric::ALL.iter().map(|metric| metric.spec().name.to_owned()).collect()
}

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn labels(query: &str) -> BTreeSet<String> {
    let within = |start: &str, end: char| -> Vec<String> {
        let parts = query.split(start).skip(1).map(|rest| rest.split(end).next().unwrap().to_owned());
        parts.collect()
    };
    let grouped = within("by (", ')').into_iter().chain(within("on (", ')'));
    let grouped = grouped.flat_map(|list| list.split(',').map(|label| label.trim().to_owned()).collect::<Vec<_>>());
    let selectors = within("{", '}');
    let selected =
        selectors.iter().flat_map(|list| list.split(',')).filter_map(|selector| selector.split_once(['=', '!']));
    grouped.chain(selected.map(|(label, _)| label.trim().to_owned())).collect()
}

fn expressions() -> Vec<String> {
    let rules = file("helm/carebell/files/rules.yaml");
    let expression = |rest: &str| rest.split("labels:\n").next()?.split("- record:").next().map(str::to_owned);
    rules.split("expr: ").skip(1).filter_map(expression).collect()
}

/// Staging and production may share one Prometheus. The chart replaces `.*` with its namespace.
#[test]
fn each_series_is_asked_for_within_a_namespace() {
    let dashboard: Value = serde_json::from_str(&file("helm/carebell/files/dashboard.json")).unwrap();
    for (queries, scope) in
        [(expressions(), r#"{namespace=~".*""#), (queries(&dashboard), r#"{namespace="$namespace""#)]
    {
        for query in queries {
            for start in ["carebell_", "messaging_", "process_", RECORDED] {
                for (at, _) in query.match_indices(start) {
                    let is_name = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
                    let behind = query[at..].trim_start_matches(is_name);
                    assert!(behind.starts_with(scope), "{query}");
                }
            }
        }
    }
}

#[test]
fn queries_use_labels_that_their_metrics_have() {
    let dashboard: Value = serde_json::from_str(&file("helm/carebell/files/dashboard.json")).unwrap();
    for query in queries(&dashboard).into_iter().chain(expressions()) {
        let metrics = Metric::ALL.map(Metric::spec).into_iter();
        let metrics: Vec<Spec> = metrics.filter(|spec| named(&query).contains(spec.name)).collect();
        assert!(!metrics.is_empty() || query.contains(RECORDED), "{query}");
        for label in labels(&query) {
            // `le` is a label of buckets. Prometheus adds the others.
            let known = ["le", "instance", "job", "namespace"].contains(&label.as_str());
            assert!(known || metrics.iter().any(|spec| spec.labels.contains(&label.as_str())), "{label} in {query}");
        }
    }
}

#[test]
fn rules_and_dashboard_name_only_what_is_there() {
    let rules = file("helm/carebell/files/rules.yaml");
    let dashboard: Value = serde_json::from_str(&file("helm/carebell/files/dashboard.json")).unwrap();
    let queries = queries(&dashboard);
    assert!(queries.len() > 25, "{}", queries.len());
    for text in queries.iter().chain([&rules, &file("helm/carebell/files/rules_test.yaml"), &file("docs/METRICS.md")]) {
        let unknown: Vec<String> = named(text).difference(&known()).cloned().collect();
        assert_eq!(unknown, [""; 0], "in {text}");
    }
    // promtool checks the dashboard's queries as rules. Grafana fills in the span.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "groups:\n- name: dashboard\n  rules:").unwrap();
    for (number, query) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m");
        writeln!(file, "  - record: query_{number}\n    expr: {}", json!(query)).unwrap();
    }
    let Ok(checked) = Command::new("promtool").args(["check", "rules"]).arg(file.path()).output() else {
        return not_checked("promtool is not at hand (Debian: package prometheus): the queries' syntax is not checked");
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_docs_have_each_metric_and_what_to_do_at_each_alert() {
    let docs = file("docs/METRICS.md");
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in Metric::ALL {
        let Spec { name, r#type, labels, help, .. } = metric.spec();
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(table, "| `{name}` | {} | {} | {help} |", r#type.name(), labels.join(", ")).unwrap();
    }
    assert!(docs.contains(&table), "docs/METRICS.md lacks this table:\n{table}");

    let rules = file("helm/carebell/files/rules.yaml");
    let tests = file("helm/carebell/files/rules_test.yaml");
    let operations = file("docs/OPERATIONS.md");
    let mut alerts = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        assert!(docs.contains(&format!("\n### {name}\n")), "{name} has no section");
        let runbook = format!("runbook: 'docs/METRICS.md#{}: ", name.to_lowercase());
        assert!(rule.contains(&runbook), "{name} has no runbook line");
        let severity = rule.split("severity: ").nth(1).unwrap().lines().next().unwrap();
        let row = format!("\n| [{name}](METRICS.md#{}) | {severity} | ", name.to_lowercase());
        assert!(operations.contains(&row), "docs/OPERATIONS.md lacks {row}");
        let tested = tests.split(&format!("alertname: {name}\n")).skip(1).any(|test| test.contains("exp_labels"));
        assert!(tested, "{name} is never raised in rules_test.yaml");
        alerts += 1;
    }
    assert_eq!(alerts, 19);
}

#[test]
fn the_rules_have_the_objective_of_the_code() {
    let seconds = OBJECTIVE.num_seconds();
    let bound = format!("le=~\"{seconds}|{seconds}.0\"");
    for (what, text) in [
        ("rules", file("helm/carebell/files/rules.yaml")),
        ("dashboard", file("helm/carebell/files/dashboard.json").replace('\\', "")),
    ] {
        let bounds = text.matches("le=~").count();
        assert!(bounds > 0 && text.matches(&bound).count() == bounds, "{what}");
    }
    let buckets = Metric::DueToAccepted.spec().buckets;
    assert!(buckets.contains(&OBJECTIVE.as_seconds_f64()), "{buckets:?}");
}
