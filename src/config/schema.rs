//! The configuration file as written: every key of the schema, typed, nothing checked beyond that.
//!
//! The rest of this folder turns these into [`Settings`](super::Settings). Unknown keys are refused everywhere. The names are a
//! contract with people's files: keys are added, never renamed.

use std::time::Duration;

use crate::infer::Provider;
use crate::preprocess::ViewMode;
use crate::sample::Interval;
use crate::score::Threshold;
use crate::section;
use crate::sink::config::SinkItem;
use crate::source::{Decode, Decoder, Pace, Transport};
use crate::words;
use crate::yaml::field_reader::{At, FromNode, Reader};
use crate::yaml::key_reference::Key;
use crate::yaml::secrets::SecretSource;
use crate::yaml::values::Bytes;
use crate::yaml::{Node, Value};

pub use super::schema_runtime::*;
use super::schema_sources::{PushKeys, SourceTls};

use super::LogFormat;

section! {
    /// The whole file. Top-level keys that begin with `x-` are ignored: a place for YAML anchors.
    pub struct Root {
        /// name: letters, digits, `.` `_` `-` | the host name | Names this daemon in the `source` of its events
        "instance" => instance: String,
        /// section | - | [Which model](#model)
        "model" => model: Model,
        /// section | - | [How it is run](#runtime)
        "runtime" => runtime: Runtime,
        /// section | - | [How often streams are looked at](#sampling)
        "sampling" => sampling: Sampling,
        /// section | - | [When a stream is lost and tried again](#reconnect)
        "reconnect" => reconnect: Reconnect,
        /// list | required | [What is watched](#streams). `[]` where the API is on: the daemon waits for a reload that
        /// brings some
        "streams" => streams: Vec<At<Stream>>,
        /// list of paths | - | Label-set files; at least one, unless `model.path` is `none`. See [label
        /// sets](#label-sets)
        "labels" => labels: Vec<At<String>>,
        /// section | - | [When a tag starts and ends](#events)
        "events" => events: Events,
        /// list | standard output | [Where events go](#sinks)
        "sinks" => sinks: Vec<At<SinkItem>>,
        /// section | - | [Events on disk](#outbox)
        "outbox" => outbox: Store,
        /// section | off | [Pictures of tags](#snapshots)
        "snapshots" => snapshots: Snapshots,
        /// `off`, or a section | the last hour, in memory | [What streams showed, to be searched](#history)
        "history" => history: History,
        /// section | - | [Where the daemon writes](#state)
        "state" => state: State,
        /// section | - | [HTTP](#api)
        "api" => api: Api,
        /// section | - | [Which of the daemon's numbers are told to Prometheus](#metrics)
        "metrics" => metrics: Metrics,
        /// section | - | [Logs](#log)
        "log" => log: Log,
        /// list of paths and patterns | - | [Other files](#several-files), whose `streams`, `labels` and `sinks` come
        /// after those of this one
        "include" => include: Vec<At<String>>,
    }
}

section! {
    pub struct Model {
        /// path, `hf:ORG/NAME[@REVISION]`, `starter` or `none` | `starter` | A model directory; a model of a Hugging Face
        /// hub, [pulled once](#a-model-of-a-hub); the starter model that set-up makes; or no model: decode and preprocess
        /// only
        "path" => path: String,
        /// number above 0, up to 10000 | the model's own | What the cosine is multiplied by, not its logarithm. For a
        /// model that does not say it, or says it wrongly
        "logit_scale" => logit_scale: f64,
        /// number, -10000 to 10000 | the model's own | Added to the logit; 0 for models trained with a softmax
        "logit_bias" => logit_bias: f64,
    }
}

section! {
    /// For all streams, and again within a stream.
    pub struct Sampling {
        /// duration above 0, or `auto` | `1s` | Time between two samples of a stream, by the stream's own clock.
        /// `auto`: [what the box serves](#sampling-as-often-as-the-box-can)
        "interval" => interval: Interval,
        /// `off`, `on`, or a section | `off` | Whether samples that show nothing new are scored with the last
        /// embedding, see [below](#views-that-do-not-change)
        "unchanged" => unchanged: Unchanged,
        /// `auto`, `keyframes`, `all` | `auto` | Which frames are decoded. `keyframes`: only those keyframes that are
        /// sampled, at a tenth of the CPU time or less. `auto`: keyframes alone as long as they come at least as often
        /// as samples are wanted, otherwise all frames from a keyframe up to the last one of its group that a sample
        /// needs; files with `pace: fast` are decoded whole
        "decode" => decode: Decode,
        /// `auto`, `software`, `nvidia`, `jetson`, `vaapi`, `v4l2` | `auto` | Who decodes. `auto` takes the first
        /// hardware decoder that opens here, software otherwise, and software for a stream whose hardware decoder fails
        "decoder" => decoder: Decoder,
        /// 65536 to 200000000 | `33554432`; `200000000` for `file://` | How many pixels a picture may have, see
        /// [below](#pictures-that-are-too-large)
        "max_pixels" => max_pixels: usize,
    }
}

