//! The session with an RTSP camera: kept alive, and the camera's answers mended where rtspsrc takes them more strictly than cameras do.
//!
//! In: every request of rtspsrc before it is sent, and every answer before it is read: rtspsrc shows both to elements that implement
//! `GstRTSPExtension`, of which [`register`] adds one. Out: the same messages, mended, and once the camera plays a request at half its session timeout, sent when the
//! source's thread asks for it ([`RtspSession::keep_alive`]): rtspsrc has a timer of its own, which does not go off while packets
//! arrive over TCP. Messages come on rtspsrc's thread, one at a time. Holds a few numbers; nothing waits here. Closed: everything goes with the pipeline.

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::rtsp_message::{self, Message, Method};
use super::sdp::{self, Groups};
use super::{Location, SourceSettings, Transport};

/// What a session lasts without a request where the camera does not say (RFC 2326, 12.37).
const TIMEOUT: Duration = Duration::from_secs(60);

/// Bounds of what a camera may say.
const TIMEOUTS: (u64, u64) = (2, 600);

/// RFC 2326, 11.3.
const UNSUPPORTED_TRANSPORT: i32 = 461;

/// What a server can do that does not say what it can do.
const EVERYTHING: &str = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, GET_PARAMETER";

/// How the session is kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum KeepAlive {
    #[default]
    GetParameter,
    /// For cameras that do not know the other, or refuse it.
    Options,
}

#[derive(Debug, Default)]
struct State {
    groups: Groups,
    timeout: Option<Duration>,
    method: KeepAlive,
    playing: bool,
    /// When a request was sent last.
    last: Option<Instant>,
    /// The next GET_PARAMETER is ours.
    asked: bool,
    /// It has been sent and not been answered.
    unanswered: bool,
    /// Keep-alives that were answered, and refused.
    answered: u64,
    /// The camera will not send over TCP.
    refused_tcp: bool,
}

/// How long what a sender begins with waits for rtspsrc's pad to be ready.
const PAD_TIMEOUT: Duration = Duration::from_millis(500);

/// rtspsrc links a pad for each new sender before that pad is its own, while the sender's thread runs already, and asks a pad without an element for it:
/// that ends the process. What the sender begins with waits until the pad is rtspsrc's, or ends here if it is that no more.
pub(super) fn guard_pads(source: &gst::Element) {
    let Some(bin) = source.downcast_ref::<gst::Bin>() else { return };
    // Its session is added before rtspsrc listens to it: what is asked for here is first.
    bin.connect_element_added(|_, session| {
        if session.type_().name() != "GstRtpBin" {
            return;
        }
        session.connect_pad_added(|_, pad| {
            if pad.direction() == gst::PadDirection::Src {
                pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |pad, _| until_attached(pad));
            }
        });
    });
}

