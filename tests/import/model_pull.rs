//! `vtagd model pull` by the real binary, from a hub on loopback that speaks the protocol, loses connections, lies and is rude.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::common::daemon::{eventually, vtagd};
use crate::hub_support::{
    COMMIT, Hub, REPO, Repository, Seen, Twist, failure, fetched, folder, git_sha1, is_large, sha256, tree,
};
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";

/// A Hugging Face checkpoint among the files that real repositories have beside it.
fn full() -> Repository {
    let mut repository = Repository::checkpoint("hf-clip-gelu-h14");
    for name in
        ["README.md", ".gitattributes", "pytorch_model.bin", "tf_model.h5", "onnx/vision_model.onnx", "vocab.json"]
    {
        repository.files.insert(name.into(), format!("not wanted: {name}").into_bytes());
    }
    repository
}

const WANTED: [&str; 6] =
    ["config.json", "hub.json", WEIGHTS, "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"];

/// Whether a request is for the weights' content.
fn is_weights(seen: &Seen) -> bool {
    seen.store && seen.method == "GET" && seen.header("host").is_some() && seen.path.contains(&weights_hash())
}

fn weights_hash() -> String {
    sha256(&full().files[WEIGHTS])
}

fn import(temporary: &Path, source: &Path) -> Value {
    let bundle = temporary.join("bundle");
    let mut command = vtagd(temporary);
    let output =
        command.args(["model", "import", "--no-measure"]).arg(source).arg("--out").arg(&bundle).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&fs::read(bundle.join("vtagd.json")).unwrap()).unwrap()
}

/// Files of the cache that are contents, whole or begun.
fn blobs(temporary: &Path) -> Vec<String> {
    tree(&temporary.join("cache/hub")).into_iter().filter(|name| name.contains("/blobs/")).collect()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the process is ours and not waited for yet, so its id cannot belong to another.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), signal) }, 0);
}

#[test]
fn what_is_pulled_is_what_an_import_needs_and_the_import_knows_where_it_came_from() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let out = temporary.path().join("models/clip-tiny");
    let output = hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap();
    assert_eq!(folder(&output), out);
    assert_eq!(tree(&out), WANTED);
    for name in WANTED.iter().filter(|name| **name != "hub.json") {
        assert_eq!(fs::read(out.join(name)).unwrap(), hub.repository().files[*name], "{name}");
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the Hugging Face checkpoint model.safetensors") && said.contains(COMMIT), "{said}");
    assert!(said.contains("leaving") && said.contains("pytorch_model.bin") && said.contains("onnx/ (1)"), "{said}");

    let origin: Value = serde_json::from_slice(&fs::read(out.join("hub.json")).unwrap()).unwrap();
    assert_eq!(
        (&origin["repo"], &origin["revision"], &origin["commit"]),
        (&json!(REPO), &json!("main"), &json!(COMMIT))
    );
    assert_eq!(origin["files"][WEIGHTS]["sha256"], weights_hash());
    let manifest = import(temporary.path(), &out);
    assert_eq!(manifest["source"], format!("{REPO}@{COMMIT}"));
    assert_eq!(manifest["name"], "clip-tiny");
}

#[test]
fn every_kind_of_checkpoint_is_pulled_and_imported() {
    for name in
        ["hf-clip-fp16-sharded", "hf-clip-pickle", "hf-clip-quickgelu", "openclip-vit", "openclip-vit-pickle", "siglip"]
    {
        let temporary = tempfile::tempdir().unwrap();
        let hub = Hub::start(Repository::checkpoint(name));
        let dir = folder(&hub.pull(temporary.path()).output().unwrap());
        assert!(dir.starts_with(temporary.path().join("cache")) && dir.ends_with("clip-tiny"), "{}", dir.display());
        let shards = tree(&dir).iter().filter(|f| f.starts_with("model-0")).count();
        assert_eq!(shards, if name == "hf-clip-fp16-sharded" { 6 } else { 0 });
        import(temporary.path(), &dir);
    }
}

