//! A service manager that keeps what it is told.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// See the module. It reads at once: a full socket would lose messages.
pub struct Manager {
    pub path: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    pub fn start(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (told, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (Arc::clone(&told), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok(length) = socket.recv(&mut buffer) {
                    kept.lock().unwrap().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
                }
            }
        });
        Self { path, told, stop, thread: Some(thread) }
    }

    /// Every message so far.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