fn until_attached(pad: &gst::Pad) -> gst::PadProbeReturn {
    let is_loose = || pad.peer().and_then(|inside| inside.parent()).is_some_and(|ghost| ghost.parent().is_none());
    let deadline = Instant::now() + PAD_TIMEOUT;
    while is_loose() {
        if Instant::now() >= deadline || pad.pad_flags().contains(gst::PadFlags::FLUSHING) {
            return gst::PadProbeReturn::Drop;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    gst::PadProbeReturn::Ok
}

/// The session of one connection.
#[derive(Debug, Default)]
pub(super) struct RtspSession(Mutex<State>);

thread_local! {
    /// Whose session the next rtspsrc that this thread makes will have.
    static NEXT: RefCell<Option<Arc<RtspSession>>> = const { RefCell::new(None) };
}

impl RtspSession {
    /// The next session with the camera of `settings`, after this one: how it is kept alive is known.
    pub fn next(&self, settings: &SourceSettings) -> Self {
        // What a pipeline of a user's own asks for, its text says.
        let multicast =
            settings.transport == Transport::Multicast || matches!(settings.location, Location::Template(_));
        let groups = if multicast { Groups::Kept } else { Groups::Dropped };
        Self(Mutex::new(State { groups, method: self.0.lock().method, ..State::default() }))
    }

    /// Does `work`; an rtspsrc that is made in it has this session.
    pub fn of_those_made_by<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let before = NEXT.replace(Some(Arc::clone(self)));
        let result = work();
        NEXT.replace(before);
        result
    }

    /// How long the session lasts without a request; `None` as long as there is none.
    pub fn timeout(&self) -> Option<Duration> {
        let state = self.0.lock();
        state.playing.then(|| state.timeout.unwrap_or(TIMEOUT))
    }

    /// How long it may be until the next request; `None` as long as nothing plays.
    pub fn due_in(&self, now: Instant) -> Option<Duration> {
        let state = self.0.lock();
        let last = state.last.filter(|_| state.playing)?;
        let half = state.timeout.unwrap_or(TIMEOUT) / 2;
        Some(half.saturating_sub(now.saturating_duration_since(last)))
    }

    /// Whether the camera has refused to send over the connection itself.
    pub fn refused_tcp(&self) -> bool {
        self.0.lock().refused_tcp
    }

    /// Lets the rtspsrc in `pipeline` send a request that changes nothing.
    pub fn keep_alive(&self, pipeline: &gst::Pipeline, now: Instant) {
        {
            let mut state = self.0.lock();
            if state.unanswered {
                state.method = KeepAlive::Options;
            }
            (state.last, state.asked) = (Some(now), true);
        }
        let elements = pipeline.iterate_recurse().into_iter().flatten();
        for source in elements.filter(|element| element.type_().name() == "GstRTSPSrc") {
            // An rtspsrc that has just stopped playing says no; then the connection is about to end anyway.
            let _: bool = source.emit_by_name("get-parameter", &[&"keep-alive", &None::<&str>, &gst::Promise::new()]);
        }
    }

    /// A request is about to be sent.
    fn before(&self, request: &mut Message<'_>, now: Instant) {
        let mut state = self.0.lock();
        state.last = Some(now);
        if request.method() == Some(Method::GetParameter) && state.asked {
            // As a keep-alive is: about nothing. rtspsrc itself cannot ask about nothing, nor for anything else while it plays.
            request.empty();
            if state.method == KeepAlive::Options {
                request.become_options();
            }
            state.unanswered = true;
        }
    }

    /// `response` has come to `request`, and is about to be read.
    fn after(&self, request: &Message<'_>, response: &mut Message<'_>) {
        let mut state = self.0.lock();
        let Some(code) = response.code() else { return };
        let ok = (200..300).contains(&code);
        match request.method() {
            // Asked for once more, with the password.
            _ if code == 401 => {}
            Some(Method::GetParameter | Method::Options) if state.unanswered => {
                if !ok {
                    state.method = KeepAlive::Options;
                }
                (state.asked, state.unanswered) = (false, false);
                state.answered += 1;
                // Whatever it was, the camera has heard of us.
                response.succeed();
            }
            Some(Method::Options) => {
                let known = response.headers(Message::PUBLIC) + &response.headers(Message::ALLOW);
                if known.is_empty() {
                    response.add(Message::PUBLIC, EVERYTHING);
                } else if !known.split(',').any(|method| method.trim().eq_ignore_ascii_case("get_parameter")) {
                    state.method = KeepAlive::Options;
                    // Else rtspsrc would refuse to send what becomes OPTIONS.
                    response.add(Message::PUBLIC, "OPTIONS, GET_PARAMETER");
                }
            }
            Some(Method::Describe) if ok => {
                let base = [Message::CONTENT_BASE, Message::CONTENT_LOCATION].map(|field| response.headers(field));
                let base = base.into_iter().find(|base| base.contains("://")).unwrap_or_else(|| request.uri());
                let base = rtsp_message::by_bytes(base.as_bytes());
                if let Some(mended) = response.body().and_then(|body| sdp::mended(&body, &base, state.groups)) {
                    response.set_body(&mended);
                }
            }
            Some(Method::Setup) if ok => {
                if let Some(timeout) = announced(&response.headers(Message::SESSION)) {
                    state.timeout = Some(timeout);
                }
                if let Some(transport) =
                    transport(&request.headers(Message::TRANSPORT), &response.headers(Message::TRANSPORT))
                {
                    response.remove(Message::TRANSPORT);
                    response.add(Message::TRANSPORT, &transport);
                }
            }
            Some(Method::Setup) if code == UNSUPPORTED_TRANSPORT => {
                state.refused_tcp |= request.headers(Message::TRANSPORT).to_ascii_uppercase().contains("TCP");
            }
            Some(Method::Play) if ok => {
                state.playing = true;
                // Where numbers and times begin, the packets tell; what many cameras say of it is made up.
                response.remove(Message::RTP_INFO);
            }
            _ => {}
        }
    }
}

/// The timeout in a header `Session: 1234;timeout=60`; some write it `"60"`, or `60s`.
fn announced(session: &str) -> Option<Duration> {
    let seconds = session.split(';').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let value = value.trim_matches(|letter: char| letter == '"' || letter.is_whitespace());
        let digits = value.split(|letter: char| !letter.is_ascii_digit()).next()?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| digits.parse::<u64>().ok())?
    })?;
    (seconds > 0).then(|| Duration::from_secs(seconds.clamp(TIMEOUTS.0, TIMEOUTS.1)))
}

