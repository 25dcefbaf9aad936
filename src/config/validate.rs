//! From the typed file to [`Settings`]: every section checked, everything that is wrong reported.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::schema::{Api, Events, Log, Model, NumberOrAuto, Root, Runtime, Snapshots, Store};
use super::streams::{self, Surroundings};
use super::{
    ApiSettings, DEFAULT_LISTEN, LogSettings, ModelChoice, Settings, SnapshotSettings, StreamDefaults, TlsSettings,
    after_checks, providers, sets, sets_in_force,
};
use crate::event::Thresholds;
use crate::infer::{BatchSize, InferSettings, Provider, ProviderChoice, Sessions, session_threads};
use crate::label::ThresholdOverrides;
use crate::outbox::OutboxSettings;
use crate::platform::paths;
use crate::platform::state_folder::StateFolder;
use crate::platform::userinfo;
use crate::sample::Interval;
use crate::sink::SinkKind;
use crate::sink::config::{self as sinks, SinkItem};
use crate::sink::sink_routes::FilterNames;
use crate::source::Reconnect;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::problem::Problem;
use crate::yaml::values::Bytes;
use crate::yaml::{Document, checks, relative_to, secrets, units};

pub(super) const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_BATCH: usize = 8;
const MAX_BATCH: usize = 1024;
const DEFAULT_DELAY: Duration = Duration::from_millis(50);
/// Beyond this a batch is no longer about now.
const MAX_DELAY: Duration = Duration::from_secs(60);
const MAX_THREADS: usize = 1024;
const MAX_SESSIONS: usize = 64;
/// `path` of an outbox without a file, as SQLite has it.
const MEMORY: &str = ":memory:";
/// An outbox of less would be full of its own tables.
const MIN_SIZE: u64 = 1 << 20;
const MAX_PREPROCESS_THREADS: usize = 64;
const MIN_RUN_LIMIT: Duration = Duration::from_secs(1);
/// 80 bits, written in hexadecimal digits.
const LEAST_TOKEN: usize = 20;
const TOKEN: &str = "make one with `openssl rand -hex 32`";

