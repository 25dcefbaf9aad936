//! A graph with one input and one float output, run as it is: for importing and measuring, where no bundle exists yet.
//!
//! Runs on the caller's thread and ONNX Runtime's own pool; nothing is queued.

use std::path::Path;

use ort::session::Session;
use ort::value::TensorRef;

use super::InferError;
use super::provider::{self, ByteSums};
use super::runtime::Runtime;

/// A session on the CPU with the daemon's own settings, over a graph of our own.
pub struct PlainSession {
    session: Session,
    input: String,
    output: String,
}

/// What a run is given, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Feed<'a> {
    Floats(&'a [f32]),
    Ids(&'a [i64]),
}

impl PlainSession {
    /// Loads a model file. `threads` 0 lets ONNX Runtime take all cores.
    ///
    /// # Errors
    /// A model that does not load, or has not one input and one output.
    pub fn from_file(runtime: &Runtime, file: &Path, threads: usize) -> Result<Self, InferError> {
        Self::new(provider::cpu_session(runtime, file, threads, ByteSums::Fit)?)
    }

    /// Loads a model that lies in memory.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_bytes(runtime: &Runtime, model: &[u8], threads: usize) -> Result<Self, InferError> {
        Self::new(provider::session_from_memory(runtime, model, threads, ByteSums::Fit)?)
    }

    fn new(session: Session) -> Result<Self, InferError> {
        let ([input], [output]) = (session.inputs(), session.outputs()) else {
            return Err(InferError::Model("the graph has not one input and one output".into()));
        };
        let (input, output) = (input.name().to_owned(), output.name().to_owned());
        Ok(Self { session, input, output })
    }

    /// Runs `feed` of `shape`; the output's values, row-major.
    ///
    /// # Errors
    /// Values that do not fit the shape or the model; a run that fails.
    pub fn run(&mut self, shape: &[usize], feed: Feed<'_>) -> Result<Vec<f32>, InferError> {
        let failed = |e: ort::Error| InferError::Run(e.to_string());
        let value: ort::session::SessionInputValue<'_> = match feed {
            Feed::Floats(values) => TensorRef::from_array_view((shape, values)).map_err(failed)?.into(),
            Feed::Ids(values) => TensorRef::from_array_view((shape, values)).map_err(failed)?.into(),
        };
        let outputs = self.session.run(vec![(self.input.as_str(), value)]).map_err(failed)?;
        let output = outputs.get(&self.output).ok_or_else(|| InferError::Run("the graph gave nothing".into()))?;
        Ok(output.try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())
    }
}