/// A duration, or `auto`.
impl FromNode for Interval {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [Duration::schema(), { "const": "auto" }] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "auto" => Some(Self::Auto),
            Value::Text(text) if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                let message = "is neither a duration nor `auto`";
                reader.refuse_node(node, path, message, "write, for example, 1s or 500ms, or auto")
            }
            _ => Duration::from_node(node, path, reader).map(Self::Every),
        }
    }
}

/// `off`, `on`, or settings of its own.
pub enum Unchanged {
    Off,
    On(Gate),
}

section! {
    /// `sampling.unchanged` where it is on.
    pub struct Gate {
        /// above 0, up to 64 | `4` | How much the brightness of any part may differ, in levels of 255
        "tolerance" => tolerance: f64,
        /// duration above 0 | `10s` | After so long a sample is inferred, changed or not
        "max_age" => max_age: Duration,
    }
}

impl FromNode for Unchanged {
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        // YAML 1.1, which most editors speak, takes these words for true and false.
        serde_json::json!({ "anyOf": [{ "enum": ["off", "on", true, false] }, Gate::schema()] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(node.value, Value::Text(_)) {
            return Some(if reader.word(node, path, &["off", "on"])? == "on" {
                Self::On(Gate::default())
            } else {
                Self::Off
            });
        }
        if !matches!(node.value, Value::Map(_)) {
            return reader.refuse_kind(
                node,
                path,
                "off, on or a mapping",
                "write off, on, or { tolerance: 4, max_age: 10s }",
            );
        }
        Gate::from_node(node, path, reader).map(Self::On)
    }

    fn keys(path: &str, out: &mut Vec<Key>) {
        Gate::keys(path, out);
    }
}

section! {
    /// For all streams, and again within a stream.
    pub struct Reconnect {
        /// duration above 0 | `1s` | Wait before the second attempt
        "first" => first: Duration,
        /// duration above 0, at least `first` | `60s` | Longest wait
        "max" => max: Duration,
        /// duration | `60s` | How long pictures must flow for the waits to start at `first` again
        "stable" => stable: Duration,
        /// duration above 0 | `30s` | A connection without a picture for so long is given up. Above the camera's
        /// keyframe interval plus 10 s
        "first_frame" => first_frame: Duration,
        /// duration above 0 | `20s` | A stream whose pictures stop for so long is connected anew. Above the camera's
        /// keyframe interval
        "stall" => stall: Duration,
    }
}

section! {
    pub struct Stream {
        /// lower-case letters, digits, `_` `-`; at most 64 | required | Names the stream everywhere; unique
        "id" => id: String,
        /// bool | `true` | `false`: the stream is checked and listed, and not connected to
        "enabled" => enabled: bool,
        /// URL | this or `pipeline` | `rtsp://` `rtsps://` `http://` `https://` `file://` `v4l2:///dev/video0` `rtmp://`
        /// `rtmps://` `srt://` `udp://` (MPEG-TS) `push://NAME` (pictures that [others send](cameras.md#pictures-that-are-sent)).
        /// `file://clip.mp4` is relative to this file, `file:///srv/clip.mp4` is not. Credentials inside the URL work,
        /// with a warning; see [below](#user-and-password-in-a-url). Over HTTP: multipart MJPEG, a video, or a
        /// still picture, which is [polled](cameras.md#still-pictures), or a playlist (`.m3u8`)
        "url" => url: String,
        /// path | this or `url` | Your own GStreamer template
        "pipeline" => pipeline: String,
        /// text | - | User at the camera
        "username" => username: String,
        /// credential | - | Password at the camera
        "password" => password: SecretSource,
        /// `auto`, `tcp`, `udp`, `multicast` | `auto` | How RTSP cameras send. `auto`: over TCP, and over UDP where the camera
        /// refuses that (461)
        "transport" => transport: Transport,
        /// section | the system's authorities | Which certificate of an `rtsps://` or `https://` camera is trusted, see
        /// [below](#certificates-of-cameras)
        "tls" => tls: SourceTls,
        /// section | - | Of `push://`
        "push" => push: PushKeys,
        /// list of set names | every set | Label sets for this stream
        "labels" => labels: Vec<At<String>>,
        /// section | - | As [`sampling`](#sampling), for this stream alone
        "sampling" => sampling: Sampling,
        /// section | - | As [`reconnect`](#reconnect), for this stream alone; what it leaves out comes from there
        "reconnect" => reconnect: Reconnect,
        /// section | - | What of the picture the model sees
        "view" => view: View,
        /// `live`, `fast` | `live` | Files only: in real time, newest picture wins; or as fast as inference goes, every
        /// sample
        "pace" => pace: Pace,
        /// bool | `false` | Files only: start again at the end
        "loop" => looped: bool,
        /// `off`, `on` | `on` | Whether the [history](#history) keeps what it shows
        "history" => history: KeptInHistory,
    }
}

section! {
    pub struct View {
        /// `model`, `squash`, `pad`, `tiles` | `model` | As the model's preprocessor file says; resized without regard
        /// to shape; whole with bars; several tiles, best score for each label
        "mode" => mode: ViewMode,
        /// `[x, y, w, h]`, parts of the picture | `[0, 0, 1, 1]` | The part to look at; inside 0 to 1
        "region" => region: Vec<At<f64>>,
        /// list, 1 to 16 | - | Instead of `region`: [named parts](#regions), each scored and told by itself
        "regions" => regions: Vec<At<ViewRegion>>,
    }
}

section! {
    /// One of `view.regions`.
    pub struct ViewRegion {
        /// lower-case letters, digits, `_` `-`; at most 64 | required | Names the region in events, topics and metrics; unique in its
        /// stream
        "name" => name: String,
        /// `[x, y, w, h]`, parts of the picture | this or `polygon` | A rectangle
        "region" => region: Vec<At<f64>>,
        /// list of `[x, y]`, 3 to 64 | this or `region` | Corners, parts of the picture; inside 0 to 1. The model sees the rectangle around
        /// them, in which what lies outside has its mean colour
        "polygon" => polygon: Vec<At<Vec<At<f64>>>>,
        /// as `streams[].view.mode` | that of the stream | For this region alone
        "mode" => mode: ViewMode,
    }
}

section! {
    pub struct Events {
        /// 0 to 1, or `{ margin: 2.1 }` | `0.6` | Score to start, or [margin](#margins)
        "enter" => enter: Threshold,
        /// 0 to 1, or `{ margin: 2.1 }`, at most `enter` | `0.4` | Score to end
        "exit" => exit: Threshold,
        /// duration | `1s` | Time at `enter` or above before a tag starts; 0: one sample
        "after" => after: Duration,
        /// duration | as `after` | Time below `exit` before it ends
        "after_exit" => after_exit: Duration,
        /// duration | `10s` | Shortest time between two starts
        "cooldown" => cooldown: Duration,
    }
}

section! {
    /// `outbox`.
    pub struct Store {
        /// path, or `":memory:"` | see below | The file, a SQLite database; beside it lie `-wal`, `-shm` and `.lock`.
        /// On a local disk: network file systems do not keep its promises
        "path" => path: String,
        /// size, at least 1MiB | `1GiB` | What is stored is at most so large, looked at twice a second: then the oldest
        /// events that every sink has are forgotten, and if there are none the oldest of all, which is counted and
        /// logged
        "max_size" => max_size: Bytes,
        /// duration above 0 | `7d` | Older events are forgotten, delivered or not; what was not is counted and logged.
        /// Time counts while the machine is on, by its own clock: setting the date changes nothing
        "max_age" => max_age: Duration,
    }
}

section! {
    pub struct Snapshots {
        /// path | `snapshots` in the [state directory](#state) | Folder of pictures; each daemon needs its own
        "path" => path: String,
        /// size above 0 | `1GiB` | Beyond it the oldest are deleted
        "max_size" => max_size: Bytes,
        /// duration above 0 | `7d` | Older ones are deleted
        "max_age" => max_age: Duration,
        /// 1 to 8192 | `1280` | Longest side in pixels; larger frames are scaled down
        "max_side" => max_side: usize,
        /// 1 to 100 | `85` | Of the JPEG
        "quality" => quality: usize,
        /// URL | where the API listens | Where consumers reach the API, such as `https://edge-1.example` behind a proxy
        "url" => url: String,
    }
}

/// `off`, or settings of its own.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum History {
    Off,
    On(HistoryFolder),
}

