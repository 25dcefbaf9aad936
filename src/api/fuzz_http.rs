//! A whole connection out of any bytes: what the fuzzers run, and a bounded test on every machine. Nothing may panic, nothing may stay
//! open, and without the token nobody sees what it guards.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::{Access, AddressRange, ApiSettings, Board, SetView, Shared, route_table, serve};
use crate::platform::secret::Secret;
use crate::stream::requests;

/// The token of the API that is fuzzed: seeds may hold it.
pub const TOKEN: &str = "shaken-token-0123456789";
/// A name that only who has the token may see.
pub const MARKED: &str = "a-marked-label-set";

/// Sends `data` to a router of its own and returns all that came back.
pub fn fuzz(data: &[u8]) -> Vec<u8> {
    let settings = ApiSettings {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        token: Some(Secret::new(TOKEN)),
        tls: None,
        trusted_proxies: vec![AddressRange::from(IpAddr::V4(Ipv4Addr::LOCALHOST))],
    };
    let board = Arc::new(Board::new(Arc::default()));
    board.set_labels(vec![SetView {
        set: MARKED.to_owned(),
        labels: Vec::new(),
        sha256: String::new(),
        warnings: Vec::new(),
        source: serde_json::json!({}),
        details: serde_json::json!({}),
        hours: Vec::new(),
    }]);
    let Ok(access) = Access::new(&settings, "").map(Arc::new) else { return Vec::new() };
    // Nobody takes requests: whoever has the token is told that the daemon stops.
    let requests = requests::channel().0.api;
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let router = route_table::router(Shared { board, metrics, access, requests }, route_table::all());
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return Vec::new() };
    let answer = runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (_stop, stopped) = watch::channel(false);
        let served = serve::talk(theirs, IpAddr::V4(Ipv4Addr::LOCALHOST).into(), router, serve::TIMES, stopped);
        let (mut from, mut to) = tokio::io::split(ours);
        let mut answer = Vec::new();
        let write = async {
            // It may be refused in the middle.
            let _ = to.write_all(data).await;
            let _ = to.shutdown().await;
        };
        let read = async {
            let _ = from.read_to_end(&mut answer).await;
        };
        tokio::join!(served, write, read);
        answer
    });
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer that is none");
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(data, TOKEN) || !holds(&answer, MARKED), "seen without the token");
    assert!(!holds(&answer, TOKEN) || holds(data, TOKEN), "the token was told");
    answer
}
