//! The tensors of a model under the names that the graph writers know. In: an [`Architecture`]; out: every tensor it needs, with
//! its shape, image tower first, in the order a picture and a text meet them. Linear weights are `[out, in]`, as in PyTorch.

use super::{Architecture, LayerKind, Projection, TextTower, Transformer, VisionPooling, VisionTower};

/// Every tensor with its shape.
pub fn tensors(architecture: &Architecture) -> Vec<(String, Vec<usize>)> {
    let mut list = List(Vec::new());
    list.vision(&architecture.vision, architecture.embed_dim);
    list.text(&architecture.text, architecture.embed_dim);
    list.0
}

impl VisionTower {
    /// Positions of a picture: its patches, and the class token where there is one.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch).pow(2) + usize::from(self.class_token)
    }
}

struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_owned(), shape.to_vec()));
    }

    /// A weight and a bias.
    fn linear(&mut self, name: &str, out: usize, input: usize) {
        self.add(&format!("{name}.weight"), &[out, input]);
        self.add(&format!("{name}.bias"), &[out]);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }

    fn attention(&mut self, name: &str, width: usize) {
        for part in ["q", "k", "v", "out"] {
            self.linear(&format!("{name}.{part}"), width, width);
        }
    }

    fn layer_attention(&mut self, name: &str, width: usize, kind: LayerKind) {
        self.linear(&format!("{name}.q"), width, width);
        self.add(&format!("{name}.k.weight"), &[width, width]);
        if kind.key_bias {
            self.add(&format!("{name}.k.bias"), &[width]);
        }
        self.linear(&format!("{name}.v"), width, width);
        if kind.inner_norms {
            self.norm(&format!("{name}.norm"), width);
        }
        self.linear(&format!("{name}.out"), width, width);
    }

    fn mlp(&mut self, name: &str, width: usize, mlp: usize) {
        self.linear(&format!("{name}.fc1"), mlp, width);
        self.linear(&format!("{name}.fc2"), width, mlp);
    }

    fn layers(&mut self, tower: &str, body: &Transformer) {
        let (width, kind) = (body.width, body.kind);
        for n in 0..body.layers {
            self.norm(&format!("{tower}.layers.{n}.norm1"), width);
            self.layer_attention(&format!("{tower}.layers.{n}.attn"), width, kind);
            self.norm(&format!("{tower}.layers.{n}.norm2"), width);
            let mlp = format!("{tower}.layers.{n}.mlp");
            if kind.gated {
                self.linear(&format!("{mlp}.gate"), body.mlp, width);
            }
            self.linear(&format!("{mlp}.fc1"), body.mlp, width);
            if kind.inner_norms {
                self.norm(&format!("{mlp}.norm"), body.mlp);
            }
            self.linear(&format!("{mlp}.fc2"), width, body.mlp);
        }
    }

    fn vision(&mut self, tower: &VisionTower, embed: usize) {
        let width = tower.body.width;
        self.add("vision.patch.weight", &[width, 3, tower.patch, tower.patch]);
        if tower.patch_bias {
            self.add("vision.patch.bias", &[width]);
        }
        if tower.class_token {
            self.add("vision.class", &[width]);
        }
        self.add("vision.position", &[tower.tokens(), width]);
        if tower.pre_norm {
            self.norm("vision.pre_norm", width);
        }
        self.layers("vision", &tower.body);
        self.norm("vision.post_norm", width);
        match tower.pooling {
            VisionPooling::ClassToken => {}
            VisionPooling::AttentionHead { mlp, .. } => {
                self.add("vision.head.probe", &[1, 1, width]);
                self.attention("vision.head.attn", width);
                self.norm("vision.head.norm", width);
                self.mlp("vision.head.mlp", width, mlp);
            }
        }
        if let Projection::Linear { bias } = tower.projection {
            self.add("vision.projection.weight", &[embed, width]);
            if bias {
                self.add("vision.projection.bias", &[embed]);
            }
        }
    }

    fn text(&mut self, tower: &TextTower, embed: usize) {
        let width = tower.body.width;
        self.add("text.token", &[tower.vocab, width]);
        self.add("text.position", &[tower.context, width]);
        if tower.body.kind.post_norm {
            self.add("text.segment", &[1, width]);
            self.norm("text.embed_norm", width);
        }
        self.layers("text", &tower.body);
        if !tower.body.kind.post_norm {
            self.norm("text.post_norm", width);
        }
        self.add("text.projection.weight", &[embed, width]);
        if tower.projection_bias {
            self.add("text.projection.bias", &[embed]);
        }
    }
}
