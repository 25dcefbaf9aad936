//! The messages of `inference.GRPCInferenceService` (KServe v2, Open Inference Protocol) that are needed, with the field numbers of the published
//! `grpc_service.proto`. Written by hand, so that no build needs protoc; fields that are not named here are passed over when read.

use prost::Message;
use prost::bytes::Bytes;

pub const MODEL_METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
pub const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Triton's extension: the largest batch stands there.
pub const MODEL_CONFIG: &str = "/inference.GRPCInferenceService/ModelConfig";

/// Of a model's metadata, and of its configuration.
#[derive(Clone, PartialEq, Message)]
pub struct ModelQuestion {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub platform: String,
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

#[derive(Clone, PartialEq, Message, serde::Deserialize)]
pub struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// -1: any.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelConfigAnswer {
    #[prost(message, optional, tag = "1")]
    pub config: Option<ModelConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelConfig {
    #[prost(int32, tag = "4")]
    pub max_batch_size: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct InferRequest {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InferTensor>,
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<WantedOutput>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub raw_input_contents: Vec<Bytes>,
}

/// An input without its values, or an output, maybe with them.
#[derive(Clone, PartialEq, Message)]
pub struct InferTensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    pub contents: Option<TensorContents>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorContents {
    #[prost(float, repeated, tag = "6")]
    pub fp32_contents: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WantedOutput {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct InferAnswer {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<InferTensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub raw_output_contents: Vec<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_lies_on_the_wire_as_the_published_field_numbers_say() {
        let input = InferTensor { name: "x".into(), datatype: "UINT8".into(), shape: vec![1, 2], contents: None };
        let request = InferRequest {
            model_name: "m".into(),
            model_version: String::new(),
            id: "7".into(),
            inputs: vec![input],
            outputs: vec![WantedOutput { name: "y".into() }],
            raw_input_contents: vec![Bytes::from_static(&[5, 6])],
        };
        let wire = request.encode_to_vec();
        let wanted: &[&[u8]] = &[
            &[0x0a, 1, b'm', 0x1a, 1, b'7'],
            &[0x2a, 14, 0x0a, 1, b'x', 0x12, 5, b'U', b'I', b'N', b'T', b'8', 0x1a, 2, 1, 2],
            &[0x32, 3, 0x0a, 1, b'y', 0x3a, 2, 5, 6],
        ];
        assert_eq!(wire, wanted.concat());
    }

    #[test]
    fn fields_that_nobody_asked_for_are_passed_over() {
        let config = ModelConfig { max_batch_size: 32 };
        let mut bytes = vec![0x0a, 1, b'm', 0x12, 3, b'o', b'n', b'n'];
        bytes.extend(config.encode_to_vec());
        assert_eq!(ModelConfig::decode(&bytes[..]), Ok(config));
        assert!(InferAnswer::decode(&[0x2a, 200][..]).is_err(), "and what is cut is an error");
    }
}
