//! `vtagd tag` on pictures and videos, as a person and as a script would use it.

use std::process::Output;

use crate::common::daemon::{root, vtagd};
use serde_json::Value;

const LABELS: &str = "a cat,a cup of coffee,a rocket,a motorcycle";

fn tag(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    vtagd(folder.path()).arg("tag").args(arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn picture(name: &str) -> String {
    root().join("tests/data/preprocess").join(name).display().to_string()
}

#[test]
fn pictures_get_their_own_label_best_first() {
    let output = tag(&[
        &picture("chelsea.png"),
        &picture("coffee-256-224.golden.png"),
        &picture("rocket.jpg"),
        "-l",
        LABELS,
        "--json",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let best: Vec<_> = lines(&output).iter().map(|l| l["tags"][0]["label"].as_str().unwrap().to_owned()).collect();
    assert_eq!(best, ["a cat", "a cup of coffee", "a rocket"]);
    for line in lines(&output) {
        assert!(line["pts"].is_null() && line["file"].is_string());
        let scores: Vec<f64> = line["tags"].as_array().unwrap().iter().map(|t| t["score"].as_f64().unwrap()).collect();
        assert_eq!(scores.len(), 4);
        assert!(scores.is_sorted_by(|a, b| a >= b) && (scores.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{scores:?}");
    }
}

#[test]
fn what_no_label_has_is_shown_as_the_backgrounds_and_each_label_with_what_it_leads() {
    let demo = ["--labels", "config/labels/demo.yaml"];
    let pictures = [picture("rocket.jpg"), picture("chelsea.png")];
    let files = pictures.each_ref().map(String::as_str);
    let output = tag(&[&files[..], &demo, &["--json"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "it has a background");
    for line in lines(&output) {
        let background = line["background"].as_array().unwrap();
        assert_eq!((background.len(), &background[0]["set"]), (1, &"demo".into()));
        let tags = line["tags"].as_array().unwrap();
        let labels: f64 = tags.iter().map(|tag| tag["score"].as_f64().unwrap()).sum();
        assert!((labels + background[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{line}");
        for tag in tags {
            let (score, margin) = (tag["score"].as_f64().unwrap(), tag["margin"].as_f64().unwrap());
            assert!((1.0 / (1.0 + (-margin).exp()) - score).abs() < 1e-5, "{tag}");
            assert!(tag["rival"].as_str().is_some_and(|rival| rival != tag["label"]), "{tag}");
        }
    }
    let text = String::from_utf8(tag(&[&files[..], &demo, &["--top", "1"]].concat()).stdout).unwrap();
    assert!(text.lines().count() == 2 && text.lines().all(|line| line.ends_with(" % (background)")), "{text}");
}

#[test]
fn labels_without_a_background_are_called_so_once() {
    let output = tag(&[&picture("chelsea.png"), &picture("rocket.jpg"), "-l", LABELS, "--json"]);
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(told.matches("have no background").count(), 1, "{told}");
    assert_eq!(lines(&output)[0]["background"], serde_json::json!([]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("set.yaml");
    std::fs::write(&file, "set: pets\nlabels: [{ name: cat }, { name: dog }]\n").unwrap();
    let output = tag(&[&picture("chelsea.png"), "--labels", &file.display().to_string()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.matches("has no background").count(), 1, "{told}");
    assert!(!told.contains("error"), "{told}");
}

#[test]
fn a_picture_is_seen_through_the_view_that_is_asked_for() {
    let score = |more: &[&str]| {
        let output = tag(&[&[&*picture("chelsea.png"), "-l", LABELS, "--json"], more].concat());
        assert!(output.status.success(), "{output:?}");
        let line = lines(&output).remove(0);
        let cat = line["tags"].as_array().unwrap().iter().find(|tag| tag["label"] == "a cat").unwrap().clone();
        cat["score"].as_f64().unwrap()
    };
    let whole = score(&[]);
    let corner = score(&["--region", "0,0,0.1,0.1"]);
    assert!(whole > 0.9 && corner < whole, "{corner} {whole}");
    assert!(score(&["--view", "tiles"]) > 0.9 && score(&["--view=squash", "--region=0.1,0,0.8,1"]) > 0.5);
    for (bad, word) in [("0.5,0,0.6,1", "beyond the picture"), ("1,2,3", "four numbers"), ("nan,0,1,1", "four numbers")]
    {
        let output = tag(&[&picture("chelsea.png"), "-l", LABELS, "--region", bad]);
        assert_eq!(output.status.code(), Some(2), "{bad}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(word) && told.contains("--region"), "{told}");
    }
}

#[test]
fn a_video_gives_a_line_for_every_sampled_frame() {
    let clip = root().join("demo/clip.mp4").display().to_string();
    let output = tag(&[&clip, "--labels", "config/labels/demo.yaml", "--every", "2s", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = lines(&output);
    assert_eq!(lines.len(), 16);
    let times: Vec<f64> = lines.iter().map(|l| l["pts"].as_f64().unwrap()).collect();
    assert!(times[0] == 0.0 && times.windows(2).all(|w| (w[1] - w[0] - 2.0).abs() < 0.05), "{times:?}");
    assert_eq!(lines[1]["tags"][0]["label"], "cat");
}

#[test]
fn one_unreadable_input_is_named_and_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let fake = folder.path().join("fake.mp4");
    std::fs::write(&fake, "no video at all\n".repeat(300)).unwrap();
    let output =
        tag(&[&fake.display().to_string(), "/nowhere/absent.png", &picture("chelsea.png"), "-l", LABELS, "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(lines(&output).len(), 1);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("fake.mp4") && errors.contains("/nowhere/absent.png"), "{errors}");
}

#[test]
fn pictures_that_are_not_read_or_cut_are_called_so_and_not_taken_for_videos() {
    let folder = tempfile::tempdir().unwrap();
    let heic = folder.path().join("phone.heic");
    let mut bytes = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf".to_vec();
    bytes.resize(4000, 7);
    std::fs::write(&heic, bytes).unwrap();
    let half = folder.path().join("half.jpg");
    let whole = std::fs::read(picture("rocket.jpg")).unwrap();
    std::fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let avif = root().join("tests/data/pictures/picture.avif");
    for (file, word) in [(&avif, "is an AVIF picture"), (&heic, "is a HEIC picture"), (&half, "ends in the middle")] {
        for command in [&["tag", "-l", LABELS, "--json"][..], &["embed", "--json", "--image"]] {
            let output = vtagd(folder.path()).args(command).arg(file).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{error}");
            assert!(error.contains(word) && !error.contains("video"), "{error}");
            assert!(error.contains("save it as PNG") == word.contains("picture"), "{error}");
        }
    }
}

#[test]
fn the_size_of_a_batch_changes_no_score() {
    let files = ["chelsea.png", "coffee-256-224.golden.png", "rocket.jpg"].map(picture);
    let all = |batch: &str| {
        let arguments: Vec<&str> =
            files.iter().map(String::as_str).chain(["-l", LABELS, "--json", "--batch", batch]).collect();
        let output = tag(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lines(&output).iter().map(|line| line["tags"][0]["score"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let one = all("1");
    assert_eq!(one.len(), 3);
    for batch in ["2", "16"] {
        assert!(all(batch).iter().zip(&one).all(|(a, b)| (a - b).abs() < 1e-4), "{batch}: {one:?}");
    }
    for bad in ["0", "1025", "x"] {
        assert_eq!(tag(&[&files[0], "-l", LABELS, "--batch", bad]).status.code(), Some(2));
    }
    let folder = tempfile::tempdir().unwrap();
    let output =
        vtagd(folder.path()).args(["embed", "--json", "--batch", "2", "--image"]).args(&files).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["images"].as_array().unwrap().len(), 3);
}

#[test]
fn labels_are_required_and_may_not_repeat() {
    assert_eq!(tag(&[&picture("chelsea.png")]).status.code(), Some(2));
    let output = tag(&[&picture("chelsea.png"), "-l", "a cat,a cat"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("given twice"));
}

#[test]
fn a_person_reads_percentages() {
    let output = tag(&[&picture("chelsea.png"), "-l", LABELS]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains('%') && text.contains("a cat") && !text.contains('{'), "{text}");
}

#[test]
fn a_name_that_is_not_utf8_is_tagged_all_the_same() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(std::ffi::OsStr::from_bytes(b"bad\xff.png"));
    std::fs::copy(picture("chelsea.png"), &file).unwrap();
    let output = vtagd(folder.path()).arg("tag").arg(&file).args(["-l", LABELS, "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lines(&output)[0]["file"].as_str().unwrap().contains("bad\u{fffd}.png"));
}

#[test]
fn devices_and_folders_are_refused_at_once() {
    let empty = tempfile::tempdir().unwrap();
    for input in ["/dev/zero", empty.path().to_str().unwrap()] {
        let output = tag(&[input, "-l", LABELS]);
        assert_eq!(output.status.code(), Some(2), "{input}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(input));
    }
}

#[test]
fn a_reader_that_has_seen_enough_causes_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let clip = root().join("demo/clip.mp4");
    let mut command = vtagd(folder.path());
    command.arg("tag").arg(clip).args(["-l", LABELS, "--every", "40ms", "--json"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut reader, &mut String::new()).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    // What is said of the labels comes before everything else.
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.lines().all(|line| line.starts_with("note: ")), "{told}");
}

#[test]
fn one_set_given_twice_is_refused() {
    let set = "config/labels/demo.yaml";
    let output = tag(&[&picture("chelsea.png"), "--labels", set, "--labels", set]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("given already"));
}

#[test]
fn folders_and_standard_input_are_taken_too() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["chelsea.png", "rocket.jpg"] {
        std::fs::copy(picture(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
    let output = tag(&[folder.path().to_str().unwrap(), "-l", LABELS, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let best: Vec<_> = lines(&output).iter().map(|l| l["tags"][0]["label"].as_str().unwrap().to_owned()).collect();
    assert_eq!(best, ["a cat", "a rocket"]);

    let from_stdin = |file: &std::path::Path, more: &[&str]| {
        let cache = tempfile::tempdir().unwrap();
        let mut command = vtagd(cache.path());
        command.args(["tag", "-", "-l", LABELS, "--json"]).args(more);
        command.stdin(std::fs::File::open(file).unwrap()).output().unwrap()
    };
    let output = from_stdin(&folder.path().join("rocket.jpg"), &[]);
    let line = &lines(&output)[0];
    assert_eq!((&line["file"], &line["tags"][0]["label"]), (&"-".into(), &"a rocket".into()), "{line}");
    // A video as well; what is wrong is told under the same name.
    let output = from_stdin(&root().join("demo/clip.mp4"), &["--seconds", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        lines(&output).len() > 1 && lines(&output).iter().all(|line| line["file"] == "-" && line["pts"].is_number())
    );
    std::fs::write(folder.path().join("cut.jpg"), &std::fs::read(picture("rocket.jpg")).unwrap()[..900]).unwrap();
    let output = from_stdin(&folder.path().join("cut.jpg"), &[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("-: ") && !told.contains("/proc/"), "{told}");
}