/// Checks a whole document. Settings are `None` where no sensible value could be made; if a problem is an error, the settings must
/// not be used. Copies of label sets are those of `running`, where there is one, whatever the document says.
pub fn settings(document: &Document, running: Option<&StateFolder>) -> (Option<Settings>, Vec<Problem>) {
    let mut reader = Reader::new(document);
    let Some(root) = reader.root::<Root>() else { return (None, reader.finish()) };
    let raw = &root.value;

    let instance = instance(&raw.instance, &mut reader);
    let model = model(&raw.model, &mut reader);
    let infer = infer(&raw.runtime, &mut reader);
    let events = events(&raw.events, &mut reader);
    let labels = raw.labels.given().map(|labels| labels.value.as_slice()).unwrap_or_default();
    let state = sets_in_force::state(&raw.state, &mut reader).unwrap_or_else(StateFolder::default_place);
    let copies = running.unwrap_or(&state);
    let mut label_sets = sets::load(labels, copies, events.as_ref(), &mut reader);
    if let Some(at) = raw.labels.given().filter(|_| !label_sets.incomplete) {
        let names: Vec<&str> = label_sets.sets.iter().map(|set| set.name.as_str()).collect();
        sets_in_force::tell_left_over(copies, &names, at, &mut reader);
    }
    let no_labels = match raw.labels.given() {
        Some(labels) => document.find(&labels.path).is_empty_list(),
        None => raw.labels.is_missing(),
    };
    if no_labels && model != Some(ModelChoice::None) {
        let remedy = "list label-set files, such as `labels: [labels/dock.yaml]`, or set `model: { path: none }`";
        reader.missing(&root, "labels", remedy);
    }

    let sampling = raw.sampling.given().map(|sampling| &sampling.value);
    let around = Surroundings {
        interval: streams::interval(&sampling.map(|sampling| &sampling.interval), &mut reader)
            .unwrap_or(Interval::Every(DEFAULT_INTERVAL)),
        unchanged: sampling.and_then(|sampling| streams::unchanged(&sampling.unchanged, None, &mut reader)),
        decode: sampling.and_then(|sampling| sampling.decode.value()).unwrap_or_default(),
        reconnect: raw.reconnect.given().map_or_else(Reconnect::default, |reconnect| {
            streams::reconnect(&reconnect.value, &Reconnect::default(), &mut reader)
        }),
        decoder: sampling.and_then(|sampling| sampling.decoder.value()).unwrap_or_default(),
        max_pixels: sampling.and_then(|sampling| streams::max_pixels(&sampling.max_pixels, &mut reader)),
        sets: &label_sets.sets,
        sets_incomplete: label_sets.incomplete,
        templates: paths::templates_dir(),
    };
    let defaults = StreamDefaults {
        interval: around.interval,
        unchanged: around.unchanged,
        decode: around.decode,
        decoder: around.decoder,
        max_pixels: around.max_pixels,
        reconnect: around.reconnect.clone(),
    };
    if raw.streams.is_missing() {
        let remedy = "add at least one, such as `- { id: door, url: rtsp://10.0.0.12/stream1 }`; `streams: []` starts without any";
        reader.missing(&root, "streams", remedy);
    }
    let list = raw.streams.given().map(|streams| streams.value.as_slice()).unwrap_or_default();
    let streams = streams::check(list, &around, &mut reader);
    if let Some(events) = &events {
        let (sets, in_force) = (&label_sets.sets, &mut label_sets.in_force);
        after_checks::check(list, &streams, sets, in_force, events, &mut reader);
    }

    let known = FilterNames {
        streams: streams.iter().map(|stream| stream.source.id.to_string()).collect(),
        sets: label_sets.sets.iter().map(|set| set.name.clone()).collect(),
        labels: label_sets.sets.iter().flat_map(|set| &set.labels).map(|label| label.name.clone()).collect(),
        incomplete: label_sets.incomplete,
    };
    let (sinks, routes) = match raw.sinks.given() {
        Some(list) => {
            if document.find(&list.path).is_empty_list() {
                reader.warn(list, "is empty: events go nowhere", "remove the key to write events to standard output");
            }
            sinks::check(&list.value, &known, &mut reader)
        }
        None => sinks::default(),
    };
    let outbox = outbox(&raw.outbox, &raw.sinks, &state, &mut reader);
    let snapshots = snapshots(&raw.snapshots, &state, &mut reader);
    let api = api(&raw.api, &mut reader);
    let is_off = raw.api.given().and_then(|api| api.value.listen.given()).is_some_and(|at| at.value == "off");
    if let Some(at) = raw.streams.given().filter(|at| is_off && document.find(&at.path).is_empty_list()) {
        let message = "is empty, and with `api.listen: off` nobody could ever ask for a stream";
        reader.error(at, message, "add a stream, or let the API listen: then the daemon waits for a reload");
    }
    let log = log(raw.log.given().map(|log| &log.value));

    let settings = model.zip(infer).zip(events).map(|((model, infer), events)| Settings {
        file: document.file().to_path_buf(),
        instance,
        model,
        infer,
        streams,
        label_sets: label_sets.sets,
        in_force: label_sets.in_force,
        state,
        events,
        sinks,
        routes,
        outbox,
        snapshots,
        api,
        log,
        defaults,
        origins: super::Origins::new(),
        notices: Vec::new(),
    });
    let mut problems = reader.finish();
    problems.extend(label_sets.problems);
    (settings, problems)
}

/// The path of the outbox and nothing else; `None` if it cannot be told.
pub fn outbox_alone(document: &Document) -> Option<Option<PathBuf>> {
    let mut reader = Reader::new(document);
    let root = reader.root::<Root>()?;
    let state = sets_in_force::state(&root.value.state, &mut reader)?;
    let path = outbox(&root.value.outbox, &root.value.sinks, &state, &mut reader).path;
    path.as_ref().is_none_or(|path| !path.as_os_str().is_empty()).then_some(path)
}

fn instance(field: &Field<String>, reader: &mut Reader<'_>) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match field.given() {
        Some(name) if name.value.is_empty() || name.value.len() > 64 || !name.value.chars().all(fits) => {
            let message = "is not an instance name (letters, digits, `.`, `_` and `-`, at most 64)";
            reader.error(name, message, "write, for example, warehouse-1");
            name.value.clone()
        }
        Some(name) => name.value.clone(),
        None => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host: String = host.trim().chars().filter(|c| fits(*c)).take(64).collect();
            if host.is_empty() { "vtagd".to_owned() } else { host }
        }
    }
}

