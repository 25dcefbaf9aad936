//! A real RTSP camera on loopback: gst-rtsp-server with one or more mounts, on a port that the system chose.
//!
//! ```no_run
//! let mut camera = Camera::start(Content::pattern(320, 240), Codec::H264, None);
//! let url = camera.url();     // rtsp://127.0.0.1:PORT/stream
//! camera.kill();              // connections break, the port is closed
//! camera.restart();           // the same port again
//! ```
//! The server runs on its own thread and main loop; dropping the camera kills it.
#![allow(dead_code)] // every scenario uses a part of it

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer_rtsp_server as rtsp;
use rtsp::glib;
use rtsp::gst_rtsp;
use rtsp::prelude::*;
use url::Url;

/// What the camera sees.
#[derive(Clone, Debug)]
pub enum Content {
    /// A moving test picture, 25 a second.
    Pattern { width: u32, height: u32 },
    /// An MP4 file with H.264 in it, sent as it is, in real time, once per client; its end is the stream's end.
    File(PathBuf),
    /// The same file so many times in a row without a seam (without encoding anew).
    Looped(PathBuf, u32),
    /// A test picture beside sound; the sound is the first stream.
    WithSound { width: u32, height: u32 },
    /// Sound alone.
    Sound,
    /// What a launch description of its own makes; it ends with a payloader called `pay0`.
    Launch(String),
}

impl Content {
    pub fn pattern(width: u32, height: u32) -> Self {
        Self::Pattern { width, height }
    }
}

/// How the camera compresses. Files are sent as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    H264,
    H265,
    Mjpeg,
}

/// Who may watch.
#[derive(Clone, Debug)]
pub struct Auth {
    pub user: String,
    pub password: String,
    /// Digest instead of basic.
    pub digest: bool,
}

/// One address of the camera.
#[derive(Clone, Debug)]
pub struct Mount {
    pub path: String,
    pub content: Content,
    pub codec: Codec,
}

/// The camera. See the module.
pub struct Camera {
    port: u16,
    mounts: Vec<Mount>,
    auth: Option<Auth>,
    /// Certificate and key in PEM; with them it speaks RTSPS alone.
    tls: Option<String>,
    /// How it sends.
    protocols: gst_rtsp::RTSPLowerTrans,
    server: Option<Running>,
    /// The encoders at work, one for each mount with a test picture and a client.
    media: Media,
    // Looped clips live here.
    folder: tempfile::TempDir,
}

type Media = Arc<Mutex<Vec<glib::WeakRef<gst::Element>>>>;

struct Running {
    main_loop: glib::MainLoop,
    thread: JoinHandle<()>,
}

impl Camera {
    /// A camera with one mount, `/stream`.
    pub fn start(content: Content, codec: Codec, auth: Option<Auth>) -> Self {
        Self::with_mounts(vec![Mount { path: "/stream".into(), content, codec }], auth)
    }

