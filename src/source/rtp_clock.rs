//! The camera's own clock, for frames that come by RTP. Their time stamps (PTS) follow their arrival: where a box is behind, they say that keyframes are
//! further apart than the camera makes them, and whoever then decodes what lies between them stays behind.
//!
//! In: RTP packets on their way into a depayloader, and coded frames behind it, on the streaming thread. Out: each frame's time on a line of which the
//! steps are the camera's: for distances, not for when something is due; and whether packets were lost before it. Holds [`REMEMBERED`] packet times for a connection, and lets go of the oldest.
//! Closed: goes with the connection.
//!
//! Not every camera's clock is one: it may stand still, be set, or count frames that never came. The line then goes by PTS.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

/// Frames of which the packets are remembered. A depayloader keeps one, a parser two or three.
const REMEMBERED: usize = 32;

/// What one frame's packets said. PTS may differ from packet to packet.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    first: gst::ClockTime,
    last: gst::ClockTime,
    /// RTP time, which does not wrap around here.
    ticks: i64,
}

/// One connection's clock. Pure but for [`RtpClock::watch`].
#[derive(Debug, Default)]
pub(super) struct RtpClock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    stamps: VecDeque<Stamp>,
    /// Ticks a second.
    rate: u32,
    line: Line,
    /// The sequence number of the newest packet.
    sequence: Option<u16>,
    /// Packets were missing since somebody asked last.
    lost: bool,
}