section! {
    /// `history` where it is on.
    pub struct HistoryFolder {
        /// path | `history` in the [state directory](#state) | Folder of embeddings; each daemon needs its own
        "path" => path: String,
        /// size, at least 1MiB | `2GiB` | Beyond it the oldest are deleted
        "max_size" => max_size: Bytes,
        /// duration above 0 | `14d` | Older ones are deleted, at most a sixteenth of it later
        "max_age" => max_age: Duration,
        /// 0 to 1 | `0.04` | A frame whose cosine with its stream's last one is at
        /// most so much below 1 extends that one
        "min_change" => min_change: f64,
        /// `off`, or a section | `off` | Small pictures beside the embeddings, of the view's part alone
        "pictures" => pictures: HistoryPictures,
    }
}

/// `off`, or settings of its own.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum HistoryPictures {
    Off,
    On(SmallPictures),
}

section! {
    /// `history.pictures` where they are on.
    pub struct SmallPictures {
        /// 1 to 8192 | `320` | Longest side in pixels
        "max_side" => max_side: usize,
        /// 1 to 100 | `60` | Of the JPEG
        "quality" => quality: usize,
        /// size above 0 | `4GiB` | Beyond it the oldest are deleted
        "max_size" => max_size: Bytes,
    }
}

/// A mapping that may be switched off as a whole.
macro_rules! or_off {
    ($name:ident, $section:ident, $example:literal) => {
        impl FromNode for $name {
            const NULL_IS_MISSING: bool = true;

            fn schema() -> serde_json::Value {
                // YAML 1.1, which most editors speak, takes the word for false.
                serde_json::json!({ "anyOf": [{ "enum": ["off", false] }, $section::schema()] })
            }

            fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                match node.value {
                    Value::Text(_) => reader.word(node, path, &["off"]).map(|_| Self::Off),
                    Value::Map(_) => $section::from_node(node, path, reader).map(Self::On),
                    _ => reader.refuse_kind(node, path, "off or a mapping", concat!("write off, or ", $example)),
                }
            }

            fn keys(path: &str, out: &mut Vec<Key>) {
                $section::keys(path, out);
            }
        }
    };
}

