//! Streams as cameras send them, played through the chooser.

use proptest::prelude::*;

use super::*;
use crate::sample::Schedule;

const SECOND: Duration = Duration::from_secs(1);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What became of each frame: the number of frames decoded, the times of keyframes asked about, and the news.
#[derive(Default)]
struct Played {
    decoded: Vec<u64>,
    asked: Vec<u64>,
    news: Vec<News>,
    held: Vec<u64>,
    most_held: usize,
}

const SIZE: usize = 10_000;

/// Plays frames at `times` (ms), keyframes where `key` says so.
fn play(chooser: &mut Chooser, interval: Duration, frames: impl IntoIterator<Item = (u64, bool)>) -> Played {
    let mut played = Played::default();
    for (at, key) in frames {
        let kind = if key { Kind::Key } else { Kind::Delta };
        let (verdict, news) = chooser.frame(ms(at), kind, SIZE, interval, Duration::ZERO);
        played.news.extend(news);
        match verdict {
            Verdict::Decode => played.decoded.push(at),
            Verdict::Ask { hold } => {
                assert!(key);
                played.asked.push(at);
                played.held.clear();
                played.held.extend(hold.then_some(at));
            }
            Verdict::Hold => played.held.push(at),
            Verdict::Release => {
                played.decoded.append(&mut played.held);
                played.decoded.push(at);
            }
            Verdict::Forget => played.held.clear(),
            Verdict::Drop => {}
        }
        played.most_held = played.most_held.max(played.held.len());
    }
    played
}

/// 25 frames a second from `from` to `to` (ms), a keyframe every `gop` frames.
fn stream(from: u64, to: u64, gop: u64) -> impl Iterator<Item = (u64, bool)> {
    (0..(to - from) / 40).map(move |n| (from + n * 40, n % gop == 0))
}

#[test]
fn a_gop_as_long_as_the_interval_is_never_decoded_whole() {
    let mut chooser = Chooser::new(Decode::Auto);
    let played = play(&mut chooser, 2 * SECOND, stream(0, 60_000, 50));
    assert!(played.decoded.is_empty() && played.news.is_empty());
    assert_eq!(played.asked.len(), 30);
    assert_eq!(chooser.mode(), Mode::Keyframes);
    assert_eq!(chooser.keyframe_interval(), Some(2 * SECOND));
    assert_eq!(chooser.frame_rate(), Some(25.0));
}

#[test]
fn a_gop_too_long_for_the_interval_is_decoded_from_its_keyframe_on_without_a_gap() {
    let mut chooser = Chooser::new(Decode::Auto);
    let played = play(&mut chooser, SECOND, stream(0, 30_000, 100));
    let all: Vec<u64> = stream(0, 30_000, 100).map(|(at, _)| at).collect();
    assert_eq!(played.decoded, all);
    assert_eq!(played.news, [News::Rare]);
    // The time until it was noticed, and no more, was held.
    assert!(played.most_held <= 31, "{}", played.most_held);
}

#[test]
fn keyframes_alone_means_keyframes_alone() {
    let mut chooser = Chooser::new(Decode::Keyframes);
    let played = play(&mut chooser, SECOND, stream(0, 30_000, 250));
    assert!(played.decoded.is_empty());
    assert_eq!((played.asked, played.news, played.most_held), (vec![0, 10_000, 20_000], vec![], 0));
}

#[test]
fn all_means_all_from_the_first_keyframe_on() {
    let mut chooser = Chooser::new(Decode::All);
    // The camera is joined in the middle of a group of pictures.
    let joined = (0..20).map(|n| (n * 40, false)).chain(stream(800, 3000, 25));
    let played = play(&mut chooser, SECOND, joined);
    assert_eq!((played.decoded.len(), played.decoded[0]), (55, 800));
    assert_eq!(chooser.keyframe_interval(), Some(SECOND));
}

