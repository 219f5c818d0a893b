//! What is wrong with a bundle, by the name its field has in `config.json`.

use std::fmt;

/// A field that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub(super) struct Refusal {
    pub(super) field: String,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: reason.to_string() }
    }

    /// Of something that is well said, but not in our power.
    pub(super) fn unknown(field: impl Into<String>) -> Self {
        Self::new(field, "this runtime cannot do that")
    }
}

/// Refuses what is there at all: null, empty and false ask for nothing.
pub(super) fn absent(field: &str, value: &Option<serde_json::Value>) -> Result<(), Refusal> {
    use serde_json::Value;
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Ok(()),
        Some(Value::String(text)) if text.is_empty() => Ok(()),
        Some(Value::Array(list)) if list.is_empty() => Ok(()),
        Some(Value::Object(object)) if object.is_empty() => Ok(()),
        Some(_) => Err(Refusal::unknown(field)),
    }
}
