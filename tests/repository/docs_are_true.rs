//! What the documentation shows is what the program does.

use std::collections::BTreeSet;
use std::fs;

use crate::common::daemon::{root, vtagd};
use vtagd::metrics::METRICS;

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Bodies of the fenced blocks of `language`.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_table_of_metrics_is_the_list_in_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let output = vtagd(folder.path()).args(["docs", "metrics"]).output().unwrap();
    let tables = String::from_utf8(output.stdout).unwrap();
    for (name, ..) in METRICS {
        assert!(tables.contains(&format!("| `{name}` |")), "{tables}");
    }
    let text = read("docs/operations.md");
    assert!(text.contains(&tables), "docs/operations.md is not current: cargo run -- docs metrics");
    let rows =
        |of: &str| of.lines().filter(|line| line.starts_with("| `vtagd_") || line.starts_with("| `process_")).count();
    assert_eq!(rows(&text), rows(&tables), "a metric that is in the manual and not in the code");
}

/// cargo-deb adds Debian's revision, so a name without one is of a file that nobody has.
#[test]
fn packages_are_called_as_make_deb_writes_them() {
    let mut files: Vec<_> = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let variables = root().join("ops/ansible/group_vars/vtagd.yaml");
    files.extend([root().join("README.md"), variables.clone()]);
    for file in files.iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(file).unwrap();
        for (at, _) in text.match_indices(".deb").filter(|(at, _)| text[..*at].contains("vtagd_")) {
            let begin = text[..at].rfind(|c: char| c.is_whitespace() || "`/\"'(".contains(c)).map_or(0, |at| at + 1);
            let name = &text[begin..at];
            let Some(version) =
                name.strip_prefix("vtagd_").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            else {
                continue;
            };
            assert!(version.split('_').next().unwrap().ends_with("-1"), "{}: {name}.deb", file.display());
        }
    }
    let text = fs::read_to_string(variables).unwrap();
    assert!(text.contains(concat!("/vtagd_", env!("CARGO_PKG_VERSION"), "-1_amd64.deb")), "{text}");
}

#[test]
fn the_page_of_commands_is_the_command_line_in_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let output = vtagd(folder.path()).args(["docs", "commands"]).env_remove("COLUMNS").output().unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    let place = root().join("docs/commands.md");
    if std::env::var_os("VTAGD_GOLDEN").is_some_and(|how| how == "write") {
        fs::write(&place, &page).unwrap();
    }
    let hint = "docs/commands.md is not current: cargo run -- docs commands > docs/commands.md";
    assert!(fs::read_to_string(place).unwrap_or_default() == page, "{hint}");
}

#[test]
fn every_metric_that_is_recorded_is_in_the_list() {
    fn sources(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                sources(&entry.path(), found);
            } else {
                found.push(fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let known: BTreeSet<&str> = METRICS.iter().map(|m| m.0).collect();
    let mut recorded = BTreeSet::new();
    for macro_name in ["counter!(", "gauge!(", "histogram!(", ".sample("] {
        for text in &files {
            for rest in text.split(macro_name).skip(1) {
                if let Some(name) = rest.trim_start().strip_prefix('"').and_then(|r| r.split('"').next()) {
                    assert!(known.contains(name), "{name} is recorded but not in telemetry::METRICS");
                    recorded.insert(name.to_owned());
                }
            }
        }
    }
    for name in known {
        assert!(recorded.contains(name), "{name} is listed but never recorded");
    }
}

#[test]
fn make_targets_of_the_readme_exist() {
    let makefile = read("Makefile");
    let readme = read("README.md");
    let mut targets = BTreeSet::new();
    for block in blocks(&readme, "sh") {
        targets.extend(block.split("make ").skip(1).filter_map(|r| Some(r.split_whitespace().next()?.to_owned())));
    }
    assert!(targets.contains("demo") && targets.contains("test") && targets.contains("setup"), "{targets:?}");
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}:")), "no target {target}");
    }
}