#[test]
fn a_checkpoint_whose_weights_have_a_name_of_their_own_is_pulled_as_it_is_imported() {
    let temporary = tempfile::tempdir().unwrap();
    let mut repository = Repository::checkpoint("openclip-vit-pickle");
    let weights = repository.files.remove("open_clip_pytorch_model.bin").unwrap();
    repository.files.insert("epoch_32.pt".into(), weights);
    let hub = Hub::start(repository);
    let dir = folder(&hub.pull(temporary.path()).output().unwrap());
    assert!(tree(&dir).contains(&"epoch_32.pt".to_owned()), "{:?}", tree(&dir));
    import(temporary.path(), &dir);
}

#[test]
fn a_second_pull_fetches_nothing_and_its_folder_is_a_model_for_other_commands() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let first = folder(&hub.pull(temporary.path()).output().unwrap());
    assert_eq!(fetched(&hub.seen()).iter().filter(|s| s.store).count(), 2, "weights and tokenizer");
    let second = folder(&hub.pull(temporary.path()).output().unwrap());
    assert_eq!(first, second);
    assert!(fetched(&hub.seen()).is_empty());
    // Another folder is made of the same contents.
    let out = temporary.path().join("out");
    for _ in 0..2 {
        folder(&hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap());
        assert!(fetched(&hub.seen()).is_empty());
    }
    assert_eq!(tree(&out), WANTED);
    // A folder of the cache that lost a file is made anew.
    fs::remove_file(first.join("config.json")).unwrap();
    folder(&hub.pull(temporary.path()).output().unwrap());
    assert!(fetched(&hub.seen()).is_empty() && tree(&first) == WANTED);

    let output =
        vtagd(temporary.path()).args(["embed", "--json", "--text", "a cat", "-m"]).arg(&first).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_text_that_is_edited_in_one_folder_stays_as_it_was_in_the_others() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let out = temporary.path().join("out");
    folder(&hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap());
    fs::OpenOptions::new().append(true).open(out.join("config.json")).unwrap().write_all(b"\n\n").unwrap();
    let other = folder(&hub.pull(temporary.path()).output().unwrap());
    assert_eq!(fs::read(other.join("config.json")).unwrap(), hub.repository().files["config.json"]);
    let weights = fs::metadata(other.join(WEIGHTS)).unwrap();
    assert!(weights.permissions().readonly(), "weights are shared, so they cannot be written by accident");
}

#[test]
fn after_a_lost_connection_only_the_rest_is_asked_for() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    hub.twist(|seen| (is_weights(seen) && seen.before == 0).then_some(Twist::Cut(50_000)));
    let dir = folder(&hub.pull(temporary.path()).output().unwrap());
    let seen = hub.seen();
    let ranges: Vec<_> = seen.iter().filter(|s| is_weights(s)).map(|s| s.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=50000-")]);
    assert_eq!(sha256(&fs::read(dir.join(WEIGHTS)).unwrap()), weights_hash());
}

#[test]
fn a_server_that_knows_no_ranges_is_read_from_the_start_again() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    hub.twist(|seen| match (is_weights(seen), seen.before) {
        (true, 0) => Some(Twist::Cut(50_000)),
        (true, 1) => Some(Twist::Whole),
        _ => None,
    });
    let dir = folder(&hub.pull(temporary.path()).output().unwrap());
    assert_eq!(sha256(&fs::read(dir.join(WEIGHTS)).unwrap()), weights_hash());
}

