//! The key-value pairs of a GGUF header, and typed access to them.

use std::collections::BTreeMap;

/// A value as it stands in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// `f32` or `f64`.
    Float(f64),
    /// One byte, 0 or not.
    Bool(bool),
    /// UTF-8; other bytes were replaced by U+FFFD.
    String(String),
    /// Elements of one type.
    Array(Vec<Value>),
    /// An array of strings, the one kind that is long (vocabularies).
    Strings(Vec<String>),
}

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Value::Unsigned(_) => "an unsigned integer",
            Value::Signed(_) => "a signed integer",
            Value::Float(_) => "a number with a fraction",
            Value::Bool(_) => "a boolean",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Strings(_) => "an array of strings",
        }
    }

    /// The integer, if it is one that `i64` holds.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Unsigned(value) => i64::try_from(*value).ok(),
            Value::Signed(value) => Some(*value),
            _ => None,
        }
    }

    fn as_number(&self) -> Option<f32> {
        match self {
            Value::Float(value) => Some(*value as f32),
            other => other.as_integer().map(|value| value as f32),
        }
    }
}

/// Why a key does not serve.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetadataError {
    /// Not in the file.
    #[error("the metadata has no \"{0}\"")]
    Missing(String),
    /// There, but of another type or out of range.
    #[error("\"{key}\" is {found}, not {wanted}")]
    Type {
        /// The key.
        key: String,
        /// What would have served.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
}

/// All pairs of a header.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Enters a pair; false if the key was there already (it keeps its first value).
    pub fn insert(&mut self, key: String, value: Value) -> bool {
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(value);
                true
            }
        }
    }

    /// The value, of whatever type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<&str, MetadataError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An integer.
    pub fn integer(&self, key: &str) -> Result<i64, MetadataError> {
        self.typed(key, "an integer", Value::as_integer)
    }

    /// An integer of at least 0, for counts and sizes.
    pub fn count(&self, key: &str) -> Result<usize, MetadataError> {
        self.typed(key, "a count", |value| {
            value
                .as_integer()
                .and_then(|value| usize::try_from(value).ok())
        })
    }

    /// A count, or an array with the same count for each layer.
    pub fn layer_count(&self, key: &str) -> Result<usize, MetadataError> {
        self.typed(key, "a count, or the same count for each layer", |value| {
            let first = match value {
                Value::Array(values) => {
                    let first = values.first()?;
                    values.iter().all(|value| value == first).then_some(first)?
                }
                value => value,
            };
            usize::try_from(first.as_integer()?).ok()
        })
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<f32, MetadataError> {
        self.typed(key, "a number", Value::as_number)
    }

    /// A boolean.
    pub fn flag(&self, key: &str) -> Result<bool, MetadataError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String], MetadataError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Strings(strings) => Some(strings.as_slice()),
            Value::Array(empty) if empty.is_empty() => Some(&[]),
            _ => None,
        })
    }

    /// An array of integers.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, MetadataError> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Array(values) => values.iter().map(Value::as_integer).collect(),
            _ => None,
        })
    }

    /// An array of numbers.
    pub fn numbers(&self, key: &str) -> Result<Vec<f32>, MetadataError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Array(values) => values.iter().map(Value::as_number).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, MetadataError> {
        let value = self
            .get(key)
            .ok_or_else(|| MetadataError::Missing(key.to_owned()))?;
        read(value).ok_or_else(|| MetadataError::Type {
            key: key.to_owned(),
            wanted,
            found: value.type_name(),
        })
    }
}

/// `Missing` becomes `None`; a wrong type stays an error.
pub trait Optional<T> {
    /// See the trait.
    fn optional(self) -> Result<Option<T>, MetadataError>;
}

impl<T> Optional<T> for Result<T, MetadataError> {
    fn optional(self) -> Result<Option<T>, MetadataError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(MetadataError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
