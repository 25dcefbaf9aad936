//! One line of RTP from a camera that begins a new one: some change their number (SSRC) at a restart of their encoder, some at every keyframe. rtpbin takes
//! each for another stream, and the one that is watched ends without a word.
//!
//! In: RTP packets on their way into an RTP session, on the streaming thread. Out: the same packets, those of a new sender renumbered so that they
//! go on where the last one's ended: its number, the next sequence number, the time that has passed. Holds a few numbers for a session. What
//! reports (RTCP) of other senders than the first say is of no use then and ends here. Full: does not apply; a sender that changes more often than
//! [`MOST`] times within [`WINDOW`] is none, and [`super::byte_budget`] hears of each from then on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

/// New senders within a window that are still a camera.
const MOST: u32 = 256;
const WINDOW: Duration = Duration::from_secs(10);

/// Packets of the sender before that are late, as over UDP, end here for so long.
const LATE: Duration = Duration::from_millis(200);

/// What pictures have where nobody says.
const CLOCK: u32 = 90_000;

/// The part of a packet's header that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    kind: u8,
    sequence: u16,
    time: u32,
    sender: u32,
}

impl Header {
    const LENGTH: usize = 12;

    fn read(packet: &gst::BufferRef) -> Option<Self> {
        let mut bytes = [0; Self::LENGTH];
        if packet.size() < Self::LENGTH || packet.copy_to_slice(0, &mut bytes).is_err() {
            return None;
        }
        let [_, kind, s0, s1, t0, t1, t2, t3, n0, n1, n2, n3] = bytes;
        Some(Self {
            kind: kind & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            time: u32::from_be_bytes([t0, t1, t2, t3]),
            sender: u32::from_be_bytes([n0, n1, n2, n3]),
        })
    }

    /// Puts it into `packet`, whose kind and marker stay.
    fn write(self, packet: gst::Buffer) -> gst::Buffer {
        let bytes = [&self.sequence.to_be_bytes()[..], &self.time.to_be_bytes(), &self.sender.to_be_bytes()].concat();
        let mut packet = packet;
        // What cannot be written passes as it is: rtpbin takes it for another stream.
        let _ = packet.make_mut().copy_from_slice(2, &bytes);
        packet
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Renumber(Header),
    Drop,
}

/// One session's sender. Pure.
#[derive(Debug, Default)]
struct Line {
    /// What the session knows: the first sender, the last packet as it was passed on, and when.
    known: Option<(u32, Header, Instant)>,
    /// Who sends now, and what is added to sequence number and time.
    now: (u32, u16, u32),
    before: Option<(u32, Instant)>,
    changes: (Option<Instant>, u32),
}

impl Line {
    fn packet(&mut self, header: Header, clock: u32, now: Instant) -> Verdict {
        let Some((first, last, seen)) = self.known else {
            self.known = Some((header.sender, header, now));
            self.now = (header.sender, 0, 0);
            return Verdict::Pass;
        };
        if header.sender != self.now.0 {
            // Repairs and the like have a kind of their own.
            if header.kind != last.kind {
                return Verdict::Pass;
            }
            let late = |(sender, since): (u32, Instant)| {
                sender == header.sender && now.saturating_duration_since(since) < LATE
            };
            if self.before.is_some_and(late) {
                return Verdict::Drop;
            }
            if !self.may_change(now) {
                return Verdict::Pass;
            }
            self.before = Some((self.now.0, now));
            let passed = now.saturating_duration_since(seen).as_secs_f64() * f64::from(clock);
            let time = last.time.wrapping_add((passed as u64).max(1) as u32);
            let sequence = last.sequence.wrapping_add(1);
            self.now = (header.sender, sequence.wrapping_sub(header.sequence), time.wrapping_sub(header.time));
        }
        let (_, sequence, time) = self.now;
        let mapped = Header {
            sequence: header.sequence.wrapping_add(sequence),
            time: header.time.wrapping_add(time),
            sender: first,
            ..header
        };
        // An old packet that comes late is not what the next sender goes on from.
        if header.kind == last.kind && mapped.sequence.wrapping_sub(last.sequence) < 0x8000 {
            self.known = Some((first, mapped, now));
        }
        if mapped == header { Verdict::Pass } else { Verdict::Renumber(mapped) }
    }

    fn may_change(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.changes;
        if since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (*since, *count) = (Some(now), 0);
        }
        *count += 1;
        *count <= MOST
    }

    /// Whether a report is from who the session knows, and about what it knows.
    fn report(&self, sender: u32) -> bool {
        self.known.is_none_or(|(first, ..)| self.now == (first, 0, 0) || self.now.0 != sender && first != sender)
    }
}

type Lines = Arc<Mutex<HashMap<String, Arc<Mutex<Line>>>>>;

/// Watches `pipeline` for RTP sessions. To be called before whatever counts senders.
pub(super) fn watch(pipeline: &gst::Pipeline) {
    for element in pipeline.iterate_recurse().into_iter().flatten() {
        look_at(&element);
    }
    pipeline.connect_deep_element_added(|_, _, element| look_at(element));
}

fn look_at(element: &gst::Element) {
    if element.type_().name() != "GstRtpBin" {
        return;
    }
    let lines = Lines::default();
    for pad in element.sink_pads() {
        follow(&lines, &pad);
    }
    element.connect_pad_added(move |_, pad| follow(&lines, pad));
}

