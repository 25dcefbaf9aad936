//! Which decoder: the machine's own where it has one that opens, software otherwise.
//!
//! In: what the configuration asks for, GStreamer's registry. Out: a [`Family`] of hardware decoders, or none and the reason.
//! decodebin still picks the element for the codec that the camera really sends; a family only decides which hardware it may
//! pick from, and what downloads the sampled frames from it. Any thread; opening a device is tried once per process and family,
//! on a thread of its own, and one that does not answer within [`PROBE_TIMEOUT`] is not used.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crossbeam_channel::bounded;
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use parking_lot::Mutex;
use serde::Serialize;

use crate::stream::StreamId;

/// What decodes, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decoder {
    /// The first hardware that this machine has, in the order of the others here; then software.
    #[default]
    Auto,
    Software,
    /// NVDEC.
    Nvidia,
    /// NVIDIA Jetson.
    Jetson,
    /// VA-API: Intel, AMD.
    Vaapi,
    /// V4L2, stateless and stateful: ARM boards.
    V4l2,
}

/// How long opening a device may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Hardware decoders that belong together: one maker's, with one way to get pictures out of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    pub decoder: Decoder,
    name: &'static str,
    /// GStreamer elements, better ones first.
    elements: &'static [&'static str],
    /// Elements that copy pictures to the system's memory; none: the decoder itself does.
    downloads: &'static [&'static str],
    /// Plug-in, and where the driver shows: for the person who misses it.
    needs: &'static str,
}

/// In the order in which `auto` tries them. A machine with two of them uses the first unless told otherwise.
static FAMILIES: [Family; 4] = [
    Family {
        decoder: Decoder::Nvidia,
        name: "nvidia",
        elements: &["nvh264dec", "nvh264sldec", "nvh265dec", "nvh265sldec", "nvjpegdec"],
        downloads: &["cudadownload"],
        needs: "the plug-in nvcodec (gstreamer1.0-plugins-bad), NVIDIA's driver with libnvcuvid, and /dev/nvidia0",
    },
    Family {
        decoder: Decoder::Jetson,
        name: "jetson",
        elements: &["nvv4l2decoder"],
        downloads: &["nvvidconv"],
        needs: "JetPack's GStreamer plug-ins (nvidia-l4t-gstreamer)",
    },
    Family {
        decoder: Decoder::Vaapi,
        name: "vaapi",
        elements: &["vah264dec", "vah265dec", "vajpegdec", "vaapih264dec", "vaapih265dec", "vaapijpegdec"],
        downloads: &["vapostproc", "vaapipostproc"],
        needs: "the plug-in va (gstreamer1.0-plugins-bad), a VA-API driver, and read and write access to /dev/dri/renderD128",
    },
    Family {
        decoder: Decoder::V4l2,
        name: "v4l2",
        elements: &["v4l2slh264dec", "v4l2slh265dec", "v4l2h264dec", "v4l2h265dec", "v4l2jpegdec"],
        downloads: &[],
        needs: "a decoder among /dev/video* that this user may open, and the plug-in video4linux2 or v4l2codecs",
    },
];

impl Family {
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The element that downloads pictures, if it is needed and there.
    pub fn download(&self) -> Option<&'static str> {
        // The old and the new plug-in for VA-API do not share memory.
        let old = self.found().all(|element| element.starts_with("vaapi"));
        let fits = |download: &&&str| download.starts_with("vaapi") == (old && self.decoder == Decoder::Vaapi);
        self.downloads.iter().filter(fits).copied().find(|element| gst::ElementFactory::find(element).is_some())
    }

    fn found(&self) -> impl Iterator<Item = &'static str> {
        self.elements.iter().copied().filter(|element| gst::ElementFactory::find(element).is_some())
    }

    /// Whether one of the family's decoders opens. On success decodebin prefers them all to software from then on.
    fn open(&'static self) -> Result<(), String> {
        let needs = self.needs;
        let first =
            self.found().next().ok_or_else(|| format!("GStreamer has no such decoder here; it needs {needs}"))?;
        let (answer, answered) = bounded(1);
        let work = move || {
            let opened = self.found().any(opens);
            // Nobody listens any more to an answer that comes too late.
            let _ = answer.send(opened);
        };
        let helper = std::thread::Builder::new().name(format!("open-{}", self.name)).spawn(work);
        helper.map_err(|e| format!("no thread to open {first}: {e}"))?;
        match answered.recv_timeout(PROBE_TIMEOUT) {
            Ok(true) => {}
            Ok(false) => return Err(format!("{first} cannot be opened; it needs {needs}")),
            Err(_) => return Err(format!("{first} does not answer within {} s", PROBE_TIMEOUT.as_secs())),
        }
        for (behind, element) in self.found().enumerate() {
            if let Some(factory) = gst::ElementFactory::find(element) {
                let rank = i32::from(gst::Rank::PRIMARY) + 100 - i32::try_from(behind).unwrap_or_default();
                factory.set_rank(factory.rank().max(gst::Rank::from(rank)));
            }
        }
        Ok(())
    }
}

