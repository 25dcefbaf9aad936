//! A web server on loopback that does as a test says.
#![allow(dead_code)] // every scenario uses a part of it

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use url::Url;

/// One request: its path and its lines.
pub struct Request {
    pub path: String,
    pub headers: Vec<String>,
}

impl Request {
    pub fn authorization(&self) -> Option<&str> {
        self.headers.iter().find_map(|h| h.strip_prefix("Authorization: "))
    }
}

/// A loopback web server that answers every request by `answer`, one thread a connection.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(answer));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Acquire) {
                    return;
                }
                let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    let Some(first) = lines.next() else { return };
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    let headers = lines.by_ref().take_while(|l| !l.is_empty()).collect();
                    // A client that leaves early is no failure of the server's.
                    let _ = answer(&Request { path, headers }, &mut stream);
                });
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len())?;
    stream.write_all(body)
}
