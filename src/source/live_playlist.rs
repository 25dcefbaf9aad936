//! Whether a playlist on the web (HLS, DASH) is that of a live stream. Such a stream may stop, and its server then calls complete what it has left of it. That is no recording:
//! it is shown once at the most, and waited for.
//!
//! In: the text of the list that a web source fetches, and the first bytes of each adaptive demuxer, on GStreamer's streaming threads, before anything is made of them. Out: a
//! [`Liveness`], which outlives the connection; a connection to a live stream that has stopped ends before its first picture. Holds the beginning of one line. A master
//! playlist tells nothing of this by its text, as the demuxer fetches those that it names by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::error::{At, SourceError};
use super::{Location, media};

/// Whether what is at a source's address has ever turned out to be live. It stays so: a recording does not begin as a live stream, nor does it become one.
#[derive(Debug, Default)]
pub(super) struct Liveness(AtomicBool);

impl Liveness {
    pub fn is_live(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn found(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// To be called before `pipeline`, which plays what is at `location`, runs.
pub(super) fn watch(
    pipeline: &gst::Pipeline,
    location: &Location,
    liveness: &Arc<Liveness>,
    at: At,
    refuse: impl Fn(SourceError) + Send + Sync + 'static,
) {
    if !matches!(location, Location::Http(_) | Location::Template(_)) {
        return;
    }
    let known = liveness.is_live();
    let watcher = Arc::new(Watcher { known, liveness: Arc::clone(liveness), stopped: OnceLock::new(), at, refuse });
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        // What a demuxer fetches by itself comes later.
        if media::reads(&element, "http") {
            watcher.read_text(&element);
        }
        watcher.look_at(&element);
    }
    pipeline.connect_deep_element_added(move |_, _, element| watcher.look_at(element));
}

/// Of one connection.
struct Watcher<F> {
    /// It was live before.
    known: bool,
    liveness: Arc<Liveness>,
    /// Whether it is a live stream that has stopped, once that is known.
    stopped: OnceLock<bool>,
    at: At,
    refuse: F,
}

impl<F: Fn(SourceError) + Send + Sync + 'static> Watcher<F> {
    fn look_at(self: &Arc<Self>, element: &gst::Element) {
        if !media::is_adaptive(element) {
            return;
        }
        let watcher = Arc::clone(self);
        element.connect_pad_added(move |_, pad| {
            if pad.direction() == gst::PadDirection::Src {
                watcher.wait_for_first(pad);
            }
        });
    }

    fn wait_for_first(self: &Arc<Self>, pad: &gst::Pad) {
        let watcher = Arc::clone(self);
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |pad, info| {
            if !watcher.has_stopped(pad) {
                return gst::PadProbeReturn::Remove;
            }
            // Until somebody has read the error.
            info.data.take();
            info.flow_res = Err(gst::FlowError::Flushing);
            gst::PadProbeReturn::Handled
        });
    }

    /// Whether what comes out of a demuxer at `pad` is what is left of a live stream. A demuxer knows no duration as long as its list is not complete.
    fn has_stopped(&self, pad: &gst::Pad) -> bool {
        if let Some(stopped) = self.stopped.get() {
            return *stopped;
        }
        let complete = pad.query_duration::<gst::ClockTime>().is_some_and(|duration| duration > gst::ClockTime::ZERO);
        // Another of its streams may have been first; a list that becomes complete later is told by its end.
        let stopped = *self.stopped.get_or_init(|| complete && self.known);
        if stopped {
            (self.refuse)(SourceError::Ended { at: self.at.clone() });
        } else if !complete {
            self.liveness.found();
        }
        stopped
    }

    fn read_text(self: &Arc<Self>, source: &gst::Element) {
        let Some(pad) = source.static_pad("src") else { return };
        let (watcher, text) = (Arc::clone(self), Mutex::new(Text::default()));
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let mut text = text.lock();
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    if let Ok(bytes) = buffer.map_readable() {
                        text.read(&bytes);
                    }
                }
                // The last line may have no end of its own.
                Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::Eos => text.read(b"\n"),
                _ => {}
            }
            if text.is_stopped_window() {
                watcher.liveness.found();
            }
            if text.is_other() { gst::PadProbeReturn::Remove } else { gst::PadProbeReturn::Ok }
        });
    }
}

