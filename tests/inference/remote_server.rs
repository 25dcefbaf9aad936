//! A model on a server, with a server that does what the test says: the same embeddings as on this machine, every way in which it may be away, slow,
//! wrong or full, who stands in meanwhile, and what is told of it. Each case is a process of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use vtagd::infer::options::ProviderChoice;
use vtagd::infer::remote::tile_bytes::PixelScale;
use vtagd::infer::remote::{Carrier, RemoteOptions, ServerUrl, TileInput};
use vtagd::infer::runtime::{self, Runtime};
use vtagd::infer::session::OrtImageEncoder;
use vtagd::infer::sessions::{self, Opened};
use vtagd::infer::{BatchSize, ImageEncoder, InferError, InferSettings, Provider};
use vtagd::model::Bundle;
use vtagd::platform::secret::Secret;
use vtagd::platform::tls::Trust;
use vtagd::preprocess::Spec;

use super::fake_inference_server::{FakeServer, Mode, Seen, Tower};
use crate::common::authority::Authority;
use crate::common::daemon::{Daemon, eventually, root, vtagd};

/// A model, what computes it here, and a folder for it.
struct Bench {
    folder: tempfile::TempDir,
    runtime: Runtime,
    bundle: Bundle,
    size: (usize, usize),
    affine: PixelScale,
}

fn imported(folder: &Path) -> PathBuf {
    let out = folder.join("model");
    let checkpoint = root().join("tests/conformance/checkpoints/hf-clip-quickgelu");
    let output = vtagd(folder).args(["model", "import", "--out"]).arg(&out).arg(checkpoint).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    out
}

/// Turns the embedding that the bundle knows of its probe picture around.
fn turn_probe(model: &Path) {
    let file = model.join("vtagd.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let values = manifest["probe"]["embedding"].as_array_mut().unwrap();
    values.iter_mut().for_each(|value| *value = serde_json::json!(-value.as_f64().unwrap()));
    std::fs::write(&file, manifest.to_string()).unwrap();
}

/// What is found once by computing lies there, apart from that of other tests.
#[expect(
    clippy::disallowed_methods,
    reason = "the library is not asked for its cache otherwise, and no other thread runs yet"
)]
fn cache_of_its_own(folder: &Path) {
    // SAFETY: a test has a process of its own, and nothing else of it runs yet.
    unsafe { std::env::set_var("VTAGD_CACHE", folder.join("cache")) };
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        cache_of_its_own(folder.path());
        let model = imported(folder.path());
        Self::over(folder, &model)
    }

    fn over(folder: tempfile::TempDir, model: &Path) -> Self {
        let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
        let spec = Spec::from_file(&model.join("preprocessor_config.json")).unwrap();
        let ((height, width), (scale, bias)) = (spec.size(), spec.affine());
        let bundle = Bundle::open_with_cache(model, None).unwrap();
        Self { folder, runtime, bundle, size: (height as usize, width as usize), affine: PixelScale { scale, bias } }
    }

    fn local(&self) -> OrtImageEncoder {
        // Without the probe: some tests turn it around.
        let bundle = Bundle { known: None, ..self.bundle.clone() };
        let settings = InferSettings { threads: 1, ..InferSettings::default() };
        OrtImageEncoder::open(&self.runtime, &bundle, &settings, self.size).unwrap()
    }

    fn tower(&self, bytes: bool) -> Arc<Tower> {
        Arc::new(Tower {
            encoder: Mutex::new(Box::new(self.local())),
            affine: self.affine,
            side: self.size.0,
            bytes,
            mode: Mutex::new(Mode::Good),
            seen: Seen::default(),
        })
    }

    fn open(&self, options: RemoteOptions, behind: &[Provider], strict: bool) -> Result<Opened, InferError> {
        let remote = ProviderChoice::Remote(Box::new(options));
        let providers = std::iter::once(remote).chain(behind.iter().map(|provider| (*provider).into())).collect();
        let max_size = BatchSize::Pictures(8);
        let settings = InferSettings { providers, strict, max_size, threads: 1, ..InferSettings::default() };
        sessions::open(&self.runtime, &self.bundle, &settings, self.size, self.affine)
    }

    /// Pictures as preprocessing makes them: whole numbers, scaled.
    fn pictures(&self, count: usize) -> Vec<f32> {
        let plane = self.size.0 * self.size.1;
        (0..count * 3 * plane)
            .map(|i| {
                let (picture, channel, place) = (i / (3 * plane), i / plane % 3, i % plane);
                let byte = (place * (picture + 2) + place / self.size.1 * (7 + picture) + channel * 31) % 256;
                byte as f32 * self.affine.scale[channel] + self.affine.bias[channel]
            })
            .collect()
    }
}

