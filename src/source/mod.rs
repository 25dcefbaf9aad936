//! Source: one GStreamer pipeline per stream, from a template in `pipelines/`, to decoded pictures.
//!
//! ```text
//! source ─► [ parser ─► decoder ] ─► [pace] ─► convert ─► sink
//!         ▲ decodebin                          ▲ entry: wanted?       └► Picture ─► FrameTap::deliver
//!         │                                    └ unwanted frames end here, before any conversion or download
//!         └ gate: to be decoded? size limit: not too large?
//! ```
//!
//! In: [`SourceSettings`]. Out: pictures for a [`FrameTap`], the stream's [`StreamStatus`]. [`Source::run`] blocks the thread
//! that its caller gives it and retries for ever; decoding happens on GStreamer's threads. Full: the tap decides; cameras are
//! never held up. Each retry is counted by [`StreamStatus::reconnecting`].
//! A pipeline that hangs is abandoned and replaced, within bounds ([`run_with_timeout`]). Closed: on shutdown, at the end
//! of a file, or when a file cannot be read, [`Source::run`] returns and lets go of the tap.

pub mod abilities;
mod arrivals;
mod attempt;
mod byte_budget;
mod camera_tls;
mod coded;
mod connect_diagnosis;
mod connection;
mod container_colours;
mod decoders;
mod downloads;
mod error;
mod gate;
mod gif_decoder;
mod gio_types;
mod gop;
mod http_login;
mod live_playlist;
mod media;
mod media_time;
mod messages;
mod multipart;
mod picture;
mod pinned_https;
mod pipeline_stop;
mod pipeline_tap;
pub mod pipeline_template;
mod playlist_sources;
mod polled_stills;
mod pushed_stills;
mod rtp_clock;
mod rtp_continuity;
mod rtp_senders;
mod rtsp_message;
mod rtsp_session;
mod rtsp_socket;
mod run_with_timeout;
mod scrub;
mod sdp;
mod shortage;
mod size_limit;
mod source_settings;
mod stamps;

mod tap_probes;
mod web_proxy;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use camera_tls::CameraTls;
pub use decoders::{DecodedBy, Decoder, decoded_by};
pub use error::{At, Decision, Excess, LIVE_ENDED, SourceError};
pub use source_settings::{Decode, Limits, Location, Pace, PushSettings, Reconnect, SourceSettings, Transport};
pub use web_proxy::go_directly;

use crate::frame::FrameTap;
use crate::frame::pushed_pictures::PushedPictures;
use crate::platform::backoff::Backoff;
use crate::platform::rounding;
use crate::platform::secret::Secret;
use crate::platform::shutdown::Shutdown;
use crate::platform::thread_priority;
use crate::stream::status::{StreamState, StreamStatus};
use attempt::Attempt;
use connection::{Connection, End};
use live_playlist::Liveness;
use multipart::Lengths;
use pipeline_tap::PipelineTap;
use rtsp_session::RtspSession;
use run_with_timeout::AbandonedPipelines;

/// A hardware decoder that has failed a stream is given another try after so long: a driver may have been mended, another
/// program may have given its sessions back.
const HARDWARE_AGAIN: Duration = Duration::from_hours(1);

/// How a source ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The file has been played to its end.
    EndOfFile,
    /// Shutdown was asked for.
    Shutdown,
    /// Trying again cannot help: a file that is not a video, a template that cannot be used.
    Failed(SourceError),
}