#[test]
fn when_a_smart_camera_stretches_its_gops_auto_goes_over_and_comes_back() {
    let mut chooser = Chooser::new(Decode::Auto);
    let played = play(&mut chooser, SECOND, stream(0, 10_000, 25).chain(stream(10_000, 30_000, 250)));
    assert_eq!(played.news, [News::Rare]);
    assert_eq!(played.decoded[0], 10_000);
    assert_eq!(*played.decoded.last().unwrap(), 29_960);
    let played = play(&mut chooser, SECOND, stream(30_000, 40_000, 25));
    assert_eq!(played.news, [News::Close]);
    assert_eq!(chooser.mode(), Mode::Keyframes);
}

#[test]
fn a_camera_that_changes_its_mind_is_trusted_less_and_less() {
    let mut chooser = Chooser::new(Decode::Auto);
    let (mut start, mut changes) = (0, 0);
    for _ in 0..40 {
        // Six short groups, then two long ones.
        changes += play(&mut chooser, SECOND, stream(start, start + 6000, 25)).news.len();
        changes += play(&mut chooser, SECOND, stream(start + 6000, start + 16_000, 125)).news.len();
        start += 16_000;
    }
    assert!((2..=5).contains(&changes), "{changes} changes in {} s", start / 1000);
    assert_eq!(chooser.mode(), Mode::All);
}

#[test]
fn one_keyframe_that_is_late_among_many_that_are_not_is_waited_for_with_all_frames_and_then_forgotten() {
    let mut chooser = Chooser::new(Decode::Auto);
    for start in [0, 8000, 16_000] {
        let played = play(&mut chooser, SECOND, stream(start, start + 5000, 25));
        assert_eq!((played.news.len(), played.decoded.len(), chooser.mode()), (0, 0, Mode::Keyframes));
        let played = play(&mut chooser, SECOND, stream(start + 5000, start + 8000, 75));
        assert_eq!((played.news.len(), played.decoded.len(), chooser.mode()), (0, 75, Mode::All));
    }
    assert!(play(&mut chooser, SECOND, stream(24_000, 34_000, 25)).decoded.is_empty());
}

#[test]
fn a_keyframe_that_was_lost_is_not_one_that_the_camera_did_not_make() {
    let mut chooser = Chooser::new(Decode::Auto);
    play(&mut chooser, SECOND, stream(0, 5000, 25));
    for start in (5000..35_000).step_by(2000) {
        // The second keyframe of two is lost, and what refers to it is not decoded.
        let played = play(&mut chooser, SECOND, stream(start, start + 1000, 50));
        chooser.packets_lost();
        let without = play(&mut chooser, SECOND, (0..24).map(|n| (start + 1040 + n * 40, false)));
        assert_eq!((played.news.len() + without.news.len(), played.decoded.len() + without.decoded.len()), (0, 0));
        assert_eq!((played.asked, chooser.mode()), (vec![start], Mode::Keyframes));
    }
    assert_eq!(chooser.keyframe_interval(), Some(SECOND));
}

#[test]
fn where_packets_are_always_lost_keyframes_are_all_for_half_a_minute_and_then_too_far_apart() {
    let mut chooser = Chooser::new(Decode::Auto);
    let mut news = Vec::new();
    for start in (0..80_000).step_by(4000) {
        let first = play(&mut chooser, SECOND, stream(start, start + 1000, 100));
        chooser.packets_lost();
        let rest = play(&mut chooser, SECOND, (0..75).map(|n| (start + 1000 + n * 40, false)));
        assert_eq!(rest.decoded.len(), if start < 32_000 { 0 } else { 75 }, "at {start}");
        news.extend(first.news.into_iter().chain(rest.news).map(|news| (start, news)));
    }
    assert_eq!((news, chooser.mode()), (vec![(32_000, News::Rare)], Mode::All));
    let mut news = Vec::new();
    // Packets that are missing between keyframes that come in time matter to nobody.
    for start in (80_000..90_000).step_by(1000) {
        chooser.packets_lost();
        news.extend(play(&mut chooser, SECOND, stream(start, start + 1000, 25)).news);
    }
    assert_eq!((news, chooser.mode()), (vec![News::Close], Mode::Keyframes));
}