fn to(server: &FakeServer, carrier: Carrier) -> RemoteOptions {
    let url =
        ServerUrl { carrier, tls: false, host: "127.0.0.1".into(), port: server.address.port(), base: String::new() };
    // Far beyond what a run takes, even on a machine with much else to do.
    RemoteOptions { urls: vec![url], model: "m".into(), timeout: Duration::from_secs(20), ..RemoteOptions::default() }
}

fn least_cosine(ours: &[f32], theirs: &[f32], dim: usize) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let rows = ours.chunks(dim).zip(theirs.chunks(dim));
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()).fold(1.0, f32::min)
}

/// What `encoder` gives for `count` pictures, held against this machine's own.
fn agrees(bench: &Bench, encoder: &mut dyn ImageEncoder, count: usize) {
    let (pictures, mut rows, mut own) = (bench.pictures(count), Vec::new(), Vec::new());
    encoder.encode(&pictures, count, &mut rows).unwrap();
    bench.local().encode(&pictures, count, &mut own).unwrap();
    let cosine = least_cosine(&rows, &own, encoder.dim());
    assert!(cosine > 0.9999, "{cosine}");
}

#[test]
fn a_server_gives_what_this_machine_would_over_grpc_and_http_for_bytes_and_floats() {
    let bench = Bench::new();
    for (carrier, bytes) in
        [(Carrier::Grpc, true), (Carrier::Grpc, false), (Carrier::Http, true), (Carrier::Http, false)]
    {
        let tower = bench.tower(bytes);
        let server = FakeServer::start(&tower, carrier == Carrier::Grpc, None, None);
        let mut opened = bench.open(to(&server, carrier), &[], true).unwrap();
        tower.seen.pixel_bytes.store(0, Ordering::SeqCst);
        let encoder = opened.encoders[0].as_mut();
        assert_eq!(encoder.provider(), Provider::Remote);
        agrees(&bench, encoder, 5);
        let each = 3 * bench.size.0 * bench.size.1 * if bytes { 1 } else { 4 };
        assert_eq!(tower.seen.pixel_bytes.load(Ordering::SeqCst), 5 * each, "{carrier:?}");
        let view = opened.link.as_ref().unwrap().view();
        assert_eq!((view.state, view.input), ("up", Some(if bytes { "u8" } else { "f32" })));
    }
}

#[test]
fn nothing_is_computed_here_for_a_server_that_is_sent_floats_and_a_bundle_that_knows_its_probe() {
    let bench = Bench::new();
    let computed = || {
        let files = std::fs::read_dir(bench.folder.path().join("cache")).into_iter().flatten();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("probe-")).count()
    };
    for (bytes, input, files) in [(false, TileInput::F32, 0), (false, TileInput::U8, 0), (true, TileInput::U8, 1)] {
        let server = FakeServer::start(&bench.tower(bytes), true, None, None);
        let opened = bench.open(RemoteOptions { input, ..to(&server, Carrier::Grpc) }, &[], true).unwrap();
        assert_eq!((computed(), opened.link.unwrap().view().state), (files, "up"), "bytes: {bytes}, {input:?}");
    }
}

#[test]
fn a_start_that_may_go_on_without_the_server_does_not_wait_long_for_one_that_hangs() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    tower.set(Mode::Hang);
    let server = FakeServer::start(&tower, true, None, None);
    let options = RemoteOptions { timeout: Duration::from_secs(120), ..to(&server, Carrier::Grpc) };
    let began = Instant::now();
    let mut opened = bench.open(options, &[Provider::Cpu], false).unwrap();
    agrees(&bench, opened.encoders[0].as_mut(), 2);
    assert_eq!((opened.encoders[0].provider(), opened.link.as_ref().unwrap().view().state), (Provider::Cpu, "away"));
    drop(opened);
    assert!(began.elapsed() < Duration::from_secs(60), "and its end does not wait either: {:?}", began.elapsed());
}

