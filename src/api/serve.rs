//! Connections of the API: taken, encrypted where that is wanted, served, and ended when they take too long.
//!
//! On the API's own tokio runtime. In: sockets; out: answers of the router. Every connection has a place ([`Access::admit`]); one for which
//! there is none is answered for its health alone (`guard.rs`), and where too many of those are open the oldest goes: whoever holds connections
//! holds up nobody who asks whether the daemon lives. A peer that is slow with its TLS handshake, with a request's head, or with reading its
//! answer is cut off, so a place is never lost for long. Who is refused while still sending gets his answer all the same: what he sends is read
//! and thrown away for [`LINGER_TIMEOUT`]. At shutdown no more are taken, live streams are
//! ended and the others that are open have [`DRAIN_TIMEOUT`] to end.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::access::{Access, ConnectionPermit};
use super::limits::origin;
use crate::platform::shutdown::Shutdown;

/// Requests that have not ended this long after the request to stop are cut off.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// … and live streams, which are told to end, after this.
const LIVE_DRAIN_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long a connection that has had its last answer is read on, …
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// … and how much: bytes that nobody reads would reset it, and with it what the peer has not read yet (RFC 9112, section 9.6).
const MAX_LINGER: usize = 64 << 20;

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, and between two requests of a connection.
    pub head: Duration,
    /// How long an answer may wait for its peer to read on.
    pub stall: Duration,
    /// A connection older than this ends with the request it is at, …
    pub life: Duration,
    /// … which has this long to be answered.
    pub last: Duration,
}

pub(super) const TIMES: Times = Times {
    handshake: Duration::from_secs(10),
    head: Duration::from_secs(15),
    stall: Duration::from_secs(15),
    life: Duration::from_secs(600),
    last: Duration::from_secs(60),
};

impl Times {
    /// For who has no place.
    fn in_reserve(self) -> Self {
        let brief = |time: Duration| time.min(Duration::from_secs(5));
        Self {
            handshake: brief(self.handshake),
            head: brief(self.head),
            stall: brief(self.stall),
            life: brief(self.life),
            last: brief(self.last),
        }
    }
}

/// Connections without a place that are open, from this machine and from elsewhere.
const RESERVE: usize = 8;

/// Lines of a request's head, and its size in bytes.
const MAX_HEADERS: usize = 64;
const MAX_HEAD_SIZE: usize = 16 * 1024;
/// Where no connection can be taken (no file descriptors, most often), it is tried again after this.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Whose request it is.
#[derive(Clone)]
pub(super) struct Peer {
    pub address: IpAddr,
    /// `None` where nobody counts.
    pub permit: Option<Arc<ConnectionPermit>>,
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self { address, permit: None }
    }
}

impl Peer {
    fn is_live(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_live())
    }

    pub fn is_reserve(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_reserve())
    }
}

/// Connections without a place.
#[derive(Default)]
struct Reserve {
    local: VecDeque<(IpAddr, AbortHandle)>,
    remote: VecDeque<(IpAddr, AbortHandle)>,
}

impl Reserve {
    /// One more; where there are too many the oldest is cut off, one of the same address first.
    fn push(&mut self, peer: IpAddr, connection: AbortHandle) {
        let peer = origin(peer);
        let side = if peer.is_loopback() { &mut self.local } else { &mut self.remote };
        side.retain(|(_, other)| !other.is_finished());
        if side.len() >= RESERVE {
            let own = side.iter().position(|(other, _)| *other == peer);
            if let Some((_, oldest)) = side.remove(own.unwrap_or(0)) {
                oldest.abort();
            }
        }
        side.push_back((peer, connection));
    }
}

