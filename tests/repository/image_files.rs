//! What `ops/image/` says: both ways to an image, `make image` and the Dockerfile, take the same steps and give the same one, every plug-in that
//! a pipeline of ours asks for stays in it, and the example beside `compose.yaml` is a valid configuration. Without root, podman or Docker.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::common::daemon::{root, vtagd};
use gstreamer::prelude::*;
use serde_json::{Value, json};

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What `make image` says in `--config.NAME VALUE`, each value without its quotes.
fn given(script: &str, name: &str) -> Vec<String> {
    let words: Vec<&str> = script.split_whitespace().collect();
    let option = format!("--config.{name}");
    words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].trim_matches('"').to_owned()).collect()
}

/// The line of a Dockerfile that begins with `name`, without it.
fn line<'a>(dockerfile: &'a str, name: &str) -> &'a str {
    let mut found = dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.next_back().unwrap_or_else(|| panic!("no {name} in the Dockerfile"))
}

fn list(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn the_dockerfile_gives_the_image_that_make_image_gives() {
    let (script, docker) = (read("tools/image.sh"), read("ops/image/Dockerfile"));
    let settings =
        [("user", "USER"), ("workingdir", "WORKDIR"), ("exposedports", "EXPOSE"), ("stopsignal", "STOPSIGNAL")];
    for (option, name) in settings {
        assert_eq!(given(&script, option), [line(&docker, name)], "{name}");
    }
    assert_eq!(given(&script, "entrypoint"), list(line(&docker, "ENTRYPOINT")));
    assert_eq!(given(&script, "cmd"), list(line(&docker, "CMD")));
    assert_eq!(given(&script, "volume"), list(line(&docker, "VOLUME")));
    assert_eq!(given(&script, "env").join(" "), line(&docker, "ENV"));
    // What is built is what is run.
    let compose: Value = serde_yaml::from_str(&read("ops/image/compose.yaml")).unwrap();
    let image = compose["services"]["vtagd"]["image"].as_str().unwrap();
    assert_eq!(image, concat!("vtagd:", env!("CARGO_PKG_VERSION")));
    assert!(docker.contains(&format!("docker build --tag {image} ops/image\n")), "{image}");
    // The same steps, with the same files.
    for file in ["prepare.sh", "slim.pl", "plugins.txt"] {
        assert!(root().join("ops/image").join(file).is_file(), "{file}");
        assert!(script.contains(file) && docker.contains(file), "{file}");
    }
    // What the package only recommends, and what makes its user.
    for package in ["ca-certificates", "tzdata"] {
        assert!(script.contains(package) && docker.contains(package), "{package}");
    }
}

/// What a script calls it installs, and the clip it plays it makes: a machine of somebody's has neither.
#[test]
fn scripts_that_need_root_bring_what_they_call() {
    for script in ["tools/test_image.sh", "benches/first_tag.sh"] {
        let text = read(script);
        let installed = text.lines().find_map(|line| line.strip_prefix("tools/setup/packages.sh ")).unwrap_or_default();
        for tool in ["podman", "crun", "curl"] {
            assert!(installed.split(' ').any(|package| package == tool), "{script} installs no {tool}: {installed}");
        }
    }
    for script in ["tools/test_image.sh", "tools/test_deb.sh", "benches/first_tag.sh"] {
        assert!(read(script).contains("\n[ -e demo/clip.mp4 ] || tools/setup/clip.sh\n"), "{script} makes no clip");
    }
}

/// With a path on which there is nothing: what does not refuse cannot do anything either.
#[test]
fn what_makes_a_root_small_does_nothing_to_a_machine() {
    for (shell, arguments) in
        [("/bin/sh", &["ops/image/prepare.sh"][..]), ("/usr/bin/perl", &["ops/image/slim.pl", "/nonexistent"][..])]
    {
        let mut command = Command::new(shell);
        let output =
            command.current_dir(root()).args(arguments).env_clear().env("PATH", "/nonexistent").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("no root of an image"), "{arguments:?}: {said}");
    }
    for caller in ["tools/image.sh", "ops/image/Dockerfile"] {
        assert!(read(caller).contains("VTAGD_IMAGE_ROOT=1 sh /root/prepare.sh"), "{caller}");
    }
}