fn model(field: &Field<Model>, reader: &mut Reader<'_>) -> Option<ModelChoice> {
    let path = |path: &At<String>| match path.value.as_str() {
        "starter" => Some(ModelChoice::Starter),
        "none" => Some(ModelChoice::None),
        text => {
            let folder = relative_to(reader.document().file(), Path::new(text));
            if folder.is_dir() {
                return Some(ModelChoice::Path(folder));
            }
            let why = if folder.exists() { "is not a folder" } else { "does not exist" };
            let remedy = "name a model directory, or write starter or none";
            reader.refuse(path, format!("{} {why}", folder.display()), remedy)
        }
    };
    field.checked(ModelChoice::Starter, |model| model.value.path.checked(ModelChoice::Starter, path))
}

fn infer(field: &Field<Runtime>, reader: &mut Reader<'_>) -> Option<InferSettings> {
    let mut settings = InferSettings {
        max_size: BatchSize::Pictures(DEFAULT_BATCH),
        max_delay: DEFAULT_DELAY,
        sessions: Sessions::Auto { cores: session_threads::UNASKED_CORES },
        ..InferSettings::default()
    };
    let default = Runtime::default();
    let runtime = field.or_default(&default)?;
    if let Some(list) = runtime.providers.given() {
        if reader.document().find(&list.path).is_empty_list() {
            reader.error(list, "is empty", "name at least one of tensorrt, cuda, openvino and cpu");
        }
        settings.providers = providers::list(&list.value, reader);
    }
    settings.min_cosine = providers::min_cosine(&runtime.probe, reader);
    settings.strict = runtime.strict.value().unwrap_or_default();
    if let Some(library) = runtime.library.given() {
        settings.library = checks::existing_file(library, "name libonnxruntime.so, or remove the key", reader);
    }
    if let Some(threads) = runtime.threads.given() {
        if threads.value > MAX_THREADS {
            reader.error(threads, format!("is above {MAX_THREADS}"), "write 0 for all cores");
        }
        settings.threads = threads.value;
    }
    several(runtime, &mut settings, reader);
    if let Some(threads) = runtime.preprocess_threads.given()
        && let NumberOrAuto::Number(number) = threads.value
    {
        if !(1..=MAX_PREPROCESS_THREADS).contains(&number) {
            let message = format!("is {number}, outside 1 to {MAX_PREPROCESS_THREADS}");
            reader.error(threads, message, "write auto: a quarter of the cores, 4 at most");
        }
        settings.preprocess_threads = Some(number);
    }
    if let Some(limit) = runtime.run_limit.given() {
        if limit.value < MIN_RUN_LIMIT {
            reader.error(limit, "is shorter than a second", "remove the key: the limit then follows from the model");
        }
        settings.run_limit = Some(limit.value);
    }
    if let Some(batch) = runtime.batch.given() {
        if let Some(size) = batch.value.max_size.given() {
            settings.max_size = match size.value {
                NumberOrAuto::Auto => BatchSize::Auto,
                NumberOrAuto::Number(number) => {
                    if !(1..=MAX_BATCH).contains(&number) {
                        reader.error(size, format!("is {number}, outside 1 to {MAX_BATCH}"), "8 is a good start");
                    }
                    BatchSize::Pictures(number)
                }
            };
        }
        if let Some(delay) = batch.value.max_delay.given() {
            if delay.value > MAX_DELAY {
                reader.error(delay, "is longer than a minute", "50ms is a good start");
            }
            settings.max_delay = delay.value;
        }
    }
    if let Some(list) = runtime.providers.given() {
        providers::opt_batch(&list.value, settings.max_size.most(Provider::Tensorrt), reader);
    }
    Some(settings)
}

