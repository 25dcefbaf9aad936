//! One connection to a server, gRPC or HTTP/1.1, and the three questions that are asked over it. On the runtime's thread.
//!
//! A connection is made once: what would connect again by itself is refused, so that a server which was started anew, maybe with another model,
//! is never taken for the one that was probed. Answers are bounded by what the question allows, whatever the server says.

use std::future::{Ready, ready};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use super::served_model::ServedModel;
use super::server_fault::{self, chain};
use super::tile_bytes::AnswerTensor;
use super::{Carrier, RemoteError, RemoteOptions, ServerUrl, TileInput, told};
use super::{binary_answer, kserve_messages as message};

/// What says of an HTTP message how long its JSON is; values follow.
const JSON_LENGTH: &str = "inference-header-content-length";
/// Names, shapes and parameters of a model, and whatever else stands in its configuration.
const MAX_DESCRIPTION: usize = 1 << 20;
/// Beside the values of an answer.
const ENVELOPE: usize = 64 << 10;
/// For what may be about binary tensors.
const ADVICE: &str = "(a server without binary tensors over HTTP wants grpc://)";
/// Two of them unanswered, and the other side is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// After so long without an answer a connection may be one that a firewall has forgotten: that it breaks then says nothing of the server.
const IDLE: Duration = Duration::from_secs(30);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Wire = TokioIo<Box<dyn Io>>;

/// What is asked of a model: pictures that are on their way.
pub struct InferQuestion {
    pub id: u64,
    pub shape: Vec<i64>,
    pub pixels: Bytes,
    /// Of the embeddings that are wanted, in 32 bits.
    pub answer_bytes: usize,
    /// For the answer; the server is told too.
    pub limit: Duration,
}

/// See the module.
pub struct ServerConnection {
    pub url: ServerUrl,
    way: Way,
    model: String,
    token: Option<HeaderValue>,
    /// Of the model that computed the first answer: this is the one that was probed.
    version: OnceLock<String>,
    /// Questions that are under way; one that was given up stays.
    unanswered: AtomicUsize,
    /// When the last answer came, or the connection was made.
    heard: parking_lot::Mutex<Instant>,
}

enum Way {
    Grpc(Channel),
    /// One request at a time.
    Http(Mutex<SendRequest<Full<Bytes>>>),
}

impl ServerConnection {
    /// Connects, and shakes hands. `tls` where the URL wants it.
    ///
    /// # Errors
    /// [`RemoteError::Away`] with what failed.
    pub async fn connect(
        url: ServerUrl,
        options: Arc<RemoteOptions>,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, RemoteError> {
        let away = |error: &dyn std::fmt::Display| RemoteError::Away(format!("{url}: {}", told(&error.to_string())));
        let socket = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|e| away(&e))?;
        socket.set_nodelay(true).map_err(|e| away(&e))?;
        let io: Box<dyn Io> = match tls {
            None => Box::new(socket),
            Some(tls) => {
                let mut tls = (*tls).clone();
                let protocol: &[u8] = if url.carrier == Carrier::Grpc { b"h2" } else { b"http/1.1" };
                tls.alpn_protocols = vec![protocol.to_vec()];
                let name = rustls::pki_types::ServerName::try_from(url.host.clone()).map_err(|e| away(&e))?;
                Box::new(
                    tokio_rustls::TlsConnector::from(Arc::new(tls))
                        .connect(name, socket)
                        .await
                        .map_err(|e| away(&e))?,
                )
            }
        };
        let io = TokioIo::new(io);
        let way = match url.carrier {
            Carrier::Grpc => Way::Grpc(channel(&url, io).await.map_err(|e| away(&chain(&e)))?),
            Carrier::Http => {
                let (sender, connection) = http1::handshake(io).await.map_err(|e| away(&e))?;
                // It ends with the sender, or when the other side hangs up, which the sender then says.
                drop(tokio::spawn(connection));
                Way::Http(Mutex::new(sender))
            }
        };
        let token = options.token.as_ref().map(|token| HeaderValue::try_from(format!("Bearer {}", token.expose())));
        let mut token =
            token.transpose().map_err(|_| RemoteError::Refused("the token cannot stand in a header".into()))?;
        token.iter_mut().for_each(|token| token.set_sensitive(true));
        let (model, heard) = (options.model.clone(), parking_lot::Mutex::new(Instant::now()));
        Ok(Self { url, way, model, token, version: OnceLock::new(), unanswered: AtomicUsize::new(0), heard })
    }