fn opens(element: &str) -> bool {
    let Ok(element) = gst::ElementFactory::make(element).build() else { return false };
    let opened = element.set_state(gst::State::Ready).is_ok();
    let _ = element.set_state(gst::State::Null);
    opened
}

/// What came of opening each family in this process.
static OPENED: Mutex<Option<HashMap<Decoder, Result<(), String>>>> = Mutex::new(None);

fn opened(family: &'static Family) -> Result<(), String> {
    let mut opened = OPENED.lock();
    let known = opened.get_or_insert_with(HashMap::new);
    if let Some(result) = known.get(&family.decoder) {
        return result.clone();
    }
    let result = family.open();
    match &result {
        Ok(()) => tracing::info!(decoder = family.name, "hardware decoder found"),
        Err(why) => tracing::debug!(decoder = family.name, why, "no hardware decoder"),
    }
    known.insert(family.decoder, result.clone());
    result
}

/// Every family of hardware, by its name, and why it cannot be used.
pub(super) fn survey() -> Vec<(&'static str, Result<(), String>)> {
    FAMILIES.iter().map(|family| (family.name, opened(family))).collect()
}

/// The hardware to use for `wanted`. `Ok(None)` is software by choice or because `auto` found nothing.
///
/// # Errors
/// Why the hardware that was asked for by name cannot be used.
pub(super) fn choose(wanted: Decoder) -> Result<Option<&'static Family>, String> {
    match wanted {
        Decoder::Software => Ok(None),
        Decoder::Auto => Ok(FAMILIES.iter().find(|family| opened(family).is_ok())),
        _ => match FAMILIES.iter().find(|family| family.decoder == wanted) {
            Some(family) => opened(family).map(|()| Some(family)),
            None => Ok(None),
        },
    }
}

/// Warns that the hardware which was asked for is not used, once for each stream and reason: connections come and go.
pub(super) fn complain_once(stream: &StreamId, why: &str) {
    static TOLD: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());
    let new = TOLD.lock().insert((stream.to_string(), why.to_owned()));
    if new {
        tracing::warn!(%stream, why, "decoding in software");
    }
}

/// Whether the element of this name is one of the hardware decoders.
pub(super) fn is_hardware(element: &str) -> bool {
    FAMILIES.iter().any(|family| family.elements.contains(&element))
}

/// What a decoder is, for the person who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedBy {
    /// The family it belongs to; `None`: software.
    pub hardware: Option<&'static str>,
    pub why_software: Option<String>,
}

/// What `element` is, where `wanted` was configured.
pub fn decoded_by(wanted: Decoder, element: &str) -> DecodedBy {
    if let Some(family) = FAMILIES.iter().find(|family| family.elements.contains(&element)) {
        return DecodedBy { hardware: Some(family.name), why_software: None };
    }
    let why = match (wanted, choose(wanted)) {
        (Decoder::Software, _) => "that is configured".to_owned(),
        (_, Err(why)) => why,
        (_, Ok(None)) => "no hardware decoder opens on this machine".to_owned(),
        (_, Ok(Some(family))) => format!("the {} decoder does not know this codec, or failed", family.name),
    };
    DecodedBy { hardware: None, why_software: Some(why) }
}

