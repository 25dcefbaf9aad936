//! Pipeline templates: from a file in gst-launch's language to a pipeline whose named elements carry the user's data.
//!
//! In: the template's text and the source's settings. Out: [`Parts`]. What a person configured (address, user, password,
//! device) is set as element *properties* after parsing, so nothing they wrote is ever read as pipeline language.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::decoders::{self, Family};
use super::error::{At, SourceError};
use super::multipart::{self, Lengths};
use super::{
    Decode, Limits, Location, Pace, SourceSettings, Transport, camera_tls, picture, rtsp_session, scrub, web_proxy,
};
use crate::platform::secret::Secret;
use crate::platform::userinfo;

/// Longer templates are not templates.
const MAX_LENGTH: u64 = 64 * 1024;

/// A pipeline, ready to be joined to a feed.
#[derive(Debug)]
pub(super) struct Parts {
    pub pipeline: gst::Pipeline,
    /// Where decoded frames enter what is behind the decoder; unwanted ones end here.
    pub entry: gst::Pad,
    pub sink: gst_app::AppSink,
    /// It is a user's own template.
    pub own: bool,
    /// The hardware that is to decode; `None`: software.
    pub family: Option<&'static str>,
}

/// The launch description in a template: its lines without those that start with `#`.
pub fn description(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// The template that `settings` asks for.
fn path(settings: &SourceSettings) -> PathBuf {
    let name = match &settings.location {
        Location::Template(path) => return path.clone(),
        Location::Rtsp(_) => "rtsp.gst",
        Location::File(_) => "file.gst",
        Location::Http(_) => "http.gst",
        Location::Rtmp(_) => "rtmp.gst",
        Location::Srt(_) => "srt.gst",
        Location::Udp(_) => "udp.gst",
        // Nothing is played: `pushed_stills.rs` takes them.
        Location::Push(_) => "http.gst",
        Location::V4l2(_) => "v4l2.gst",
    };
    settings.templates.join(name)
}

/// Builds the pipeline for `settings`; `lengths` as [`multipart::watch`] has them.
pub(super) fn build(settings: &SourceSettings, lengths: Lengths, at: &At) -> Result<Parts, SourceError> {
    let path = path(settings);
    let wrong = |detail: String| SourceError::Template { at: at.clone(), detail };
    let text = read(&path).map_err(|error| match error {
        // Out of descriptors, a disk or share that hangs: the template may be as good as ever.
        Unread::Now(error) => {
            let detail = format!("the pipeline template {} cannot be read: {error}", path.display());
            SourceError::Connection { at: at.clone(), detail }
        }
        Unread::Wrong(why) => wrong(format!("{}: {why}", path.display())),
    })?;
    let pipeline = parse(&description(&text)).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
    let in_file = |detail: &str| wrong(format!("{}: {detail}", path.display()));
    let sink = pipeline
        .by_name("sink")
        .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
        .ok_or_else(|| in_file("it has no appsink with name=sink; end it with `! appsink name=sink`"))?;
    configure_sink(&sink);
    if let Some(pace) = pipeline.by_name("pace") {
        set(&pace, "sync", settings.pace == Pace::Live).map_err(|e| in_file(&e))?;
    }
    let own = matches!(settings.location, Location::Template(_));
    let family = if own { None } else { hardware(settings) };
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        if !own && element.type_().name() == "GstDecodeBin" {
            decoders::restrict(&element, family);
        }
        if element.type_().name() == "GstRTSPSrc" && element.has_property("probation") {
            // A sender is believed in after two packets in a row, which never come where each is sent twice.
            set(&element, "probation", 0_u32).map_err(|e| in_file(&e))?;
            rtsp_session::guard_pads(&element);
        }
        leave_sound_alone(&element);
        insist_on_video(&element, own);
    }
    // decodebin makes its demuxers later.
    let threads = threads(settings);
    pipeline.connect_deep_element_added(move |_, _, element| {
        do_not_wait_for_more_parts(element);
        tame_libav(element, threads);
    });
    let from_web = |element: &gst::Element| element.factory().is_some_and(|factory| factory.name() == "souphttpsrc");
    pipeline
        .iterate_recurse()
        .into_iter()
        .flatten()
        .filter(from_web)
        .for_each(|element| multipart::watch(&element, !own, lengths));
    let source = pipeline.by_name("source");
    match (&source, &settings.location) {
        (Some(source), location) => configure_source(source, settings, location).map_err(|e| in_file(&e))?,
        (None, Location::Template(_)) => {}
        (None, _) => return Err(in_file("it has no element with name=source")),
    }
    let download = family.and_then(|family| family.download()).map(|element| download(&pipeline, element));
    let download = download.transpose().map_err(|e| in_file(&e))?;
    let convert = download.or_else(|| pipeline.by_name("convert"));
    let entry = convert.and_then(|e| e.static_pad("sink")).or_else(|| sink.static_pad("sink"));
    let entry = entry.ok_or_else(|| in_file("its appsink has no sink pad"))?;
    Ok(Parts { pipeline, entry, sink, own, family: family.map(|family| family.name()) })
}

