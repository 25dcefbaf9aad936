//! A bad network on loopback: a TCP proxy between a client and an RTSP camera that goes wrong when it is told to.
//!
//! ```text
//! client ◄─► [ proxy: freeze, cut, reset, refuse, slow, corrupt, truncate, shift time stamps ] ◄─► camera
//! ```
//!
//! ```no_run
//! let proxy = Proxy::start(camera.port(), 1);
//! proxy.freeze();             // half open: sockets stay, not a byte goes through
//! proxy.pass();               // all is well, for these connections and new ones
//! proxy.reset();              // every connection is reset (RST)
//! ```
//! One thread accepts; every connection has one thread for each direction, which read with a short time-out so that they see
//! what changes. What the camera sends is taken apart into RTSP messages and interleaved packets, so that a fault can hit the
//! pictures alone. Random faults come from a seed. Dropping the proxy resets everything.
//!
//! Tests, benches and `examples/fault_proxy.rs` share this file; it needs the standard library and `libc` alone.
#![allow(dead_code, reason = "every scenario uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

/// How often a thread that waits looks at what it is told.
const LOOK: Duration = Duration::from_millis(20);

/// What is wrong with the network right now. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Nothing is read and nothing is written; the sockets stay open.
    pub frozen: bool,
    /// One byte of so many from the camera is changed, in the pictures only.
    pub corrupt_pictures: Option<u64>,
    /// The same for all bytes once pictures flow: RTSP messages and the framing of packets too.
    pub corrupt_all: Option<u64>,
    /// Bytes a second from the camera, each connection.
    pub rate: Option<u64>,
    /// Added to the time stamps of RTP packets (90 000 a second for video).
    pub shift: u32,
    /// Combined with the source number of RTP packets: as if the camera had started its stream anew.
    pub ssrc: u32,
    /// The next picture packet is cut in its middle, and the connection is closed behind it.
    pub truncate: bool,
    /// The port is closed.
    pub refuse: bool,
    stop: bool,
}

struct Shared {
    plan: Mutex<Plan>,
    open: Mutex<Vec<TcpStream>>,
    target: AtomicU16,
    accepted: AtomicU64,
    corrupted: AtomicU64,
    seed: u64,
}