#[test]
fn a_strict_start_at_a_server_that_hangs_ends_soon_and_names_it() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    tower.set(Mode::Hang);
    let server = FakeServer::start(&tower, true, None, None);
    let first = RemoteOptions { timeout: Duration::from_secs(300), ..to(&server, Carrier::Grpc) };
    let urls = vec![first.urls[0].clone(), first.urls[0].clone()];
    let began = Instant::now();
    let error = bench.open(RemoteOptions { urls, ..first }, &[], true).err().expect("it is refused").to_string();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let named = format!("remote: grpc://127.0.0.1:{}: no answer within ", server.address.port());
    assert!(error.contains(&named) && error.contains("set strict: false"), "{error}");
}

#[test]
fn a_strict_start_takes_the_second_address_where_the_first_hangs_however_long_a_batch_may_take() {
    let bench = Bench::new();
    let (hanging, good) = (bench.tower(true), bench.tower(true));
    hanging.set(Mode::Hang);
    let (first, second) = (FakeServer::start(&hanging, true, None, None), FakeServer::start(&good, true, None, None));
    let options = RemoteOptions { timeout: Duration::from_secs(300), ..to(&first, Carrier::Grpc) };
    let urls = vec![options.urls[0].clone(), to(&second, Carrier::Grpc).urls.remove(0)];
    let opened = bench.open(RemoteOptions { urls, ..options }, &[], true).unwrap();
    assert_eq!(*hanging.seen.batches.lock(), [0], "the first is asked once");
    let view = opened.link.unwrap().view();
    assert_eq!((view.state, view.url), ("up", format!("grpc://127.0.0.1:{}", second.address.port())));
}

#[test]
fn a_server_that_answers_something_else_is_never_trusted() {
    let bench = Bench::new();
    for (mode, told) in [
        (Mode::FewRows, "shape"),
        (Mode::NotANumber, "not finite"),
        (Mode::Negated, "it computes something else"),
        (Mode::Reversed, "it computes something else"),
        (Mode::Swapped, "do not stand in the order"),
        (Mode::Oversize(64 << 20), "decoded message length too large"),
    ] {
        let tower = bench.tower(true);
        tower.set(mode);
        let server = FakeServer::start(&tower, true, None, None);
        let error = bench.open(to(&server, Carrier::Grpc), &[], true).err().expect("it is refused").to_string();
        assert!(error.contains("remote: ") && error.contains(told), "{mode:?}: {error}");
    }
    let tower = bench.tower(true);
    tower.set(Mode::Oversize(64 << 20));
    let server = FakeServer::start(&tower, false, None, None);
    let error = bench.open(to(&server, Carrier::Http), &[], true).err().unwrap().to_string();
    assert!(error.contains("more than") && error.contains("bytes"), "{error}");
}

#[test]
fn batches_go_in_parts_that_a_message_holds_and_a_server_takes() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let server = FakeServer::start(&tower, true, None, None);
    let picture = 3 * bench.size.0 * bench.size.1;
    let options = RemoteOptions { max_message: (5 * picture + (17 << 10)) as u64, ..to(&server, Carrier::Grpc) };
    let mut opened = bench.open(options, &[], true).unwrap();
    tower.seen.batches.lock().clear();
    agrees(&bench, opened.encoders[0].as_mut(), 8);
    assert_eq!(*tower.seen.batches.lock(), [5, 3], "as many as a message holds");

    tower.set(Mode::AtMost(3));
    tower.seen.batches.lock().clear();
    agrees(&bench, opened.encoders[0].as_mut(), 8);
    assert_eq!(*tower.seen.batches.lock(), [5, 2, 2, 2, 2], "half as many as were refused");
    tower.seen.batches.lock().clear();
    agrees(&bench, opened.encoders[0].as_mut(), 4);
    assert_eq!(*tower.seen.batches.lock(), [2, 2], "and that is remembered");
    assert_eq!(opened.link.unwrap().view().state, "up");
}

#[test]
fn while_the_server_is_away_the_next_provider_computes_and_afterwards_the_server_again() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let server = FakeServer::start(&tower, true, None, None);
    let mut opened = bench.open(to(&server, Carrier::Grpc), &[Provider::Cpu], false).unwrap();
    let encoder = opened.encoders[0].as_mut();
    agrees(&bench, encoder, 2);
    assert_eq!((encoder.provider(), tower.seen.metadata.load(Ordering::SeqCst)), (Provider::Remote, 1));
    let address = server.kill();
    // The first batch after it may wait for the server to come back.
    agrees(&bench, encoder, 2);
    assert_eq!(encoder.provider(), Provider::Cpu);
    let view = opened.link.as_ref().unwrap().view();
    assert_eq!((view.state, view.fallback), ("away", Some("cpu")));
    let server = FakeServer::start(&tower, true, Some(address), None);
    eventually("the server computes again", || {
        agrees(&bench, encoder, 2);
        (encoder.provider() == Provider::Remote).then_some(())
    });
    assert_eq!(tower.seen.metadata.load(Ordering::SeqCst), 2, "asked and probed anew");
    drop(server);
}

