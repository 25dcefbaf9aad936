//! A model repository of Triton out of a model directory: `NAME/config.pbtxt` and `NAME/1/model.onnx`, so that many boxes share one GPU.
//!
//! Comes in: a bundle, and the preprocessing that came with it. Goes out: a folder that appears whole or not at all. The server's model takes
//! bytes and normalises them itself (see [`super::byte_input`]), or floats as the bundle does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vtagd_checkpoint::spec::Spec;

use super::byte_input::{self, GraphFile, GraphPort};
use super::{Bundle, ModelError, onnx_file};
use crate::platform::unfinished_folder::UnfinishedFolder;

/// What the name of the folder for engines of TensorRT begins with, on the server; it stays as long as the server's container. ONNX Runtime makes the
/// folder, but none above it. Not in the repository: a server need not be able to write there, and only it knows its path.
const ENGINES: &str = "/tmp/vtagd-tensorrt-";

/// Characters of the fingerprint in that name.
const FINGERPRINT_CHARS: usize = 16;

/// Between the folder's name and a UUID while it is being written.
const EXPORTING: &str = ".exporting-";

/// What Triton runs the model with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TritonBackend {
    /// ONNX Runtime, on the GPU where there is one.
    Onnxruntime,
    /// ONNX Runtime, which hands the graph to TensorRT in 16 bits and builds an engine as the server loads it the first time.
    OnnxruntimeTensorrt,
    /// TensorRT alone, for an engine that `trtexec` builds on the server.
    Tensorrt,
}

/// What is to be exported, and how.
#[derive(Clone, Debug)]
pub struct TritonExport<'a> {
    pub bundle: &'a Bundle,
    pub spec: &'a Spec,
    /// Names that an embedding may have among the outputs, best first.
    pub outputs: &'a [&'a str],
    /// What boxes will call it.
    pub name: String,
    pub backend: TritonBackend,
    /// Bytes, height × width × channel; otherwise floats as the bundle takes them.
    pub bytes: bool,
    pub max_batch: u32,
}

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{0}")]
    Input(String),
    #[error("{path}: cannot be written: {source}; free space or choose another --out")]
    Disk { path: PathBuf, source: io::Error },
}

/// What was written.
#[derive(Clone, Debug)]
pub struct ExportedModel {
    pub folder: PathBuf,
    /// What is still to be run on the server, where something is.
    pub then: Option<String>,
}

/// Writes the model into `repository`.
///
/// # Errors
/// A model that is unsuitable, one of this name that is there already, and whatever the disk says.
pub fn export(wanted: &TritonExport<'_>, repository: &Path) -> Result<ExportedModel, ExportError> {
    let folder = repository.join(&wanted.name);
    if folder.exists() {
        let remedy = "choose another --name, or remove it";
        return Err(ExportError::Input(format!("{} is there already; {remedy}", folder.display())));
    }
    let vision = &wanted.bundle.vision;
    let graph = GraphFile::read(vision)?;
    let output = embedding(&graph.outputs, wanted.outputs).ok_or_else(|| {
        let names: Vec<_> = graph.outputs.iter().map(|output| output.name.as_str()).collect();
        ExportError::Input(format!("{}: none of its outputs is an embedding ({})", vision.display(), names.join(", ")))
    })?;
    // They go into a file of the server and into a command for a shell.
    let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_./:-".contains(c));
    if let Some(odd) = [&graph.input.name, &output.name].into_iter().find(|name| !is_plain(name)) {
        let what = format!("its graph has an input or output called {odd:?}, which Triton's files cannot name");
        return Err(ExportError::Input(format!("{}: {what}; export it anew with a plain name", vision.display())));
    }
    let disk = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Disk { path, source }
    };
    let unfinished = UnfinishedFolder::create(&folder, EXPORTING).map_err(disk(&folder))?;
    let version = unfinished.path.join("1");
    fs::create_dir(&version).map_err(disk(&version))?;
    let model = version.join("model.onnx");
    if wanted.bytes {
        let (scale, bias) = wanted.spec.affine();
        byte_input::write(&graph, (vision, &model), wanted.spec.size(), scale, bias).map_err(disk(&model))?;
    } else {
        fs::copy(vision, &model).map_err(disk(&model))?;
    }
    let beside = vision.parent().unwrap_or(Path::new(""));
    for data in onnx_file::external_data(vision) {
        // The graph knows them by these paths.
        let to = version.join(data.strip_prefix(beside).unwrap_or(&data));
        if to.exists() {
            let what = format!("its weights lie in {}, where Triton has the model", data.display());
            return Err(ExportError::Input(format!("{}: {what}; export it anew", vision.display())));
        }
        let folder = to.parent().unwrap_or(&version);
        fs::create_dir_all(folder).map_err(disk(folder))?;
        fs::copy(&data, &to).map_err(disk(&to))?;
    }
    let config = unfinished.path.join("config.pbtxt");
    fs::write(&config, config_text(wanted, &graph.input, output)).map_err(disk(&config))?;
    unfinished.finish(&folder).map_err(disk(&folder))?;
    let input = if wanted.bytes { byte_input::INPUT } else { &graph.input.name };
    let then = (wanted.backend == TritonBackend::Tensorrt).then(|| trtexec(wanted, &folder, input));
    Ok(ExportedModel { folder, then })
}

