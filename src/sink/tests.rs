//! What tests of sinks share: a sink that runs, and the other side's door.

use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::{Sink, runner};
use crate::outbox::delivery::{self, DeliverySender, Phase, States};
use crate::platform::backoff::Ladder;

/// `sink` on its thread, tried again at once, and the outbox's end of its link.
pub fn running(sink: impl Sink) -> (DeliverySender, JoinHandle<()>) {
    let (sender, receiver) = delivery::link("sink-0", States::default(), bounded(1).0);
    let ladder = Ladder { steps: vec![Duration::from_millis(1)], stable: Duration::ZERO };
    let thread = runner::start(Box::new(sink), receiver, ladder).unwrap();
    (sender, thread)
}

/// Ends a sink as the daemon's end does.
pub fn end(sender: &DeliverySender, thread: JoinHandle<()>) {
    sender.advance(Phase::Closed);
    thread.join().unwrap();
}

/// Listens on loopback, each connection on a thread of its own with its number; the port.
pub fn listen(serve: impl Fn(usize, &TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || serve(number, &stream));
        }
    });
    port
}
