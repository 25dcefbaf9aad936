//! The history's rows: how many a second go in, how fast they are searched, opened and deleted, and what a `kill -9` takes.
//! `cargo bench --bench history -- ROWS.f32 QUERIES FOLDER`: the file is of 32-bit numbers, rows of 512, the last QUERIES of them queries; one line of
//! JSON. `benches/peers/history_stores.py` makes the file, and compares with libraries. Without arguments: 100,000 random rows.
//!
//! `-- --fill FOLDER FINGERPRINT DIM STREAMS HOURS` leaves such a past of a daemon's streams `camera-0` … as random rows, one every two seconds, for
//! `benches/page_load.py`.
//!
//! Not criterion: filling takes long, and what counts is one run with the disk's own rhythm in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench fails by panicking and prints"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use vtagd::frame::view::NamedView;
use vtagd::history::moment_search::{Wanted, search};
use vtagd::history::name_table::Name;
use vtagd::history::row_store::{NewRow, RetentionLimits, RowStore, StoredRows};

const DIM: usize = 512;
const CAMERAS: usize = 16;
/// ms between rows: none is joined to another, so that what is found compares with what the libraries find.
const APART: i64 = 100_000;
/// Rows are made durable so often; the daemon does it by the clock.
const BATCH: usize = 1000;

fn name(camera: usize) -> Name {
    Name { stream: format!("camera-{camera}"), model: "m".into(), ..Name::default() }
}

fn limits(max_size: u64) -> RetentionLimits {
    // Every row is stored, as the libraries do it.
    RetentionLimits { max_size, max_age: Duration::from_secs(14 * 86_400), min_change: -1.0 }
}

/// Rows of the file, one after the other.
struct Rows(BufReader<File>);

impl Rows {
    fn open(path: &Path) -> (Self, usize) {
        let file = File::open(path).unwrap();
        let rows = file.metadata().unwrap().len() as usize / (4 * DIM);
        (Self(BufReader::with_capacity(1 << 20, file)), rows)
    }

    fn next(&mut self) -> Vec<f32> {
        let mut bytes = vec![0; 4 * DIM];
        self.0.read_exact(&mut bytes).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

fn push(store: &mut RowStore, index: usize, embedding: &[f32]) {
    let row = NewRow { name: &name(index % CAMERAS), tile: 0, at: index as i64 * APART, embedding };
    store.push(&row, Instant::now()).unwrap();
}

fn wanted(embedding: &[f32], threads: usize) -> Wanted<'_> {
    Wanted { embedding, model: "m", keep: 10, threads, ..Wanted::default() }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// In a process of its own: writes until it is killed, and says what is durable.
fn write_forever(rows: &Path, folder: &Path) {
    let (mut input, count) = Rows::open(rows);
    let (mut store, _) = RowStore::open(Some(folder), limits(4 << 30), Instant::now()).unwrap();
    for index in 0..count {
        push(&mut store, index, &input.next());
        if (index + 1) % BATCH == 0 {
            store.sync().unwrap();
            println!("{}", index + 1);
        }
    }
}

/// Rows that were told durable, and how many of them are gone after a `kill -9`.
fn killed(rows: &Path, folder: &Path) -> (u64, u64) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([Path::new("--write"), rows, folder])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap().parse().unwrap());
    let told: u64 = told.take_while(|rows| *rows < 5000).last().unwrap_or(0);
    child.kill().unwrap();
    child.wait().unwrap();
    let there: u64 = StoredRows::open(folder).unwrap().0.segments().iter().map(|segment| segment.rows()).sum();
    (told, told.saturating_sub(there))
}

/// ms between the rows of a past that is made up: a scene that moves all the time is kept as often.
const MOVING: i64 = 2000;

/// A past of so many hours until now, of the default view of each stream.
fn fill(folder: &Path, model: &str, dim: usize, streams: usize, hours: f64) {
    std::fs::create_dir_all(folder).unwrap();
    let (mut store, _) = RowStore::open(Some(folder), limits(8 << 30), Instant::now()).unwrap();
    let view = NamedView::default().digest();
    let names: Vec<Name> = (0..streams)
        .map(|number| Name {
            stream: format!("camera-{number}"),
            region: String::new(),
            model: model.to_owned(),
            view: view.clone(),
        })
        .collect();
    let now = jiff::Timestamp::now().as_millisecond();
    let begin = now - (hours * 3_600_000.0) as i64;
    let mut state = 1_u32;
    let mut rows = 0;
    for at in (begin..now).step_by(MOVING as usize) {
        for name in &names {
            let numbers = (0..dim).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            });
            let embedding: Vec<f32> = numbers.collect();
            let length = embedding.iter().map(|x| x * x).sum::<f32>().sqrt();
            let embedding: Vec<f32> = embedding.iter().map(|x| x / length).collect();
            store.push(&NewRow { name, tile: 0, at, embedding: &embedding }, Instant::now()).unwrap();
            rows += 1;
        }
    }
    store.sync().unwrap();
    println!("{}", json!({ "rows": rows, "bytes": bytes(folder) }));
}

