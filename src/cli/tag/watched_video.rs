//! Watches one video to its end, or for as long as is wanted, on the daemon's own way of a frame, and says what is seen.
//!
//! In: a stream, the engine. Out: lines, and in the end summary and plot of a rehearsal; the exit code. The caller's thread waits; frames
//! go through the pipeline's threads. A file is read as fast as its samples are inferred; of a camera the newest frame wins.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{select, tick};
use parking_lot::Mutex;

use super::super::{complain, plain};
use super::clip_scores::ScoreCollector;
use super::rehearsal::Rehearsal;
use super::score_lines::{Printer, print_json};
use super::{Args, SharedEncoder, plot, remark};
use crate::config::{Settings, StreamSettings};
use crate::daemon::engine::{self, Engine};
use crate::daemon::running_streams;
use crate::event::EndReason;
use crate::event::cloud_event::seconds;
use crate::frame::{FrameTime, Picture};
use crate::pipeline::intake::{Member, StreamPart};
use crate::pipeline::{self, Stages};
use crate::platform::shutdown::Shutdown;
use crate::score::LabelScore;
use crate::score::score_routes::ScoreRoute;
use crate::source::{Ended, LIVE_ENDED, Location};
use crate::stream::registry::RegisteredStream;
use crate::stream::status::StreamState;

/// How often it is looked whether a video has had its time.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What all videos share.
pub(super) struct Watch<'a> {
    pub engine: &'a Engine,
    pub encoder: &'a SharedEncoder,
    pub printer: &'a Printer,
    pub settings: &'a Settings,
    pub args: &'a Args,
    pub shutdown: &'a Shutdown,
    /// Who takes the scores instead of printing them.
    pub collector: Option<Arc<Mutex<ScoreCollector>>>,
}

/// What the scoring thread has seen.
#[derive(Default)]
struct Seen {
    frames: AtomicU64,
    /// A frame beyond the time that was wanted.
    is_over: AtomicBool,
}

/// Why it was not watched any longer.
enum Stop {
    /// By itself; `None`: its source has panicked.
    Ended(Option<Ended>),
    /// It has had its time, or somebody has pressed Ctrl-C.
    Enough,
    /// It cannot be connected to.
    Away(String),
}

