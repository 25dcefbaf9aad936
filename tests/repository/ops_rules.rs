//! The alert rules and the dashboards of `ops/`, of a box and of many: Prometheus's own checker takes them, every alert is tried both ways, and whatever
//! they ask for is a metric that vtagd has, with labels that it has, or a rule beside it. Thresholds stand in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::common::daemon::root;
use crate::common::promtool::promtool;
use serde::Deserialize;
use serde_json::{Value, json};
use vtagd::metrics::{Kind, METRICS};

fn prometheus() -> PathBuf {
    root().join("ops/prometheus")
}

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    alert: String,
    #[serde(default)]
    record: String,
    expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct TestFile {
    tests: Vec<Scenario>,
}

#[derive(Deserialize)]
struct Scenario {
    alert_rule_test: Vec<Expectation>,
}

#[derive(Deserialize)]
struct Expectation {
    alertname: String,
    #[serde(default)]
    exp_alerts: Vec<Value>,
}

/// Files of rules; beside each lies its test.
const RULES: [&str; 2] = ["vtagd-alerts", "vtagd-fleet-alerts"];

fn all_rules() -> Vec<Rule> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(prometheus().join(format!("{name}.yaml"))).unwrap();
        let file: RuleFile = serde_yaml::from_str(&text).unwrap();
        file.groups.into_iter().flat_map(|group| group.rules).collect::<Vec<_>>()
    };
    RULES.into_iter().flat_map(read).collect()
}

/// The alerts.
fn rules() -> Vec<Rule> {
    all_rules().into_iter().filter(|rule| rule.record.is_empty()).collect()
}

/// The recording rules.
fn recording_rules() -> Vec<Rule> {
    all_rules().into_iter().filter(|rule| !rule.record.is_empty()).collect()
}

/// Every threshold with what it is of and its level.
fn thresholds() -> BTreeMap<(String, String), f64> {
    let rules = recording_rules().into_iter().filter(|rule| rule.record == THRESHOLD);
    let number = |expr: &str| expr.strip_prefix("vector(").and_then(|rest| rest.strip_suffix(')')).unwrap().parse();
    let all: Vec<_> = rules
        .map(|rule| ((rule.labels["of"].clone(), rule.labels["level"].clone()), number(&rule.expr).unwrap()))
        .collect();
    let map: BTreeMap<_, f64> = all.iter().cloned().collect();
    assert_eq!(map.len(), all.len(), "each stands once");
    map
}

/// What every threshold is recorded as.
const THRESHOLD: &str = "vtagd:threshold";

/// Of a box.
fn dashboard() -> Value {
    read_dashboard("vtagd-dashboard.json")
}

/// That, and the one of many boxes.
fn dashboards() -> [Value; 2] {
    [dashboard(), read_dashboard("vtagd-fleet-dashboard.json")]
}