/// The hardware decoders to use. That those asked for by name cannot be used is told once for each stream and reason.
fn hardware(settings: &SourceSettings) -> Option<&'static Family> {
    decoders::choose(settings.decoder).unwrap_or_else(|why| {
        decoders::complain_once(&settings.id, &why);
        None
    })
}

/// Puts `element`, which copies pictures out of a device's memory, between the decoder and `convert`, and lets the decoder keep
/// them there until then: frames that are not sampled never leave the device.
fn download(pipeline: &gst::Pipeline, element: &str) -> Result<gst::Element, String> {
    let cannot = |e: glib::BoolError| format!("{element} cannot be built in: {}", e.message);
    let (Some(decoded), Some(convert)) = (pipeline.by_name("decoded"), pipeline.by_name("convert")) else {
        return Err("a hardware decoder needs its elements `decoded` and `convert`".to_owned());
    };
    let upstream = convert.static_pad("sink").and_then(|pad| pad.peer());
    let upstream = upstream.ok_or_else(|| "nothing is linked to `convert`".to_owned())?;
    let download = gst::ElementFactory::make(element).name("download").build().map_err(cannot)?;
    let system = gst::Caps::new_empty_simple("video/x-raw");
    let downloaded = gst::ElementFactory::make("capsfilter").property("caps", system).build().map_err(cannot)?;
    pipeline.add_many([&download, &downloaded]).map_err(cannot)?;
    let before = upstream.parent_element().ok_or_else(|| "`convert` follows nothing".to_owned())?;
    before.unlink(&convert);
    gst::Element::link_many([&before, &download, &downloaded, &convert]).map_err(cannot)?;
    let anywhere = gst::Caps::builder("video/x-raw").any_features().build();
    set(&decoded, "caps", anywhere)?;
    Ok(download)
}

/// How many threads a software decoder may use. A lone keyframe gains nothing by more than one; live pictures gain by slices
/// alone, if the camera sends several.
fn threads(settings: &SourceSettings) -> i32 {
    if settings.decode == Decode::Keyframes {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |cores| i32::try_from(cores.get().min(4)).unwrap_or(1))
}

/// libav's decoders would take one thread for every core, for each stream anew. They would also decode straight into buffers of
/// ours, which they keep mapped as long as later frames refer to them: GStreamer then copies every picture into fresh memory.
/// Told not to, they copy into a buffer that was used before.
fn tame_libav(element: &gst::Element, threads: i32) {
    if element.factory().is_some_and(|factory| factory.name().starts_with("avdec_")) {
        // A decoder that has no such property does without.
        let _ = set(element, "max-threads", threads);
        let _ = set(element, "direct-rendering", false);
    }
}

