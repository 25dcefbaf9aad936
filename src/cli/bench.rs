//! `vtagd bench`: what this box can serve. A model directory, or the name of an architecture, in; images a second, latencies,
//! memory and cameras out. A table and what to write into the configuration by default, one JSON object with `--json`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde::Serialize;

use super::progress::Meter;
use super::{complain, pull, say};
use crate::bench::bench_child::{self, Setup};
use crate::bench::draft::Drafts;
use crate::bench::rounds::Speed;
use crate::bench::{BenchError, Memory, Model, openvino_precision};
use crate::config;
use crate::daemon::engine::{EngineError, spec_of};
use crate::infer::Provider;
use crate::model::import::ImportError;
use crate::model::import::manifest::{self, Manifest};
use crate::model::import::synthetic::{self, Synthetic};
use crate::model::import::write_bundle::ImportProgress;
use crate::model::onnx::Precision;
use crate::model::{self, Bundle, prepared};
use crate::platform::paths;
use crate::platform::shutdown::{self, Shutdown};

/// What of the measured speed cameras may use: a fifth is for decoding, preprocessing and busy moments.
const USABLE: f64 = 0.8;
/// A batch size that comes this near to the best one is as good, and a smaller one has the shorter latency.
const AS_GOOD: f64 = 0.97;
/// Longest time for one pair.
const MOST_SECONDS: f64 = 600.0;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model directory, or hf:ORG/NAME[@REVISION], which is pulled once [default: the starter model, or VTAGD_MODEL].
    #[arg(short, long, value_name = "DIR", conflicts_with_all = ["arch", "precisions"])]
    model: Option<PathBuf>,
    /// A real architecture with made-up weights instead of a model: they are as fast as real ones, and nothing needs to be downloaded.
    ///
    /// They are written into the cache directory and removed at the end.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(synthetic::NAMES))]
    arch: Option<String>,
    /// Precisions of the made-up weights, separated by commas [default: fp32,int8].
    #[arg(long = "precision", value_name = "LIST", value_delimiter = ',', requires = "arch")]
    precisions: Vec<Precision>,
    /// Batch sizes, 1 to 1024, separated by commas.
    #[arg(
        long = "batch",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,8",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    batches: Vec<u16>,
    /// Seconds of measuring for each precision and batch size, up to 600.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    seconds: f64,
    /// Threads inside one operator, as `runtime.threads`; 0: all cores.
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
    /// Where to compute. This one or nothing.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    provider: Provider,
    /// An option of the provider, as in `runtime.providers` of the configuration; may be given several times.
    #[arg(long = "provider-option", value_name = "NAME=VALUE", value_parser = parse_option)]
    provider_options: Vec<(String, String)>,
    /// ONNX Runtime to load, as `runtime.library`: runtime-openvino/libonnxruntime.so, say.
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE".to_owned())
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s: &f64| *s > 0.0 && *s <= MOST_SECONDS);
    seconds.ok_or_else(|| format!("write a number of seconds above 0, up to {MOST_SECONDS}"))
}

/// What `--json` prints. Stable; fields may be added.
#[derive(Debug, Serialize)]
struct Report {
    /// Name of the model or of the architecture.
    model: String,
    provider: Provider,
    /// Its options, those left out at their defaults among them.
    provider_options: String,
    /// As asked for; 0: all cores.
    threads: u16,
    results: Vec<Row>,
    /// Which of them to run with; `null` only without results.
    best: Option<Best>,
}

/// The fastest precision at the smallest batch size that is as good.
#[derive(Debug, Serialize)]
struct Best {
    precision: String,
    batch: usize,
    images_per_second: f64,
    cameras: u64,
    /// Lines for the configuration.
    yaml: String,
}

/// One precision at one batch size.
#[derive(Debug, Serialize)]
struct Row {
    precision: String,
    batch: usize,
    images_per_second: f64,
    latency_ms: Latency,
    /// Resident memory of a process with this model alone, warm for this batch size.
    rss_bytes: u64,
    /// The most that was resident while that process loaded and warmed up.
    rss_peak_bytes: u64,
    /// Cameras at one sample a second.
    cameras: u64,
    /// Runs that were measured; with fewer than a hundred, the 99th percentile is the slowest.
    runs: usize,
    /// Images a second of each round.
    rounds: Vec<f64>,
}

