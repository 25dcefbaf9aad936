//! A link whose way back is long: what the server sends arrives later, all of it and in order.
//!
//! Three threads a connection, which end with its sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

/// See the module.
pub struct SlowLink {
    port: u16,
}

impl SlowLink {
    /// To `target` on this machine. What it sends takes `delay`.
    pub fn start(target: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    join(client, server, delay);
                }
            }
        });
        Self { port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

fn join(client: TcpStream, server: TcpStream, delay: Duration) {
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    // When it is full, the server waits, as it would for any slow link.
    let (late, due) = bounded::<(Instant, Vec<u8>)>(1024);
    thread::spawn(move || {
        let (mut server, mut buffer) = (server, vec![0; 64 * 1024]);
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            if late.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        let mut client = client;
        for (at, bytes) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if client.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}