#[test]
fn a_pull_that_is_killed_leaves_nothing_that_looks_finished_and_the_next_one_goes_on() {
    for kill in [libc::SIGKILL, libc::SIGINT, libc::SIGTERM] {
        let temporary = tempfile::tempdir().unwrap();
        let hub = Hub::start(full());
        let out = temporary.path().join("out");
        hub.twist(|seen| is_weights(seen).then_some(Twist::Hang(60_000)));
        let mut command = hub.pull(temporary.path());
        command.arg("--out").arg(&out).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        // It has written what it got.
        eventually("60000 bytes are on the disk", || {
            let part = blobs(temporary.path()).into_iter().find(|name| name.ends_with(".part"))?;
            let size = fs::metadata(temporary.path().join("cache/hub").join(part)).ok()?.len();
            (hub.hangs() && size == 60_000).then_some(())
        });
        signal(&child, kill);
        let output = child.wait_with_output().unwrap();
        if kill != libc::SIGKILL {
            let (code, text) = failure(&output);
            assert!(code == 1 && text.contains("stopped; run it again to go on from there"), "{code}: {text}");
        }
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1, "there is the cache and nothing else");

        hub.twist(|_| None);
        hub.seen();
        folder(&hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap());
        let seen = hub.seen();
        let weights: Vec<_> = seen.iter().filter(|s| is_weights(s)).collect();
        assert_eq!(weights.len(), 1);
        assert_eq!(weights[0].header("range"), Some("bytes=60000-"));
        assert_eq!(tree(&out), WANTED);
        assert!(blobs(temporary.path()).iter().all(|name| !name.ends_with(".part")));
    }
}

#[test]
fn what_a_killed_pull_has_left_beside_the_result_is_removed_by_the_next_one_there() {
    let hub = Hub::start(full());
    let temporary = tempfile::tempdir().unwrap();
    let left = temporary.path().join(".model.pulling-0190a5a8-0000-7000-8000-000000000001");
    fs::create_dir(&left).unwrap();
    fs::write(left.join(WEIGHTS), "half").unwrap();
    folder(&hub.pull(temporary.path()).arg("--out").arg(temporary.path().join("model")).output().unwrap());
    assert!(!left.exists());
}

#[test]
fn a_content_with_another_hash_is_refused_and_thrown_away() {
    // Of a large file and of a small one.
    for name in [WEIGHTS, "preprocessor_config.json"] {
        let temporary = tempfile::tempdir().unwrap();
        let hub = Hub::start(full());
        let out = temporary.path().join("out");
        let mut other = hub.repository().files[name].clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        hub.twist(move |seen| {
            let content = if is_large(name) { is_weights(seen) } else { seen.path.ends_with(name) };
            content.then(|| Twist::Body(other.clone()))
        });
        let (code, text) = failure(&hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap());
        assert!(code == 1 && text.contains(name) && text.contains("damaged or was tampered with"), "{code}: {text}");
        assert!(!out.exists());
        let bytes = &hub.repository().files[name];
        let hash = if is_large(name) { sha256(bytes) } else { git_sha1(bytes) };
        assert!(blobs(temporary.path()).iter().all(|blob| !blob.contains(&hash)));
    }
}

#[test]
fn a_beginning_that_was_damaged_on_the_disk_is_fetched_anew() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let folder_of_blobs =
        temporary.path().join("cache/hub").join(hub.hub.to_string().replace(':', "_")).join("acme--clip-tiny/blobs");
    fs::create_dir_all(&folder_of_blobs).unwrap();
    // A power cut leaves zeros.
    fs::write(folder_of_blobs.join(format!("{}.part", weights_hash())), vec![0; 10_000]).unwrap();
    let dir = folder(&hub.pull(temporary.path()).output().unwrap());
    assert_eq!(sha256(&fs::read(dir.join(WEIGHTS)).unwrap()), weights_hash());
    let seen = hub.seen();
    let ranges: Vec<_> = seen.iter().filter(|s| is_weights(s)).map(|s| s.header("range")).collect();
    assert_eq!(ranges, [Some("bytes=10000-"), None]);
}

#[test]
fn offline_nobody_is_asked_and_what_is_missing_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let (code, text) = failure(&hub.pull(temporary.path()).env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(code == 2 && text.contains("was never pulled") && text.contains(REPO), "{code}: {text}");

    let online = folder(&hub.pull(temporary.path()).output().unwrap());
    hub.seen();
    assert_eq!(folder(&hub.pull(temporary.path()).arg("--offline").output().unwrap()), online);
    let out = temporary.path().join("out");
    let mut command = hub.pull(temporary.path());
    folder(&command.env("HF_HUB_OFFLINE", "1").arg("--out").arg(&out).output().unwrap());
    assert_eq!(tree(&out), WANTED);
    // A commit is a revision too.
    folder(&hub.pull(temporary.path()).args(["--offline", "--revision", COMMIT]).output().unwrap());

    let blob = blobs(temporary.path()).into_iter().find(|name| name.ends_with(&weights_hash())).unwrap();
    fs::remove_file(temporary.path().join("cache/hub").join(blob)).unwrap();
    let mut command = hub.pull(temporary.path());
    let (code, text) =
        failure(&command.arg("--offline").arg("--out").arg(temporary.path().join("b")).output().unwrap());
    assert!(code == 2 && text.contains("the cache lacks model.safetensors of"), "{code}: {text}");
    let (code, text) = failure(&hub.pull(temporary.path()).args(["--offline", "--revision", "v2"]).output().unwrap());
    assert!(code == 2 && text.contains("v2"), "{code}: {text}");
    assert!(hub.seen().is_empty());
}

