//! Source: one GStreamer pipeline per stream, from a template in `pipelines/`, to decoded pictures.

use std::path::PathBuf;

use crate::frame::StreamId;
use crate::secret::Secret;

/// What to connect to. Credentials never stay in a URL: the configuration splits them off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `rtsp://` or `rtsps://`, over TCP.
    Rtsp(url::Url),
    /// A local video file.
    File(PathBuf),
    /// `http://` or `https://`: progressive video or multipart MJPEG.
    Http(url::Url),
    /// A V4L2 device such as `/dev/video0`.
    V4l2(PathBuf),
    /// The user's own pipeline template, used as it is.
    Template(PathBuf),
}

/// How a file is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pace {
    /// In real time; newest wins.
    #[default]
    Live,
    /// As fast as inference goes; back-pressure instead of drops.
    Fast,
}

/// Which frames are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Decode {
    #[default]
    Auto,
    Keyframes,
    All,
}

/// Everything a source needs to know.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub id: StreamId,
    pub location: Location,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub pace: Pace,
    /// Files only: start again at the end.
    pub looped: bool,
    pub decode: Decode,
    /// Folder of the built-in templates (`rtsp.gst`, …).
    pub templates: PathBuf,
}
