//! Transformer layers, the same in both towers: `x + attention(norm(x))`, then `x + mlp(norm(x))`; what
//! [`LayerKind`](crate::import::LayerKind) says is different: the norms behind the sums, a gated MLP, norms within, turned queries and keys.
//!
//! The residual sum and the norms are in 32 bits in every precision.

use super::attention::{self, Scoring, Shape};
use super::builder::Graph;
use super::linear::{self, Input, Linear, carried_input, floored_input, input, linear};
use super::proto::{Attr, Elem};
use super::rotary::Angles;
use super::{Precision, attention::attention};
use crate::import::{Act, Transformer};

/// A tower's layers.
#[derive(Clone, Debug)]
pub struct Body<'a> {
    /// Sizes and kind of its layers.
    pub spec: &'a Transformer,
    /// `vision` or `text`.
    pub tower: &'static str,
    /// Tokens of a picture or text.
    pub tokens: usize,
    /// How weights are stored.
    pub precision: Precision,
    /// Added to every layer's scores.
    pub mask: Option<String>,
    /// Turns every layer's queries and keys.
    pub angles: Option<Angles>,
    /// Whether all layers keep 8 bits where 4 are wanted; the first and the last do in any case.
    pub keep: bool,
}

impl Body<'_> {
    /// Adds layer `index`: `x` is `[batch, tokens, width]` in f32, and so is the result, except with `first_only`, for which
    /// it is `[batch, 1, width]`: the layer as the first token sees it, which is all that a class token's pooling wants.
    pub fn layer(&self, g: &mut Graph, index: usize, x: &str, first_only: bool) -> String {
        let (spec, precision, kind) = (self.spec, self.precision, self.spec.kind);
        let (width, name) = (spec.width, format!("{}.layers.{index}", self.tower));
        let keep = self.keep || index == 0 || index + 1 == spec.layers;
        let before = |g: &mut Graph, x: &str, which: &str| match kind.post_norm {
            true => x.to_owned(),
            false => norm(g, x, width, spec.eps, &format!("{name}.{which}")),
        };
        let behind = |g: &mut Graph, x: &str, which: &str| match kind.post_norm {
            true => norm(g, x, width, spec.eps, &format!("{name}.{which}")),
            false => x.to_owned(),
        };
        let normed = before(g, x, "norm1");
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
        let out = self.attended(g, (&asking, &seen), shape, keep, &format!("{name}.attn"));
        let x = g.op("Add", &[&x, &out], &format!("{name}.attended"), &[]);
        let x = behind(g, &x, "norm1");

        let normed = before(g, &x, "norm2");
        let seen = input(g, &normed, [queries, width], precision, &format!("{name}.norm2"));
        let sizes = Mlp { width, hidden: spec.mlp, act: spec.act, tokens: queries, keep };
        let out = match kind.gated {
            true => gated_mlp(g, &seen, sizes, spec, precision, &name),
            false => mlp(g, &seen, sizes, precision, &name),
        };
        let x = g.op("Add", &[&x, &out], &format!("{name}.result"), &[]);
        behind(g, &x, "norm2")
    }

    /// The attention with its four linear layers, `[batch, queries, width]` in f32.
    fn attended(
        &self,
        g: &mut Graph,
        (asking, seen): (&Input, &Input),
        shape: Shape,
        keep: bool,
        name: &str,
    ) -> String {
        let (spec, precision, kind) = (self.spec, self.precision, self.spec.kind);
        let (width, queries) = (spec.width, shape.queries);
        let [q, k, v] = projections(name, width, spec.heads);
        let pairs = kind.rotary.map(|_| width / spec.heads.max(1));
        // A turned bias is another one in each place, and a norm does not let one through.
        let q = Linear { keep, pairs, ..q };
        let k = Linear { keep, pairs, bias: kind.rotary.is_some() && kind.key_bias, ..k };
        let v = Linear { keep, bias: kind.inner_norms, ..v };
        let q = linear(g, asking, &q, precision);
        let k = linear(g, seen, &k, precision);
        let v = linear(g, seen, &v, precision);
        let scoring = Scoring { mask: self.mask.as_deref(), angles: self.angles.as_ref() };
        let mixed = attention(g, (&q, &k, &v), scoring, shape, precision, name);
        let joined = format!("{name}.joined");
        let (mixed, absorbs) = match kind.inner_norms {
            true => {
                let mixed = full(g, &mixed, queries, width, precision, &format!("{name}.mixed.full"));
                let normed = norm(g, &mixed, width, spec.eps, &format!("{name}.norm"));
                (input(g, &normed, [queries, width], precision, &joined), None)
            }
            false => (carried_input(g, &mixed, [queries, width], precision, &joined), output(name, width).absorbs),
        };
        let out = Linear { keep, absorbs, ..output(name, width) };
        let out = linear(g, &mixed, &out, precision);
        full(g, &out, queries, width, precision, &format!("{name}.result"))
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
    /// Values of a token.
    pub width: usize,
    /// Hidden values.
    pub hidden: usize,
    /// Between the two linear layers of an MLP.
    pub act: Act,
    /// Tokens of a picture or text.
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

/// Adds `NAME.mlp` with a gate: `fc2(silu(gate(x)) · fc1(x))`, with a norm before `fc2` where the layers have inner norms. The
/// product is made in 32 bits: of two large numbers it is beyond what 16 hold.
fn gated_mlp(g: &mut Graph, x: &Input, sizes: Mlp, spec: &Transformer, precision: Precision, name: &str) -> String {
    let name = format!("{name}.mlp");
    let (hidden, tokens, keep) = (sizes.hidden, sizes.tokens, sizes.keep);
    let mut part = |part: &str| {
        let layer = Linear { keep, ..Linear::new(&format!("{name}.{part}"), sizes.width, hidden) };
        let out = linear(g, x, &layer, precision);
        full(g, &out, tokens, hidden, precision, &format!("{name}.{part}.full"))
    };
    let (gate, value) = (part("gate"), part("fc1"));
    let opened = g.op("Sigmoid", &[&gate], &format!("{name}.open"), &[]);
    let gate = g.op("Mul", &[&gate, &opened], &format!("{name}.silu"), &[]);
    let mut x = g.op("Mul", &[&gate, &value], &format!("{name}.gated"), &[]);
    if spec.kind.inner_norms {
        x = norm(g, &x, hidden, spec.eps, &format!("{name}.norm"));
    }
    let seen = input(g, &x, [tokens, hidden], precision, &format!("{name}.hidden"));
    let out = linear(g, &seen, &Linear { keep, ..Linear::new(&format!("{name}.fc2"), hidden, sizes.width) }, precision);
    full(g, &out, tokens, sizes.width, precision, &format!("{name}.result"))
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
