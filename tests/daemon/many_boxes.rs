//! Many boxes in one view: `vtagd status` of several real daemons, and what Prometheus makes of their metrics by the rules and the dashboard of
//! `ops/` for many boxes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Output;

use crate::common::broker::free_port;
use crate::common::daemon::{Daemon, eventually, root, vtagd};
use crate::common::promtool::promtool;
use crate::common::web::Server;
use serde_json::{Value, json};

/// A box that looks at the demo clip; `more` are further streams.
fn edge(folder: &Path, name: &str, api: &str, more: &str) -> Daemon {
    std::fs::write(
        folder.join("things.yaml"),
        "set: things\nlabels:\n  - { name: cat, prompts: [a cat] }\n  - { name: rocket, prompts: [a rocket] }\n",
    )
    .unwrap();
    std::fs::write(folder.join("token"), "the-token-of-this-box\n").unwrap();
    let config = format!(
        "instance: {name}\nsampling: {{ interval: 200ms, decode: all }}\nlabels: [things.yaml]\n\
         events: {{ enter: 0.5, exit: 0.5, after: 0s, after_exit: 0s, cooldown: 0s }}\n\
         streams:\n  - {{ id: gate, url: \"file://{}/demo/clip.mp4\", pace: live, loop: true }}\n{more}\
         outbox: {{ path: outbox.db }}\napi: {{ listen: 127.0.0.1:0{api} }}\nsinks: [{{ type: jsonl, path: events.jsonl }}]\n",
        root().display()
    );
    Daemon::start(folder, &config)
}

/// One that is there, and whose model is not.
fn unready() -> Server {
    Server::start(|_, stream| {
        let body = r#"{"ready":false,"reason":"the model is loading","instance":"edge-4","version":"0.1.0"}"#;
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes())?;
        // The others on the same connection.
        let (mut heard, mut byte) = (Vec::new(), [0]);
        while stream.read(&mut byte)? == 1 {
            heard.push(byte[0]);
            if heard.ends_with(b"\r\n\r\n") {
                heard.clear();
                stream.write_all(answer.as_bytes())?;
            }
        }
        Ok(())
    })
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn several_boxes_are_one_table_and_the_exit_code_says_whether_all_of_them_are_well() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let here = folders[0].path();
    let camera = format!("  - {{ id: yard, url: \"rtsp://127.0.0.1:{}/none\" }}\n", free_port());
    let mut first = edge(here, "edge-1", ", token: { file: token }", "");
    let mut second = edge(folders[1].path(), "edge-2", "", &camera);
    first.wait_for_log(" ready streams=");
    second.wait_ready();
    let (urls, loading) = ([first.url(), second.url()], unready());
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let well = format!(
        "boxes:\n  - {{ name: one, url: \"{}\", token: {{ file: token }} }}\n  - {{ url: \"{}\" }}\n",
        urls[0], urls[1]
    );
    let status = |list: &str, more: &[&str]| {
        std::fs::write(here.join("boxes.yaml"), list).unwrap();
        said(&vtagd(here).args(["status", "--boxes", "boxes.yaml"]).args(more).current_dir(here).output().unwrap())
    };
    let table = eventually("the camera that is not there is told, and the others are up", || {
        let (code, table) = status(&well, &[]);
        assert_eq!(code, Some(0), "{table}");
        ["edge-2: stream yard (rtsp:", "1 of 1", "1 of 2"].iter().all(|told| table.contains(told)).then_some(table)
    });
    assert!(table.starts_with("2 boxes: 2 ready\n"), "{table}");
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}"));
    assert!(row("one ").contains("1 of 1") && row("edge-2 ").contains("1 of 2"), "{table}");
    assert!(!table.contains("the-token-of-this-box"));

    // Not all of them.
    let ill = format!("{well}  - {{ url: \"{}\" }}\n  - {{ name: gone, url: \"{nobody}\" }}\n", loading.url("/"));
    let ill = format!("{ill}  - {{ name: closed, url: \"{}\" }}\n", urls[0]);
    let (code, json) = status(&ill, &["--json"]);
    let seen: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let states: Vec<(&str, &str)> = seen["boxes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["box"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    let wanted =
        [("one", "ready"), ("edge-2", "ready"), ("edge-4", "unready"), ("gone", "down"), ("closed", "refused")];
    assert_eq!((code, &states[..]), (Some(1), &wanted[..]), "{json}");
    assert_eq!(seen["boxes"][0]["streams"][0]["id"], "gate", "all that one box alone would say");
    let (code, table) = status(&ill, &[]);
    assert!(code == Some(1) && table.starts_with("5 boxes: 2 ready, 1 NOT READY, 1 REFUSED, 1 DOWN\n"), "{table}");
    for line in ["edge-4: the model is loading", "gone: nobody answers at", "closed: http://127.0.0.1:"] {
        assert!(table.contains(line), "{line}: {table}");
    }

    // By addresses alone; another command asks one.
    let args = ["status", "--url", &urls[1], "--url", &nobody];
    let (code, table) = said(&vtagd(here).args(args).output().unwrap());
    assert!(code == Some(1) && table.starts_with("2 boxes: 1 ready, 1 DOWN\n") && table.contains("edge-2"), "{table}");
    let args = ["scores", "gate", "--url", &urls[1], "--url", &nobody];
    let (code, why) = said(&vtagd(here).args(args).output().unwrap());
    assert!(code == Some(2) && why.contains("give --url once"), "{why}");
    let (code, why) = status(&well.replace("file: token", "file: no-token"), &[]);
    assert!(code == Some(2) && why.contains("boxes.yaml:2") && why.contains("no-token"), "{why}");
    first.stop_cleanly();
    second.stop();
}

