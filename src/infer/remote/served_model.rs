//! What a server says of its model, and what follows from it: which input takes pictures and how, which output is the embedding. Pure.

use super::kserve_messages::TensorMetadata;
use super::tile_bytes::Layout;
use super::{RemoteError, TileInput, told};
use crate::infer::graph::IMAGE_OUTPUTS;
use crate::model::byte_input;

/// What a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    pub input: String,
    pub layout: Layout,
    /// `None`: the only one that comes.
    pub output: Option<String>,
    /// Pictures in a request, where the server says so.
    pub max_batch: Option<usize>,
}

impl ServedModel {
    /// `most`: `max_batch_size` of the server's configuration, where it has one; 0 is none.
    ///
    /// # Errors
    /// [`RemoteError::Refused`]: a model that takes something else than one picture of `size` (height, width), or gives no embedding.
    pub fn new(
        inputs: &[TensorMetadata],
        outputs: &[TensorMetadata],
        most: Option<usize>,
        size: (usize, usize),
        wanted: TileInput,
    ) -> Result<Self, RemoteError> {
        let (input, layout, fixed) = match inputs {
            // A server need not know what its model takes: then it is what an export of ours has.
            [] => {
                let (name, layout) = match wanted {
                    TileInput::U8 => (byte_input::INPUT, Layout::BytesHwc),
                    TileInput::F32 => ("pixel_values", Layout::F32),
                };
                (name.to_owned(), layout, None)
            }
            [input] => {
                let layout = layout(input, size)?;
                if layout.is_bytes() && wanted == TileInput::F32 {
                    return Err(RemoteError::Refused(
                        "the server's model takes pictures as bytes (UINT8), and the configuration says input: f32; remove `input`".into(),
                    ));
                }
                let fixed = input.shape.first().copied().filter(|batch| *batch > 0);
                (input.name.clone(), layout, fixed)
            }
            several => {
                return Err(RemoteError::Refused(format!(
                    "the server's model has {} inputs, and one is needed: the picture",
                    several.len()
                )));
            }
        };
        if let Some(batch) = fixed.filter(|batch| *batch > 1) {
            return Err(RemoteError::Refused(format!(
                "the server's model takes exactly {batch} pictures at a time; export it with a free batch (vtagd model export-triton)"
            )));
        }
        let most = if fixed == Some(1) { Some(1) } else { most.filter(|most| *most > 0) };
        Ok(Self { input, layout, output: output(outputs)?, max_batch: most })
    }
}

fn layout(input: &TensorMetadata, (height, width): (usize, usize)) -> Result<Layout, RemoteError> {
    let fits = |sides: [usize; 3]| {
        let any_or = |(side, wanted): (&i64, usize)| *side == -1 || usize::try_from(*side) == Ok(wanted);
        input.shape.len() == 4 && input.shape[1..].iter().zip(sides).all(any_or)
    };
    let (last, first) = (fits([height, width, 3]), fits([3, height, width]));
    match input.datatype.as_str() {
        // Where all sides are free, bytes are taken as picture files have them.
        "UINT8" if last => Ok(Layout::BytesHwc),
        "UINT8" if first => Ok(Layout::BytesChw),
        "FP32" if first => Ok(Layout::F32),
        "FP16" if first => Ok(Layout::F16),
        other => {
            let (kind, shape) = (told(other), &input.shape[..input.shape.len().min(8)]);
            Err(RemoteError::Refused(format!(
                "the server's model takes {kind} of shape {shape:?}, not UINT8 of [-1, {height}, {width}, 3] or FP32 of [-1, 3, {height}, \
                 {width}]: it is another model, or has another preprocessing"
            )))
        }
    }
}