/// Asks the page cache to forget the files of `folder`.
fn forget(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Seconds of CPU that this process has had.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn bytes(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let made = std::env::temp_dir().join(format!("vtagd-history-{}", std::process::id()));
    if arguments.is_empty() {
        std::fs::create_dir_all(made.join("rows")).unwrap();
        let mut state = 1_u32;
        let numbers = (0..100_020 * DIM).flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0).to_le_bytes()
        });
        std::fs::write(made.join("rows.f32"), numbers.collect::<Vec<u8>>()).unwrap();
        let path = |name: &str| made.join(name).to_string_lossy().into_owned();
        arguments = vec![path("rows.f32"), "20".into(), path("rows")];
    }
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--write", rows, folder] => write_forever(Path::new(rows), Path::new(folder)),
        ["--fill", folder, model, dim, streams, hours] => {
            let number = |text: &str| text.parse().unwrap();
            fill(Path::new(folder), model, number(dim), number(streams), hours.parse().unwrap());
        }
        [rows, queries, folder] => measure(Path::new(rows), queries.parse().unwrap(), &PathBuf::from(folder)),
        _ => panic!("ROWS.f32 QUERIES FOLDER"),
    }
    let _ = std::fs::remove_dir_all(made);
}

fn measure(path: &Path, queries: usize, folder: &Path) {
    let (mut input, count) = Rows::open(path);
    let rows = count - queries;
    // A budget that is full when all rows are in: what comes then needs the oldest to go.
    let budget = rows as u64 * 552 + (64 << 10);
    let (mut store, _) = RowStore::open(Some(folder), limits(budget * 65 / 64), Instant::now()).unwrap();
    let mut busy = Duration::ZERO;
    for index in 0..rows {
        let embedding = input.next();
        let began = Instant::now();
        push(&mut store, index, &embedding);
        if (index + 1) % BATCH == 0 {
            store.sync().unwrap();
        }
        busy += began.elapsed();
    }
    let bytes_a_row = bytes(folder) as f64 / rows as f64;
    let queries: Vec<Vec<f32>> = (0..queries).map(|_| input.next()).collect();
    let stored = store.stored();
    let ask = |embedding: &[f32], threads| {
        let began = Instant::now();
        let found = search(&stored, &wanted(embedding, threads));
        (began.elapsed().as_secs_f64() * 1e3, found)
    };
    ask(&queries[0], 2);
    let cpu_before = cpu();
    let (mut two, mut one, mut best) = (Vec::new(), Vec::new(), Vec::new());
    for query in &queries {
        let (ms, found) = ask(query, 2);
        two.push(ms);
        one.push(ask(query, 1).0);
        best.push(found.moments.iter().map(|moment| (moment.at / APART, moment.score)).collect::<Vec<_>>());
    }
    let search_cpu_ms = (cpu() - cpu_before) * 1e3 / (2 * queries.len()) as f64;
    // A tenth more, which pushes the oldest tenth out.
    let (mut again, _) = Rows::open(path);
    let (mut longest, mut evicting) = (Duration::ZERO, Duration::ZERO);
    for index in rows..rows + rows / 10 {
        let embedding = again.next();
        let began = Instant::now();
        push(&mut store, index, &embedding);
        let took = began.elapsed();
        (longest, evicting) = (longest.max(took), evicting + took);
    }
    let bytes_after = bytes(folder);
    drop((store, stored));
    forget(folder);
    let began = Instant::now();
    let (store, _) = RowStore::open(Some(folder), limits(budget * 65 / 64), Instant::now()).unwrap();
    let open_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let found = search(&store.stored(), &wanted(&queries[0], 2));
    let search_cold_ms = began.elapsed().as_secs_f64() * 1e3;
    assert_eq!((found.damaged, found.unreadable.len()), (0, 0));
    drop(store);
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let (killed_reported, killed_lost) = killed(path, folder);
    let told = json!({
        "rows_per_second": rows as f64 / busy.as_secs_f64(), "bytes_a_row": bytes_a_row,
        "search_max_ms": two.iter().copied().fold(0.0, f64::max), "search_p50_ms": median(two), "search_p50_one_thread_ms": median(one),
        "search_cold_ms": search_cold_ms, "search_cpu_ms": search_cpu_ms, "open_s": open_s,
        "evict_tenth_with_as_many_writes_s": evicting.as_secs_f64(), "longest_write_s": longest.as_secs_f64(),
        "bytes_after": bytes_after, "killed_reported": killed_reported, "killed_lost": killed_lost, "best": best,
    });
    println!("{told}");
}
