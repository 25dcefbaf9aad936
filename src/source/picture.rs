//! From GStreamer's sample to a [`Picture`], without a copy: the mapped buffer itself is the picture's store.
//!
//! Runs on the streaming thread, for sampled frames only. A picture keeps its buffer out of the decoder's pool for as long as
//! it lives; [`ask_for_room`] tells decoders that cannot make more buffers later how many that may be.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

use crate::frame::{Matrix, Picture, PictureError, PixelFormat, PlaneStore, Range};

/// The pixel formats that are read as they are; everything else is converted by the pipeline first.
pub(super) const FORMATS: [(gst_video::VideoFormat, PixelFormat); 6] = [
    (gst_video::VideoFormat::I420, PixelFormat::I420),
    (gst_video::VideoFormat::Nv12, PixelFormat::Nv12),
    (gst_video::VideoFormat::Y42b, PixelFormat::Y42b),
    (gst_video::VideoFormat::Y444, PixelFormat::Y444),
    (gst_video::VideoFormat::Rgb, PixelFormat::Rgb),
    (gst_video::VideoFormat::Gray8, PixelFormat::Gray8),
];

/// Decoder buffers that may be held at once by one stream's slot, the preprocessing threads, a batch that is being made, and for who looks at
/// its latest picture.
/// A device's pool is asked for that many more, so that its decoder never waits for one of ours.
pub(super) const HELD_BUFFERS: u32 = 9;

/// Why a sample is not a picture we can look at.
#[derive(Debug, thiserror::Error)]
pub(super) enum SampleError {
    #[error("the sample has no {0}")]
    Missing(&'static str),
    #[error("pictures in {0} cannot be read")]
    Format(String),
    #[error("the decoder's memory cannot be mapped")]
    Map,
    #[error(transparent)]
    Picture(#[from] PictureError),
}

/// The caps that the sink accepts: our formats in system memory.
pub(super) fn sink_caps() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().format_list(FORMATS.map(|(format, _)| format)).build()
}

/// Lets the sink at `pad` take buffers with strides of the decoder's own choice (it would copy them otherwise), and tells how
/// many of them are held where the pool may be of a fixed size. Pools in the system's memory grow by themselves, and what they
/// are asked for they allocate at once: nine pictures of 1920 by 1080 are 28 MB a stream. appsink 1.22 does not answer the
/// allocation query by itself.
pub(super) fn ask_for_room(pad: &gst::Pad, fixed: bool) {
    let held = if fixed { HELD_BUFFERS } else { 0 };
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, move |_, info| {
        let Some(query) = info.query_mut() else { return gst::PadProbeReturn::Ok };
        let gst::QueryViewMut::Allocation(allocation) = query.view_mut() else { return gst::PadProbeReturn::Ok };
        let size =
            allocation.get_owned().0.and_then(|caps| gst_video::VideoInfo::from_caps(&caps).ok()).map(|i| i.size());
        let Some(size) = size.and_then(|s| u32::try_from(s).ok()) else { return gst::PadProbeReturn::Ok };
        allocation.add_allocation_pool(None::<&gst::BufferPool>, size, held, 0);
        allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
        gst::PadProbeReturn::Handled
    });
}

/// A mapped decoder buffer.
struct Mapped(gst_video::VideoFrame<gst_video::video_frame::Readable>);

impl PlaneStore for Mapped {
    fn plane(&self, index: usize) -> &[u8] {
        u32::try_from(index).ok().and_then(|index| self.0.plane_data(index).ok()).unwrap_or_default()
    }
}

/// What the decoder was fed, as far as it matters for colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Coded {
    /// JPEG: always BT.601, full range (JFIF).
    pub jpeg: bool,
    /// The bit stream itself says which matrix it uses. Decoders fill in a guess by size otherwise, and their guess for
    /// 2160 lines is BT.2020, which ordinary cameras do not send.
    pub colours_known: bool,
}