/// What the answer to SETUP should have said where it leaves out over which channels it will send, which are those that it was asked for, or that it is over
/// this connection at all, or has blanks: rtspsrc takes it for another way then. `None`: it is well.
fn transport(asked: &str, answered: &str) -> Option<String> {
    let own = channels(asked)?;
    let (given, tcp) = (channels(answered), answered.to_ascii_uppercase().contains("TCP"));
    if given.is_none() && !tcp && !answered.trim().is_empty() {
        return None;
    }
    let plain = answered.to_ascii_lowercase();
    let plain = plain.contains("/tcp") && plain.contains(";interleaved=") && !plain.contains(char::is_whitespace);
    let kind = asked.split(';').next()?.trim();
    (!plain || given.is_none()).then(|| format!("{kind};unicast;interleaved={}", given.unwrap_or(own)))
}

/// The channels `0-1` of a transport `RTP/AVP/TCP;unicast;interleaved=0-1`.
fn channels(transport: &str) -> Option<&str> {
    let value = transport.split(';').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("interleaved").then(|| value.trim())
    });
    value.filter(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
}

/// From now on every rtspsrc has an extension of ours. GStreamer must have been initialised, and no rtspsrc have been made: the list of extensions
/// is made with the first.
pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let kind = extension::Element::static_type();
        if let Err(error) = gst::Element::register(None, "vtagdrtspsession", gst::Rank::MARGINAL, kind) {
            tracing::warn!(error = %error.message, "RTSP sessions are not kept alive");
        }
    });
}

/// The element that rtspsrc shows its messages to.
mod extension {
    use std::sync::{Arc, OnceLock};
    use std::time::Instant;

    use gst::subclass::prelude::*;
    use gstreamer as gst;
    use gstreamer::glib;
    use gstreamer::glib::translate::{Borrowed, from_glib_borrow};
    use gstreamer::prelude::*;
    use gstreamer_rtsp::ffi;

    use super::{Message, NEXT, RtspSession};

    glib::wrapper! {
        pub struct Extension(Interface<ffi::GstRTSPExtension, ffi::GstRTSPExtensionInterface>);

        match fn {
            type_ => || ffi::gst_rtsp_extension_get_type(),
        }
    }

    // SAFETY: the interface's table takes the functions below as they are declared.
    unsafe impl<T: ObjectSubclass> IsImplementable<T> for Extension {
        fn interface_init(iface: &mut glib::Interface<Self>) {
            let iface = iface.as_mut();
            iface.before_send = Some(before_send);
            iface.after_send = Some(after_send);
        }
    }

    #[derive(Default)]
    pub struct Private(Option<Arc<RtspSession>>);

    #[glib::object_subclass]
    impl ObjectSubclass for Private {
        const NAME: &'static str = "VtagdRtspSession";
        type Type = Element;
        type ParentType = gst::Element;
        type Interfaces = (Extension,);

        fn new() -> Self {
            Self(NEXT.with_borrow(Clone::clone))
        }
    }