/// Why a template was not read.
#[derive(Debug)]
enum Unread {
    /// It may be, another time.
    Now(io::Error),
    /// It is not there, not to be read by us, or no template.
    Wrong(String),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        match error.kind() {
            NotFound | PermissionDenied | IsADirectory | NotADirectory | InvalidData => Self::Wrong(error.to_string()),
            _ => Self::Now(error),
        }
    }
}

fn read(path: &Path) -> Result<String, Unread> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_LENGTH {
        return Err(Unread::Wrong(format!(
            "{length} bytes are too many for a pipeline template ({MAX_LENGTH} at most)"
        )));
    }
    let text = std::fs::read_to_string(path)?;
    // A user's own may hold addresses with passwords.
    text.split_whitespace().for_each(userinfo::remember);
    Ok(text)
}

/// Parses a launch description. The error names the missing elements, if that is what is wrong.
pub fn parse(description: &str) -> Result<gst::Pipeline, String> {
    rtsp_session::register();
    let mut context = gst::ParseContext::new();
    let parsed = gst::parse::launch_full(description, Some(&mut context), gst::ParseFlags::FATAL_ERRORS);
    let missing = context.missing_elements();
    if !missing.is_empty() {
        return Err(format!("no such GStreamer element here: {}; install its plug-in", missing.join(", ")));
    }
    let element = parsed.map_err(|e| e.message().to_owned())?;
    element.downcast().map_err(|_| "one element alone is not a pipeline".to_owned())
}

/// What holds for every pipeline, also a user's own: pinned caps, no clock at the end (`pace` has it), no waiting for a
/// preroll, one sample at a time, and no buffer kept back.
fn configure_sink(sink: &gst_app::AppSink) {
    sink.set_caps(Some(&picture::sink_caps()));
    sink.set_sync(false);
    sink.set_async(false);
    sink.set_qos(false);
    sink.set_max_buffers(1);
    sink.set_drop(false);
    sink.set_enable_last_sample(false);
    sink.set_property("wait-on-eos", false);
}

fn configure_source(source: &gst::Element, settings: &SourceSettings, location: &Location) -> Result<(), String> {
    match location {
        Location::Rtsp(url) | Location::Http(url) | Location::Rtmp(url) => {
            set(source, "location", scrub::without_userinfo(url).to_string())?;
        }
        Location::Srt(url) | Location::Udp(url) => set(source, "uri", scrub::without_userinfo(url).to_string())?,
        Location::File(path) => set(source, "location", utf8(path)?)?,
        Location::V4l2(path) => set(source, "device", utf8(path)?)?,
        Location::Template(_) | Location::Push(_) => {}
    }
    let (user, password) = scrub::credentials(settings);
    let credentials = user.is_some() || password.is_some();
    let (user_property, password_property) = match location {
        Location::Rtmp(_) => ("username", "password"),
        Location::Srt(_) => ("streamid", "passphrase"),
        _ => ("user-id", "user-pw"),
    };
    if let Some(user) = &user {
        set(source, user_property, user.as_str())?;
    }
    // An empty password is one, which cameras have as they come: without any, nobody is logged in.
    let empty = || (user.is_some() && password_property == "user-pw").then(|| Secret::new(""));
    if let Some(password) = password.or_else(empty) {
        set(source, password_property, password.expose())?;
    }
    if matches!(location, Location::Rtsp(_) | Location::Http(_)) {
        camera_tls::apply(source, &settings.tls)?;
    }
    if matches!(location, Location::Rtmp(_)) {
        camera_tls::apply_to_rtmp(source, &settings.tls)?;
    }
    if matches!(location, Location::Rtsp(_)) {
        set_transport(source, settings.transport)?;
    }
    match location {
        Location::Http(_) => wait_as_long_as_we(source, &settings.reconnect.limits)?,
        // Connecting again is our part, and told. GStreamer before 1.22 has no such property.
        Location::Srt(_) if source.has_property("auto-reconnect") => set(source, "auto-reconnect", false)?,
        _ => {}
    }
    if source.has_property("proxy") && !web_proxy::is_proxy(std::env::var("http_proxy").ok().as_deref()) {
        tracing::warn!(stream = %settings.id, "`http_proxy` is not the address of a proxy, going without");
        set(source, "proxy", "")?;
    } else if let Location::Http(url) = location
        && source.has_property("proxy")
        && web_proxy::of(url).is_none()
    {
        set(source, "proxy", "")?;
    }
    if credentials && source.has_property("automatic-redirect") {
        set(source, "automatic-redirect", false)?;
    }
    if source.type_().name() == "GstRTSPSrc" {
        select_first_video(source);
        tell_bad_certificates(source);
    }
    Ok(())
}

