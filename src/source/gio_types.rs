//! GIO's types for connections, registered one after another before any source connects.
//!
//! GLib (seen with 2.74) deadlocks for good if one thread registers such a type while another initialises the class of one that refers to it: a
//! camera's and a web server's first connections, made at the same moment, then hung and every later one with them. In: nothing. Out: the types are
//! there for as long as the process. Any thread; the others wait for the first.

use std::ffi::CStr;
use std::sync::Once;

use gstreamer::glib;

/// What rtspsrc and libsoup connect with, those first that others refer to.
const TYPES: [&CStr; 7] = [
    c"g_inet_address_get_type",
    c"g_inet_socket_address_get_type",
    c"g_network_address_get_type",
    c"g_socket_get_type",
    c"g_tcp_connection_get_type",
    c"g_cancellable_get_type",
    c"g_socket_client_get_type",
];

/// Registers them, once. Where there is no GIO, nothing uses it.
pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: loads a library that stays; GStreamer's own plug-ins do the same.
        let gio = unsafe { libc::dlopen(c"libgio-2.0.so.0".as_ptr(), libc::RTLD_NOW) };
        if gio.is_null() {
            return;
        }
        for name in TYPES {
            // SAFETY: functions of GLib's stable interface that take nothing and give the number of a type, of which a class is made and kept.
            unsafe {
                let function = libc::dlsym(gio, name.as_ptr());
                if !function.is_null() {
                    let get_type: unsafe extern "C" fn() -> glib::ffi::GType = std::mem::transmute(function);
                    glib::gobject_ffi::g_type_class_ref(get_type());
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn types_that_connections_need_are_there_before_any() {
        gstreamer::init().unwrap();
        super::register();
        for name in ["GSocketClient", "GSocketAddress", "GNetworkAddress", "GSocket"] {
            assert!(gstreamer::glib::Type::from_name(name).is_some(), "{name}");
        }
    }
}