fn read_dashboard(name: &str) -> Value {
    let text = std::fs::read_to_string(root().join("ops/grafana").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Panels that show something; headings of rows are none.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

/// Every query of a panel, with the words that Grafana replaces replaced.
fn queries(panel: &Value) -> Vec<(String, String)> {
    let query = |target: &Value| {
        let expr = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        (expr, target["legendFormat"].as_str().unwrap_or_default().to_owned())
    };
    panel["targets"].as_array().unwrap().iter().map(query).collect()
}

/// What an expression asks for.
#[derive(Debug, Default, PartialEq)]
struct Uses {
    /// Metrics, each with the labels it is chosen by.
    metrics: Vec<(String, BTreeSet<String>)>,
    /// Labels it is grouped, joined or summed by.
    groupings: BTreeSet<String>,
}

/// Names, and single characters that stand for themselves; strings, numbers and ranges of time are of no interest.
fn words(expr: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = expr.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                while let Some(c) = rest.next() {
                    match c {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '[' => while rest.next_if(|c| *c != ']').is_some() {},
            c if c.is_ascii_alphanumeric() || c == '_' || c == ':' => {
                let mut word = c.to_string();
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')) {
                    word.push(c);
                }
                if !c.is_ascii_digit() {
                    words.push(word);
                }
            }
            '{' | '}' | '(' | ')' => words.push(c.to_string()),
            _ => {}
        }
    }
    words
}

fn uses(expr: &str) -> Uses {
    let words = words(expr);
    let is_name = |word: &str| !matches!(word, "{" | "}" | "(" | ")");
    let until = |from: usize, end: &str| -> BTreeSet<String> {
        words[from..].iter().take_while(|word| *word != end).filter(|word| is_name(word)).cloned().collect()
    };
    let mut found = Uses::default();
    let mut at = 0;
    while at < words.len() {
        let next = words.get(at + 1).map_or("", String::as_str);
        match words[at].as_str() {
            "by" | "without" | "on" | "ignoring" | "group_left" | "group_right" if next == "(" => {
                found.groupings.extend(until(at + 2, ")"));
                while words[at] != ")" {
                    at += 1;
                }
            }
            "and" | "or" | "unless" | "bool" | "offset" => {}
            // Functions and sums; promtool knows whether there are such.
            name if is_name(name) && !matches!(next, "(" | "by" | "without") => {
                let mut labels = BTreeSet::new();
                if next == "{" {
                    labels = until(at + 2, "}");
                    while words[at] != "}" {
                        at += 1;
                    }
                }
                found.metrics.push((name.to_owned(), labels));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// What is wrong with an expression and the texts that show its labels; empty where nothing is.
fn problems(expr: &str, texts: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    let uses = uses(expr);
    let mut all: BTreeSet<String> = BTreeSet::new();
    for (name, chosen_by) in &uses.metrics {
        let Some(labels) = labels_of(name) else {
            problems.push(format!("vtagd has no metric {name}"));
            continue;
        };
        problems.extend(chosen_by.difference(&labels).map(|label| format!("{name} has no label {label}")));
        all.extend(labels);
    }
    if uses.metrics.is_empty() {
        problems.push("it asks for no metric".to_owned());
    }
    problems.extend(uses.groupings.difference(&all).map(|label| format!("no metric of it has the label {label}")));
    for text in texts {
        for shown in text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
            let shown = shown.trim().trim_start_matches("$labels.");
            if !shown.starts_with("$value") && !all.contains(shown) {
                problems.push(format!("{text:?} shows a label that there is not"));
            }
        }
    }
    problems
}

/// Labels of a metric as it is scraped, with those that Prometheus adds, or of a recording rule; `None` if there is neither.
fn labels_of(name: &str) -> Option<BTreeSet<String>> {
    let of_rules: Vec<Rule> = recording_rules().into_iter().filter(|rule| rule.record == name).collect();
    if !of_rules.is_empty() {
        // What it is grouped by is what is left; the others keep what they are made of.
        let labels = of_rules.into_iter().flat_map(|rule| {
            let Uses { metrics, groupings } = uses(&rule.expr);
            let kept =
                metrics.into_iter().filter(|_| groupings.is_empty()).flat_map(|(name, _)| labels_of(&name).unwrap());
            rule.labels.into_keys().chain(groupings.clone()).chain(kept.collect::<Vec<_>>()).collect::<Vec<_>>()
        });
        return Some(labels.collect());
    }
    let mut labels: BTreeSet<String> = ["job", "instance"].map(ToOwned::to_owned).into();
    if name == "up" {
        return Some(labels);
    }
    let (_, _, _, own, _) = METRICS.iter().find(|(known, kind, ..)| {
        let part = |suffix: &str| name.strip_suffix(suffix) == Some(known);
        match kind {
            Kind::Histogram => part("_bucket") || part("_sum") || part("_count"),
            Kind::Counter | Kind::Gauge => name == *known,
        }
    })?;
    labels.extend(own.split(", ").filter(|label| !label.is_empty()).map(ToOwned::to_owned));
    if name.ends_with("_bucket") {
        labels.insert("le".to_owned());
    }
    Some(labels)
}

#[test]
fn expressions_are_read_as_prometheus_reads_them_and_what_is_wrong_is_found() {
    let expr = r#"sum by (stream, reason) (rate(vtagd_frames_dropped_total{stream=~"a{b}\"[",reason!="x y"}[5m]))
        / on (stream) group_left () vtagd_stream_up > 0.5e3 and up offset 5m"#;
    let set = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let wanted = Uses {
        metrics: vec![
            ("vtagd_frames_dropped_total".into(), set(&["reason", "stream"])),
            ("vtagd_stream_up".into(), set(&[])),
            ("up".into(), set(&[])),
        ],
        groupings: set(&["reason", "stream"]),
    };
    assert_eq!(uses(expr), wanted);
    assert_eq!(problems(expr, &["{{ $labels.stream }} {{reason}} {{ $value | humanize }}"]), [] as [String; 0]);
    for (wrong, text) in [
        ("vtagd_streams_up", ""),
        ("vtagd_frame_latency_seconds", ""),
        ("vtagd_stream_up_sum", ""),
        ("vtagd_stream_up{reason=\"x\"}", ""),
        ("sum by (sink) (vtagd_stream_up)", ""),
        ("vtagd_stream_up", "{{ $labels.sink }}"),
        ("vector(1)", ""),
    ] {
        assert_eq!(problems(wrong, &[text]).len(), 1, "{wrong} {text}: {:?}", problems(wrong, &[text]));
    }
}

#[test]
fn the_alert_rules_are_taken_by_prometheus_and_do_what_their_tests_say() {
    for name in RULES {
        for arguments in [["check", "rules", &format!("{name}.yaml")], ["test", "rules", &format!("{name}-test.yaml")]]
        {
            let said = promtool(&prometheus(), &arguments, "").unwrap_or_else(|said| panic!("{arguments:?}: {said}"));
            assert!(said.contains("SUCCESS"), "{said}");
        }
    }
}

#[test]
fn every_alert_is_tried_both_where_it_must_fire_and_where_it_must_not() {
    let expected = |name: &str| {
        let text = std::fs::read_to_string(prometheus().join(format!("{name}-test.yaml"))).unwrap();
        let file: TestFile = serde_yaml::from_str(&text).unwrap();
        file.tests.into_iter().flat_map(|test| test.alert_rule_test).collect::<Vec<_>>()
    };
    let tried: Vec<Expectation> = RULES.into_iter().flat_map(expected).collect();
    let names: BTreeSet<String> = rules().into_iter().map(|rule| rule.alert).collect();
    for name in &names {
        let of_it = || tried.iter().filter(|tried| tried.alertname == *name);
        assert!(of_it().any(|tried| !tried.exp_alerts.is_empty()), "{name} is never seen to fire");
        assert!(of_it().any(|tried| tried.exp_alerts.is_empty()), "{name} is never seen not to fire");
    }
    // promtool takes a name that no rule has for an alert that does not fire.
    assert!(tried.iter().all(|tried| names.contains(&tried.alertname)));
}

#[test]
fn every_alert_has_a_severity_and_texts_and_asks_for_metrics_that_there_are() {
    let rules = rules();
    assert!(rules.len() >= 9);
    for Rule { alert, expr, labels, annotations, .. } in rules {
        assert!(matches!(&*labels["severity"], "info" | "warning" | "critical"), "{alert}");
        let texts = [annotations["summary"].as_str(), annotations["description"].as_str()];
        assert_eq!(problems(&expr, &texts), [] as [String; 0], "{alert}");
    }
}

#[test]
fn a_threshold_stands_in_one_place_and_every_alert_looks_there() {
    let thresholds = thresholds();
    let of = |name: &str, level: &str| thresholds.get(&(name.to_owned(), level.to_owned())).copied();
    assert_eq!((of("latency_seconds", "target"), of("cpu", "target")), (Some(0.1), Some(0.6)));
    assert_eq!((of("gpu_busy", "target"), of("gpu_busy", "alarm")), (Some(0.7), Some(0.3)));

    let mut looked_at = BTreeSet::new();
    for Rule { alert, expr, labels, .. } in rules() {
        for selector in expr.split("vtagd:threshold{").skip(1).map(|rest| rest.split('}').next().unwrap()) {
            let label = |name: &str| {
                selector.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned()
            };
            let level = label("level");
            assert_eq!(level == "target", labels["severity"] == "info", "{alert}: a missed target is told, no alarm");
            looked_at.insert((label("of"), level));
        }
        // What is left to compare with is yes, no, and nothing at all.
        let numbers =
            expr.split(['<', '>', '=']).skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
        let odd: Vec<f64> = numbers.filter(|number| ![0.0, 1.0].contains(number)).collect();
        assert_eq!(odd, [] as [f64; 0], "{alert} has a threshold of its own: {expr}");
    }
    assert_eq!(looked_at, thresholds.into_keys().collect(), "each is there, and each is used");
}

#[test]
fn every_recording_rule_asks_for_metrics_that_there_are() {
    for Rule { record, expr, .. } in recording_rules().into_iter().filter(|rule| rule.record != THRESHOLD) {
        assert_eq!(problems(&expr, &[]), [] as [String; 0], "{record}");
        assert!(
            rules().iter().any(|rule| uses(&rule.expr).metrics.iter().any(|(name, _)| *name == record)),
            "{record}"
        );
    }
}

#[test]
fn the_lines_of_the_dashboard_are_the_thresholds_of_the_alerts() {
    let dashboard = dashboard();
    for (title, of) in [
        ("Of those sampled", "looked_at"),
        ("Latency, p99", "latency_seconds"),
        ("Latency of a frame", "latency_seconds"),
        ("CPU", "cpu"),
        ("GPU utilisation", "gpu_busy"),
        ("GPU memory", "gpu_memory"),
    ] {
        let panel = panels(&dashboard).into_iter().find(|panel| panel["title"] == title).unwrap();
        let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap();
        let mut shown: Vec<f64> = steps.iter().filter_map(|step| step["value"].as_f64()).collect();
        let mut wanted: Vec<f64> =
            thresholds().into_iter().filter(|((name, _), _)| name == of).map(|(_, n)| n).collect();
        shown.sort_by(f64::total_cmp);
        wanted.sort_by(f64::total_cmp);
        assert_eq!(shown, wanted, "{title}");
    }
}

#[test]
fn the_manual_lists_every_alert_and_no_other() {
    let read = |name: &str| std::fs::read_to_string(root().join("docs").join(name)).unwrap();
    let manual = ["operations.md", "fleet.md"].map(read).concat();
    let rows = manual.lines().filter(|line| line.starts_with("| Vtagd"));
    let names = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|names| names.split(','));
    let told: BTreeSet<String> = names.map(|name| name.trim().to_owned()).collect();
    assert_eq!(told, rules().into_iter().map(|rule| rule.alert).collect());
}

#[test]
fn the_manuals_prometheus_configuration_is_taken_by_prometheus() {
    let manual = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let block = manual.split("```yaml\n# prometheus.yml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let installed = "/etc/prometheus/vtagd-alerts.yaml";
    assert!(block.contains(installed) && block.contains("job_name: vtagd"));
    let folder = tempfile::tempdir().unwrap();
    let ours = prometheus().join("vtagd-alerts.yaml");
    let config = block.replace(installed, &ours.display().to_string());
    std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
    let said =
        promtool(folder.path(), &["check", "config", "prometheus.yml"], "").unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains("rules found"), "the rules are read too: {said}");
}

#[test]
fn every_query_of_the_dashboard_is_taken_by_prometheus_and_asks_for_metrics_that_there_are() {
    let dashboards = dashboards();
    let mut recorded = Vec::new();
    let mut shown = BTreeSet::new();
    for panel in dashboards.iter().flat_map(panels) {
        for (expr, legend) in queries(panel) {
            assert_eq!(problems(&expr, &[&legend]), [] as [String; 0], "{}: {expr}", panel["title"]);
            shown.extend(uses(&expr).metrics.into_iter().map(|(name, _)| name));
            recorded.push(json!({ "record": format!("panel:{}:{}", panel["id"], recorded.len()), "expr": expr }));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    // JSON is YAML.
    let file = json!({ "groups": [{ "name": "dashboard", "rules": recorded }] });
    std::fs::write(folder.path().join("queries.yaml"), file.to_string()).unwrap();
    promtool(folder.path(), &["check", "rules", "queries.yaml"], "").unwrap_or_else(|said| panic!("{said}"));
    for what in [
        "vtagd_frame_latency_seconds_bucket",
        "vtagd_queue_wait_seconds_bucket",
        "vtagd_inference_duration_seconds_bucket",
        "vtagd_batch_size_bucket",
        "vtagd_frames_sampled_total",
        "vtagd_gpu_memory_used_bytes",
        "vtagd_gpu_utilization_ratio",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ] {
        assert!(shown.contains(what), "no panel shows {what}");
    }
    // What a recording rule is made of counts for it, and so on for what that is made of.
    let mut asked: Vec<String> =
        rules().into_iter().flat_map(|rule| uses(&rule.expr).metrics).map(|(name, _)| name).collect();
    let (mut seen, recording) = (BTreeSet::new(), recording_rules());
    while let Some(name) = asked.pop() {
        if name == "up" || !seen.insert(name.clone()) {
            continue;
        }
        let mut made_of = recording.iter().filter(|rule| rule.record == name).peekable();
        assert!(
            made_of.peek().is_some() || shown.contains(&name),
            "there is an alert on {name}, and no panel to see why"
        );
        asked.extend(made_of.flat_map(|rule| uses(&rule.expr).metrics).map(|(name, _)| name));
    }
}

#[test]
fn each_dashboard_can_be_imported_and_takes_any_data_source() {
    dashboards().iter().for_each(can_be_imported);
    let [one, fleet] = dashboards();
    assert!(one["uid"] != fleet["uid"] && one["title"] != fleet["title"]);
}

fn can_be_imported(dashboard: &Value) {
    assert!(dashboard["id"].is_null() && dashboard["uid"].is_string() && dashboard["title"].is_string());
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "ids of panels are given once");

    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: BTreeSet<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    for panel in panels(dashboard) {
        let title = &panel["title"];
        assert_eq!(panel["datasource"], source, "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"], source, "{title}");
        }
        for (expr, _) in queries(panel) {
            for used in expr.split('$').skip(1) {
                let name: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                assert!(variables.contains(&*name), "{title}: there is no variable {name}");
            }
        }
    }
    assert!(["datasource", "job", "instance"].iter().all(|name| variables.contains(name)));
}

#[test]
fn panels_of_a_dashboard_do_not_lie_over_one_another() {
    dashboards().iter().for_each(has_room);
}

fn has_room(dashboard: &Value) {
    let place = |panel: &Value| {
        let number = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        (number("x"), number("y"), number("x") + number("w"), number("y") + number("h"))
    };
    let all = dashboard["panels"].as_array().unwrap();
    for (index, one) in all.iter().enumerate() {
        let (left, top, right, bottom) = place(one);
        assert!(right <= 24 && left < right && top < bottom, "{}", one["title"]);
        for other in &all[index + 1..] {
            let (l, t, r, b) = place(other);
            assert!(right <= l || r <= left || bottom <= t || b <= top, "{} and {}", one["title"], other["title"]);
        }
    }
}
