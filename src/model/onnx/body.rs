//! Pre-norm transformer layers, the same in both towers: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
//!
//! The residual sum and the norms are in 32 bits in every precision.

use super::attention::{self, Shape};
use super::builder::Graph;
use super::linear::{self, Linear, carried_input, floored_input, input, linear};
use super::proto::{Attr, Elem};
use super::{Precision, attention::attention};
use crate::model::import::{Act, Transformer};

/// A tower's layers.
#[derive(Clone, Debug)]
pub struct Body<'a> {
    pub spec: &'a Transformer,
    /// `vision` or `text`.
    pub tower: &'static str,
    pub tokens: usize,
    pub precision: Precision,
    /// Added to every layer's scores.
    pub mask: Option<String>,
    /// Whether all layers keep 8 bits where 4 are wanted; the first and the last do in any case.
    pub keep: bool,
}

impl Body<'_> {
    /// Adds layer `index`: `x` is `[batch, tokens, width]` in f32, and so is the result, except with `first_only`, for which
    /// it is `[batch, 1, width]`: the layer as the first token sees it, which is all that a class token's pooling wants.
    pub fn layer(&self, g: &mut Graph, index: usize, x: &str, first_only: bool) -> String {
        let (spec, precision) = (self.spec, self.precision);
        let (width, name) = (spec.width, format!("{}.layers.{index}", self.tower));
        let keep = self.keep || index == 0 || index + 1 == spec.layers;
        let normed = norm(g, x, width, spec.eps, &format!("{name}.norm1"));
        let seen = input(g, &normed, [self.tokens, width], precision, &format!("{name}.norm1"));
        let (mut x, mut asking) = (x.to_owned(), seen.clone());
        if first_only {
            let first = g.ints("index.first", &[0]);
            let axis = [Attr::Int("axis", 1)];
            x = g.op("Gather", &[&x, &first], &format!("{name}.first"), &axis);
            let normed = g.op("Gather", &[&normed, &first], &format!("{name}.norm1.first"), &axis);
            asking = input(g, &normed, [1, width], precision, &format!("{name}.norm1.first"));
        }
        let queries = if first_only { 1 } else { self.tokens };
        let shape = Shape { heads: spec.heads, width, queries, keys: self.tokens };
        let attn = format!("{name}.attn");
        let [q, k, v] = projections(&attn, width, spec.heads).map(|part| Linear { keep, ..part });
        let q = linear(g, &asking, &q, precision);
        let k = linear(g, &seen, &k, precision);
        let v = linear(g, &seen, &v, precision);
        let mixed = attention(g, (&q, &k, &v), self.mask.as_deref(), shape, precision, &attn);
        let mixed = carried_input(g, &mixed, [queries, width], precision, &format!("{attn}.joined"));
        let out = Linear { keep, ..output(&attn, width) };
        let out = linear(g, &mixed, &out, precision);
        let out = full(g, &out, queries, width, precision, &format!("{attn}.result"));
        let x = g.op("Add", &[&x, &out], &format!("{name}.attended"), &[]);

        let normed = norm(g, &x, width, spec.eps, &format!("{name}.norm2"));
        let seen = input(g, &normed, [queries, width], precision, &format!("{name}.norm2"));
        let sizes = Mlp { width, hidden: spec.mlp, act: spec.act, tokens: queries, keep };
        let out = mlp(g, &seen, sizes, precision, &name);
        g.op("Add", &[&x, &out], &format!("{name}.result"), &[])
    }
}

/// The query, key and value layers of an attention over `width`; the queries carry `1/√d`.
///
/// Only the queries keep their bias. That of the keys adds the same to all scores of a query, which softmax takes away again; that
/// of the values passes through unchanged, since the weights of a query sum to one, and the layer after the attention
/// absorbs it ([`output`]).
pub fn projections(name: &str, width: usize, heads: usize) -> [Linear; 3] {
    let scale = ((width / heads.max(1)).max(1) as f32).sqrt().recip();
    let of = |part: &str| Linear::new(&format!("{name}.{part}"), width, width);
    [Linear { scale, ..of("q") }, Linear { bias: false, ..of("k") }, Linear { bias: false, ..of("v") }]
}

/// The layer after an attention.
pub fn output(name: &str, width: usize) -> Linear {
    Linear { absorbs: Some(format!("{name}.v.bias")), ..Linear::new(&format!("{name}.out"), width, width) }
}

/// What no activation goes below: the least of GELU, its tanh form and `x · sigmoid(1.702 x)` is -0.1700, -0.1700, -0.1638.
const ACTIVATION_FLOOR: f32 = -0.171;

/// Sizes of an MLP.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    pub width: usize,
    pub hidden: usize,
    pub act: Act,
    pub tokens: usize,
    /// As in [`Linear`].
    pub keep: bool,
}