#[test]
fn a_gated_repository_tells_how_to_get_in_and_a_token_opens_it_without_being_shown_or_passed_on() {
    const TOKEN: &str = "hf_JustForThisTest";
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(Repository { token: Some(TOKEN.into()), ..full() });
    let (code, text) = failure(&hub.pull(temporary.path()).output().unwrap());
    assert!(code == 2 && text.contains(&format!("{}/{REPO}", hub.url())), "{code}: {text}");
    assert!(text.contains("accept its conditions") && text.contains("HF_TOKEN") && text.contains("/settings/tokens"));
    let (code, text) = failure(&hub.pull(temporary.path()).env("HF_TOKEN", "hf_Wrong").output().unwrap());
    assert!(code == 2 && text.contains("refuses the token") && !text.contains("hf_Wrong"), "{code}: {text}");
    assert!(hub.seen().iter().all(|s| s.path.starts_with("/api/")), "a refusal is not asked again");

    let home = temporary.path().join("hf");
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("token"), format!("{TOKEN}\n")).unwrap();
    let named = temporary.path().join("named");
    fs::write(&named, TOKEN).unwrap();
    for (n, (variable, value)) in
        [("HF_TOKEN", TOKEN), ("HF_TOKEN_PATH", named.to_str().unwrap()), ("UNRELATED", "")].iter().enumerate()
    {
        let mut command = hub.pull(temporary.path());
        command.arg("-vv").env("VTAGD_CACHE", temporary.path().join(format!("cache{n}"))).env(variable, value);
        let output = command.output().unwrap();
        folder(&output);
        assert!(!String::from_utf8_lossy(&output.stderr).contains(TOKEN));
    }
    let seen = hub.seen();
    assert!(seen.iter().filter(|s| s.store).count() >= 3 && seen.iter().filter(|s| !s.store).count() >= 3);
    for seen in seen {
        let shown = seen.header("authorization").is_some();
        assert_eq!(shown, !seen.store, "the token goes to the hub and nowhere else: {seen:?}");
    }
}

#[test]
fn a_repository_that_moved_is_followed_and_a_foreign_host_that_claims_to_be_it_gets_no_token() {
    let temporary = tempfile::tempdir().unwrap();
    let (hub, other) = (Hub::start(full()), Hub::start(full()));
    // Small files are often answered from another path of the hub itself.
    hub.twist(|seen| {
        let moved = seen.path.ends_with("/config.json") && !seen.path.contains("moved");
        let location = format!("Location: {}?moved\r\n", seen.path);
        moved.then(|| Twist::Answer("307 Temporary Redirect", location, Vec::new()))
    });
    folder(&hub.pull(temporary.path()).env("HF_TOKEN", "hf_x").output().unwrap());
    let seen = hub.seen();
    let config = seen.iter().find(|s| s.path.ends_with("/config.json?moved")).unwrap();
    assert_eq!(config.header("authorization"), Some("Bearer hf_x"));

    let location = format!("Location: {}/api/models/{REPO}/revision/main\r\n", other.url());
    hub.twist(move |_| Some(Twist::Answer("302 Found", location.clone(), Vec::new())));
    let _ = hub.pull(temporary.path()).env("HF_TOKEN", "hf_x").args(["--retries", "0"]).output().unwrap();
    let seen = other.seen();
    assert!(!seen.is_empty() && seen.iter().all(|s| s.header("authorization").is_none()), "{seen:?}");

    // Round and round.
    hub.twist(|seen| Some(Twist::Answer("302 Found", format!("Location: {}\r\n", seen.path), Vec::new())));
    let empty = tempfile::tempdir().unwrap();
    let (code, text) = failure(&hub.pull(empty.path()).output().unwrap());
    assert!(code == 1 && text.contains("sends on more than"), "{code}: {text}");
}

