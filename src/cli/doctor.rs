//! `vtagd doctor`: what is there and what is missing on this box, on one page: processor, memory, disk, clock, limits, what GStreamer can take in
//! and decode, ONNX Runtime and its providers, GPUs; and, with a configuration, its problems, each camera and each sink.
//!
//! Nothing is changed. Cameras are connected to as `check --probe` does; at a sink's address a connection is opened and closed again, and nothing is
//! said. Exit code 0; 1 where something fails; 2 where there is no such configuration. On the caller's thread, cameras on their own.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::bounded;

use super::doctor_disks;
use super::doctor_page::DoctorPage;
use super::{complain, plural, say, start_trial, trial};
use crate::config::{self, Absence, ModelChoice, Settings};
use crate::daemon::engine::spec_of;
use crate::infer::remote::server_trial::{self, TriedServer};
use crate::infer::{Provider, ProviderChoice, provider, runtime};
use crate::model::{self, Bundle};
use crate::platform::clock_sync::ClockSync;
use crate::platform::processor::{self, Processor};
use crate::platform::service_user::TriedAs;
use crate::platform::{free_memory, gpu, service_user, shutdown, signals};
use crate::sink::SinkKind;
use crate::source::abilities::{self, Ability};
use crate::yaml::problem::{Problem, Severity};

/// For a sink's address to take a connection, and for a GPU's driver to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Of an inference server that does not answer as it should.
const SERVER_REMEDY: &str = "is it running, with this model loaded (`vtagd model export-triton` makes it)? Are address, certificate and token right?";
/// With less memory the starter model and one camera do not run well, in bytes.
const LITTLE_MEMORY: u64 = 400 << 20;
/// Files that a camera takes, about, and those that the rest does.
const FILES_A_STREAM: u64 = 20;
const FILES_AT_LEAST: u64 = 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file, for its cameras and sinks [default: the service's, where there is one].
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// How long each camera is waited for, up to 10m.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = super::check::parse_time)]
    probe_timeout: Duration,
    /// As JSON: an object with `results`, to which fields may be added.
    #[arg(long)]
    json: bool,
}

/// Runs the command; the exit code.
pub fn run(args: &Args) -> u8 {
    let default = Path::new(super::DEFAULT_CONFIG);
    // One that this user may not see is told as such when it is read.
    let is_there = |file: &Path| file.try_exists().unwrap_or(true);
    let file = args.config.as_deref().or_else(|| is_there(default).then_some(default));
    if let Some(missing) = file.filter(|file| !is_there(file)) {
        complain(&format!("there is no {}; name the daemon's configuration, or leave out -c", missing.display()));
        return 2;
    }
    let mut page = DoctorPage::default();
    let settings = file.and_then(|file| read(file, &mut page));
    program(&mut page, settings.as_ref());
    processor(&mut page);
    memory(&mut page);
    let is_service = file.and_then(service_user::of).is_some();
    doctor_disks::tell(&mut page, settings.as_ref(), is_service);
    clock(&mut page);
    limits(&mut page, settings.as_ref());
    sources(&mut page);
    gpus(&mut page);
    if let Some(settings) = &settings {
        inference_servers(&mut page, settings);
        cameras(&mut page, settings, args.probe_timeout);
        sinks(&mut page, settings);
    } else if file.is_none() {
        let found = "none was named and the service has none: cameras and sinks were not tried";
        page.note("configuration", found, "name one with -c");
    }
    let told = if args.json { page.json().map_err(|error| error.to_string()) } else { Ok(page.table()) };
    match told {
        Ok(text) => {
            say(&text);
            page.exit_code()
        }
        Err(error) => {
            complain(&error);
            1
        }
    }
}

/// The settings, where the daemon could run with them.
fn read(file: &Path, page: &mut DoctorPage) -> Option<Settings> {
    let called = config::called(file);
    // What root may read and write says nothing of the daemon.
    let (read, tried) = service_user::done_for(file, || {
        let (settings, document) = config::load_with_document(file, Absence::Told)?;
        let problems = start_trial::problems(&settings, file, &document);
        Ok::<_, Vec<Problem>>((settings, problems))
    });
    if let TriedAs::Caller(Some((user, error))) = tried {
        page.note(
            "configuration",
            format!("files were tried as root, not as {user}: {error}"),
            "run this as root, outside of a sandbox",
        );
    }
    match read {
        Ok((settings, problems)) => {
            let wrong = problems.iter().filter(|problem| problem.severity == Severity::Error);
            let mut fine = true;
            for problem in wrong {
                fine = false;
                page.fail(
                    "configuration",
                    format!("{called}: {}: {}", problem.field, problem.message),
                    &problem.remedy,
                );
            }
            let doubts =
                settings.notices.iter().chain(&problems).filter(|found| found.severity == Severity::Warning).count();
            if doubts > 0 {
                let found = format!("{called}: {}", plural(doubts, "warning"));
                page.note("configuration", found, format!("read them: vtagd check -c {called}"));
            } else if fine {
                page.ok("configuration", called);
            }
            Some(settings)
        }
        Err(problems) => {
            let wrong = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
            let found = format!("{called}: {}", plural(wrong, "error"));
            page.fail("configuration", found, format!("read them: vtagd check -c {called}"));
            None
        }
    }
}

