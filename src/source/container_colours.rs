//! What a container says of the colours of H.264 and H.265 in it, against what the pictures themselves say: the latter counts.
//!
//! In: caps on their way into a parser. Out: the same without `colorimetry`, so that the parser fills in what the stream says; where it says nothing,
//! the container's word comes back behind it, less the range where that is the usual one: demuxers call it so too where a container is
//! silent, or where they cannot read it (qtdemux 1.22), and a decoder knows better. On the streaming thread; holds one text a parser.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

const FIELD: &str = "colorimetry";

/// Watches `pipeline` for parsers.
pub(super) fn watch(pipeline: &gst::Pipeline) {
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        look_at(&element);
    }
    pipeline.connect_deep_element_added(|_, _, element| look_at(element));
}

fn look_at(element: &gst::Element) {
    let parses = element.factory().is_some_and(|factory| ["h264parse", "h265parse"].contains(&factory.name().as_str()));
    let (true, Some(sink), Some(src)) = (parses, element.static_pad("sink"), element.static_pad("src")) else { return };
    let containers = Arc::new(Mutex::new(None::<String>));
    let said = Arc::clone(&containers);
    sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(caps) = caps(info) {
            let told = caps.structure(0).and_then(|structure| structure.get::<String>(FIELD).ok());
            if told.is_some() {
                replace(info, &caps, |structure| structure.remove_field(FIELD));
            }
            *said.lock() = told;
        }
        gst::PadProbeReturn::Ok
    });
    src.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(caps) = caps(info)
            && let Some(told) = containers.lock().as_deref().map(without_usual_range)
            && caps.structure(0).is_some_and(|structure| !structure.has_field(FIELD))
        {
            replace(info, &caps, |structure| structure.set(FIELD, told));
        }
        gst::PadProbeReturn::Ok
    });
}

fn caps(info: &gst::PadProbeInfo<'_>) -> Option<gst::Caps> {
    match info.event()?.view() {
        gst::EventView::Caps(event) => Some(event.caps_owned()),
        _ => None,
    }
}

fn replace(info: &mut gst::PadProbeInfo<'_>, caps: &gst::Caps, change: impl FnOnce(&mut gst::StructureRef)) {
    let mut caps = caps.clone();
    if let Some(structure) = caps.make_mut().structure_mut(0) {
        change(structure);
    }
    info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
}

fn without_usual_range(told: &str) -> String {
    let Ok(colours) = told.parse::<gst_video::VideoColorimetry>() else { return told.to_owned() };
    if colours.range() != gst_video::VideoColorRange::Range16_235 {
        return told.to_owned();
    }
    let unknown = gst_video::VideoColorRange::Unknown;
    gst_video::VideoColorimetry::new(unknown, colours.matrix(), colours.transfer(), colours.primaries()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_range_is_no_word_of_a_containers() {
        gst::init().unwrap();
        let of = |text: &str| {
            let colours: gst_video::VideoColorimetry = without_usual_range(text).parse().unwrap();
            (colours.range(), colours.matrix())
        };
        let (unknown, full) = (gst_video::VideoColorRange::Unknown, gst_video::VideoColorRange::Range0_255);
        assert_eq!(of("bt709"), (unknown, gst_video::VideoColorMatrix::Bt709));
        assert_eq!(of("bt601"), (unknown, gst_video::VideoColorMatrix::Bt601));
        assert_eq!(of("1:3:5:1"), (full, gst_video::VideoColorMatrix::Bt709));
    }
}
