//! Everything a source needs to know: where its pictures come from, how, and how patient it is. Plain data; the configuration fills it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{CameraTls, Decoder};
use crate::frame::coded_size;
use crate::platform::backoff::Ladder;
use crate::platform::secret::Secret;
use crate::platform::zoned_url::ZonedUrl;
use crate::stream::StreamId;

/// What to connect to. Credentials never stay in a URL: the configuration splits them off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `rtsp://` or `rtsps://`.
    Rtsp(ZonedUrl),
    /// A local video file.
    File(PathBuf),
    /// `http://` or `https://`: progressive video, multipart MJPEG, a playlist or still pictures.
    Http(ZonedUrl),
    /// `rtmp(s)://`: what a server there plays.
    Rtmp(ZonedUrl),
    /// `srt://`: who sends there, or, with `?mode=listener`, whoever calls.
    Srt(ZonedUrl),
    /// `udp://`: an MPEG transport stream that is sent to this address of ours, or to a group.
    Udp(ZonedUrl),
    /// `push://`: pictures that others send to the API. The name is for people.
    Push(String),
    /// A V4L2 device such as `/dev/video0`.
    V4l2(PathBuf),
    /// The user's own pipeline template, used as it is.
    Template(PathBuf),
}

impl Location {
    /// The address in a network; `None`: it is no such place.
    pub fn url(&self) -> Option<&ZonedUrl> {
        match self {
            Self::Rtsp(url) | Self::Http(url) | Self::Rtmp(url) | Self::Srt(url) | Self::Udp(url) => Some(url),
            Self::File(_) | Self::V4l2(_) | Self::Template(_) | Self::Push(_) => None,
        }
    }

    /// Whether nobody is called there: others send to it, whenever they will.
    pub(super) fn listens(&self) -> bool {
        match self {
            Self::Udp(_) => true,
            Self::Srt(url) => match url.query_pairs().find(|(key, _)| key == "mode") {
                Some((_, mode)) => mode == "listener",
                // As its reader has it.
                None => url.host_str().is_none_or(str::is_empty),
            },
            _ => false,
        }
    }
}

/// How an RTSP camera sends its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Over the connection itself, or over UDP if the camera refuses that.
    #[default]
    Auto,
    Tcp,
    Udp,
    Multicast,
}

/// What goes with pictures that others send.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PushSettings {
    /// What they show; `None`: the API's own token.
    pub token: Option<Secret>,
    /// How long a picture stands for what is there; `None`: one interval.
    pub hold: Option<Duration>,
}

/// How a file is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// In real time; newest wins.
    #[default]
    Live,
    /// As fast as inference goes; back-pressure instead of drops.
    Fast,
}

/// Which frames are decoded. Streams of pictures that are not coded, and own templates whose decoder is not called `decoder`, are
/// always decoded whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// Keyframes alone as long as they come as often as frames are sampled, every frame otherwise.
    #[default]
    Auto,
    /// Keyframes alone, however rare.
    Keyframes,
    All,
}

/// Everything a source needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    pub id: StreamId,
    pub location: Location,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Where the password is read again before every attempt, so that a changed one needs no restart.
    pub password_file: Option<PathBuf>,
    pub pace: Pace,
    /// Files only: start again at the end.
    pub looped: bool,
    pub decode: Decode,
    pub decoder: Decoder,
    /// How many pixels a picture may have. `None`: as many as in 8K, and what a picture file may have for a file.
    pub max_pixels: Option<u64>,
    /// An own pipeline may also decode what no size can be read of: somebody has set a limit for it.
    pub any_codec: bool,
    /// Folder of the built-in templates (`rtsp.gst`, …).
    pub templates: PathBuf,
    pub reconnect: Reconnect,
    pub transport: Transport,
    pub tls: CameraTls,
    /// Of [`Location::Push`].
    pub push: Option<PushSettings>,
    /// In the log and in errors the host stands for the whole address: nobody has said yet that it holds no secret.
    pub host_alone: bool,
}

impl SourceSettings {
    /// The same with one attempt alone: `time` is all there is.
    #[must_use]
    pub fn of_one_attempt(&self, time: Duration) -> Self {
        let mut settings = self.clone();
        let never = Duration::from_hours(24);
        settings.reconnect.ladder = Ladder::doubling(never, never, never);
        let limits = &mut settings.reconnect.limits;
        (limits.first_frame, limits.stall) = (limits.first_frame.min(time), limits.stall.min(time));
        settings
    }

    /// How large pictures may be. Files are a person's choice; what comes from elsewhere is not.
    pub fn sizes(&self) -> coded_size::Limits {
        match (self.max_pixels, &self.location) {
            (Some(pixels), _) => coded_size::Limits::of(pixels),
            (None, Location::File(_)) => coded_size::Limits::FILE,
            (None, _) => coded_size::Limits::CAMERA,
        }
    }

    /// Whether also a video of which no size can be read is refused. Files are a person's choice, and so may an own pipeline be.
    pub(super) fn insists_on_sizes(&self) -> bool {
        match self.location {
            Location::File(_) => false,
            Location::Template(_) => !self.any_codec,
            _ => true,
        }
    }
}

/// When a stream counts as lost, and how soon it is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reconnect {
    pub ladder: Ladder,
    pub limits: Limits,
}

/// How patient a source is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// A connection that has shown no picture after so long is made anew. Includes the time to connect.
    pub first_frame: Duration,
    /// A camera whose pictures stop for so long is connected to anew.
    pub stall: Duration,
    /// How long a pipeline may take to stop before it is abandoned.
    #[serde(skip)]
    pub tear_down: Duration,
}

impl Default for Limits {
    /// 30 s to the first picture: the 10 s that connecting may take and the 20 s that a sparing camera may take to its next
    /// keyframe. 20 s of silence, for the same keyframe interval. 5 s to stop.
    fn default() -> Self {
        Self { first_frame: Duration::from_secs(30), stall: Duration::from_secs(20), tear_down: Duration::from_secs(5) }
    }
}