/// Makes `decodebin` use `family`'s decoders, or software ones; no other hardware in either case.
pub(super) fn restrict(decodebin: &gst::Element, family: Option<&'static Family>) {
    decodebin.set_property("force-sw-decoders", family.is_none());
    // The type is private to decodebin, and registered with it.
    let Some(results) = glib::Type::from_name("GstAutoplugSelectResult").and_then(glib::EnumClass::with_type) else {
        return decodebin.set_property("force-sw-decoders", true);
    };
    decodebin.connect("autoplug-select", false, move |arguments| {
        let factory = arguments.get(3).and_then(|v| v.get::<gst::ElementFactory>().ok());
        let foreign = factory.is_some_and(|factory| {
            let class = factory.metadata(gst::ELEMENT_METADATA_KLASS).unwrap_or_default();
            factory.has_type(gst::ElementFactoryType::DECODER) && is_foreign(&factory.name(), class, family)
        });
        results.to_value_by_nick(if foreign { "skip" } else { "try" })
    });
}

/// Whether a decoder of this name and class is hardware, and not `family`'s. Not all of it says so in its class (the Jetson's): those are known by name.
fn is_foreign(name: &str, class: &str, family: Option<&Family>) -> bool {
    let hardware = class.contains("Hardware") || is_hardware(name);
    hardware && !family.is_some_and(|family| family.elements.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_of_another_family_is_foreign_also_if_it_does_not_call_itself_hardware() {
        let [_, jetson, vaapi, _] = &FAMILIES;
        let (plain, hardware) = ("Codec/Decoder/Video", "Codec/Decoder/Video/Hardware");
        for (name, class, family, foreign) in [
            ("nvv4l2decoder", plain, None, true),
            ("nvv4l2decoder", plain, Some(vaapi), true),
            ("nvv4l2decoder", plain, Some(jetson), false),
            ("vah264dec", hardware, None, true),
            ("vah264dec", hardware, Some(vaapi), false),
            ("somebodysdec", hardware, Some(jetson), true),
            ("avdec_h264", plain, None, false),
            ("avdec_h264", plain, Some(vaapi), false),
        ] {
            assert_eq!(is_foreign(name, class, family), foreign, "{name} {family:?}");
        }
    }

    /// A decoder as JetPack has it: it is called like that, and says no more than that it decodes.
    fn jetsons() -> gst::ElementFactory {
        const NAME: &str = "nvv4l2decoder";
        // Nobody looks for hardware meanwhile.
        let _guard = OPENED.lock();
        if let Some(there) = gst::ElementFactory::find(NAME) {
            return there;
        }
        let like = gst::ElementFactory::make("jpegdec").build().unwrap().type_();
        gst::Element::register(None, NAME, gst::Rank::NONE, like).unwrap();
        let factory = gst::ElementFactory::find(NAME).unwrap();
        gst::Registry::get().remove_feature(&factory);
        factory
    }

    #[test]
    fn a_decodebin_that_is_to_decode_in_software_takes_no_hardware() {
        gst::init().unwrap();
        let [_, jetson, _, _] = &FAMILIES;
        let (pad, caps) =
            (gst::Pad::builder(gst::PadDirection::Src).build(), gst::Caps::new_empty_simple("image/jpeg"));
        let software = gst::ElementFactory::find("jpegdec").unwrap();
        let chosen = |family, factory: &gst::ElementFactory| {
            let decodebin = gst::ElementFactory::make("decodebin").build().unwrap();
            restrict(&decodebin, family);
            let arguments = [pad.to_value(), caps.to_value(), factory.to_value()];
            let result = decodebin.emit_by_name_with_values("autoplug-select", &arguments).unwrap();
            glib::EnumValue::from_value(&result).unwrap().1.nick().to_owned()
        };
        let hardware = jetsons();
        assert_eq!(chosen(None, &hardware), "skip");
        assert_eq!(chosen(Some(jetson), &hardware), "try");
        assert_eq!(chosen(None, &software), "try");
    }
}
