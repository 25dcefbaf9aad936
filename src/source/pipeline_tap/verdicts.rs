//! What becomes of coded frames before the decoder, as the [`Chooser`](super::super::gop::Chooser) says, and what of that is counted and told.
//!
//! In: each coded frame, from the gate. Out: a verdict, to the gate; progress, status and the log. On the streaming thread. Full: the gate holds back no more than the chooser
//! allows. Closed: frames are dropped.

use std::time::{Duration, Instant};

use gstreamer as gst;

use super::super::coded;
use super::super::gop::{Mode, News, Verdict};
use super::{CodedFrame, LOST, PipelineTap, ROUNDING, State};
use crate::frame::FrameTap;
use crate::platform::rounding;
use crate::stream::status::Decoding;

impl State {
    /// Keeps an account of frames that have been counted before the decoder and come out of it all the same.
    fn note(&mut self, verdict: Verdict, counted: bool) {
        match verdict {
            Verdict::Hold => self.held += 1,
            Verdict::Ask { hold } => self.held = u64::from(hold),
            Verdict::Release | Verdict::Decode => {
                let held = std::mem::take(&mut self.held);
                self.counted += u64::from(counted) + if verdict == Verdict::Release { held } else { 0 };
            }
            Verdict::Forget => self.held = 0,
            Verdict::Drop => {}
        }
    }
}

impl PipelineTap {
    /// What is to be done with a coded frame; for [`Verdict::Ask`], [`PipelineTap::is_coded_sampled`] tells more. `caps` tells what it is coded in,
    /// if somebody wants to know.
    pub fn verdict(&self, connection: u64, frame: CodedFrame, caps: impl FnOnce() -> Option<gst::Caps>) -> Verdict {
        let Some(tap) = self.tap() else { return Verdict::Drop };
        let (now, interval) = (Instant::now(), tap.interval());
        let until_due = self.until_due(connection, frame, interval, now, &*tap);
        let judged = self.with(|state| {
            if state.connection != connection {
                return None;
            }
            state.gated = true;
            if !frame.kind.is_key() {
                state.media.passed(frame.at);
            }
            state.progress.coded += 1;
            if frame.after_loss {
                state.chooser.packets_lost();
            }
            let before = state.chooser.mode();
            let (verdict, news) = state.chooser.frame(frame.camera, frame.kind, frame.size, interval, until_due);
            let mode = state.chooser.mode();
            // Where every frame is decoded, they are counted and time is told behind the decoder.
            let alone = before == Mode::Keyframes || mode == Mode::Keyframes;
            // What is held may never get there.
            let counted = alone || verdict == Verdict::Hold;
            if counted && (!alone || state.lost < LOST) {
                state.progress.last = Some(now);
            }
            if alone || verdict != Verdict::Hold {
                state.owed = state.owed.saturating_add(1);
            }
            if before == Mode::All && mode == Mode::Keyframes {
                state.counted = 0;
            }
            state.note(verdict, counted);
            // Nothing that it refers to has come.
            let lost = before == Mode::All && mode == Mode::All && verdict == Verdict::Drop;
            let worth_telling = frame.kind.is_key() || before != mode || news.is_some();
            let decoding = worth_telling.then(|| Decoding {
                mode: Some(mode.name()),
                keyframe_interval: state.chooser.keyframe_interval(),
                frame_rate: state.chooser.frame_rate(),
            });
            Some((verdict, news, decoding, counted, lost))
        });
        let Some((verdict, news, decoding, counted, lost)) = judged else { return Verdict::Drop };
        if lost {
            self.status.frame_lost();
        }
        if counted {
            self.status.frame_seen(now);
        }
        if let Some(decoding) = decoding {
            self.status.decoding(decoding);
            if let Some(codec) = caps().and_then(|caps| coded::name(&caps)) {
                self.status.codec(&codec);
            }
        }
        if let Some(news) = news {
            self.tell(news, interval);
        }
        verdict
    }

    /// How long after a coded frame the next one is due; zero where that is not to be known: then it may be this one.
    fn until_due(
        &self,
        connection: u64,
        frame: CodedFrame,
        interval: Duration,
        now: Instant,
        tap: &dyn FrameTap,
    ) -> Duration {
        let media = self.with(|state| {
            // By its own stamp alone: the decoder tells the same one.
            let known = state.connection == connection
                && frame.pts.is_some()
                && state.chooser.looks_ahead(interval)
                && !state.stamps.0.is_by_arrival()
                && !state.stamps.1.is_by_arrival();
            known.then(|| state.media.expected(frame.at, now)).flatten()
        });
        media.map_or(Duration::ZERO, |media| tap.until_wanted(media).saturating_sub(ROUNDING.into()))
    }

    fn tell(&self, news: News, interval: Duration) {
        let stream = self.status.id();
        let keyframes = self.with(|state| state.chooser.keyframe_interval()).map(rounding::duration);
        let interval = rounding::duration(interval);
        match news {
            News::Close => {
                tracing::info!(%stream, ?keyframes, ?interval, "keyframes are close enough, decoding nothing else");
            }
            News::Rare => {
                tracing::info!(%stream, ?keyframes, ?interval, "keyframes are too far apart, decoding the frames between them");
            }
            News::Absent(waited) => tracing::warn!(
                %stream,
                waited = ?rounding::duration(waited),
                "no keyframe seen, so nothing is decoded; set `decode: auto`, or shorten the keyframe interval in the camera"
            ),
            News::Refresh(waited) => {
                let waited = rounding::duration(waited);
                tracing::info!(%stream, ?waited, "no keyframe seen, decoding every frame as it comes");
            }
        }
    }
}