/// `runtime.sessions` and `runtime.devices`.
fn several(runtime: &Runtime, settings: &mut InferSettings, reader: &mut Reader<'_>) {
    if let Some(sessions) = runtime.sessions.given() {
        settings.sessions = match sessions.value {
            NumberOrAuto::Auto => Sessions::Auto { cores: session_threads::LEAST_CORES },
            NumberOrAuto::Number(number) => {
                if !(1..=MAX_SESSIONS).contains(&number) {
                    let remedy = "each has the weights in memory once more; 1 is a good start";
                    reader.error(sessions, format!("is {number}, outside 1 to {MAX_SESSIONS}"), remedy);
                }
                Sessions::Number(number)
            }
        };
    }
    let Some(devices) = runtime.devices.given() else { return };
    for device in &devices.value {
        settings.devices.extend(providers::gpu(device, reader));
    }
    let on_gpu = |choice: &ProviderChoice| matches!(choice.provider(), Provider::Tensorrt | Provider::Cuda);
    let named = |choice: &ProviderChoice| on_gpu(choice) && choice.device() != 0;
    let mut sorted = settings.devices.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if devices.value.is_empty() {
        reader.error(devices, "is empty", "name at least one GPU, or remove the key");
    } else if sorted.len() < settings.devices.len() {
        reader.error(devices, "names a GPU twice", "for several sessions on one GPU write `sessions`");
    } else if !settings.providers.iter().any(on_gpu) {
        reader.error(devices, "has no use without cuda or tensorrt", "name one of them in `runtime.providers`");
    } else if settings.providers.iter().any(named) {
        reader.error(devices, "contradicts the `device` of a provider", "remove `device` there");
    }
}

pub(super) fn events(field: &Field<Events>, reader: &mut Reader<'_>) -> Option<Thresholds> {
    let default = Events::default();
    let raw = field.or_default(&default)?;
    let over = ThresholdOverrides {
        enter: raw.enter.value().map(|fraction| fraction.0),
        exit: raw.exit.value().map(|fraction| fraction.0),
        after: raw.after.value(),
        after_exit: raw.after_exit.value(),
        cooldown: raw.cooldown.value(),
    };
    let merged = sets::merge(&over, &Thresholds::default());
    if let Some(exit) = raw.exit.given()
        && merged.exit > merged.enter
    {
        let whose = if raw.enter.is_missing() { "the default " } else { "" };
        reader.error(
            exit,
            format!("is {}, above {whose}enter ({})", merged.exit, merged.enter),
            "make exit at most enter: the gap between them keeps tags from flickering",
        );
    }
    Some(merged)
}

/// `outbox`. Left out, it is a file where there is a place for one (`state.path`, `$STATE_DIRECTORY`) or a sink that needs one; otherwise, when all
/// sinks only write files and standard output, it is in memory: a first try by a plain user needs no folder of the system's.
fn outbox(
    field: &Field<Store>,
    sinks: &Field<Vec<At<SinkItem>>>,
    state: &StateFolder,
    reader: &mut Reader<'_>,
) -> OutboxSettings {
    let list = sinks.given().map(|list| list.value.as_slice()).unwrap_or_default();
    let local = list.iter().all(|sink| sink.value.common.kind.value().is_none_or(|kind| kind == SinkKind::Jsonl));
    let default = || state.path().join("outbox.db");
    let path = match field.given().map(|store| &store.value.path) {
        Some(Field::Given(path)) if path.value == MEMORY => None,
        // With a problem the settings are not used.
        Some(Field::Given(path)) => checks::output(path, false, reader).or_else(|| Some(PathBuf::new())),
        Some(_) => Some(default()),
        None if local && !state.is_given() => None,
        None => Some(default()),
    };
    if let Some(size) = field.given().and_then(|store| store.value.max_size.given())
        && (1..MIN_SIZE).contains(&size.value.0)
    {
        reader.error(size, "is below 1MiB", units::SIZE_HELP);
    }
    let none = Store::default();
    let raw = field.given().map_or(&none, |store| &store.value);
    let (max_size, max_age) = limits(&raw.max_size, &raw.max_age, reader);
    OutboxSettings { path, max_size, max_age }
}

/// The limits of a store: size and age.
fn limits(max_size: &Field<Bytes>, max_age: &Field<Duration>, reader: &mut Reader<'_>) -> (u64, Duration) {
    if let Some(size) = max_size.given().filter(|size| size.value.0 == 0) {
        reader.error(size, "must be above 0", units::SIZE_HELP);
    }
    if let Some(age) = max_age.given().filter(|age| age.value.is_zero()) {
        reader.error(age, "must be above 0", units::DURATION_HELP);
    }
    let size = max_size.value().map_or(1 << 30, |bytes| bytes.0);
    (size, max_age.value().unwrap_or(Duration::from_secs(7 * 86_400)))
}