or_off!(History, HistoryFolder, "{ max_age: 14d }");
or_off!(HistoryPictures, SmallPictures, "{ max_side: 320 }");

/// `off` or `on`, of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptInHistory(pub bool);

section! {
    /// `state`.
    pub struct State {
        /// path, not below `/etc` | `$STATE_DIRECTORY`, which the unit sets (`StateDirectory=`), otherwise `/var/lib/vtagd`
        /// | The state directory, made where it is missing
        "path" => path: String,
    }
}

section! {
    pub struct Api {
        /// address:port, or `off` | `127.0.0.1:8642` | Where health, metrics and the API answer. Other addresses than
        /// loopback need a token, and should have `tls`
        "listen" => listen: String,
        /// credential | - | With one, everything but `/healthz` and `/livez` needs it; without one nothing can be
        /// changed. At least 20 characters: `openssl rand -hex 32`
        "token" => token: SecretSource,
        /// section | plain HTTP | HTTPS, TLS 1.2 and 1.3
        "tls" => tls: Tls,
        /// list of addresses and networks | none | Proxies whose `X-Forwarded-For` tells [who asks](operations.md#the-api),
        /// such as `[127.0.0.1, 10.0.0.0/24, "fd00::/8"]`
        "trusted_proxies" => trusted_proxies: Vec<At<String>>,
    }
}

section! {
    pub struct Tls {
        /// path | required in `tls` | PEM certificate chain, its own certificate first. Read again at every reload
        "cert" => cert: String,
        /// path | required in `tls` | Its private key in PEM
        "key" => key: String,
    }
}

section! {
    pub struct Metrics {
        /// `true`, `false` | `false` | Whether `/metrics` has the margin of each stream, region and label (`vtagd_label_margin`), of
        /// 2000 at most, in the order of this file
        "scores" => scores: bool,
    }
}

section! {
    pub struct Log {
        /// `error`, `warn`, `info`, `debug`, `trace` | `info` | How much is told; a reload changes it
        "level" => level: tracing::Level,
        /// `auto`, `text`, `json`, `journal` | `auto` | Lines for people or for machines on standard error, or [fields
        /// of the journal](operations.md#logs). `auto`: the journal where standard error goes there, text elsewhere
        "format" => format: LogFormat,
    }
}

words! {
    Provider {
        "tensorrt" => Self::Tensorrt,
        "cuda" => Self::Cuda,
        "openvino" => Self::Openvino,
        "cpu" => Self::Cpu,
    }
    Decode {
        "auto" => Self::Auto,
        "keyframes" => Self::Keyframes,
        "all" => Self::All,
    }
    Decoder {
        "auto" => Self::Auto,
        "software" => Self::Software,
        "nvidia" => Self::Nvidia,
        "jetson" => Self::Jetson,
        "vaapi" => Self::Vaapi,
        "v4l2" => Self::V4l2,
    }
    KeptInHistory {
        "on" => Self(true),
        "off" => Self(false),
    }
    Pace {
        "live" => Self::Live,
        "fast" => Self::Fast,
    }
    ViewMode {
        "model" => Self::Model,
        "squash" => Self::Squash,
        "pad" => Self::Pad,
        "tiles" => Self::Tiles,
    }
    tracing::Level {
        "error" => Self::ERROR,
        "warn" => Self::WARN,
        "info" => Self::INFO,
        "debug" => Self::DEBUG,
        "trace" => Self::TRACE,
    }
    LogFormat {
        "auto" => Self::Auto,
        "text" => Self::Text,
        "json" => Self::Json,
        "journal" => Self::Journal,
    }
}