/// What every HLS playlist begins with.
const BEGINNING: &str = "#EXTM3U";

/// Tags that mean something here are no longer, with their values.
const MAX_TAG: usize = 64;

/// The text of a media playlist (RFC 8216), as it comes.
#[derive(Debug, Default)]
struct Text {
    /// The beginning of the line that is coming.
    line: Vec<u8>,
    /// Whether it is a playlist, once its first line tells.
    is_list: Option<bool>,
    /// Segments have gone from its beginning.
    has_moved: bool,
    /// Its server says that it is a recording.
    is_recording: bool,
    is_complete: bool,
}

impl Text {
    fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.is_other() {
                return;
            }
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < MAX_TAG {
                self.line.push(byte);
                if self.is_list.is_none() && self.line.len() == MAX_TAG {
                    self.end_line();
                }
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let (tag, value) = line.trim().split_once(':').unwrap_or((line.trim(), ""));
        let value = value.trim();
        match tag {
            _ if self.is_list.is_none() => self.is_list = Some(tag.trim_start_matches('\u{feff}') == BEGINNING),
            // Packagers number the segments of a recording from 0 or from 1.
            "#EXT-X-MEDIA-SEQUENCE" => self.has_moved = value.parse::<u64>().is_ok_and(|first| first > 1),
            "#EXT-X-PLAYLIST-TYPE" => self.is_recording = value.eq_ignore_ascii_case("VOD"),
            "#EXT-X-ENDLIST" => self.is_complete = true,
            _ => {}
        }
    }

    /// It is no playlist.
    fn is_other(&self) -> bool {
        self.is_list == Some(false)
    }

    /// Whether it is the last of a window that moved with a live stream, as a server leaves it when the stream stops.
    fn is_stopped_window(&self) -> bool {
        self.is_list == Some(true) && self.is_complete && self.has_moved && !self.is_recording
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_stopped_window(text: &str, piece: usize) -> bool {
        let mut read = Text::default();
        text.as_bytes().chunks(piece).for_each(|piece| read.read(piece));
        read.read(b"\n");
        read.is_stopped_window()
    }

    const WINDOW: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST";

    #[test]
    fn a_window_that_has_moved_and_is_complete_is_what_is_left_of_a_live_stream() {
        for text in [
            WINDOW.to_owned(),
            WINDOW.replace('\n', "\r\n"),
            WINDOW.replace("#EXTINF", "#EXT-X-PLAYLIST-TYPE:EVENT\n#EXTINF"),
            WINDOW.replace("a.ts", &format!("{}.ts", "a".repeat(1000))),
        ] {
            for piece in [1, 3, 7, text.len()] {
                assert!(is_stopped_window(&text, piece), "{piece}: {text}");
            }
        }
    }

    #[test]
    fn a_recording_and_a_window_that_moves_on_are_not() {
        for text in [
            WINDOW.replace("#EXT-X-ENDLIST", ""),
            WINDOW.replace("SEQUENCE:7", "SEQUENCE:0"),
            WINDOW.replace("SEQUENCE:7", "SEQUENCE:1"),
            WINDOW.replace("SEQUENCE:7", "SEQUENCE:seven"),
            WINDOW.replace("#EXT-X-MEDIA-SEQUENCE:7\n", ""),
            WINDOW.replace("#EXTINF", "#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF"),
            WINDOW.replace("#EXTM3U", "#EXTM4U"),
            String::new(),
        ] {
            assert!(!is_stopped_window(&text, 5), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_little_of_it_is_held(bytes in prop::collection::vec(any::<u8>(), 0..400), list: bool) {
            let mut read = Text::default();
            if list {
                read.read(b"#EXTM3U\n");
            }
            for piece in bytes.chunks(50) {
                read.read(piece);
                prop_assert!(read.line.len() <= MAX_TAG);
            }
            prop_assert!(!list || !read.is_other());
        }
    }
}
