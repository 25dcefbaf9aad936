//! RTSP cameras that keep to the letter of nothing, and that other programs show all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::raw_rtsp::{self, Behaviour, Odd, frames};
use crate::common::recorder::{DEADLINE, Options, Running, Seen, settings};
use vtagd::source::{Location, SourceSettings};
use vtagd::stream::status::StreamState;

fn watched(odd: Odd) -> SourceSettings {
    settings(Location::Rtsp(raw_rtsp::start(Behaviour::Odd(odd)).into()))
}

/// It has been up all the time.
fn undisturbed(running: &Running) {
    let report = running.report();
    assert_eq!((report.state, report.reconnects), (StreamState::Up, 0));
}

/// A camera whose sessions end four seconds after the last request, whatever it sends in the meantime; what it has been asked until a few sessions would
/// have ended, from PLAY on.
fn asked_while_playing(public: &'static str, get_parameter: &'static str) -> Vec<String> {
    let odd =
        Odd { public, get_parameter, session: "1;timeout=4", timeout: Some(Duration::from_secs(4)), ..Odd::camera() };
    let requests = Arc::clone(&odd.requests);
    let running = Running::start(watched(odd));
    let deadline = Instant::now() + DEADLINE;
    loop {
        let asked: Vec<String> =
            requests.lock().unwrap().iter().skip_while(|m| *m != "PLAY").skip(1).cloned().collect();
        if asked.len() >= 5 {
            undisturbed(&running);
            return asked;
        }
        assert!(Instant::now() < deadline, "{asked:?}, {:?}", running.report());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_camera_that_ends_sessions_without_requests_is_asked_before_it_does() {
    let asked = asked_while_playing(Odd::camera().public, "200 OK");
    assert!(asked.iter().all(|method| method == "GET_PARAMETER"), "{asked:?}");
}

#[test]
fn a_camera_that_does_not_know_get_parameter_is_asked_for_its_options() {
    for public in ["OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN", "OPTIONS, DESCRIBE, SETUP, PLAY"] {
        let asked = asked_while_playing(public, "501 Not Implemented");
        assert!(asked.iter().all(|method| method == "OPTIONS"), "{asked:?}");
    }
}

#[test]
fn a_camera_that_refuses_get_parameter_is_asked_for_its_options_from_then_on() {
    for refusal in
        ["501 Not Implemented", "405 Method Not Allowed", "454 Session Not Found", "451 Parameter Not Understood"]
    {
        let asked = asked_while_playing("", refusal);
        assert_eq!(asked[0], "GET_PARAMETER", "{refusal}");
        assert!(asked[1..].iter().all(|method| method == "OPTIONS"), "{refusal}: {asked:?}");
    }
}

/// Its first session ends, as requests behind the one that it leaves unanswered are not sent.
#[test]
fn a_camera_that_leaves_get_parameter_unanswered_is_asked_for_its_options_in_later_sessions() {
    let odd = Odd { get_parameter: "", session: "1;timeout=4", timeout: Some(Duration::from_secs(4)), ..Odd::camera() };
    let requests = Arc::clone(&odd.requests);
    let running = Running::start(watched(odd));
    let deadline = Instant::now() + DEADLINE;
    loop {
        let all = requests.lock().unwrap().clone();
        let sessions: Vec<&[String]> = all.split(|method| method == "PLAY").skip(1).collect();
        if let [first, second] = sessions[..]
            && second.len() >= 5
        {
            assert_eq!(first[0], "GET_PARAMETER", "{all:?}");
            assert!(second.iter().all(|method| method == "OPTIONS"), "{all:?}");
            let report = running.report();
            assert_eq!((report.state, report.reconnects), (StreamState::Up, 1));
            return;
        }
        assert!(sessions.len() < 3 && Instant::now() < deadline, "{all:?}, {:?}", running.report());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn no_gaps(frames: &[Seen], most: Duration) {
    let gap = frames.windows(2).map(|pair| pair[1].captured - pair[0].captured).max().unwrap();
    assert!(gap < most, "{gap:?} without a picture");
    assert!(frames.windows(2).all(|pair| pair[1].media >= pair[0].media));
    let (media, real) = (frames[frames.len() - 1].media, frames[frames.len() - 1].captured - frames[0].captured);
    assert!(media.abs_diff(real) < Duration::from_secs(2), "{media:?} of media time in {real:?}");
}

#[test]
fn a_camera_that_begins_a_new_line_of_rtp_once_is_watched_on() {
    let play = |packets: &mut raw_rtsp::Packets, _| {
        for n in 0.. {
            if n == 1 {
                packets.begin_anew();
            }
            frames().iter().try_for_each(|frame| packets.frame(frame))?;
        }
        Ok(())
    };
    let running = Running::start(watched(Odd { play: Box::new(play), ..Odd::camera() }));
    no_gaps(&running.wait_frames(120), Duration::from_secs(10));
    undisturbed(&running);
}

#[test]
fn a_camera_that_begins_a_new_line_of_rtp_at_every_keyframe_is_watched_on() {
    let play = |packets: &mut raw_rtsp::Packets, _| {
        loop {
            for (n, frame) in frames().iter().enumerate() {
                if n % 10 == 0 {
                    packets.begin_anew();
                }
                packets.frame(frame)?;
            }
        }
    };
    let running = Running::start(watched(Odd { play: Box::new(play), ..Odd::camera() }));
    no_gaps(&running.wait_frames(200), Duration::from_secs(10));
    undisturbed(&running);
}

#[test]
fn a_camera_whose_time_stamps_stand_still_is_sampled_by_the_clock() {
    for step in [0, 40] {
        let play = move |packets: &mut raw_rtsp::Packets, _| {
            let mut time = 1000;
            loop {
                for frame in frames() {
                    packets.time = time;
                    packets.frame(&frame)?;
                    time += step;
                }
            }
        };
        let settings = watched(Odd { play: Box::new(play), ..Odd::camera() });
        let interval = Duration::from_millis(500);
        let running = Running::with(settings, Options { interval, ..Options::default() });
        let frames = running.wait_frames(10);
        // One sample for each point of the schedule's grid, however unevenly frames arrive: five of them span more than three intervals.
        let (first, last) = (frames[5], frames[9]);
        let (media, real) = (last.media - first.media, last.captured - first.captured);
        assert!(media >= interval * 3 - Duration::from_millis(20), "{frames:?}");
        assert!(media.abs_diff(real) < Duration::from_secs(2), "{media:?} of media time in {real:?}");
        undisturbed(&running);
    }
}

/// A keyframe every 0.4 s by the camera's clock, and on its way every frame is held up for half as long again as it lasts.
#[test]
fn keyframes_of_a_camera_that_is_always_late_are_as_close_as_it_makes_them() {
    let play = |packets: &mut raw_rtsp::Packets, _| {
        loop {
            for frame in frames() {
                packets.frame(&frame)?;
                std::thread::sleep(Duration::from_millis(24));
            }
        }
    };
    let settings = watched(Odd { play: Box::new(play), ..Odd::camera() });
    let interval = Duration::from_millis(450);
    let running = Running::with(settings, Options { interval, ..Options::default() });
    running.wait_frames(15);
    let report = running.report();
    assert_eq!(report.decode, Some("keyframes"));
    assert!(report.keyframe_interval.is_some_and(|apart| (apart - 0.4).abs() < 0.001), "{report:?}");
    assert!(report.frame_rate.is_some_and(|rate| (rate - 25.0).abs() < 0.1), "{report:?}");
    undisturbed(&running);
}

/// A keyframe every 0.4 s, of which every third, from the second on, does not arrive.
#[test]
fn keyframes_that_are_lost_make_those_that_come_no_further_apart() {
    let play = |packets: &mut raw_rtsp::Packets, _| {
        for group in 0_u32.. {
            for (n, frame) in frames()[..10].iter().enumerate() {
                if n == 0 && group % 3 == 1 {
                    packets.lose();
                } else {
                    packets.frame(frame)?;
                }
            }
        }
        Ok(())
    };
    let settings = watched(Odd { play: Box::new(play), ..Odd::camera() });
    let interval = Duration::from_millis(450);
    let running = Running::with(settings, Options { interval, ..Options::default() });
    let deadline = Instant::now() + DEADLINE;
    for samples in 2..=20 {
        running.wait_frames(samples);
        assert_ne!(running.report().decode, Some("all"));
        assert!(Instant::now() < deadline);
    }
    let report = running.report();
    assert!(report.keyframe_interval.is_some_and(|apart| (apart - 0.4).abs() < 0.001), "{report:?}");
    undisturbed(&running);
}

#[test]
fn media_without_an_address_of_their_own_are_asked_for_at_the_sessions() {
    for session in ["a=control:*\r\n", ""] {
        let odd = match session {
            "" => Odd { description: |text| text.replace("a=control:trackID=0\r\n", ""), ..Odd::camera() },
            _ => Odd {
                description: |text| {
                    text.replace("a=control:trackID=0\r\n", "").replace("t=0 0\r\n", "t=0 0\r\na=control:*\r\n")
                },
                ..Odd::camera()
            },
        };
        let running = Running::start(watched(odd));
        running.wait_frames(10);
        undisturbed(&running);
    }
}

#[test]
fn a_camera_that_does_not_say_where_it_will_send_sends_where_it_was_asked_to() {
    for transport in [
        |_: &str| "RTP/AVP/TCP;unicast".to_owned(),
        |_: &str| String::new(),
        |_: &str| "RTP/AVP/TCP; unicast; interleaved=0-1".to_owned(),
        |_: &str| "RTP/AVP;unicast;interleaved=0-1".to_owned(),
    ] {
        let running = Running::start(watched(Odd { transport, ..Odd::camera() }));
        running.wait_frames(10);
        undisturbed(&running);
    }
}

#[test]
fn a_camera_that_is_wrong_about_its_clock_is_watched() {
    for description in [
        |text: String| text.replace("H264/90000", "H264/1000"),
        |text: String| text.replace("H264/90000", "H264/90001"),
        |text: String| text.replace("H264/90000", "h264/8000"),
    ] {
        let running = Running::start(watched(Odd { description, ..Odd::camera() }));
        no_gaps(&running.wait_frames(50), Duration::from_secs(10));
        undisturbed(&running);
    }
}

#[test]
fn a_camera_that_sends_every_packet_twice_is_watched() {
    let play = |packets: &mut raw_rtsp::Packets, _| {
        packets.copies = 2;
        loop {
            frames().iter().try_for_each(|frame| packets.frame(frame))?;
        }
    };
    let running = Running::start(watched(Odd { play: Box::new(play), ..Odd::camera() }));
    no_gaps(&running.wait_frames(50), Duration::from_secs(10));
    undisturbed(&running);
}

/// Over the connection, although it says that it sends to a group; in the session's part, and in the medium's.
#[test]
fn a_camera_that_describes_a_group_is_watched_over_its_connection() {
    for description in [
        |text: String| text.replace("c=IN IP4 0.0.0.0", "c=IN IP4 239.1.2.3/127"),
        |text: String| text.replace("a=control", "c=IN IP4 239.1.2.3/127\r\na=control"),
        |text: String| text.replace("c=IN IP4 0.0.0.0", "c=IN IP6 ff15::101"),
    ] {
        let running = Running::start(watched(Odd { description, ..Odd::camera() }));
        running.wait_frames(10);
        undisturbed(&running);
    }
}

#[test]
fn a_description_in_latin_1_is_mended_like_another() {
    let description = |text: String| text.replace("s=x", "s=T\u{fc}r").replace("H264/90000", "H264/1000");
    let running = Running::start(watched(Odd { description, ..Odd::camera() }));
    no_gaps(&running.wait_frames(50), Duration::from_secs(10));
    undisturbed(&running);
}
