//! The running daemon against its own OpenAPI document: schemathesis (tools/setup/schemathesis.sh) makes requests of every kind, right and
//! wrong, and checks every answer. The seed is fixed.

use std::path::Path;
use std::process::Command;

use crate::common::daemon::{Daemon, eventually, root};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What schemathesis says of the daemon at `url`, by the document at `place`; whether it is content.
fn schemathesis(folder: &Path, place: &str, url: &str, examples: &str, more: &[&str]) -> (bool, String) {
    let program = root().join(".setup/schemathesis/bin/schemathesis");
    assert!(program.exists(), "run tools/setup/schemathesis.sh first, as `make test` does");
    let mut command = Command::new(program);
    command.current_dir(folder).args(["run", place, "--url", url, "--no-color", "--checks", "all", "--seed", "1"]);
    command.args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--max-examples", examples]);
    command.args(["--generation-deterministic", "--output-truncate", "false"]);
    // Below what one address may ask: else most answers would be that it asks too much.
    command.args(["--rate-limit", "40/s"]);
    // The first look at a stream waits for its next sample, and the machine may be busy.
    command.args(["--request-timeout", "60"]).args(more);
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[test]
fn every_answer_is_as_the_openapi_document_says() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    // Its id is the document's example of one.
    let config = format!(
        "streams:\n  - {{ id: dock-3, url: \"file://{}\", loop: true, sampling: {{ interval: 200ms }} }}\n\
         \x20 - {{ id: away, url: \"rtsp://127.0.0.1:9/\", enabled: false }}\n\x20 - {{ id: front-door, url: \"push://front-door\" }}\nlabels: [{}]\n\
         events: {{ after: 0s, cooldown: 0s }}\nsinks: [{{ type: jsonl, path: \"-\" }}]\noutbox: {{ path: \":memory:\" }}\n\
         snapshots: {{ path: pictures }}\napi: {{ listen: 127.0.0.1:0, token: {{ file: token }} }}\n",
        root().join("demo/clip.mp4").display(),
        root().join("config/labels/demo.yaml").display()
    );
    let mut daemon = Daemon::start(folder.path(), &config);
    let url = daemon.url();
    eventually("there are events to answer with", || (daemon.events().len() > 2).then_some(()));

    // No schema can say what a JPEG is: most of what fits it cannot be read, and the answer is 422. Of the history no pictures are kept here, and marks are of streams by their names.
    let known = "[[operations]]\ninclude-path-regex = \"/api/v1/(tag|embed|search)\"\nwarnings = false\n\
                 checks.positive_data_acceptance.expected-statuses = [\"2xx\", 401, 403, 404, 409, 415, 422, \"5xx\"]\n\
                 [[operations]]\ninclude-path-regex = \"/api/v1/labels/.*/(try|edit)\"\nwarnings = false\n\
                 checks.positive_data_acceptance.expected-statuses = [\"2xx\", 401, 403, 404, 409, 415, 422, \"5xx\"]\n\
                 # Hardly any text is the address of a camera, or the name of a stream; and none may have control characters, which no schema says here.\n\
                 [[operations]]\ninclude-path-regex = \"^/api/v1/(streams|streams/[^/]*|preview|labels/[^/]*/(report|calibrate))$\"\nwarnings = false\n\
                 checks.positive_data_acceptance.expected-statuses = [\"2xx\", 400, 401, 403, 404, 409, 415, 422, \"5xx\"]\n\
                 # A list of names may be longer than the head of a request.\n\
                 [[operations]]\ninclude-path = \"/api/v1/pictures\"\n\
                 checks.negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 415, 422, 428, 429, 431, \"5xx\"]\n\
                 [[operations]]\ninclude-path-regex = \"(/api/v1/(history|marks)|/page/)\"\nwarnings = false\n\
                 # Else it would go on for ever.\n\
                 [[operations]]\ninclude-path = \"/api/v1/live\"\nparameters = { \"query.for\" = 1 }\nwarnings = false\n";
    std::fs::write(folder.path().join("schemathesis.toml"), known).unwrap();
    let place = format!("{url}/api/v1/openapi.json");
    // The same of pictures for a stream; and who waits for one may wait in vain.
    let more = known.split("\n[[").next().unwrap().replace("(tag|embed|search)", "streams/.*/frames");
    std::fs::write(folder.path().join("schemathesis.toml"), format!("{known}\n{more}\n")).unwrap();
    // It would ask the network of whoever runs the tests.
    let more = ["--exclude-path", "/api/v1/discover"];
    let (content, said) = schemathesis(folder.path(), &place, &url, "12", &more);
    assert!(content && said.contains("No issues found"), "{said}");
    for phase in ["Examples", "Coverage", "Fuzzing", "Stateful"] {
        assert!(said.contains(&format!("\u{2705} {phase}")), "{phase}: {said}");
    }

    // A document that says something else is found out: the checks are on.
    let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
    let mut answer = agent.get(&place).header("Authorization", format!("Bearer {TOKEN}")).call().unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    document["components"]["schemas"]["Labels"]["properties"]["sets"] = serde_json::json!({ "type": "integer" });
    let wrong = folder.path().join("wrong.json");
    std::fs::write(&wrong, document.to_string()).unwrap();
    let only = ["--include-path", "/api/v1/labels"];
    let (content, said) = schemathesis(folder.path(), &wrong.display().to_string(), &url, "1", &only);
    assert!(!content && said.contains("is not of type"), "{said}");

    // It has reloaded, paused and resumed; it is as well as before, every change is in the log, and the token is not.
    daemon.stop_cleanly();
    let log = daemon.log();
    assert!(log.contains("changed by the API") && log.contains("action=\"pause\""), "{log}");
    assert!(log.contains("a change without the token was refused"), "{log}");
    assert!(!log.contains(TOKEN), "{log}");
    assert!(log.lines().filter(|l| l.contains("frames accounted")).all(|l| l.contains("unaccounted=0")), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}
