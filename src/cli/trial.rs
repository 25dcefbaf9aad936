//! `vtagd check --probe`: connects to each stream for a short while and tells what `run` would get from it.
//!
//! In: checked settings. Out: one [`Finding`] a stream, in the order of the configuration. The daemon's own [`Source`] does it, with a
//! tap that counts pictures instead of looking at them: what connects and decodes here does so there. [`AT_ONCE`] streams at a time,
//! each on threads `trial-<n>` and `src-<id>`. A stream is left once its picture and its keyframe interval are known, once its source
//! names an error, or when its time is up; a source that does not stop then is left behind, for the process ends soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select, tick};
use parking_lot::Mutex;
use serde::Serialize;

use super::{plain, screen};
use crate::config::{self, Settings, StreamSettings};
use crate::frame::{FrameTap, FrameTime, Picture};
use crate::platform::rounding;
use crate::platform::secret::Secret;
use crate::platform::shutdown::Shutdown;
use crate::sample::Schedule;
use crate::source::{self, Location, Source};
use crate::stream::status::{StreamReport, StreamState, StreamStatus};

/// Streams that are connected to at the same time: each decodes its first pictures.
const AT_ONCE: usize = 16;
/// How often a stream's status is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Beyond its time, for the source to find out why there was nothing, and to stop.
const GRACE: Duration = Duration::from_secs(8);
/// Why a stream is not known after Ctrl-C.
const STOPPED: &str = "stopped before it was tried to the end";

/// Why a stream is not known whose password only the service has.
pub(super) const NO_PASSWORD: &str = "not tried: its password is not here";

/// What one stream is like. Stable; fields may be added.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Finding {
    pub id: String,
    /// `false`: switched off, so nobody connected to it and nothing below is known.
    pub enabled: bool,
    /// A picture came.
    pub reachable: bool,
    /// Why none came.
    pub error: Option<String>,
    /// Such as `h264`; nothing for pictures that are not coded.
    pub codec: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// Frames a second, as the stream has them.
    pub frame_rate: Option<f64>,
    /// Seconds.
    pub keyframe_interval: Option<f64>,
    /// The GStreamer element that decodes.
    pub decoder: Option<String>,
    /// The family of hardware that it belongs to, as in `sampling.decoder`.
    pub hardware: Option<&'static str>,
    /// Why it is not hardware.
    pub why_software: Option<String>,
    /// `keyframes` or `all`: what is decoded for a sample every `interval`.
    pub decode: Option<&'static str>,
    /// Seconds.
    pub interval: f64,
    /// Still pictures, which are polled.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub polled: bool,
    /// What `run` could not do with what it sends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Connects to every stream that is switched on, each for `time` at most.
