//! For tests: the API's accept loop on a port of its own, with any router.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use super::Access;
use super::serve::{self, Times};
use crate::platform::shutdown::{self, Trigger};

/// Far more than anything here takes.
pub const DEADLINE: Duration = Duration::from_secs(240);

pub struct Server {
    pub address: SocketAddr,
    pub access: Arc<Access>,
    trigger: Trigger,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    pub fn start(router: Router, access: Arc<Access>, times: Times) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = shutdown::channel();
        let behind = Arc::clone(&access);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve::serve(listener, router, behind, times, shutdown)).unwrap();
        });
        Self { address, access, trigger, thread }
    }

    /// A connection, which is read from for [`DEADLINE`] at most.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    pub fn stop(self) {
        self.trigger.trigger();
        self.thread.join().unwrap();
    }
}
