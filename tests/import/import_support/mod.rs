//! Tiny checkpoints of `tests/conformance/checkpoints` as tensor stores, and graphs run in ONNX Runtime.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use vtagd::infer::runtime;
use vtagd::infer::single_input::{InputValues, SingleInputSession};
use vtagd::model::import::{Architecture, ImportError, TensorInfo, TensorStore, open_checkpoint};

/// A checkpoint under canonical names.
pub struct Checkpoint {
    pub dir: PathBuf,
    pub architecture: Architecture,
    tensors: Box<dyn TensorStore + Send + Sync>,
}

/// What the reference implementation answers.
pub struct Expected {
    pub pixel_values: Vec<f32>,
    pub image_embeds: Vec<f32>,
    pub input_ids: Vec<i64>,
    pub text_embeds: Vec<f32>,
}

impl TensorStore for Checkpoint {
    fn infos(&self) -> Vec<TensorInfo> {
        self.tensors.infos()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ImportError> {
        self.tensors.read(name)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Opens `tests/conformance/checkpoints/NAME`.
pub fn open(name: &str) -> Checkpoint {
    let dir = Path::new("tests/conformance/checkpoints").join(name);
    let vtagd::model::import::Checkpoint { architecture, tensors, .. } = open_checkpoint(&dir).unwrap();
    Checkpoint { dir, architecture, tensors }
}

impl Checkpoint {
    pub fn expected(&self) -> Expected {
        let bytes = fs::read(self.dir.join("expected.safetensors")).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let get = |name: &str| floats(all.tensor(name).unwrap().data());
        let ids = all.tensor("input_ids").unwrap();
        Expected {
            pixel_values: get("pixel_values"),
            image_embeds: get("image_embeds"),
            input_ids: ids.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect(),
            text_embeds: get("text_embeds"),
        }
    }
}

/// A session over `file` with the daemon's settings.
pub fn session(file: &Path) -> SingleInputSession {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    SingleInputSession::from_file(&runtime, file, 0).unwrap()
}

/// Embeddings of as many pictures as `pixels` holds.
pub fn image_embeds(session: &mut SingleInputSession, pixels: &[f32], size: usize) -> Vec<f32> {
    session.run(&[pixels.len() / (3 * size * size), 3, size, size], InputValues::Floats(pixels)).unwrap()
}

/// Embeddings of as many texts as `ids` holds.
pub fn text_embeds(session: &mut SingleInputSession, ids: &[i64], context: usize) -> Vec<f32> {
    session.run(&[ids.len() / context, context], InputValues::Ids(ids)).unwrap()
}

/// Cosine of two L2-normalised vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
