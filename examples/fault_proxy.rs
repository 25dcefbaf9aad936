//! Bad networks for the soak run: proxies in front of one RTSP camera, each with random faults of its own.
//!
//! In: `--target PORT [--count 16] [--mean 20] [--seed 1]`. Out: the ports as the first line on stdout, then a line for each
//! fault, as `seconds number fault`, until standard input closes; then every proxy heals, `healed` is written, and they pass on
//! until killed. Every proxy is healthy for `mean` seconds on average and ill for half of that; the seed decides when and how.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a tool for a script: stdout is its answer
#![allow(clippy::expect_used)] // as in the tests that share the proxy

#[path = "../tests/common/proxy.rs"]
mod proxy;

use std::io::Read;
use std::time::{Duration, Instant};

use clap::Parser;
use proxy::Proxy;

#[derive(Parser)]
#[command(about = "Proxies with random faults in front of an RTSP camera on loopback")]
struct Args {
    /// Port of the camera on 127.0.0.1.
    #[arg(long)]
    target: u16,
    #[arg(long, default_value_t = 16)]
    count: usize,
    /// Seconds between two faults of one proxy, on average.
    #[arg(long, default_value_t = 20.0)]
    mean: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0.5 to 1.5 times `seconds`.
    fn around(&mut self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * (0.5 + (self.next() >> 11) as f64 / (1u64 << 53) as f64))
    }
}

/// Does something bad; its name.
fn fault(proxy: &Proxy, random: &mut Random) -> &'static str {
    match random.next() % 10 {
        0 | 1 => {
            proxy.reset();
            "reset"
        }
        2 => {
            proxy.close();
            "close"
        }
        3 => {
            proxy.refuse();
            "refuse"
        }
        4 => {
            proxy.freeze();
            "freeze"
        }
        5 => {
            proxy.set(|plan| plan.corrupt_pictures = Some(10_000));
            "corrupt-pictures"
        }
        6 => {
            proxy.set(|plan| plan.corrupt_all = Some(20_000));
            "corrupt-all"
        }
        7 => {
            proxy.set(|plan| plan.rate = Some(4_000));
            "slow"
        }
        8 => {
            proxy.set(|plan| plan.truncate = true);
            "truncate"
        }
        _ => {
            let shift = random.next() as u32;
            proxy.set(|plan| plan.shift = plan.shift.wrapping_add(shift));
            "shift"
        }
    }
}

fn main() {
    let args = Args::parse();
    let mut random = Random(args.seed);
    let proxies: Vec<Proxy> = (0..args.count).map(|_| Proxy::start(args.target, random.next())).collect();
    let ports: Vec<String> = proxies.iter().map(|proxy| proxy.port().to_string()).collect();
    println!("{}", ports.join(" "));

    let (closed, input) = std::sync::mpsc::sync_channel::<()>(0);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(closed);
    });
    let started = Instant::now();
    let mut turns: Vec<(Instant, bool)> = proxies.iter().map(|_| (started + random.around(args.mean), false)).collect();
    while input.recv_timeout(Duration::from_millis(50)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        for (number, (due, ill)) in turns.iter_mut().enumerate() {
            if Instant::now() < *due {
                continue;
            }
            let (name, time) = if *ill {
                proxies[number].pass();
                ("pass", random.around(args.mean))
            } else {
                (fault(&proxies[number], &mut random), random.around(args.mean / 2.0))
            };
            (*due, *ill) = (Instant::now() + time, !*ill);
            println!("{:.1} {number} {name}", started.elapsed().as_secs_f64());
        }
    }
    proxies.iter().for_each(Proxy::pass);
    println!("healed");
    loop {
        std::thread::park();
    }
}
