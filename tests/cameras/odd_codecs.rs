//! Cameras and files whose frames do not come whole: what a packet holds is no picture yet, and is not to be judged as one.

use std::time::Duration;

use crate::common::camera::{Camera, Codec, Content};
use crate::common::recorder::{Options, Running, make, settings};
use vtagd::source::{Decode, Ended, Location, Pace, SourceSettings};

/// Cameras that send in each of these ways give a sample a second with `decode: auto`, as with every frame decoded.
#[test]
fn cameras_whose_packets_hold_parts_of_frames_are_sampled() {
    let picture =
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1";
    for coder in [
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! mpegtsmux ! rtpmp2tpay name=pay0 pt=33",
        "avenc_mpeg4 gop-size=25 ! rtpmp4vpay name=pay0 pt=96 config-interval=1",
        "avenc_mpeg2video gop-size=25 ! rtpmpvpay name=pay0 pt=32",
        "theoraenc keyframe-force=25 ! rtptheorapay name=pay0 pt=96",
        "vp8enc deadline=1 cpu-used=8 keyframe-max-dist=25 ! rtpvp8pay name=pay0 pt=96",
    ] {
        let camera = Camera::start(Content::Launch(format!("{picture} ! {coder}")), Codec::H264, None);
        for decode in [Decode::Auto, Decode::Keyframes] {
            let settings = SourceSettings { decode, ..settings(Location::Rtsp(camera.url().into())) };
            let options = Options { interval: Duration::from_secs(1), ..Options::default() };
            let frames = Running::with(settings, options).wait_frames(4);
            let span = frames[3].media - frames[0].media;
            assert!(span < Duration::from_secs(15), "{coder}, {decode:?}: {span:?}");
        }
    }
}

#[test]
fn b_frames_of_a_slow_camera_are_no_jump_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slow.mp4");
    make(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=320,height=240,framerate=1/2 ! \
         x264enc bframes=3 b-adapt=false b-pyramid=true key-int-max=20 ! h264parse ! mp4mux ! filesink location=\"{}\"",
        path.display()
    ));
    let settings = SourceSettings { pace: Pace::Fast, ..settings(Location::File(path)) };
    let (ended, frames, _) = Running::start(settings).wait_end();
    assert_eq!((ended, frames.len()), (Ended::EndOfFile, 20));
}
