//! What adaptive demuxers (HLS, DASH) fetch by themselves: playlists that are read again and again, and keys. They use sources that are in no
//! pipeline and collect an answer of any length.
//!
//! In: every pad called `src` in this process, as it is made. Out: buffers that go no further once a download that belongs to no pipeline has
//! passed [`MOST_DOWNLOAD`]; the demuxer then says that it could not fetch it. Pads in a pipeline, which [`super::byte_budget`] counts, are let go of
//! at their first buffer. Runs on GStreamer's streaming threads.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow};
use gstreamer::prelude::*;

/// Bytes of one download: a day's playlist in pieces of two seconds, twice.
pub(super) const MOST_DOWNLOAD: u64 = 4 << 20;

/// From now on. GStreamer must have been initialised.
pub(super) fn limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the class, and with it the signal, is there for good once GStreamer has been initialised; the hook takes what this
        // signal has.
        unsafe {
            let class = glib::gobject_ffi::g_type_class_ref(gst::Element::static_type().into_glib());
            let signal = glib::gobject_ffi::g_signal_lookup(
                "pad-added".to_glib_none().0,
                gst::Element::static_type().into_glib(),
            );
            if !class.is_null() && signal != 0 {
                let nothing = std::ptr::null_mut();
                glib::gobject_ffi::g_signal_add_emission_hook(signal, 0, Some(on_pad_added), nothing, None);
            }
        }
    });
}

/// The signal `pad-added` of an element: the element, which may still be in the making, and the pad.
unsafe extern "C" fn on_pad_added(
    _: *mut glib::gobject_ffi::GSignalInvocationHint,
    count: u32,
    values: *const glib::gobject_ffi::GValue,
    _: glib::ffi::gpointer,
) -> glib::ffi::gboolean {
    if count == 2 {
        // SAFETY: GLib hands over `count` values that live until we return; the second is a pad.
        let pad: Borrowed<gst::Pad> = unsafe {
            from_glib_borrow(glib::gobject_ffi::g_value_get_object(values.add(1)).cast::<gst::ffi::GstPad>())
        };
        if pad.direction() == gst::PadDirection::Src && pad.name() == "src" {
            watch(&pad);
        }
    }
    glib::ffi::GTRUE
}

fn watch(pad: &gst::Pad) {
    let (bytes, kinds) = (AtomicU64::new(0), gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM);
    pad.add_probe(kinds, move |pad, info| {
        let size = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => buffer.size() as u64,
            Some(gst::PadProbeData::Event(event)) => {
                // The same source fetches the next one.
                if event.type_() == gst::EventType::StreamStart {
                    bytes.store(0, Ordering::Relaxed);
                }
                return gst::PadProbeReturn::Ok;
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        let Some(element) = pad.parent_element().filter(|element| element.parent().is_none()) else {
            return gst::PadProbeReturn::Remove;
        };
        if !element.element_flags().contains(gst::ElementFlags::SOURCE) {
            return gst::PadProbeReturn::Remove;
        }
        if bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size) <= MOST_DOWNLOAD {
            return gst::PadProbeReturn::Ok;
        }
        info.data.take();
        info.flow_res = Err(gst::FlowError::Error);
        gst::PadProbeReturn::Handled
    });
}
