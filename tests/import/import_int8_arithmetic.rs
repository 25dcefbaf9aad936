//! Linear layers in 8 bits compute what they say on every processor, however large neighbouring values are: kernels without 8-bit
//! dot products add pairs of products in 16 bits and saturate.

use vtagd::infer::runtime;
use vtagd::infer::single_input::{InputValues, SingleInputSession};
use vtagd::model::import::{Dtype, ImportError, TensorInfo, TensorStore};
use vtagd::model::onnx::linear::{self, Linear};
use vtagd::model::onnx::{Dim, Elem, Graph, Precision, file};

const INPUTS: usize = 96;
const OUTPUTS: usize = 40;

/// One weight, `[OUTPUTS, INPUTS]`.
struct Weight(Vec<f32>);

impl TensorStore for Weight {
    fn infos(&self) -> Vec<TensorInfo> {
        vec![TensorInfo { name: "layer.weight".into(), shape: vec![OUTPUTS, INPUTS], dtype: Dtype::F32 }]
    }

    fn read(&self, _: &str) -> Result<Vec<f32>, ImportError> {
        Ok(self.0.clone())
    }
}

/// Near one, near minus one, or of either sign, by the row.
fn extreme(row: usize, column: usize) -> f32 {
    let near = 1.0 - ((row * 31 + column * 17) % 7) as f32 * 0.02;
    match row % 4 {
        0 => near,
        1 => -near,
        2 if (column / 2).is_multiple_of(2) => near,
        _ if column.is_multiple_of(3) => near,
        _ => -near,
    }
}

#[test]
fn neighbouring_extremes_do_not_saturate() {
    let runtime = runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
    let weight: Vec<f32> = (0..OUTPUTS * INPUTS).map(|i| extreme(i / INPUTS, i % INPUTS)).collect();
    let mut g = Graph::new("layer");
    let x = g.input("x", Elem::F32, &[Dim::Free("rows"), Dim::Fixed(INPUTS)]);
    let seen = linear::input(&mut g, &x, [1, INPUTS], Precision::Int8, "x");
    let layer = Linear { bias: false, ..Linear::new("layer", INPUTS, OUTPUTS) };
    let y = linear::linear(&mut g, &seen, &layer, Precision::Int8);
    g.output(&y, Elem::F32, &[Dim::Free("rows"), Dim::Fixed(OUTPUTS)]);
    let model = file::to_bytes(&g, &Weight(weight.clone())).unwrap();
    let mut session = SingleInputSession::from_bytes(&runtime, &model, 1).unwrap();
    // One row has kernels of its own.
    for rows in [1, 3, 40] {
        let x: Vec<f32> = (0..rows * INPUTS).map(|i| extreme(i / INPUTS, i % INPUTS)).collect();
        let got = session.run(&[rows, INPUTS], InputValues::Floats(&x)).unwrap();
        for (index, got) in got.iter().enumerate() {
            let (row, to) = (index / OUTPUTS, index % OUTPUTS);
            let products = x[row * INPUTS..][..INPUTS].iter().zip(&weight[to * INPUTS..][..INPUTS]);
            let wanted: f32 = products.map(|(x, w)| x * w).sum();
            // Half a step of each of two numbers, 96 times.
            assert!(
                (got - wanted).abs() <= 0.015 * INPUTS as f32,
                "{rows} rows, row {row}, output {to}: {got} is not {wanted}"
            );
        }
    }
}
