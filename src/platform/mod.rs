//! What the operating system is asked for, and what every part of the daemon needs from it: signals, shutdown, processes, paths, memory,
//! threads, TLS, secrets, waiting. Each module says on which thread it runs; nothing here knows a stage.

pub mod backoff;
pub mod child_process;
pub mod clock_sync;
pub mod free_memory;
pub mod gpu;
pub mod malloc;
pub mod missing;
pub mod no_proxy;
pub mod paths;
pub mod process;
pub mod processor;
pub mod running_daemons;
pub mod secret;
pub mod secret_path;
pub mod service_user;
pub mod shutdown;
pub mod signals;
pub mod state_folder;
pub mod systemd;
pub mod terminal;
pub mod thread_priority;
pub mod tls;
pub mod userinfo;
pub mod writable;
pub mod zoned_url;

pub use vtagd_checkpoint::{atomic_file, hex, json_text, rounding, unfinished_folder};
