//! The image tower: a vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) as CLIP, OpenCLIP, SigLIP and timm have it.
//!
//! `pixel_values` `[batch, 3, size, size]` f32 → `image_embeds` `[batch, dim]` f32, L2-normalised. In three parts, so that a
//! tower too large for memory can be run part by part: [`stem`], one [`layer`] after another, [`head`].
//! Where weights are quantised, the projection stays in 32 bits, and so do the patches in 4 bits.

use super::attention::{Scoring, Shape, attention_of_heads};
use super::body::{self, Body, Mlp, full, mlp, norm, output, projections, unit_length};
use super::builder::{Graph, Stored, Values};
use super::linear::{self, Linear, input, linear};
use super::proto::{Attr, Dim, Elem};
use super::rotary::Angles;
use super::{Precision, weight_formats};
use crate::import::{Architecture, ImportError, Projection, TensorStore, VisionPooling, VisionTower};

/// The whole tower.
pub fn graph(arch: &Architecture, precision: Precision) -> Graph {
    let (mut g, spec) = (Graph::new("vision_model"), &arch.vision);
    let batch = Dim::Free("batch");
    let size = Dim::Fixed(spec.image_size);
    let pixels = g.input("pixel_values", Elem::F32, &[batch, Dim::Fixed(3), size, size]);
    let mut x = stem(&mut g, spec, &pixels, precision);
    for index in 0..spec.body.layers {
        x = layer(&mut g, spec, index, &x, precision);
    }
    let embedding = head(&mut g, arch, &x, precision);
    g.output(&embedding, Elem::F32, &[batch, Dim::Fixed(arch.embed_dim)]);
    g
}

/// Tokens of a picture, the class token included.
pub fn tokens(spec: &VisionTower) -> usize {
    let side = spec.image_size / spec.patch.max(1);
    side * side + usize::from(spec.class_token)
}

/// Tokens that leave layer `index`: after the last one only the class token, where that is what is pooled.
pub fn tokens_after(spec: &VisionTower, index: usize) -> usize {
    if first_only(spec, index) { 1 } else { tokens(spec) }
}

fn first_only(spec: &VisionTower, index: usize) -> bool {
    spec.pooling == VisionPooling::ClassToken && index + 1 == spec.body.layers
}

/// Adds patches, class token, positions and the norm before the layers: pixels → `[batch, tokens, width]`.
pub fn stem(g: &mut Graph, spec: &VisionTower, pixels: &str, precision: Precision) -> String {
    let width = spec.body.width;
    let mut x = patches(g, spec, pixels, precision);
    if spec.class_token {
        let class = linear::plain(g, "vision.class", &[1, 1, width], 1.0, Elem::F32);
        let batch = g.op("Shape", &[pixels], "vision.batch", &[Attr::Int("start", 0), Attr::Int("end", 1)]);
        let rest = g.ints("vision.shape.class", &[1, 1]);
        let shape = g.op("Concat", &[&batch, &rest], "vision.class.shape", &[Attr::Int("axis", 0)]);
        let class = g.op("Expand", &[&class, &shape], "vision.class.batch", &[]);
        x = g.op("Concat", &[&class, &x], "vision.tokens", &[Attr::Int("axis", 1)]);
    }
    let position = linear::plain(g, "vision.position", &[tokens(spec), width], 1.0, Elem::F32);
    x = g.op("Add", &[&x, &position], "vision.placed", &[]);
    if spec.pre_norm { norm(g, &x, width, spec.body.eps, "vision.pre_norm") } else { x }
}

