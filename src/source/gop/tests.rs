//! Streams as cameras send them, played through the chooser.

use proptest::prelude::*;

use super::*;

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
        let (verdict, news) = chooser.frame(ms(at), kind, SIZE, interval);
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
        // Six short groups, then a long one.
        changes += play(&mut chooser, SECOND, stream(start, start + 6000, 25)).news.len();
        changes += play(&mut chooser, SECOND, stream(start + 6000, start + 16_000, 250)).news.len();
        start += 16_000;
    }
    assert!((2..=5).contains(&changes), "{changes} changes in {} s", start / 1000);
    assert_eq!(chooser.mode(), Mode::All);
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
        match chooser.frame(ms(at), kind, 500_000, 2 * SECOND).0 {
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
    fn no_time_stamps_make_it_fail(frames in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200), n in 0u8..3) {
        let decode = [Decode::Auto, Decode::Keyframes, Decode::All][usize::from(n)];
        let mut chooser = Chooser::new(decode);
        play(&mut chooser, SECOND, frames.into_iter().map(|(at, key)| (u64::from(at), key)));
    }
}