#[test]
fn what_is_known_of_whole_groups_counts_where_packets_are_lost() {
    let mut chooser = Chooser::new(Decode::Auto);
    // Known at ten samples a minute, asked for at one a second.
    assert!(play(&mut chooser, 6 * SECOND, stream(0, 12_000, 100)).news.is_empty());
    let first = play(&mut chooser, SECOND, stream(12_000, 13_000, 100));
    chooser.packets_lost();
    let rest = play(&mut chooser, SECOND, (0..75).map(|n| (13_000 + n * 40, false)));
    assert_eq!((first.news, rest.news, rest.decoded.len()), (vec![], vec![News::Rare], 75));
}

#[test]
fn groups_that_are_too_large_to_be_held_and_lack_packets_are_decoded_whole_after_a_while() {
    let mut chooser = Chooser::new(Decode::Auto);
    let mut first = None;
    for (at, key) in stream(0, 60_000, 100) {
        chooser.packets_lost();
        let kind = if key { Kind::Key } else { Kind::Delta };
        if chooser.frame(ms(at), kind, 500_000, 2 * SECOND, Duration::ZERO).1 == Some(News::Rare) {
            first.get_or_insert(at);
        }
    }
    assert_eq!((first, chooser.mode()), (Some(36_000), Mode::All));
}

#[test]
fn a_stream_without_keyframes_is_decoded_as_soon_where_packets_are_lost() {
    for decode in [Decode::Auto, Decode::All] {
        let mut chooser = Chooser::new(decode);
        let played = play(&mut chooser, SECOND, stream(40, 5000, 1000).map(|(at, _)| (at, false)));
        chooser.packets_lost();
        let rest = play(&mut chooser, SECOND, stream(5000, 20_000, 1000).map(|(at, _)| (at, false)));
        assert_eq!((played.decoded.len(), rest.decoded[0]), (0, 10_040));
    }
}

#[test]
fn waiting_for_a_keyframe_with_all_frames_ends_with_the_connection_and_where_every_frame_is_wanted() {
    let late = |chooser: &mut Chooser| {
        play(chooser, SECOND, stream(0, 5000, 25));
        play(chooser, SECOND, stream(5000, 7000, 75));
        assert_eq!(chooser.mode(), Mode::All);
    };
    let mut chooser = Chooser::new(Decode::Auto);
    late(&mut chooser);
    chooser.begin();
    assert_eq!(chooser.mode(), Mode::Keyframes);
    let mut chooser = Chooser::new(Decode::Auto);
    late(&mut chooser);
    play(&mut chooser, Duration::ZERO, stream(8000, 10_000, 25));
    let played = play(&mut chooser, SECOND, stream(10_000, 20_000, 25));
    assert_eq!((played.news, chooser.mode()), (vec![News::Close], Mode::Keyframes));
}

#[test]
fn jitter_around_the_interval_changes_nothing() {
    let mut chooser = Chooser::new(Decode::Auto);
    let jitter = |at: u64| at * 24 / 23 + [0, 9, 3, 17, 5][(at / 40 % 5) as usize];
    let played = play(&mut chooser, SECOND, stream(0, 600_000, 25).map(|(at, key)| (jitter(at), key)));
    assert!(played.news.is_empty() && played.decoded.is_empty(), "{:?}", played.news);
}

#[test]
fn a_codec_without_delta_units_is_asked_about_every_frame() {
    let mut chooser = Chooser::new(Decode::Auto);
    let played = play(&mut chooser, ms(200), (0..100).map(|n| (n * 400, true)));
    assert_eq!((played.asked.len(), played.news.len(), played.decoded.len()), (100, 0, 0));
}

#[test]
fn where_every_frame_is_sampled_every_frame_is_decoded() {
    let mut chooser = Chooser::new(Decode::Auto);
    let played = play(&mut chooser, Duration::ZERO, stream(0, 4000, 25));
    assert_eq!(played.decoded.len(), 100);
}

