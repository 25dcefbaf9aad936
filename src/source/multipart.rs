//! Multipart pictures that a browser shows although multipartdemux does not: without a first boundary, without dashes before it, with parts that do not say
//! what they are or say `image/jpg`, or are not as long as they say. And answers that say that they are one picture: a decoder would take each piece that comes for a whole one, so they are called what
//! they are before anything of them comes.
//!
//! In: the first bytes of a web source that says that it sends parts, on its streaming thread, held until they tell how it does. Out: the same
//! bytes; where parts are as they should be, for multipartdemux, else called JPEG, for a parser that is put there and finds picture after picture by their own marks and leaves
//! out what stands between them. Holds [`LOOK_AT`] bytes and a little more. Full: what has come by then decides. Closed: what is held goes with the pipeline, or on at the end of
//! the stream.

use std::sync::atomic::{AtomicBool, Ordering};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use parking_lot::Mutex;

/// Where the first picture has not begun within so many bytes, none will.
const LOOK_AT: usize = 8 << 10;

/// The beginning of every JPEG picture.
const PICTURE: &[u8] = &[0xff, 0xd8, 0xff];

/// How the parts are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    AsTheyShould,
    /// JPEG pictures with something in between.
    Sloppy,
    /// More bytes will tell.
    Unknown,
}

/// Whether what parts say of their length (`Content-Length`) is believed, as multipartdemux does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Lengths {
    #[default]
    Believed,
    /// It has turned out to be wrong: pictures are found by their own marks wherever there are some.
    Ignored,
}

/// What multipartdemux says where a part does not end as it should by its length.
pub(super) const NO_BOUNDARY: &str = "Boundary not found";

/// What the beginning of a multipart body tells.
fn judge(bytes: &[u8], lengths: Lengths) -> Parts {
    let picture = memchr::memmem::find(bytes, PICTURE);
    let header = bytes.get(..picture.unwrap_or(bytes.len())).unwrap_or_default();
    // Without a zero or such, what stands before a picture is text.
    let text = String::from_utf8_lossy(header);
    let text = text.trim_start_matches(['\r', '\n']);
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let ended = ["\r\n\r\n", "\n\n"].iter().any(|end| text.contains(end));
    let proper = line.trim_end().len() > 2 && line.starts_with("--") && content_type(rest).is_some_and(is_known);
    match picture {
        _ if proper && ended && lengths == Lengths::Believed => Parts::AsTheyShould,
        Some(_) => Parts::Sloppy,
        None if bytes.len() < LOOK_AT => Parts::Unknown,
        None => Parts::AsTheyShould,
    }
}

fn content_type(headers: &str) -> Option<&str> {
    headers.lines().take_while(|line| !line.trim().is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        // multipartdemux takes one blank for granted.
        let value = value.strip_prefix(' ').filter(|value| !value.starts_with(' '))?;
        name.eq_ignore_ascii_case("content-type").then(|| value.trim())
    })
}

/// Whether what a part says that it is means something to a decoder.
fn is_known(kind: &str) -> bool {
    const UNKNOWN: [&str; 5] =
        ["image/jpg", "image/pjpeg", "image/x-jpeg", "application/octet-stream", "binary/octet-stream"];
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.contains('/') && !UNKNOWN.iter().any(|unknown| unknown.eq_ignore_ascii_case(kind))
}

#[derive(Default)]
struct Held {
    /// Parts have been announced, and not been judged.
    announced: bool,
    /// A still picture has been announced: it is not for this pipeline.
    refused: bool,
    buffers: Vec<gst::Buffer>,
    bytes: Vec<u8>,
}

/// What is said on the bus of an answer that is one picture.
pub(super) const STILL: &str = "a still picture";