impl Watch<'_> {
    /// Watches `stream`, which is called `name`; `plot`: where its picture goes. The exit code.
    pub fn video(&self, name: &str, stream: StreamSettings, plot: Option<&Path>) -> u8 {
        let is_file = matches!(stream.source.location, Location::File(_));
        // A daemon waits until it goes on; whoever tags one has seen all of it.
        let is_playlist = matches!(&stream.source.location, Location::Http(url) if url.path().ends_with(".m3u8"));
        let rehearsal = self.args.is_rehearsal().then(|| Arc::new(Mutex::new(self.rehearsal(&stream))));
        let seen = Arc::new(Seen::default());
        let route = self.route(name, rehearsal.as_ref(), &seen);
        let stages = Stages {
            spec: Arc::clone(&self.engine.spec),
            encoders: vec![Box::new(self.encoder.clone())],
            runs: Arc::default(),
            max_size: self.args.batch.size(),
            max_delay: Duration::from_millis(50),
            threads: engine::preprocessing_threads(None),
        };
        let StreamSettings { source, interval, unchanged, views, .. } = stream;
        let record = RegisteredStream::new(&source.id, Vec::new());
        let part = StreamPart { record, source, interval, unchanged, views, route };
        let started = pipeline::start(stages, self.shutdown)
            .and_then(|(mut intake, threads)| intake.join(part).map(|member| (member, threads)));
        let (member, mut threads) = match started {
            Ok(started) => started,
            Err(error) => {
                complain(&format!("{name}: {error}"));
                return 1;
            }
        };
        let stop = self.wait(&member, is_file, is_playlist, &seen);
        member.stop();
        let accounting = Arc::clone(&member.accounting);
        threads.push(member.into_thread());
        let panicked = threads.into_iter().map(|(_, t)| t.join()).filter(Result::is_err).count() > 0;
        let totals = accounting.totals();
        let lost = totals.sampled.saturating_sub(totals.inferred + totals.reused);
        let reason = match stop {
            // A short file may have been read to its end before it was seen that it has had its time.
            Stop::Ended(Some(Ended::EndOfFile)) if !seen.is_over.load(Ordering::Relaxed) => EndReason::StreamEnded,
            _ => EndReason::Shutdown,
        };
        let code = match stop {
            _ if panicked => self.panicked(name),
            Stop::Ended(Some(Ended::EndOfFile)) if lost > 0 => {
                complain(&format!("{name}: {lost} of {} sampled frames could not be tagged", totals.sampled));
                1
            }
            Stop::Ended(Some(Ended::EndOfFile)) => 0,
            Stop::Ended(Some(Ended::Failed(error))) => {
                complain(&format!("{name}: {error}"));
                2
            }
            Stop::Ended(Some(Ended::Shutdown)) | Stop::Enough => u8::from(is_file && self.shutdown.is_requested()),
            Stop::Away(error) => {
                // It names the stream itself.
                complain(&plain(&error));
                1
            }
            Stop::Ended(None) => self.panicked(name),
        };
        match rehearsal {
            Some(rehearsal) => code.max(self.conclude(name, &mut rehearsal.lock(), reason, plot)),
            None => code,
        }
    }

    fn panicked(&self, name: &str) -> u8 {
        complain(&format!("{name}: a stage panicked; please report this"));
        1
    }

    fn rehearsal(&self, stream: &StreamSettings) -> Rehearsal {
        let sets = running_streams::rules(self.settings, stream, &self.engine.model.fingerprint);
        let (id, model, gap) = (&stream.source.id, self.engine.model.clone(), running_streams::gap(stream));
        Rehearsal::new(&self.settings.instance, id, model, sets, gap, self.args.plot.is_some())
    }

    /// Who hears of the scores.
    fn route(&self, name: &str, rehearsal: Option<&Arc<Mutex<Rehearsal>>>, seen: &Arc<Seen>) -> ScoreRoute {
        let (printer, name, seen, rehearsal) =
            (self.printer.clone(), name.to_owned(), Arc::clone(seen), rehearsal.cloned());
        let (events, limit, collector) = (self.args.events, self.limit(), self.collector.clone());
        let handler = Box::new(move |time: FrameTime, _: Option<&Arc<Picture>>, scores: &[Vec<LabelScore>]| {
            if limit.is_some_and(|limit| time.media >= limit) {
                seen.is_over.store(true, Ordering::Relaxed);
                return;
            }
            seen.frames.fetch_add(1, Ordering::Relaxed);
            if let Some(collector) = &collector {
                return collector.lock().note(time, scores);
            }
            if !events {
                printer.print(&name, Some(seconds(time.media)), scores);
            }
            let told = rehearsal.as_ref().map(|rehearsal| rehearsal.lock().sample(time, scores)).unwrap_or_default();
            if events {
                told.iter().for_each(|told| printer.print_event(&name, told));
            }
        });
        ScoreRoute { scorers: self.engine.scorers.clone(), skipped: Vec::new(), handler, embeddings: None }
    }

    fn limit(&self) -> Option<Duration> {
        self.args.seconds.map(|seconds| Duration::from_secs(u64::from(seconds)))
    }

    /// Waits until there is nothing more to wait for.
    fn wait(&self, member: &Member, is_file: bool, is_playlist: bool, seen: &Seen) -> Stop {
        let look = tick(POLL_INTERVAL);
        // A camera may fall silent: its time counts from its first picture, whatever comes after it.
        let mut first: Option<Instant> = None;
        loop {
            select! {
                recv(self.shutdown.receiver()) -> _ => return Stop::Enough,
                recv(look) -> _ => {}
            }
            if let Some(how) = member.ended() {
                return Stop::Ended(how);
            }
            let now = Instant::now();
            let has_frames = seen.frames.load(Ordering::Relaxed) > 0;
            if has_frames {
                first.get_or_insert(now);
            }
            let timed_out =
                !is_file && first.zip(self.limit()).is_some_and(|(first, limit)| now.duration_since(first) >= limit);
            if seen.is_over.load(Ordering::Relaxed) || timed_out {
                return Stop::Enough;
            }
            if let StreamState::Down { error } = member.status.report(now).state {
                if has_frames && is_playlist && error.contains(LIVE_ENDED) {
                    return Stop::Ended(Some(Ended::EndOfFile));
                }
                // Any other that has been seen is waited for, as a daemon would.
                if !has_frames {
                    return Stop::Away(error);
                }
            }
        }
    }

    /// The video is over: its last events, its summary, its plot.
    fn conclude(&self, name: &str, rehearsal: &mut Rehearsal, reason: EndReason, plot: Option<&Path>) -> u8 {
        let told = rehearsal.close(reason);
        if self.args.events {
            told.iter().for_each(|told| self.printer.print_event(name, told));
        }
        let summary = rehearsal.summary();
        if self.args.events && self.args.json {
            print_json(name, &serde_json::json!({ "file": name, "summary": summary }));
        } else {
            remark(&format!("{name}: {}", summary.text()));
        }
        let Some(place) = plot else { return 0 };
        if summary.samples == 0 {
            complain(&format!("{name}: no frame was seen, so there is no plot"));
            return 1;
        }
        let drawn = plot::svg(name, rehearsal, &self.args.drawn);
        match drawn.and_then(|svg| std::fs::write(place, svg).map_err(|error| error.to_string())) {
            Ok(()) => 0,
            Err(error) => {
                complain(&format!("{}: the plot cannot be written ({error})", place.display()));
                1
            }
        }
    }
}