    /// A camera with several mounts; clients of one mount share its encoder.
    pub fn with_mounts(mounts: Vec<Mount>, auth: Option<Auth>) -> Self {
        gst::init().expect("GStreamer starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (protocols, media) = (gst_rtsp::RTSPLowerTrans::TCP, Media::default());
        let mut camera = Self { port: 0, mounts, auth, tls: None, protocols, server: None, media, folder };
        camera.restart();
        camera
    }

    /// A camera with one mount that sends over UDP, and answers 461 to whoever asks for anything else.
    pub fn start_udp(content: Content, codec: Codec) -> Self {
        let mut camera = Self::start(content, codec, None);
        camera.protocols = gst_rtsp::RTSPLowerTrans::UDP;
        camera.restart();
        camera
    }

    /// A camera with one mount that speaks RTSPS with the certificate and key in `pem`.
    pub fn start_tls(content: Content, codec: Codec, pem: String) -> Self {
        gst::init().expect("GStreamer starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mounts = vec![Mount { path: "/stream".into(), content, codec }];
        let (protocols, media) = (gst_rtsp::RTSPLowerTrans::TCP, Media::default());
        let mut camera = Self { port: 0, mounts, auth: None, tls: Some(pem), protocols, server: None, media, folder };
        camera.restart();
        camera
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the first mount, without credentials.
    pub fn url(&self) -> Url {
        self.url_of(&self.mounts[0].path)
    }

    pub fn url_of(&self, path: &str) -> Url {
        let scheme = if self.tls.is_some() { "rtsps" } else { "rtsp" };
        Url::parse(&format!("{scheme}://127.0.0.1:{}{path}", self.port)).expect("a URL")
    }

    /// Changes the size of the test picture for those who watch it now, in the middle of their stream.
    pub fn resize(&self, width: i32, height: i32) {
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", width)
            .field("height", height)
            .field("framerate", gst::Fraction::new(25, 1))
            .build();
        let media = self.media.lock().unwrap();
        let filters: Vec<_> = media
            .iter()
            .filter_map(|element| element.upgrade()?.downcast::<gst::Bin>().ok()?.by_name("size"))
            .collect();
        assert!(!filters.is_empty(), "nobody watches a test picture");
        for filter in filters {
            filter.set_property("caps", &caps);
        }
    }

    /// Serves something else under the first mount, on the same port.
    pub fn switch(&mut self, content: Content, codec: Codec) {
        (self.mounts[0].content, self.mounts[0].codec) = (content, codec);
        self.restart();
    }

    /// Breaks every connection and closes the port.
    pub fn kill(&mut self) {
        let Some(running) = self.server.take() else { return };
        running.main_loop.quit();
        running.thread.join().expect("the camera's thread ends well");
    }

    /// Serves (again), on the same port once it has one.
    pub fn restart(&mut self) {
        self.kill();
        let launches: Vec<_> = self.mounts.iter().map(|m| (m.path.clone(), launch(m, self.folder.path()))).collect();
        let (auth, tls, port, protocols) = (self.auth.clone(), self.tls.clone(), self.port, self.protocols);
        let (ready, started) = mpsc::sync_channel(1);
        let media = Arc::clone(&self.media);
        let thread = std::thread::Builder::new()
            .name("camera".into())
            .spawn(move || serve(&launches, auth.as_ref(), tls.as_deref(), (port, protocols), &media, &ready))
            .expect("a thread");
        let (port, main_loop) = started.recv_timeout(Duration::from_secs(20)).expect("the camera starts");
        self.port = port;
        self.server = Some(Running { main_loop, thread });
    }

    pub fn stop(mut self) {
        self.kill();
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port on which nobody listens (until somebody else is given it; good enough for "the camera is off").
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

fn serve(
    launches: &[(String, String)],
    auth: Option<&Auth>,
    tls: Option<&str>,
    (port, protocols): (u16, gst_rtsp::RTSPLowerTrans),
    media: &Media,
    ready: &mpsc::SyncSender<(u16, glib::MainLoop)>,
) {
    let context = glib::MainContext::new();
    let main_loop = glib::MainLoop::new(Some(&context), false);
    context
        .with_thread_default(|| {
            let server = rtsp::RTSPServer::new();
            server.set_address("127.0.0.1");
            server.set_service(&port.to_string());
            let mounts = server.mount_points().expect("mount points");
            for (path, launch) in launches {
                let factory = rtsp::RTSPMediaFactory::new();
                factory.set_launch(launch);
                factory.set_shared(!launch.contains("filesrc"));
                factory.set_protocols(protocols);
                if auth.is_some() || tls.is_some() {
                    factory.add_role_from_structure(
                        &gst::Structure::builder("viewer")
                            .field(rtsp::RTSP_PERM_MEDIA_FACTORY_ACCESS, true)
                            .field(rtsp::RTSP_PERM_MEDIA_FACTORY_CONSTRUCT, true)
                            .build(),
                    );
                }
                let made = Arc::clone(media);
                factory.connect_media_configure(move |_, media| {
                    let mut made = made.lock().unwrap();
                    made.retain(|element| element.upgrade().is_some());
                    made.push(media.element().downgrade());
                });
                mounts.add_factory(path, factory);
            }
            if let Some(auth) = auth {
                server.set_auth(Some(&guard(auth)));
            }
            if let Some(pem) = tls {
                let guard = rtsp::RTSPAuth::new();
                let certificate = rtsp::gio::TlsCertificate::from_pem(pem).expect("a certificate and its key");
                guard.set_tls_certificate(Some(&certificate));
                guard.set_default_token(Some(
                    &mut rtsp::RTSPToken::builder().field(rtsp::RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer").build(),
                ));
                server.set_auth(Some(&guard));
            }
            // After a kill the system may keep the port for a moment.
            let deadline = Instant::now() + Duration::from_secs(10);
            let source = loop {
                match server.attach(Some(&context)) {
                    Ok(source) => break source,
                    Err(error) if Instant::now() > deadline => panic!("the camera cannot listen: {error}"),
                    Err(_) => std::thread::yield_now(),
                }
            };
            let bound = u16::try_from(server.bound_port()).expect("a port");
            // Told from inside the loop: a loop that is asked to quit before it runs would run for ever.
            let (ready, inside) = (ready.clone(), main_loop.clone());
            let started = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
                ready.send((bound, inside.clone())).expect("somebody waits for the camera");
                glib::ControlFlow::Break
            });
            started.attach(Some(&context));
            main_loop.run();
            if let Some(source) = context.find_source_by_id(&source) {
                source.destroy();
            }
            server.client_filter(Some(&mut |_: &rtsp::RTSPServer, client: &rtsp::RTSPClient| {
                client.close();
                rtsp::RTSPFilterResult::Remove
            }));
            while context.iteration(false) {}
        })
        .expect("the main context is ours");
}

fn guard(auth: &Auth) -> rtsp::RTSPAuth {
    let guard = rtsp::RTSPAuth::new();
    let token = rtsp::RTSPToken::builder().field(rtsp::RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer").build();
    if auth.digest {
        guard.set_supported_methods(gst_rtsp::RTSPAuthMethod::Digest);
        guard.add_digest(&auth.user, &auth.password, &token);
    } else {
        guard.set_supported_methods(gst_rtsp::RTSPAuthMethod::Basic);
        guard.add_basic(&rtsp::RTSPAuth::make_basic(&auth.user, &auth.password), &token);
    }
    guard
}

fn launch(mount: &Mount, folder: &Path) -> String {
    let file = |path: &Path| {
        format!(
            "( filesrc location=\"{}\" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 )",
            path.display()
        )
    };
    match &mount.content {
        Content::Pattern { width, height } => format!("( {} )", pattern(*width, *height, mount.codec, "pay0")),
        Content::WithSound { width, height } => format!(
            "( audiotestsrc is-live=true wave=silence ! alawenc ! rtppcmapay name=pay0 pt=8 {} )",
            pattern(*width, *height, mount.codec, "pay1")
        ),
        Content::Sound => "( audiotestsrc is-live=true wave=silence ! alawenc ! rtppcmapay name=pay0 pt=8 )".to_owned(),
        Content::Launch(launch) => format!("( {launch} )"),
        Content::File(path) => file(path),
        Content::Looped(path, times) => {
            let looped = folder.join(format!("{}.mp4", mount.path.trim_matches('/').replace('/', "-")));
            if !looped.exists() {
                repeat(path, *times, &looped);
            }
            file(&looped)
        }
    }
}

/// Writes the video of `path` so many times in a row into a new MP4 file.
fn repeat(path: &Path, times: u32, into: &Path) {
    let turn = format!("filesrc location=\"{}\" ! qtdemux ! h264parse ! queue ! joined. ", path.display());
    let description = format!(
        "concat name=joined ! h264parse ! mp4mux ! filesink location=\"{}\" {}",
        into.display(),
        turn.repeat(times.max(1) as usize)
    );
    let pipeline = gst::parse::launch(&description).expect("a pipeline that joins clips");
    pipeline.set_state(gst::State::Playing).expect("it starts");
    let bus = pipeline.bus().expect("a bus");
    let end =
        bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Eos, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).expect("it stops");
    assert!(end.is_some_and(|m| m.type_() == gst::MessageType::Eos), "{} can be repeated", path.display());
}

fn pattern(width: u32, height: u32, codec: Codec, pay: &str) -> String {
    let encode = match codec {
        Codec::H264 => {
            format!(
                "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name={pay} pt=96 config-interval=-1"
            )
        }
        Codec::H265 => {
            format!(
                "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph265pay name={pay} pt=96 config-interval=-1"
            )
        }
        Codec::Mjpeg => format!("jpegenc ! rtpjpegpay name={pay} pt=26"),
    };
    format!(
        "videotestsrc is-live=true pattern=ball ! capsfilter name=size \
         caps=video/x-raw,format=I420,width={width},height={height},framerate=25/1 ! {encode}"
    )
}
