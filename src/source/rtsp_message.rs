//! A message of GStreamer's RTSP library, as far as it is read and changed here. The one place that touches its memory.
//!
//! In: a message that GStreamer lends. Out: its parts as text, and changes to them. Any thread that has the message.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::null_mut;

use gstreamer_rtsp::ffi;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Options,
    Describe,
    Setup,
    Play,
    GetParameter,
    Other,
}

/// A request or a response, lent.
pub(super) struct Message<'a>(*mut ffi::GstRTSPMessage, PhantomData<&'a mut ffi::GstRTSPMessage>);

impl Message<'_> {
    pub const PUBLIC: ffi::GstRTSPHeaderField = ffi::GST_RTSP_HDR_PUBLIC;
    pub const ALLOW: ffi::GstRTSPHeaderField = ffi::GST_RTSP_HDR_ALLOW;
    pub const SESSION: ffi::GstRTSPHeaderField = ffi::GST_RTSP_HDR_SESSION;
    pub const TRANSPORT: ffi::GstRTSPHeaderField = ffi::GST_RTSP_HDR_TRANSPORT;
    pub const RTP_INFO: ffi::GstRTSPHeaderField = ffi::GST_RTSP_HDR_RTP_INFO;
    pub const CONTENT_BASE: ffi::GstRTSPHeaderField = ffi::GST_RTSP_HDR_CONTENT_BASE;
    pub const CONTENT_LOCATION: ffi::GstRTSPHeaderField = ffi::GST_RTSP_HDR_CONTENT_LOCATION;

    /// # Safety
    /// A message that is nobody else's for as long as this lives, or null.
    pub unsafe fn borrow(message: *mut ffi::GstRTSPMessage) -> Option<Self> {
        (!message.is_null()).then_some(Self(message, PhantomData))
    }

    /// Of a request.
    pub fn method(&self) -> Option<Method> {
        // SAFETY: the message is ours, and its type says which part of the union is there.
        let method = unsafe {
            if (*self.0).type_ != ffi::GST_RTSP_MESSAGE_REQUEST {
                return None;
            }
            (*self.0).type_data.request.method
        };
        Some(match method {
            ffi::GST_RTSP_OPTIONS => Method::Options,
            ffi::GST_RTSP_DESCRIBE => Method::Describe,
            ffi::GST_RTSP_SETUP => Method::Setup,
            ffi::GST_RTSP_PLAY => Method::Play,
            ffi::GST_RTSP_GET_PARAMETER => Method::GetParameter,
            _ => Method::Other,
        })
    }

    /// Where a request goes.
    pub fn uri(&self) -> String {
        if self.method().is_none() {
            return String::new();
        }
        // SAFETY: a request's address is a C string of the message's, or null.
        unsafe { text((*self.0).type_data.request.uri) }
    }

    /// Makes a request one for OPTIONS.
    pub fn become_options(&mut self) {
        if self.method().is_some() {
            // SAFETY: it is a request.
            unsafe { (*self.0).type_data.request.method = ffi::GST_RTSP_OPTIONS }
        }
    }

    /// Of a response.
    pub fn code(&self) -> Option<i32> {
        // SAFETY: as for `method`.
        unsafe { ((*self.0).type_ == ffi::GST_RTSP_MESSAGE_RESPONSE).then(|| (*self.0).type_data.response.code) }
    }

    /// Makes a response say that all is well.
    pub fn succeed(&mut self) {
        if self.code().is_some() {
            // SAFETY: it is a response.
            unsafe { (*self.0).type_data.response.code = ffi::GST_RTSP_STS_OK }
        }
    }

    /// All headers of this name, one after another.
    pub fn headers(&self, field: ffi::GstRTSPHeaderField) -> String {
        let mut all = Vec::new();
        for index in 0.. {
            let mut value = null_mut();
            // SAFETY: the value stays the message's.
            let found = unsafe { ffi::gst_rtsp_message_get_header(self.0, field, &raw mut value, index) };
            if found != ffi::GST_RTSP_OK {
                break;
            }
            // SAFETY: a C string of the message's, or null.
            all.push(unsafe { text(value) });
        }
        all.join(", ")
    }

    pub fn add(&mut self, field: ffi::GstRTSPHeaderField, value: &str) {
        if let Ok(value) = CString::new(value) {
            // SAFETY: the value is copied.
            unsafe { ffi::gst_rtsp_message_add_header(self.0, field, value.as_ptr()) };
        }
    }

    /// Takes all headers of this name out.
    pub fn remove(&mut self, field: ffi::GstRTSPHeaderField) {
        // SAFETY: the message is ours.
        unsafe { ffi::gst_rtsp_message_remove_header(self.0, field, -1) };
    }

    /// The body as text, a character for each byte ([`by_bytes`]): what it is written in is not said, and what is not changed goes on as it came.
    pub fn body(&self) -> Option<String> {
        let (mut data, mut size) = (null_mut(), 0);
        // SAFETY: the bytes stay the message's, and are copied before it is changed.
        unsafe {
            let got = ffi::gst_rtsp_message_get_body(self.0, &raw mut data, &raw mut size);
            if got != ffi::GST_RTSP_OK || data.is_null() {
                return None;
            }
            let bytes = std::slice::from_raw_parts(data, size as usize);
            // A C string ends with a zero, which GStreamer counts.
            Some(by_bytes(bytes).trim_end_matches('\0').to_owned())
        }
    }

    /// The same as [`Self::body`] gives it; with a zero behind it, as GStreamer has its own.
    pub fn set_body(&mut self, body: &str) {
        let bytes = body.chars().filter_map(|byte| u8::try_from(byte).ok());
        let body: Vec<u8> = bytes.chain([0]).collect();
        let Ok(length) = u32::try_from(body.len()) else { return };
        // SAFETY: the bytes are copied.
        unsafe { ffi::gst_rtsp_message_set_body(self.0, body.as_ptr(), length) };
    }

    /// Takes the body out, and what says what it is.
    pub fn empty(&mut self) {
        self.remove(ffi::GST_RTSP_HDR_CONTENT_TYPE);
        // SAFETY: without bytes nothing is copied.
        unsafe { ffi::gst_rtsp_message_set_body(self.0, std::ptr::null(), 0) };
    }
}

/// A character for each byte, as Latin-1 has them.
pub(super) fn by_bytes(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// # Safety
/// A C string, or null.
unsafe fn text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
