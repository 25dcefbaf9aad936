//! From the typed file to [`Settings`]: every section checked, everything that is wrong reported.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::schema::{Api, Events, Log, Metrics, NumberOrAuto, Root, Runtime, Stream};
use super::streams::{self, Surroundings};
use super::{
    ApiSettings, DEFAULT_LISTEN, LogSettings, ModelChoice, Settings, StreamDefaults, StreamSettings, TlsSettings,
    after_checks, calibrations, model_choice, providers, sets, sets_in_force, stores, suspicious_text, trusted_proxies,
};
use crate::event::Thresholds;
use crate::infer::{BatchSize, InferSettings, Provider, ProviderChoice, Sessions, session_threads};
use crate::label::{LabelSet, ThresholdOverrides, threshold_field};
use crate::platform::paths;
use crate::platform::state_folder::StateFolder;
use crate::sample::Interval;
use crate::sink::config as sinks;
use crate::sink::sink_routes::FilterNames;
use crate::source::Reconnect;
use crate::yaml::field_reader::{At, Field, Reader};
use crate::yaml::problem::Problem;
use crate::yaml::secrets::Absence;
use crate::yaml::{Document, address, checks, secrets};

pub(super) const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_BATCH: usize = 8;
const MAX_BATCH: usize = 1024;
const DEFAULT_DELAY: Duration = Duration::from_millis(50);
/// Beyond this a batch is no longer about now.
const MAX_DELAY: Duration = Duration::from_secs(60);
const MAX_THREADS: usize = 1024;
const MAX_SESSIONS: usize = 64;
const MAX_PREPROCESS_THREADS: usize = 64;
const MIN_RUN_LIMIT: Duration = Duration::from_secs(1);
/// Labels of all streams whose margins are told (`MOST_SCORES` of `api/scrape.rs`).
const MOST_SCORES: usize = 2000;
/// 80 bits, written in hexadecimal digits.
const LEAST_TOKEN: usize = 20;
const TOKEN: &str = "make one with `openssl rand -hex 32`";