#[test]
fn names_that_point_out_of_the_folder_are_refused() {
    for name in ["../../evil.json", "/tmp/evil.json", "onnx/../../../evil.json", "..\\evil.json"] {
        let temporary = tempfile::tempdir().unwrap();
        let siblings = json!([{"rfilename": "config.json"}, {"rfilename": name}]);
        let hub = Hub::start(Repository { siblings: Some(siblings), ..full() });
        let out = temporary.path().join("out");
        for include in [&[][..], &["--include", "*"]] {
            let (code, text) =
                failure(&hub.pull(temporary.path()).args(include).arg("--out").arg(&out).output().unwrap());
            assert!(code == 2 && text.contains("evil.json") && text.contains("refused"), "{name}: {code}: {text}");
            assert!(fetched(&hub.seen()).is_empty() && !out.exists());
        }
    }
}

#[test]
fn an_index_that_names_files_elsewhere_is_refused() {
    for shard in ["../../../etc/passwd", "/etc/passwd", "absent.safetensors"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut repository = Repository::checkpoint("hf-clip-fp16-sharded");
        let index = json!({"weight_map": {"logit_scale": shard}}).to_string().into_bytes();
        repository.files.insert("model.safetensors.index.json".into(), index);
        let hub = Hub::start(repository);
        let (code, text) = failure(&hub.pull(temporary.path()).output().unwrap());
        assert!(code == 1 && text.contains("names the shard"), "{shard}: {code}: {text}");
    }
}

#[test]
fn sizes_that_lie_fill_neither_disk_nor_memory() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    // A promise that no disk can hold is refused before the first byte.
    let mut siblings = json!([]);
    for (name, bytes) in &hub.repository().files {
        let size = if name == WEIGHTS { 1_u64 << 60 } else { bytes.len() as u64 };
        let lfs = json!({"sha256": sha256(bytes), "size": size});
        let lfs = if is_large(name) { lfs } else { Value::Null };
        let entry = json!({"rfilename": name, "size": size, "blobId": git_sha1(bytes), "lfs": lfs});
        siblings.as_array_mut().unwrap().push(entry);
    }
    hub.repository().siblings = Some(siblings);
    let (code, text) = failure(&hub.pull(temporary.path()).output().unwrap());
    assert!(code == 1 && text.contains("MB are needed"), "{code}: {text}");
    assert!(!hub.seen().iter().any(is_weights));

    // A body that goes on, with the right beginning.
    hub.repository().siblings = None;
    hub.twist(|seen| is_weights(seen).then_some(Twist::Endless));
    let (code, text) = failure(&hub.pull(temporary.path()).output().unwrap());
    assert!(code == 1 && text.contains("goes on after") && text.contains(WEIGHTS), "{code}: {text}");

    // A listing that goes on.
    hub.twist(|seen| seen.path.starts_with("/api/").then_some(Twist::Endless));
    let (code, text) = failure(&hub.pull(temporary.path()).output().unwrap());
    assert!(code == 1 && text.contains("is longer than"), "{code}: {text}");

    // A body that is always cut at the same place is not asked for without end.
    hub.twist(|seen| is_weights(seen).then_some(Twist::Cut(0)));
    hub.seen();
    let (code, text) = failure(&hub.pull(temporary.path()).args(["--retries", "1"]).output().unwrap());
    assert!(code == 1 && text.contains("was cut off"), "{code}: {text}");
    assert_eq!(hub.seen().iter().filter(|s| is_weights(s)).count(), 2);
}

