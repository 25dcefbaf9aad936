//! How much an RTSP camera sends that never becomes a packet: rtspsrc reads a message of up to 4 GiB and headers without end before
//! anybody else sees a byte, and has no setting against it.
//!
//! In: the moment at which rtspsrc is about to connect (it says so on the bus), and the socket that GIO then makes on the same thread. Out: how many bytes have been
//! read from that socket, by the system's own count. [`RtspSocket::check`] is asked by the source's thread a few times a second; it keeps two
//! numbers. Full: bytes beyond [`MOST_UNPACKED`] without an RTP packet end the connection. Closed: the socket is held by a descriptor of its own, so that
//! nothing is ever asked of a number that has become another file's; it goes with the connection.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Once};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::glib::translate::{IntoGlib, ToGlibPtr, from_glib_none};
use gstreamer::prelude::*;
use parking_lot::Mutex;

/// Bytes without an RTP packet among them. Descriptions of streams are some kilobytes; what is sent on channels that nobody asked for is not
/// kept, but is no use either.
pub(super) const MOST_UNPACKED: u64 = 4 << 20;

/// How often to look before the first packet, and afterwards. A gigabyte a second, what a machine sends itself, is a hundred megabytes
/// by then; a network of a gigabit brings thirty.
const POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(250));

#[derive(Debug, Default)]
struct State {
    socket: Option<OwnedFd>,
    /// Bytes that had been read and packets' bytes that had come when packets last came.
    read: u64,
    arrived: u64,
    /// Whatever connects now is cut at once.
    cut: bool,
}

/// The connection of one rtspsrc.
#[derive(Debug, Default)]
pub(super) struct RtspSocket(Mutex<State>);

thread_local! {
    /// Whose socket is the next that this thread connects.
    static NEXT: RefCell<Option<Arc<RtspSocket>>> = const { RefCell::new(None) };
}

impl RtspSocket {
    /// If `message` says that rtspsrc is about to connect on this thread, remembers whose socket that will be. Whatever else it says, it does not connect
    /// any more: what this thread connects later is not its.
    pub fn listen(self: &Arc<Self>, message: &gst::message::Progress) {
        let (kind, code, _) = message.get();
        let connects = kind == gst::ProgressType::Continue && code == "connect" && hook();
        NEXT.with(|next| next.replace(connects.then(|| Arc::clone(self))));
    }

    /// Called while whoever has connected `fd` waits: it is open.
    fn connected(&self, fd: BorrowedFd<'_>) {
        let mut state = self.0.lock();
        // Without a descriptor left for it, hardly anything else works either.
        *state = State { socket: fd.try_clone_to_owned().ok(), cut: state.cut, ..State::default() };
        let cut = state.cut;
        drop(state);
        if cut {
            self.cut();
        }
    }

    /// How soon to look again; `arrived` as for [`Self::is_endless`].
    pub fn next_check(arrived: u64) -> Duration {
        if arrived == 0 { POLL_INTERVALS.0 } else { POLL_INTERVALS.1 }
    }

    fn with_fd<T>(&self, f: impl FnOnce(&mut State, i32) -> Option<T>) -> Option<T> {
        let mut state = self.0.lock();
        let fd = state.socket.as_ref()?.as_raw_fd();
        f(&mut state, fd)
    }

    /// Ends the connection under rtspsrc, which stops for nothing in the middle of a message.
    pub fn cut(&self) {
        self.0.lock().cut = true;
        self.with_fd(|_, fd| {
            // SAFETY: plain system call, on a descriptor that is ours.
            unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
            Some(())
        });
    }

    /// Whether the camera sends something without end; `arrived` are the bytes of all packets so far.
    pub fn is_endless(&self, arrived: u64) -> bool {
        let endless = self.with_fd(|state, fd| {
            let read = read_from(fd)?;
            if arrived != state.arrived {
                (state.read, state.arrived) = (read, arrived);
            }
            Some(read.saturating_sub(state.read) > MOST_UNPACKED)
        });
        endless.unwrap_or(false)
    }
}

/// Bytes that have been read from the TCP socket: what the system has received, less what still waits.
fn read_from(fd: i32) -> Option<u64> {
    /// Of `struct tcp_info`: `tcpi_bytes_received`, since Linux 4.1. The fields before it are 8 bytes, 24 of 4, and 3 of 8.
    const RECEIVED: usize = 8 + 24 * 4 + 3 * 8;
    let mut info = [0_u8; 256];
    let mut length = 256;
    // SAFETY: the kernel writes `length` bytes at most.
    let told =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length) };
    let mut waiting: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let asked = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut waiting) };
    if told != 0 || asked != 0 || (length as usize) < RECEIVED + 8 {
        return None;
    }
    let received = info.get(RECEIVED..RECEIVED + 8)?.try_into().ok().map(u64::from_ne_bytes)?;
    Some(received.saturating_sub(u64::try_from(waiting).unwrap_or(0)))
}

/// Sees every connection that GIO makes in this process from now on. `false`: GIO has no such signal.
fn hook() -> bool {
    static ONCE: Once = Once::new();
    let Some(client) = glib::Type::from_name("GSocketClient") else { return false };
    ONCE.call_once(|| {
        // SAFETY: the type is registered, the name is a C string, and the hook takes what this signal has. The class is
        // there, for rtspsrc has made an object of it.
        unsafe {
            let signal = glib::gobject_ffi::g_signal_lookup("event".to_glib_none().0, client.into_glib());
            if signal != 0 {
                let nothing = std::ptr::null_mut();
                glib::gobject_ffi::g_signal_add_emission_hook(signal, 0, Some(on_event), nothing, None);
            }
        }
    });
    true
}

/// GIO's `G_SOCKET_CLIENT_CONNECTED`.
const CONNECTED: i32 = 3;

/// The signal `event` of a `GSocketClient`: client, event, to whom, connection.
unsafe extern "C" fn on_event(
    _: *mut glib::gobject_ffi::GSignalInvocationHint,
    count: u32,
    values: *const glib::gobject_ffi::GValue,
    _: glib::ffi::gpointer,
) -> glib::ffi::gboolean {
    if count == 4 && NEXT.with(|next| next.borrow().is_some()) {
        // SAFETY: GLib hands over `count` values that live until we return.
        let (event, connection) = unsafe {
            let event = glib::gobject_ffi::g_value_get_enum(values.add(1));
            let connection: Option<glib::Object> = from_glib_none(glib::gobject_ffi::g_value_get_object(values.add(3)));
            (event, connection)
        };
        if let (CONNECTED, Some(connection)) = (event, connection)
            && connection.has_property("socket")
            && let Some(socket) = connection.property::<Option<glib::Object>>("socket")
            && socket.has_property("fd")
            && let Some(next) = NEXT.with(RefCell::take)
        {
            let fd: i32 = socket.property("fd");
            if fd >= 0 {
                // SAFETY: the socket has just been connected and is held while its signal is emitted.
                next.connected(unsafe { BorrowedFd::borrow_raw(fd) });
            }
        }
    }
    glib::ffi::GTRUE
}