    /// What the server's model takes and gives.
    ///
    /// # Errors
    /// When it does not say, or it is unsuitable.
    pub async fn served_model(&self, size: (usize, usize), wanted: TileInput) -> Result<ServedModel, RemoteError> {
        let (inputs, outputs) = match &self.way {
            Way::Grpc(channel) => {
                let found: message::ModelMetadata =
                    self.unary(channel, message::MODEL_METADATA, self.asked(), MAX_DESCRIPTION, None).await?;
                (found.inputs, found.outputs)
            }
            Way::Http(_) => {
                let metadata = self.described("").await?;
                let tensors = |key: &str| -> Result<Vec<message::TensorMetadata>, RemoteError> {
                    let list = metadata.get(key).cloned().unwrap_or_default();
                    let list = if list.is_null() { serde_json::Value::Array(Vec::new()) } else { list };
                    serde_json::from_value(list)
                        .map_err(|e| RemoteError::Wrong(format!("the server's metadata: {}", told(&e.to_string()))))
                };
                (tensors("inputs")?, tensors("outputs")?)
            }
        };
        // Not of the protocol, but Triton has it; whoever has not refuses the batch that is too large.
        let most = match &self.way {
            Way::Grpc(channel) => {
                let found: Result<message::ModelConfigAnswer, _> =
                    self.unary(channel, message::MODEL_CONFIG, self.asked(), MAX_DESCRIPTION, None).await;
                found.ok().and_then(|answer| usize::try_from(answer.config?.max_batch_size).ok())
            }
            Way::Http(_) => {
                let found = self.described("/config").await.ok();
                found.and_then(|config| usize::try_from(config.get("max_batch_size")?.as_u64()?).ok())
            }
        };
        ServedModel::new(&inputs, &outputs, most, size, wanted)
    }

    fn asked(&self) -> message::ModelQuestion {
        message::ModelQuestion { name: self.model.clone(), version: String::new() }
    }