fn program(page: &mut DoctorPage, settings: Option<&Settings>) {
    let kafka = if cfg!(feature = "kafka") { "" } else { ", without Kafka" };
    page.ok("program", format!("vtagd {} ({}){kafka}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH));
    let named = settings.and_then(|settings| settings.infer.library.as_deref());
    let runtime = match runtime::load(named) {
        Ok(runtime) => runtime,
        Err(error) => return page.fail("program", error.to_string(), "until then nothing can be inferred"),
    };
    page.ok("program", format!("{} ({})", runtime::version(), runtime.library().display()));
    let wanted: Vec<Provider> = settings
        .map_or_else(Vec::new, |settings| settings.infer.providers.iter().map(|choice| choice.provider()).collect());
    let mut found = Vec::new();
    for known in [Provider::Tensorrt, Provider::Cuda, Provider::Openvino, Provider::Cpu] {
        match provider::check(&runtime, known) {
            Ok(()) => found.push(known.as_str()),
            Err(error) if wanted.contains(&known) => {
                page.fail("program", format!("{} is configured and not there", known.as_str()), error.to_string())
            }
            Err(_) => {}
        }
    }
    page.ok("program", format!("providers in this library: {}", found.join(", ")));
}

fn processor(page: &mut DoctorPage) {
    let found = Processor::this();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    page.ok("processor", format!("{}, {}", found.name, plural(cores, "core")));
    if let Some(quota) = processor::quota() {
        page.note(
            "processor",
            format!("a quota leaves it the time of {}", plural(quota, "core")),
            "raise CPUQuota= or the container's limit, if more is wanted",
        );
    }
    match speed(&found.flags, std::env::consts::ARCH) {
        Ok(found) => page.ok("processor", found),
        Err((found, remedy)) => page.note("processor", found, remedy),
    }
}

/// What the flags of a processor mean for models.
fn speed(flags: &[String], architecture: &str) -> Result<String, (String, &'static str)> {
    let has = |flag: &str| flags.iter().any(|known| known == flag);
    let integers = match architecture {
        "aarch64" => ["asimddp", "i8mm"].map(|flag| has(flag).then_some(flag)),
        _ => ["avx512_vnni", "avx_vnni"].map(|flag| has(flag).then_some(flag)),
    };
    let known: Vec<&str> = integers.into_iter().flatten().collect();
    if !known.is_empty() {
        return Ok(format!("{}: int8 models run several times as fast as fp32", known.join(", ")));
    }
    match architecture {
        "aarch64" => Err((
            "no dot products of bytes (asimddp): int8 models gain little here".to_owned(),
            "compare with `vtagd bench --precision`",
        )),
        _ if has("avx2") => Err((
            "AVX2 without VNNI: int8 models gain less than on newer processors".to_owned(),
            "compare with `vtagd bench`, and import int8 with this program: those of others get slower, exact kernels",
        )),
        _ => Err(("no AVX2: models run slowly".to_owned(), "take the smallest model, and see `vtagd bench`")),
    }
}

fn memory(page: &mut DoctorPage) {
    match free_memory::available() {
        Some(bytes) if bytes < LITTLE_MEMORY => {
            let found = format!("{} can be had", size(bytes));
            page.note("memory", found, "end other programs, raise MemoryMax=, or take a small model (int8)");
        }
        Some(bytes) => page.ok("memory", format!("{} can be had", size(bytes))),
        None => page.note("memory", "nobody says how much can be had", "look at `free -h`"),
    }
}

fn clock(page: &mut DoctorPage) {
    match ClockSync::read() {
        ClockSync::Kept => page.ok("clock", "kept in time"),
        ClockSync::Free => page.note(
            "clock",
            "nobody keeps it in time: events and the history bear its errors",
            "install systemd-timesyncd or chrony; `timedatectl` shows what it does",
        ),
        ClockSync::Unknown => {
            page.note("clock", "this sandbox does not tell whether it is kept", "look at `timedatectl` outside")
        }
    }
}

fn limits(page: &mut DoctorPage, settings: Option<&Settings>) {
    let streams = settings.map_or(0, |settings| settings.streams.len());
    let wanted = FILES_AT_LEAST.max(FILES_A_STREAM * u64::try_from(streams).unwrap_or(u64::MAX));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.current {
        Some(files) if files < wanted => {
            let found = format!("{files} open files; {} may need {wanted}", plural(streams, "stream"));
            page.note("limits", found, "raise LimitNOFILE= of the unit, or `ulimit -n`");
        }
        Some(files) => page.ok("limits", format!("{files} open files")),
        None => page.ok("limits", "any number of open files"),
    }
}

fn sources(page: &mut DoctorPage) {
    let found = match abilities::look() {
        Ok(found) => found,
        Err(error) => {
            return page.fail(
                "sources",
                format!("GStreamer does not start: {error}"),
                "install gstreamer1.0-plugins-base",
            );
        }
    };
    page.ok("sources", found.version.clone());
    list(page, "sources", &found.kinds);
    list(page, "decoders", &found.codecs);
    for (family, result) in found.hardware {
        match result {
            Ok(()) => page.ok("decoders", format!("hardware: {family}")),
            Err(why) => page.absent("decoders", format!("no {family}: {why}")),
        }
    }
}

/// What is there on one line, what is missing on one each.
fn list(page: &mut DoctorPage, area: &'static str, all: &[Ability]) {
    let there: Vec<String> = all.iter().filter_map(|one| Some(format!("{} ({})", one.what, one.found?))).collect();
    page.ok(area, there.join(", "));
    for missing in all.iter().filter(|one| one.found.is_none()) {
        let (found, remedy) = (format!("no {}", missing.what), format!("apt-get install {}", missing.package));
        match missing.is_basic {
            true => page.fail(area, found, remedy),
            false => page.note(area, found, format!("{remedy}, if a camera needs it")),
        }
    }
}

fn gpus(page: &mut DoctorPage) {
    let (trigger, until) = shutdown::channel();
    let (told, heard) = bounded(1);
    let hear = move |_, gpus: Vec<gpu::Gpu>| drop(told.try_send(gpus));
    // It is asked on a thread of its own: a driver may hang.
    let watching = gpu::watch(hear, until);
    let gpus = match watching {
        Ok(_) => heard.recv_timeout(ANSWER_TIMEOUT),
        Err(error) => return page.note("gpu", format!("not asked: {error}"), "raise the limit of threads"),
    };
    trigger.trigger();
    match gpus {
        Ok(gpus) if gpus.is_empty() => page.absent("gpu", "NVIDIA's driver has no card"),
        Ok(gpus) => {
            for found in gpus {
                let memory = found.memory.map_or(String::new(), |memory| format!(", {}", size(memory.total)));
                page.ok("gpu", format!("{} {}{memory}", found.index, found.name));
            }
        }
        Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
            page.absent("gpu", "no driver of NVIDIA's (libnvidia-ml.so.1)");
        }
        Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
            page.note("gpu", "NVIDIA's driver does not answer", "look at `nvidia-smi` and `dmesg`");
        }
    }
}