/// Watches `source`, which fetches from the web; `stills`: whether answers that are one picture are called so. To be called before the pipeline runs.
pub(super) fn watch(source: &gst::Element, stills: bool, lengths: Lengths) {
    let Some(pad) = source.static_pad("src") else { return };
    let (held, pushing) = (Mutex::new(Held::default()), AtomicBool::new(false));
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    pad.add_probe(kinds, move |pad, info| {
        if pushing.load(Ordering::Relaxed) {
            return gst::PadProbeReturn::Ok;
        }
        let mut held = held.lock();
        let last = match &info.data {
            Some(gst::PadProbeData::Event(event)) => {
                if stills && is_picture(event) {
                    held.refused = true;
                    drop(held);
                    if let Some(source) = pad.parent_element() {
                        gst::element_error!(source, gst::StreamError::WrongType, ("{STILL}"));
                    }
                    return gst::PadProbeReturn::Ok;
                }
                if is_multipart(event) {
                    *held = Held { announced: true, ..Held::default() };
                }
                if event.type_() != gst::EventType::Eos || held.buffers.is_empty() {
                    return gst::PadProbeReturn::Ok;
                }
                true
            }
            Some(gst::PadProbeData::Buffer(_)) if held.refused => {
                // Until somebody has read the error.
                info.data.take();
                info.flow_res = Err(gst::FlowError::Flushing);
                return gst::PadProbeReturn::Handled;
            }
            Some(gst::PadProbeData::Buffer(buffer)) if held.announced => {
                let room = LOOK_AT.saturating_sub(held.bytes.len());
                if let Ok(bytes) = buffer.map_readable() {
                    held.bytes.extend(bytes.iter().take(room));
                }
                held.buffers.push(buffer.clone());
                if judge(&held.bytes, lengths) == Parts::Unknown {
                    info.data.take();
                    return gst::PadProbeReturn::Handled;
                }
                false
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        let Held { buffers, bytes, .. } = std::mem::take(&mut *held);
        drop(held);
        // A pad has one streaming thread at a time, which comes back through this probe while it pushes.
        pushing.store(true, Ordering::Relaxed);
        if judge(&bytes, lengths) == Parts::Sloppy {
            if let Err(error) = find_pictures(pad) {
                tracing::debug!(error = %error.message, "no parser for pictures that stand one after another");
            }
            pad.push_event(gst::event::Caps::new(&gst::Caps::new_empty_simple("image/jpeg")));
        }
        let result = buffers.into_iter().try_fold(gst::FlowSuccess::Ok, |_, buffer| pad.push(buffer));
        pushing.store(false, Ordering::Relaxed);
        if last {
            return gst::PadProbeReturn::Ok;
        }
        info.data.take();
        info.flow_res = result;
        gst::PadProbeReturn::Handled
    });
}

/// Puts a parser behind `pad`: a decodebin takes the decoder at once, which reads pictures only where they come one by one.
fn find_pictures(pad: &gst::Pad) -> Result<(), glib::BoolError> {
    let missing = || glib::bool_error!("the source stands alone");
    let peer = pad.peer().ok_or_else(missing)?;
    let bin =
        pad.parent_element().and_then(|source| source.parent()?.downcast::<gst::Bin>().ok()).ok_or_else(missing)?;
    let parser = gst::ElementFactory::make("jpegparse").build()?;
    let (sink, src) = parser.static_pad("sink").zip(parser.static_pad("src")).ok_or_else(missing)?;
    bin.add(&parser)?;
    parser.sync_state_with_parent()?;
    pad.unlink(&peer)?;
    let linked = pad.link(&sink).and_then(|_| src.link(&peer));
    linked.map(drop).map_err(|error| glib::bool_error!("{error}"))
}

/// Whether `event` holds the headers of an answer in parts.
fn is_multipart(event: &gst::Event) -> bool {
    is_of_kind(event, |kind| kind.starts_with("multipart/"))
}

/// Whether `event` holds the headers of an answer that is one picture of a kind that is polled.
fn is_picture(event: &gst::Event) -> bool {
    const KINDS: [&str; 6] = ["image/jpeg", "image/jpg", "image/pjpeg", "image/png", "image/webp", "image/gif"];
    is_of_kind(event, |kind| KINDS.contains(&kind.split(';').next().unwrap_or_default().trim()))
}

fn is_of_kind(event: &gst::Event, is: impl Fn(&str) -> bool) -> bool {
    let headers = event.structure().and_then(|event| event.get::<gst::Structure>("response-headers").ok());
    headers.is_some_and(|headers| {
        headers.iter().any(|(name, value)| {
            name.as_str().eq_ignore_ascii_case("content-type")
                && value.get::<&str>().is_ok_and(|kind| is(&kind.trim_start().to_ascii_lowercase()))
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(head: &str) -> Parts {
        judge(&[head.as_bytes(), PICTURE].concat(), Lengths::Believed)
    }

    #[test]
    fn parts_as_they_should_be_are_left_to_the_demuxer() {
        for head in [
            "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 5\r\n\r\n",
            "\r\n--frame\r\ncontent-type: image/jpeg\r\n\r\n",
            "--frame\nContent-Type: image/png\n\n",
            "----frame\r\nX: y\r\nContent-Type: image/jpeg; charset=x\r\n\r\n",
        ] {
            assert_eq!(of(head), Parts::AsTheyShould, "{head:?}");
        }
        assert_eq!(judge(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n", Lengths::Believed), Parts::AsTheyShould);
        assert_eq!(judge(&[b'a'; LOOK_AT], Lengths::Believed), Parts::AsTheyShould);
    }

    #[test]
    fn sloppy_ones_are_known_by_their_first_picture() {
        for head in [
            "",
            "Content-Type: image/jpeg\r\n\r\n",
            "frame\r\nContent-Type: image/jpeg\r\n\r\n",
            "--frame\r\n\r\n",
            "--frame\r\nContent-Length: 5\r\n\r\n",
            "--frame\r\nContent-Type: image/jpg\r\n\r\n",
            "--frame\r\nContent-Type: \r\n\r\n",
            "--frame\r\ncontent-type:image/jpeg\r\n\r\n",
            "--frame\r\nContent-Type:  image/jpeg\r\n\r\n",
            "--frame\r\nContent-Type: image/jpeg\r\n",
        ] {
            assert_eq!(of(head), Parts::Sloppy, "{head:?}");
            assert_eq!(judge(head.as_bytes(), Lengths::Believed), Parts::Unknown, "{head:?}");
        }
    }

    #[test]
    fn where_lengths_are_wrong_pictures_are_found_by_their_marks() {
        let head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(judge(head, Lengths::Ignored), Parts::Unknown);
        assert_eq!(judge(&[head, PICTURE].concat(), Lengths::Ignored), Parts::Sloppy);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            judge(&bytes, Lengths::Believed);
            judge(&bytes, Lengths::Ignored);
        }
    }
}