/// Adds `NAME.mlp`: linear, activation, linear. Gives f32, `[batch, tokens, width]`.
pub fn mlp(g: &mut Graph, x: &linear::Input, sizes: Mlp, precision: Precision, name: &str) -> String {
    let name = format!("{name}.mlp");
    let of = |part: &str, inputs, outputs| Linear {
        keep: sizes.keep,
        ..Linear::new(&format!("{name}.{part}"), inputs, outputs)
    };
    let hidden = linear(g, x, &of("fc1", sizes.width, sizes.hidden), precision);
    // The two forms of GELU differ by 0.0005 at most, far less than a step of 8 bits; tanh takes two thirds of the time of erf.
    let act = if precision == Precision::Int8 && sizes.act == Act::Gelu { Act::GeluTanh } else { sizes.act };
    let hidden = activation(g, &hidden, act, precision, &format!("{name}.act"));
    let size = [sizes.tokens, sizes.hidden];
    let hidden = floored_input(g, &hidden, size, ACTIVATION_FLOOR, precision, &format!("{name}.act"));
    let out = linear(g, &hidden, &of("fc2", sizes.hidden, sizes.width), precision);
    full(g, &out, sizes.tokens, sizes.width, precision, &format!("{name}.result"))
}

/// A linear layer's result as `[batch, tokens, width]` in f32 again.
pub fn full(g: &mut Graph, x: &str, tokens: usize, width: usize, precision: Precision, name: &str) -> String {
    match precision {
        Precision::Fp32 | Precision::Int4 => x.to_owned(),
        Precision::Fp16 => g.cast(x, Elem::F32, name),
        Precision::Int8 => {
            let shape = g.ints(&format!("shape.tokens.{tokens}.{width}"), &[-1, tokens as i64, width as i64]);
            g.op("Reshape", &[x, &shape], name, &[])
        }
    }
}

/// Adds a LayerNormalization over the last axis, in f32.
pub fn norm(g: &mut Graph, x: &str, width: usize, eps: f32, name: &str) -> String {
    let weight = linear::vector(g, &format!("{name}.weight"), width, 1.0, Elem::F32);
    let bias = linear::vector(g, &format!("{name}.bias"), width, 1.0, Elem::F32);
    g.op(
        "LayerNormalization",
        &[x, &weight, &bias],
        &format!("{name}.out"),
        &[Attr::Int("axis", -1), Attr::Float("epsilon", eps)],
    )
}

/// Adds an activation, written so that ONNX Runtime's optimiser recognises and fuses it.
fn activation(g: &mut Graph, x: &str, act: Act, precision: Precision, name: &str) -> String {
    let number = |g: &mut Graph, value: f32| {
        let half = precision == Precision::Fp16;
        let (suffix, values) = if half {
            (".half", super::builder::Values::F16(vec![half::f16::from_f32(value)]))
        } else {
            ("", super::builder::Values::F32(vec![value]))
        };
        g.constant(&format!("number.{value}{suffix}"), &[], values)
    };
    match act {
        Act::Gelu => {
            let root = number(g, std::f32::consts::SQRT_2);
            let (one, half) = (number(g, 1.0), number(g, 0.5));
            let scaled = g.op("Div", &[x, &root], &format!("{name}.scaled"), &[]);
            let erf = g.op("Erf", &[&scaled], &format!("{name}.erf"), &[]);
            let gate = g.op("Add", &[&erf, &one], &format!("{name}.gate"), &[]);
            let gated = g.op("Mul", &[x, &gate], &format!("{name}.gated"), &[]);
            g.op("Mul", &[&gated, &half], &format!("{name}.gelu"), &[])
        }
        Act::QuickGelu => {
            let slope = number(g, 1.702);
            let scaled = g.op("Mul", &[x, &slope], &format!("{name}.scaled"), &[]);
            let gate = g.op("Sigmoid", &[&scaled], &format!("{name}.gate"), &[]);
            g.op("Mul", &[x, &gate], &format!("{name}.quick_gelu"), &[])
        }
        Act::GeluTanh => {
            let (cube, root) = (number(g, 0.044_715), number(g, (2.0 / std::f32::consts::PI).sqrt()));
            let (one, half) = (number(g, 1.0), number(g, 0.5));
            let slope = g.op("Mul", &[x, &cube], &format!("{name}.slope"), &[]);
            let slope = g.op("Mul", &[&slope, x], &format!("{name}.square"), &[]);
            let slope = g.op("Add", &[&slope, &one], &format!("{name}.slope1"), &[]);
            let inner = g.op("Mul", &[x, &root], &format!("{name}.scaled"), &[]);
            let inner = g.op("Mul", &[&slope, &inner], &format!("{name}.inner"), &[]);
            let tanh = g.op("Tanh", &[&inner], &format!("{name}.tanh"), &[]);
            let gate = g.op("Add", &[&tanh, &one], &format!("{name}.gate"), &[]);
            let halved = g.op("Mul", &[x, &half], &format!("{name}.half"), &[]);
            g.op("Mul", &[&gate, &halved], &format!("{name}.gelu_tanh"), &[])
        }
    }
}

/// Adds `x / ‖x‖` over the last axis of `[batch, dim]`.
pub fn unit_length(g: &mut Graph, x: &str, output: &str) -> String {
    let attrs = [Attr::Ints("axes", vec![-1]), Attr::Int("keepdims", 1)];
    let length = g.op("ReduceL2", &[x], &format!("{output}.length"), &attrs);
    g.op("Div", &[x, &length], output, &[])
}

/// Tokens of one attention over all of a tower's own.
pub fn all_tokens(spec: &Transformer, tokens: usize) -> attention::Shape {
    Shape { heads: spec.heads, width: spec.width, queries: tokens, keys: tokens }
}