/// Serves `router` on `listener` until `shutdown`.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    access: Arc<Access>,
    times: Times,
    shutdown: Shutdown,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    // The one place where a thread-side shutdown meets async code: a blocking wait on its own thread.
    let (stop, stopped) = watch::channel(false);
    let mut asked = stopped.clone();
    tokio::task::spawn_blocking(move || {
        while !shutdown.sleep(Duration::from_secs(3600)) {}
        stop.send_replace(true);
    });
    // Bounded by the places and the reserve.
    let mut open = JoinSet::new();
    let mut reserve = Reserve::default();
    loop {
        tokio::select! {
            // An error means that the waiting thread is gone, which is as good a reason to stop.
            _ = asked.wait_for(|stop| *stop) => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let peer = Peer { address: peer.ip(), permit: Some(Arc::new(access.admit(peer.ip()))) };
                    let (address, without_place) = (peer.address, peer.is_reserve());
                    let times = if without_place { times.in_reserve() } else { times };
                    let (router, access, stopped) = (router.clone(), Arc::clone(&access), stopped.clone());
                    let task = open.spawn(connection(stream, peer, router, access, times, stopped));
                    if without_place {
                        metrics::counter!("vtagd_api_refused_total", "reason" => "connections").increment(1);
                        tracing::debug!(peer = %address, "too many connections, this one is answered for its health alone");
                        reserve.push(address, task);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection could be taken");
                    sleep(RETRY_INTERVAL).await;
                }
            },
        }
    }
    drop(listener);
    access.stop();
    // What has not ended by then is dropped, and with it its connection.
    let _ = timeout(DRAIN_TIMEOUT, async { while open.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    access: Arc<Access>,
    times: Times,
    stopped: watch::Receiver<bool>,
) {
    // Answers are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let stream = StallTimeout { inner: stream, stall: times.stall, deadline: None };
    let Some(tls) = access.tls() else { return talk(stream, peer, router, times, stopped).await };
    match timeout(times.handshake, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => talk(stream, peer, router, times, stopped).await,
        Ok(Err(error)) => tracing::debug!(peer = %peer.address, %error, "no TLS connection"),
        Err(_) => tracing::debug!(peer = %peer.address, "no TLS connection in time"),
    }
}

pub(super) async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    times: Times,
    mut stopped: watch::Receiver<bool>,
) {
    // Its place is given back when the connection has gone, and not before.
    let _place = peer.permit.clone();
    if answer_all(&mut stream, peer, router, times, stopped.clone()).await {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => {}
            _ = timeout(LINGER_TIMEOUT.min(times.stall), linger(stream)) => {}
        }
    }
}