pub fn streams(settings: &Settings, time: Duration, shutdown: &Shutdown) -> Vec<Finding> {
    let streams = &settings.streams;
    let findings = Mutex::new(vec![None; streams.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((at, stream)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            streams.get(at).map(|stream| (at, stream))
        } {
            let finding = match stream.enabled {
                false => blank(stream),
                true if matches!(stream.source.location, Location::Push(_)) => waiting(stream),
                true if shutdown.is_requested() => failed(stream, STOPPED),
                // A camera that is asked with a wrong password may lock the account.
                true if stream.source.password.as_ref().is_some_and(Secret::is_absent) => failed(stream, NO_PASSWORD),
                true => one(settings, stream, time, shutdown),
            };
            findings.lock()[at] = Some(finding);
        }
    };
    std::thread::scope(|scope| {
        for number in 0..AT_ONCE.min(streams.len()) {
            if let Err(error) = Builder::new().name(format!("trial-{number}")).spawn_scoped(scope, work) {
                tracing::warn!(%error, "a thread less to try streams with");
            }
        }
    });
    let findings = findings.into_inner();
    let missed = |stream| failed(stream, "it was not tried: the system gives no thread");
    findings.into_iter().zip(streams).map(|(finding, stream)| finding.unwrap_or_else(|| missed(stream))).collect()
}

fn blank(stream: &StreamSettings) -> Finding {
    let (id, interval) = (stream.source.id.to_string(), stream.interval.at_start().as_secs_f64());
    Finding { id, enabled: stream.enabled, interval, ..Finding::default() }
}

/// There is nothing to connect to.
fn waiting(stream: &StreamSettings) -> Finding {
    let route = format!("pictures are sent to it: POST /api/v1/streams/{}/frames", stream.source.id);
    Finding { reachable: true, warnings: vec![route], ..blank(stream) }
}

fn failed(stream: &StreamSettings, error: &str) -> Finding {
    Finding { error: Some(error.to_owned()), ..blank(stream) }
}

fn one(settings: &Settings, stream: &StreamSettings, time: Duration, shutdown: &Shutdown) -> Finding {
    let id = Arc::clone(&stream.source.id);
    let tap = Arc::new(Tap::new(stream.interval.at_start()));
    let status = Arc::new(StreamStatus::new(Arc::clone(&id)));
    let (trigger, until) = shutdown.child();
    let source = Source::new(stream.source.of_one_attempt(time), Arc::clone(&tap) as _, Arc::clone(&status), until);
    let (told, ended) = bounded::<()>(1);
    let thread = Builder::new().name(format!("src-{id}")).spawn(move || {
        // Dropped at the end, also of a panic.
        let _told = told;
        source.run()
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => return failed(stream, &format!("the system gives no thread to try it: {error}")),
    };
    let (started, look) = (Instant::now(), tick(POLL_INTERVAL));
    let (report, picture) = loop {
        let over = select! {
            recv(shutdown.receiver()) -> _ => true,
            recv(ended) -> _ => true,
            recv(look) -> _ => false,
        };
        // Before the report: what is in it by then was there when the picture was.
        let picture = tap.has_picture();
        let report = status.report(Instant::now());
        let waited = started.elapsed();
        if over || is_settled(&report, picture) || waited >= if picture { time } else { time + GRACE } {
            break (report, picture);
        }
    };
    trigger.trigger();
    if ended.recv_timeout(GRACE).is_err_and(|error| error.is_timeout()) {
        tracing::warn!(stream = %id, "its source does not stop; left behind");
    } else if thread.join().is_err() {
        return failed(stream, "its source has panicked; please report this");
    }
    let mut finding = finding(stream, &report, picture, time);
    finding.warnings.extend(rare_keyframes(&finding, settings, stream));
    if shutdown.is_requested() && !finding.reachable {
        return failed(stream, STOPPED);
    }
    finding
}

/// Whether nothing more is to be learned.
fn is_settled(report: &StreamReport, picture: bool) -> bool {
    match report.state {
        StreamState::Down { .. } | StreamState::Failed { .. } | StreamState::Ended | StreamState::Disabled => true,
        // What is not coded has no keyframes to wait for.
        StreamState::Up => picture && (report.keyframe_interval.is_some() || report.codec.is_none() || report.polled),
        StreamState::Connecting => false,
    }
}

fn finding(stream: &StreamSettings, report: &StreamReport, picture: bool, time: Duration) -> Finding {
    if !picture {
        let error = match &report.state {
            StreamState::Down { error } | StreamState::Failed { error } => plain(error),
            StreamState::Ended => "it has ended without a picture".to_owned(),
            _ => format!("no picture within {:?}", rounding::duration(time)),
        };
        return Finding { codec: report.codec.clone(), ..failed(stream, &error) };
    }
    let decoded = report.decoder.as_deref().map(|decoder| source::decoded_by(stream.source.decoder, decoder));
    let (hardware, why_software) = decoded.map_or((None, None), |decoded| (decoded.hardware, decoded.why_software));
    Finding {
        reachable: true,
        codec: report.codec.clone(),
        width: report.size.map(|(width, _)| width),
        height: report.size.map(|(_, height)| height),
        frame_rate: report.frame_rate,
        keyframe_interval: report.keyframe_interval,
        decoder: report.decoder.clone(),
        hardware,
        why_software,
        decode: report.decode,
        polled: report.polled,
        ..blank(stream)
    }
}

/// What `after` of a label cannot mean where the stream has keyframes alone to be looked at, and too few.
fn rare_keyframes(finding: &Finding, settings: &Settings, stream: &StreamSettings) -> Option<String> {
    let apart =
        finding.keyframe_interval.filter(|apart| finding.decode == Some("keyframes") && *apart > finding.interval)?;
    let labels = stream.label_sets.iter().filter_map(|set| settings.label_sets.get(*set)).flat_map(|set| &set.labels);
    let afters = labels.map(|label| (config::thresholds(label, &settings.events).after, &label.name));
    // What is shorter than the interval has been told with the configuration.
    let met = |after: f64| after == 0.0 || after < finding.interval || apart <= after * 1.25;
    let (after, label) = afters.filter(|(after, _)| !met(after.as_secs_f64())).min()?;
    Some(format!(
        "a keyframe every {apart:.1} s is longer than `after` of `{label}` ({after:?}): what shows in one of them starts no tag; shorten the \
         keyframe interval in the camera, or set `decode: auto`"
    ))
}

/// Counts pictures where the daemon would look at them.
struct Tap {
    interval: Duration,
    schedule: Mutex<Schedule>,
    picture: AtomicBool,
}

impl Tap {
    fn new(interval: Duration) -> Self {
        Self { interval, schedule: Mutex::new(Schedule::new(interval)), picture: AtomicBool::new(false) }
    }

    fn has_picture(&self) -> bool {
        self.picture.load(Ordering::Acquire)
    }
}

impl FrameTap for Tap {
    fn interval(&self) -> Duration {
        self.interval
    }

    fn is_sampled(&self, media: Duration) -> bool {
        self.schedule.lock().is_sampled(media)
    }

    fn deliver(&self, _: FrameTime, _: Picture) {
        self.picture.store(true, Ordering::Release);
    }
}

/// The findings as a table, then what is wrong, a line a stream.
pub fn table(findings: &[Finding]) -> String {
    let head = ["stream", "codec", "size", "frames/s", "keyframes", "decoder", "decodes"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(findings.iter().map(row));
    let mut lines = vec![screen::table(&rows)];
    lines.extend(findings.iter().filter_map(|f| Some(format!("{}: not reachable: {}", f.id, f.error.as_ref()?))));
    lines.extend(
        findings.iter().filter_map(|f| Some(format!("{}: decoded in software: {}", f.id, f.why_software.as_ref()?))),
    );
    let warnings = findings.iter().flat_map(|f| f.warnings.iter().map(move |warning| format!("{}: {warning}", f.id)));
    lines.extend(warnings);
    lines.join("\n")
}

fn row(finding: &Finding) -> [String; 7] {
    let nothing = || "-".to_owned();
    let state = if !finding.enabled {
        "switched off".to_owned()
    } else if !finding.reachable {
        "not reachable".to_owned()
    } else {
        match (finding.decoder.as_deref(), finding.hardware) {
            (Some(element), Some(hardware)) => format!("{hardware} {element}"),
            (Some(element), None) => format!("software {element}"),
            (None, _) => "none, not coded".to_owned(),
        }
    };
    let interval = finding.interval;
    let decodes = match finding.decode {
        _ if finding.polled => format!("still pictures, polled every {interval} s"),
        Some("keyframes") => format!("keyframes only, for a sample every {interval} s"),
        Some(_) => format!("every frame, for a sample every {interval} s"),
        None => nothing(),
    };
    let keyframes = match finding.keyframe_interval {
        Some(seconds) => format!("every {seconds:.2} s"),
        None if finding.reachable && finding.codec.is_some() => "not seen".to_owned(),
        None => nothing(),
    };
    [
        finding.id.clone(),
        finding.codec.clone().unwrap_or_else(nothing),
        finding.width.zip(finding.height).map_or_else(nothing, |(width, height)| format!("{width}x{height}")),
        finding.frame_rate.map_or_else(nothing, |rate| format!("{rate:.1}")),
        keyframes,
        state,
        decodes,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up_and_says_below_it_what_is_wrong() {
        let good = Finding {
            id: "gate".into(),
            enabled: true,
            reachable: true,
            codec: Some("h264".into()),
            width: Some(1920),
            height: Some(1080),
            frame_rate: Some(25.0),
            keyframe_interval: Some(2.0),
            decoder: Some("avdec_h264".into()),
            why_software: Some("asked for".into()),
            decode: Some("all"),
            interval: 1.0,
            ..Finding::default()
        };
        let bad = Finding { id: "dock-3".into(), enabled: true, error: Some("no way".into()), ..Finding::default() };
        let off = Finding { id: "x".into(), ..Finding::default() };
        let table = table(&[good, bad, off]);
        let lines: Vec<&str> = table.lines().collect();
        let [head, gate, dock, x, why, software] = lines[..] else { panic!("{table}") };
        assert_eq!(head, "stream  codec  size       frames/s  keyframes     decoder              decodes");
        assert_eq!(
            gate,
            "gate    h264   1920x1080  25.0      every 2.00 s  software avdec_h264  every frame, for a sample every 1 s"
        );
        assert_eq!(dock, "dock-3  -      -          -         -             not reachable        -");
        assert!(x.contains("switched off"));
        assert_eq!((why, software), ("dock-3: not reachable: no way", "gate: decoded in software: asked for"));
    }

    #[test]
    fn a_camera_has_no_say_about_the_terminal() {
        assert_eq!(plain("a\u{1b}[2J\nb\u{9b}c"), "a [2J b c");
    }
}