#[test]
fn a_server_that_is_started_again_within_a_batchs_time_loses_none() {
    let bench = Bench::new();
    for carrier in [Carrier::Grpc, Carrier::Http] {
        let tower = bench.tower(true);
        let server = FakeServer::start(&tower, carrier == Carrier::Grpc, None, None);
        let mut opened = bench.open(to(&server, carrier), &[], true).unwrap();
        agrees(&bench, opened.encoders[0].as_mut(), 2);
        let address = server.kill();
        let _server = FakeServer::start(&tower, carrier == Carrier::Grpc, Some(address), None);
        agrees(&bench, opened.encoders[0].as_mut(), 2);
        assert_eq!(tower.seen.metadata.load(Ordering::SeqCst), 2, "{carrier:?}");
    }
}

#[test]
fn a_second_address_is_taken_when_the_first_is_dead() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let (dead, server) = (FakeServer::start(&tower, true, None, None), FakeServer::start(&tower, true, None, None));
    let mut options = to(&dead, Carrier::Grpc);
    options.urls.extend(to(&server, Carrier::Grpc).urls);
    let mut opened = bench.open(options, &[], true).unwrap();
    agrees(&bench, opened.encoders[0].as_mut(), 1);
    dead.kill();
    agrees(&bench, opened.encoders[0].as_mut(), 1);
    let view = opened.link.unwrap().view();
    assert_eq!((view.state, view.url), ("up", format!("grpc://{}", server.address)));
}

#[test]
fn a_server_that_hangs_costs_a_batch_its_time_and_is_then_left_alone() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let server = FakeServer::start(&tower, true, None, None);
    let options = RemoteOptions { timeout: Duration::from_secs(2), ..to(&server, Carrier::Grpc) };
    let mut opened = bench.open(options, &[], true).unwrap();
    tower.set(Mode::Hang);
    tower.seen.batches.lock().clear();
    let (pictures, mut rows) = (bench.pictures(1), Vec::new());
    for _ in 0..3 {
        let error = opened.encoders[0].encode(&pictures, 1, &mut rows).unwrap_err().to_string();
        assert!(error.contains("no answer within") && error.contains("add `cpu`") && rows.is_empty(), "{error}");
    }
    assert_eq!(tower.seen.batches.lock().len(), 3);
    let link = opened.link.as_ref().unwrap();
    assert_eq!(link.view().state, "slow");
    let began = Instant::now();
    let error = opened.encoders[0].encode(&pictures, 1, &mut rows).unwrap_err().to_string();
    assert!(began.elapsed() < Duration::from_secs(1), "nobody is asked, so nobody is waited for: {error}");

    tower.set(Mode::Good);
    let link = Arc::clone(link);
    eventually("the server is trusted again", || link.server().is_ok().then_some(()));
    // However slow this machine is at the moment.
    eventually("it computes again", || opened.encoders[0].encode(&pictures, 1, &mut rows).ok());
    assert_eq!(rows.len(), opened.encoders[0].dim());
}

#[test]
fn a_run_that_waits_for_the_server_can_be_told_to_end() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let server = FakeServer::start(&tower, true, None, None);
    let mut opened = bench.open(to(&server, Carrier::Grpc), &[Provider::Cpu], false).unwrap();
    tower.set(Mode::Hang);
    tower.seen.batches.lock().clear();
    let stop = opened.encoders[0].stopper().unwrap();
    let seen = Arc::clone(&tower);
    let teller = std::thread::spawn(move || {
        eventually("the server is asked", || (!seen.seen.batches.lock().is_empty()).then_some(()));
        stop.stop();
    });
    let (pictures, mut rows) = (bench.pictures(1), Vec::new());
    let (began, error) = (Instant::now(), opened.encoders[0].encode(&pictures, 1, &mut rows).unwrap_err());
    assert!(began.elapsed() < Duration::from_secs(15) && error.to_string().contains("told to end"), "{error}");
    teller.join().unwrap();
}

