//! What a source decides between two connections, what its pipelines are set to, and what a pipeline that was left behind may still touch.

use super::pipeline_tap::CodedFrame;
use super::*;
use crate::frame::{FrameTime, Picture};
use crate::platform::shutdown;

/// Wants every frame, and looks at none.
struct Blind;

impl FrameTap for Blind {
    fn interval(&self) -> Duration {
        Duration::ZERO
    }

    fn is_sampled(&self, _: Duration) -> bool {
        true
    }

    fn deliver(&self, _: FrameTime, _: Picture) {}
}

fn settings(location: Location) -> SourceSettings {
    SourceSettings {
        id: "dock".into(),
        location,
        username: None,
        password: None,
        password_file: None,
        pace: Pace::Live,
        looped: false,
        decode: Decode::Auto,
        decoder: Decoder::Software,
        max_pixels: None,
        any_codec: false,
        templates: std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines"),
        reconnect: Reconnect::default(),
        transport: Transport::default(),
        tls: CameraTls::default(),
        push: None,
        host_alone: false,
    }
}

fn at(element: &str) -> At {
    At { stream: "dock".into(), place: "there".into(), element: element.into() }
}

fn source(settings: SourceSettings) -> Source {
    let status = Arc::new(StreamStatus::uncounted(Arc::clone(&settings.id)));
    Source::new(settings, Arc::new(Blind), status, shutdown::channel().1)
}

fn rtsp() -> Location {
    Location::Rtsp("rtsp://10.0.0.1/a".parse().unwrap())
}

#[test]
fn a_hardware_decoder_is_blamed_once_and_only_where_software_can_stand_in_for_it() {
    let now = Instant::now();
    let error = SourceError::Decode { at: at("nvh264dec0"), detail: "it is busy".into() };
    let blamed = |decoder: Decoder, location: Location| {
        let mut source = source(SourceSettings { decoder, ..settings(location) });
        let connection = source.feed.connect();
        source.feed.decoder(connection, "nvh264dec", None);
        [0, 1, 3601].map(|seconds| source.blames_hardware(&error, now + Duration::from_secs(seconds)))
    };
    assert_eq!(blamed(Decoder::Auto, rtsp()), [true, false, true]);
    assert_eq!(blamed(Decoder::Software, rtsp()), [false; 3]);
    assert_eq!(blamed(Decoder::Auto, Location::Template("mine.gst".into())), [false; 3]);
}

/// The pipeline that `settings` ask for, not running, and its source.
fn built(settings: &SourceSettings) -> (gstreamer::Pipeline, gstreamer::Element) {
    use gstreamer::prelude::*;

    gstreamer::init().unwrap();
    let parts = pipeline_template::build(settings, Lengths::default(), &at("")).unwrap();
    let source = parts.pipeline.by_name("source").unwrap();
    (parts.pipeline, source)
}

#[test]
fn a_web_source_waits_no_shorter_than_its_limits_say() {
    use gstreamer::prelude::*;

    let seconds = |stall, first_frame| {
        let mut settings = settings(Location::Http("http://10.0.0.1/mjpeg".parse().unwrap()));
        let limits = &mut settings.reconnect.limits;
        (limits.stall, limits.first_frame) = (Duration::from_millis(stall), Duration::from_millis(first_frame));
        built(&settings).1.property::<u32>("timeout")
    };
    assert_eq!(seconds(20_000, 30_000), 31);
    assert_eq!(seconds(90_500, 30_000), 91);
    // Connecting takes its time in any case.
    assert_eq!(seconds(2_000, 5_000), 11);
    // As long as it can.
    assert_eq!(seconds(100_000_000, 30_000), 3600);
}

#[test]
fn the_srt_template_names_nothing_that_older_gstreamer_does_not_know() {
    use gstreamer::prelude::*;

    let settings = settings(Location::Srt("srt://10.0.0.1:9000".parse().unwrap()));
    let text = std::fs::read_to_string(settings.templates.join("srt.gst")).unwrap();
    assert!(!pipeline_template::description(&text).contains("auto-reconnect"));
    let (_pipeline, source) = built(&settings);
    assert!(!source.has_property("auto-reconnect") || !source.property::<bool>("auto-reconnect"));
}

#[test]
fn a_v4l2_device_is_asked_for_every_kind_of_picture_in_the_systems_memory_and_for_none_elsewhere() {
    use gstreamer as gst;
    use gstreamer::prelude::*;

    let (pipeline, source) = built(&settings(Location::V4l2("/dev/video0".into())));
    let offered = pipeline.by_name("offered").unwrap().property::<gst::Caps>("caps");
    let template = source.pad_template("src").unwrap().caps().clone();
    for (structure, features) in template.iter_with_features() {
        let one = gst::Caps::builder_full().structure_with_features(structure.to_owned(), features.to_owned()).build();
        let is_ours = features.is_equal(gst::CAPS_FEATURES_MEMORY_SYSTEM_MEMORY.as_ref());
        assert_eq!(offered.can_intersect(&one), is_ours, "{one}");
    }
    let elsewhere = gst::Caps::builder("video/x-raw").features(["memory:DMABuf"]).field("format", "DMA_DRM").build();
    assert!(!offered.can_intersect(&elsewhere));
}

#[test]
fn a_pipeline_that_was_left_behind_touches_nothing_of_the_next() {
    let source = source(settings(rtsp()));
    let feed = &source.feed;
    let started = Instant::now();
    let ms = Duration::from_millis;
    let (old, new) = (feed.connect(), feed.connect());
    // Twenty seconds of stamps that stand still.
    for n in 0..200 {
        assert_eq!(feed.placed(old, ms(7), started + ms(n * 100), true), ms(7));
    }
    assert_eq!(feed.placed(new, ms(5), started + ms(20_000), true), ms(5));
    assert!(feed.is_decoded_sampled(new, ms(7), None));
    let before = feed.progress();
    assert!(before.last.is_some());
    std::thread::sleep(ms(2));
    gstreamer::init().unwrap();
    let sink = gstreamer::ElementFactory::make("fakesink").build().unwrap();
    feed.deliver(old, &gstreamer::Sample::builder().build(), &sink);
    assert!(!feed.is_decoded_sampled(old, ms(8), None));
    let frame = CodedFrame { at: ms(9), camera: ms(9), pts: None, kind: coded::Kind::Key, size: 1, after_loss: false };
    assert!(!feed.is_coded_sampled(old, frame));
    let after = feed.progress();
    assert_eq!((after.frames, after.last), (before.frames, before.last));
}