/// A web source waits for what does not come a second longer than we do, so that the limits that are configured are those that count.
fn wait_as_long_as_we(source: &gst::Element, limits: &Limits) -> Result<(), String> {
    const PROPERTY: &str = "timeout";
    // Seconds, up to an hour. Connecting may take ten of them in any case.
    let longest = limits.stall.max(limits.first_frame).max(Duration::from_secs(10)).as_secs();
    let timeout = u32::try_from(longest.saturating_add(1)).unwrap_or(u32::MAX).min(3600);
    // In a changed template another element may fetch.
    let fits = source.find_property(PROPERTY).is_some_and(|property| property.value_type() == u32::static_type());
    if fits { set(source, PROPERTY, timeout) } else { Ok(()) }
}

/// How rtspsrc is to ask for packets; it would ask over UDP first.
fn set_transport(source: &gst::Element, transport: Transport) -> Result<(), String> {
    const PROPERTY: &str = "protocols";
    let names = match transport {
        Transport::Auto | Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Multicast => "udp-mcast",
    };
    let class = source.find_property(PROPERTY).and_then(|property| glib::FlagsClass::with_type(property.value_type()));
    let value = class.and_then(|class| class.builder().set_by_nick(names).set_by_nick("tls").build());
    let value = value.ok_or_else(|| format!("its element {} has no transport {names}", source.name()))?;
    source.set_property_from_value(PROPERTY, &value);
    Ok(())
}

fn utf8(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("the path {} is not UTF-8, which GStreamer needs", path.display()))
}

/// Sets a property that a template may or may not offer. `set_property` panics on a wrong name or type; a user's template
/// must not be able to bring that about.
fn set(element: &gst::Element, name: &str, value: impl Into<glib::Value>) -> Result<(), String> {
    let value = value.into();
    let kind = || element.factory().map(|f| f.name().to_string()).unwrap_or_default();
    let spec = element
        .find_property(name)
        .ok_or_else(|| format!("the element {} ({}) has no property {name}", element.name(), kind()))?;
    if !value.type_().is_a(spec.value_type()) || !spec.flags().contains(glib::ParamFlags::WRITABLE) {
        return Err(format!("the property {name} of {} ({}) cannot be set", element.name(), kind()));
    }
    element.set_property_from_value(name, &value);
    Ok(())
}

/// An RTSP session may offer sound, metadata and several videos; only what is asked for is sent.
fn select_first_video(source: &gst::Element) {
    let chosen = std::sync::OnceLock::new();
    source.connect("select-stream", false, move |arguments| {
        let number = arguments.get(1).and_then(|v| v.get::<u32>().ok());
        let caps = arguments.get(2).and_then(|v| v.get::<gst::Caps>().ok());
        let media = caps.as_ref().and_then(|caps| caps.structure(0)?.get::<&str>("media").ok());
        let selected = media == Some("video") && number.is_some_and(|n| *chosen.get_or_init(|| n) == n);
        Some(selected.to_value())
    });
}