#[test]
fn an_interval_that_grows_lets_auto_go_to_keyframes() {
    let mut chooser = Chooser::new(Decode::Auto);
    assert_eq!(play(&mut chooser, SECOND, stream(0, 20_000, 50)).news, [News::Rare]);
    assert_eq!(play(&mut chooser, 2 * SECOND, stream(20_000, 40_000, 50)).news, [News::Close]);
}

#[test]
fn a_stream_without_keyframes_is_decoded_as_it_comes_after_a_while_or_its_owner_is_told() {
    let deltas = || (0..1000).map(|n| (n * 40, false));
    for decode in [Decode::Auto, Decode::All] {
        let mut chooser = Chooser::new(decode);
        let played = play(&mut chooser, SECOND, deltas());
        assert_eq!((played.decoded[0], played.news.len()), (10_000, 1), "{decode:?}");
        assert!(matches!(played.news[0], News::Refresh(_)));
        assert_eq!(chooser.mode(), Mode::All);
    }
    let mut chooser = Chooser::new(Decode::Keyframes);
    let played = play(&mut chooser, SECOND, deltas());
    assert!(played.decoded.is_empty() && matches!(played.news.as_slice(), [News::Absent(_)]), "{:?}", played.news);
}

#[test]
fn frames_shown_before_the_keyframe_they_follow_are_not_decoded_when_decoding_begins_with_it() {
    let mut chooser = Chooser::new(Decode::All);
    // Open groups of pictures: I at 120, then the B frames that are shown before it.
    let frames = [(120, true), (40, false), (80, false), (240, false), (160, false), (200, false)];
    assert_eq!(play(&mut chooser, SECOND, frames).decoded, [120, 240, 160, 200]);
    // Later ones have what they need.
    let frames = [(360, true), (280, false), (320, false), (480, false)];
    assert_eq!(play(&mut chooser, SECOND, frames).decoded, [360, 280, 320, 480]);
    let mut chooser = Chooser::new(Decode::Auto);
    let frames = [(120, true), (40, false), (80, false), (240, false), (420, false)];
    assert_eq!(play(&mut chooser, ms(100), frames).decoded, [120, 240, 420]);
}

#[test]
fn what_is_held_is_bounded_and_the_next_keyframe_begins_anew() {
    let mut chooser = Chooser::new(Decode::Auto);
    let mut most = 0;
    let mut held = 0;
    let mut decoded = Vec::new();
    // 100 Mbit/s: 500 KB a frame, one keyframe every 4 s.
    for (at, key) in stream(0, 12_000, 100) {
        let kind = if key { Kind::Key } else { Kind::Delta };
        match chooser.frame(ms(at), kind, 500_000, 2 * SECOND, Duration::ZERO).0 {
            Verdict::Ask { hold: true } => held = 500_000,
            Verdict::Hold => held += 500_000,
            Verdict::Release => panic!("there is no way back to the keyframe"),
            Verdict::Forget => held = 0,
            Verdict::Decode => decoded.push(at),
            Verdict::Ask { hold: false } | Verdict::Drop => {}
        }
        most = most.max(held);
    }
    assert!(most <= Chooser::MAX_HELD, "{most}");
    assert_eq!(decoded.first(), Some(&4000));
    assert_eq!(decoded.len(), 200);
}

/// A decoder that shows frames in order of time, once so many later ones have come, and whoever samples behind it.
struct Decoder {
    schedule: Schedule,
    reorder: usize,
    waiting: Vec<u64>,
    /// The number, in order of decoding, of the frame that went in last.
    last: Option<usize>,
    /// Frames that went in.
    decoded: usize,
    picked: Vec<u64>,
}

impl Decoder {
    fn new(interval: Duration, reorder: usize) -> Self {
        let schedule = Schedule::new(interval);
        Self { schedule, reorder, waiting: Vec::new(), last: None, decoded: 0, picked: Vec::new() }
    }

    fn look(&mut self, at: u64) {
        if self.schedule.is_sampled(ms(at)) {
            self.picked.push(at);
        }
    }