    /// Sends pictures; their embeddings.
    ///
    /// # Errors
    /// Whatever becomes of the request. What is in the answer is not looked at but for whose it is.
    pub async fn infer(&self, model: &ServedModel, question: InferQuestion) -> Result<AnswerTensor, RemoteError> {
        let alone = self.unanswered.fetch_add(1, Ordering::Relaxed) == 0;
        let is_silent = self.heard.lock().elapsed() > IDLE;
        let answer = match &self.way {
            Way::Grpc(channel) => self.infer_by_grpc(channel, model, question).await,
            Way::Http(_) => self.infer_by_http(model, question).await,
        };
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        match answer {
            // Whoever hangs up on a question has lost it.
            Err(RemoteError::Idle(why)) if !alone => Err(RemoteError::Away(why)),
            Err(RemoteError::Away(why)) if alone && is_silent => Err(RemoteError::Idle(why)),
            Ok(answer) => {
                *self.heard.lock() = Instant::now();
                self.check_version(&answer.version)?;
                Ok(answer)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Whether it is still the version of the model that answered first, where the server says.
    fn check_version(&self, version: &str) -> Result<(), RemoteError> {
        if version.is_empty() {
            return Ok(());
        }
        let first = self.version.get_or_init(|| version.to_owned());
        if first == version {
            return Ok(());
        }
        let (now, before) = (told(version), told(first));
        let why = format!("version {now} of the model answers, and version {before} was the one that agreed");
        Err(RemoteError::Wrong(format!("{why} with the probe")))
    }

    async fn infer_by_grpc(
        &self,
        channel: &Channel,
        model: &ServedModel,
        question: InferQuestion,
    ) -> Result<AnswerTensor, RemoteError> {
        let id = question.id.to_string();
        let input = message::InferTensor {
            name: model.input.clone(),
            datatype: model.layout.datatype().to_owned(),
            shape: question.shape,
            contents: None,
        };
        let request = message::InferRequest {
            model_name: self.model.clone(),
            model_version: String::new(),
            id: id.clone(),
            inputs: vec![input],
            outputs: model.output.iter().map(|name| message::WantedOutput { name: name.clone() }).collect(),
            raw_input_contents: vec![question.pixels],
        };
        let most = question.answer_bytes + ENVELOPE;
        let limit = Some(question.limit);
        let mut answer: message::InferAnswer = self.unary(channel, message::MODEL_INFER, request, most, limit).await?;
        binary_answer::check_id(&answer.id, &id)?;
        let at = binary_answer::position(&answer.outputs, model.output.as_deref(), |output| &output.name)?;
        let output = answer.outputs.swap_remove(at);
        let bytes = if answer.raw_output_contents.is_empty() {
            let values = output.contents.map(|contents| contents.fp32_contents).unwrap_or_default();
            values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
        } else {
            answer.raw_output_contents.get(at).cloned().unwrap_or_default()
        };
        Ok(AnswerTensor { datatype: output.datatype, shape: output.shape, bytes, version: answer.model_version })
    }

    async fn infer_by_http(&self, model: &ServedModel, question: InferQuestion) -> Result<AnswerTensor, RemoteError> {
        let id = question.id.to_string();
        let outputs: Vec<_> = model
            .output
            .iter()
            .map(|name| serde_json::json!({ "name": name, "parameters": { "binary_data": true } }))
            .collect();
        let mut asked = serde_json::json!({
            "id": id,
            "inputs": [{
                "name": model.input,
                "datatype": model.layout.datatype(),
                "shape": question.shape,
                "parameters": { "binary_data_size": question.pixels.len() },
            }],
            "parameters": { "binary_data_output": true },
        });
        if !outputs.is_empty() {
            asked["outputs"] = outputs.into();
        }
        let json = asked.to_string();
        let mut body = Vec::with_capacity(json.len() + question.pixels.len());
        body.extend_from_slice(json.as_bytes());
        body.extend_from_slice(&question.pixels);
        let request = hyper::Request::post(self.path("/infer"))
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(JSON_LENGTH, json.len())
            .body(Full::new(Bytes::from(body)));
        let (json_length, body) = self.exchange(request, question.answer_bytes + ENVELOPE, true).await?;
        let length = json_length.filter(|length| *length <= body.len());
        let length = length.ok_or_else(|| RemoteError::Wrong("the server's answer is shorter than it says".into()))?;
        let (head, values) = (body.slice(..length), body.slice(length..));
        binary_answer::read(&head, &values, model.output.as_deref(), &id)
    }

    /// A JSON description of the model.
    async fn described(&self, what: &str) -> Result<serde_json::Value, RemoteError> {
        let request = hyper::Request::get(self.path(what)).body(Full::new(Bytes::new()));
        let (_, body) = self.exchange(request, MAX_DESCRIPTION, false).await?;
        if let Some(error) = binary_answer::error_in(&body) {
            return Err(error);
        }
        serde_json::from_slice(&body)
            .map_err(|e| RemoteError::Wrong(format!("the server's metadata: {}", told(&e.to_string()))))
    }

    fn path(&self, what: &str) -> String {
        let model: String = url::form_urlencoded::byte_serialize(self.model.as_bytes()).collect();
        format!("{}/v2/models/{model}{what}", self.url.base)
    }

    async fn exchange(
        &self,
        request: Result<hyper::Request<Full<Bytes>>, hyper::http::Error>,
        most: usize,
        binary: bool,
    ) -> Result<(Option<usize>, Bytes), RemoteError> {
        let Way::Http(sender) = &self.way else {
            return Err(RemoteError::Refused("this connection has no HTTP".into()));
        };
        let mut request = request.map_err(|e| RemoteError::Refused(e.to_string()))?;
        let host = HeaderValue::try_from(self.url.authority()).map_err(|e| RemoteError::Refused(e.to_string()))?;
        request.headers_mut().insert(HOST, host);
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let away = |e: hyper::Error| server_fault::of_transport(&self.url.to_string(), &e);
        let mut sender = sender.lock().await;
        sender.ready().await.map_err(away)?;
        let answer = sender.send_request(request).await.map_err(away)?;
        let (status, headers) = (answer.status(), answer.headers());
        let json_length = headers.get(JSON_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let is_json = status.is_success() && binary && json_length.is_none();
        let json = || RemoteError::Refused(format!("the server answers with values in JSON, not in binary {ADVICE}"));
        let body = Limited::new(answer.into_body(), most).collect().await.map_err(|error| {
            if !status.is_success() {
                server_fault::of_http(status.as_u16(), format!("the server says {status}"))
            } else if !error.is::<http_body_util::LengthLimitError>() {
                RemoteError::Away(format!("{}: {}", self.url, told(&error.to_string())))
            } else if is_json {
                json()
            } else {
                RemoteError::Wrong(format!("the server's answer has more than {most} bytes"))
            }
        })?;
        let body = body.to_bytes();
        if is_json {
            return Err(binary_answer::error_in(&body).unwrap_or_else(json));
        }
        if status.is_success() {
            return Ok((json_length, body));
        }
        let why =
            format!("the server says {status}: {}", told(&String::from_utf8_lossy(&body[..body.len().min(1000)])));
        Err(match server_fault::of_http(status.as_u16(), why) {
            // MLServer has an error of its own for binary tensors; who lets nobody in, or knows no such model, says another thing.
            RemoteError::Refused(why) if binary && !matches!(status.as_u16(), 401 | 403 | 404) => {
                RemoteError::Refused(format!("{why} {ADVICE}"))
            }
            other => other,
        })
    }

    async fn unary<Q, A>(
        &self,
        channel: &Channel,
        path: &'static str,
        question: Q,
        most: usize,
        limit: Option<Duration>,
    ) -> Result<A, RemoteError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(most);
        let away =
            |e: &(dyn std::error::Error + 'static)| RemoteError::Away(format!("{}: {}", self.url, told(&chain(e))));
        client.ready().await.map_err(|e| away(&e))?;
        let mut request = tonic::Request::new(question);
        // For a server that would rather not begin what nobody waits for.
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        if let Some(token) = &self.token {
            let value = tonic::metadata::MetadataValue::try_from(token.as_bytes());
            let value = value.map_err(|_| RemoteError::Refused("the token cannot stand in a header".into()))?;
            request.metadata_mut().insert("authorization", value);
        }
        let codec = ProstCodec::<Q, A>::default();
        let answer = client.unary(request, PathAndQuery::from_static(path), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| server_fault::of_grpc(&self.url.to_string(), &status))
    }
}

async fn channel(url: &ServerUrl, io: Wire) -> Result<Channel, tonic::transport::Error> {
    // What is connected to is the connector's to know; the origin is what the server is told.
    let scheme = if url.tls { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("http://{}", url.authority()))?
        .user_agent(concat!("vtagd/", env!("CARGO_PKG_VERSION")))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let endpoint = match format!("{scheme}://{}", url.authority()).parse::<Uri>() {
        Ok(origin) => endpoint.origin(origin),
        Err(_) => endpoint,
    };
    endpoint.connect_with_connector(Once(Some(io))).await
}

/// Gives its connection away, once.
struct Once(Option<Wire>);

impl tower_service::Service<Uri> for Once {
    type Response = Wire;
    type Error = io::Error;
    type Future = Ready<io::Result<Wire>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or_else(|| io::Error::new(server_fault::NO_MORE, "the connection was closed")))
    }
}
