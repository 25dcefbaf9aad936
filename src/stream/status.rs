//! What each stream is doing right now, written by its source and read by the API, the metrics and the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use crate::platform::secret;
use crate::stream::StreamId;

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StreamState {
    /// Not connected yet, or trying again.
    Connecting,
    /// Frames flow.
    Up,
    /// Connection lost or refused; tried again later. `error` holds no credential.
    Down { error: String },
    /// Switched off in the configuration.
    Disabled,
    /// The file has ended; nothing more will come.
    Ended,
    /// Will not be tried again (a file that is not a video, say). `error` holds no credential.
    Failed { error: String },
}

#[derive(Clone, Debug)]
struct Inner {
    state: StreamState,
    reconnects: u64,
    frames: u64,
    lost: u64,
    last_frame: Option<Instant>,
    size: Option<(u32, u32)>,
    codec: Option<String>,
    decoder: Option<String>,
    decoding: Decoding,
    sampling_interval: Option<Duration>,
    polled: bool,
}

/// Which frames of a stream are decoded, and how far apart its keyframes are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decoding {
    /// `keyframes` or `all`; `None` until frames have come, or where nothing is decoded.
    pub mode: Option<&'static str>,
    pub keyframe_interval: Option<Duration>,
    /// Frames a second as coded.
    pub frame_rate: Option<f64>,
}

/// A reading of a [`StreamStatus`].
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    pub id: String,
    #[serde(flatten)]
    pub state: StreamState,
    /// Times the connection had to be made again.
    pub reconnects: u64,
    /// Frames that came, wanted or not, decoded or dropped before the decoder.
    pub frames: u64,
    /// Those of them that were to be decoded and could not be: what they refer to had not come.
    pub frames_lost: u64,
    /// Seconds since the last one.
    pub last_frame_age: Option<f64>,
    /// Width and height of the last sampled picture.
    pub size: Option<(u32, u32)>,
    /// Such as `h264`.
    pub codec: Option<String>,
    /// The GStreamer element that decodes, such as `avdec_h264`.
    pub decoder: Option<String>,
    /// `keyframes` or `all`: which frames are decoded at present.
    pub decode: Option<&'static str>,
    /// Seconds between keyframes, as last seen.
    pub keyframe_interval: Option<f64>,
    /// Frames a second as the camera sends them, over the last keyframes.
    pub frame_rate: Option<f64>,
    /// Seconds between two samples at present; it changes with `interval: auto` alone.
    pub sampling_interval: Option<f64>,
    /// Still pictures, asked for one by one.
    #[serde(skip)]
    pub polled: bool,
}

/// One stream's live status. Sources write, everyone may read.
#[derive(Debug)]
pub struct StreamStatus {
    id: StreamId,
    /// Whether metrics tell of it.
    is_counted: bool,
    inner: Mutex<Inner>,
}

impl StreamStatus {
    pub fn new(id: StreamId) -> Self {
        metrics::counter!("vtagd_stream_reconnects_total", "stream" => id.to_string()).absolute(0);
        metrics::counter!("vtagd_pipelines_abandoned_total", "stream" => id.to_string()).absolute(0);
        metrics::counter!("vtagd_frames_lost_total", "stream" => id.to_string()).absolute(0);
        Self { is_counted: true, ..Self::uncounted(id) }
    }

    /// That of a camera which is no stream: no metric has a series of it, which would stay for good.
    pub fn uncounted(id: StreamId) -> Self {
        let inner = Inner {
            state: StreamState::Connecting,
            reconnects: 0,
            frames: 0,
            lost: 0,
            last_frame: None,
            size: None,
            codec: None,
            decoder: None,
            decoding: Decoding::default(),
            sampling_interval: None,
            polled: false,
        };
        Self { id, is_counted: false, inner: Mutex::new(inner) }
    }

    pub fn is_counted(&self) -> bool {
        self.is_counted
    }

    pub fn id(&self) -> &StreamId {
        &self.id
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock())
    }

    /// Enters `state`. Returns `false` if the stream was in it already. What is wrong may be told in a library's words: no credential of
    /// that gets further than here.
    pub fn set(&self, mut state: StreamState) -> bool {
        if let StreamState::Down { error } | StreamState::Failed { error } = &mut state {
            *error = secret::scrub(error).into_owned();
        }
        self.with(|s| std::mem::replace(&mut s.state, state.clone()) != state)
    }

    /// Whether frames arrive; `None` where none are to be expected: it has ended, or is switched off.
    pub fn is_up(&self) -> Option<bool> {
        self.with(|s| match s.state {
            StreamState::Up => Some(true),
            StreamState::Connecting | StreamState::Down { .. } | StreamState::Failed { .. } => Some(false),
            StreamState::Disabled | StreamState::Ended => None,
        })
    }

    /// Whether it will not be tried again.
    pub fn has_failed(&self) -> bool {
        self.with(|s| matches!(s.state, StreamState::Failed { .. }))
    }

    /// Counts one attempt to connect again.
    pub fn reconnecting(&self) {
        if self.is_counted {
            metrics::counter!("vtagd_stream_reconnects_total", "stream" => self.id.to_string()).increment(1);
        }
        self.with(|s| {
            s.reconnects += 1;
            s.state = StreamState::Connecting;
        });
    }

    /// Notes a frame, wanted or not.
    pub fn frame_seen(&self, now: Instant) {
        self.with(|s| {
            s.frames += 1;
            s.last_frame = Some(now);
        });
    }

    /// Counts a frame that was to be decoded and could not be: it will never be sampled.
    pub fn frame_lost(&self) {
        if self.is_counted {
            metrics::counter!("vtagd_frames_lost_total", "stream" => self.id.to_string()).increment(1);
        }
        self.with(|s| s.lost += 1);
    }

    /// Notes the size of a sampled picture.
    pub fn picture_size(&self, width: u32, height: u32) {
        self.with(|s| s.size = Some((width, height)));
    }

    /// Notes what the stream is coded in.
    pub fn codec(&self, codec: &str) {
        self.with(|s| s.codec = Some(codec.to_owned()));
    }

    /// Notes which element decodes.
    pub fn decoder(&self, decoder: &str) {
        self.with(|s| s.decoder = Some(decoder.to_owned()));
    }

    /// Notes which frames are decoded.
    pub fn decoding(&self, decoding: Decoding) {
        self.with(|s| s.decoding = decoding);
    }

    /// Notes that it is made of still pictures, asked for one by one.
    pub fn polled(&self) {
        self.with(|s| s.polled = true);
    }

    /// Notes how often it is sampled.
    pub fn sampling_interval(&self, interval: Duration) {
        if self.is_counted {
            metrics::gauge!("vtagd_sampling_interval_seconds", "stream" => self.id.to_string())
                .set(interval.as_secs_f64());
        }
        self.with(|s| s.sampling_interval = Some(interval));
    }

    pub fn report(&self, now: Instant) -> StreamReport {
        let s = self.with(|s| s.clone());
        StreamReport {
            id: self.id.to_string(),
            state: s.state,
            reconnects: s.reconnects,
            frames: s.frames,
            frames_lost: s.lost,
            last_frame_age: s.last_frame.map(|t| now.saturating_duration_since(t).as_secs_f64()),
            size: s.size,
            codec: s.codec,
            decoder: s.decoder,
            decode: s.decoding.mode,
            keyframe_interval: s.decoding.keyframe_interval.map(|d| d.as_secs_f64()),
            frame_rate: s.decoding.frame_rate,
            sampling_interval: s.sampling_interval.map(|d| d.as_secs_f64()),
            polled: s.polled,
        }
    }
}