#[test]
fn the_readmes_first_camera_is_a_valid_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let readme = read("README.md");
    let [yaml] = &blocks(&readme, "yaml")[..] else { panic!("one YAML block is expected") };
    // Its label set is named from the checkout, where a user would put the file.
    let config = yaml.replace("config/labels", &root().join("config/labels").display().to_string());
    let file = folder.path().join("camera.yaml");
    fs::write(&file, config).unwrap();
    // Somebody's daemon may have the usual port.
    let mut command = vtagd(folder.path());
    command.env("GATE_PASSWORD", "x").env("VTAGD__API__LISTEN", "127.0.0.1:0").args(["check", "-c"]).arg(&file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_first_camera_of_the_start_guide_is_a_valid_configuration_and_its_commands_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let guide = read("docs/start.md");
    assert!(guide.split_whitespace().count() <= 1200);
    let [camera, labels] = &blocks(&guide, "yaml")[..] else { panic!("two YAML blocks are expected") };
    fs::write(folder.path().join("camera.yaml"), camera).unwrap();
    fs::write(folder.path().join("labels.yaml"), labels).unwrap();
    let shell: Vec<String> = blocks(&guide, "sh").join("\n").lines().map(str::to_owned).collect();
    let token = shell.iter().find(|line| line.contains("> token")).unwrap();
    assert!(
        std::process::Command::new("sh").args(["-c", token]).current_dir(folder.path()).status().unwrap().success()
    );
    let check = shell.iter().find(|line| line.contains("vtagd check")).unwrap();
    assert!(check.ends_with("target/release/vtagd check -c camera.yaml"), "{check}");
    let mut command = vtagd(folder.path());
    command.env("GATE_PASSWORD", "x").env("VTAGD__API__LISTEN", "127.0.0.1:0").args(["check", "-c"]);
    let output = command.arg(folder.path().join("camera.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_walk_through_with_home_assistant_shows_a_valid_configuration_and_the_automation_that_is_tried_there() {
    let folder = tempfile::tempdir().unwrap();
    let page = read("docs/home-assistant.md");
    assert!(page.split_whitespace().count() <= 1200, "a walk-through is short");
    let [config, labels, automation, _] = &blocks(&page, "yaml")[..] else { panic!("four YAML blocks are expected") };
    fs::create_dir(folder.path().join("labels")).unwrap();
    fs::write(folder.path().join("labels/dock-safety.yaml"), labels).unwrap();
    let file = folder.path().join("vtagd.yaml");
    fs::write(&file, config).unwrap();
    let mut command = vtagd(folder.path());
    command.env("DOCK3_PASSWORD", "x").env("MQTT_PASSWORD", "x").env("VTAGD__API__LISTEN", "127.0.0.1:0");
    let output = command.args(["check", "-c"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("vtagd.yaml: ok: 1 stream, "), "{said}");
    let example = read("examples/consumers/home-assistant.yaml");
    let example = example.find("alias:").map(|at| &example[at..]).unwrap();
    assert_eq!(automation, example);
    for script in page.split("`make ").skip(1).filter_map(|rest| rest.split('`').next()) {
        assert!(read("Makefile").contains(&format!("\n{script}:")), "no target {script}");
    }
}

#[test]
fn the_readmes_table_names_files_that_exist() {
    let readme = read("README.md");
    let links: Vec<&str> = readme.split("](").skip(1).filter_map(|r| r.split(')').next()).collect();
    assert!(links.len() > 10);
    for link in links.iter().filter(|l| !l.starts_with("http")) {
        let (file, part) = link.split_once('#').unwrap_or((link, ""));
        assert!(root().join(file).exists(), "README.md links to {link}");
        let slug = |heading: &str| {
            let plain = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            plain.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect::<String>()
        };
        let has_part = || read(file).lines().any(|line| line.starts_with('#') && slug(line) == part);
        assert!(part.is_empty() || has_part(), "README.md links to {link}, where there is no such heading");
    }
}

/// Source and folder of everything that a package brings.
fn packaged() -> Vec<(String, String)> {
    let manifest = read("Cargo.toml");
    let assets = manifest.lines().filter_map(|line| line.trim().strip_prefix('[')?.strip_suffix("],"));
    let parts = assets.map(|asset| asset.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    parts.filter(|parts| parts.len() == 3).map(|parts| (parts[0].clone(), format!("/{}", parts[1]))).collect()
}

#[test]
fn a_package_has_every_example_and_each_place_of_one_that_the_documentation_names() {
    fn below(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { below(&entry, found) } else { found.push(entry) }
        }
    }
    let assets = packaged();
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    for folder in ["examples/consumers", "examples/node-red", "ops/ansible", "ops/grafana", "ops/prometheus"] {
        below(&root().join(folder), &mut files);
    }
    for file in &files {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        let (folder, last) = name.rsplit_once('/').unwrap();
        let brings = |pattern: &str| {
            let Some((place, glob)) = pattern.rsplit_once('/') else { return false };
            let (start, end) = glob.split_once('*').unwrap_or((glob, ""));
            place == folder && last.starts_with(start) && last.ends_with(end)
        };
        if !assets.iter().any(|(pattern, _)| brings(pattern)) {
            left_out.push(name);
        }
    }
    assert!(files.len() > 15 && left_out.is_empty(), "no asset of Cargo.toml brings {left_out:?}");
    let mut places = BTreeSet::new();
    for page in fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(text) = fs::read_to_string(&page) else { continue };
        for rest in text.split("/usr/share/doc/vtagd/").skip(1) {
            let named = rest.split(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c)).next().unwrap();
            places.insert(named.trim_end_matches(['.', '/']).to_owned());
        }
    }
    for place in places.iter().filter(|place| place.starts_with("examples") || place.starts_with("ops")) {
        let whole = format!("/usr/share/doc/vtagd/{place}");
        let is_there = |to: &str| to.starts_with(&whole) || whole.starts_with(to.trim_end_matches('/'));
        assert!(assets.iter().any(|(_, to)| is_there(to)), "the documentation names {whole}, which no package has");
    }
}

#[test]
fn the_event_in_the_manual_has_the_fields_of_a_real_one() {
    let manual: serde_json::Value = serde_json::from_str(&blocks(&read("docs/events.md"), "json")[0]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "streams: [{{ id: a, url: \"file://{}\", pace: fast }}]\nlabels: [{}]\nevents: {{ after: 0s }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: off }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = crate::common::daemon::Daemon::start(folder.path(), &config);
    assert!(daemon.wait().success());
    let events = daemon.events();
    let end = events.iter().find(|e| e["type"] == "dev.vtagd.tag.end").unwrap();
    let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&manual), keys(end));
    assert_eq!(keys(&manual["data"]), keys(&end["data"]));
}

