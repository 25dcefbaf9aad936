//! How many senders a camera names: an RTP session keeps a few kilobytes for each number (SSRC, CSRC) that it is told, and has no limit.
//!
//! In: the packets of a connection on their way into its RTP session, RTP and RTCP, on GStreamer's streaming threads. Out: whether there is room for the
//! senders that they name. Holds [`MOST`] numbers. Full: the connection ends. The session forgets who is silent, and so does this, after [`WINDOW`].

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gstreamer as gst;
use parking_lot::Mutex;

/// Senders at a time. A camera has one, a mixer a dozen contributors, and both may begin anew.
pub(super) const MOST: usize = 256;

/// A session keeps silent ones for a minute or two.
const WINDOW: Duration = Duration::from_secs(600);

/// The numbers that one connection has named.
#[derive(Debug)]
pub(super) struct Senders {
    /// Of the last RTP packet, with nobody contributing to it: most packets say nothing new.
    last: AtomicU64,
    seen: Mutex<(Option<Instant>, HashSet<u32>)>,
}

impl Default for Senders {
    fn default() -> Self {
        Self { last: AtomicU64::new(u64::MAX), seen: Mutex::default() }
    }
}

impl Senders {
    /// Whether there is room for those that a packet names, of RTP or else of RTCP.
    pub fn has_room_for(&self, packet: &gst::BufferRef, rtp: bool, now: Instant) -> bool {
        if !rtp {
            // What cannot be mapped, the session cannot read.
            return packet.map_readable().map_or(true, |bytes| rtcp(&bytes).all(|number| self.has_room(number, now)));
        }
        // With its fifteen contributors at most.
        let mut bytes = [0; 12 + 15 * 4];
        let length = packet.size().min(bytes.len());
        let Some(header) = bytes.get_mut(..length) else { return true };
        if packet.copy_to_slice(0, header).is_err() {
            return true;
        }
        let (first, mut numbers) = (header.first().copied().unwrap_or(0), words(header.get(8..).unwrap_or_default()));
        let contributors = usize::from(first & 0xf);
        match numbers.next() {
            Some(sender) if contributors == 0 => {
                let known = self.last.swap(u64::from(sender), Ordering::Relaxed) == u64::from(sender);
                known || self.has_room(sender, now)
            }
            Some(sender) => {
                std::iter::once(sender).chain(numbers.take(contributors)).all(|number| self.has_room(number, now))
            }
            None => true,
        }
    }

    fn has_room(&self, number: u32, now: Instant) -> bool {
        let mut seen = self.seen.lock();
        let (since, numbers) = &mut *seen;
        if numbers.contains(&number) {
            return true;
        }
        if since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            *since = Some(now);
            numbers.clear();
        }
        numbers.insert(number);
        numbers.len() <= MOST
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

/// The senders that a compound of RTCP packets names (RFC 3550, 6): who it is from, who says goodbye, and who is described.
fn rtcp(mut rest: &[u8]) -> impl Iterator<Item = u32> {
    const DESCRIPTION: u8 = 202;
    const RTCP_BYE: u8 = 203;
    let mut numbers = Vec::new();
    while let [first, kind, high, low, ..] = *rest {
        let length = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let (packet, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        let (count, body) = (usize::from(first & 31), packet.get(4..).unwrap_or_default());
        match kind {
            DESCRIPTION => described(body, count, &mut numbers),
            RTCP_BYE => numbers.extend(words(body).take(count)),
            _ => numbers.extend(words(body).next()),
        }
    }
    numbers.into_iter()
}

/// Chunks: a number, items with their length, a 0, and up to the next multiple of four.
fn described(body: &[u8], count: usize, numbers: &mut Vec<u32>) {
    let mut at = 0;
    for _ in 0..count {
        let Some(number) = body.get(at..at + 4).and_then(|chunk| words(chunk).next()) else { return };
        numbers.push(number);
        at += 4;
        while let Some([kind, length]) = body.get(at..at + 2)
            && *kind != 0
        {
            at += 2 + usize::from(*length);
        }
        at = (at + 1).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(contributors: &[u32]) -> gst::Buffer {
        gst::init().unwrap();
        let mut bytes = vec![0x80 | contributors.len() as u8, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        bytes.extend(contributors.iter().flat_map(|number| number.to_be_bytes()));
        bytes.extend([0xff; 100]);
        gst::Buffer::from_slice(bytes)
    }

    #[test]
    fn a_mixer_has_its_contributors_and_nobody_has_always_new_ones() {
        let (senders, now) = (Senders::default(), Instant::now());
        for _ in 0..1000 {
            assert!(
                senders.has_room_for(&packet(&[]), true, now) && senders.has_room_for(&packet(&[1, 2, 3]), true, now)
            );
        }
        // With the sender and three contributors there are 252 more.
        let many: Vec<bool> = (10..300).map(|number| senders.has_room_for(&packet(&[number]), true, now)).collect();
        assert_eq!(many.iter().filter(|room| **room).count(), MOST - 4);
        assert!(senders.has_room_for(&packet(&[1000]), true, now + WINDOW), "who is silent is forgotten");
    }

    #[test]
    fn senders_in_rtcp_are_found_wherever_they_stand() {
        let report = [0x80, 200, 0, 6, 0, 0, 0, 1].into_iter().chain([9; 20]);
        // Two chunks: a name of five letters with an empty note, and nothing.
        let names =
            [0x82, 202, 0, 6, 0, 0, 0, 2, 1, 5, b'a', b'b', b'c', b'd', b'e', 7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
        let bye = [0x82, 203, 0, 2, 0, 0, 0, 4, 0, 0, 0, 5];
        let bytes: Vec<u8> = report.chain(names).chain(bye).collect();
        assert_eq!(rtcp(&bytes).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 198..208_u8) {
            gst::init().unwrap();
            let rtcp = [&[0x9f, kind, 0, 10], bytes.as_slice()].concat();
            let senders = Senders::default();
            for rtp in [true, false] {
                senders.has_room_for(&gst::Buffer::from_slice(bytes.clone()), rtp, Instant::now());
                senders.has_room_for(&gst::Buffer::from_slice(rtcp.clone()), rtp, Instant::now());
            }
        }
    }
}