/// The first of `names` that is a matrix, else the only matrix there is.
fn embedding<'a>(outputs: &'a [GraphPort], names: &[&str]) -> Option<&'a GraphPort> {
    let matrix = |output: &&GraphPort| output.shape.len() == 2 || output.shape.is_empty();
    let named = names.iter().find_map(|name| outputs.iter().filter(matrix).find(|output| output.name == **name));
    let mut matrices = outputs.iter().filter(|output| output.shape.len() == 2);
    named.or_else(|| matrices.next().filter(|_| matrices.next().is_none()))
}

/// The picture's sides in the order in which the server's model takes them.
fn sides(wanted: &TritonExport<'_>) -> [u32; 3] {
    let (height, width) = wanted.spec.size();
    if wanted.bytes { [height, width, 3] } else { [3, height, width] }
}

fn config_text(wanted: &TritonExport<'_>, input: &GraphPort, output: &GraphPort) -> String {
    let (input_name, kind) =
        if wanted.bytes { (byte_input::INPUT, "UINT8") } else { (input.name.as_str(), input.triton_type()) };
    let [a, b, c] = sides(wanted);
    let (backend, file) = match wanted.backend {
        TritonBackend::Onnxruntime | TritonBackend::OnnxruntimeTensorrt => ("onnxruntime", "model.onnx"),
        TritonBackend::Tensorrt => ("tensorrt", "model.plan"),
    };
    // Without a delay: a batch is what has come during the run before. To wait for more would cost every box time, and a server with little to do
    // needs none (2 ms were a twentieth of a batch of the starter model).
    let mut text = format!(
        "# Written by vtagd {} from {}.\n\
         name: \"{}\"\n\
         backend: \"{backend}\"\n\
         default_model_filename: \"{file}\"\n\
         max_batch_size: {}\n\
         input [ {{ name: \"{input_name}\" data_type: TYPE_{kind} dims: [ {a}, {b}, {c} ] }} ]\n\
         output [ {{ name: \"{}\" data_type: TYPE_{} dims: [ {} ] }} ]\n\
         dynamic_batching {{ }}\n",
        env!("CARGO_PKG_VERSION"),
        quoted(&wanted.bundle.name),
        quoted(&wanted.name),
        wanted.max_batch,
        quoted(&output.name),
        output.triton_type(),
        output.shape.last().copied().unwrap_or(-1),
    );
    if wanted.backend == TritonBackend::OnnxruntimeTensorrt {
        text.push_str("optimization { execution_accelerators { gpu_execution_accelerator : [ {\n");
        text.push_str("  name : \"tensorrt\"\n");
        for (key, value) in accelerator_parameters(wanted, input_name) {
            text.push_str(&format!("  parameters {{ key: \"{key}\" value: \"{value}\" }}\n"));
        }
        text.push_str("} ] } }\n");
    }
    text.push_str(&format!(
        "parameters [ {{ key: \"vtagd_fingerprint\" value: {{ string_value: \"{}\" }} }} ]\n",
        quoted(&wanted.bundle.fingerprint)
    ));
    text
}

/// What Triton's ONNX Runtime backend hands on to TensorRT, by its names.
fn accelerator_parameters(wanted: &TritonExport<'_>, input: &str) -> Vec<(&'static str, String)> {
    let [min, opt, max] = profile(wanted, input);
    // It tells engines in a folder apart by the names in their graphs, which models with other weights have too.
    let fingerprint = quoted(&wanted.bundle.fingerprint);
    let engines = format!("{ENGINES}{}", fingerprint.chars().take(FINGERPRINT_CHARS).collect::<String>());
    vec![
        ("precision_mode", "FP16".to_owned()),
        ("trt_engine_cache_enable", "true".to_owned()),
        ("trt_engine_cache_path", engines),
        // Without them an engine is built anew whenever a batch is larger or smaller than any before, in the middle of work.
        ("trt_profile_min_shapes", min),
        ("trt_profile_opt_shapes", opt),
        ("trt_profile_max_shapes", max),
    ]
}

/// The smallest batch, the best one and the largest, as TensorRT's programs write shapes.
fn profile(wanted: &TritonExport<'_>, input: &str) -> [String; 3] {
    let [a, b, c] = sides(wanted);
    let most = wanted.max_batch.max(1);
    [1, most.min(8), most].map(|batch| format!("{input}:{batch}x{a}x{b}x{c}"))
}

/// Within quotation marks of a text message of protobuf.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect()
}

/// What builds the engine, on the machine that has the GPU.
fn trtexec(wanted: &TritonExport<'_>, folder: &Path, input: &str) -> String {
    let [min, opt, max] = profile(wanted, input);
    let version = folder.join("1");
    format!(
        "trtexec --onnx={0}/model.onnx --saveEngine={0}/model.plan --fp16 --minShapes={min} --optShapes={opt} \
         --maxShapes={max}",
        version.display()
    )
}