/// Maps `sample`'s buffer and describes it.
pub(super) fn from_sample(sample: &gst::Sample, coded: Coded) -> Result<Picture, SampleError> {
    let buffer = sample.buffer_owned().ok_or(SampleError::Missing("buffer"))?;
    let caps = sample.caps().ok_or(SampleError::Missing("caps"))?;
    let info = gst_video::VideoInfo::from_caps(caps).map_err(|_| SampleError::Format(caps.to_string()))?;
    let format = FORMATS.iter().find(|(format, _)| *format == info.format()).map(|(_, format)| *format);
    let format = format.ok_or_else(|| SampleError::Format(info.format().to_string()))?;
    let colours = colours(format, &info.colorimetry(), info.height(), coded);
    let frame = gst_video::VideoFrame::from_buffer_readable(buffer, &info).map_err(|_| SampleError::Map)?;
    let mut strides = [0; 3];
    for (stride, &given) in strides.iter_mut().zip(frame.plane_stride()) {
        // A negative stride (bottom-up) ends as 0, which Picture::new refuses.
        *stride = usize::try_from(given).unwrap_or(0);
    }
    Ok(Picture::new(format, (info.width(), info.height()), strides, colours, Box::new(Mapped(frame)))?)
}

fn colours(format: PixelFormat, given: &gst_video::VideoColorimetry, lines: u32, coded: Coded) -> (Matrix, Range) {
    if format == PixelFormat::Rgb || coded.jpeg {
        return (Matrix::Bt601, Range::Full);
    }
    // What everybody means who does not say: standard definition is BT.601, everything from 720 lines on BT.709.
    let by_size = if lines < 720 { Matrix::Bt601 } else { Matrix::Bt709 };
    let matrix = match given.matrix() {
        _ if !coded.colours_known => by_size,
        gst_video::VideoColorMatrix::Bt601 | gst_video::VideoColorMatrix::Fcc => Matrix::Bt601,
        // SMPTE 240M differs from BT.709 by less than one step in 255 for natural pictures.
        gst_video::VideoColorMatrix::Bt709 | gst_video::VideoColorMatrix::Smpte240m => Matrix::Bt709,
        gst_video::VideoColorMatrix::Bt2020 => Matrix::Bt2020,
        _ => by_size,
    };
    let range = match given.range() {
        gst_video::VideoColorRange::Range0_255 => Range::Full,
        _ => Range::Limited,
    };
    (matrix, range)
}

/// Looks up what the video decoder in the pipeline around `element` was fed.
pub(super) fn coded(element: &gst::Element) -> Coded {
    let mut top = element.clone().upcast::<gst::Object>();
    while let Some(parent) = top.parent() {
        top = parent;
    }
    let Ok(bin) = top.downcast::<gst::Bin>() else { return Coded::default() };
    let mut elements = bin.iterate_recurse();
    while let Ok(Some(element)) = elements.next() {
        let class = element.metadata(gst::ELEMENT_METADATA_KLASS).unwrap_or_default();
        if !class.starts_with("Codec/Decoder") || !(class.contains("Video") || class.contains("Image")) {
            continue;
        }
        let caps = element.static_pad("sink").and_then(|pad| pad.current_caps());
        if let Some(structure) = caps.as_ref().and_then(|caps| caps.structure(0)) {
            return Coded { jpeg: structure.name() == "image/jpeg", colours_known: structure.has_field("colorimetry") };
        }
    }
    // No decoder: raw pictures, whose caps say what they are.
    Coded { jpeg: false, colours_known: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Coded = Coded { jpeg: false, colours_known: true };
    const UNSAID: Coded = Coded { jpeg: false, colours_known: false };

    fn of(colorimetry: &str, lines: u32, coded: Coded) -> (Matrix, Range) {
        gst::init().unwrap();
        colours(PixelFormat::I420, &colorimetry.parse().unwrap(), lines, coded)
    }

    #[test]
    fn what_the_stream_says_counts() {
        assert_eq!(of("bt601", 1080, SAID), (Matrix::Bt601, Range::Limited));
        assert_eq!(of("bt709", 480, SAID), (Matrix::Bt709, Range::Limited));
        assert_eq!(of("bt2020", 2160, SAID), (Matrix::Bt2020, Range::Limited));
        assert_eq!(of("1:3:5:1", 480, SAID), (Matrix::Bt709, Range::Full));
    }

    #[test]
    fn a_silent_stream_is_601_below_720_lines_and_709_from_there() {
        assert_eq!(of("bt709", 719, UNSAID).0, Matrix::Bt601);
        assert_eq!(of("bt601", 720, UNSAID).0, Matrix::Bt709);
        assert_eq!(of("bt2020", 2160, UNSAID).0, Matrix::Bt709);
    }

    #[test]
    fn jpeg_is_full_range_601_whatever_its_size() {
        let jpeg = Coded { jpeg: true, colours_known: false };
        assert_eq!(of("bt709", 1080, jpeg), (Matrix::Bt601, Range::Full));
    }
}