/// One stream's source. Make it, then give [`Source::run`] a thread.
pub struct Source {
    settings: SourceSettings,
    feed: Arc<PipelineTap>,
    status: Arc<StreamStatus>,
    shutdown: Shutdown,
    backoff: Backoff,
    abandoned: AbandonedPipelines,
    /// Until then the hardware decoder is not tried again.
    software_until: Option<Instant>,
    /// Its pipeline has been built before: the template is a usable one.
    built: bool,
    /// Its address has turned out to be one for still pictures, which are polled.
    polled: bool,
    /// Its login was refused, and has been tried that way too in this outage: our own requests know logins that GStreamer does not (SHA-256).
    login_polled: bool,
    /// Of its multipart answers.
    lengths: Lengths,
    /// Of its playlist.
    liveness: Arc<Liveness>,
    /// It has turned out to send over UDP alone; and whether the log knows.
    over_udp: bool,
    udp_told: bool,
    /// Where pictures that others send are handed over.
    pushed: Arc<PushedPictures>,
    /// Of the last connection.
    session: Arc<RtspSession>,
}

impl Source {
    /// A source that hands its frames to `tap`. Nothing is opened yet.
    pub fn new(
        settings: SourceSettings,
        tap: Arc<dyn FrameTap>,
        status: Arc<StreamStatus>,
        shutdown: Shutdown,
    ) -> Self {
        // A seed of its own for every stream and process: nobody comes back in step with anybody.
        let seed = RandomState::new().hash_one(&settings.id);
        // A file that is played for exact samples is decoded whole: there is no rush, and every grid point has its frame.
        let decode = match (settings.decode, settings.pace) {
            (Decode::Auto, Pace::Fast) => Decode::All,
            (decode, _) => decode,
        };
        let feed = Arc::new(PipelineTap::new(tap, Arc::clone(&status), decode));
        if settings.pace == Pace::Live {
            feed.live();
            if !matches!(settings.location, Location::File(_)) {
                feed.by_arrival();
            }
        }
        let backoff = Backoff::new(settings.reconnect.ladder.clone(), seed);
        Self {
            settings,
            feed,
            status,
            shutdown,
            backoff,
            abandoned: AbandonedPipelines::default(),
            software_until: None,
            built: false,
            polled: false,
            login_polled: false,
            lengths: Lengths::default(),
            liveness: Arc::default(),
            over_udp: false,
            udp_told: false,
            pushed: Arc::default(),
            session: Arc::default(),
        }
    }

    /// Takes the pictures that others send from `pushed`.
    #[must_use]
    pub fn taking(self, pushed: Arc<PushedPictures>) -> Self {
        Self { pushed, ..self }
    }

    /// Plays until the file ends, shutdown is asked for, or trying again cannot help. Cameras that fail are retried for ever.
    pub fn run(mut self) -> Ended {
        thread_priority::lower_priority();
        let ended = self.retry();
        self.feed.close();
        match &ended {
            Ended::EndOfFile => {
                self.status.set(StreamState::Ended);
                tracing::info!(stream = %self.settings.id, "the file has ended");
            }
            Ended::Failed(error) => {
                self.status.set(StreamState::Failed { error: error.to_string() });
                tracing::error!(stream = %self.settings.id, %error, "the source cannot be used");
            }
            Ended::Shutdown => tracing::debug!(stream = %self.settings.id, "the source has stopped"),
        }
        ended
    }

    /// Whether a hardware decoder has failed lately.
    fn avoids_hardware(&self, now: Instant) -> bool {
        self.software_until.is_some_and(|until| now < until)
    }

    /// What to connect with: the settings, less a hardware decoder that has failed lately.
    fn attempt(&self, now: Instant) -> SourceSettings {
        let mut settings = self.settings.clone();
        if self.avoids_hardware(now) {
            settings.decoder = Decoder::Software;
        }
        if settings.transport == Transport::Auto && self.over_udp {
            settings.transport = Transport::Udp;
        }
        settings
    }

    /// Whether the camera has refused to send over TCP, so that it is asked over UDP at once. One that gives nothing that way is asked over TCP again.
    fn turns_to_udp(&mut self) -> bool {
        if self.settings.transport != Transport::Auto {
            return false;
        }
        if self.over_udp {
            self.over_udp = self.feed.progress().first.is_some();
            return false;
        }
        self.over_udp = self.session.refused_tcp();
        if self.over_udp && !std::mem::replace(&mut self.udp_told, true) {
            tracing::info!(stream = %self.settings.id, "the camera refuses to send over TCP (461), taking it over UDP");
        }
        self.over_udp
    }