#[test]
fn a_busy_hub_is_asked_again_as_it_wishes_and_not_for_ever() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let busy = |status, wait: &str| Twist::Answer(status, format!("Retry-After: {wait}\r\n"), b"<html>".to_vec());
    hub.twist(move |seen| match (seen.path.starts_with("/api/"), is_weights(seen), seen.before) {
        (true, _, 0) => Some(busy("429 Too Many Requests", "1")),
        (_, true, 0) => Some(busy("503 Service Unavailable", "Wed, 21 Oct 2026 07:28:00 GMT")),
        _ => None,
    });
    folder(&hub.pull(temporary.path()).output().unwrap());

    // With nothing in the cache that could take its place.
    let empty = tempfile::tempdir().unwrap();
    hub.twist(move |_| Some(busy("502 Bad Gateway", "0")));
    hub.seen();
    let (code, text) = failure(&hub.pull(empty.path()).args(["--retries", "1"]).output().unwrap());
    assert!(code == 1 && text.contains("502") && hub.seen().len() == 2, "{code}: {text}");

    // A day is longer than anybody waits.
    hub.twist(move |_| Some(busy("429 Too Many Requests", "86400")));
    let (code, text) = failure(&hub.pull(empty.path()).output().unwrap());
    assert!(code == 1 && text.contains("429") && hub.seen().len() == 1, "{code}: {text}");
}