fn follow(lines: &Lines, pad: &gst::Pad) {
    let name = pad.name();
    let Some((rtp, session)) = name
        .strip_prefix("recv_rtp_sink_")
        .map(|session| (true, session))
        .or_else(|| name.strip_prefix("recv_rtcp_sink_").map(|session| (false, session)))
    else {
        return;
    };
    let line = Arc::clone(lines.lock().entry(session.to_owned()).or_default());
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(kinds, move |pad, info| {
        let now = Instant::now();
        let mend =
            |packet: gst::Buffer| if rtp { renumbered(&line, pad, packet, now) } else { reported(&line, packet) };
        match info.data.take() {
            Some(gst::PadProbeData::Buffer(packet)) => match mend(packet) {
                Some(packet) => info.data = Some(gst::PadProbeData::Buffer(packet)),
                None => return gst::PadProbeReturn::Handled,
            },
            Some(gst::PadProbeData::BufferList(list)) => {
                let list = list.iter_owned().filter_map(mend).collect();
                info.data = Some(gst::PadProbeData::BufferList(list));
            }
            other => info.data = other,
        }
        gst::PadProbeReturn::Ok
    });
}

fn renumbered(line: &Mutex<Line>, pad: &gst::Pad, packet: gst::Buffer, now: Instant) -> Option<gst::Buffer> {
    let Some(header) = Header::read(&packet) else { return Some(packet) };
    let mut line = line.lock();
    // Only a change needs it.
    let clock = if header.sender == line.now.0 { CLOCK } else { clock(pad) };
    let verdict = line.packet(header, clock, now);
    drop(line);
    match verdict {
        Verdict::Pass => Some(packet),
        Verdict::Renumber(header) => Some(header.write(packet)),
        Verdict::Drop => None,
    }
}

/// A report that says when which packet was sent would be about other numbers than those of the packets that are passed on.
fn reported(line: &Mutex<Line>, packet: gst::Buffer) -> Option<gst::Buffer> {
    let mut bytes = [0; 8];
    if packet.size() < bytes.len() || packet.copy_to_slice(0, &mut bytes).is_err() {
        return Some(packet);
    }
    let [.., n0, n1, n2, n3] = bytes;
    line.lock().report(u32::from_be_bytes([n0, n1, n2, n3])).then_some(packet)
}

fn clock(pad: &gst::Pad) -> u32 {
    let caps = pad.current_caps();
    let clock = caps.as_ref().and_then(|caps| caps.structure(0)?.get::<i32>("clock-rate").ok());
    clock.and_then(|clock| u32::try_from(clock).ok()).filter(|clock| *clock > 0).unwrap_or(CLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn packet(sender: u32, sequence: u16, time: u32) -> Header {
        Header { kind: 96, sequence, time, sender }
    }

    #[test]
    fn a_new_sender_goes_on_where_the_last_one_ended() {
        let (mut line, start) = (Line::default(), Instant::now());
        assert_eq!(line.packet(packet(7, 65_535, u32::MAX), CLOCK, start), Verdict::Pass);
        // 40 ms later.
        let first = line.packet(packet(9, 100, 5000), CLOCK, start + 40 * MS);
        assert_eq!(first, Verdict::Renumber(packet(7, 0, 3599)));
        let next = line.packet(packet(9, 101, 8600), CLOCK, start + 80 * MS);
        assert_eq!(next, Verdict::Renumber(packet(7, 1, 7199)));
        // At every keyframe, and back to a number that was there before.
        let third = line.packet(packet(7, 3, 3), CLOCK, start + 1080 * MS);
        assert_eq!(third, Verdict::Renumber(packet(7, 2, 97_199)));
    }

    #[test]
    fn late_packets_of_the_sender_before_end_and_other_kinds_pass() {
        let (mut line, start) = (Line::default(), Instant::now());
        line.packet(packet(7, 10, 0), CLOCK, start);
        line.packet(packet(9, 10, 0), CLOCK, start + 40 * MS);
        assert_eq!(line.packet(packet(7, 11, 0), CLOCK, start + 50 * MS), Verdict::Drop);
        let repair = Header { kind: 97, ..packet(11, 5, 5) };
        assert_eq!(line.packet(repair, CLOCK, start + 60 * MS), Verdict::Pass);
    }

    #[test]
    fn reports_count_until_there_is_another_sender() {
        let (mut line, start) = (Line::default(), Instant::now());
        assert!(line.report(7));
        line.packet(packet(7, 10, 0), CLOCK, start);
        assert!(line.report(7) && line.report(8));
        line.packet(packet(9, 10, 0), CLOCK, start);
        assert!(!line.report(7) && !line.report(9) && line.report(8));
    }

    #[test]
    fn a_sender_that_always_changes_is_told_of() {
        let (mut line, start) = (Line::default(), Instant::now());
        let passed = (0..1000).filter(|n| line.packet(packet(*n, 0, 0), CLOCK, start) == Verdict::Pass).count();
        assert!(passed > 700, "{passed}");
    }

    #[test]
    fn what_is_renumbered_keeps_everything_else() {
        gst::init().unwrap();
        let bytes: Vec<u8> = (0..40).collect();
        let header = Header { sequence: 0x102, time: 0x0304_0506, sender: 0x0708_090a, ..packet(0, 0, 0) };
        let written = header.write(gst::Buffer::from_slice(bytes.clone()));
        let mut came = [0; 40];
        written.copy_to_slice(0, &mut came).unwrap();
        assert_eq!(came[..2], bytes[..2]);
        assert_eq!(came[2..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(came[12..], bytes[12..]);
        assert_eq!(Header::read(&written), Some(Header { kind: 1, ..header }));
    }
}
