//! Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762) from three linear layers' outputs.
//!
//! The plain form is MatMul, Softmax, MatMul, which every provider knows and fuses as it likes. In 8 bits, which only the CPU
//! runs, the keys are turned inside the product: ONNX Runtime joins the two moves of the plain form to one that moves
//! number by number, a tenth of the time of ViT-B/32. `1/√d` is already in the queries. Softmax is computed in 32 bits.

use super::Precision;
use super::builder::Graph;
use super::proto::{Attr, Elem};
use super::rotary::Angles;

/// Sizes of one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Heads of an attention; they divide the width.
    pub heads: usize,
    /// Values of a token, all heads together.
    pub width: usize,
    /// Tokens that ask: all of them, or only the one that is pooled.
    pub queries: usize,
    /// Tokens that are looked at.
    pub keys: usize,
}

/// What changes the scores of an attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scoring<'a> {
    /// Added to the scores, f32: `[1 or batch, 1, 1 or queries, keys]`.
    pub mask: Option<&'a str>,
    /// Turns queries, where all tokens ask, and keys.
    pub angles: Option<&'a Angles>,
}

/// Adds the attention of `q` on `k` and `v` (anything that reshapes to `[batch, tokens, width]`).
/// Gives `[batch, queries, width]` of the type of `q`.
pub fn attention(
    g: &mut Graph,
    (q, k, v): (&str, &str, &str),
    scoring: Scoring<'_>,
    shape: Shape,
    precision: Precision,
    name: &str,
) -> String {
    let mut q = heads(g, q, shape, shape.queries, &[0, 2, 1, 3], &format!("{name}.q"));
    // Alone asks only the first token, which has no place in the grid.
    if let Some(angles) = scoring.angles.filter(|_| shape.queries == shape.keys) {
        q = angles.turned(g, &q, &format!("{name}.q"));
    }
    attention_of_heads(g, (&q, k, v), scoring, shape, precision, name)
}

/// As [`attention`], with queries that are split already: `[batch or 1, heads, queries, width / heads]`.
pub fn attention_of_heads(
    g: &mut Graph,
    (q, k, v): (&str, &str, &str),
    scoring: Scoring<'_>,
    shape: Shape,
    precision: Precision,
    name: &str,
) -> String {
    let mut k = heads(g, k, shape, shape.keys, &[0, 2, 1, 3], &format!("{name}.k"));
    if let Some(angles) = scoring.angles {
        k = angles.turned(g, &k, &format!("{name}.k"));
    }
    let v = heads(g, v, shape, shape.keys, &[0, 2, 1, 3], &format!("{name}.v"));
    mix(g, (q, &k, &v), scoring.mask, shape, precision, name)
}

fn heads(g: &mut Graph, x: &str, shape: Shape, tokens: usize, order: &[i64], name: &str) -> String {
    let size = shape.width / shape.heads;
    let split = [-1, tokens as i64, shape.heads as i64, size as i64];
    let split = g.ints(&format!("shape.heads.{tokens}.{}.{size}", shape.heads), &split);
    let x = g.op("Reshape", &[x, &split], &format!("{name}.split"), &[]);
    g.op("Transpose", &[&x], &format!("{name}.heads"), &[Attr::Ints("perm", order.to_vec())])
}

fn mix(
    g: &mut Graph,
    (q, k, v): (&str, &str, &str),
    mask: Option<&str>,
    shape: Shape,
    precision: Precision,
    name: &str,
) -> String {
    let half = precision == Precision::Fp16;
    let mut scores = if precision == Precision::Int8 {
        g.contrib("FusedMatMul", &[q, k], &format!("{name}.scores"), &[Attr::Int("transB", 1)])
    } else {
        let turned = [Attr::Ints("perm", vec![0, 1, 3, 2])];
        let k = g.op("Transpose", &[k], &format!("{name}.k.turned"), &turned);
        g.op("MatMul", &[q, &k], &format!("{name}.scores"), &[])
    };
    if half {
        scores = g.cast(&scores, Elem::F32, &format!("{name}.scores.full"));
    }
    if let Some(mask) = mask {
        scores = g.op("Add", &[&scores, mask], &format!("{name}.masked"), &[]);
    }
    let mut weights = g.op("Softmax", &[&scores], &format!("{name}.weights"), &[Attr::Int("axis", -1)]);
    if half {
        weights = g.cast(&weights, Elem::F16, &format!("{name}.weights.half"));
    }
    let mixed = g.op("MatMul", &[&weights, v], &format!("{name}.mixed"), &[]);
    let order = [Attr::Ints("perm", vec![0, 2, 1, 3])];
    let mixed = g.op("Transpose", &[&mixed], &format!("{name}.mixed.tokens"), &order);
    let join = g.ints(
        &format!("shape.tokens.{}.{}", shape.queries, shape.width),
        &[-1, shape.queries as i64, shape.width as i64],
    );
    g.op("Reshape", &[&mixed, &join], &format!("{name}.joined"), &[])
}
