//! Preprocessing one 1080p frame on one core, beside Pillow in the same run.
//!
//! `cargo bench --bench preprocess` prints criterion's numbers, then the median of our way and of Pillow's for the same content with
//! their ratio. The Python for the peer is `VTAGD_PEER_PYTHON` or `python3`; without Pillow and NumPy the peer is left out.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench is a program for a terminal and fails by panicking"
)]

#[path = "common/mod.rs"]
mod common;

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use vtagd::frame::{Matrix, Picture, PixelFormat, Range};
use vtagd::preprocess::{Preprocessor, Region, Spec, View, ViewMode};

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1080;

/// Name, side of the resize, and the specification.
const SPECS: [(&str, u32, &str); 2] =
    [("256 to 224", 256, r#"{"size": {"shortest_edge": 256}, "crop_size": 224}"#), ("224", 224, "{}")];

/// Smooth shapes with some texture, so that caches and branches see what video gives them.
fn sample(x: u32, y: u32, channel: u32) -> u8 {
    let wave = f64::from(x * (channel + 1)) * 0.013 + f64::from(y) * 0.021;
    let texture = (x.wrapping_mul(7919) ^ y.wrapping_mul(104_729)) % 23;
    (110.0 + 80.0 * wave.sin() + f64::from(texture)) as u8
}

fn yuv(format: PixelFormat) -> Picture {
    let mut strides = [0; 3];
    let planes: Vec<Vec<u8>> = (0..format.planes())
        .map(|plane| {
            let (row, rows) = format.plane_size(plane, WIDTH, HEIGHT);
            strides[plane] = row;
            (0..row * rows).map(|at| sample((at % row) as u32, (at / row) as u32, plane as u32)).collect()
        })
        .collect();
    let colour = (Matrix::Bt709, Range::Limited);
    Picture::new(format, (WIDTH, HEIGHT), strides, colour, Box::new(planes)).expect("a whole picture")
}

fn rgb() -> Vec<u8> {
    (0..WIDTH * HEIGHT * 3).map(|at| sample(at / 3 % WIDTH, at / 3 / WIDTH, at % 3)).collect()
}

fn criterion_part(criterion: &mut Criterion) {
    let rgb = Picture::from_rgb(WIDTH, HEIGHT, rgb()).expect("a whole picture");
    let pictures = [("i420", yuv(PixelFormat::I420)), ("nv12", yuv(PixelFormat::Nv12)), ("rgb", rgb)];
    for (spec_name, _, spec) in SPECS {
        let spec = Arc::new(Spec::from_json(spec).expect("a valid specification"));
        let mut preprocessor = Preprocessor::new(Arc::clone(&spec));
        let mut place = vec![0.0; spec.place_len()];
        let mut group = criterion.benchmark_group(format!("1080p, {spec_name}"));
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(50);
        for (name, picture) in &pictures {
            for mode in [ViewMode::Model, ViewMode::Squash] {
                let view = View { mode, region: Region::FULL };
                group.bench_with_input(BenchmarkId::new(*name, format!("{mode:?}")), picture, |bencher, picture| {
                    bencher.iter(|| preprocessor.run(black_box(picture), view, 0, &mut place));
                });
            }
        }
        group.finish();
    }
}

/// Median milliseconds of our way over two seconds.
fn ours(spec: &str) -> f64 {
    let spec = Arc::new(Spec::from_json(spec).expect("a valid specification"));
    let mut preprocessor = Preprocessor::new(Arc::clone(&spec));
    let mut place = vec![0.0; spec.place_len()];
    let picture = yuv(PixelFormat::I420);
    let mut times = Vec::new();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let start = Instant::now();
        preprocessor.run(black_box(&picture), View::default(), 0, &mut place).expect("a good frame");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Median milliseconds of Pillow, or why there are none.
fn pillow(frame: &Path, shortest: u32) -> Result<f64, String> {
    let python = std::env::var("VTAGD_PEER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/pillow_preprocess.py");
    let sizes = [WIDTH, HEIGHT, shortest, 224].map(|n| n.to_string());
    let output =
        Command::new(&python).arg(script).arg(frame).args(sizes).output().map_err(|e| format!("{python}: {e}"))?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("no answer").to_owned())?;
    answer["median_ms"].as_f64().ok_or_else(|| "no median in the answer".to_owned())
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criterion_part(&mut criterion);
    criterion.final_summary();

    let dir = tempfile::tempdir().expect("a temporary folder");
    let frame = dir.path().join("frame.rgb");
    std::fs::write(&frame, rgb()).expect("room for one frame");
    println!("\none 1080p frame, median ms on one core (target: 2.5)");
    for (name, shortest, spec) in SPECS {
        let ours = ours(spec);
        match pillow(&frame, shortest) {
            Ok(theirs) => {
                println!(
                    "{name:>10}: vtagd from I420 {ours:.2}, Pillow from RGB {theirs:.2}, ratio {:.1}",
                    theirs / ours
                );
                let what = format!("preprocess 1080p I420, {name}");
                common::tell(&what, "ms", (ours, theirs), "Pillow from RGB", theirs / ours);
            }
            Err(reason) => println!("{name:>10}: vtagd from I420 {ours:.2}, Pillow not measured ({reason})"),
        }
    }
}
