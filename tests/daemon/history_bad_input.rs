//! What a search, and the model besides, is asked and cannot answer: pictures of 30,000 pixels a side, books instead of words. And a disk
//! without room while it is asked.

use std::io::Cursor;
use std::path::Path;

use crate::common::daemon::{Daemon, can_have_hosts, eventually, root, vtagd};
use image::{GrayImage, ImageFormat};
use serde_json::Value;

/// Sides of the pictures.
const SIDE: u32 = 30_000;

fn start(folder: &Path) -> Daemon {
    Daemon::start(folder, &config(folder))
}

fn config(folder: &Path) -> String {
    let set = "set: s\nbackground: [a wall]\nlabels: [{ name: x, prompts: [a tree] }]\n";
    std::fs::write(folder.join("set.yaml"), set).unwrap();
    format!(
        "model: {{ path: starter }}\nsampling: {{ interval: 500ms }}\nhistory: {{ path: kept }}\nlabels: [set.yaml]\n\
         streams: [{{ id: yard, url: \"file://{}\", loop: true }}]\noutbox: {{ path: \":memory:\" }}\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: 127.0.0.1:0 }}\n",
        root().join("demo/clip.mp4").display()
    )
}

/// Pictures that are so wide, with their types: one that is, and two that say that they are as high too.
fn pictures() -> [(&'static str, Vec<u8>); 3] {
    let coded = |width, height, format| {
        let mut bytes = Cursor::new(Vec::new());
        GrayImage::new(width, height).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let wide = coded(SIDE, 40, ImageFormat::Png);
    // The first chunk of a PNG: its height, and its checksum.
    let mut png = wide.clone();
    png[20..24].copy_from_slice(&SIDE.to_be_bytes());
    let sum = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    // The frame header of a JPEG: height and width.
    let mut jpeg = coded(64, 64, ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
    for at in [frame + 5, frame + 7] {
        jpeg[at..at + 2].copy_from_slice(&(SIDE as u16).to_be_bytes());
    }
    [("image/png", wide), ("image/png", png), ("image/jpeg", jpeg)]
}

fn send(url: &str, path: &str, body: Option<(&str, &[u8])>) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = match body {
        Some((kind, body)) => agent.post(format!("{url}{path}")).header("Content-Type", kind).send(body).unwrap(),
        None => agent.get(format!("{url}{path}")).call().unwrap(),
    };
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

#[test]
fn pictures_of_30_000_pixels_and_books_are_refused_by_every_way_in_and_cost_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path());
    daemon.wait_ready();
    let url = daemon.url();
    let found = eventually("a search", || {
        let (status, found) = send(&url, "/api/v1/search?text=a+cat", None);
        let found: Value = serde_json::from_str(&found).unwrap();
        (status == 200 && found["searched"]["rows"].as_u64() > Some(0)).then_some(found)
    });
    assert_eq!(found["searched"]["damaged"], 0);
    let before = daemon.peak();
    for (number, (kind, picture)) in pictures().into_iter().enumerate() {
        for path in
            ["/api/v1/tag", "/api/v1/tag?stream=yard", "/api/v1/embed", "/api/v1/search", "/api/v1/search?text=a+cat"]
        {
            let (status, why) = send(&url, path, Some((kind, &picture)));
            assert!(status == 422 && why.contains("error") && why.len() < 500, "{path} {number}: {status} {why}");
        }
        let file = folder.path().join(format!("large-{number}"));
        std::fs::write(&file, &picture).unwrap();
        let asked = vtagd(folder.path()).args(["search", "--url", &url, "--picture"]).arg(&file).output().unwrap();
        assert_eq!(asked.status.code(), Some(2), "{number}: {asked:?}");
    }
    // One byte a pixel would be 900 MB.
    assert!(daemon.peak() < before + (300 << 20), "{} after {before}", daemon.peak());

    let book = "a car ".repeat(10_000);
    let query = format!("?text={}", "a+car+".repeat(10_000));
    let texts = serde_json::json!({ "texts": [book] }).to_string();
    let (_, jpeg) = &pictures()[2];
    for (path, body) in [
        (format!("/api/v1/search{query}"), None),
        (format!("/api/v1/search{query}"), Some(("image/jpeg", &jpeg[..]))),
        ("/api/v1/embed".to_owned(), Some(("application/json", texts.as_bytes()))),
    ] {
        let (status, why) = send(&url, &path, body);
        assert!((400..500).contains(&status) && why.len() < 1000, "{path:.30}: {status} {why}");
    }
    for arguments in [&["search", &book][..], &["labels", "try", &book]] {
        let asked = vtagd(folder.path()).args(arguments).args(["--url", &url]).output().unwrap();
        let why = String::from_utf8_lossy(&asked.stderr);
        assert!(asked.status.code() == Some(2) && why.contains("longer than 1000") && why.len() < 500, "{why}");
    }
    // It goes on.
    assert_eq!(send(&url, "/api/v1/search?text=a+cat", None).0, 200);
    daemon.stop_cleanly();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());

    // The same by the folder, where no daemon runs.
    for number in 0..pictures().len() {
        let mut command = vtagd(folder.path());
        command.args(["search", "--picture"]).arg(folder.path().join(format!("large-{number}")));
        let asked = command.arg("--history").arg(folder.path().join("kept")).output().unwrap();
        // A file of one's own may be so wide, as long as it has few pixels.
        let wanted = if number == 0 { 0 } else { 2 };
        assert!(asked.status.code() == Some(wanted) && asked.stderr.len() < 1000, "{number}: {asked:?}");
    }
}

#[test]
fn a_disk_without_room_for_what_a_search_would_remember_costs_the_next_search_time_and_this_one_nothing() {
    if !can_have_hosts() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    // The nouns that a search compares with take twenty times as much.
    let mut daemon = Daemon::start_on_small_disk(folder.path(), &config(folder.path()), &cache, "24k");
    daemon.wait_ready();
    let url = daemon.url();
    for text in ["a+cat", "a+rocket"] {
        let found = eventually(text, || {
            let (status, found) = send(&url, &format!("/api/v1/search?text={text}"), None);
            let found: Value = serde_json::from_str(&found).unwrap();
            (status == 200 && found["searched"]["rows"].as_u64() > Some(0)).then_some(found)
        });
        assert!(found["moments"][0]["margin"].is_number() && found["stands_out"].is_boolean(), "{found}");
    }
    daemon.stop_cleanly();
    let mut command = vtagd(folder.path());
    command.env("VTAGD_CACHE", "/proc/nowhere").args(["search", "a cat", "--json", "--history"]);
    let asked = command.arg(folder.path().join("kept")).output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
    let found: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert!(found["moments"][0]["margin"].is_number(), "{found}");
}
