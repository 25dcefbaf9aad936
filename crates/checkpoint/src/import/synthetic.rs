//! Real architectures with made-up weights: what a box can serve is the same for any values, so nobody needs to download
//! gigabytes to find out. Weights are small, seeded and made when they are read; nothing is held in memory.

use super::{
    Act, Architecture, Dtype, ImportError, LayerKind, Projection, TensorInfo, TensorStore, TextPooling, TextTower,
    Transformer, VisionPooling, VisionTower, canonical,
};
use crate::Activation;
use crate::probe_picture::Random;

/// A tensor's values are repeated after so many: gigabytes of random numbers take their time. A prime number, so that no two rows of
/// a matrix are the same.
const PERIOD: usize = 65_537;

/// A made-up checkpoint.
#[derive(Clone, Debug)]
pub struct Synthetic {
    infos: Vec<TensorInfo>,
    seed: u64,
}

/// Names of the architectures that [`Synthetic::new`] knows.
pub const NAMES: [&str; 7] =
    ["vit-b-32", "vit-b-16", "vit-l-14", "vit-h-14", "siglip-b-16-224", "siglip2-b-16-224", "siglip2-so400m-14-224"];

impl Synthetic {
    /// The architecture called `name` (one of [`NAMES`]) and its made-up weights; `None` for another name.
    pub fn new(name: &str) -> Option<(Architecture, Self)> {
        let clip = |(width, layers, heads), patch, act, text: (usize, usize, usize), embed_dim| {
            let kind = LayerKind::PLAIN;
            let body =
                |(width, layers, heads)| Transformer { width, layers, heads, mlp: 4 * width, eps: 1e-5, act, kind };
            let vision = VisionTower {
                body: body((width, layers, heads)),
                image_size: 224,
                patch,
                class_token: true,
                pre_norm: true,
                patch_bias: false,
                pooling: VisionPooling::ClassToken,
                projection: Projection::Linear { bias: false },
            };
            let text = TextTower {
                body: body(text),
                vocab: 49_408,
                context: 77,
                causal: true,
                padding: None,
                pooling: TextPooling::FirstId(49_407),
                projection_bias: false,
            };
            Architecture {
                vision,
                text,
                embed_dim,
                logit_scale: 100.0,
                logit_bias: 0.0,
                activation: Activation::Softmax,
            }
        };
        let arch = match name {
            "vit-b-32" => clip((768, 12, 12), 32, Act::QuickGelu, (512, 12, 8), 512),
            "vit-b-16" => clip((768, 12, 12), 16, Act::QuickGelu, (512, 12, 8), 512),
            "vit-l-14" => clip((1024, 24, 16), 14, Act::QuickGelu, (768, 12, 12), 768),
            "vit-h-14" => clip((1280, 32, 16), 14, Act::Gelu, (1024, 24, 16), 1024),
            "siglip-b-16-224" => siglip((768, 12, 12, 3072), 16, 32_000),
            "siglip2-b-16-224" => siglip((768, 12, 12, 3072), 16, 256_000),
            "siglip2-so400m-14-224" => siglip((1152, 27, 16, 4304), 14, 256_000),
            _ => return None,
        };
        let store = Self::of(&arch, 20);
        Some((arch, store))
    }

    /// Made-up weights for any architecture.
    pub fn of(arch: &Architecture, seed: u64) -> Self {
        Self { infos: expected_tensors(arch), seed }
    }
}

/// SigLIP (Zhai et al. 2023) and SigLIP 2 (Tschannen et al. 2025), which has the same towers and a larger vocabulary.
fn siglip((width, layers, heads, mlp): (usize, usize, usize, usize), patch: usize, vocab: usize) -> Architecture {
    let kind = LayerKind::PLAIN;
    let body = Transformer { width, layers, heads, mlp, eps: 1e-6, act: Act::GeluTanh, kind };
    let vision = VisionTower {
        body: body.clone(),
        image_size: 224,
        patch,
        class_token: false,
        pre_norm: false,
        patch_bias: true,
        pooling: VisionPooling::AttentionHead { heads, mlp },
        projection: Projection::None,
    };
    let text = TextTower {
        body,
        vocab,
        context: 64,
        causal: false,
        padding: None,
        pooling: TextPooling::Last,
        projection_bias: true,
    };
    let (logit_scale, logit_bias) = (117.33, -12.93); // SigLIP B/16, as published
    Architecture { vision, text, embed_dim: width, logit_scale, logit_bias, activation: Activation::Sigmoid }
}

