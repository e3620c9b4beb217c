//! The key-value pairs of a GGUF header, with typed access.

use std::collections::BTreeMap;

/// A metadata value. Integers and floats are widened to 64 bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `u8`, `u16`, `u32` or `u64` in the file.
    Unsigned(u64),
    /// `i8`, `i16`, `i32` or `i64` in the file.
    Signed(i64),
    /// `f32` or `f64` in the file.
    Float(f64),
    /// Stored as one byte; any value but 0 is true.
    Bool(bool),
    /// Invalid UTF-8 is replaced by U+FFFD.
    String(String),
    /// An array whose elements have the same type, other than string.
    Array(Vec<Value>),
    /// An array of strings, such as a vocabulary.
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

    /// Returns the value as an `i64`; `None` if the value is not an integer or does not fit.
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

/// Why a metadata value cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetadataError {
    /// The key is not in the file.
    #[error("the metadata has no \"{0}\"")]
    Missing(String),
    /// The value has another type, or is out of range.
    #[error("\"{key}\" is {found}, not {expected}")]
    Type {
        /// The metadata key.
        key: String,
        /// The type that was expected.
        expected: &'static str,
        /// The type of the value in the file.
        found: &'static str,
    },
}

/// The key-value pairs of a header. Getters fail if the key is missing or the value has another type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Inserts a key-value pair. If the key exists, keeps the existing value and returns false.
    pub fn insert(&mut self, key: String, value: Value) -> bool {
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
                true
            }
        }
    }

    /// The value at `key`, of any type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The string at `key`.
    pub fn string(&self, key: &str) -> Result<&str, MetadataError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The integer at `key`.
    pub fn integer(&self, key: &str) -> Result<i64, MetadataError> {
        self.typed(key, "an integer", Value::as_integer)
    }

    /// The non-negative integer at `key`, for counts and sizes.
    pub fn count(&self, key: &str) -> Result<usize, MetadataError> {
        self.typed(key, "a count", |value| {
            value
                .as_integer()
                .and_then(|value| usize::try_from(value).ok())
        })
    }

    /// The count at `key`, which may be an array that contains the same count for each layer.
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

    /// The number at `key`, integer or float, as `f32`.
    pub fn number(&self, key: &str) -> Result<f32, MetadataError> {
        self.typed(key, "a number", Value::as_number)
    }

    /// The boolean at `key`.
    pub fn flag(&self, key: &str) -> Result<bool, MetadataError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// The array of strings at `key`.
    pub fn strings(&self, key: &str) -> Result<&[String], MetadataError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Strings(strings) => Some(strings.as_slice()),
            Value::Array(empty) if empty.is_empty() => Some(&[]),
            _ => None,
        })
    }

    /// The array of integers at `key`.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, MetadataError> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Array(values) => values.iter().map(Value::as_integer).collect(),
            _ => None,
        })
    }

    /// The array of numbers at `key`.
    pub fn numbers(&self, key: &str) -> Result<Vec<f32>, MetadataError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Array(values) => values.iter().map(Value::as_number).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, MetadataError> {
        let value = self
            .get(key)
            .ok_or_else(|| MetadataError::Missing(key.to_owned()))?;
        read(value).ok_or_else(|| MetadataError::Type {
            key: key.to_owned(),
            expected,
            found: value.type_name(),
        })
    }
}

/// Makes a metadata key optional.
pub trait Optional<T> {
    /// Turns [`MetadataError::Missing`] into `None`; a wrong type remains an error.
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