    /// Whether the hardware decoder is to blame for `error`. From then on, for a while, this stream is decoded in software.
    fn blames_hardware(&mut self, error: &SourceError, now: Instant) -> bool {
        // Where software is asked for already, and in a pipeline of a user's own, the next attempt would be as this one.
        let is_software = self.settings.decoder == Decoder::Software || self.avoids_hardware(now);
        if is_software || matches!(self.settings.location, Location::Template(_)) {
            return false;
        }
        let Some(decoder) = self.feed.failed_hardware(error) else { return false };
        tracing::warn!(stream = %self.settings.id, decoder, %error, "the hardware decoder failed, decoding in software");
        self.software_until = now.checked_add(HARDWARE_AGAIN);
        true
    }

    /// Whether `error` says that there are still pictures at this address, which are asked for one by one from now on, or that they may be; or, while that is done,
    /// that it is tried as a stream once more.
    fn turns_to_polling(&mut self, error: &SourceError) -> bool {
        let web = matches!(self.settings.location, Location::Http(_));
        match error {
            SourceError::SinglePicture { .. } if web && !self.polled => {
                self.polled = true;
                tracing::info!(stream = %self.settings.id, "a still picture is at its address, polling it");
                true
            }
            // At once, but once; from then on each slow attempt goes the other way.
            SourceError::Credentials { .. }
                if web && !self.polled && scrub::credentials(&self.settings).0.is_some() =>
            {
                self.polled = true;
                !std::mem::replace(&mut self.login_polled, true)
            }
            _ if self.polled && self.login_polled && self.feed.progress().first.is_none() => {
                self.polled = false;
                false
            }
            SourceError::Ended { .. } if self.polled => {
                self.polled = false;
                false
            }
            _ => false,
        }
    }

    /// Whether `error` says that parts of a multipart answer are not as long as they say, for the first time.
    fn turns_from_lengths(&mut self, error: &SourceError) -> bool {
        let is_wrong = matches!(error, SourceError::NotVideo { detail, .. } if detail.contains(multipart::NO_BOUNDARY));
        if !is_wrong || !matches!(self.settings.location, Location::Http(_)) || self.lengths == Lengths::Ignored {
            return false;
        }
        self.lengths = Lengths::Ignored;
        tracing::info!(stream = %self.settings.id, "its pictures are not as long as it says, finding them by their own marks");
        true
    }