#[test]
fn a_server_that_is_full_is_asked_once_more_and_then_the_next_provider_computes() {
    let bench = Bench::new();
    for carrier in [Carrier::Grpc, Carrier::Http] {
        let tower = bench.tower(true);
        let server = FakeServer::start(&tower, carrier == Carrier::Grpc, None, None);
        let mut opened = bench.open(to(&server, carrier), &[Provider::Cpu], false).unwrap();
        tower.set(Mode::Full);
        tower.seen.batches.lock().clear();
        agrees(&bench, opened.encoders[0].as_mut(), 2);
        assert_eq!((opened.encoders[0].provider(), tower.seen.batches.lock().len()), (Provider::Cpu, 2));
        tower.set(Mode::Good);
        tower.seen.batches.lock().clear();
        agrees(&bench, opened.encoders[0].as_mut(), 2);
        assert_eq!(opened.encoders[0].provider(), Provider::Remote, "one full moment is forgiven");
        assert_eq!(*tower.seen.batches.lock(), [3], "with the probe: it may have loaded another model");
    }
}

#[test]
fn what_a_proxy_before_the_server_says_is_the_same_decision_over_grpc_and_http() {
    let bench = Bench::new();
    for carrier in [Carrier::Grpc, Carrier::Http] {
        let tower = bench.tower(true);
        let server = FakeServer::start(&tower, carrier == Carrier::Grpc, None, None);
        let mut opened = bench.open(to(&server, carrier), &[Provider::Cpu], false).unwrap();
        let encoder = opened.encoders[0].as_mut();
        tower.set(Mode::ProxySays(502, 0));
        tower.seen.batches.lock().clear();
        agrees(&bench, encoder, 2);
        let asked = tower.seen.batches.lock().len();
        assert_eq!((encoder.provider(), asked), (Provider::Cpu, 2), "{carrier:?}: once more");

        tower.set(Mode::Good);
        agrees(&bench, encoder, 2);
        tower.set(Mode::ProxySays(413, 3));
        tower.seen.batches.lock().clear();
        agrees(&bench, encoder, 8);
        assert_eq!(encoder.provider(), Provider::Remote, "{carrier:?}");
        assert_eq!(*tower.seen.batches.lock(), [8, 4, 2, 2, 2, 2], "{carrier:?}: in parts");
    }
}

#[test]
fn an_error_with_a_status_of_success_is_told_and_costs_no_connection() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let server = FakeServer::start(&tower, false, None, None);
    tower.set(Mode::ErrorIn200);
    let error = bench.open(to(&server, Carrier::Http), &[], true).err().expect("its model is not there").to_string();
    assert!(error.contains("the model is being loaded") && !error.contains("wants grpc"), "{error}");

    tower.set(Mode::Good);
    let mut opened = bench.open(to(&server, Carrier::Http), &[], true).unwrap();
    let connections = tower.seen.metadata.load(Ordering::SeqCst);
    tower.set(Mode::ErrorIn200);
    let (pictures, mut rows) = (bench.pictures(2), Vec::new());
    let error = opened.encoders[0].encode(&pictures, 2, &mut rows).unwrap_err().to_string();
    assert!(error.contains("the model is being loaded") && !error.contains("wants grpc"), "{error}");
    tower.set(Mode::Good);
    agrees(&bench, opened.encoders[0].as_mut(), 2);
    assert_eq!(tower.seen.metadata.load(Ordering::SeqCst), connections);
}

#[test]
fn another_version_of_the_model_on_the_same_connection_has_to_agree_with_the_probe() {
    let bench = Bench::new();
    for carrier in [Carrier::Grpc, Carrier::Http] {
        let tower = bench.tower(true);
        let server = FakeServer::start(&tower, carrier == Carrier::Grpc, None, None);
        let mut opened = bench.open(to(&server, carrier), &[], true).unwrap();
        agrees(&bench, opened.encoders[0].as_mut(), 2);
        tower.set(Mode::OtherVersion);
        for _ in 0..2 {
            agrees(&bench, opened.encoders[0].as_mut(), 2);
            assert_eq!(tower.seen.metadata.load(Ordering::SeqCst), 2, "{carrier:?}: asked and probed anew, once");
        }
    }
}