/// rtspsrc itself only says that it could not connect. Asked about a certificate that failed its checks, we still refuse it.
fn tell_bad_certificates(source: &gst::Element) {
    source.connect("accept-certificate", false, |arguments| {
        let flaws = arguments.get(3).and_then(|flaws| flaws.serialize().ok()).unwrap_or_default();
        let flaws = flaws.replace("G_TLS_CERTIFICATE_", "").replace('_', " ").replace('+', ", ").to_lowercase();
        if let Some(source) = arguments.first().and_then(|v| v.get::<gst::Element>().ok()) {
            gst::element_error!(source, gst::ResourceError::OpenRead, ("Its certificate failed: {}", flaws));
        }
        Some(false.to_value())
    });
}

/// A decodebin leaves streams that are not pictures undecoded; nothing is linked to them, and their demuxer goes on without.
fn leave_sound_alone(element: &gst::Element) {
    if element.type_().name() != "GstDecodeBin" {
        return;
    }
    // Not all of `text/`: a whole page of text must still be refused as what it is.
    const OTHER: [&str; 4] = ["audio/", "subpicture/", "closedcaption/", "text/x-raw"];
    element.connect("autoplug-continue", false, |arguments| {
        let caps = arguments.get(2).and_then(|v| v.get::<gst::Caps>().ok());
        let name = caps.as_ref().and_then(|caps| Some(caps.structure(0)?.name().as_str()));
        let other = name.is_some_and(|name| OTHER.iter().any(|kind| name.starts_with(kind)));
        Some((!other).to_value())
    });
}

/// When all streams are known and none has found its way into the pipeline, there is no video. Without this a short file of
/// sound alone would end unseen: nobody downstream is told about the end of a stream that is not linked.
fn insist_on_video(element: &gst::Element, own: bool) {
    if !["GstDecodeBin", "GstRTSPSrc"].contains(&element.type_().name()) {
        return;
    }
    // What a person wrote behind it may also take something else than what comes.
    let what = if own {
        "It has no video stream that the template takes; let a decoder follow, and end it with `videoconvert ! appsink name=sink`"
    } else {
        "It has no video stream"
    };
    element.connect_no_more_pads(move |element| {
        if !element.src_pads().iter().any(|pad| pad.is_linked()) {
            gst::element_error!(element, gst::StreamError::WrongType, ("{what}"));
        }
    });
}

/// A multipart stream could always start another part of another kind, so multipartdemux never says that it knows all its
/// streams, and decodebin holds the pictures back until its queues are full. Cameras send one stream.
fn do_not_wait_for_more_parts(element: &gst::Element) {
    if element.type_().name() == "GstMultipartDemux" {
        element.set_property("single-stream", true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_cannot_be_read_just_now_is_not_a_wrong_one() {
        for code in [libc::EMFILE, libc::ENFILE, libc::EIO, libc::ENOMEM, libc::ESTALE] {
            assert!(matches!(io::Error::from_raw_os_error(code).into(), Unread::Now(_)), "{code}");
        }
        for code in [libc::ENOENT, libc::EACCES, libc::EISDIR] {
            assert!(matches!(io::Error::from_raw_os_error(code).into(), Unread::Wrong(_)), "{code}");
        }
    }

    #[test]
    fn comment_lines_are_not_part_of_the_pipeline() {
        assert_eq!(description("# a ! b\nx\n  # c\n! y"), "x\n! y");
    }

    #[test]
    fn a_missing_element_is_named() {
        gst::init().unwrap();
        let error = parse("nosuchsrc ! fakesink").unwrap_err();
        assert!(error.contains("nosuchsrc"), "{error}");
    }

    #[test]
    fn a_property_that_does_not_fit_is_an_error_not_a_panic() {
        gst::init().unwrap();
        let element = gst::ElementFactory::make("identity").build().unwrap();
        assert!(set(&element, "location", "x").unwrap_err().contains("no property location"));
        assert!(set(&element, "sync", "yes").unwrap_err().contains("cannot be set"));
        assert!(set(&element, "sync", true).is_ok());
    }
}