/// Adds the convolution whose kernels lie side by side: pixels → `[batch, patches, width]`, f32.
///
/// Every patch is made a row, and all of them go through one linear layer. Kernels of 32 by 32 are not what convolutions are made
/// for: in ViT-B/32 with eight pictures the CPU's took twice as long, a tenth of the time of the whole tower in 8 bits.
/// In 8 bits each patch has its own scale, so that a dark one keeps its detail; in 4 bits this layer stays in 32.
fn patches(g: &mut Graph, spec: &VisionTower, pixels: &str, precision: Precision) -> String {
    let (width, patch) = (spec.body.width, spec.patch);
    let side = spec.image_size / patch.max(1);
    let (patches, inputs) = (side * side, 3 * patch * patch);
    let mut x = pixels.to_owned();
    if side * patch < spec.image_size {
        // A convolution leaves out what fills no patch.
        let (from, to) = (g.ints("vision.crop.from", &[0, 0]), g.ints("vision.crop.to", &[(side * patch) as i64; 2]));
        let axes = g.ints("vision.crop.axes", &[2, 3]);
        x = g.op("Slice", &[&x, &from, &to, &axes], "vision.pixels.whole", &[]);
    }
    let [count, rows, columns, size] = [patches, side, inputs, patch].map(|n| n as i64);
    let grid = g.ints("vision.shape.grid", &[-1, 3, rows, size, rows, size]);
    let grid = g.op("Reshape", &[&x, &grid], "vision.pixels.grid", &[]);
    let order = [Attr::Ints("perm", vec![0, 2, 4, 1, 3, 5])];
    let grid = g.op("Transpose", &[&grid], "vision.pixels.patches", &order);
    let flat = g.ints("vision.shape.patches", &[-1, count, columns]);
    let flat = g.op("Reshape", &[&grid, &flat], "vision.pixels.rows", &[]);
    let precision = if precision == Precision::Int4 { Precision::Fp32 } else { precision };
    let seen = input(g, &flat, [patches, inputs], precision, "vision.patch.seen");
    let layer = Linear { bias: spec.patch_bias, ..Linear::new("vision.patch", inputs, width) };
    let x = linear(g, &seen, &layer, precision);
    full(g, &x, patches, width, precision, "vision.patch.full")
}

/// Adds layer `index`: `[batch, tokens, width]` → `[batch, tokens_after, width]`.
pub fn layer(g: &mut Graph, spec: &VisionTower, index: usize, x: &str, precision: Precision) -> String {
    let angles = spec.body.kind.rotary.map(|rotary| Angles::new(g, spec, rotary, precision));
    let body =
        Body { spec: &spec.body, tower: "vision", tokens: tokens(spec), precision, mask: None, angles, keep: false };
    body.layer(g, index, x, first_only(spec, index))
}

/// Adds pooling, projection and normalisation: what the last layer gave → `image_embeds`.
pub fn head(g: &mut Graph, arch: &Architecture, x: &str, precision: Precision) -> String {
    let spec = &arch.vision;
    let (width, eps) = (spec.body.width, spec.body.eps);
    let x = norm(g, x, width, eps, "vision.post_norm");
    let x = match spec.pooling {
        VisionPooling::ClassToken => x,
        VisionPooling::AttentionHead { heads, mlp } => attention_head(g, spec, &x, (heads, mlp), precision),
    };
    let row = g.ints("vision.shape.row", &[-1, width as i64]);
    let mut x = g.op("Reshape", &[&x, &row], "vision.pooled", &[]);
    if let Projection::Linear { bias } = spec.projection {
        // One row a picture: quantising the last layer would gain nothing.
        let precision = if precision == Precision::Fp16 { precision } else { Precision::Fp32 };
        let projection = Linear { bias, ..Linear::new("vision.projection", width, arch.embed_dim) };
        let seen = input(g, &x, [1, width], precision, "vision.pooled");
        let out = linear(g, &seen, &projection, precision);
        x = full(g, &out, 1, arch.embed_dim, precision, "vision.projected");
    }
    unit_length(g, &x, "image_embeds")
}

