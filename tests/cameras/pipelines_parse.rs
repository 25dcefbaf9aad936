//! Every template in `pipelines/` is one that GStreamer understands, and a user's own is used as it is written.

use std::path::{Path, PathBuf};

use crate::common::recorder::{Running, settings, templates};
use gstreamer as gst;
use gstreamer::prelude::*;
use vtagd::source::{Ended, Location, SourceError, SourceSettings, pipeline_template};
use vtagd::stream::status::StreamState;

/// Elements that only some machines have, and what stands in for them where they are missing.
const HARDWARE: [(&str, &str); 5] = [
    ("cudadownload", "identity"),
    ("vapostproc", "videoconvert"),
    ("v4l2h264dec", "avdec_h264"),
    ("nvv4l2decoder", "avdec_h264"),
    ("nvvidconv", "videoconvert"),
];

fn all() -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(templates()).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "gst"));
    all.sort();
    all
}

#[test]
fn every_template_parses_and_has_the_elements_that_are_set() {
    gst::init().unwrap();
    let all = all();
    for name in ["rtsp.gst", "file.gst", "http.gst", "v4l2.gst"] {
        assert!(all.contains(&templates().join(name)), "{name} is missing");
    }
    for path in all {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{name} does not say what it is for");
        let mut description = pipeline_template::description(&text);
        for (element, stand_in) in HARDWARE {
            if !description.contains(element) || gst::ElementFactory::find(element).is_some() {
                continue;
            }
            assert!(name.contains('-'), "{name} needs {element}, which software templates must not");
            eprintln!("{name}: no {element} here; the rest of the template is checked with {stand_in} in its place");
            // Properties of the absent element go with it.
            let line = description.lines().find(|l| l.contains(element)).unwrap().to_owned();
            let named = line.split_whitespace().filter(|w| w.starts_with("name=")).collect::<Vec<_>>().join(" ");
            description = description.replace(&line, &format!("! {stand_in} {named}"));
        }
        let pipeline = pipeline_template::parse(&description).unwrap_or_else(|e| panic!("{name}: {e}"));
        let factory = |element: &str| pipeline.by_name(element).and_then(|e| Some(e.factory()?.name().to_string()));
        assert_eq!(factory("sink").as_deref(), Some("appsink"), "{name}");
        for element in ["source", "decoder", "convert"] {
            assert!(factory(element).is_some(), "{name} has no element called {element}");
        }
        if name.starts_with("file") || name.starts_with("http") {
            assert_eq!(factory("pace").as_deref(), Some("clocksync"), "{name}");
        }
        if name.starts_with("rtsp") {
            let source = pipeline.by_name("source").unwrap();
            let flags = source.property_value("tls-validation-flags").serialize().unwrap();
            let all = ["UNKNOWN_CA", "BAD_IDENTITY", "EXPIRED", "REVOKED"].iter().all(|flag| flags.contains(flag));
            assert!(all, "{name} does not check certificates: {flags}");
            assert!(source.property::<bool>("drop-on-latency") && source.property::<u32>("latency") <= 500, "{name}");
        }
    }
}

fn own(text: &str) -> (tempfile::TempDir, SourceSettings) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.gst");
    std::fs::write(&path, text).unwrap();
    (folder, settings(Location::Template(path)))
}

fn refusal(text: &str) -> String {
    let (_folder, settings) = own(text);
    let (ended, _, _) = Running::start(settings).wait_end();
    match ended {
        Ended::Failed(error @ SourceError::Template { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_users_own_template_runs() {
    let (_folder, settings) = own(
        "# a test picture\nvideotestsrc is-live=true ! video/x-raw,width=64,height=48 ! videoconvert\n ! appsink name=sink",
    );
    let running = Running::start(settings);
    let frames = running.wait_frames(5);
    assert_eq!(frames[0].size, (64, 48));
    assert_eq!(running.stop().0, Ended::Shutdown);
}

#[test]
fn a_template_that_cannot_be_used_is_refused_with_its_path_and_the_reason() {
    let error = refusal("videotestsrc ! fakesink");
    assert!(error.contains("mine.gst") && error.contains("appsink name=sink"), "{error}");
    let error = refusal("videotestsrc ! nosuchfilter ! appsink name=sink");
    assert!(error.contains("nosuchfilter"), "{error}");
    let error = refusal("videotestsrc ! ! appsink");
    assert!(error.contains("mine.gst"), "{error}");
    let error = refusal("");
    assert!(error.contains("mine.gst"), "{error}");
    let error = refusal("appsink name=sink");
    assert!(error.contains("mine.gst"), "{error}");
}

#[test]
fn a_template_whose_parts_do_not_agree_is_told_with_the_remedy_and_tried_again() {
    let (_folder, settings) = own("videotestsrc is-live=true ! video/x-raw,format=v210 ! appsink name=sink");
    let running = Running::start(settings);
    let error = running.wait_down();
    assert!(error.contains("end it with `videoconvert ! appsink name=sink`"), "{error}");
    running.wait_state(|state| *state == StreamState::Connecting);
    assert_eq!(running.stop().0, Ended::Shutdown);
}

#[test]
fn a_template_that_has_worked_is_waited_for_when_it_cannot_be_used_any_more() {
    let (_folder, settings) =
        own("videotestsrc is-live=true ! video/x-raw,width=64,height=48 ! identity error-after=10 ! appsink name=sink");
    let Location::Template(path) = settings.location.clone() else { unreachable!() };
    let good = std::fs::read_to_string(&path).unwrap();
    let running = Running::start(settings);
    running.wait_down();
    std::fs::write(&path, "half a templ").unwrap();
    running.wait_state(|state| matches!(state, StreamState::Down { error } if error.contains("cannot be used")));
    let seen = running.frames().len();
    std::fs::write(&path, good).unwrap();
    running.wait_frames(seen + 5);
}

#[test]
fn a_template_that_is_missing_or_far_too_long_is_refused() {
    let location = Location::Template("/nonexistent/mine.gst".into());
    let (ended, _, _) = Running::start(settings(location)).wait_end();
    assert!(matches!(ended, Ended::Failed(SourceError::Template { .. })), "{ended:?}");
    let error = refusal(&"# long\n".repeat(20_000));
    assert!(error.contains("too many"), "{error}");
    let missing = SourceSettings { templates: "/nonexistent".into(), ..settings(Location::File("a.mp4".into())) };
    let (ended, _, _) = Running::start(missing).wait_end();
    let Ended::Failed(error) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains(&Path::new("/nonexistent/file.gst").display().to_string()), "{error}");
}

#[test]
fn what_a_person_configured_is_never_read_as_pipeline_language() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x ! filesink location=stolen \" ' # .mp4");
    crate::common::recorder::make_mp4(&folder.path().join("clip.mp4"), 5, (64, 48), "ball");
    std::fs::rename(folder.path().join("clip.mp4"), &path).unwrap();
    let (ended, frames, _) = Running::start(settings(Location::File(path))).wait_end();
    assert_eq!((ended, frames.len()), (Ended::EndOfFile, 5));
    assert!(!Path::new("stolen").exists());
}