impl RtpClock {
    /// Listens to the packets that a depayloader gets at `pad`.
    pub fn watch(self: &Arc<Self>, pad: &gst::Pad) {
        let clock = Arc::clone(self);
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |pad, info| {
            let rate = || {
                let caps = pad.current_caps();
                let rate = caps.as_ref().and_then(|caps| caps.structure(0)?.get::<i32>("clock-rate").ok());
                rate.and_then(|rate| u32::try_from(rate).ok()).unwrap_or_default()
            };
            match &info.data {
                Some(gst::PadProbeData::Buffer(packet)) => clock.packet(packet, rate),
                Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(|packet| clock.packet(packet, rate)),
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
    }

    fn packet(&self, packet: &gst::BufferRef, rate: impl FnOnce() -> u32) {
        let mut header = [0; 8];
        if packet.size() < header.len() || packet.copy_to_slice(0, &mut header).is_err() {
            return;
        }
        let [_, _, s0, s1, t0, t1, t2, t3] = header;
        let mut state = self.0.lock();
        state.sequence(u16::from_be_bytes([s0, s1]));
        if let Some(pts) = packet.pts() {
            state.packet(pts, u32::from_be_bytes([t0, t1, t2, t3]), rate);
        }
    }

    /// Whether packets were missing since this was asked last.
    pub fn packets_lost(&self) -> bool {
        std::mem::take(&mut self.0.lock().lost)
    }

    /// The place of the frame with this PTS, at `at` by it (running time), on the camera's line. Without a PTS, or with one that no packet had: as far from
    /// the frame before it as `at` says.
    pub fn place(&self, at: Duration, pts: Option<gst::ClockTime>) -> Duration {
        let state = &mut *self.0.lock();
        let stamp =
            pts.and_then(|pts| state.stamps.iter().rev().find(|stamp| (stamp.first..=stamp.last).contains(&pts)));
        let ticks = stamp.map(|stamp| stamp.ticks).filter(|_| state.rate > 0);
        state.line.place(at, ticks.map(|ticks| i128::from(ticks) * NANOS / i128::from(state.rate)))
    }
}

impl State {
    /// A packet of this number came; the jitter buffer has put them in order.
    fn sequence(&mut self, number: u16) {
        let step = self.sequence.map_or(1, |last| number.wrapping_sub(last).cast_signed());
        self.lost |= step > 1;
        // Further back than any packet is late: the camera counts from anew.
        if !(-1000..=0).contains(&step) {
            self.sequence = Some(number);
        }
    }

    /// A packet came; what `rate` says is asked for once a frame.
    fn packet(&mut self, pts: gst::ClockTime, time: u32, rate: impl FnOnce() -> u32) {
        let ticks = match self.stamps.back_mut() {
            // The low half is what packets say. A step is the shorter way around.
            Some(last) => match time.wrapping_sub(last.ticks as u32).cast_signed() {
                0 => {
                    (last.first, last.last) = (last.first.min(pts), last.last.max(pts));
                    return;
                }
                step => last.ticks.saturating_add(i64::from(step)),
            },
            None => i64::from(time),
        };
        self.rate = rate();
        if self.stamps.len() == REMEMBERED {
            self.stamps.pop_front();
        }
        self.stamps.push_back(Stamp { first: pts, last: pts, ticks });
    }
}

const NANOS: i128 = 1_000_000_000;

/// The line of time itself. Nothing but steps of the two clocks counts.
#[derive(Debug, Default)]
struct Line {
    /// The frame before: its time by PTS, and by RTP; nanoseconds.
    last: Option<(i128, Option<i128>)>,
    /// From PTS to the line, nanoseconds.
    shift: i128,
    /// By how much PTS have come further than RTP time, nanoseconds.
    behind: i128,
    /// RTP time counts no more: since when it is looked at whether it could again, by PTS and by RTP.
    on_trial: Option<(i128, i128)>,
}

impl Line {
    /// Longer steps of one clock alone are a clock that was set.
    const JUMP: i128 = 2 * NANOS;
    /// What networks and socket buffers can hold back of a stream, and no more: who is further behind than that has a clock that runs at a pace of its own,
    /// as where a camera counts 25 frames a second and makes 15.
    const LATEST: i128 = 20 * NANOS;
    /// RTP time runs ahead only of PTS that were late, or of a server that sends at once what it has kept for a new client.
    const EARLIEST: i128 = -5 * NANOS;
    /// Part of the time that passes by which clocks may differ for ever.
    const DRIFT: i128 = 100;
    /// Over so long a clock that has failed must be right within [`Self::RIGHT`].
    const TRIAL: i128 = 60 * NANOS;
    const RIGHT: i128 = NANOS;

    /// The place of a frame at `at` by PTS, at `rtp` (nanoseconds from anywhere) by the camera.
    fn place(&mut self, at: Duration, rtp: Option<i128>) -> Duration {
        let at = i128::try_from(at.as_nanos()).unwrap_or(i128::MAX / 2);
        let last = self.last.replace((at, rtp));
        if last.is_some_and(|(before, _)| at.saturating_add(5 * Self::JUMP) < before) {
            // PTS begin anew.
            *self = Self { last: self.last, ..Self::default() };
        } else if let (Some((before, Some(then))), Some(now)) = (last, rtp) {
            self.step(at, at - before, now, now - then);
        }
        Duration::from_nanos(u64::try_from(at.saturating_add(self.shift).max(0)).unwrap_or(u64::MAX))
    }

    /// PTS have come on to `at`, by `step`, and RTP time to `rtp`, by `camera`.
    fn step(&mut self, at: i128, step: i128, rtp: i128, camera: i128) {
        let late = step - camera;
        let set = late < -Self::JUMP || camera < -Self::JUMP && late > Self::JUMP;
        if camera == 0 || set {
            // The step is that of PTS, and a trial begins anew.
            self.on_trial = self.on_trial.map(|_| (at, rtp));
            return;
        }
        if let Some((since, then)) = self.on_trial {
            if at - since >= Self::TRIAL {
                let right = ((at - since) - (rtp - then)).abs() <= Self::RIGHT;
                self.on_trial = (!right).then_some((at, rtp));
            }
            return;
        }
        self.shift -= late;
        let leak = step.abs() / Self::DRIFT;
        self.behind += late;
        self.behind -= self.behind.clamp(-leak, leak);
        if !(Self::EARLIEST..=Self::LATEST).contains(&self.behind) {
            (self.on_trial, self.behind) = (Some((at, rtp)), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Decode;
    use super::super::coded::Kind;
    use super::super::gop::{Chooser, Mode, News};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn pts(at: Duration) -> gst::ClockTime {
        gst::ClockTime::from_nseconds(at.as_nanos().try_into().unwrap())
    }

    /// Where frames come to lie, each made at the first time (ticks of a clock of 90,000 a second) and stamped with the second.
    fn placed(frames: impl IntoIterator<Item = (u32, Duration)>) -> Vec<Duration> {
        let clock = RtpClock::default();
        let place = |(ticks, at)| {
            // Two packets.
            clock.0.lock().packet(pts(at), ticks, || 90_000);
            clock.0.lock().packet(pts(at + ms(3)), ticks, || panic!("asked once a frame"));
            clock.place(at, Some(pts(at)))
        };
        frames.into_iter().map(place).collect()
    }

    fn steps(placed: &[Duration]) -> Vec<i64> {
        let millis = |at: &Duration| i64::try_from((*at + ms(1) / 2).as_millis()).unwrap();
        placed.windows(2).map(|pair| millis(&pair[1]) - millis(&pair[0])).collect()
    }

    fn ticks(at: u64) -> u32 {
        (at * 90) as u32
    }

    /// 25 frames a second, keyframes every two, of which the stamps take `stretched` percent of the time.
    fn watched(frames: u64, stretched: u64, clock: bool) -> (Chooser, Vec<News>) {
        let (mut chooser, rtp, mut news) = (Chooser::new(Decode::Auto), RtpClock::default(), Vec::new());
        for n in 0..frames {
            let at = ms(n * 40 * stretched / 100);
            rtp.0.lock().packet(pts(at), ticks(n * 40), || 90_000);
            let camera = rtp.place(at, clock.then(|| pts(at)));
            let kind = if n % 50 == 0 { Kind::Idr } else { Kind::Delta };
            news.extend(chooser.frame(camera, kind, 10_000, 2 * SECOND, Duration::ZERO).1);
        }
        (chooser, news)
    }

    #[test]
    fn keyframes_that_come_late_are_as_close_as_the_camera_makes_them() {
        let (chooser, news) = watched(1000, 130, true);
        assert_eq!((chooser.mode(), news), (Mode::Keyframes, vec![]));
        assert_eq!(chooser.keyframe_interval(), Some(2 * SECOND));
        assert!(chooser.frame_rate().is_some_and(|rate| (rate - 25.0).abs() < 0.01));
        // By their stamps they are not.
        let (chooser, news) = watched(1000, 130, false);
        assert_eq!((chooser.mode(), news), (Mode::All, vec![News::Rare]));
    }

    #[test]
    fn a_camera_that_counts_frames_it_does_not_make_is_found_out_and_believed_again_when_it_keeps_time() {
        // 15 of 25: behind by twenty seconds after fifty.
        let (chooser, news) = watched(25 * 60, 167, true);
        assert_eq!((chooser.mode(), news), (Mode::All, vec![News::Rare]));
        let mut at = Duration::ZERO;
        let slow = (0..25 * 60).map(|n| (ticks(n * 40), ms(67)));
        let right = (25 * 60..25 * 180).map(|n| (ticks(n * 40), ms(40)));
        // Then its packets come late once more.
        let late = (25 * 180..25 * 185).map(|n| (ticks(n * 40), ms(60)));
        let frames = slow.chain(right).chain(late).map(|(ticks, step)| {
            at += step;
            (ticks, at)
        });
        let steps = steps(&placed(frames));
        assert!(
            (39..=41).contains(&steps[100]) && (66..=68).contains(&steps[1400]) && (39..=41).contains(&steps[4600])
        );
    }

    #[test]
    fn rtp_time_wraps_around_and_frames_come_out_of_order() {
        // I P B B, P B B: as they are sent. The clock is at its end at once, and later.
        let order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8];
        for first in [u32::MAX - 400 * 90, u32::MAX] {
            let frames = order.map(|n| (first.wrapping_add(ticks(n * 40)), ms(5000 + n * 52)));
            let placed = placed(frames);
            assert_eq!(steps(&placed), [120, -80, 40, 160, -80, 40, 160, -80, 40]);
        }
        let line = placed((0..4).map(|n| ((u32::MAX / 2).wrapping_mul(n as u32), ms(n * 23_860_929))));
        assert!(line.iter().zip(0..4).all(|(at, n)| at.abs_diff(ms(n * 23_860_929)) < ms(10)), "{line:?}");
    }

    #[test]
    fn clocks_that_stand_still_or_are_set_leave_steps_to_the_stamps() {
        assert_eq!(steps(&placed((0..500).map(|n| (7, ms(n * 52))))), [52; 499]);
        // Forth, back, and to the other end.
        for set in [ticks(3_600_000), 0_u32.wrapping_sub(ticks(3_600_000)), u32::MAX / 2 + 1] {
            let frames = (0..100).map(|n| (ticks(n * 40).wrapping_add(if n < 50 { 0 } else { set }), ms(n * 60)));
            let steps = steps(&placed(frames));
            assert_eq!(steps[49], 60);
            assert!(steps.iter().enumerate().all(|(n, step)| n == 49 || (39..=41).contains(step)), "{steps:?}");
        }
        // One that is said to be far slower than it is, as by a wrong description.
        let steps = steps(&placed((0..200).map(|n| (ticks(n * 450), ms(n * 40)))));
        assert!(steps[20..].iter().all(|step| *step == 40), "{steps:?}");
    }

    #[test]
    fn a_pause_in_which_nothing_arrived_is_none_of_the_cameras() {
        let frames = (0..300).map(|n| (ticks(n * 40), ms(n * 40 + if n < 100 { 0 } else { 9000 })));
        assert!(steps(&placed(frames)).iter().all(|step| (39..=41).contains(step)));
        // One that both know of is.
        let frames = (0..300).map(|n| n * 40 + if n < 100 { 0 } else { 9000 }).map(|at| (ticks(at), ms(at)));
        assert_eq!(steps(&placed(frames))[99], 9040);
    }

    #[test]
    fn packets_that_are_missing_are_told_once_and_those_that_came_late_or_twice_are_not() {
        let clock = RtpClock::default();
        let lost = |numbers: &[u16]| {
            numbers.iter().for_each(|number| clock.0.lock().sequence(*number));
            clock.packets_lost()
        };
        assert!(!lost(&[]) && !lost(&[u16::MAX - 1, u16::MAX, 0, 1, 1, 0, 2]));
        assert!(lost(&[4]) && !lost(&[]) && !lost(&[3, 5]));
        assert!(lost(&[7, 8]) && !lost(&[9]));
        assert!(!lost(&[60_000, 60_001]) && lost(&[60_003]));
    }

    #[test]
    fn frames_of_which_no_packet_is_known_go_on_as_their_stamps_say() {
        let clock = RtpClock::default();
        for (n, at) in [(0, 1000), (1, 1100), (2, 1200)] {
            clock.0.lock().packet(pts(ms(at)), ticks(n * 40), || 90_000);
            assert_eq!(clock.place(ms(at), Some(pts(ms(at)))), ms(1000 + n * 40));
        }
        assert_eq!(clock.place(ms(1250), None), ms(1130));
        assert_eq!(clock.place(ms(1300), Some(pts(ms(1300)))), ms(1180));
        // Stamps that begin anew.
        assert_eq!(clock.place(60 * SECOND, None), 60 * SECOND - ms(120));
        assert_eq!(clock.place(ms(5), None), ms(5));
        for n in 0..10_000 {
            clock.0.lock().packet(pts(ms(n)), n as u32, || 90_000);
        }
        assert_eq!(clock.0.lock().stamps.len(), REMEMBERED);
        // A rate that nobody says, and what is no packet.
        clock.0.lock().packet(pts(ms(10_000)), 10_000, || 0);
        assert_eq!(clock.place(ms(10_000), Some(pts(ms(10_000)))), ms(10_000));
    }
}
