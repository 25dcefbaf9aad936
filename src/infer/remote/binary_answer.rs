//! An answer over HTTP, with binary tensors: JSON of the length that a header tells, and behind it the values of one output after the other. In: both;
//! out: the embeddings' tensor. Pure.

use prost::bytes::Bytes;
use serde_json::Value;

use super::tile_bytes::AnswerTensor;
use super::{RemoteError, server_fault, told};

/// Servers leave out what they do not know, or write `null`.
#[derive(serde::Deserialize)]
struct AnswerHead {
    id: Option<String>,
    model_version: Option<Value>,
    #[serde(default)]
    outputs: Vec<Output>,
    error: Option<Value>,
}

#[derive(serde::Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: Option<Parameters>,
}

#[derive(serde::Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
}

/// The tensor of the output called `wanted`, or of the only one, in the answer to the question `id`.
///
/// # Errors
/// What the server says instead, and an answer that is none to this question.
pub fn read(head: &[u8], values: &Bytes, wanted: Option<&str>, id: &str) -> Result<AnswerTensor, RemoteError> {
    let head: AnswerHead = serde_json::from_slice(head)
        .map_err(|e| RemoteError::Wrong(format!("the server's answer cannot be read: {}", told(&e.to_string()))))?;
    if let Some(error) = &head.error {
        return Err(said(error));
    }
    check_id(head.id.as_deref().unwrap_or_default(), id)?;
    let at = position(&head.outputs, wanted, |output| &output.name)?;
    let size = |output: &Output| output.parameters.as_ref().and_then(|parameters| parameters.binary_data_size);
    let sizes =
        |outputs: &[Output]| outputs.iter().try_fold(0_usize, |sum, output| sum.checked_add(size(output).unwrap_or(0)));
    let output = &head.outputs[at];
    let range = sizes(&head.outputs[..at]).zip(sizes(&head.outputs[..=at])).filter(|(_, end)| *end <= values.len());
    let (Some(_), Some((from, to))) = (size(output), range) else {
        return Err(RemoteError::Wrong("the server's answer has no binary values for the embedding, or is cut".into()));
    };
    Ok(AnswerTensor {
        datatype: output.datatype.clone(),
        shape: output.shape.clone(),
        bytes: values.slice(from..to),
        version: head.model_version.as_ref().map(words).unwrap_or_default(),
    })
}

/// The `error` of an answer that says it is none, whatever its status is.
pub fn error_in(body: &[u8]) -> Option<RemoteError> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    answer.get("error").filter(|error| !error.is_null()).map(said)
}

fn said(error: &Value) -> RemoteError {
    // As if it had said so by its status.
    server_fault::of_http(400, format!("the server says: {}", told(&words(error))))
}

/// A text as it is, anything else as JSON.
fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether the answer with the id `answered`, which may be empty, is to the question `id`.
///
/// # Errors
/// [`RemoteError::Wrong`]: it is to another one.
pub fn check_id(answered: &str, id: &str) -> Result<(), RemoteError> {
    if answered.is_empty() || answered == id {
        return Ok(());
    }
    Err(RemoteError::Wrong(format!("the server answered request {} instead of {id}", told(answered))))
}

/// The output of this name, or the only one.
///
/// # Errors
/// [`RemoteError::Wrong`]: there is none.
pub fn position<T>(outputs: &[T], wanted: Option<&str>, name: impl Fn(&T) -> &str) -> Result<usize, RemoteError> {
    let found = match wanted {
        Some(wanted) => outputs.iter().position(|output| name(output) == wanted),
        None => (outputs.len() == 1).then_some(0),
    };
    found.ok_or_else(|| {
        RemoteError::Wrong(format!("the server's answer has {} outputs, none of which is the embedding", outputs.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(head: &str) -> Result<AnswerTensor, RemoteError> {
        read(head.as_bytes(), &Bytes::from_static(&[1, 2, 3, 4, 5, 6, 7, 8]), Some("y"), "7")
    }

    #[test]
    fn what_a_server_leaves_out_or_calls_null_is_not_known() {
        let nulls = r#"{"id": null, "model_version": null, "parameters": null, "error": null, "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [1], "parameters": null},
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}"#;
        let tensor = answered(nulls).unwrap();
        assert_eq!((&tensor.bytes[..], tensor.version.as_str()), (&[1, 2, 3, 4, 5, 6, 7, 8][..], ""));
        let named = r#"{"id": "7", "model_version": "3", "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
            {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}"#;
        let tensor = answered(named).unwrap();
        assert_eq!((&tensor.bytes[..], tensor.version.as_str()), (&[5, 6, 7, 8][..], "3"));
    }

    #[test]
    fn an_answer_that_is_none_is_told_for_what_it_is() {
        let output = |size: &str| {
            let parameters = format!(r#"{{"binary_data_size": {size}}}"#);
            format!(r#"[{{"name": "y", "datatype": "FP32", "shape": [1], "parameters": {parameters}}}]"#)
        };
        for (head, kind, told) in [
            (r#"{"error": "out of memory"}"#.to_owned(), "refused", "the server says: out of memory"),
            (r#"{"error": {"code": 7}}"#.to_owned(), "refused", r#"{"code":7}"#),
            (r#"{"error": "batch-size must be <= 4"}"#.to_owned(), "full", "batch-size"),
            (format!(r#"{{"id": "8", "outputs": {}}}"#, output("4")), "wrong", "request 8 instead of 7"),
            (format!(r#"{{"outputs": {}}}"#, output("9")), "wrong", "is cut"),
            (format!(r#"{{"outputs": {}}}"#, output("null")), "wrong", "no binary values"),
            (format!(r#"{{"outputs": {}}}"#, output("18446744073709551615")), "wrong", "is cut"),
            (r#"{"id": "7"}"#.to_owned(), "wrong", "0 outputs"),
            ("<html>".to_owned(), "wrong", "cannot be read"),
        ] {
            let fault = answered(&head).unwrap_err();
            assert!(fault.kind() == kind && fault.to_string().contains(told), "{head}: {fault}");
        }
    }

    #[test]
    fn an_error_is_seen_only_where_there_is_one() {
        assert!(error_in(br#"{"error": "no such model"}"#).is_some());
        for body in [&br#"{"error": null}"#[..], br#"{"name": "m"}"#, b"[]", b"error", b""] {
            assert!(error_in(body).is_none(), "{body:?}");
        }
    }
}
