//! A nats-server with a stream that takes every event.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::{self, stream};

use super::super::common::broker::free_port;
use super::super::common::daemon::eventually;

pub struct Server {
    pub port: u16,
    child: Child,
}

impl Server {
    /// `None`, with a message, where there is no nats-server.
    pub fn start(folder: &Path) -> Option<Self> {
        let debian = Path::new("/usr/sbin/nats-server");
        let program = if debian.exists() { debian } else { Path::new("nats-server") };
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder.join("nats"));
        let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            eprintln!("no nats-server here: what is sent to one is not compared; Debian has it as nats-server");
            return None;
        };
        let server = Self { port, child };
        eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        let config =
            stream::Config { name: "VTAGD".into(), subjects: vec!["vtagd.events.>".into()], ..Default::default() };
        block(async { server.context().await.create_stream(config).await.unwrap() });
        Some(server)
    }

    async fn context(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(format!("nats://127.0.0.1:{}", self.port)).await.unwrap())
    }

    /// Subject, headers and body of the first message, once there is one.
    pub fn first(&self) -> (String, Vec<(String, String)>, serde_json::Value) {
        eventually("an event reaches the stream", || {
            block(async {
                let stream = self.context().await.get_stream("VTAGD").await.ok()?;
                let message = stream.get_raw_message(1).await.ok()?;
                let text = |values: &Vec<async_nats::HeaderValue>| {
                    values.iter().map(|value| value.as_str().to_owned()).collect::<Vec<_>>().join(", ")
                };
                let mut headers: Vec<(String, String)> =
                    message.headers.iter().map(|(name, values)| (name.to_string(), text(values))).collect();
                headers.sort();
                Some((message.subject.to_string(), headers, serde_json::from_slice(&message.payload).unwrap()))
            })
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