/// Checks a whole document. Settings are `None` where no sensible value could be made; if a problem is an error, the settings must
/// not be used. `incomplete`: a file of `include` could not be read, so what is missing here may be there. Copies of label sets are
/// those of `running`, where there is one, whatever the document says.
pub fn settings(
    document: &Document,
    absence: Absence,
    incomplete: bool,
    running: Option<&StateFolder>,
) -> (Option<Settings>, Vec<Problem>) {
    let mut reader = Reader::with(document, absence);
    let Some(root) = reader.root::<Root>() else { return (None, reader.finish()) };
    let raw = &root.value;
    suspicious_text::look(&super::keys(), &mut reader);
    if let Some(list) = raw.include.given().filter(|list| list.value.is_empty()) {
        reader.warn(list, "is empty", "name files, such as streams.d/*.yaml, or remove the key");
    }

    let instance = instance(&raw.instance, &mut reader);
    let model = model_choice::check(&raw.model, &mut reader);
    let infer = infer(&raw.runtime, &mut reader);
    let events = events(&raw.events, &mut reader);
    let labels = raw.labels.given().map(|labels| labels.value.as_slice()).unwrap_or_default();
    let state = sets_in_force::state(&raw.state, &mut reader).unwrap_or_else(StateFolder::default_place);
    let copies = running.unwrap_or(&state);
    let mut label_sets = sets::load(labels, copies, events.as_ref(), &mut reader);
    label_sets.incomplete |= incomplete;
    if let Some(at) = raw.labels.given().filter(|_| !label_sets.incomplete) {
        let names: Vec<&str> = label_sets.sets.iter().map(|set| set.name.as_str()).collect();
        sets_in_force::tell_left_over(copies, &names, at, &mut reader);
    }
    let no_labels = match raw.labels.given() {
        Some(labels) => document.find(&labels.path).is_empty_list(),
        None => raw.labels.is_missing(),
    };
    if no_labels && !incomplete && model.as_ref().is_none_or(|model| model.choice != ModelChoice::None) {
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
    if raw.streams.is_missing() && !incomplete {
        let remedy = "add at least one, such as `- { id: door, url: rtsp://10.0.0.12/stream1 }`; `streams: []` starts without any";
        reader.missing(&root, "streams", remedy);
    }
    let list = raw.streams.given().map(|streams| streams.value.as_slice()).unwrap_or_default();
    let streams = streams::check(list, &around, &mut reader);
    // A stream that is wrong is not gone.
    if let Some(at) = raw.labels.given().filter(|_| !label_sets.incomplete && streams.len() == list.len()) {
        calibrations::tell_left_over(copies, &label_sets, &streams, at, &mut reader);
    }
    if let Some(events) = &events {
        let (sets, in_force) = (&label_sets.sets, &mut label_sets.in_force);
        after_checks::check(list, &streams, sets, in_force, events, &mut reader);
    }
    let scores_in_metrics = scores_in_metrics(&raw.metrics, &streams, &label_sets.sets, &mut reader);

    let known = FilterNames {
        streams: streams.iter().map(|stream| stream.source.id.to_string()).collect(),
        regions: regions(&streams),
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
    let outbox = stores::outbox(&raw.outbox, &raw.sinks, &state, &mut reader);
    let snapshots = stores::snapshots(&raw.snapshots, &state, &mut reader);
    let history = stores::history(&raw.history, &state, &mut reader);
    let api = api(&raw.api, &mut reader);
    let is_off = raw.api.given().and_then(|api| api.value.listen.given()).is_some_and(|at| at.value == "off");
    if let Some(at) = raw.streams.given().filter(|at| is_off && !incomplete && document.find(&at.path).is_empty_list())
    {
        let message = "is empty, and with `api.listen: off` nobody could ever ask for a stream";
        reader.error(at, message, "add a stream, or let the API listen: then the daemon waits for a reload");
    }
    if is_off {
        let is_pushed = |stream: &&At<Stream>| {
            stream.value.url.given().is_some_and(|url| address::scheme(&url.value).as_deref() == Some("push"))
        };
        for stream in raw.streams.given().iter().flat_map(|streams| &streams.value).filter(is_pushed) {
            reader.warn(
                stream,
                "waits for pictures, and with `api.listen: off` nobody can send any",
                "let the API listen",
            );
        }
    }
    let log = log(raw.log.given().map(|log| &log.value));

    let settings = model.zip(infer).zip(events).map(|((model, infer), events)| Settings {
        file: document.file().to_path_buf(),
        included: document.appended().map(Path::to_path_buf).collect(),
        instance,
        model,
        infer,
        streams,
        label_sets: label_sets.sets,
        in_force: label_sets.in_force,
        calibrations: label_sets.calibrations,
        state,
        events,
        times_by_default: raw
            .events
            .given()
            .is_none_or(|at| at.value.after.is_missing() || at.value.cooldown.is_missing()),
        sinks,
        routes,
        outbox,
        snapshots,
        history,
        api,
        scores_in_metrics,
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
    let path = stores::outbox(&root.value.outbox, &root.value.sinks, &state, &mut reader).path;
    path.as_ref().is_none_or(|path| !path.as_os_str().is_empty()).then_some(path)
}

/// `metrics.scores`, with a warning where there are more than are told.
fn scores_in_metrics(
    field: &Field<Metrics>,
    streams: &[StreamSettings],
    sets: &[LabelSet],
    reader: &mut Reader<'_>,
) -> bool {
    let Some(at) = field.given().and_then(|metrics| metrics.value.scores.given()).filter(|at| at.value) else {
        return false;
    };
    let of_stream = |stream: &StreamSettings| -> usize {
        stream.label_sets.iter().filter_map(|set| sets.get(*set)).map(|set| set.labels.len()).sum()
    };
    let wanted: usize = streams.iter().filter(|stream| stream.enabled).map(of_stream).sum();
    if wanted > MOST_SCORES {
        let left = wanted - MOST_SCORES;
        let message = format!(
            "the streams have {wanted} labels together, and `/metrics` has the first {MOST_SCORES} of them in the order of this file: {left} have no \
             `vtagd_label_margin`"
        );
        let remedy = "give each stream only the sets that it needs (`labels`), or read the others with `vtagd scores` or the API";
        reader.warn(at, message, remedy);
    }
    true
}

/// The names of all streams' regions, each once.
fn regions(streams: &[StreamSettings]) -> Vec<String> {
    let names: BTreeSet<&Arc<str>> = streams.iter().flat_map(|stream| stream.views.names()).collect();
    names.into_iter().map(ToString::to_string).collect()
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
        enter: raw.enter.value(),
        exit: raw.exit.value(),
        after: raw.after.value(),
        after_exit: raw.after_exit.value(),
        cooldown: raw.cooldown.value(),
    };
    threshold_field::lint_enter(&raw.enter, reader);
    let merged = sets::merge(&over, &Thresholds::default());
    if let Some(exit) = raw.exit.given()
        && !merged.is_ordered()
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

fn api(field: &Field<Api>, reader: &mut Reader<'_>) -> Option<ApiSettings> {
    let default = Api::default();
    let raw = field.or_default(&default)?;
    let token = raw.token.given().map(|token| secrets::resolve(token, reader));
    let trusted_proxies = trusted_proxies::check(&raw.trusted_proxies, reader);
    let tls = raw.tls.given().and_then(|tls| {
        let mut given = |field, key| reader.required(tls, key, field, "name a PEM file; TLS needs both cert and key");
        let (cert, key) = (given(&tls.value.cert, "cert"), given(&tls.value.key, "key"));
        let cert = cert.and_then(|cert| checks::existing_file(cert, "name a PEM file", reader));
        let key = key.and_then(|key| checks::private_file(key, "name a PEM file", reader));
        let (cert, (key, readable)) = (cert?, key?);
        if readable && let Err(error) = crate::platform::tls::server(&cert, &key) {
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
    if let Some((at, token)) = raw.token.given().zip(token.as_ref().filter(|token| !token.is_absent())) {
        let bytes = token.expose().as_bytes();
        if bytes.iter().any(|byte| !byte.is_ascii_graphic()) {
            reader.error(at, "holds a space, or a character that no header can carry", TOKEN);
        } else if bytes.len() < LEAST_TOKEN {
            reader.warn(at, format!("is shorter than {LEAST_TOKEN} characters, which can be guessed"), TOKEN);
        }
    }
    Some(ApiSettings { listen, token, tls, trusted_proxies })
}

pub(super) fn listen(at: &At<String>, reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let text = at.value.trim();
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    match with_zone_as_number(&text).unwrap_or(text.clone()).parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let remedy = if text.parse::<IpAddr>().is_ok() {
                "add a port, such as 127.0.0.1:8642".to_owned()
            } else if let Ok(port) = text.strip_prefix(':').unwrap_or(&text).parse::<u16>() {
                format!("add an address, such as 127.0.0.1:{port}")
            } else {
                "write ADDRESS:PORT, such as 127.0.0.1:8642 or [fe80::1%eth0]:8642 with an interface of this machine, or off".to_owned()
            };
            reader.refuse(at, "is not an IP address and port", remedy)
        }
    }
}

/// `[fe80::1%eth0]:80` as `[fe80::1%2]:80`, where there is such an interface.
fn with_zone_as_number(text: &str) -> Option<String> {
    let (address, rest) = text.split_once('%')?;
    let (zone, port) = rest.split_once(']')?;
    let known = zone.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && !zone.starts_with('.');
    let number = std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok().filter(|_| known)?;
    Some(format!("{address}%{}]{port}", number.trim()))
}

fn log(raw: Option<&Log>) -> LogSettings {
    LogSettings {
        level: raw.and_then(|log| log.level.value()).unwrap_or(tracing::Level::INFO),
        format: raw.and_then(|log| log.format.value()).unwrap_or_default(),
    }
}
