//! An HTTP server that answers as it is told, for webhooks, and remembers what it was sent. With TLS where that is wanted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub at: Instant,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether an independent library takes its signature for one made with `secret`.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let mut headers = ureq::http::HeaderMap::new();
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let Some(value) = self.header(name) else { return false };
            headers.insert(name, value.parse().unwrap());
        }
        standardwebhooks::Webhook::new(secret).unwrap().verify(&self.body, &headers).is_ok()
    }
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status with these header lines and no body.
    Status(u16, &'static str),
    /// Nothing, for ever.
    Hang,
    /// 200 and a body of so many bytes.
    Endless(u64),
    /// Something that is not HTTP.
    Rubbish,
}

type Script = dyn Fn(usize, &Request) -> Reply + Send + Sync;

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// See the module.
pub struct Hook {
    pub port: u16,
    secure: bool,
    requests: Arc<Mutex<Vec<Request>>>,
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Hook {
    /// `script` gets the number of the request, from 0, and the request.
    pub fn start(script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(None, script)
    }

    /// The same over TLS.
    pub fn start_tls(
        tls: Arc<rustls::ServerConfig>,
        script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch(Some(tls), script)
    }

    fn launch(
        tls: Option<Arc<rustls::ServerConfig>>,
        script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let secure = tls.is_some();
        let hook = Self { port, secure, requests: Arc::default(), most: Arc::default(), stop: Arc::default() };
        let (requests, most, stop) = (Arc::clone(&hook.requests), Arc::clone(&hook.most), Arc::clone(&hook.stop));
        let (script, now): (Arc<Script>, _) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, tls) = (stream.unwrap(), tls.clone());
                let (requests, script, stop) = (Arc::clone(&requests), Arc::clone(&script), Arc::clone(&stop));
                let (most, now) = (Arc::clone(&most), Arc::clone(&now));
                let serve = move |stream: &mut dyn ReadWrite| {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read(&mut stream) {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        let reply = {
                            let mut requests = requests.lock().unwrap();
                            requests.push(request.clone());
                            script(requests.len() - 1, &request)
                        };
                        let goes_on = answer(stream.get_mut(), &reply, &stop);
                        now.fetch_sub(1, Ordering::SeqCst);
                        if !goes_on {
                            return;
                        }
                    }
                };
                thread::spawn(move || {
                    let mut stream = stream;
                    match tls {
                        None => serve(&mut stream),
                        Some(tls) => {
                            let session = rustls::ServerConnection::new(tls).unwrap();
                            serve(&mut rustls::StreamOwned::new(session, stream));
                        }
                    }
                });
            }
        });
        hook
    }

    pub fn url(&self) -> String {
        let (scheme, host) = if self.secure { ("https", "localhost") } else { ("http", "127.0.0.1") };
        format!("{scheme}://{host}:{}/hook", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Most requests that were under way at a time.
    pub fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { path, headers, body, at: Instant::now() })
}

/// Whether the connection can be used again.
fn answer(stream: &mut dyn ReadWrite, reply: &Reply, stop: &AtomicBool) -> bool {
    match reply {
        Reply::Status(status, headers) => {
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{headers}\r\n").is_ok()
        }
        Reply::Hang => {
            while !stop.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(50));
            }
            false
        }
        Reply::Endless(length) => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let chunk = vec![b'x'; 1 << 16];
            let mut left = *length;
            while left > 0 && stream.write_all(&chunk[..chunk.len().min(left as usize)]).is_ok() {
                left = left.saturating_sub(chunk.len() as u64);
            }
            false
        }
        Reply::Rubbish => {
            let _ = stream.write_all(&[0xff; 4096]);
            false
        }
    }
}
