//! The text tower: `input_ids` `[batch, context]` i64 → `text_embeds` `[batch, dim]` f32, L2-normalised.
//!
//! There is no attention mask to give: behind CLIP's causal mask padding cannot be seen from the pooled token, SigLIP was
//! trained to look at it, and where a tower must not, the mask is made of the ids. The token table is in 16 bits where weights are smaller than 32. Where the image tower has 4 bits, this one
//! has 8: it is smaller, it is loaded for the moment in which labels are embedded, and short texts leave it less to average over.

use super::Precision;
use super::body::{Body, full, norm, unit_length};
use super::builder::{Graph, Values};
use super::linear::{self, Linear, input, linear};
use super::proto::{Attr, Dim, Elem};
use crate::import::{Architecture, TextPooling, TextTower};

/// The whole tower.
pub fn graph(arch: &Architecture, precision: Precision) -> Graph {
    let (mut g, spec) = (Graph::new("text_model"), &arch.text);
    let (width, context) = (spec.body.width, spec.context);
    let batch = Dim::Free("batch");
    let ids = g.input("input_ids", Elem::I64, &[batch, Dim::Fixed(context)]);

    let small = precision != Precision::Fp32;
    let table = if small { Elem::F16 } else { Elem::F32 };
    let table = linear::plain(&mut g, "text.token", &[spec.vocab, width], 1.0, table);
    let mut x = g.op("Gather", &[&table, &ids], "text.tokens", &[Attr::Int("axis", 0)]);
    if small {
        x = g.cast(&x, Elem::F32, "text.tokens.full");
    }
    let position = linear::plain(&mut g, "text.position", &[context, width], 1.0, Elem::F32);
    x = g.op("Add", &[&x, &position], "text.placed", &[]);
    if spec.body.kind.post_norm {
        // Every token is of the first segment.
        let segment = linear::plain(&mut g, "text.segment", &[1, width], 1.0, Elem::F32);
        x = g.op("Add", &[&x, &segment], "text.segments", &[]);
        x = norm(&mut g, &x, width, spec.body.eps, "text.embed_norm");
    }

    let mask = match spec.padding {
        Some(id) => Some(padding_mask(&mut g, &ids, id, context)),
        None => spec.causal.then(|| causal_mask(&mut g, context)),
    };
    let body = Body { spec: &spec.body, tower: "text", tokens: context, precision, mask, angles: None, keep: true };
    for index in 0..spec.body.layers {
        x = body.layer(&mut g, index, &x, false);
    }
    // The norm is of each token alone, so it may come after the choice of one.
    let mut x = pooled(&mut g, spec, &ids, &x);
    if !spec.body.kind.post_norm {
        x = norm(&mut g, &x, width, spec.body.eps, "text.post_norm");
    }

    let precision = if precision == Precision::Fp16 { precision } else { Precision::Fp32 };
    let projection = Linear { bias: spec.projection_bias, ..Linear::new("text.projection", width, arch.embed_dim) };
    let seen = input(&mut g, &x, [1, width], precision, "text.post_norm");
    let out = linear(&mut g, &seen, &projection, precision);
    let out = full(&mut g, &out, 1, arch.embed_dim, precision, "text.projected");
    let embedding = unit_length(&mut g, &out, "text_embeds");
    g.output(&embedding, Elem::F32, &[batch, Dim::Fixed(arch.embed_dim)]);
    g
}

/// Far below every score, and far from the end of the range, so that no sum becomes infinite.
const HIDDEN: f32 = -1e9;

/// `[batch, 1, 1, context]`: nothing where a text has a token, and what makes a weight zero where it is filled up.
fn padding_mask(g: &mut Graph, ids: &str, id: u32, context: usize) -> String {
    let id = g.constant("text.padding", &[], Values::I64(vec![i64::from(id)]));
    let filling = g.op("Equal", &[ids, &id], "text.filling", &[]);
    let filling = g.cast(&filling, Elem::F32, "text.filling.float");
    let hidden = g.scalar("text.hidden", HIDDEN);
    let mask = g.op("Mul", &[&filling, &hidden], "text.mask.rows", &[]);
    let shape = g.ints("text.shape.mask", &[-1, 1, 1, context as i64]);
    g.op("Reshape", &[&mask, &shape], "text.mask", &[])
}

/// `[1, 1, context, context]`: nothing where a token may look, and what makes a weight zero where it may not.
fn causal_mask(g: &mut Graph, context: usize) -> String {
    let mask = (0..context).flat_map(|query| (0..context).map(move |key| if key > query { HIDDEN } else { 0.0 }));
    g.constant("text.mask", &[1, 1, context, context], Values::F32(mask.collect()))
}

/// `[batch, tokens, width]` → `[batch, width]`.
fn pooled(g: &mut Graph, spec: &TextTower, ids: &str, x: &str) -> String {
    let place = match spec.pooling {
        TextPooling::First | TextPooling::Last => {
            let at = if spec.pooling == TextPooling::First { 0 } else { spec.context as i64 - 1 };
            let at = g.constant("index.pooled", &[], Values::I64(vec![at]));
            return g.op("Gather", &[x, &at], "text.pooled", &[Attr::Int("axis", 1)]);
        }
        // Ids are far below 2²⁴, so floats hold them, and every provider has ArgMax for floats. The first of equals is taken.
        TextPooling::ArgmaxId => g.cast(ids, Elem::F32, "text.ids.float"),
        TextPooling::FirstId(id) => {
            let id = g.constant("text.end", &[], Values::I64(vec![i64::from(id)]));
            let found = g.op("Equal", &[ids, &id], "text.is_end", &[]);
            g.cast(&found, Elem::F32, "text.is_end.float")
        }
    };
    let attrs = [Attr::Int("axis", 1), Attr::Int("keepdims", 1)];
    let place = g.op("ArgMax", &[&place], "text.place", &attrs);
    g.op("GatherND", &[x, &place], "text.pooled", &[Attr::Int("batch_dims", 1)])
}
