//! An inference server that does what a test says: KServe v2 over gRPC and HTTP/1.1, with the embeddings of the crate's own CPU session, or with
//! whatever a broken server may answer. The wire is made by hand here, not by what the product uses.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use prost::bytes::Bytes;
use serde_json::{Value, json};
use vtagd::infer::ImageEncoder;
use vtagd::infer::remote::kserve_messages::{
    InferAnswer, InferRequest, InferTensor, ModelConfig, ModelConfigAnswer, ModelMetadata, ModelQuestion,
    TensorMetadata,
};
use vtagd::infer::remote::tile_bytes::PixelScale;

/// What it does with pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Good,
    /// Never answers.
    Hang,
    /// A row less than asked for.
    FewRows,
    NotANumber,
    /// The rows of a batch the other way round.
    Reversed,
    /// The last two rows of a batch change places.
    Swapped,
    /// Another model's.
    Negated,
    /// So many bytes.
    Oversize(usize),
    /// `RESOURCE_EXHAUSTED` beyond so many pictures.
    AtMost(usize),
    /// `UNAVAILABLE`, as Triton says when its queue is full.
    Full,
    /// Beyond so many pictures a proxy before it answers with this status and a page, as nginx does.
    ProxySays(u16, usize),
    /// Over HTTP 200, and a JSON that says it is an error; also where the model is asked about.
    ErrorIn200,
    /// Another version of the model, which computes the same.
    OtherVersion,
    /// Takes [`ANSWER`] for an answer, and hangs up where nothing is asked for [`IDLE`].
    ClosesIdle,
}

/// Five of them, which a new connection takes, are longer than who can compute here waits for a server that is away.
const ANSWER: Duration = Duration::from_millis(150);
/// Far longer than this side needs between two questions.
const IDLE: Duration = Duration::from_secs(2);

/// What comes in place of rows.
enum Instead {
    /// Of gRPC.
    Status(u8),
    Page(u16),
    Error,
}

/// The one model that it has.
pub const MODEL: &str = "m";

/// What it was asked.
#[derive(Default)]
pub struct Seen {
    /// Pictures of each request that came to the model, answered or not.
    pub batches: Mutex<Vec<usize>>,
    pub pixel_bytes: AtomicUsize,
    /// Questions about the model: one a connection.
    pub metadata: AtomicUsize,
    /// Connections that are open.
    pub open: AtomicUsize,
    pub authorization: Mutex<Option<String>>,
}

/// What it knows.
pub struct Tower {
    pub encoder: Mutex<Box<dyn ImageEncoder>>,
    pub affine: PixelScale,
    /// Side of a picture.
    pub side: usize,
    /// Takes bytes, height × width × channel.
    pub bytes: bool,
    pub mode: Mutex<Mode>,
    pub seen: Seen,
}

impl Tower {
    pub fn set(&self, mode: Mode) {
        *self.mode.lock() = mode;
    }

    fn embeddings(&self, count: usize, pixels: &[u8]) -> Vec<f32> {
        let plane = self.side * self.side;
        let floats: Vec<f32> = if self.bytes {
            (0..count * 3 * plane)
                .map(|i| {
                    let (picture, channel, place) = (i / (3 * plane), i / plane % 3, i % plane);
                    f32::from(pixels[picture * 3 * plane + place * 3 + channel]) * self.affine.scale[channel]
                        + self.affine.bias[channel]
                })
                .collect()
        } else {
            pixels.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let mut rows = Vec::new();
        self.encoder.lock().encode(&floats, count, &mut rows).unwrap();
        rows
    }

    /// Of the model.
    fn version(&self) -> &'static str {
        if *self.mode.lock() == Mode::OtherVersion { "2" } else { "1" }
    }

    /// Rows and their number.
    fn answer(&self, count: usize, pixels: &[u8]) -> Result<(usize, Vec<f32>), Instead> {
        self.seen.batches.lock().push(count);
        self.seen.pixel_bytes.fetch_add(pixels.len(), Ordering::SeqCst);
        let mode = *self.mode.lock();
        match mode {
            Mode::AtMost(most) if count > most => return Err(Instead::Status(8)),
            Mode::Full => return Err(Instead::Status(14)),
            Mode::ProxySays(status, beyond) if count > beyond => return Err(Instead::Page(status)),
            Mode::ErrorIn200 => return Err(Instead::Error),
            _ => {}
        }
        let mut rows = self.embeddings(count, pixels);
        let dim = rows.len() / count;
        let mut given = count;
        match mode {
            Mode::FewRows => {
                given -= 1;
                rows.truncate(given * dim);
            }
            Mode::NotANumber => rows[dim / 2] = f32::NAN,
            Mode::Reversed => rows = rows.chunks(dim).rev().flatten().copied().collect(),
            Mode::Swapped if count > 1 => {
                let (front, last) = rows.split_at_mut((count - 1) * dim);
                front[(count - 2) * dim..].swap_with_slice(last);
            }
            Mode::Negated => rows.iter_mut().for_each(|value| *value = -*value),
            Mode::Oversize(bytes) => rows.resize(bytes / 4, 0.5),
            _ => {}
        }
        Ok((given, rows))
    }

