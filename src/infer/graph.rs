//! What a model's graph takes and gives: finds the input and the output that matter among those an exporter left.

use std::path::Path;

use ort::value::{Outlet, TensorElementType};

use super::InferError;

/// Names of an image embedding, best first: CLIP exports of Optimum and transformers.js, SigLIP exports (whose pooled
/// output *is* the embedding), OpenCLIP-based ones.
pub const IMAGE_OUTPUTS: &[&str] = &[
    "image_embeds",
    "image_embeddings",
    "image_features",
    "pooler_output",
    "embedding",
    "embeddings",
    "sentence_embedding",
];

/// Names of a text embedding, best first.
pub const TEXT_OUTPUTS: &[&str] = &[
    "text_embeds",
    "text_embeddings",
    "text_features",
    "pooler_output",
    "embedding",
    "embeddings",
    "sentence_embedding",
];

/// Element type of a picture tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F32,
    F16,
}

/// The picture input of an image tower, NCHW.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInput {
    pub name: String,
    pub element: Element,
    /// Where the export fixed it.
    pub batch: Option<usize>,
    /// Where the export fixed them.
    pub height: Option<usize>,
    pub width: Option<usize>,
}

/// The embedding output of a tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingOutput {
    pub name: String,
    /// Where the export says.
    pub dim: Option<usize>,
}

fn known(dimension: i64) -> Option<usize> {
    usize::try_from(dimension).ok().filter(|n| *n > 0)
}

fn list(outlets: &[Outlet]) -> String {
    let each: Vec<_> = outlets.iter().map(|o| format!("{}: {}", o.name(), o.dtype())).collect();
    each.join(", ")
}

/// The one float input of rank 4.
///
/// # Errors
/// [`InferError::Model`] listing the inputs if there is none, or more that cannot be left out.
pub fn image_input(inputs: &[Outlet], file: &Path) -> Result<ImageInput, InferError> {
    let refuse = |why: &str| {
        InferError::Model(format!(
            "{}: {why} (its inputs: {}); export the image tower on its own",
            file.display(),
            list(inputs)
        ))
    };
    let [input] = inputs else { return Err(refuse("an image tower with one input is needed")) };
    let element = match input.dtype().tensor_type() {
        Some(TensorElementType::Float32) => Element::F32,
        Some(TensorElementType::Float16) => Element::F16,
        _ => return Err(refuse("its input is not a float32 or float16 tensor")),
    };
    let shape: &[i64] = input.dtype().tensor_shape().map_or(&[], |shape| shape);
    match *shape {
        [batch, channels, height, width] if channels == 3 || channels < 0 => Ok(ImageInput {
            name: input.name().to_owned(),
            element,
            batch: known(batch),
            height: known(height),
            width: known(width),
        }),
        _ => Err(refuse("its input is not [batch, 3, height, width]")),
    }
}

impl ImageInput {
    /// Checks the height and width that the preprocessing makes.
    ///
    /// # Errors
    /// [`InferError::Model`] if the export fixed another size.
    pub fn check_size(&self, (height, width): (usize, usize), file: &Path) -> Result<(), InferError> {
        if self.height.is_none_or(|h| h == height) && self.width.is_none_or(|w| w == width) {
            return Ok(());
        }
        let side = |n: Option<usize>| n.map_or_else(|| "any".to_owned(), |n| n.to_string());
        Err(InferError::Model(format!(
            "{} takes pictures of {}x{}, but preprocessor_config.json makes {width}x{height}; use the preprocessor file of the \
             same model",
            file.display(),
            side(self.width),
            side(self.height),
        )))
    }
}

