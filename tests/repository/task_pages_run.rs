//! Pages by task, done as a reader does them: a real daemon, our camera, our broker, a hub on loopback. How is in `page_reader.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::broker::{Broker, free_port};
use crate::common::camera::{Auth, Camera, Codec, Content};
use crate::common::daemon::{eventually, root};
use crate::hub_support::{Hub, REPO, Repository};
use crate::page_reader::{PageReader, blocks};

/// A camera that shows a cat, a cup of coffee, a person and a rocket, eight seconds each, for twenty minutes.
fn camera() -> Camera {
    Camera::start(Content::Looped(root().join("demo/clip.mp4"), 40), Codec::H264, None)
}

/// The camera of the pages is this one.
fn at_camera(reader: PageReader, camera: &Camera) -> PageReader {
    reader.where_is("rtsp://10.0.0.12/stream1", camera.url().as_str())
}

/// Where the API of the pages answers.
fn at_free_port(reader: PageReader) -> PageReader {
    let port = free_port();
    reader
        .where_is("127.0.0.1:8642", format!("127.0.0.1:{port}"))
        .where_is("localhost:8642", format!("localhost:{port}"))
}

/// The block of a page that is a file of this name.
fn file_of(page: &str, name: &str) -> String {
    let text = fs::read_to_string(root().join("docs").join(page)).unwrap();
    let found = blocks(&text).into_iter().find(|block| block.file_name() == Some(name));
    found.unwrap_or_else(|| panic!("docs/{page} has no file {name}")).body
}

const YARD: &str = "set: yard\nscoring: independent\nbackground: [an empty yard, a paved yard, a wall]\nlabels:\n  \
                    - { name: animal, prompts: [a kitten, an animal], after: 1s, cooldown: 1s }\n  - { name: cat, prompts: [a cat], after: 20s, cooldown: 1s }\n  \
                    - { name: horse, prompts: [a horse in a stable], enter: { margin: 25 }, exit: { margin: 20 }, after: 1s, cooldown: 1s }\n";

#[test]
fn who_sees_nothing_told_finds_out_why() {
    let camera = camera();
    let locked = Auth { user: "viewer".into(), password: "another".into(), digest: true };
    let locked = Camera::start(Content::pattern(160, 120), Codec::H264, Some(locked));
    let mut reader =
        at_free_port(at_camera(PageReader::of("nothing-is-told.md"), &camera)).with_env("DOCK_PASSWORD", "wrong");
    // Of the cat of the clip `animal` is told, so that there are tags; `cat` itself has to be there for longer than it is.
    reader.has("/etc/vtagd/labels/yard.yaml", YARD);
    reader.has("/etc/vtagd/secrets/api.token", "0123456789abcdef0123456789abcdef");
    let config = format!(
        "model: {{ path: starter }}\nstreams:\n  - {{ id: gate, url: \"{}\" }}\n  - {{ id: yard, url: \"rtsp://127.0.0.1:{}/stream1\" }}\n  \
         - {{ id: dock, url: \"{}\", username: viewer, password: {{ env: DOCK_PASSWORD }} }}\n  - {{ id: ramp, url: \"{}\", enabled: false }}\n\
         labels: [labels/yard.yaml]\nsinks:\n  - {{ type: jsonl, path: /var/lib/vtagd/events.jsonl }}\n  \
         - {{ type: webhook, name: hook, url: \"http://127.0.0.1:{}/\" }}\n\
         outbox: {{ path: /var/lib/vtagd/outbox.db }}\nhistory: {{ path: /var/lib/vtagd/history }}\n\
         api: {{ listen: 127.0.0.1:8642, token: {{ file: secrets/api.token }} }}\n",
        camera.url(),
        free_port(),
        locked.url(),
        camera.url(),
        free_port(),
    );
    reader.has("/etc/vtagd/vtagd.yaml", &config);
    reader.does("systemctl start vtagd");
    reader.follow();
}