    impl ObjectImpl for Private {}
    impl GstObjectImpl for Private {}
    impl ElementImpl for Private {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: OnceLock<gst::subclass::ElementMetadata> = OnceLock::new();
            Some(METADATA.get_or_init(|| {
                let kind = "Network/Extension/Protocol";
                gst::subclass::ElementMetadata::new("RTSP session", kind, "Keeps sessions alive", "vtagd")
            }))
        }
    }

    glib::wrapper! {
        pub struct Element(ObjectSubclass<Private>) @extends gst::Element, gst::Object, @implements Extension;
    }

    fn session(extension: *mut ffi::GstRTSPExtension) -> Option<Arc<RtspSession>> {
        // SAFETY: GStreamer hands over the object whose function this is, which lives until we return.
        let object: Borrowed<glib::Object> =
            unsafe { from_glib_borrow(extension.cast::<glib::gobject_ffi::GObject>()) };
        object.downcast_ref::<Element>()?.imp().0.clone()
    }

    unsafe extern "C" fn before_send(
        extension: *mut ffi::GstRTSPExtension,
        request: *mut ffi::GstRTSPMessage,
    ) -> ffi::GstRTSPResult {
        // SAFETY: the message is ours until we return.
        if let (Some(session), Some(mut request)) = (session(extension), unsafe { Message::borrow(request) }) {
            session.before(&mut request, Instant::now());
        }
        ffi::GST_RTSP_OK
    }

    unsafe extern "C" fn after_send(
        extension: *mut ffi::GstRTSPExtension,
        request: *mut ffi::GstRTSPMessage,
        response: *mut ffi::GstRTSPMessage,
    ) -> ffi::GstRTSPResult {
        // SAFETY: the messages are ours until we return.
        let messages = unsafe { (Message::borrow(request), Message::borrow(response)) };
        if let (Some(session), (Some(request), Some(mut response))) = (session(extension), messages) {
            session.after(&request, &mut response);
        }
        ffi::GST_RTSP_OK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_wherever_it_stands_and_however_odd() {
        for (header, seconds) in [
            ("1234", None),
            ("1234;timeout=60", Some(60)),
            ("1234; Timeout = 5 ;x", Some(5)),
            ("1;timeout=0", None),
            ("1;timeout=x", None),
            ("1;timeout=\"10\"", Some(10)),
            ("1; timeout = \" 10 \"", Some(10)),
            ("1;timeout=10s", Some(10)),
            ("1;timeout=10.5", Some(10)),
            ("1;timeout=\"\"", None),
            ("1;timeout=1", Some(2)),
            ("1;timeout=99999999", Some(600)),
        ] {
            assert_eq!(announced(header), seconds.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn an_answer_without_channels_means_those_that_were_asked_for() {
        let asked = "RTP/AVP/TCP;unicast;interleaved=0-1";
        let of = |answered| transport(asked, answered);
        assert_eq!(of("RTP/AVP/TCP;unicast;interleaved=4-5"), None);
        assert_eq!(of("RTP/AVP/TCP;unicast").as_deref(), Some("RTP/AVP/TCP;unicast;interleaved=0-1"));
        assert_eq!(of("").as_deref(), Some(asked));
        assert_eq!(of("RTP/AVP;unicast;client_port=1-2"), None);
        assert_eq!(transport("RTP/AVP;unicast;client_port=1-2", "RTP/AVP/TCP"), None);
    }

    #[test]
    fn an_answer_over_this_connection_is_written_as_rtspsrc_reads_it() {
        let of = |answered| transport("RTP/AVP/TCP;unicast;interleaved=0-1", answered);
        for (answered, channels) in [
            ("RTP/AVP/TCP; unicast; interleaved=2-3", "2-3"),
            ("RTP/AVP;unicast;interleaved=2-3", "2-3"),
            ("RTP/AVP;unicast;Interleaved = 2-3 ;ssrc=1", "2-3"),
            ("RTP/AVP/TCP;unicast;interleaved=2-3 ", "2-3"),
            ("RTP/AVP/TCP;unicast;interleaved=;mode=play", "0-1"),
            ("RTP/AVP/TCP;unicast;interleaved=x-y", "0-1"),
            ("TCP", "0-1"),
        ] {
            assert_eq!(of(answered), Some(format!("RTP/AVP/TCP;unicast;interleaved={channels}")), "{answered}");
        }
        for plain in ["RTP/AVP/TCP;unicast;interleaved=0-1;ssrc=00000001;mode=\"PLAY\"", "rtp/avp/tcp;Interleaved=2-3"]
        {
            assert_eq!(of(plain), None, "{plain}");
        }
        assert_eq!(of("RTP/AVP;multicast;destination=239.1.2.3;port=1-2"), None);
    }
}
