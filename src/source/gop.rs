//! Which coded frames go into the decoder: all of them, or keyframes alone. Pure: time stamps come in, verdicts go out.
//!
//! `auto` begins with keyframes alone and holds back the frames between them. If the next keyframe comes in time, nothing but
//! keyframes was decoded; if it is late, the decoder gets the keyframe and everything behind it, so that no sample is missed and
//! no picture is broken. It goes back to keyframes with the next one: only where they are late again soon, or were never otherwise, it decodes what lies between
//! them from then on, until they have been close enough for a while. What is held back is bounded ([`Chooser::MAX_HELD`]); beyond that it is dropped, and
//! the next keyframe is waited for. Where packets were lost a keyframe may have been among them: its absence says nothing of how the camera makes them, or a box
//! that is late for a moment, and so loses packets, would decode more for it and stay late.
//!
//! Where keyframes are too far apart, `auto` decodes from each of them up to the last frame of its group that a sample needs. What comes behind that is held back: the
//! next IDR frame makes it superfluous; if a sample is due before one comes, all that is held goes into the decoder, as if it had never been held. So
//! the same pictures come out as where every frame is decoded.

use std::collections::VecDeque;
use std::time::Duration;

use super::Decode;
use super::coded::Kind;

/// What the decoder gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Wanted keyframes and nothing else.
    Keyframes,
    /// Every frame; with `auto`, those that a sample needs.
    All,
}

impl Mode {
    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keyframes => "keyframes",
            Self::All => "all",
        }
    }
}

/// What is to be done with one coded frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Into the decoder. What is held, if anything is, is dropped: it is not needed.
    Decode,
    /// A keyframe: into the decoder if it is wanted. With `hold`, it is also the first one to be held.
    Ask {
        hold: bool,
    },
    /// Held behind the last keyframe.
    Hold,
    /// All that is held goes into the decoder, then this one.
    Release,
    /// Dropped, and what is held with it.
    Forget,
    Drop,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Keyframes are close enough: `auto` decodes nothing else from here on.
    Close,
    /// Keyframes are too far apart: `auto` decodes what lies between them from here on.
    Rare,
    /// No keyframe for so long, and only keyframes are wanted.
    Absent(Duration),
    /// There are no keyframes (intra refresh, perhaps): every frame is decoded as it comes.
    Refresh(Duration),
}

/// See the module. One lives as long as its source and remembers over reconnects what it has learned.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    decode: Decode,
    mode: Mode,
    /// The first frame since there was a keyframe to go by.
    waiting_since: Option<Duration>,
    /// No keyframe came; frames pass as they are.
    open: bool,
    last_key: Option<Duration>,
    /// It was an IDR frame.
    last_idr: bool,
    newest: Duration,
    /// The first frame of this line of time, and how many there have been.
    line: Option<(Duration, u32)>,
    /// Delta units behind the last keyframe.
    deltas: u32,
    /// Decoding began at this keyframe: what is to be shown before it needs frames that were never decoded.
    cold: Option<Duration>,
    held: Option<usize>,
    /// Keyframe distances, with the frames in each; where nothing was lost on the way.
    gops: VecDeque<(Duration, u32)>,
    /// Packets were lost since the last keyframe.
    broken: bool,
    /// When a keyframe first was late where packets were lost, since one came in time or nothing was lost.
    lossy_since: Option<Duration>,
    /// Every frame is decoded until the next keyframe, as this one was late; what then is not decided.
    until_key: bool,
    /// Distances in a row that were short enough.
    good: u32,
    /// How many are needed to trust them.
    needed: u32,
    /// When keyframes were last chosen.
    chosen_at: Option<Duration>,
    absence_told: bool,
}