    fn retry(&mut self) -> Ended {
        let mut told = String::new();
        loop {
            if self.shutdown.is_requested() {
                return Ended::Shutdown;
            }
            self.look_up_password();
            let before = self.feed.connection();
            let error = match self.connect_once() {
                Ok(End::Played) => return Ended::EndOfFile,
                Ok(End::Shutdown) => return Ended::Shutdown,
                Ok(End::Again) => continue,
                Err(error) => {
                    let SourceSettings { location, tls, .. } = &self.settings;
                    connect_diagnosis::explain(error, location, tls, &self.shutdown)
                }
            };
            if self.turns_to_polling(&error) || self.turns_from_lengths(&error) || self.turns_to_udp() {
                continue;
            }
            // Software cannot be blamed: this happens once in a while, not in a circle.
            if self.blames_hardware(&error, Instant::now()) {
                self.status.reconnecting();
                continue;
            }
            // What failed before it was a connection has no part in what came by the one before.
            let flowed = self.feed.progress().flowed().filter(|_| self.feed.connection() != before);
            if flowed.is_some() {
                told.clear();
                self.login_polled = false;
            }
            let location = &self.settings.location;
            let attempt = Attempt { location, error: &error, flowed, session: self.session.timeout() };
            attempt.went(&mut self.backoff);
            let hanging = self.abandoned.count();
            let wait = match error.decision(&self.settings.location) {
                // A template that has worked and cannot be used now may be about to be replaced.
                Decision::GiveUp if self.built && matches!(error, SourceError::Template { .. }) => {
                    self.backoff.slow_wait()
                }
                Decision::GiveUp => return Ended::Failed(error),
                Decision::Retry if hanging >= AbandonedPipelines::MANY => {
                    tracing::warn!(stream = %self.settings.id, hanging, "its pipelines hang, trying again seldom");
                    self.backoff.slow_wait()
                }
                Decision::Retry => {
                    let first = self.settings.reconnect.ladder.steps.first().copied().unwrap_or_default();
                    attempt.next_wait(&mut self.backoff, first)
                }
                Decision::RetrySlowly => self.backoff.slow_wait(),
            };
            let text = error.to_string();
            self.status.set(StreamState::Down { error: text.clone() });
            // A camera that is away for a week says so once.
            let shown = rounding::duration(wait);
            let text = match error {
                // Refused by one way of asking and by the other, it is the same trouble.
                SourceError::Credentials { .. } => "credentials".to_owned(),
                _ => text,
            };
            if told == text {
                tracing::debug!(stream = %self.settings.id, %error, wait = ?shown, "still down");
            } else {
                tracing::warn!(stream = %self.settings.id, %error, wait = ?shown, "the stream is down, trying again later");
                told = text;
            }
            let stopped = match error {
                SourceError::Credentials { .. } => self.wait_for_password(wait),
                _ => Backoff::wait(wait, &self.shutdown),
            };
            if stopped {
                return Ended::Shutdown;
            }
            self.status.reconnecting();
        }
    }

    fn connect_once(&mut self) -> Result<End, SourceError> {
        let count = self.abandoned.count();
        if count >= AbandonedPipelines::MOST {
            let place = scrub::place(&self.settings);
            let at = At { stream: self.settings.id.to_string(), place, element: String::new() };
            return Err(SourceError::Hanging { at, count });
        }
        let settings = self.attempt(Instant::now());
        if matches!(settings.location, Location::Push(_)) {
            return Ok(pushed_stills::run(&settings, &self.feed, &self.pushed, &self.status, &self.shutdown));
        }
        if self.polled {
            return polled_stills::run(&settings, &self.feed, &self.shutdown);
        }
        self.session = Arc::new(self.session.next(&settings));
        let connection = Connection {
            settings: &settings,
            feed: &self.feed,
            shutdown: &self.shutdown,
            session: Arc::clone(&self.session),
            lengths: self.lengths,
            liveness: &self.liveness,
        };
        let result = connection.run(&mut self.abandoned);
        self.built |= !matches!(result, Err(SourceError::Template { .. }));
        result
    }

    /// The password as its file has it now. A file that cannot be read, perhaps because it is just being written, changes nothing.
    fn look_up_password(&mut self) -> bool {
        let Some(file) = &self.settings.password_file else { return false };
        match Secret::read(file) {
            Ok(password) => {
                let changed = self.settings.password.replace(password.clone()) != Some(password);
                if changed && std::mem::take(&mut self.login_polled) {
                    // Neither way has been tried with this one.
                    self.polled = false;
                }
                changed
            }
            Err(error) => {
                tracing::debug!(stream = %self.settings.id, file = %file.display(), %error, "the password stays as it was");
                false
            }
        }
    }

    /// Waits like [`Backoff::wait`] after a refused password, but no longer than until another one is in its file: that one has
    /// not been refused.
    fn wait_for_password(&mut self, wait: Duration) -> bool {
        if self.settings.password_file.is_none() {
            return Backoff::wait(wait, &self.shutdown);
        }
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.shutdown.sleep(left.min(PASSWORD_POLL_INTERVAL)) {
                return true;
            }
            if left.is_zero() || self.look_up_password() {
                return false;
            }
        }
    }
}

/// How often a refused password's file is looked at.
const PASSWORD_POLL_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
