//! A camera for demos, tests and benches: serves one H.264 MP4 over RTSP on loopback, looped for ever without a seam.
//!
//! ```text
//! once:        filesrc ─► qtdemux ─► h264parse ─► appsink      the clip's access units, kept in memory
//! per client:  appsrc (live) ─► identity sync=true ─► h264parse ─► rtph264pay ─► RTP over the client's connection
//! ```
//!
//! In: `--file CLIP.mp4 [--port 0] [--mount /demo]`. Out: the URL as the only line on stdout, then pictures until killed.
//! The access units are handed out one by one as the sender asks for them, their PTS moved on by the clip's length at
//! each turn; `identity sync=true` paces them. Nothing queues: a slow client slows only its own pipeline. An MP4 itself
//! could not be looped so: a seek inside an RTSP session shows as a gap in time.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a tool for a person and a script: stdout is its answer

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use gstreamer::prelude::*;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{RTSPMediaFactory, RTSPServer};

/// A clip of more than this many bytes is refused: it is held in memory.
const MAX_CLIP_BYTES: usize = 256 << 20;

#[derive(Parser)]
#[command(about = "Serves an H.264 MP4 over RTSP on loopback, looped")]
struct Args {
    /// The MP4; its video must be H.264.
    #[arg(long)]
    file: PathBuf,
    /// TCP port on 127.0.0.1; 0 lets the system choose.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Path of the stream in the URL.
    #[arg(long, default_value = "/demo")]
    mount: String,
}

/// The clip's access units with their times from its first one, and how long one turn lasts.
struct Clip {
    caps: gstreamer::Caps,
    units: Vec<gstreamer::Buffer>,
    length: gstreamer::ClockTime,
}

impl Clip {
    /// Reads all access units of `file`, as byte-stream with the parameter sets inside.
    fn read(file: &Path) -> anyhow::Result<Self> {
        let pipeline = gstreamer::parse::launch(
            "filesrc name=file ! qtdemux name=demux demux.video_0 ! queue ! h264parse config-interval=-1 \
             ! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=sink sync=false max-buffers=4",
        )?
        .downcast::<gstreamer::Pipeline>()
        .map_err(|_| anyhow::anyhow!("the reading pipeline is no pipeline"))?;
        let part = |name: &str| pipeline.by_name(name).with_context(|| format!("no element {name}"));
        part("file")?.set_property("location", file.to_str().context("the file name is not UTF-8")?);
        let sink = part("sink")?.downcast::<gstreamer_app::AppSink>().map_err(|_| anyhow::anyhow!("no appsink"))?;

        pipeline.set_state(gstreamer::State::Playing).with_context(|| format!("cannot open {}", file.display()))?;
        let mut units = Vec::new();
        let (mut caps, mut bytes, mut end) = (None, 0, gstreamer::ClockTime::ZERO);
        while let Ok(sample) = sink.pull_sample() {
            let mut unit = sample.buffer_owned().context("a sample without a buffer")?;
            bytes += unit.size();
            if bytes > MAX_CLIP_BYTES {
                bail!("{} has more than {} MiB of video: cut a shorter clip", file.display(), MAX_CLIP_BYTES >> 20);
            }
            let pts = unit.pts().context("a frame without a time")?;
            end = end.max(pts + unit.duration().unwrap_or(gstreamer::ClockTime::from_mseconds(40)));
            caps.get_or_insert(sample.caps_owned().context("a sample without caps")?);
            // The buffer is shared with nobody now, so this copies no data.
            unit.make_mut().set_dts(None);
            units.push(unit);
        }
        let failure = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gstreamer::MessageType::Error]));
        pipeline.set_state(gstreamer::State::Null)?;
        if let Some(gstreamer::MessageView::Error(error)) = failure.as_ref().map(|message| message.view()) {
            bail!("cannot read {}: {}", file.display(), error.error());
        }
        let first = units
            .first()
            .and_then(|unit| unit.pts())
            .with_context(|| format!("{} has no H.264 video", file.display()))?;
        for unit in &mut units {
            let pts = unit.pts().and_then(|pts| pts.checked_sub(first));
            unit.make_mut().set_pts(pts.context("the clip's frames are not in order: encode it without B-frames")?);
        }
        Ok(Self { caps: caps.context("no caps")?, units, length: end - first })
    }

    /// The `n`-th access unit of the endless stream.
    fn unit(&self, n: usize) -> gstreamer::Buffer {
        let mut unit = self.units[n % self.units.len()].copy();
        let turns = (n / self.units.len()) as u64;
        let moved = unit.pts().map(|pts| pts + self.length * turns);
        unit.make_mut().set_pts(moved);
        unit
    }
}

/// A factory whose media plays `clip` from its start, for ever; clients that come meanwhile share it.
fn factory(clip: Arc<Clip>) -> RTSPMediaFactory {
    let factory = RTSPMediaFactory::new();
    factory.set_launch(
        "( appsrc name=clip is-live=true format=time max-bytes=4000000 ! identity sync=true \
           ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )",
    );
    factory.set_shared(true);
    factory.connect_media_configure(move |_, media| {
        let source = media.element().downcast::<gstreamer::Bin>().ok().and_then(|bin| bin.by_name("clip"));
        let Some(source) = source.and_then(|source| source.downcast::<gstreamer_app::AppSrc>().ok()) else {
            return eprintln!("rtsp_server: the media has no appsrc named clip");
        };
        source.set_caps(Some(&clip.caps));
        let (clip, mut next) = (clip.clone(), 0);
        let callbacks = gstreamer_app::AppSrcCallbacks::builder().need_data(move |source, _| {
            // An error here means the client has gone; its media is being taken down.
            if source.push_buffer(clip.unit(next)).is_ok() {
                next += 1;
            }
        });
        source.set_callbacks(callbacks.build());
    });
    factory
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.mount.starts_with('/') {
        bail!("--mount must start with a slash, as in /demo");
    }
    gstreamer::init().context("GStreamer does not start: run make setup")?;
    let clip = Arc::new(Clip::read(&args.file)?);

    let server = RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service(&args.port.to_string());
    server.mount_points().context("the server has no mount points")?.add_factory(&args.mount, factory(clip));
    let main_loop = gstreamer::glib::MainLoop::new(None, false);
    let _source =
        server.attach(None).with_context(|| format!("cannot listen on 127.0.0.1:{}: is the port taken?", args.port))?;
    println!("rtsp://127.0.0.1:{}{}", server.bound_port(), args.mount);
    main_loop.run();
    Ok(())
}