#[test]
fn a_connection_that_was_closed_while_nothing_was_asked_is_made_anew_in_the_batchs_own_time_and_is_no_fault() {
    let bench = Bench::new();
    for carrier in [Carrier::Grpc, Carrier::Http] {
        let tower = bench.tower(true);
        let server = FakeServer::start(&tower, carrier == Carrier::Grpc, None, None);
        let mut opened = bench.open(to(&server, carrier), &[Provider::Cpu], false).unwrap();
        let link = Arc::clone(opened.link.as_ref().unwrap());
        let since = link.view().since;
        tower.set(Mode::ClosesIdle);
        for connections in 2..4 {
            eventually("the server hangs up", || (tower.seen.open.load(Ordering::SeqCst) == 0).then_some(()));
            // Until this side has heard of it, which nothing tells.
            std::thread::sleep(Duration::from_millis(500));
            agrees(&bench, opened.encoders[0].as_mut(), 2);
            assert_eq!(opened.encoders[0].provider(), Provider::Remote, "{carrier:?}");
            let view = link.view();
            assert_eq!((view.state, view.since), ("up", since), "{carrier:?}");
            assert_eq!(tower.seen.metadata.load(Ordering::SeqCst), connections, "{carrier:?}: probed each time");
        }
    }
}

#[test]
fn the_probe_inside_a_batch_finds_a_server_that_has_changed() {
    let bench = Bench::new();
    for mode in [Mode::Negated, Mode::Reversed] {
        let tower = bench.tower(true);
        let server = FakeServer::start(&tower, true, None, None);
        let mut opened = bench.open(to(&server, Carrier::Grpc), &[Provider::Cpu], false).unwrap();
        let link = Arc::clone(opened.link.as_ref().unwrap());
        link.probe_soon();
        tower.seen.batches.lock().clear();
        agrees(&bench, opened.encoders[0].as_mut(), 4);
        agrees(&bench, opened.encoders[0].as_mut(), 4);
        assert_eq!(*tower.seen.batches.lock(), [5, 4], "one picture more, and not in the next batch");

        tower.set(mode);
        link.probe_soon();
        // Not in the middle, where turning a batch around would leave it.
        agrees(&bench, opened.encoders[0].as_mut(), 3);
        assert_eq!((opened.encoders[0].provider(), link.view().state), (Provider::Cpu, "wrong"), "{mode:?}");
        let told = link.view().reason.unwrap();
        assert!(told.contains("something else"), "{told}");
    }
}