/// SigLIP's pooling (Zhai et al. 2023): one learned query attends to all tokens, then an MLP. The query does not depend on the
/// picture, so its projection is computed here and stored.
fn attention_head(
    g: &mut Graph,
    spec: &VisionTower,
    x: &str,
    (heads, hidden): (usize, usize),
    precision: Precision,
) -> String {
    let (width, name) = (spec.body.width, "vision.head");
    let attn = format!("{name}.attn");
    let [q, k, v] = projections(&attn, width, heads).map(|part| Linear { keep: true, ..part });
    let elem = if precision == Precision::Fp16 { Elem::F16 } else { Elem::F32 };
    let query = Stored { name: format!("{attn}.query"), elem, dims: vec![1, heads, 1, width / heads.max(1)] };
    let asked = query.name.clone();
    g.weights(vec![query], Box::new(move |store| probe(store, &q, elem)));
    let seen = input(g, x, [tokens(spec), width], precision, "vision.post_norm");
    let k = linear(g, &seen, &k, precision);
    let v = linear(g, &seen, &v, precision);
    let shape = Shape { heads, width, queries: 1, keys: tokens(spec) };
    let mixed = attention_of_heads(g, (&asked, &k, &v), Scoring::default(), shape, precision, &attn);
    // One row a picture: nothing is gained by quantising it.
    let precision = if precision == Precision::Fp16 { precision } else { Precision::Fp32 };
    let mixed = linear::carried_input(g, &mixed, [1, width], precision, &format!("{attn}.joined"));
    let out = linear(g, &mixed, &output(&attn, width), precision);
    let x = full(g, &out, 1, width, precision, &format!("{attn}.result"));
    let normed = norm(g, &x, width, spec.body.eps, &format!("{name}.norm"));
    let seen = input(g, &normed, [1, width], precision, &format!("{name}.norm"));
    let sizes = Mlp { width, hidden, act: spec.body.act, tokens: 1, keep: true };
    let out = mlp(g, &seen, sizes, precision, name);
    g.op("Add", &[&x, &out], &format!("{name}.result"), &[])
}

/// `probe · Wqᵀ + bq`, scaled.
fn probe(store: &dyn TensorStore, layer: &Linear, elem: Elem) -> Result<Vec<Values>, ImportError> {
    let probe = store.read("vision.head.probe")?;
    let weight = store.read(&format!("{}.weight", layer.name))?;
    let bias = store.read(&format!("{}.bias", layer.name))?;
    let query: Vec<f32> = weight_formats::product(&weight, &probe)
        .iter()
        .zip(&bias)
        .map(|(sum, bias)| (sum + bias) * layer.scale)
        .collect();
    Ok(vec![if elem == Elem::F16 { Values::F16(weight_formats::halves(&query)) } else { Values::F32(query) }])
}

/// The graph of one part on its own, from `hidden` or `pixel_values` to `hidden_out` or `image_embeds`.
pub fn part(arch: &Architecture, part: Part, precision: Precision) -> Graph {
    let (mut g, spec) = (Graph::new("vision_part"), &arch.vision);
    let batch = Dim::Free("batch");
    let hidden = |tokens| [batch, Dim::Fixed(tokens), Dim::Fixed(spec.body.width)];
    let before = |g: &mut Graph, tokens| g.input("hidden", Elem::F32, &hidden(tokens));
    match part {
        Part::Stem => {
            let size = Dim::Fixed(spec.image_size);
            let pixels = g.input("pixel_values", Elem::F32, &[batch, Dim::Fixed(3), size, size]);
            let x = stem(&mut g, spec, &pixels, precision);
            g.output(&x, Elem::F32, &hidden(tokens(spec)));
        }
        Part::Layer(index) => {
            let x = before(&mut g, tokens(spec));
            let x = layer(&mut g, spec, index, &x, precision);
            g.output(&x, Elem::F32, &hidden(tokens_after(spec, index)));
        }
        Part::Head => {
            let last = spec.body.layers.saturating_sub(1);
            let x = before(&mut g, tokens_after(spec, last));
            let embedding = head(&mut g, arch, &x, precision);
            g.output(&embedding, Elem::F32, &[batch, Dim::Fixed(arch.embed_dim)]);
        }
    }
    g
}

/// A part of the tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Patches, positions and the norm before the layers.
    Stem,
    /// One layer, by number.
    Layer(usize),
    /// Pooling and projection.
    Head,
}

/// All parts of a tower in the order they compute.
pub fn parts(spec: &VisionTower) -> impl Iterator<Item = Part> {
    std::iter::once(Part::Stem).chain((0..spec.body.layers).map(Part::Layer)).chain(std::iter::once(Part::Head))
}

/// Values of a part's output for one picture.
pub fn values_after(arch: &Architecture, part: Part) -> usize {
    let width = arch.vision.body.width;
    match part {
        Part::Stem => body::all_tokens(&arch.vision.body, tokens(&arch.vision)).keys * width,
        Part::Layer(index) => tokens_after(&arch.vision, index) * width,
        Part::Head => arch.embed_dim,
    }
}
