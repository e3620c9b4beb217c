//! The keywords of JSON Schema by what they do, and a schema with its keywords, where it stands.

use serde_json::{Map, Value};

/// Keywords by which an object may have other properties than those of its `properties`, or says that it has none.
const OPENING: [&str; 15] = [
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "dependencies",
    "dependentSchemas",
    "else",
    "if",
    "oneOf",
    "patternProperties",
    "propertyNames",
    "then",
    "unevaluatedProperties",
];

/// Keywords that say something of the parts of a value, or of which parts it has.
const STRUCTURAL: [&str; 20] = [
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "if",
    "items",
    "oneOf",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Whether a keyword of this name can refuse a value.
pub(super) fn is_constraint(keyword: &str) -> bool {
    const OTHERS: [&str; 23] = [
        "const",
        "contains",
        "else",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "not",
        "pattern",
        "then",
        "type",
        "uniqueItems",
    ];
    STRUCTURAL.contains(&keyword) || OTHERS.contains(&keyword)
}

/// Whether a keyword says something of the parts of a value.
pub(in crate::grammar) fn is_structural(keyword: &str) -> bool {
    STRUCTURAL.contains(&keyword)
}

/// Whether a schema accepts every value.
pub(super) fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        Value::Object(keywords) => keywords.keys().all(|keyword| !is_constraint(keyword)),
        _ => false,
    }
}

/// Whether a schema accepts no value, as far as that is written plainly.
pub(super) fn accepts_none(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => !accepts,
        Value::Object(keywords) => keywords.get("not").is_some_and(accepts_all),
        _ => false,
    }
}

/// A schema that is an object, where it stands.
pub(super) struct SchemaObject<'a> {
    pub(super) place: &'a str,
    pub(super) keywords: &'a Map<String, Value>,
    /// Whether other schemas say something of the same value.
    pub(super) joined: bool,
}

impl SchemaObject<'_> {
    /// The place of a keyword.
    pub(super) fn at(&self, keyword: &str) -> String {
        format!("{}/{}", self.place, escaped(keyword))
    }

    pub(super) fn says(&self, keyword: &str) -> bool {
        self.keywords
            .get(keyword)
            .is_some_and(|value| !value.is_null())
    }

    /// Whether more than the schemas of this keyword says something of the parts of the value.
    pub(super) fn joins(&self, keyword: &str) -> bool {
        let mut others = STRUCTURAL.iter().filter(|other| **other != keyword);
        self.joined || others.any(|other| self.says(other))
    }

    /// Whether a property may have to follow more schemas than its own.
    pub(super) fn has_joined_properties(&self) -> bool {
        self.joined || (self.says("properties") && self.says("patternProperties"))
    }

    /// Whether schemas beside this one decide which properties are evaluated.
    pub(super) fn composes(&self) -> bool {
        let others = OPENING.iter();
        let mut others = others.filter(|keyword| {
            ![
                "additionalProperties",
                "patternProperties",
                "propertyNames",
                "unevaluatedProperties",
            ]
            .contains(*keyword)
        });
        others.any(|keyword| self.says(keyword))
    }

    /// Whether the object has no properties but those that it names: it names some, is silent about others, and
    /// nothing else says something of it.
    pub(super) fn closes(&self) -> bool {
        let Some(Value::Object(named)) = self.keywords.get("properties") else {
            return false;
        };
        let required = self.keywords.get("required").and_then(Value::as_array);
        let mut required = required.into_iter().flatten().filter_map(Value::as_str);
        let least = self.keywords.get("minProperties").and_then(Value::as_u64);
        !self.joined
            && !named.is_empty()
            && !OPENING.iter().any(|keyword| self.says(keyword))
            && required.all(|name| named.contains_key(name))
            && least.unwrap_or(0) <= named.len() as u64
    }
}

/// A name as a step of a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