/// Of a run over a whole batch.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
}

/// What is measured: models of one name, and what each is called.
struct Subject {
    name: String,
    models: Vec<Model>,
    precisions: Vec<String>,
    /// Holds made-up weights until the end.
    _drafts: Option<Drafts>,
}

/// Measures and prints; the exit code.
pub fn run(args: &Args) -> u8 {
    let (trigger, shutdown) = shutdown::channel();
    let _signals = crate::platform::signals::listen(trigger, None, crate::logs::finish);
    match bench(args, &shutdown) {
        Ok(report) => {
            if !args.json {
                readable(&report).iter().for_each(|line| say(line));
                return 0;
            }
            match serde_json::to_string(&report) {
                Ok(line) => {
                    say(&line);
                    0
                }
                Err(error) => {
                    complain(&error);
                    1
                }
            }
        }
        Err(error) => {
            complain(&error);
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let bench = error.downcast_ref().map(BenchError::exit_code);
    bench.or_else(|| error.downcast_ref().map(EngineError::exit_code)).unwrap_or(1)
}

fn bench(args: &Args, shutdown: &Shutdown) -> Result<Report, anyhow::Error> {
    let provider = config::provider_from_pairs(args.provider, &args.provider_options)
        .map_err(|message| BenchError::Told { message: format!("--provider-option: {message}"), code: 2 })?;
    let mut meter = Meter::new();
    let subject = match &args.arch {
        Some(arch) => made_up(arch, &args.precisions, &mut meter, shutdown)?,
        None => given(args.model.as_deref(), shutdown)?,
    };
    let mut batches: Vec<usize> = args.batches.iter().map(|batch| usize::from(*batch)).collect();
    batches.sort_unstable();
    batches.dedup();
    let mut setup = Setup { provider, library: args.library.clone(), threads: args.threads.into() };
    if let (Some(model), Some(largest)) = (subject.models.first(), batches.last()) {
        setup = openvino_precision::choose_setup(setup, model, *largest, shutdown);
    }
    let pairs = batches.len() * subject.models.len();

    let mut memories = Vec::with_capacity(pairs);
    for batch in &batches {
        for model in &subject.models {
            memories.push(bench_child::memory(model, *batch, &setup, shutdown)?);
            show(&mut meter, "memory", memories.len() as u64, pairs as u64);
        }
    }
    let budget = Duration::from_secs_f64(args.seconds);
    let mut turn = |done, total| show(&mut meter, "speed", done as u64, total as u64);
    let speeds = bench_child::speed(&subject.models, &batches, budget, &setup, shutdown, &mut turn)?;

    let mut results: Vec<(usize, Row)> =
        speeds.into_iter().zip(memories).map(|(speed, memory)| (speed.model, row(&subject, speed, memory))).collect();
    // Measured batch by batch, read model by model.
    results.sort_by_key(|(model, row)| (*model, row.batch));
    let results = results.into_iter().map(|(_, row)| row).collect();
    let item = item(args.provider, &args.provider_options);
    Ok(Report::new(subject.name, args.provider, setup.provider.describe(), &item, args.threads, results))
}

impl Report {
    fn new(
        model: String,
        provider: Provider,
        provider_options: String,
        item: &str,
        threads: u16,
        results: Vec<Row>,
    ) -> Self {
        let best = best(&results).map(|row| Best {
            precision: row.precision.clone(),
            batch: row.batch,
            images_per_second: row.images_per_second,
            cameras: row.cameras,
            yaml: settings(row, item, threads),
        });
        Self { model, provider, provider_options, threads, results, best }
    }
}

/// An item of `runtime.providers`.
fn item(provider: Provider, options: &[(String, String)]) -> String {
    let name = provider.as_str();
    if options.is_empty() {
        return name.to_owned();
    }
    let options: Vec<_> = options.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!("{{ {name}: {{ {} }} }}", options.join(", "))
}

/// What `row` was measured with, as lines for the configuration; with a sampling interval where one a second is too much.
fn settings(row: &Row, item: &str, threads: u16) -> String {
    let threads = if threads == 0 { String::new() } else { format!("threads: {threads}, ") };
    let provider = if item == Provider::Cpu.as_str() { String::new() } else { format!("providers: [{item}], ") };
    let mut lines = format!("runtime: {{ {provider}{threads}batch: {{ max_size: {} }} }}", row.batch);
    if row.cameras == 0 {
        let seconds = (1.0 / (row.images_per_second * USABLE)).ceil();
        lines.push_str(&format!("\nsampling: {{ interval: {seconds}s }}  # for one camera"));
    }
    lines
}

fn row(subject: &Subject, speed: Speed, memory: Memory) -> Row {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Row {
        precision: subject.precisions.get(speed.model).cloned().unwrap_or_default(),
        batch: speed.batch,
        images_per_second: speed.images_per_second,
        latency_ms: Latency { p50: milliseconds(speed.p50), p99: milliseconds(speed.p99) },
        rss_bytes: memory.resident,
        rss_peak_bytes: memory.peak,
        cameras: (speed.images_per_second * USABLE) as u64,
        runs: speed.runs,
        rounds: speed.rounds,
    }
}

fn made_up(
    arch: &str,
    precisions: &[Precision],
    meter: &mut Meter,
    shutdown: &Shutdown,
) -> Result<Subject, anyhow::Error> {
    let mut wanted = Vec::new();
    for precision in if precisions.is_empty() { &[Precision::Fp32, Precision::Int8] } else { precisions } {
        if !wanted.contains(precision) {
            wanted.push(*precision);
        }
    }
    let mut progress = |ImportProgress { done, total, .. }: ImportProgress| {
        show(meter, "writing made-up weights", done, total);
        if shutdown.is_requested() { Err(ImportError::Stopped) } else { Ok(()) }
    };
    // The command line takes no other names.
    let (architecture, _) = Synthetic::new(arch).ok_or_else(|| anyhow::anyhow!("{arch} is not an architecture"))?;
    let drafts = Drafts::write(&paths::cache_dir(), arch, &architecture, &wanted, &mut progress)?;
    Ok(Subject {
        name: arch.to_owned(),
        models: drafts.models().to_vec(),
        precisions: wanted.iter().map(ToString::to_string).collect(),
        _drafts: Some(drafts),
    })
}

fn given(dir: Option<&Path>, shutdown: &Shutdown) -> Result<Subject, anyhow::Error> {
    let dir = pull::model_folder(dir, shutdown).map_err(BenchError::from)?;
    let bundle = prepared::open(&dir, &|| shutdown.is_requested()).map_err(BenchError::from)?;
    let (height, width) = spec_of(&bundle).map_err(EngineError::from)?.size();
    Ok(Subject {
        precisions: vec![precision_of(&bundle).map_err(BenchError::from)?],
        models: vec![Model { dir: bundle.dir, size: (height as usize, width as usize) }],
        name: bundle.name,
        _drafts: None,
    })
}

/// What an import wrote down, else what the file's name says, as exporters name their variants.
fn precision_of(bundle: &Bundle) -> Result<String, model::ModelError> {
    let value: Option<serde_json::Value> = model::read_json(&bundle.dir.join(manifest::FILE))?;
    if let Some(manifest) = value.and_then(|value| serde_json::from_value::<Manifest>(value).ok()) {
        return Ok(manifest.precision.to_string());
    }
    let stem = bundle.vision.file_stem().unwrap_or_default().to_string_lossy();
    Ok(stem.strip_prefix("vision_model_").map_or_else(|| "unknown".to_owned(), ToOwned::to_owned))
}

/// The table, and what to write into the configuration.
fn readable(report: &Report) -> Vec<String> {
    let threads = if report.threads == 0 { "all cores".to_owned() } else { format!("{} threads", report.threads) };
    let name = report.model.replace(char::is_control, "\u{fffd}");
    let provider = match report.provider_options.as_str() {
        "" => report.provider.as_str().to_owned(),
        options => format!("{} ({options})", report.provider.as_str()),
    };
    let mut lines = vec![
        format!("{name}, {provider}, {threads}"),
        format!(
            "{:10} {:>5} {:>9} {:>10} {:>10} {:>10} {:>10} {:>8}",
            "precision", "batch", "images/s", "p50", "p99", "memory", "peak", "cameras"
        ),
    ];
    for row in &report.results {
        lines.push(format!(
            "{:10} {:>5} {:>9.2} {:>7.1} ms {:>7.1} ms {:>7.0} MB {:>7.0} MB {:>8}",
            row.precision,
            row.batch,
            row.images_per_second,
            row.latency_ms.p50,
            row.latency_ms.p99,
            row.rss_bytes as f64 / 1e6,
            row.rss_peak_bytes as f64 / 1e6,
            row.cameras
        ));
    }
    lines.push("cameras: at one sample a second, with a fifth of the speed left for decoding and busy moments".into());
    if let Some(best) = &report.best {
        lines.push(format!("best: {} in batches of {}; in the configuration:", best.precision, best.batch));
        lines.extend(best.yaml.lines().map(ToOwned::to_owned));
    }
    lines
}

/// The fastest; of sizes that are as good, the smallest.
fn best(rows: &[Row]) -> Option<&Row> {
    let fastest = rows.iter().max_by(|a, b| a.images_per_second.total_cmp(&b.images_per_second))?;
    let as_good =
        |row: &&Row| row.precision == fastest.precision && row.images_per_second >= AS_GOOD * fastest.images_per_second;
    rows.iter().filter(as_good).min_by_key(|row| row.batch)
}

/// How far one of the steps is.
fn show(meter: &mut Meter, step: &'static str, done: u64, total: u64) {
    if meter.show("{msg} {bar:30} {percent} %, {eta} left", step, done, total) {
        tracing::info!(step, done, total, "measuring");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(precision: &str, batch: usize, images_per_second: f64) -> Row {
        Row {
            precision: precision.into(),
            batch,
            images_per_second,
            latency_ms: Latency { p50: 1.0, p99: 2.0 },
            rss_bytes: 1,
            rss_peak_bytes: 2,
            cameras: (images_per_second * USABLE) as u64,
            runs: 1,
            rounds: Vec::new(),
        }
    }

    #[test]
    fn the_best_is_the_fastest_precision_in_the_smallest_batch_that_is_as_good() {
        let rows = [row("fp32", 1, 20.0), row("int8", 1, 50.0), row("int8", 4, 59.0), row("int8", 8, 60.0)];
        let best = best(&rows).unwrap();
        assert_eq!((best.precision.as_str(), best.batch), ("int8", 4));
    }

    fn of(item: &str, threads: u16, results: Vec<Row>) -> Report {
        Report::new("m".into(), Provider::Cpu, String::new(), item, threads, results)
    }

    #[test]
    fn what_is_to_be_pasted_is_what_was_measured() {
        let report = of("openvino", 0, vec![row("fp16", 1, 4.0), row("fp16", 16, 40.0)]);
        let best = report.best.unwrap();
        assert_eq!(best.yaml, "runtime: { providers: [openvino], batch: { max_size: 16 } }");
        assert_eq!((best.precision.as_str(), best.batch, best.cameras), ("fp16", 16, 32));
        assert!(of("cpu", 0, Vec::new()).best.is_none());
    }

    #[test]
    fn a_box_too_slow_for_one_sample_a_second_is_told_the_interval_it_can_keep() {
        let report = |threads, row| of(&item(Provider::Cpu, &[]), threads, vec![row]);
        let lines = readable(&report(2, row("fp32", 8, 0.5)));
        assert!(lines.contains(&"runtime: { threads: 2, batch: { max_size: 8 } }".to_owned()), "{lines:?}");
        assert!(lines.last().unwrap().starts_with("sampling: { interval: 3s }"), "{lines:?}");
        assert!(readable(&report(0, row("int8", 1, 10.0))).last().unwrap().starts_with("runtime: "));
        let item = item(Provider::Openvino, &[("precision".into(), "bf16".into())]);
        let lines = readable(&of(&item, 2, vec![row("fp32", 8, 0.5)]));
        let hint = "runtime: { providers: [{ openvino: { precision: bf16 } }], threads: 2, batch: { max_size: 8 } }";
        assert!(lines.contains(&hint.to_owned()), "{lines:?}");
    }

    #[test]
    fn seconds_are_a_number_within_reason() {
        assert_eq!(parse_seconds("0.2"), Ok(0.2));
        for wrong in ["0", "-1", "nan", "601", "5s"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