#[test]
fn what_is_not_there_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let (code, text) = failure(&hub.pull(temporary.path()).args(["--revision", "v9"]).output().unwrap());
    assert!(code == 2 && text.contains("has no revision `v9`"), "{code}: {text}");
    hub.twist(|_| Some(Twist::Answer("404 Not Found", "X-Error-Code: RepoNotFound\r\n".into(), Vec::new())));
    let (code, text) = failure(&hub.pull(temporary.path()).output().unwrap());
    assert!(code == 2 && text.contains("there is no repository acme/clip-tiny"), "{code}: {text}");
    hub.twist(|_| {
        Some(Twist::Answer("200 OK", String::new(), b"<html>sign in to the wireless network</html>".to_vec()))
    });
    let (code, text) = failure(&hub.pull(temporary.path()).output().unwrap());
    assert!(code == 1 && text.contains("is not what a hub says") && text.contains("HF_ENDPOINT"), "{code}: {text}");

    let text_model = Hub::start(Repository::of(&[("config.json", br#"{"model_type": "gpt2"}"#), (WEIGHTS, b"x")]));
    let (code, text) = failure(&text_model.pull(temporary.path()).output().unwrap());
    assert!(code == 2 && text.contains("nothing in it can be read") && text.contains(WEIGHTS), "{code}: {text}");
    assert!(!fetched(&text_model.seen()).iter().any(|s| s.store), "weights that are of no use are not fetched");

    let (code, text) = failure(&vtagd(temporary.path()).args(["model", "pull", "../x"]).output().unwrap());
    assert!(code == 2 && text.contains("ORG/NAME"), "{code}: {text}");
    // Port 1 of this machine answers nobody.
    let mut command = hub.pull(temporary.path());
    let (code, text) =
        failure(&command.env("HF_ENDPOINT", "http://127.0.0.1:1").args(["--retries", "0"]).output().unwrap());
    assert!(code == 1 && text.contains("127.0.0.1:1 cannot be reached"), "{code}: {text}");
}

#[test]
fn a_mirror_whose_listing_has_no_hashes_is_asked_for_each_file_and_one_that_tells_none_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(Repository { bare: true, ..full() });
    let dir = folder(&hub.pull(temporary.path()).output().unwrap());
    assert_eq!(tree(&dir), WANTED);
    let seen = hub.seen();
    assert!(
        seen.iter().filter(|s| s.method == "HEAD").count() >= 5 && !seen.iter().any(|s| s.store && s.method == "HEAD")
    );
    folder(&hub.pull(temporary.path()).arg("--offline").output().unwrap());
    assert_eq!(folder(&hub.pull(temporary.path()).output().unwrap()), dir);
    assert_eq!(hub.seen().len(), 1, "hashes are remembered");

    let other = tempfile::tempdir().unwrap();
    hub.repository().mute = true;
    let (code, text) = failure(&hub.pull(other.path()).output().unwrap());
    assert!(code == 1 && text.contains("tells no size and hash"), "{code}: {text}");
}

#[test]
fn a_branch_is_pinned_to_its_commit_and_contents_that_did_not_change_are_not_fetched_again() {
    const LATER: &str = "2222222222222222222222222222222222222222";
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let first = folder(&hub.pull(temporary.path()).output().unwrap());
    hub.repository().revisions = [("main".to_owned(), LATER.to_owned()), ("refs/pr/1".into(), LATER.into())].into();
    hub.repository().files.insert("tokenizer_config.json".into(), b"{}".to_vec());
    hub.seen();
    let second = folder(&hub.pull(temporary.path()).output().unwrap());
    assert_ne!(first, second);
    let seen = hub.seen();
    let paths: Vec<_> = fetched(&seen).iter().map(|s| s.path.clone()).collect();
    assert_eq!(paths, [format!("/{REPO}/resolve/{LATER}/tokenizer_config.json")]);
    assert_eq!(folder(&hub.pull(temporary.path()).args(["--revision", "refs/pr/1"]).output().unwrap()), second);
    // The commit that was written down gives the first one, and need not be asked for.
    hub.seen();
    assert_eq!(folder(&hub.pull(temporary.path()).args(["--revision", COMMIT]).output().unwrap()), first);
    assert!(hub.seen().is_empty());
}

#[test]
fn a_second_pull_of_one_repository_waits_for_the_first_and_goes_on_where_that_was_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    hub.twist(|seen| is_weights(seen).then_some(Twist::Hang(60_000)));
    let first = hub.pull(temporary.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the first pull fetches the weights", || hub.hangs().then_some(()));
    let log = temporary.path().join("stderr");
    let mut command = hub.pull(temporary.path());
    let second = command.stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    eventually("the second pull waits", || fs::read_to_string(&log).unwrap().contains("waiting for it").then_some(()));
    assert_eq!(hub.seen().iter().filter(|s| is_weights(s)).count(), 1);
    hub.twist(|_| None);
    signal(&first, libc::SIGKILL);
    first.wait_with_output().unwrap();
    folder(&second.wait_with_output().unwrap());
    let seen = hub.seen();
    let weights: Vec<_> = seen.iter().filter(|s| is_weights(s)).collect();
    assert!(weights.len() == 1 && weights[0].header("range").is_some(), "{weights:?}");
}

#[test]
fn what_lies_at_the_place_of_the_result_stays() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let out = temporary.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "precious").unwrap();
    let (code, text) = failure(&hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap());
    assert!(code == 2 && text.contains("exists already"), "{code}: {text}");
    assert!(hub.seen().is_empty() && tree(&out) == ["mine"]);
    // An empty folder and a link to nowhere are nobody's, but a link is not written through.
    fs::remove_file(out.join("mine")).unwrap();
    folder(&hub.pull(temporary.path()).arg("--out").arg(&out).output().unwrap());
    let link = temporary.path().join("link");
    std::os::unix::fs::symlink("/no/such/place", &link).unwrap();
    let (code, _) = failure(&hub.pull(temporary.path()).arg("--out").arg(&link).output().unwrap());
    assert_eq!(code, 2);
}

#[test]
fn patterns_choose_other_files() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let usual = folder(&hub.pull(temporary.path()).output().unwrap());
    let mut command = hub.pull(temporary.path());
    let dir = folder(&command.args(["--include", "onnx/*", "--include", "config.jso?"]).output().unwrap());
    assert_eq!(tree(&dir), ["config.json", "hub.json", "onnx/vision_model.onnx"]);
    assert_ne!(dir, usual);
    assert_eq!(tree(&usual), WANTED);
    let (code, text) = failure(&hub.pull(temporary.path()).args(["--include", "*.gguf"]).output().unwrap());
    assert!(code == 2 && text.contains("*.gguf matches 0 files"), "{code}: {text}");
}