impl Chooser {
    /// Bytes held back at most: 8 Mbit/s for eight seconds.
    pub const MAX_HELD: usize = 8 << 20;
    /// A stream without a keyframe for so long has none to wait for, or its owner should know.
    pub const KEYFRAME_TIMEOUT: Duration = Duration::from_secs(10);
    /// For so long a keyframe that is late may have been lost; then the camera makes none in time.
    const LOSSY_TIMEOUT: Duration = Duration::from_secs(30);
    /// Distances in a row before `auto` goes (back) to keyframes, and what that grows to if it has to go back and forth.
    const NEEDED: (u32, u32) = (3, 48);
    /// After so long without a change the past is forgiven.
    const FORGIVEN: Duration = Duration::from_mins(10);
    /// Steps of the time stamps beyond this are a new beginning, not a distance.
    const JUMP_BACK: Duration = Duration::from_secs(2);
    const JUMP_ON: Duration = Duration::from_mins(2);
    /// Frames that are further apart than this are no line of time.
    const MAX_STEP: Duration = Duration::from_secs(30);
    const REMEMBERED: usize = 5;
    /// What a frame that is held takes beside its bytes.
    const FRAME: usize = 512;
    /// A keyframe is expected so exactly.
    const LEEWAY: Duration = Duration::from_millis(200);

