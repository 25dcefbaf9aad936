//! A server of this machine, by an IPv6 address with a zone: cameras that have nothing but fe80::… are reached by such ones.

use std::io;
use std::net::{TcpListener, TcpStream};

/// Relays to the port `target` of 127.0.0.1. Host and port for a URL; `None` where there is no IPv6. The loopback interface is always number 1,
/// and its address takes numbers alone.
pub fn with_zone(target: u16) -> Option<String> {
    let listener = TcpListener::bind("[::1]:0").ok()?;
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // A client that goes, or a server that is gone, ends that connection alone.
            let _ = client.and_then(|client| join(client, TcpStream::connect(("127.0.0.1", target))?));
        }
    });
    Some(format!("[::1%251]:{port}"))
}

fn join(client: TcpStream, server: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
    Ok(())
}
