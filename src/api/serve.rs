//! Connections of the API: taken, encrypted where that is wanted, served, and ended when they take too long.
//!
//! On the API's own tokio runtime. In: sockets; out: answers of the router. Every connection has a place ([`Door::admit`]); one for which
//! there is none is closed at once. A peer that is slow with its TLS handshake, with a request's head, or with reading its answer is cut
//! off, so a place is never lost for long. At shutdown no more are taken, and those that are open have [`PATIENCE`] to end.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::door::{Door, Place};
use crate::shutdown::Shutdown;

/// Requests that have not ended this long after the wish to stop are cut off.
const PATIENCE: Duration = Duration::from_secs(2);
/// For a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request, and between two requests of a connection.
const HEAD: Duration = Duration::from_secs(15);
/// How long an answer may wait for its peer to read on.
const STALL: Duration = Duration::from_secs(15);
/// A connection older than this ends with the request it is at, …
const LIFE: Duration = Duration::from_secs(600);
/// … which has this long to be answered.
const LAST: Duration = Duration::from_secs(60);
/// Lines of a request's head, and its size in bytes.
const HEADERS: usize = 64;
const HEAD_SIZE: usize = 16 * 1024;
/// Where no connection can be taken (no file descriptors, most often), it is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub IpAddr);

/// Serves `router` on `listener` until `shutdown`.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    door: Arc<Door>,
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
    // Bounded by the places.
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            // An error means that the waiting thread is gone, which is as good a reason to stop.
            _ = asked.wait_for(|stop| *stop) => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match door.admit(peer.ip()) {
                    Some(place) => {
                        open.spawn(connection(stream, place, router.clone(), Arc::clone(&door), stopped.clone()));
                    }
                    None => {
                        metrics::counter!("vtagd_api_refused_total", "reason" => "connections").increment(1);
                        tracing::debug!(peer = %peer.ip(), "too many connections, this one is closed");
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "no connection could be taken");
                    sleep(AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    // What has not ended by then is dropped, and with it its connection.
    let _ = timeout(PATIENCE, async { while open.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn connection(stream: TcpStream, place: Place, router: Router, door: Arc<Door>, stopped: watch::Receiver<bool>) {
    // Answers are written whole; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let stream = Patient { inner: stream, deadline: None };
    let Some(tls) = door.tls() else { return talk(stream, place.peer, router, stopped).await };
    match timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => talk(stream, place.peer, router, stopped).await,
        Ok(Err(error)) => tracing::debug!(peer = %place.peer, %error, "no TLS connection"),
        Err(_) => tracing::debug!(peer = %place.peer, "no TLS connection in time"),
    }
}

pub(super) async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: IpAddr,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        // A router is always ready.
        router.clone().call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        // Whoever has said all he wants to say still gets his answer.
        .half_close(true)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let enough = async {
        let _ = timeout(LIFE, stopped.wait_for(|stop| *stop)).await;
    };
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = enough => {
            serving.as_mut().graceful_shutdown();
            // Somebody may read just fast enough not to count as stalled.
            let Ok(result) = timeout(LAST, serving).await else {
                return tracing::debug!(%peer, "a connection of the API was cut off");
            };
            result
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection of the API ended");
    }
}

/// A stream whose other side has to read on within [`STALL`].
struct Patient {
    inner: TcpStream,
    /// Runs while something waits to be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// What a write comes to: an error where it has waited for too long.
    fn judge<T>(&mut self, result: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.deadline = None;
            return result;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALL)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(result, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(result, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.judge(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