    fn decode(&mut self, (number, at, kind): (usize, u64, Kind)) {
        // What a frame refers to may be the one before it.
        assert!(kind != Kind::Delta || self.last.is_some_and(|last| last + 1 == number), "{at} without {number} - 1");
        (self.last, self.decoded) = (Some(number), self.decoded + 1);
        let room = if kind == Kind::Idr { 0 } else { self.reorder };
        self.waiting.sort_unstable();
        while self.waiting.len() > room || kind == Kind::Idr && !self.waiting.is_empty() {
            let at = self.waiting.remove(0);
            self.look(at);
        }
        self.waiting.push(at);
        if self.reorder == 0 {
            self.waiting.clear();
            self.look(at);
        }
    }
}

/// Plays frames (in order of decoding: when they are shown, and what they are) through the chooser, the gate and a decoder.
fn watch(decode: Decode, interval: Duration, reorder: usize, frames: &[(u64, Kind)]) -> Decoder {
    let (mut chooser, mut decoder, mut held) = (Chooser::new(decode), Decoder::new(interval, reorder), Vec::new());
    for (number, (at, kind)) in frames.iter().copied().enumerate() {
        let frame = (number, at, kind);
        let ahead = chooser.looks_ahead(interval);
        let until_due = if ahead { decoder.schedule.until_wanted(ms(at)) } else { Duration::ZERO };
        match chooser.frame(ms(at), kind, SIZE, interval, until_due).0 {
            Verdict::Decode => {
                held.clear();
                decoder.decode(frame);
            }
            Verdict::Ask { hold } => {
                held.clear();
                held.extend(hold.then_some(frame));
                decoder.look(at);
            }
            Verdict::Hold => held.push(frame),
            Verdict::Release => {
                held.push(frame);
                // It begins with the keyframe that was decoded alone, or goes on behind the last that went in.
                held.drain(..).for_each(|frame| decoder.decode(frame));
            }
            Verdict::Forget => held.clear(),
            Verdict::Drop => {}
        }
    }
    decoder
}

/// Groups of so many frames at 25 a second, `apart` (1: none) of them from one that is referred to to the next; those between are shown first and sent behind it.
fn groups(gops: &[u64], apart: u64, key: Kind) -> Vec<(u64, Kind)> {
    let (mut frames, mut start) = (Vec::new(), 0);
    for gop in gops {
        frames.push((start * 40, key));
        let mut at = 1;
        while at < *gop {
            let reference = (at + apart - 1).min(gop - 1);
            frames.push(((start + reference) * 40, Kind::Delta));
            frames.extend((at..reference).map(|between| ((start + between) * 40, Kind::Delta)));
            at = reference + 1;
        }
        start += gop;
    }
    frames
}

#[test]
fn of_a_group_nothing_is_decoded_behind_the_last_frame_that_a_sample_needs() {
    let frames = groups(&[50; 40], 1, Kind::Idr);
    let (all, auto) = (watch(Decode::All, SECOND, 0, &frames), watch(Decode::Auto, SECOND, 0, &frames));
    assert_eq!(auto.picked, all.picked);
    // 26 of 50, once the distance of keyframes is known.
    assert!((40 * 26..40 * 26 + 60).contains(&auto.decoded), "{} of {}", auto.decoded, all.decoded);
    // Others may refer to what is before their keyframe: nothing can be left out.
    let frames = groups(&[50; 40], 1, Kind::Key);
    assert_eq!(watch(Decode::Auto, SECOND, 0, &frames).decoded, frames.len());
}

