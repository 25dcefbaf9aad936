//! `background` in YAML: prompts, and `nouns` for the bank of everyday nouns, by itself or among them. A node in, both out. Pure.

use crate::yaml::field_reader::{At, FromNode, Reader};
use crate::yaml::{Node, Value};

/// What stands for the bank.
pub const NOUNS: &str = "nouns";

/// See the module.
pub struct Background {
    pub prompts: Vec<At<String>>,
    pub has_nouns: bool,
}

impl FromNode for Background {
    const NULL_IS_MISSING: bool = true;

    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [{ "const": NOUNS }, Vec::<At<String>>::schema()] })
    }

    fn from_node(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(&node.value, Value::Text(text) if text == NOUNS) {
            return Some(Self { prompts: Vec::new(), has_nouns: true });
        }
        let list = Vec::<At<String>>::from_node(node, path, reader)?;
        let (nouns, prompts): (Vec<_>, Vec<_>) = list.into_iter().partition(|item| item.value.trim() == NOUNS);
        Some(Self { prompts, has_nouns: !nouns.is_empty() })
    }
}