/// Says that no more comes, and reads until the peer says so too.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = vec![0; 16 * 1024];
    let mut read = 0;
    while read < MAX_LINGER {
        match stream.read(&mut rest).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

/// Answers one request after the other. True where the peer was not cut off, and may still be reading or sending.
async fn answer_all(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    peer: Peer,
    router: Router,
    times: Times,
    mut stopped: watch::Receiver<bool>,
) -> bool {
    let address = peer.address;
    let asking = peer.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(asking.clone());
        // A router is always ready.
        router.clone().call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .max_headers(MAX_HEADERS)
        // Whoever has said all he wants to say still gets his answer.
        .half_close(true)
        .max_buf_size(MAX_HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let enough = async {
        let _ = timeout(times.life, stopped.wait_for(|stop| *stop)).await;
        // A live stream may become as old as it likes: whoever does not read it is cut off all the same.
        if peer.is_live() {
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = enough => {
            serving.as_mut().graceful_shutdown();
            if peer.is_live() {
                // It is told that the stream ends; one that does not read is cut off.
                let _ = timeout(times.last.min(LIVE_DRAIN_TIMEOUT), serving).await;
                return false;
            }
            // Somebody may read just fast enough not to count as stalled.
            let Ok(result) = timeout(times.last, serving).await else {
                tracing::debug!(peer = %address, "a connection of the API was cut off");
                return false;
            };
            result
        }
    };
    let Err(error) = result else { return true };
    tracing::debug!(peer = %address, %error, "a connection of the API ended");
    // What could not be read as a request has been answered as well.
    error.is_parse()
}

/// A stream whose other side has to read on within `stall`.
struct StallTimeout {
    inner: TcpStream,
    stall: Duration,
    /// Runs while something waits to be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl StallTimeout {
    /// What a write comes to: an error where it has waited for too long.
    fn end_if_stalled<T>(&mut self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.deadline = None;
            return result;
        }
        let stall = self.stall;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for StallTimeout {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for StallTimeout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.end_if_stalled(result, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.end_if_stalled(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.end_if_stalled(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.end_if_stalled(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};
    use std::path::Path;
    use std::time::Instant;

    use axum::routing::get;

    use super::super::test_server::{DEADLINE, Server};
    use super::super::{ApiSettings, TlsSettings};
    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(100);
    /// More than a connection keeps for who does not read.
    const LARGE: usize = 64 << 20;

    fn start(times: Times, tls: Option<TlsSettings>) -> Server {
        let router = Router::new()
            .route("/late", get(|| sleep(SOON * 5)))
            .route("/never", get(std::future::pending::<()>))
            .route("/large", get(|| async { vec![b'x'; LARGE] }));
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let settings = ApiSettings { listen, token: None, tls, trusted_proxies: Vec::new() };
        let access = Access::new(&settings, "").unwrap();
        Server::start(router, Arc::new(access), times)
    }

    impl Server {
        /// A connection that has asked for `path` and has its place.
        fn ask(&self, path: &str) -> TcpStream {
            let mut stream = self.connect();
            stream.write_all(request(path).as_bytes()).unwrap();
            stream
        }

        /// No connection has a place any more.
        fn wait_until_empty(&self) {
            let deadline = Instant::now() + DEADLINE;
            while self.access.taken() > 0 {
                assert!(Instant::now() < deadline, "{} places are taken", self.access.taken());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    }

    /// All that comes until the connection ends, in whatever way.
    fn rest(mut stream: impl Read) -> Vec<u8> {
        let mut all = Vec::new();
        match stream.read_to_end(&mut all) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it goes on: {error}"),
            _ => all,
        }
    }

    /// The answer has begun.
    fn begun(stream: &mut impl Read) {
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }

    fn generous() -> Times {
        Times { handshake: NEVER, head: NEVER, stall: NEVER, life: NEVER, last: NEVER }
    }

    #[test]
    fn an_old_connection_ends_with_the_request_that_it_is_at() {
        let server = start(Times { life: SOON, ..generous() }, None);
        // It would like to go on afterwards.
        let answer = String::from_utf8(rest(server.ask("/late"))).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
        server.wait_until_empty();
        server.stop();
    }

    #[test]
    fn the_last_request_of_an_old_connection_has_its_time_too() {
        let server = start(Times { life: SOON, last: SOON, ..generous() }, None);
        assert!(rest(server.ask("/never")).is_empty());
        server.wait_until_empty();
        server.stop();
    }

    #[test]
    fn whoever_does_not_read_on_loses_the_place() {
        for times in [Times { stall: SOON, ..generous() }, Times { life: SOON, last: SOON, ..generous() }] {
            let server = start(times, None);
            let mut deaf = server.ask("/large");
            begun(&mut deaf);
            server.wait_until_empty();
            assert!(rest(deaf).len() < LARGE, "{times:?}");
            server.stop();
        }
    }

    fn certify(folder: &Path) -> TlsSettings {
        let tls = TlsSettings { cert: folder.join("api.crt"), key: folder.join("api.key") };
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        std::fs::write(&tls.cert, made.cert.pem()).unwrap();
        std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
        tls
    }

    #[test]
    fn it_is_the_same_behind_tls_and_a_handshake_has_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let tls = certify(folder.path());
        let config = crate::platform::tls::pinned(&tls.cert).unwrap();
        let server = start(Times { stall: SOON, ..generous() }, Some(tls.clone()));
        let name = rustls::pki_types::ServerName::IpAddress(std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into());
        let socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut deaf = rustls::StreamOwned::new(rustls::ClientConnection::new(config, name).unwrap(), socket);
        deaf.write_all(request("/large").as_bytes()).unwrap();
        deaf.flush().unwrap();
        begun(&mut deaf);
        server.wait_until_empty();
        assert!(rest(deaf).len() < LARGE);
        server.stop();

        let server = start(Times { handshake: SOON, ..generous() }, Some(tls));
        // A record of 16 KiB, and then nothing.
        let mut half = TcpStream::connect(server.address).unwrap();
        half.set_read_timeout(Some(DEADLINE)).unwrap();
        half.write_all(b"\x16\x03\x01\x40\x00\x01").unwrap();
        assert!(rest(half).is_empty());
        server.wait_until_empty();
        server.stop();
    }
}