/// A tokenizer with `vocab` made-up words, `w0`, `w1`, …; the last one is for everything else.
pub fn tokenizer(vocab: usize) -> Vec<u8> {
    let words: serde_json::Map<String, serde_json::Value> =
        (0..vocab).map(|id| (format!("w{id}"), id.into())).collect();
    let unknown = format!("w{}", vocab.saturating_sub(1));
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": unknown },
    })
    .to_string()
    .into_bytes()
}

/// The preprocessing of the family.
pub fn preprocessor(arch: &Architecture) -> serde_json::Value {
    let size = arch.vision.image_size;
    let square = serde_json::json!({ "height": size, "width": size });
    if arch.activation == Activation::Sigmoid {
        return serde_json::json!({ "image_processor_type": "SiglipImageProcessor", "size": square });
    }
    serde_json::json!({
        "image_processor_type": "CLIPImageProcessor", "size": { "shortest_edge": size }, "crop_size": square,
    })
}

/// Canonical names and shapes of all tensors that the graphs of `arch` read.
pub fn expected_tensors(arch: &Architecture) -> Vec<TensorInfo> {
    let tensors = canonical::tensors(arch).into_iter();
    tensors.map(|(name, shape)| TensorInfo { name, dtype: Dtype::F32, shape }).collect()
}

impl TensorStore for Synthetic {
    fn infos(&self) -> Vec<TensorInfo> {
        self.infos.clone()
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ImportError> {
        let missing = || ImportError::Mismatch { file: "made-up weights".into(), problems: vec![format!("no {name}")] };
        let (index, info) = self.infos.iter().enumerate().find(|(_, i)| i.name == name).ok_or_else(missing)?;
        let inputs = info.shape.iter().skip(1).product::<usize>().max(1);
        // Norms near one, weights of a size that keeps activations in proportion, as training does.
        let (centre, spread) = match (name.contains("norm") && name.ends_with("weight"), info.shape.len()) {
            (true, _) => (1.0, 0.1),
            (false, 1) => (0.0, 0.05),
            (false, _) if name == "text.token" || name.ends_with("position") => (0.0, 0.02),
            (false, _) => (0.0, (inputs as f32).sqrt().recip()),
        };
        let mut random = Random(self.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = info.shape.iter().product::<usize>();
        let mut values: Vec<f32> = (0..len.min(PERIOD)).map(|_| centre + spread * random.bell()).collect();
        values.reserve_exact(len - values.len());
        while values.len() < len {
            values.extend_from_within(..PERIOD.min(len - values.len()));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_an_architecture_whose_heads_share_its_width() {
        for name in NAMES {
            let (arch, store) = Synthetic::new(name).unwrap();
            assert_eq!(arch.vision.body.width % arch.vision.body.heads, 0, "{name}");
            assert_eq!(arch.vision.image_size % arch.vision.patch, 0, "{name}");
            assert!(store.infos().len() > 300, "{name}");
        }
        assert!(Synthetic::new("vit-x-1").is_none());
    }

    #[test]
    fn a_tensor_longer_than_the_period_is_whole_and_has_no_two_rows_alike() {
        let (_, store) = Synthetic::new("vit-b-32").unwrap();
        let values = store.read("vision.layers.0.attn.q.weight").unwrap();
        assert_eq!(values.len(), 768 * 768);
        let mut rows: Vec<Vec<u32>> =
            values.chunks_exact(768).map(|row| row.iter().map(|v| v.to_bits()).collect()).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 768);
    }
}