/// Whether the servers of `remote` are there and have the model.
fn inference_servers(page: &mut DoctorPage, settings: &Settings) {
    let remote = settings.infer.providers.iter().filter_map(|choice| match choice {
        ProviderChoice::Remote(options) => Some(options),
        _ => None,
    });
    for options in remote {
        let size = picture_size(&settings.model.choice);
        let tried = match server_trial::ask(options, size) {
            Ok(tried) => tried,
            Err(error) => {
                page.note("servers", format!("not asked: {error}"), "raise the limit of threads");
                continue;
            }
        };
        for TriedServer { url, model } in tried {
            match model {
                Ok(Some(found)) => {
                    let most = found.max_batch.map_or(String::new(), |most| format!(", up to {most} at once"));
                    let takes = found.layout.as_str();
                    page.ok("servers", format!("{url}: has {}, which takes pictures as {takes}{most}", options.model));
                }
                Ok(None) => page.note(
                    "servers",
                    format!("{url}: takes connections; it was not asked for {}", options.model),
                    "only the daemon asks for a model of a hub, or one that is imported at its start: see `vtagd status`",
                ),
                // A refusal says nothing of where it is from.
                Err(error) => {
                    let why = error.to_string();
                    let of = if why.contains(&url.to_string()) { String::new() } else { format!("{url}: ") };
                    page.fail("servers", format!("{of}{why}"), SERVER_REMEDY);
                }
            }
        }
    }
}

