//! Whether an inference server is there and has the model, asked once for whoever looks at a box. In: where it is and how large the model's pictures
//! are; out: what each address says. On the caller's thread, for seconds an address. No picture is sent: that the server computes what the
//! model means is shown by the probe of a start alone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client_runtime::{ClientRuntime, RemoteHalt};
use super::served_model::ServedModel;
use super::server_connection::ServerConnection;
use super::{RemoteError, RemoteOptions, ServerUrl};
use crate::platform::tls;

/// For a connection, and again for what the server says of its model.
const STEP: Duration = Duration::from_secs(5);

/// What one address says.
#[derive(Debug)]
pub struct TriedServer {
    pub url: ServerUrl,
    /// What its model takes; without a size of pictures nobody asked.
    pub model: Result<Option<ServedModel>, RemoteError>,
}

/// Asks every address of `options` for its model, which is to take pictures of `size` (height, width).
///
/// # Errors
/// When the system gives no thread for it.
pub fn ask(options: &RemoteOptions, size: Option<(usize, usize)>) -> io::Result<Vec<TriedServer>> {
    let (runtime, halt, options) = (ClientRuntime::start()?, RemoteHalt::default(), Arc::new(options.clone()));
    let deadline = || Instant::now() + STEP;
    let tried = options.urls.iter().map(|url| {
        let model = || {
            let tls = url.tls.then(|| tls::client(&options.trust)).transpose().map_err(RemoteError::Refused)?;
            let connect = ServerConnection::connect(url.clone(), Arc::clone(&options), tls);
            let connection = runtime.run(deadline(), &halt, connect)?;
            let (Some(size), wanted) = (size, options.input) else { return Ok(None) };
            runtime.run(deadline(), &halt, async move { connection.served_model(size, wanted).await }).map(Some)
        };
        TriedServer { url: url.clone(), model: model() }
    });
    Ok(tried.collect())
}