#[test]
fn every_module_opens_by_saying_what_it_is() {
    fn check(folder: &std::path::Path) {
        for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                check(&entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&entry).unwrap();
                assert!(text.starts_with("//!"), "{} opens without //!", entry.display());
                assert!(text.lines().count() <= 500, "{} is over 500 lines", entry.display());
            }
        }
    }
    check(&root().join("src"));
    check(&root().join("crates/checkpoint/src"));
    check(&root().join("crates/pictures/src"));
}

/// Choices that were made by measuring on one processor: each has a row in the manual, which says where it was measured and what holds elsewhere.
#[test]
fn every_choice_of_one_processor_says_what_holds_on_others() {
    let text = read("docs/benchmarks.md");
    let table = text.split("\n## Choices and processors\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| choice |"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let mut found = BTreeSet::new();
    for row in &rows {
        let [choice, place, measured, elsewhere] = row.as_slice() else { panic!("four cells: {row:?}") };
        let names: Vec<&str> = place.split('`').skip(1).step_by(2).collect();
        let [name, file] = names.as_slice() else { panic!("a name and a file: {place}") };
        assert!(read(file).contains(name), "{choice}: there is no {name} in {file}");
        let processor = ["EPYC", "Xeon", "none", "no ", "arithmetic"].iter().any(|word| measured.contains(word));
        assert!(processor, "{choice}: on which processor was it measured?");
        let known =
            ["measured", "safe", "by what", "less without", "a guide"].iter().any(|word| elsewhere.starts_with(word));
        assert!(known, "{choice}: does it hold elsewhere? {elsewhere}");
        found.insert((*file).to_owned());
    }
    let wanted = [
        "src/bench/openvino_precision.rs",
        "src/infer/buckets.rs",
        "src/infer/byte_sums.rs",
        "src/infer/chunk.rs",
        "src/infer/provider.rs",
        "src/infer/session_threads.rs",
        "src/infer/sizing.rs",
        "crates/checkpoint/src/onnx/linear.rs",
        "src/platform/thread_priority.rs",
        "src/daemon/engine.rs",
    ];
    assert!(wanted.iter().all(|file| found.contains(*file)), "{found:?}");
}
