//! GIF files, as GStreamer 1.22 and libav play them: the decoder forgets the time stamps, and neither it nor the demuxer ever says that the file has ended.
//!
//! In: the file, of which the pictures are counted, and what goes into the decoder and comes out. Out: each picture with the time stamp of its frame (the decoder holds none
//! back), and behind the last one the end of the stream. On the streaming thread. Holds the stamps of [`MOST`] frames; beyond that the oldest is
//! forgotten. Closed: everything goes with the pipeline.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::Location;

/// Frames that are in the decoder: one, and those that it makes nothing of.
const MOST: usize = 16;

/// Watches `pipeline`, which plays what is at `location`, for that decoder.
pub(super) fn watch(pipeline: &gst::Pipeline, location: &Location) {
    let Location::File(path) = location else { return };
    let Some(pictures) = File::open(path).ok().and_then(|file| pictures(BufReader::new(file))) else { return };
    tracing::debug!(path = %Path::new(path).display(), pictures, "pictures in a GIF");
    pipeline.connect_deep_element_added(move |_, _, element| look_at(element, pictures));
}

fn look_at(element: &gst::Element, pictures: u64) {
    let is_it = element.factory().is_some_and(|factory| factory.name() == "avdec_gif");
    let (true, Some(sink), Some(src)) = (is_it, element.static_pad("sink"), element.static_pad("src")) else { return };
    let stamps = Arc::new(Mutex::new(VecDeque::with_capacity(MOST)));
    // How many have gone in, and whether one is on its way.
    let (coming, end, count) = (Arc::clone(&stamps), src.downgrade(), Mutex::new((0_u64, false)));
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
    sink.add_probe(kinds, move |pad, info| {
        if let Some(event) = info.event() {
            if event.type_() == gst::EventType::FlushStop {
                coming.lock().clear();
                *count.lock() = (0, false);
            }
            return gst::PadProbeReturn::Ok;
        }
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        {
            let mut count = count.lock();
            if count.1 {
                return gst::PadProbeReturn::Ok;
            }
            count.0 += 1;
            let mut stamps = coming.lock();
            if stamps.len() == MOST {
                stamps.pop_front();
            }
            stamps.push_back((buffer.pts(), buffer.duration()));
            drop(stamps);
            if count.0 < pictures {
                return gst::PadProbeReturn::Ok;
            }
            // What is pushed from here comes back through here.
            count.1 = true;
        }
        let last = buffer.clone();
        info.data.take();
        info.flow_res = pad.chain(last);
        if let Some(src) = end.upgrade() {
            src.push_event(gst::event::Eos::new());
        }
        gst::PadProbeReturn::Handled
    });
    src.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let stamp = stamps.lock().pop_front();
        if let (Some((pts, duration)), Some(buffer)) = (stamp, info.buffer_mut()) {
            let buffer = buffer.make_mut();
            buffer.set_pts(pts);
            buffer.set_duration(duration);
        }
        gst::PadProbeReturn::Ok
    });
}

/// How many pictures the GIF has that `file` holds; `None` if it is none, or has none. What is cut off in the middle of one counts.
fn pictures(mut file: impl Read + Seek) -> Option<u64> {
    let mut head = [0; 13];
    file.read_exact(&mut head).ok()?;
    if !head.starts_with(b"GIF8") {
        return None;
    }
    skip_colours(&mut file, head[10]).ok()?;
    let mut count = 0;
    loop {
        let read = (|| match byte(&mut file)? {
            0x21 => {
                byte(&mut file)?;
                skip_blocks(&mut file).map(|()| true)
            }
            0x2c => {
                count += 1;
                let mut place = [0; 9];
                file.read_exact(&mut place)?;
                skip_colours(&mut file, place[8])?;
                byte(&mut file)?;
                skip_blocks(&mut file).map(|()| true)
            }
            _ => Ok::<bool, std::io::Error>(false),
        })();
        if !read.unwrap_or(false) {
            return (count > 0).then_some(count);
        }
    }
}

fn byte(file: &mut impl Read) -> std::io::Result<u8> {
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// A table of colours follows, if `flags` say so.
fn skip_colours(file: &mut impl Seek, flags: u8) -> std::io::Result<()> {
    if flags & 0x80 != 0 {
        file.seek_relative(3 << ((flags & 7) + 1))?;
    }
    Ok(())
}

fn skip_blocks(file: &mut (impl Read + Seek)) -> std::io::Result<()> {
    loop {
        match byte(file)? {
            0 => return Ok(()),
            length => file.seek_relative(i64::from(length))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn gif(count: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frames = (0..count).map(|n| image::Frame::new(image::RgbaImage::from_pixel(20, 10, image::Rgba([n; 4]))));
        image::codecs::gif::GifEncoder::new(&mut bytes).encode_frames(frames).unwrap();
        bytes
    }

    #[test]
    fn pictures_are_counted_and_what_is_no_gif_has_none() {
        for count in [1, 3, 20] {
            assert_eq!(pictures(Cursor::new(gif(count))), Some(u64::from(count)));
        }
        assert_eq!(pictures(Cursor::new(b"GIF89a")), None);
        assert_eq!(pictures(Cursor::new([0; 100])), None);
        let cut = gif(3);
        assert!(pictures(Cursor::new(&cut[..cut.len() - 5])).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(at in 0_usize..200, byte in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut gif = gif(2);
            let at = at % gif.len();
            gif[at] = byte;
            pictures(Cursor::new(gif));
            pictures(Cursor::new([b"GIF89a".as_slice(), &bytes].concat()));
        }
    }
}