#[test]
fn a_provider_that_does_not_agree_with_the_probe_never_stands_in() {
    let folder = tempfile::tempdir().unwrap();
    cache_of_its_own(folder.path());
    let model = imported(folder.path());
    turn_probe(&model);
    let bench = Bench::over(folder, &model);
    // The server has the model that the bundle speaks of, this machine another one.
    let tower = bench.tower(false);
    tower.set(Mode::Negated);
    let server = FakeServer::start(&tower, true, None, None);
    let mut opened = bench.open(to(&server, Carrier::Grpc), &[Provider::Cpu], false).unwrap();
    assert_eq!(opened.refused.len(), 1);
    let reason = &opened.refused[0].reason;
    assert!(reason.contains("vision_model.onnx") && reason.contains("another model"), "{reason}");
    let (pictures, mut rows) = (bench.pictures(2), Vec::new());
    opened.encoders[0].encode(&pictures, 2, &mut rows).unwrap();
    server.kill();
    let options = opened.link.as_ref().unwrap().view();
    assert_eq!(options.fallback, None);
    let began = Instant::now();
    assert!(opened.encoders[0].encode(&pictures, 2, &mut rows).is_err() && rows.is_empty());
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_token_and_a_certificate_go_to_the_server_and_nowhere_else() {
    let bench = Bench::new();
    let authority = Authority::new(bench.folder.path(), "company");
    authority.issue("gpu");
    let mut tls = (*authority.server("gpu", false)).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tower = bench.tower(true);
    let server = FakeServer::start(&tower, true, None, Some(Arc::new(tls)));
    let mut options = to(&server, Carrier::Grpc);
    options.urls[0].tls = true;
    options.urls[0].host = "localhost".into();
    options.token = Some(Secret::new("hunter2-and-more"));
    let error = bench.open(options.clone(), &[], true).err().expect("an authority nobody knows").to_string();
    assert!(!error.contains("hunter2"), "{error}");
    assert_eq!(*tower.seen.authorization.lock(), None, "not before it is known who is there");
    options.trust = Trust { ca: Some(bench.folder.path().join("company.pem")), identity: None };
    let mut opened = bench.open(options, &[], true).unwrap();
    agrees(&bench, opened.encoders[0].as_mut(), 2);
    assert_eq!(tower.seen.authorization.lock().as_deref(), Some("Bearer hunter2-and-more"));
}

#[test]
fn the_daemon_goes_on_without_its_server_and_says_so_everywhere() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let server = FakeServer::start(&tower, true, None, None);
    let folder = bench.folder.path();
    std::fs::write(folder.join("things.yaml"), "set: things\nlabels: [{ name: cat }]\nbackground: [a room]\n").unwrap();
    let clip = root().join("demo/clip.mp4");
    let config = format!(
        "model: {{ path: {} }}\nruntime: {{ providers: [ {{ remote: {{ url: \"grpc://{}\", model: m, timeout: 3s }} }} ] }}\n\
         sampling: {{ interval: 500ms }}\nevents: {{ enter: 0.01, exit: 0, after: 0s }}\n\
         streams: [{{ id: a, url: \"file://{}\", loop: true }}]\nlabels: [things.yaml]\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: \"127.0.0.1:0\" }}\n",
        bench.bundle.dir.display(),
        server.address,
        clip.display()
    );
    let mut daemon = Daemon::start(folder, &config);
    daemon.wait_ready();
    let ready: Value = serde_json::from_str(&daemon.get("/readyz").1).unwrap();
    assert_eq!((&ready["provider"], &ready["server"]["state"]), (&"remote".into(), &"up".into()), "{ready}");
    let event = eventually("an event", || daemon.events().into_iter().next());
    assert_eq!(event["data"]["model"]["provider"], "remote", "{event}");

    let address = server.kill();
    let (status, body) =
        eventually("it is not ready any more", || Some(daemon.get("/readyz")).filter(|(status, _)| *status == 503));
    assert!(status == 503 && body.contains("frames are dropped"), "{body}");
    assert_eq!(daemon.get("/healthz").0, 200, "a new process would not help");
    eventually("frames are counted as dropped", || {
        daemon
            .get("/metrics")
            .1
            .lines()
            .any(|line| {
                line.starts_with("vtagd_frames_dropped_total")
                    && line.contains("reason=\"inference\"")
                    && !line.ends_with(" 0")
            })
            .then_some(())
    });
    assert!(daemon.get("/metrics").1.contains("\nvtagd_remote_up 0\n"));

    let _server = FakeServer::start(&tower, true, Some(address), None);
    daemon.wait_ready();
    assert!(daemon.get("/metrics").1.contains("\nvtagd_remote_up 1\n"));
    daemon.stop_cleanly();
}

#[test]
fn examples_are_learned_from_once_a_server_that_was_away_at_the_start_is_there() {
    let bench = Bench::new();
    let tower = bench.tower(true);
    let address = FakeServer::start(&tower, true, None, None).kill();
    let folder = bench.folder.path();
    let picture = |name: &str| root().join("pictures/strangers").join(name).display().to_string();
    let set = format!(
        "set: pets\nscoring: independent\nbackground: [a wall, a table]\nlabels:\n  - name: pet\n    prompts: [a cat, a cup of coffee]\n    \
         examples: ['{}']\n    counter_examples: ['{}']\n    learn: always\n",
        picture("cat.jpg"),
        picture("cup.jpg")
    );
    std::fs::write(folder.join("pets.yaml"), set).unwrap();
    let config = format!(
        "model: {{ path: {} }}\nruntime: {{ providers: [ {{ remote: {{ url: \"grpc://{address}\", model: m, timeout: 10s }} }} ] }}\n\
         sampling: {{ interval: 1s }}\nstreams: [{{ id: a, url: \"file://{}\", loop: true }}]\nlabels: [pets.yaml]\n\
         sinks: [{{ type: jsonl, path: \"-\" }}]\napi: {{ listen: \"127.0.0.1:0\" }}\n",
        bench.bundle.dir.display(),
        root().join("demo/clip.mp4").display()
    );
    let mut daemon = Daemon::start(folder, &config);
    daemon.wait_for_log("it goes by its texts alone");
    let _server = FakeServer::start(&tower, true, Some(address), None);
    daemon.wait_for_log("examples of a label");
    daemon.wait_for_log("the new configuration runs");
    daemon.wait_ready();
    daemon.stop();
}
