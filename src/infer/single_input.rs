//! A graph with one input and one float output, run as it is: for importing and measuring, where no bundle exists yet.
//!
//! Runs on the caller's thread and ONNX Runtime's own pool; nothing is queued.

use std::path::Path;

use ort::session::Session;
use ort::value::TensorRef;

use super::InferError;
use super::byte_sums::ByteSums;
use super::provider;
use super::runtime::Runtime;
use crate::model::import::measure::{GraphRunner, LoadedGraph};

/// A session on the CPU with the daemon's own settings, over a graph of our own.
pub struct SingleInputSession {
    session: Session,
    input: String,
    output: String,
}

/// What a run is given, row-major.
#[derive(Clone, Copy, Debug)]
pub enum InputValues<'a> {
    Floats(&'a [f32]),
    Ids(&'a [i64]),
    Bytes(&'a [u8]),
}

impl SingleInputSession {
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
    pub fn run(&mut self, shape: &[usize], feed: InputValues<'_>) -> Result<Vec<f32>, InferError> {
        let failed = |e: ort::Error| InferError::Run(e.to_string());
        let value: ort::session::SessionInputValue<'_> = match feed {
            InputValues::Floats(values) => TensorRef::from_array_view((shape, values)).map_err(failed)?.into(),
            InputValues::Ids(values) => TensorRef::from_array_view((shape, values)).map_err(failed)?.into(),
            InputValues::Bytes(values) => TensorRef::from_array_view((shape, values)).map_err(failed)?.into(),
        };
        let outputs = self.session.run(vec![(self.input.as_str(), value)]).map_err(failed)?;
        let output = outputs.get(&self.output).ok_or_else(|| InferError::Run("the graph gave nothing".into()))?;
        Ok(output.try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())
    }
}

impl GraphRunner for Runtime {
    fn load(&self, model: &[u8]) -> Result<Box<dyn LoadedGraph>, String> {
        let session = SingleInputSession::from_bytes(self, model, 0).map_err(|e| e.to_string())?;
        Ok(Box::new(session))
    }
}

impl LoadedGraph for SingleInputSession {
    fn run(&mut self, shape: &[usize], values: &[f32]) -> Result<Vec<f32>, String> {
        Self::run(self, shape, InputValues::Floats(values)).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::runtime;
    use crate::model::import::synthetic::{self, Synthetic};
    use crate::model::onnx::builder::Values;
    use crate::model::onnx::{Dim, Elem, Graph, file};

    const INPUTS: usize = 96;
    const OUTPUTS: usize = 40;

    /// Near the ends of what a byte holds, in pairs of one sign and of both: what others' exports may hold.
    fn weight(output: usize, input: usize) -> i8 {
        match (output % 3, input % 2) {
            (0, _) => 127,
            (1, _) => -127,
            (_, side) => [127, -127][side],
        }
    }

    #[test]
    fn products_of_others_8_bit_weights_are_exact_on_this_processor() {
        let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
        let mut g = Graph::new("product");
        let x = g.input("x", Elem::F32, &[Dim::Free("rows"), Dim::Fixed(INPUTS)]);
        let one = g.scalar("one", 1.0);
        let zero = g.constant("zero", &[], Values::U8(vec![0]));
        let bytes = g.op("QuantizeLinear", &[&x, &one, &zero], "bytes", &[]);
        let weights = (0..INPUTS * OUTPUTS).map(|i| weight(i % OUTPUTS, i / OUTPUTS)).collect();
        let weights = g.constant("weights", &[INPUTS, OUTPUTS], Values::I8(weights));
        let product = g.op("MatMulInteger", &[&bytes, &weights, &zero], "product", &[]);
        let y = g.cast(&product, Elem::F32, "y");
        g.output(&y, Elem::F32, &[Dim::Free("rows"), Dim::Fixed(OUTPUTS)]);
        let (_, nothing) = Synthetic::new(synthetic::NAMES[0]).unwrap();
        let model = file::to_bytes(&g, &nothing).unwrap();
        let session = provider::session_from_memory(&runtime, &model, 1, ByteSums::MayOverflow).unwrap();
        let mut session = SingleInputSession::new(session).unwrap();
        // One row has kernels of its own.
        for rows in [1, 3, 40] {
            let x: Vec<f32> = (0..rows * INPUTS).map(|i| (255 - i % 5) as f32).collect();
            let got = session.run(&[rows, INPUTS], InputValues::Floats(&x)).unwrap();
            for (index, got) in got.iter().enumerate() {
                let (row, output) = (index / OUTPUTS, index % OUTPUTS);
                let wanted: f32 = (0..INPUTS).map(|i| x[row * INPUTS + i] * f32::from(weight(output, i))).sum();
                assert_eq!(*got, wanted, "{rows} rows, row {row}, output {output}");
            }
        }
    }
}