fn output(outputs: &[TensorMetadata]) -> Result<Option<String>, RemoteError> {
    if outputs.is_empty() {
        return Ok(None);
    }
    let matrix =
        |output: &&TensorMetadata| output.shape.len() == 2 && matches!(output.datatype.as_str(), "FP32" | "FP16");
    let named =
        IMAGE_OUTPUTS.iter().find_map(|name| outputs.iter().filter(matrix).find(|output| output.name == **name));
    let mut matrices = outputs.iter().filter(matrix);
    let only = matrices.next().filter(|_| matrices.next().is_none());
    named.or(only).map(|output| Some(output.name.clone())).ok_or_else(|| {
        let names: Vec<_> = outputs.iter().take(8).map(|output| told(&output.name)).collect();
        RemoteError::Refused(format!(
            "none of the outputs of the server's model is an embedding (outputs: {})",
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[i64]) -> TensorMetadata {
        TensorMetadata { name: name.into(), datatype: datatype.into(), shape: shape.to_vec() }
    }

    fn of(input: TensorMetadata, wanted: TileInput) -> Result<ServedModel, RemoteError> {
        ServedModel::new(&[input], &[tensor("image_embeds", "FP32", &[-1, 384])], Some(32), (224, 336), wanted)
    }

    #[test]
    fn bytes_are_sent_where_the_model_takes_them_and_floats_elsewhere() {
        for (datatype, shape, layout) in [
            ("UINT8", [-1, 224, 336, 3], Layout::BytesHwc),
            ("UINT8", [-1, 3, 224, 336], Layout::BytesChw),
            ("UINT8", [-1, -1, -1, -1], Layout::BytesHwc),
            ("FP32", [-1, 3, 224, 336], Layout::F32),
            ("FP16", [-1, 3, -1, -1], Layout::F16),
        ] {
            let model = of(tensor("x", datatype, &shape), TileInput::U8).unwrap();
            assert_eq!(
                (model.layout, model.input.as_str(), model.max_batch),
                (layout, "x", Some(32)),
                "{datatype} {shape:?}"
            );
        }
        let error = of(tensor("x", "UINT8", &[-1, 224, 336, 3]), TileInput::F32).unwrap_err();
        assert!(error.to_string().contains("remove `input`"), "{error}");
    }

    #[test]
    fn another_models_input_is_refused_with_what_is_wanted() {
        for (datatype, shape) in [
            ("FP32", &[-1, 224, 336, 3][..]),
            ("FP32", &[-1, 3, 336, 224]),
            ("UINT8", &[-1, 384, 384, 3]),
            ("INT64", &[-1, 77]),
            ("BYTES", &[-1]),
        ] {
            let error = of(tensor("x", datatype, shape), TileInput::U8).unwrap_err();
            assert!(
                matches!(&error, RemoteError::Refused(why) if why.contains(datatype) && why.contains("[-1, 3, 224, 336]")),
                "{error}"
            );
        }
        let two = [tensor("a", "FP32", &[-1, 3, 8, 8]), tensor("b", "INT64", &[-1])];
        assert!(ServedModel::new(&two, &[], None, (8, 8), TileInput::U8).unwrap_err().to_string().contains("2 inputs"));
    }

    #[test]
    fn the_embedding_is_found_by_its_name_or_is_the_only_matrix() {
        let find = |outputs: &[TensorMetadata]| {
            ServedModel::new(&[], outputs, None, (8, 8), TileInput::F32).map(|model| model.output)
        };
        let hidden = tensor("last_hidden_state", "FP32", &[-1, 50, 768]);
        let pooled = tensor("pooler_output", "FP32", &[-1, 768]);
        let embeds = tensor("image_embeds", "FP16", &[-1, 512]);
        assert_eq!(find(&[hidden.clone(), pooled.clone(), embeds]).unwrap().as_deref(), Some("image_embeds"));
        assert_eq!(find(&[hidden.clone(), pooled]).unwrap().as_deref(), Some("pooler_output"));
        assert_eq!(find(&[tensor("1234", "FP32", &[-1, -1])]).unwrap().as_deref(), Some("1234"));
        assert!(find(&[hidden]).unwrap_err().to_string().contains("last_hidden_state"));
        assert_eq!(find(&[]).unwrap(), None);
    }

    #[test]
    fn a_fixed_batch_of_one_is_taken_and_of_more_is_not() {
        assert_eq!(of(tensor("x", "FP32", &[1, 3, 224, 336]), TileInput::U8).unwrap().max_batch, Some(1));
        let error = of(tensor("x", "FP32", &[8, 3, 224, 336]), TileInput::U8).unwrap_err();
        assert!(error.to_string().contains("exactly 8"), "{error}");
        let unknown = ServedModel::new(&[], &[], Some(0), (8, 8), TileInput::U8).unwrap();
        assert_eq!((unknown.layout, unknown.max_batch), (Layout::BytesHwc, None));
    }

    #[test]
    fn a_server_that_does_not_say_what_it_takes_is_asked_for_what_an_export_of_ours_has() {
        for (wanted, name, layout) in
            [(TileInput::U8, "pictures", Layout::BytesHwc), (TileInput::F32, "pixel_values", Layout::F32)]
        {
            let model = ServedModel::new(&[], &[], None, (8, 8), wanted).unwrap();
            assert_eq!((model.input.as_str(), model.layout), (name, layout));
        }
    }
}