#[test]
fn who_chooses_words_and_thresholds_marks_what_was_seen_and_the_daemon_takes_the_calibration() {
    let camera = camera();
    let reader = at_free_port(PageReader::of("thresholds.md"));
    reader.has("/etc/vtagd/labels/yard.yaml", &file_of("thresholds.md", "/etc/vtagd/labels/yard.yaml"));
    let config = format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 500ms }}\nstreams: [{{ id: gate, url: \"{}\", view: {{ mode: squash }} }}]\n\
         labels: [labels/yard.yaml]\nsinks: [{{ type: jsonl, path: /var/lib/vtagd/events.jsonl }}]\n\
         outbox: {{ path: /var/lib/vtagd/outbox.db }}\nhistory: {{ path: /var/lib/vtagd/history, min_change: 0 }}\napi: {{ listen: 127.0.0.1:8642 }}\n",
        camera.url()
    );
    reader.has("/etc/vtagd/vtagd.yaml", &config);
    fs::copy(root().join("demo/clip.mp4"), reader.path("clip.mp4")).unwrap();
    reader.does("systemctl start vtagd");
    // What a person sees who watches: a cat comes and goes, and for a while nothing of the set is there.
    let end: Value = eventually("a cat that has gone", || {
        let told = reader.does("vtagd events export --type end --label cat");
        told.lines().next().map(|line| serde_json::from_str(line).unwrap())
    });
    let moment = |name: &str| end["data"][name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let after = |at: jiff::Timestamp, millis: i64| {
        at.checked_add(jiff::SignedDuration::from_millis(millis)).unwrap().to_string()
    };
    let (came, went) = (moment("started_at"), moment("ended_at"));
    eventually("nothing is there for a while", || {
        (jiff::Timestamp::now().duration_since(went).as_secs() > 16).then_some(())
    });
    let reader = reader
        .where_is("2026-05-01T12:00:04Z", after(came, 0))
        .where_is("2026-05-01T12:00:12Z", after(went, -1000))
        .where_is("2026-05-01T12:00:20Z", after(went, 500))
        .where_is("2026-05-01T12:01:00Z", after(went, 14_000));
    let mut reader = reader.where_is("019a1b2c-0000-7000-8000-000000000001", end["id"].as_str().unwrap());
    reader.follow();
    assert!(fs::read_to_string(reader.path("margins.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn who_writes_a_program_of_their_own_hears_of_a_cat_in_every_way_that_the_page_shows() {
    let camera = camera();
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    if Command::new("node").arg("--version").output().is_err() {
        eprintln!("skipped: there is no node here, and the page shows a receiver in it");
        return;
    }
    let (python, node) = (free_port(), free_port());
    let reader = at_free_port(at_camera(PageReader::of("your-own-program.md"), &camera));
    let mut reader = reader
        .where_is("mqtt://10.0.0.2", format!("mqtt://127.0.0.1:{}", broker.port))
        .where_is("-h 10.0.0.2", format!("-h 127.0.0.1 -p {}", broker.port))
        .where_is("http://127.0.0.1:8000/", format!("http://127.0.0.1:{python}/"))
        .where_is("(\"127.0.0.1\", 8000)", format!("(\"127.0.0.1\", {python})"))
        .where_is("http://127.0.0.1:8001/", format!("http://127.0.0.1:{node}/"))
        .where_is("listen(8001,", format!("listen({node},"));
    let config = file_of("your-own-program.md", "vtagd.yaml");
    assert!(!config.contains("api:"), "the page takes the usual address for granted");
    let listen = "127.0.0.1:8642";
    let at = reader.does(&format!("echo {listen}"));
    reader = reader.with_env("VTAGD__API__LISTEN", at.trim());
    reader.follow();
}

#[test]
fn programs_on_the_page_are_those_of_the_examples_and_the_flow_has_the_topics_that_there_are() {
    let example = |name: &str| fs::read_to_string(root().join("examples").join(name)).unwrap();
    for (name, most) in [("receiver.py", 15), ("receiver.mjs", 15)] {
        let shown = file_of("your-own-program.md", name);
        assert_eq!(shown, example(&format!("consumers/{name}")));
        assert!(shown.lines().count() <= most, "{name}");
    }
    let flow: Value = serde_json::from_str(&example("node-red/vtagd-flow.json")).unwrap();
    let nodes = flow.as_array().unwrap();
    let ids: Vec<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let page = fs::read_to_string(root().join("docs/your-own-program.md")).unwrap();
    for node in nodes {
        let wires = node["wires"].as_array().into_iter().flatten().flat_map(|port| port.as_array().unwrap());
        for to in wires.map(|to| to.as_str().unwrap()) {
            assert!(ids.contains(&to), "{}: no node {to}", node["id"]);
        }
        if let Some(topic) = node["topic"].as_str() {
            assert!(page.contains(&format!("`{}`", topic.replace('+', "gate"))), "the page does not tell of {topic}");
            assert_eq!(node["broker"], "vtagd.broker");
        }
    }
    // What the flow does with an event is a few lines; any JavaScript will run them.
    let function = nodes.iter().find(|node| node["type"] == "function").unwrap()["func"].as_str().unwrap();
    let program = format!(
        "const kept = new Map(), context = {{ get: key => kept.get(key), set: (key, value) => kept.set(key, value) }};\n\
         const told = new Function('msg', 'context', {});\n\
         const event = () => ({{ payload: {{ id: 'a', data: {{ stream: 'gate', label: 'cat', score: 0.934 }} }} }});\n\
         console.log(told(event(), context).payload, told(event(), context));",
        Value::from(function)
    );
    match Command::new("node").args(["-e", &program]).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "cat at gate, 93 % null\n", "{output:?}"),
        Err(_) => eprintln!("skipped: there is no node here"),
    }
}

#[test]
fn who_upgrades_keeps_a_copy_sees_that_it_is_well_and_finds_the_way_back() {
    let camera = camera();
    let mut reader = at_free_port(PageReader::of("upgrade.md"));
    reader.has("/etc/vtagd/labels/yard.yaml", YARD);
    let config = format!(
        "model: {{ path: starter }}\nstreams: [{{ id: gate, url: \"{}\" }}]\nlabels: [labels/yard.yaml]\n\
         sinks: [{{ type: jsonl, path: /var/lib/vtagd/events.jsonl }}]\noutbox: {{ path: /var/lib/vtagd/outbox.db }}\n\
         history: {{ path: /var/lib/vtagd/history }}\napi: {{ listen: 127.0.0.1:8642 }}\n",
        camera.url()
    );
    reader.has("/etc/vtagd/vtagd.yaml", &config);
    reader.does("systemctl start vtagd");
    eventually("a tag", || reader.does("vtagd events list").contains("start").then_some(()));
    reader.follow();
    for kept in ["vtagd.before/outbox.db", "vtagd.newer/outbox.db", "vtagd/newer/outbox.db", "vtagd/outbox.db"] {
        assert!(reader.path(&format!("/var/lib/{kept}")).is_file(), "{kept}");
    }
    assert!(!reader.path("/var/lib/vtagd.small/history").exists());
    let told = fs::read_to_string(reader.path("since-the-upgrade.jsonl")).unwrap();
    assert!(told.lines().count() >= 1, "the newer version's events are in a file");
}

#[test]
fn who_chooses_a_model_measures_pulls_and_imports_it_and_carries_it_to_a_box_without_a_network() {
    let hub = Hub::start(Repository::checkpoint("hf-clip-gelu-h14"));
    let camera = camera();
    let reader = at_camera(PageReader::of("which-model.md"), &camera);
    let mut reader = reader
        .where_is("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", REPO)
        .with_env("HF_ENDPOINT", hub.url())
        .with_env("VTAGD__API__LISTEN", "off");
    fs::copy(root().join("demo/clip.mp4"), reader.path("clip.mp4")).unwrap();
    reader.follow();
}

#[test]
fn twenty_boxes_have_one_configuration_and_each_its_own_cameras() {
    let camera = camera();
    let port = free_port();
    let mut reader = at_camera(PageReader::of("twenty-boxes.md"), &camera)
        .where_is("0.0.0.0:8642", format!("127.0.0.1:{port}"))
        .where_is("localhost:8642", format!("localhost:{port}"));
    secrets(&reader);
    for name in ["/etc/vtagd/vtagd.yaml", "/etc/vtagd/streams.d/box.yaml", "/etc/vtagd/labels/dock.yaml"] {
        reader.has(name, &file_of("twenty-boxes.md", name));
    }
    reader.does("systemctl start vtagd");
    reader.follow();
}

/// What a box has of its own.
fn secrets(reader: &PageReader) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    reader.has("/etc/vtagd/tls/box.crt", &made.cert.pem());
    reader.has("/etc/vtagd/secrets/box.key", &made.signing_key.serialize_pem());
    reader.has("/etc/vtagd/secrets/api.token", "0123456789abcdef0123456789abcdef");
    reader.has("/etc/vtagd/secrets/mqtt", "something-long");
    reader.has("/etc/vtagd/secrets/cameras", "something-long");
}

/// Files of `ops/ansible` as Jinja makes them of its variables, which is what Ansible does.
#[test]
fn what_the_ansible_example_writes_on_each_box_is_a_right_configuration() {
    let folder = root().join("ops/ansible");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let yaml = |name: &str| -> Value { serde_yaml::from_str(&read(name)).unwrap_or_else(|e| panic!("{name}: {e}")) };
    let inventory = yaml("inventory.yaml");
    let boxes: Vec<&String> = inventory["vtagd"]["hosts"].as_object().unwrap().keys().collect();
    assert!(boxes.len() >= 2);
    for name in boxes {
        let mut all = yaml("group_vars/vtagd.yaml");
        let own = yaml(&format!("host_vars/{name}.yaml"));
        all.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        all["inventory_hostname"] = Value::from(name.as_str());
        let mut jinja = minijinja::Environment::new();
        jinja.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        jinja.add_filter("to_json", |value: minijinja::Value| serde_json::to_string(&value).unwrap());
        let made = |template: &str| jinja.render_str(&read(template), minijinja::value::Serde(&all)).unwrap();
        let reader = PageReader::of("twenty-boxes.md");
        secrets(&reader);
        reader.has("/etc/vtagd/vtagd.yaml", &made("templates/vtagd.yaml.j2"));
        reader.has("/etc/vtagd/streams.d/box.yaml", &made("templates/streams.yaml.j2"));
        for set in all["vtagd_label_sets"].as_array().unwrap().iter().map(|set| set.as_str().unwrap()) {
            reader.has(&format!("/etc/vtagd/labels/{set}.yaml"), &read(&format!("labels/{set}.yaml")));
        }
        // Somebody's daemon may have the usual port.
        let reader = reader.with_env("VTAGD__API__LISTEN", "127.0.0.1:0");
        let said = reader.does("vtagd check");
        assert!(said.contains(": ok: ") && !said.contains("error"), "{name}: {said}");
        let shown: Value = serde_json::from_str(&reader.does("vtagd config show 2>/dev/null")).unwrap();
        assert_eq!(shown["instance"], name.as_str());
        assert_eq!(shown["streams"].as_array().unwrap().len(), own["vtagd_streams"].as_array().unwrap().len());
    }
}

/// The playbook by Ansible itself, where it is installed: into a folder, once and once more.
#[test]
fn the_playbook_is_taken_by_ansible_and_changes_nothing_the_second_time() {
    let source = root().join("ops/ansible");
    if Command::new("ansible-playbook").arg("--version").output().is_err() {
        eprintln!("skipped: there is no ansible-playbook here (`pip install ansible-core`)");
        return;
    }
    let reader = PageReader::of("twenty-boxes.md").with_env("VTAGD__API__LISTEN", "127.0.0.1:0");
    let reader = reader.with_env("ANSIBLE_LOCALHOST_WARNING", "0").with_env("ANSIBLE_NOCOLOR", "1");
    copy(&source, &reader.path("ansible"));
    for name in ["edge-01", "edge-02"] {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        reader.has(&format!("ansible/tls/{name}.crt"), &made.cert.pem());
        reader.has(&format!("ansible/tls/{name}.key"), &made.signing_key.serialize_pem());
    }
    let secrets = "{\"vtagd_secrets\": {\"cameras\": \"something-long\", \"mqtt\": \"something-long\", \"api.token\": \"0123456789abcdef0123456789abcdef\"}}";
    reader.has("ansible/secrets.json", secrets);
    reader.does("cd ansible && ansible-playbook -i inventory.yaml vtagd.yaml --syntax-check");
    let play = "cd ansible && ansible-playbook -i inventory.yaml -c local --limit edge-01 -e @secrets.json -e ansible_become=false \
                -e ansible_python_interpreter=$(command -v python3) -e vtagd_etc=/etc/vtagd -e vtagd_owner=$(id -un) -e vtagd_group=$(id -gn) --tags configuration vtagd.yaml";
    let look = play.replace("vtagd.yaml", "vtagd.yaml --check --diff");
    let new = reader.does(&look);
    assert!(new.contains("edge-01 has not been set up yet") && new.contains("failed=0"), "{new}");
    assert!(!reader.path("/etc/vtagd/streams.d").exists());
    let first = reader.does(play);
    assert!(first.contains("failed=0") && !first.contains("changed=0"), "{first}");
    let again = reader.does(play);
    assert!(again.contains("changed=0") && again.contains("failed=0"), "{again}");
    assert!(!first.contains("something-long"), "credentials are not told");
    // A mistake in the words, beside another model: nothing of both is in force, and the run after it loses neither the reload nor the restart.
    let (words, config) = (reader.path("/etc/vtagd/labels/dock.yaml"), reader.path("/etc/vtagd/vtagd.yaml"));
    let before = [&words, &config].map(|file| fs::read_to_string(file).unwrap());
    let set = fs::read_to_string(source.join("labels/dock.yaml")).unwrap();
    reader.has("ansible/labels/dock.yaml", &format!("{set}nonsense: true\n"));
    let other = play.replace("vtagd.yaml", "-e vtagd_broker=mqtts://other.example:8883 vtagd.yaml");
    let failed = reader.does(&format!("{other} || true"));
    assert!(failed.contains("failed=1") && failed.contains("nonsense"), "{failed}");
    assert_eq!([&words, &config].map(|file| fs::read_to_string(file).unwrap()), before);
    reader.has("ansible/labels/dock.yaml", &set.replace("forklift", "lift truck"));
    let seen = reader.does(&other.replace("vtagd.yaml", "vtagd.yaml --check --diff"));
    assert!(
        seen.contains("other.example") && seen.contains("lift truck") && !seen.contains("something-long"),
        "{seen}"
    );
    assert_eq!([&words, &config].map(|file| fs::read_to_string(file).unwrap()), before);
    let mended = reader.does(&other);
    assert!(
        mended.contains("Start with the configuration") && mended.contains("Read the configuration again"),
        "{mended}"
    );
    assert!(fs::read_to_string(&words).unwrap().contains("lift truck"));
    assert!(fs::read_to_string(&config).unwrap().contains("other.example"));
    let said = reader.does("vtagd check");
    assert!(said.contains("ok: 2 streams, 2 labels in 1 set, 1 sink"), "{said}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

#[test]
fn the_walk_through_with_home_assistant_is_run_as_far_as_there_is_no_home_assistant() {
    let mut reader = PageReader::of("home-assistant.md").with_env("VTAGD__API__LISTEN", "127.0.0.1:0");
    reader = reader.with_env("DOCK3_PASSWORD", "x").with_env("MQTT_PASSWORD", "x");
    reader.follow();
}