/// Series by name and labels.
type Series = BTreeMap<String, f64>;

fn scraped(daemon: &mut Daemon) -> Series {
    let (_, text) = daemon.get("/metrics");
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// What Prometheus would have of `instance` after an hour of what was seen between two scrapes, a minute a scrape.
fn input(instance: &str, before: &Series, after: &Series) -> Vec<Value> {
    let row = |(name, value): (&String, &f64)| {
        let more = format!("job=\"vtagd\",instance=\"{instance}\"");
        let series = match name.split_once('{') {
            Some((name, labels)) => format!("{name}{{{more},{labels}"),
            None => format!("{name}{{{more}}}"),
        };
        let grown = value - before.get(name).unwrap_or(value);
        let values = if grown < 0.0 { format!("{value}x60") } else { format!("{value}+{grown}x60") };
        json!({ "series": series, "values": values })
    };
    after.iter().filter(|(_, value)| value.is_finite()).map(row).collect()
}

#[test]
fn the_rules_and_the_dashboard_of_many_boxes_see_what_is_wrong_with_real_ones() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let camera = format!("  - {{ id: yard, url: \"rtsp://127.0.0.1:{}/none\" }}\n", free_port());
    let mut boxes = [edge(folders[0].path(), "edge-1", "", ""), edge(folders[1].path(), "edge-2", "", &camera)];
    let mut series: Vec<Value> = Vec::new();
    for (daemon, instance) in boxes.iter_mut().zip(["edge-1:8642", "edge-2:8642"]) {
        daemon.wait_ready();
        let mut before = Series::new();
        eventually("it has seen tags, and says so in its metrics", || {
            let now = scraped(daemon);
            let tags = |series: &Series| -> f64 {
                series.iter().filter(|(name, _)| name.starts_with("vtagd_events_total")).map(|(_, value)| value).sum()
            };
            if before.is_empty() || tags(&before) == 0.0 {
                before = now;
                return None;
            }
            (tags(&now) > tags(&before)).then_some(()).inspect(|()| series.extend(input(instance, &before, &now)))
        });
        series.push(json!({ "series": format!("up{{job=\"vtagd\",instance=\"{instance}\"}}"), "values": "1x60" }));
    }
    // Two more of the same fleet do not answer.
    for instance in ["edge-3:8642", "edge-4:8642"] {
        series.push(json!({ "series": format!("up{{job=\"vtagd\",instance=\"{instance}\"}}"), "values": "0x60" }));
    }
    for daemon in &mut boxes {
        daemon.stop();
    }

    // Each panel shows something: an alert that fires if its query gives anything.
    let text = std::fs::read_to_string(root().join("ops/grafana/vtagd-fleet-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut panels = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap();
            let expr = expr.replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "5m");
            panels.push((format!("Panel{}", panels.len()), panel["title"].clone(), expr));
        }
    }
    assert!(panels.len() > 15, "{panels:?}");
    let folder = tempfile::tempdir().unwrap();
    let rules: Vec<Value> =
        panels.iter().map(|(name, _, expr)| json!({ "alert": name, "expr": format!("count({expr}) > 0") })).collect();
    let file = json!({ "groups": [{ "name": "panels", "rules": rules }] });
    std::fs::write(folder.path().join("panels.yaml"), file.to_string()).unwrap();
    let alerts = root().join("ops/prometheus/vtagd-fleet-alerts.yaml");
    let fires = |name: &str, labels: Value, texts: Value| json!({ "eval_time": "50m", "alertname": name, "exp_alerts": [{ "exp_labels": labels, "exp_annotations": texts }] });
    let silent = |name: &str| json!({ "eval_time": "50m", "alertname": name, "exp_alerts": [] });
    let mut expected: Vec<Value> = panels.iter().map(|(name, ..)| fires(name, json!({}), json!({}))).collect();
    let described = |name: &str| {
        let text = std::fs::read_to_string(&alerts).unwrap();
        let file: Value = serde_yaml::from_str(&text).unwrap();
        let all = file["groups"][0]["rules"].as_array().unwrap().clone();
        all.into_iter().find(|rule| rule["alert"] == name).unwrap()["annotations"]["description"].clone()
    };
    let of = |name: &str, summary: &str| {
        let labels = json!({ "job": "vtagd", "severity": "critical" });
        fires(name, labels, json!({ "summary": summary, "description": described(name) }))
    };
    expected.push(of("VtagdFleetMissing", "50% of the boxes of vtagd cannot be scraped"));
    expected.push(of("VtagdFleetStreamsDown", "33.33% of all streams of vtagd are down"));
    expected.extend(["VtagdFleetEventsWait", "VtagdFleetVersionsDiffer", "VtagdFleetModelsDiffer"].map(silent));
    let test = json!({
        "rule_files": [alerts.display().to_string(), "panels.yaml"],
        "evaluation_interval": "1m",
        "tests": [{ "interval": "1m", "input_series": series, "alert_rule_test": expected }],
    });
    std::fs::write(folder.path().join("test.yaml"), test.to_string()).unwrap();
    promtool(folder.path(), &["test", "rules", "test.yaml"], "").unwrap_or_else(|said| {
        let mut names = String::new();
        panels.iter().for_each(|(name, title, expr)| writeln!(names, "{name}: {title}: {expr}").unwrap());
        panic!("{said}\n{names}")
    });
}