#[test]
fn a_full_disk_is_told_and_what_was_fetched_is_kept() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let pull = hub.pull(temporary.path());
    // A file may not grow beyond 64 blocks of 512 bytes; without the signal that is an error of a write, as a full disk is.
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(pull.get_program())
        .args(pull.get_args());
    command.current_dir(pull.get_current_dir().unwrap());
    for (name, value) in pull.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let (code, text) = failure(&command.output().unwrap());
    assert!(code == 1 && text.contains("cannot be written") && text.contains("VTAGD_CACHE"), "{code}: {text}");
    hub.seen();
    folder(&hub.pull(temporary.path()).output().unwrap());
    assert!(hub.seen().iter().filter(|s| is_weights(s)).all(|s| s.header("range").is_some()));
}

/// A proxy that connects whoever asks with `to`; the names it was asked for.
fn proxy(to: std::net::SocketAddr) -> (std::net::SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, names) = std::sync::mpsc::sync_channel(100);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            lines.by_ref().take_while(|l| !l.is_empty()).for_each(drop);
            sender.send(first).unwrap();
            let server = TcpStream::connect(to).unwrap();
            (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (address, names)
}

#[test]
fn a_proxy_is_used_where_the_environment_names_one() {
    let temporary = tempfile::tempdir().unwrap();
    // Everything small, so that no store with an address of its own is needed.
    let mut repository = Repository::checkpoint("hf-clip-pickle");
    repository.files.retain(|name, _| !is_large(name));
    let hub = Hub::start(repository);
    let (address, names) = proxy(hub.hub);
    let mut command = hub.pull(temporary.path());
    command.env("HTTP_PROXY", format!("http://{address}")).env("HF_ENDPOINT", "http://hub.invalid");
    let dir = folder(&command.args(["--include", "*.json"]).output().unwrap());
    assert!(tree(&dir).contains(&"vocab.json".to_owned()));
    let name = names.recv().unwrap();
    assert!(name.starts_with("CONNECT hub.invalid:80 "), "{name}");
}

/// Speaks TLS with whoever asks and passes the requests on to `to`; its certificate.
fn encrypted(to: std::net::SocketAddr) -> (std::net::SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let connection = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
            let mut client = BufReader::new(rustls::StreamOwned::new(connection, client));
            let mut request = String::new();
            // A client that does not trust us leaves in the middle.
            while !request.ends_with("\r\n\r\n") && client.read_line(&mut request).is_ok_and(|read| read > 0) {}
            if !request.ends_with("\r\n\r\n") {
                continue;
            }
            let mut server = TcpStream::connect(to).unwrap();
            server.write_all(request.as_bytes()).unwrap();
            let client = client.get_mut();
            let _ = std::io::copy(&mut server, client);
            client.conn.send_close_notify();
            let _ = client.flush();
        }
    });
    (address, made.cert.pem())
}

#[test]
fn encrypted_hubs_are_trusted_by_the_systems_authorities_and_never_left_for_plain_text() {
    let temporary = tempfile::tempdir().unwrap();
    let hub = Hub::start(full());
    let ((address, certificate), (_, stranger)) = (encrypted(hub.hub), encrypted(hub.hub));
    let (good, bad) = (temporary.path().join("good.pem"), temporary.path().join("bad.pem"));
    fs::write(&good, certificate).unwrap();
    fs::write(&bad, stranger).unwrap();
    let pull = |authority: &Path, include: &str| {
        let mut command = hub.pull(temporary.path());
        command.env("HF_ENDPOINT", format!("https://{address}")).env("SSL_CERT_FILE", authority);
        command.env_remove("SSL_CERT_DIR").args(["--include", include]).output().unwrap()
    };
    let (code, text) = failure(&pull(&bad, "config.json"));
    assert!(code == 1 && text.contains("is not who it should be") && text.contains("SSL_CERT_FILE"), "{code}: {text}");
    assert!(hub.seen().is_empty());
    assert_eq!(tree(&folder(&pull(&good, "config.json"))), ["config.json", "hub.json"]);
    let (code, text) = failure(&pull(&good, WEIGHTS));
    assert!(code == 1 && text.contains("without encryption"), "{code}: {text}");
    fs::write(&bad, "").unwrap();
    let (code, text) = failure(&pull(&bad, "config.json"));
    assert!(code == 1 && text.contains("ca-certificates"), "{code}: {text}");
}