#[test]
fn a_keyframe_that_is_late_costs_no_sample_and_what_is_held_does_not_grow_for_it() {
    let frames = groups(&[[50; 10], [250; 10], [50; 10]].concat(), 1, Kind::Idr);
    let (all, auto) = (watch(Decode::All, SECOND, 0, &frames), watch(Decode::Auto, SECOND, 0, &frames));
    assert_eq!(auto.picked, all.picked);
    let mut chooser = Chooser::new(Decode::Auto);
    play(&mut chooser, SECOND, stream(0, 20_000, 50));
    let mut frame = |at, kind| chooser.frame(ms(at), kind, 3 << 20, SECOND, SECOND).0;
    assert_eq!(frame(20_000, Kind::Idr), Verdict::Decode);
    // Two of them fit, and the sample is far behind the next keyframe.
    let verdicts = [frame(21_000, Kind::Delta), frame(21_040, Kind::Delta), frame(21_080, Kind::Delta)];
    assert_eq!(verdicts, [Verdict::Hold, Verdict::Hold, Verdict::Release]);
    assert_eq!((frame(22_100, Kind::Delta), frame(22_240, Kind::Delta)), (Verdict::Hold, Verdict::Release));
}

#[test]
fn a_reconnect_waits_for_a_keyframe_and_remembers_what_was_learned() {
    let mut chooser = Chooser::new(Decode::Auto);
    play(&mut chooser, SECOND, stream(0, 20_000, 100));
    assert_eq!(chooser.mode(), Mode::All);
    chooser.begin();
    let joined = (0..20).map(|n| (n * 40, false)).chain(stream(800, 9000, 100));
    let played = play(&mut chooser, SECOND, joined);
    assert_eq!((played.decoded[0], chooser.mode()), (800, Mode::All));
}

#[test]
fn time_stamps_that_begin_anew_are_no_distance() {
    let mut chooser = Chooser::new(Decode::Auto);
    let played = play(&mut chooser, SECOND, stream(500_000, 510_000, 25).chain(stream(0, 10_000, 25)));
    assert!(played.news.is_empty() && played.decoded.is_empty());
    assert_eq!(played.asked.len(), 20);
    assert_eq!(chooser.keyframe_interval(), Some(SECOND));
}

proptest! {
    #[test]
    fn auto_never_leaves_a_gap_where_keyframes_come_at_any_distance(gops in prop::collection::vec(1u64..120, 5..40)) {
        let mut chooser = Chooser::new(Decode::Auto);
        let interval = SECOND;
        let mut at = 0;
        let mut frames = Vec::new();
        for gop in gops {
            frames.extend((0..gop).map(|n| (at + n * 40, n == 0)));
            at += gop * 40;
        }
        let played = play(&mut chooser, interval, frames);
        let mut seen = [played.decoded, played.asked].concat();
        seen.sort_unstable();
        let widest = seen.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        // A keyframe may come in the frame behind the last one that was in time. The last group may still be held.
        prop_assert!(widest <= 1240, "{widest} ms without a frame that could be looked at");
        prop_assert!(played.most_held <= 31);
    }

    #[test]
    fn auto_picks_what_decoding_every_frame_picks_and_decodes_no_frame_without_those_it_follows(
        gops in prop::collection::vec(1u64..120, 3..30),
        regular in any::<bool>(),
        apart in 1u64..5,
        interval in 100u64..3000,
        idr in prop::bool::weighted(0.8),
    ) {
        // Longer than the interval: or keyframes alone would do, which are what is picked then.
        let long_enough = |gop: &u64| gop.max(&6) + interval * 13 / 400;
        let gops: Vec<u64> = gops.iter().map(|gop| long_enough(if regular { &gops[0] } else { gop })).collect();
        let frames = groups(&gops, apart, if idr { Kind::Idr } else { Kind::Key });
        let reorder = usize::from(apart > 1);
        let watch = |decode| watch(decode, ms(interval), reorder, &frames);
        let (all, auto) = (watch(Decode::All), watch(Decode::Auto));
        // The end of the clip may still be held.
        let shown = auto.picked.len();
        prop_assert!(shown + 2 >= all.picked.len());
        prop_assert_eq!(&auto.picked, &all.picked[..shown]);
    }

    #[test]
    fn no_time_stamps_make_it_fail(frames in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200), n in 0u8..3) {
        let decode = [Decode::Auto, Decode::Keyframes, Decode::All][usize::from(n)];
        let mut chooser = Chooser::new(decode);
        play(&mut chooser, SECOND, frames.into_iter().map(|(at, key)| (u64::from(at), key)));
    }
}