impl Shared {
    fn plan(&self) -> Plan {
        *lock(&self.plan)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// See the module.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to `target` on this machine, on a port that the system chose. `seed` decides which bytes are corrupted.
    pub fn start(target: u16, seed: u64) -> Self {
        let listener = listen(0).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            plan: Mutex::default(),
            open: Mutex::default(),
            target: AtomicU16::new(target),
            accepted: AtomicU64::new(0),
            corrupted: AtomicU64::new(0),
            seed,
        });
        let inside = Arc::clone(&shared);
        let thread = thread::Builder::new().name("proxy".into()).spawn(move || accept(&inside, listener, port));
        Self { port, shared, thread: Some(thread.expect("a thread")) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go to this port.
    pub fn retarget(&self, port: u16) {
        self.shared.target.store(port, Ordering::SeqCst);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Bytes changed so far.
    pub fn corrupted(&self) -> u64 {
        self.shared.corrupted.load(Ordering::SeqCst)
    }

    /// Changes what is wrong.
    pub fn set(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut lock(&self.shared.plan));
    }

    /// Nothing is wrong any more.
    pub fn pass(&self) {
        self.set(|plan| *plan = Plan { shift: plan.shift, ssrc: plan.ssrc, ..Plan::default() });
    }

    /// Half open: the sockets stay, not a byte goes through, new connections are accepted and stay silent.
    pub fn freeze(&self) {
        self.set(|plan| plan.frozen = true);
    }

    /// Ends every connection in an orderly way (FIN).
    pub fn close(&self) {
        for socket in lock(&self.shared.open).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Resets every connection (RST).
    pub fn reset(&self) {
        for socket in lock(&self.shared.open).drain(..) {
            disconnect(&socket);
        }
    }

    /// Closes the port and resets every connection.
    pub fn refuse(&self) {
        self.set(|plan| plan.refuse = true);
        self.reset();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(|plan| plan.stop = true);
        self.reset();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listener that may be opened again right after it was closed, as std's is on Unix.
fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sends a reset at once, whoever else holds the socket.
fn disconnect(socket: &TcpStream) {
    // SAFETY: zeroed bytes are a valid sockaddr, whose family then says "no address": Linux answers by resetting the connection.
    unsafe {
        let mut address: libc::sockaddr = std::mem::zeroed();
        address.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
        libc::connect(socket.as_raw_fd(), &raw const address, size_of::<libc::sockaddr>() as libc::socklen_t);
    }
}

fn accept(shared: &Arc<Shared>, listener: TcpListener, port: u16) {
    let mut listener = Some(listener);
    loop {
        let plan = shared.plan();
        if plan.stop {
            return;
        }
        if plan.refuse {
            listener = None;
        } else if listener.is_none() {
            // The port is ours: a moment later it is free again for certain.
            listener = listen(port).ok();
        }
        match listener.as_ref().map(TcpListener::accept) {
            Some(Ok((client, _))) => {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                serve(shared, client);
            }
            _ => thread::sleep(LOOK / 4),
        }
    }
}

/// Joins a client to the camera, or resets it if that is away.
fn serve(shared: &Arc<Shared>, client: TcpStream) {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, shared.target.load(Ordering::SeqCst)));
    let Ok(camera) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else { return disconnect(&client) };
    for socket in [&client, &camera] {
        let _ = (socket.set_nonblocking(false), socket.set_nodelay(true), socket.set_read_timeout(Some(LOOK)));
    }
    let copies = [client.try_clone(), camera.try_clone(), client.try_clone(), camera.try_clone()];
    let [Ok(from_client), Ok(to_camera), Ok(client_end), Ok(camera_end)] = copies else { return disconnect(&client) };
    let mut open = lock(&shared.open);
    // Sockets of connections that have ended are let go of here, so that a long run holds only what is open.
    open.retain(|socket| socket.peer_addr().is_ok());
    open.extend([client_end, camera_end]);
    drop(open);
    let number = shared.accepted.load(Ordering::SeqCst);
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || {
        pump(&up, from_client, to_camera, |bytes, out, _| {
            out.extend_from_slice(bytes);
            false
        })
    });
    thread::spawn(move || {
        let mut splitter = Splitter::new(down.seed ^ number);
        pump(&Arc::clone(&down), camera, client, move |bytes, out, plan| {
            splitter.feed(bytes, out, plan, &down.corrupted)
        });
    });
}

/// Moves bytes until one side ends; `work` says whether the connection is to be closed behind what it wrote.
fn pump(
    shared: &Shared,
    mut from: TcpStream,
    mut to: TcpStream,
    mut work: impl FnMut(&[u8], &mut Vec<u8>, &mut Plan) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut out = Vec::new();
    loop {
        let plan = shared.plan();
        if plan.stop {
            break;
        }
        if plan.frozen {
            // Only somebody who resets the connection ends it now.
            if from.peer_addr().is_err() {
                break;
            }
            thread::sleep(LOOK);
            continue;
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        out.clear();
        let mut now = shared.plan();
        let close = work(&buffer[..read], &mut out, &mut now);
        if close {
            lock(&shared.plan).truncate = false;
        }
        if write(shared, &mut to, &out).is_err() || close {
            break;
        }
    }
    for socket in [&from, &to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// Writes, slowly if the plan says so, and not at all while it is frozen.
fn write(shared: &Shared, to: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let mut due = Instant::now();
    while !bytes.is_empty() {
        let plan = shared.plan();
        if plan.stop || to.peer_addr().is_err() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if plan.frozen {
            thread::sleep(LOOK);
            continue;
        }
        let part = match plan.rate {
            None => bytes.len(),
            Some(_) if Instant::now() < due => {
                thread::sleep(LOOK.min(due.saturating_duration_since(Instant::now())));
                continue;
            }
            Some(rate) => {
                let part = bytes.len().min(usize::try_from(rate / 20).unwrap_or(usize::MAX).max(1));
                due = Instant::now() + Duration::from_secs_f64(part as f64 / rate.max(1) as f64);
                part
            }
        };
        to.write_all(&bytes[..part])?;
        bytes = &bytes[part..];
    }
    Ok(())
}

/// Takes what a camera sends apart: RTSP messages, and packets behind `$`, channel and length.
struct Splitter {
    pending: Vec<u8>,
    random: u64,
    pictures: bool,
}

impl Splitter {
    fn new(seed: u64) -> Self {
        Self { pending: Vec::new(), random: seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15), pictures: false }
    }

    /// Writes what is whole to `out`, with the faults of `plan`. `true`: close the connection behind it.
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>, plan: &Plan, corrupted: &AtomicU64) -> bool {
        self.pending.extend_from_slice(bytes);
        while let Some(length) = whole(&self.pending) {
            let mut piece: Vec<u8> = self.pending.drain(..length).collect();
            // Even channels carry RTP, odd ones RTCP.
            let rtp = piece.len() > 16 && piece[0] == b'$' && piece[1].is_multiple_of(2);
            if rtp {
                self.pictures = true;
                add(&mut piece[8..12], plan.shift);
                let ssrc = u32::from_be_bytes([piece[12], piece[13], piece[14], piece[15]]) ^ plan.ssrc;
                piece[12..16].copy_from_slice(&ssrc.to_be_bytes());
                if plan.truncate && piece.len() > 200 {
                    out.extend_from_slice(&piece[..piece.len() / 2]);
                    return true;
                }
            } else if piece.len() > 12 && piece[0] == b'$' {
                // RTCP: a report that tied the old times to the clock would undo the shift.
                if plan.shift != 0 || plan.ssrc != 0 {
                    continue;
                }
            }
            let (from, one_in) = match (plan.corrupt_all.filter(|_| self.pictures), plan.corrupt_pictures) {
                (Some(one_in), _) => (0, one_in),
                (None, Some(one_in)) if rtp => (16, one_in),
                _ => (piece.len(), 1),
            };
            for byte in &mut piece[from..] {
                let random = self.next();
                if random.is_multiple_of(one_in.max(1)) {
                    *byte ^= 1 << ((random >> 40) % 8);
                    corrupted.fetch_add(1, Ordering::Relaxed);
                }
            }
            out.extend_from_slice(&piece);
        }
        false
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) >> 1
    }
}

fn add(field: &mut [u8], number: u32) {
    let sum = u32::from_be_bytes([field[0], field[1], field[2], field[3]]).wrapping_add(number);
    field.copy_from_slice(&sum.to_be_bytes());
}

/// Length of the first message or packet, once all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    if bytes.first()? == &b'$' {
        let length = 4 + usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
        return (bytes.len() >= length).then_some(length);
    }
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let body = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    (bytes.len() >= head + body).then_some(head + body)
}
