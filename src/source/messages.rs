//! GStreamer's and GLib's own messages become events of our log: in its format, at its destination, without credentials.
//!
//! In: what GStreamer says to `GST_DEBUG`, and warnings of GLib, on whichever thread they come up. Out: events of the targets
//! `gstreamer` and `glib`. Left alone, both libraries write to stderr themselves, addresses and headers as they are. How much GStreamer
//! tells is up to `GST_DEBUG`, as ever; without it that is nothing, and costs nothing. Dumps of bytes are left out.

use std::sync::Once;

use gstreamer as gst;
use gstreamer::DebugLevel;
use gstreamer::glib;

/// Takes the messages over; once.
pub(super) fn take_over() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::log::remove_default_log_function();
        gst::log::add_log_function(|category, level, _, function, _, object, message| {
            let category = category.name();
            let object = object.map(ToString::to_string);
            let text = message.get();
            tell(level, category, function.as_str(), object.as_deref(), text.as_ref().map_or("", |text| text.as_str()));
        });
        glib::log_set_default_handler(|domain, level, text| {
            let domain = domain.unwrap_or_default();
            match level {
                glib::LogLevel::Error | glib::LogLevel::Critical => {
                    tracing::warn!(target: "glib", domain, "{text}");
                }
                glib::LogLevel::Warning => tracing::debug!(target: "glib", domain, "{text}"),
                _ => tracing::trace!(target: "glib", domain, "{text}"),
            }
        });
    });
}

fn tell(level: DebugLevel, category: &str, function: &str, object: Option<&str>, text: &str) {
    macro_rules! at {
        ($level:ident) => {
            tracing::event!(target: "gstreamer", tracing::Level::$level, category, function, object, "{text}")
        };
    }
    match level {
        // A dump of bytes is cut into pieces in which nobody finds a credential.
        DebugLevel::None | DebugLevel::Memdump => {}
        DebugLevel::Error => at!(ERROR),
        DebugLevel::Warning | DebugLevel::Fixme => at!(WARN),
        DebugLevel::Info => at!(INFO),
        DebugLevel::Debug => at!(DEBUG),
        _ => at!(TRACE),
    }
}