/// The output that is an embedding: the first of `names` that is a float matrix, else the only float matrix there is.
///
/// # Errors
/// [`InferError::Model`] listing the outputs.
pub fn embedding_output(outputs: &[Outlet], names: &[&str], file: &Path) -> Result<EmbeddingOutput, InferError> {
    let matrix = |outlet: &Outlet| {
        let float =
            matches!(outlet.dtype().tensor_type(), Some(TensorElementType::Float32 | TensorElementType::Float16));
        let shape: &[i64] = outlet.dtype().tensor_shape().map_or(&[], |shape| shape);
        // Some exporters give no shape at all for an output; the name must do then.
        (float && (shape.len() == 2 || shape.is_empty())).then(|| shape.last().copied().and_then(known))
    };
    for name in names {
        if let Some(outlet) = outputs.iter().find(|o| o.name() == *name)
            && let Some(dim) = matrix(outlet)
        {
            return Ok(EmbeddingOutput { name: outlet.name().to_owned(), dim });
        }
    }
    let mut matrices = outputs
        .iter()
        .filter(|o| o.dtype().tensor_shape().is_some_and(|s| s.len() == 2))
        .filter_map(|o| matrix(o).map(|dim| EmbeddingOutput { name: o.name().to_owned(), dim }));
    match (matrices.next(), matrices.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(InferError::Model(format!(
            "{}: none of its outputs is an embedding (outputs: {}; looked for {}); export with the pooled, projected output",
            file.display(),
            list(outputs),
            names.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use ort::value::{Shape, SymbolicDimensions, ValueType};

    use super::*;

    /// The bindings make even a description of a tensor in the library, so it has to be there.
    fn outlet(name: &str, ty: TensorElementType, shape: &[i64]) -> Outlet {
        crate::infer::runtime::load(None).expect("run `make setup` first: it fetches runtime/libonnxruntime.so");
        let dimension_symbols = SymbolicDimensions::empty(shape.len());
        Outlet::new(name, ValueType::Tensor { ty, shape: Shape::new(shape.iter().copied()), dimension_symbols })
    }

    fn f32(name: &str, shape: &[i64]) -> Outlet {
        outlet(name, TensorElementType::Float32, shape)
    }

    #[test]
    fn the_projected_embedding_is_preferred_to_the_pooled_and_the_hidden_state_is_never_taken() {
        let file = Path::new("v.onnx");
        let all = [
            f32("last_hidden_state", &[-1, 50, 768]),
            f32("pooler_output", &[-1, 768]),
            f32("image_embeds", &[-1, 512]),
        ];
        let found = embedding_output(&all, IMAGE_OUTPUTS, file).unwrap();
        assert_eq!((found.name.as_str(), found.dim), ("image_embeds", Some(512)));
        assert_eq!(embedding_output(&all[..2], IMAGE_OUTPUTS, file).unwrap().name, "pooler_output");
        let error = embedding_output(&all[..1], IMAGE_OUTPUTS, file).unwrap_err().to_string();
        assert!(error.contains("last_hidden_state") && error.contains("v.onnx"), "{error}");
    }

    #[test]
    fn a_lone_matrix_is_taken_under_any_name_but_not_one_of_two() {
        let file = Path::new("v.onnx");
        assert_eq!(embedding_output(&[f32("1234", &[-1, -1])], TEXT_OUTPUTS, file).unwrap().dim, None);
        assert!(embedding_output(&[f32("a", &[-1, 4]), f32("b", &[-1, 4])], TEXT_OUTPUTS, file).is_err());
    }

    #[test]
    fn an_input_tells_its_size_and_type_and_refuses_another_preprocessing() {
        let file = Path::new("v.onnx");
        let input = image_input(&[outlet("image", TensorElementType::Float16, &[1, 3, 256, 224])], file).unwrap();
        assert_eq!((input.element, input.batch), (Element::F16, Some(1)));
        assert!(input.check_size((256, 224), file).is_ok());
        let error = input.check_size((224, 224), file).unwrap_err().to_string();
        assert!(error.contains("takes pictures of 224x256") && error.contains("makes 224x224"), "{error}");
        assert!(image_input(&[f32("x", &[-1, 224, 224, 3])], file).is_err(), "channels last is not what we make");
        assert!(image_input(&[f32("a", &[-1, 3, 8, 8]), f32("b", &[1])], file).is_err());
    }
}