/// `snapshots`. Left out, no pictures are kept.
fn snapshots(field: &Field<Snapshots>, state: &StateFolder, reader: &mut Reader<'_>) -> Option<SnapshotSettings> {
    let raw = &field.given()?.value;
    let path = raw.path.checked(state.path().join("snapshots"), |path| checks::output(path, true, reader))?;
    let (max_size, max_age) = limits(&raw.max_size, &raw.max_age, reader);
    let max_side = checks::number(&raw.max_side, 1280, 8192, reader)?;
    let quality = checks::number(&raw.quality, 85, 100, reader)?;
    let url = raw.url.checked(None, |text| {
        let fits = |url: &url::Url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
        };
        let url = userinfo::parse(&text.value).ok().filter(fits);
        if url.is_none() {
            let message = "is not an http:// or https:// address without credentials";
            reader.error(text, message, "write, for example, https://edge-1.example");
        }
        url.map(Some)
    })?;
    // In range: they were checked.
    let (max_side, quality) = (u32::try_from(max_side).ok()?, u8::try_from(quality).ok()?);
    Some(SnapshotSettings { path, max_size, max_age, max_side, quality, url })
}

fn api(field: &Field<Api>, reader: &mut Reader<'_>) -> Option<ApiSettings> {
    let default = Api::default();
    let raw = field.or_default(&default)?;
    let token = raw.token.given().map(|token| secrets::resolve(token, reader));
    let tls = raw.tls.given().and_then(|tls| {
        let mut file = |field, key| {
            let at = reader.required(tls, key, field, "name a PEM file; TLS needs both cert and key")?;
            checks::existing_file(at, "name a PEM file", reader)
        };
        let (cert, key) = (file(&tls.value.cert, "cert"), file(&tls.value.key, "key"));
        let (cert, key) = (cert?, key?);
        if let Err(error) = crate::platform::tls::server(&cert, &key) {
            return reader.refuse(
                tls,
                error,
                "name a certificate chain in PEM, its own certificate first, and that one's key",
            );
        }
        Some(TlsSettings { cert, key })
    });
    let given = |at: &At<String>| if at.value == "off" { None } else { listen(at, reader).map(Some) };
    let listen = raw.listen.checked(None, given)?.or_else(|| DEFAULT_LISTEN.parse().ok())?;
    if !listen.ip().to_canonical().is_loopback()
        && raw.token.is_missing()
        && let Some(at) = raw.listen.given()
    {
        reader.error(
            at,
            format!("{} can be reached from other machines, which needs `api.token`", listen.ip()),
            "add `token: { file: PATH }` (or env, credential), or listen on 127.0.0.1",
        );
    }
    if !listen.ip().to_canonical().is_loopback()
        && raw.tls.is_missing()
        && let Some(at) = raw.listen.given().filter(|_| !raw.token.is_missing())
    {
        let message = "is reached without encryption: whoever is on the way can read the token";
        reader.warn(at, message, "add `tls`, or listen on 127.0.0.1 behind a proxy that encrypts");
    }
    let token = token.flatten();
    if let Some((at, token)) = raw.token.given().zip(token.as_ref()) {
        let bytes = token.expose().as_bytes();
        if bytes.iter().any(|byte| !byte.is_ascii_graphic()) {
            reader.error(at, "holds a space, or a character that no header can carry", TOKEN);
        } else if bytes.len() < LEAST_TOKEN {
            reader.warn(at, format!("is shorter than {LEAST_TOKEN} characters, which can be guessed"), TOKEN);
        }
    }
    Some(ApiSettings { listen, token, tls })
}

pub(super) fn listen(at: &At<String>, reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let text = at.value.trim();
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let remedy = if text.parse::<IpAddr>().is_ok() {
                "add a port, such as 127.0.0.1:8642".to_owned()
            } else if let Ok(port) = text.strip_prefix(':').unwrap_or(&text).parse::<u16>() {
                format!("add an address, such as 127.0.0.1:{port}")
            } else {
                "write ADDRESS:PORT, such as 127.0.0.1:8642, or off".to_owned()
            };
            reader.refuse(at, "is not an IP address and port", remedy)
        }
    }
}

fn log(raw: Option<&Log>) -> LogSettings {
    LogSettings {
        level: raw.and_then(|log| log.level.value()).unwrap_or(tracing::Level::INFO),
        format: raw.and_then(|log| log.format.value()).unwrap_or_default(),
    }
}
