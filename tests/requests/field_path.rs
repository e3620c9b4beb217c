//! Paths of fields within a request body, such as `messages[1].content[].text`.

use std::fmt;

use serde_json::{Map, Value};

/// The path from the body to a field.
pub(crate) struct FieldPath(Vec<Step>);

enum Step {
    Field(String),
    Item(usize),
}

impl FieldPath {
    /// Parses field names separated by dots; `[2]` after a name is the third item of the list, `[]` the first.
    pub(crate) fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (name, items) = part.split_at(part.find('[').unwrap_or(part.len()));
            if !name.is_empty() {
                steps.push(Step::Field(name.to_owned()));
            }
            for item in items.split_terminator(']') {
                let number = item.trim_start_matches('[');
                steps.push(Step::Item(match number {
                    "" => 0,
                    number => number.parse().unwrap(),
                }));
            }
        }
        Self(steps)
    }

    /// The path without item numbers, as the document's coverage check uses it: `messages[].content[].text`.
    pub(crate) fn in_document(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            match step {
                Step::Item(_) => text.push_str("[]"),
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => text.extend([".", name]),
            }
        }
        text
    }

    /// Sets the field in a body, or removes it; missing objects and lists on the path are created.
    pub(crate) fn set(&self, body: &mut Value, value: Option<Value>) {
        let (last, parents) = self.0.split_last().unwrap();
        let mut parent = body;
        for step in parents {
            parent = child(parent, step);
        }
        match (last, value) {
            (Step::Field(name), None) => _ = object(parent).remove(name),
            (Step::Item(_), None) => panic!("a list item cannot be removed"),
            (last, Some(value)) => *child(parent, last) = value,
        }
    }
}

/// The child of a value; missing objects, lists and items are created.
fn child<'a>(value: &'a mut Value, step: &Step) -> &'a mut Value {
    match step {
        Step::Field(name) => object(value).entry(name).or_insert(Value::Null),
        Step::Item(number) => {
            if !value.is_array() {
                *value = Value::Array(Vec::new());
            }
            let items = value.as_array_mut().unwrap();
            if *number == items.len() {
                items.push(Value::Null);
            }
            &mut items[*number]
        }
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().unwrap()
}

/// The format of errors and of `x-ortolan-ignored`: `messages.1.content.0.text`.
impl fmt::Display for FieldPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.0.iter().map(|step| match step {
            Step::Field(name) => name.clone(),
            Step::Item(number) => number.to_string(),
        });
        out.write_str(&steps.collect::<Vec<_>>().join("."))
    }
}

#[test]
fn paths_are_formatted_as_in_the_document_and_as_in_errors() {
    for (text, in_document, shown) in [
        ("a[1].b", "a[].b", "a.1.b"),
        ("[].id", "[].id", "0.id"),
        ("a.b[].c[2].d", "a.b[].c[].d", "a.b.0.c.2.d"),
    ] {
        let path = FieldPath::parse(text);
        assert_eq!(path.in_document(), in_document);
        assert_eq!(path.to_string(), shown);
    }
}

#[test]
fn a_field_is_set_or_removed() {
    let mut body = serde_json::json!({"a": "text", "b": [{"c": 1, "d": 2}]});
    FieldPath::parse("a.x[].y").set(&mut body, Some(3.into()));
    FieldPath::parse("b[].c").set(&mut body, None);
    FieldPath::parse("b[1].c").set(&mut body, Some(4.into()));
    let expected = serde_json::json!({"a": {"x": [{"y": 3}]}, "b": [{"d": 2}, {"c": 4}]});
    assert_eq!(body, expected);
}