    fn tensors(&self) -> (TensorMetadata, TensorMetadata) {
        let (side, dim) = (self.side as i64, self.encoder.lock().dim() as i64);
        let (datatype, shape) =
            if self.bytes { ("UINT8", vec![-1, side, side, 3]) } else { ("FP32", vec![-1, 3, side, side]) };
        let input = TensorMetadata { name: "pixel_values".into(), datatype: datatype.into(), shape };
        (input, TensorMetadata { name: "image_embeds".into(), datatype: "FP32".into(), shape: vec![-1, dim] })
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

fn little_endian(rows: &[f32]) -> Bytes {
    rows.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
}

fn grpc<M: Message>(message: &M) -> Response<Body> {
    let encoded = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend((encoded.len() as u32).to_be_bytes());
    frame.extend(encoded);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let body = Full::new(Bytes::from(frame)).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed();
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

fn grpc_status(code: u8) -> Response<Body> {
    let answer = Response::builder().header("content-type", "application/grpc").header("grpc-status", code.to_string());
    answer.header("grpc-message", "as the test wants it").body(whole(Bytes::new())).unwrap()
}

fn page(status: u16) -> Response<Body> {
    let answer = Response::builder().status(status).header("content-type", "text/html");
    answer.body(whole("<html>\r\n<head><title>as nginx has it</title></head>\r\n</html>\r\n")).unwrap()
}

/// Ends when nothing has been asked for a while, where the mode wants it. `asked`: questions under way, and when the last one ended.
async fn idle(tower: &Tower, asked: &Mutex<(usize, Instant)>) {
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (under_way, ended) = *asked.lock();
        if *tower.mode.lock() == Mode::ClosesIdle && under_way == 0 && ended.elapsed() > IDLE {
            return;
        }
    }
}

async fn serve(tower: Arc<Tower>, request: Request<Incoming>) -> Response<Body> {
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    *tower.seen.authorization.lock() = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let asks = path.ends_with("/ModelInfer") || path.ends_with("/infer");
    if asks && *tower.mode.lock() == Mode::Hang {
        tower.seen.batches.lock().push(0);
        std::future::pending::<()>().await;
    }
    if *tower.mode.lock() == Mode::ClosesIdle {
        tokio::time::sleep(ANSWER).await;
    }
    let work = tokio::task::spawn_blocking(move || {
        if path.starts_with("/v2/") {
            over_http(&tower, &path, &headers, &body)
        } else {
            over_grpc(&tower, &path, &body)
        }
    });
    work.await.unwrap()
}

fn over_grpc(tower: &Tower, path: &str, body: &[u8]) -> Response<Body> {
    let message = &body[5..];
    match path.rsplit('/').next().unwrap() {
        "ModelMetadata" if ModelQuestion::decode(message).unwrap().name != MODEL => grpc_status(5),
        "ModelMetadata" => {
            tower.seen.metadata.fetch_add(1, Ordering::SeqCst);
            let (input, output) = tower.tensors();
            let platform = "test".to_owned();
            grpc(&ModelMetadata { name: "m".into(), platform, inputs: vec![input], outputs: vec![output] })
        }
        "ModelConfig" => grpc(&ModelConfigAnswer { config: Some(ModelConfig { max_batch_size: 32 }) }),
        "ModelInfer" => {
            let request = InferRequest::decode(message).unwrap();
            let count = request.inputs[0].shape[0] as usize;
            match tower.answer(count, &request.raw_input_contents[0]) {
                Ok((given, rows)) => {
                    let dim = tower.encoder.lock().dim() as i64;
                    let shape = vec![given as i64, dim];
                    let output =
                        InferTensor { name: "image_embeds".into(), datatype: "FP32".into(), shape, contents: None };
                    grpc(&InferAnswer {
                        model_name: request.model_name,
                        model_version: tower.version().into(),
                        id: request.id,
                        outputs: vec![output],
                        raw_output_contents: vec![little_endian(&rows)],
                    })
                }
                Err(Instead::Status(code)) => grpc_status(code),
                Err(Instead::Page(status)) => page(status),
                Err(Instead::Error) => grpc_status(13),
            }
        }
        _ => grpc_status(12),
    }
}

fn over_http(tower: &Tower, path: &str, headers: &HeaderMap, body: &Bytes) -> Response<Body> {
    let json_answer = |value: Value| Response::new(whole(value.to_string()));
    if path.split('/').nth(3) != Some(MODEL) {
        return Response::builder().status(404).body(whole(json!({ "error": "unknown model" }).to_string())).unwrap();
    }
    let error = || json_answer(json!({ "error": "the model is being loaded" }));
    if path.ends_with("/config") {
        return json_answer(json!({ "name": "m", "max_batch_size": 32 }));
    }
    if !path.ends_with("/infer") {
        tower.seen.metadata.fetch_add(1, Ordering::SeqCst);
        if *tower.mode.lock() == Mode::ErrorIn200 {
            return error();
        }
        let (input, output) = tower.tensors();
        let tensor = |t: TensorMetadata| json!({ "name": t.name, "datatype": t.datatype, "shape": t.shape });
        return json_answer(json!({ "name": "m", "inputs": [tensor(input)], "outputs": [tensor(output)] }));
    }
    let length = headers.get("inference-header-content-length").expect("binary tensors").to_str().unwrap();
    let length: usize = length.parse().unwrap();
    let asked: Value = serde_json::from_slice(&body[..length]).unwrap();
    let (input, pixels) = (&asked["inputs"][0], &body[length..]);
    assert_eq!(input["parameters"]["binary_data_size"], pixels.len());
    assert!(input.get("data").is_none(), "never as JSON: {asked}");
    let count = input["shape"][0].as_u64().unwrap() as usize;
    match tower.answer(count, pixels) {
        Ok((given, rows)) => {
            let values = little_endian(&rows);
            let shape = [given, tower.encoder.lock().dim()];
            let output = json!({ "name": "image_embeds", "datatype": "FP32", "shape": shape,
                "parameters": { "binary_data_size": values.len() } });
            let version = tower.version();
            let head = json!({ "model_name": "m", "model_version": version, "id": asked["id"], "outputs": [output] });
            let head = head.to_string();
            let answer = Response::builder().header("inference-header-content-length", head.len());
            answer.body(whole([head.as_bytes(), &values].concat())).unwrap()
        }
        Err(Instead::Page(status)) => page(status),
        Err(Instead::Error) => error(),
        Err(Instead::Status(8)) => Response::builder().status(413).body(whole("too large")).unwrap(),
        Err(Instead::Status(_)) => Response::builder().status(503).body(whole("as the test wants it")).unwrap(),
    }
}

/// A server that runs while this lives.
pub struct FakeServer {
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl FakeServer {
    /// On a free port, or again on `address`; over gRPC with `grpc`, else HTTP/1.1; with TLS where there is a certificate.
    pub fn start(
        tower: &Arc<Tower>,
        grpc: bool,
        address: Option<SocketAddr>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())))
            .unwrap();
        let (address, tower) = (listener.local_addr().unwrap(), Arc::clone(tower));
        runtime.spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (tower, tls) = (Arc::clone(&tower), tls.clone());
                tokio::spawn(async move {
                    let asked = Arc::new(Mutex::new((0, Instant::now())));
                    let (watched, noted) = (Arc::clone(&tower), Arc::clone(&asked));
                    let service = service_fn(move |request| {
                        let (tower, noted) = (Arc::clone(&tower), Arc::clone(&noted));
                        async move {
                            noted.lock().0 += 1;
                            let answer = serve(tower, request).await;
                            let mut noted = noted.lock();
                            *noted = (noted.0 - 1, Instant::now());
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    // A client that hangs up ends it.
                    let conversation = async {
                        let _ = match tls {
                            Some(tls) => {
                                let Ok(io) = tokio_rustls::TlsAcceptor::from(tls).accept(socket).await else { return };
                                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                    .serve_connection(TokioIo::new(io), service)
                                    .await
                            }
                            None if grpc => {
                                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                    .serve_connection(TokioIo::new(socket), service)
                                    .await
                            }
                            None => {
                                hyper::server::conn::http1::Builder::new()
                                    .serve_connection(TokioIo::new(socket), service)
                                    .await
                            }
                        };
                    };
                    watched.seen.open.fetch_add(1, Ordering::SeqCst);
                    tokio::select! {
                        () = conversation => {}
                        () = idle(&watched, &asked) => {}
                    }
                    watched.seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, _runtime: runtime }
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(self) -> SocketAddr {
        let address = self.address;
        self._runtime.shutdown_timeout(Duration::from_millis(1));
        address
    }
}