    pub fn new(decode: Decode) -> Self {
        Self {
            decode,
            mode: if decode == Decode::All { Mode::All } else { Mode::Keyframes },
            waiting_since: None,
            open: false,
            last_key: None,
            last_idr: false,
            newest: Duration::ZERO,
            line: None,
            deltas: 0,
            cold: None,
            held: None,
            gops: VecDeque::with_capacity(Self::REMEMBERED),
            broken: false,
            lossy_since: None,
            until_key: false,
            good: 0,
            needed: Self::NEEDED.0,
            chosen_at: None,
            absence_told: false,
        }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Keyframes this far apart are as good as every frame for one sample every `interval`. A tenth more is what cameras miss
    /// their nominal frame rate by.
    pub fn close_enough(interval: Duration) -> Duration {
        interval.saturating_add((interval / 10).max(Duration::from_millis(50)))
    }

    /// Beyond this they are not. The room between the two keeps `auto` from going to and fro.
    fn too_late(interval: Duration) -> Duration {
        interval.saturating_add((interval / 5).max(Duration::from_millis(100)))
    }

    /// The usual distance of keyframes: the middle of the last few. `None` until it is known.
    pub fn keyframe_interval(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.gops.iter().map(|(distance, _)| *distance).collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Frames a second over the last few keyframe distances.
    pub fn frame_rate(&self) -> Option<f64> {
        let (time, frames) = self.gops.iter().fold((Duration::ZERO, 0), |(t, n), (d, f)| (t + *d, n + *f));
        (time > Duration::ZERO).then(|| f64::from(frames) / time.as_secs_f64())
    }

    /// A new connection: nothing that comes now follows from what was before.
    pub fn begin(&mut self) {
        (self.waiting_since, self.open, self.last_key, self.last_idr, self.line) = (None, false, None, false, None);
        (self.deltas, self.cold, self.held, self.good) = (0, None, None, 0);
        (self.broken, self.lossy_since) = (false, None);
        if std::mem::take(&mut self.until_key) {
            self.mode = Mode::Keyframes;
        }
    }

    /// Packets are missing before the next frame.
    pub fn packets_lost(&mut self) {
        self.broken = true;
    }

    /// Of the last few distances, those that were too long.
    fn late(&self, interval: Duration) -> usize {
        self.gops.iter().filter(|(distance, _)| *distance > Self::too_late(interval)).count()
    }

    /// Whether it matters how far the next sample is, when one is wanted every `interval`.
    pub fn looks_ahead(&self, interval: Duration) -> bool {
        self.decode == Decode::Auto && self.mode == Mode::All && !interval.is_zero() && self.last_idr
    }

    /// What is to be done with the frame of `size` bytes at `at` (on any line: distances count), when a sample is wanted every `interval`, the next one `until_due` after
    /// this frame; zero: this one, or that is not known.
    pub fn frame(
        &mut self,
        at: Duration,
        kind: Kind,
        size: usize,
        interval: Duration,
        until_due: Duration,
    ) -> (Verdict, Option<News>) {
        let back = at.saturating_add(self.reordered()) < self.newest;
        if self.last_key.is_some() && (back || at > self.newest.saturating_add(Self::JUMP_ON)) {
            self.begin();
        }
        let (first, frames) = self.line.unwrap_or((at, 0));
        self.newest = if back || frames == 0 { at } else { self.newest.max(at) };
        self.line = Some((first, frames.saturating_add(1)));
        if self.decode == Decode::Auto && interval.is_zero() {
            // Every frame is wanted.
            (self.mode, self.until_key) = (Mode::All, false);
        }
        match kind {
            Kind::Key | Kind::Idr => self.key(at, kind, size, interval),
            Kind::Delta => self.delta(at, size, interval, until_due),
        }
    }

    /// How far back a frame may be shown before one that came earlier: B-frames are stored behind what they are made of, sixteen frames at most,
    /// however far apart the frames of a slow camera are.
    fn reordered(&self) -> Duration {
        let step =
            self.line.map_or(Duration::ZERO, |(first, frames)| self.newest.saturating_sub(first) / frames.max(1));
        Self::JUMP_BACK.max(step.min(Self::MAX_STEP).saturating_mul(16))
    }

    fn key(&mut self, at: Duration, kind: Kind, size: usize, interval: Duration) -> (Verdict, Option<News>) {
        let (broken, mut close) = (std::mem::take(&mut self.broken), false);
        if let Some(distance) = self.last_key.and_then(|last| at.checked_sub(last)).filter(|d| !d.is_zero()) {
            if !broken {
                if self.gops.len() == Self::REMEMBERED {
                    self.gops.pop_front();
                }
                self.gops.push_back((distance, self.deltas + 1));
            }
            // Without anything in between there is nothing else to decode.
            close = self.deltas == 0 || distance <= Self::close_enough(interval);
        }
        let late = self.deltas > 0
            && self.last_key.is_some_and(|last| at.saturating_sub(last) > Self::too_late(interval))
            && !self.is_excused(broken, at);
        if close || !broken {
            self.lossy_since = None;
        }
        let warm = self.mode == Mode::All && (self.last_key.is_some() || self.open);
        (self.last_key, self.last_idr) = (Some(at), kind == Kind::Idr);
        (self.deltas, self.waiting_since, self.open) = (0, None, false);
        match (self.decode, self.mode) {
            (Decode::Keyframes, _) => (Verdict::Ask { hold: false }, None),
            // What was held has become too much, and the keyframe is late: a fresh start with it.
            (Decode::Auto, Mode::Keyframes) if late && self.held.is_none() => {
                let news = self.give_up_keyframes(at);
                self.cold = Some(at);
                (Verdict::Decode, Some(news))
            }
            (Decode::Auto, Mode::Keyframes) => {
                self.held = Some(size);
                (Verdict::Ask { hold: true }, None)
            }
            (Decode::Auto, Mode::All) if !interval.is_zero() && self.until_key => {
                self.until_key = false;
                let late = self.late(interval);
                if late > 1 || late > 0 && late == self.gops.len() {
                    let verdict = if self.last_idr { Verdict::Decode } else { self.release() };
                    return (verdict, Some(self.give_up_keyframes(at)));
                }
                (self.mode, self.held) = (Mode::Keyframes, Some(size));
                (Verdict::Ask { hold: true }, None)
            }
            (Decode::Auto, Mode::All) if !interval.is_zero() => {
                // A distance that is long because something was lost says nothing.
                self.good = if close { self.good + 1 } else { self.good * u32::from(broken) };
                if self.good < self.needed {
                    let verdict = if self.last_idr { Verdict::Decode } else { self.release() };
                    self.held = None;
                    self.cold = if warm { self.cold } else { Some(at) };
                    return (verdict, None);
                }
                (self.mode, self.chosen_at, self.held, self.good) = (Mode::Keyframes, Some(at), Some(size), 0);
                (Verdict::Ask { hold: true }, Some(News::Close))
            }
            (Decode::Auto | Decode::All, _) => {
                self.cold = if warm { self.cold } else { Some(at) };
                (Verdict::Decode, None)
            }
        }
    }

    fn delta(&mut self, at: Duration, size: usize, interval: Duration, until_due: Duration) -> (Verdict, Option<News>) {
        self.deltas = self.deltas.saturating_add(1);
        if self.open {
            return (Verdict::Decode, None);
        }
        let Some(key) = self.last_key else {
            let since = *self.waiting_since.get_or_insert(at);
            return self.without_key(at.saturating_sub(since));
        };
        let since = at.saturating_sub(key);
        match (self.decode, self.mode) {
            (_, Mode::All) => {
                let leading = self.cold.is_some_and(|cold| at < cold);
                if leading {
                    return (Verdict::Drop, None);
                }
                self.cold = None;
                let looks_ahead = self.looks_ahead(interval);
                (if looks_ahead { self.ahead(at, size, until_due) } else { self.release() }, None)
            }
            (Decode::Auto, Mode::Keyframes) => match self.held {
                _ if at < key => (Verdict::Drop, None),
                Some(_) if since > Self::too_late(interval) => self.late_key(at, interval),
                Some(held) if held + size + Self::FRAME <= Self::MAX_HELD => {
                    self.held = Some(held + size + Self::FRAME);
                    (Verdict::Hold, None)
                }
                Some(_) => {
                    self.held = None;
                    (Verdict::Forget, None)
                }
                None => self.without_key(since),
            },
            (_, Mode::Keyframes) => self.without_key(since),
        }
    }

    /// A delta unit that may never be needed: a keyframe can come before the next sample is due.
    fn ahead(&mut self, at: Duration, size: usize, until_due: Duration) -> Verdict {
        let longest = self.gops.iter().map(|(distance, _)| *distance).max();
        let Some(next) = self.last_key.zip(longest).map(|(last, gop)| last.saturating_add(gop)) else {
            return self.release();
        };
        // Due before the keyframe, or the keyframe is late: what is held only grows.
        let needed =
            at.saturating_add(until_due).saturating_add(Self::LEEWAY) < next || at > next.saturating_add(Self::LEEWAY);
        let held = self.held.unwrap_or_default().saturating_add(size).saturating_add(Self::FRAME);
        if until_due.is_zero() || needed || held > Self::MAX_HELD {
            return self.release();
        }
        self.held = Some(held);
        Verdict::Hold
    }

    /// This one goes into the decoder, behind all that is held.
    fn release(&mut self) -> Verdict {
        if self.held.take().is_some() { Verdict::Release } else { Verdict::Decode }
    }

    /// A delta unit that nothing can be done with, `waited` after the last keyframe or the first frame.
    fn without_key(&mut self, waited: Duration) -> (Verdict, Option<News>) {
        // Where keyframes are known to come, though seldom, a broken picture is no help.
        let rhythm = self.keyframe_interval().unwrap_or_default().saturating_mul(3);
        // Where there was one, others may have been lost.
        let lossy = self.broken && self.last_key.is_some();
        let timeout = if lossy { Self::LOSSY_TIMEOUT } else { Self::KEYFRAME_TIMEOUT };
        if waited < timeout.max(rhythm) {
            return (Verdict::Drop, None);
        }
        if self.decode == Decode::Keyframes {
            let news = (!std::mem::replace(&mut self.absence_told, true)).then_some(News::Absent(waited));
            return (Verdict::Drop, news);
        }
        (self.open, self.mode, self.cold) = (true, Mode::All, None);
        (Verdict::Decode, Some(News::Refresh(waited)))
    }

    /// Whether a keyframe that is late may have been lost, and has not been late for too long.
    fn is_excused(&mut self, broken: bool, at: Duration) -> bool {
        broken && at.saturating_sub(*self.lossy_since.get_or_insert(at)) < Self::LOSSY_TIMEOUT
    }

    /// The next keyframe is late, and all since the last one is held.
    fn late_key(&mut self, at: Duration, interval: Duration) -> (Verdict, Option<News>) {
        // What is known of groups that came whole counts first.
        let known = self.late(interval) > usize::from(self.broken);
        if !known && self.is_excused(self.broken, at) {
            // It may have been lost, and what is here refers to it.
            self.held = None;
            return (Verdict::Forget, None);
        }
        if known || self.broken {
            return (Verdict::Release, Some(self.give_up_keyframes(at)));
        }
        (self.mode, self.held, self.good, self.until_key) = (Mode::All, None, 0, true);
        (Verdict::Release, None)
    }

    fn give_up_keyframes(&mut self, at: Duration) -> News {
        // The first choice was a guess, and guesses are free.
        if let Some(chosen) = self.chosen_at {
            let long = at.saturating_sub(chosen) >= Self::FORGIVEN;
            self.needed = if long { Self::NEEDED.0 } else { (self.needed * 2).min(Self::NEEDED.1) };
        }
        (self.mode, self.held, self.good) = (Mode::All, None, 0);
        News::Rare
    }
}

#[cfg(test)]
mod tests;
