//! Classes of JSON Schema keywords, and queries on the keywords of a schema.

use serde_json::{Map, Value};

/// Keywords that decide whether an object may have properties beyond those in `properties`.
const ADDITIONAL_PROPERTIES_KEYWORDS: [&str; 15] = [
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

/// Keywords that apply subschemas to a value, its items or its properties, or that require properties.
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

/// Whether a schema with this keyword may reject values.
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

/// Whether the keyword applies subschemas to a value, its items or its properties, or requires properties.
pub(in crate::grammar) fn is_structural(keyword: &str) -> bool {
    STRUCTURAL.contains(&keyword)
}

/// Whether a schema obviously accepts every value: `true`, or an object without constraints.
pub(super) fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        Value::Object(keywords) => keywords.keys().all(|keyword| !is_constraint(keyword)),
        _ => false,
    }
}

/// Whether a schema obviously accepts no value: `false`, or `not` of a schema that accepts every value.
pub(super) fn accepts_none(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => !accepts,
        Value::Object(keywords) => keywords.get("not").is_some_and(accepts_all),
        _ => false,
    }
}

/// A schema that is an object and not a boolean, with its position in the document.
pub(super) struct SchemaObject<'a> {
    /// The JSON pointer to the schema.
    pub(super) pointer: &'a str,
    pub(super) keywords: &'a Map<String, Value>,
    /// Whether other schemas constrain the same value.
    pub(super) is_combined: bool,
}

impl SchemaObject<'_> {
    /// The JSON pointer to a keyword of the schema.
    pub(super) fn pointer_to(&self, keyword: &str) -> String {
        format!("{}/{}", self.pointer, escaped(keyword))
    }

    /// Whether the keyword is present and not null.
    pub(super) fn has(&self, keyword: &str) -> bool {
        self.keywords
            .get(keyword)
            .is_some_and(|value| !value.is_null())
    }

    /// Whether other schemas constrain the same value, or this schema has structural keywords other than `keyword`.
    pub(super) fn is_combined_beyond(&self, keyword: &str) -> bool {
        let mut others = STRUCTURAL.iter().filter(|other| **other != keyword);
        self.is_combined || others.any(|other| self.has(other))
    }

    /// Whether several schemas may constrain the same property.
    pub(super) fn combines_properties(&self) -> bool {
        self.is_combined || (self.has("properties") && self.has("patternProperties"))
    }

    /// Whether the schema has keywords, such as `allOf`, whose subschemas affect `unevaluatedProperties`.
    pub(super) fn is_composed(&self) -> bool {
        let others = ADDITIONAL_PROPERTIES_KEYWORDS.iter();
        let mut others = others.filter(|keyword| {
            ![
                "additionalProperties",
                "patternProperties",
                "propertyNames",
                "unevaluatedProperties",
            ]
            .contains(*keyword)
        });
        others.any(|keyword| self.has(keyword))
    }

    /// Whether additional properties are forbidden although the schema does not say so: the schema has `properties` and
    /// no keyword about additional properties, and no other schema constrains the value.
    pub(super) fn is_implicitly_closed(&self) -> bool {
        let Some(Value::Object(properties)) = self.keywords.get("properties") else {
            return false;
        };
        let required = self.keywords.get("required").and_then(Value::as_array);
        let mut required = required.into_iter().flatten().filter_map(Value::as_str);
        let min_properties = self.keywords.get("minProperties").and_then(Value::as_u64);
        !self.is_combined
            && !properties.is_empty()
            && !ADDITIONAL_PROPERTIES_KEYWORDS
                .iter()
                .any(|keyword| self.has(keyword))
            && required.all(|name| properties.contains_key(name))
            && min_properties.unwrap_or(0) <= properties.len() as u64
    }
}

/// Escapes a name as a token of a JSON pointer (RFC 6901).
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
