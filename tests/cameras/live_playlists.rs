//! Playlists on the web (HLS): those of live streams that stop, leave what they had as if it were complete, and go on another time; and recordings.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::recorder::{DEADLINE, Running, make, settings};
use crate::common::web::{Server, respond};
use vtagd::source::{Ended, Location, Pace, SourceSettings};
use vtagd::stream::status::StreamState;

const COMPLETE: &str = "#EXT-X-ENDLIST\n";

/// A server with four seconds of video, in segments, and a list of them.
struct Site {
    server: Server,
    names: Vec<String>,
    list: Arc<Mutex<String>>,
    /// How often the list was.
    asked: Arc<AtomicUsize>,
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().display();
        make(&format!(
            "videotestsrc num-buffers=100 pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
             x264enc key-int-max=25 bframes=0 ! h264parse ! hlssink2 target-duration=1 playlist-length=0 max-files=0 \
             location={place}/segment%05d.ts playlist-location={place}/made.m3u8"
        ));
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let segments: BTreeMap<String, Vec<u8>> = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "ts"))
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
            .collect();
        assert!(segments.len() >= 3, "{} segments", segments.len());
        let names = segments.keys().cloned().collect();
        let (list, asked) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
        let (shown, counted) = (Arc::clone(&list), Arc::clone(&asked));
        let server = Server::start(move |request, stream| {
            let name = request.path.trim_start_matches('/');
            if let Some(segment) = segments.get(name) {
                return respond(stream, "200 OK", "Content-Type: video/mp2t\r\n", segment);
            }
            if name != "live.m3u8" {
                return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
            counted.fetch_add(1, Ordering::Relaxed);
            let list = shown.lock().unwrap().clone();
            respond(stream, "200 OK", "Content-Type: application/vnd.apple.mpegurl\r\n", list.as_bytes())
        });
        Self { server, names, list, asked }
    }

    /// From now on the list has all segments, the first of which has the number `first`, and `tags` at its end.
    fn publish(&self, first: usize, tags: &str) {
        let segments: String = self.names.iter().map(|name| format!("#EXTINF:1.0,\n{name}\n")).collect();
        let head = format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
        *self.list.lock().unwrap() = head + &segments + tags;
    }

    fn settings(&self) -> SourceSettings {
        settings(Location::Http(self.server.url("/live.m3u8").into()))
    }

    /// Waits until the list has been asked for `more` times more.
    fn wait_asked(&self, more: usize) {
        let (wanted, deadline) = (self.asked.load(Ordering::Relaxed) + more, Instant::now() + DEADLINE);
        while self.asked.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "the list is not asked for again");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The stream goes down as one that is live, is tried again, shows nothing twice, and goes on when its server does.
fn is_waited_for(site: &Site, running: &Running) {
    let report = running.wait_state(|state| {
        assert!(!matches!(state, StreamState::Ended | StreamState::Failed { .. }), "{state:?}");
        matches!(state, StreamState::Down { .. })
    });
    assert!(
        matches!(&report.state, StreamState::Down { error } if error.contains("the live stream ended")),
        "{report:?}"
    );
    let seen = running.frames().len();
    site.wait_asked(3);
    assert_eq!(running.frames().len(), seen, "what is left of the stream is shown once more");
    site.publish(20, "");
    running.wait_frames(seen + 10);
}

#[test]
fn a_live_stream_whose_playlist_is_closed_is_waited_for() {
    let site = Site::start();
    site.publish(7, "");
    let running = Running::start(site.settings());
    running.wait_frames(10);
    site.publish(7, COMPLETE);
    is_waited_for(&site, &running);
}

/// Its numbers tell that it has moved with a live stream.
#[test]
fn what_is_left_of_a_live_stream_that_stopped_before_is_shown_once_and_the_stream_waited_for() {
    let site = Site::start();
    site.publish(7, COMPLETE);
    let running = Running::start(site.settings());
    running.wait_frames(50);
    is_waited_for(&site, &running);
}

#[test]
fn a_playlist_that_is_a_recording_ends_wherever_its_numbers_begin() {
    let site = Site::start();
    for (first, tags) in [(0, COMPLETE), (1, COMPLETE), (7, "#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-ENDLIST\n")] {
        site.publish(first, tags);
        let settings = SourceSettings { pace: Pace::Fast, ..site.settings() };
        let (ended, seen, _) = Running::start(settings).wait_end();
        assert_eq!(ended, Ended::EndOfFile, "{first} {tags}");
        assert!(seen.len() > 50, "{}", seen.len());
    }
}