/// Height and width of the pictures of a model directory. Nothing is pulled, imported, hashed or written for it, so one that the daemon pulls or
/// imports has none.
fn picture_size(choice: &ModelChoice) -> Option<(usize, usize)> {
    let dir = match choice {
        ModelChoice::Starter => model::resolve(Path::new(model::STARTER)),
        ModelChoice::Path(path) => model::resolve(path),
        ModelChoice::None | ModelChoice::Hub(_) => return None,
    };
    let (height, width) = spec_of(&Bundle::open_unmarked(&dir.ok()?).ok()?).ok()?.size();
    Some((height as usize, width as usize))
}

fn cameras(page: &mut DoctorPage, settings: &Settings, time: Duration) {
    let (trigger, until) = shutdown::channel();
    let _signals = signals::listen(trigger, None, crate::logs::finish);
    for found in trial::streams(settings, time, &until) {
        let id = &found.id;
        if !found.enabled {
            page.ok("cameras", format!("{id}: switched off"));
        } else if let Some(error) = found.error.as_ref().filter(|error| *error == trial::NO_PASSWORD) {
            page.note("cameras", format!("{id}: {error}"), "run this as the service's user, with its credentials");
        } else if let Some(error) = &found.error {
            page.fail("cameras", format!("{id}: {error}"), "docs/nothing-is-told.md tells by symptom what helps");
        } else {
            let size = found.width.zip(found.height).map(|(width, height)| format!("{width}x{height}"));
            let told = [found.codec.clone(), size, found.decoder.clone()].into_iter().flatten().collect::<Vec<_>>();
            page.ok("cameras", format!("{id}: {}", if told.is_empty() { "ready".to_owned() } else { told.join(", ") }));
        }
        for warning in &found.warnings {
            page.note("cameras", format!("{id}: {warning}"), "see docs/cameras.md");
        }
    }
}

fn sinks(page: &mut DoctorPage, settings: &Settings) {
    for (sink, route) in settings.sinks.iter().zip(&settings.routes) {
        let kind = sink.kind();
        let addresses = sink.addresses();
        if addresses.is_empty() {
            page.ok("sinks", format!("{}: {}", route.name, kind.as_str()));
        }
        let tried = addresses.into_iter().map(|(host, port)| (reach(&host, port), format!("{host}:{port}")));
        let tried: Vec<_> = tried.collect();
        // The brokers of a cluster name one another: one that answers is enough.
        let is_reached = tried.iter().any(|(reached, _)| reached.is_ok());
        for (reached, address) in tried {
            let name = format!("{} ({}, {address})", route.name, kind.as_str());
            let Err(error) = reached else {
                page.ok("sinks", format!("{name}: takes connections"));
                continue;
            };
            let found = format!("{name}: {error}");
            if is_reached {
                page.note("sinks", found, "another of its addresses takes connections");
            } else if kind == SinkKind::Webhook && has_proxy() {
                page.note("sinks", found, "it may be reached through the proxy alone, which is not tried");
            } else {
                let remedy = "is it running, is the address right, is a firewall between? A proxy is not tried";
                page.fail("sinks", found, remedy);
            }
        }
    }
}

/// Whether web addresses may go through a proxy.
fn has_proxy() -> bool {
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Whether somebody takes connections there: any of its addresses.
fn reach(host: &str, port: u16) -> std::io::Result<()> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut last = std::io::Error::other("the name has no address");
    for address in (bare, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[expect(clippy::cast_precision_loss, reason = "for people, in three digits")]
pub(super) fn size(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 1.0 { format!("{} MiB", bytes >> 20) } else { format!("{gib:.1} GiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_processors_are_told_as_what_they_mean() {
        let of =
            |flags: &str, architecture| speed(&flags.split(' ').map(str::to_owned).collect::<Vec<_>>(), architecture);
        assert!(of("fpu avx2 avx512_vnni", "x86_64").is_ok_and(|told| told.starts_with("avx512_vnni: int8")));
        assert!(of("fpu avx2", "x86_64").is_err_and(|(told, _)| told.starts_with("AVX2 without VNNI")));
        assert!(of("fpu sse4_2", "x86_64").is_err_and(|(told, _)| told.starts_with("no AVX2")));
        assert!(of("fp asimd asimddp i8mm", "aarch64").is_ok_and(|told| told.starts_with("asimddp, i8mm: int8")));
        assert!(of("fp asimd", "aarch64").is_err_and(|(told, _)| told.contains("asimddp")));
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_not_reached_and_one_that_somebody_does_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        reach("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        // Held, so that nobody else listens there.
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        reach("127.0.0.1", bound.local_addr().unwrap().port()).unwrap_err();
    }
}