/// Docker's own store takes no archive of OCI's alone.
#[test]
fn the_image_s_archive_has_dockers_manifest_beside_that_of_oci() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |name: &str, value: &Value| {
        fs::write(blobs.join(name), value.to_string()).unwrap();
        json!({ "digest": format!("sha256:{name}"), "size": 1 })
    };
    let layers = [blob("debian", &json!("layer")), blob("vtagd", &json!("layer"))];
    let config = blob("config", &json!({ "config": {} }));
    let manifest = blob("manifest", &json!({ "config": config, "layers": layers }));
    fs::write(folder.path().join("index.json"), json!({ "manifests": [manifest] }).to_string()).unwrap();
    let script = root().join("tools/image/finish.py");
    assert!(Command::new("python3").arg(script).arg(folder.path()).arg("7.8.9").status().unwrap().success());
    let made = fs::read_to_string(folder.path().join("manifest.json")).unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made[0]["RepoTags"], json!(["vtagd:7.8.9"]));
    assert_eq!(made[0]["Layers"], json!(["blobs/sha256/debian", "blobs/sha256/vtagd"]));
    let config = fs::read_to_string(folder.path().join(made[0]["Config"].as_str().unwrap())).unwrap();
    assert!(config.contains("Healthcheck"), "the configuration as it is in the end: {config}");
    assert!(read("tools/image.sh").contains("blobs index.json manifest.json oci-layout"));
}

#[test]
fn the_health_check_is_the_same_in_all_places() {
    let (finish, docker, compose) =
        (read("tools/image/finish.py"), read("ops/image/Dockerfile"), read("ops/image/compose.yaml"));
    let health = line(&docker, "HEALTHCHECK");
    let command = list(&health[health.find('[').unwrap()..]);
    let quoted: Vec<String> = command.iter().map(|word| format!("\"{word}\"")).collect();
    assert!(finish.contains(&format!("\"Test\": [\"CMD\", {}]", quoted.join(", "))), "{command:?}");
    assert!(compose.contains(&format!("test: [CMD, {}]", command.join(", "))), "{command:?}");
    for (ours, docker, theirs) in
        [("Interval", "interval", 30), ("Timeout", "timeout", 15), ("StartPeriod", "start-period", 60)]
    {
        assert!(finish.contains(&format!("\"{ours}\": {theirs} * SECOND")), "{ours}");
        assert!(health.contains(&format!("--{docker}={theirs}s")), "{docker}");
        assert!(compose.contains(&format!("{}: {theirs}s", docker.replace('-', "_"))), "{docker}");
    }
    assert!(finish.contains("\"Retries\": 3") && health.contains("--retries=3") && compose.contains("retries: 3"));
}

#[test]
fn every_element_of_the_pipelines_is_in_a_plug_in_that_stays() {
    let kept = read("ops/image/plugins.txt");
    let kept: BTreeSet<&str> =
        kept.lines().filter(|line| !line.starts_with('#')).map(|line| line.trim_start_matches('?')).collect();
    gstreamer::init().unwrap();
    let (mut looked_at, mut problems) = (0, Vec::new());
    for entry in fs::read_dir(root().join("pipelines")).unwrap() {
        let file = entry.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        let code: String = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
        for element in code.split('!').filter_map(|part| part.split_whitespace().next()) {
            // A part may be caps; a maker's own elements are in no Debian.
            let Some(factory) = gstreamer::ElementFactory::find(element) else { continue };
            let plugin = factory.plugin().map(|plugin| plugin.plugin_name().to_string()).unwrap_or_default();
            looked_at += 1;
            if !kept.contains(plugin.as_str()) {
                problems.push(format!("{}: {element} is in the plug-in {plugin}", file.display()));
            }
        }
    }
    assert!(looked_at > 20 && problems.is_empty(), "{looked_at} looked at: {problems:?}");
}

#[test]
fn the_configuration_beside_compose_is_valid_and_its_files_are_there() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["vtagd.yaml", "room.yaml"] {
        fs::copy(root().join("ops/image/config").join(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("api.token"), "a-token-that-is-long-enough").unwrap();
    let output = vtagd(folder.path()).arg("check").arg("-c").arg(folder.path().join("vtagd.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compose: Value = serde_yaml::from_str(&read("ops/image/compose.yaml")).unwrap();
    let services = compose["services"].as_object().unwrap();
    assert_eq!(
        services.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        ["grafana", "mosquitto", "prometheus", "vtagd"].into()
    );
    for service in services.values() {
        for volume in service["volumes"].as_array().unwrap() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            // Made by the person: the state, and the token.
            if from.starts_with('.') && !from.ends_with("/state") && !from.ends_with("api.token") {
                assert!(root().join("ops/image").join(from).exists(), "{from}");
            }
        }
    }
    let ours = &services["vtagd"];
    assert_eq!((&ours["read_only"], &ours["cap_drop"][0]), (&Value::Bool(true), &Value::from("ALL")));
    // Docker gives none to a root that cannot be written; `make test-image` has the same.
    assert_eq!(ours["tmpfs"][0], "/tmp");
    assert!(read("tools/test_image.sh").contains("--read-only --read-only-tmpfs=false --tmpfs /tmp "));
    assert_eq!(ours["image"], format!("vtagd:{}", env!("CARGO_PKG_VERSION")));
}
