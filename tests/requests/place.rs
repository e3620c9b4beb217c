//! A field within a body: `messages[1].content[].text`.

use std::fmt;

use serde_json::{Map, Value};

/// The way to a field from the body.
pub(crate) struct Place(Vec<Step>);

enum Step {
    Field(String),
    Item(usize),
}

impl Place {
    /// Reads field names separated by dots; `[2]` behind a name is the list's third item, `[]` its first.
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

    /// The same without the numbers of items.
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

    /// Gives the field a value, or leaves it out; objects and lists on the way are made where there are none.
    pub(crate) fn set(&self, body: &mut Value, value: Option<Value>) {
        let (last, way) = self.0.split_last().unwrap();
        let mut at = body;
        for step in way {
            at = entered(at, step);
        }
        match (last, value) {
            (Step::Field(name), None) => _ = object(at).remove(name),
            (Step::Item(_), None) => panic!("an item cannot be left out"),
            (last, Some(value)) => *entered(at, last) = value,
        }
    }
}

/// A part of a value.
fn entered<'a>(value: &'a mut Value, step: &Step) -> &'a mut Value {
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

/// As errors and `x-ortolan-ignored` write it.
impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.0.iter().map(|step| match step {
            Step::Field(name) => name.clone(),
            Step::Item(number) => number.to_string(),
        });
        out.write_str(&steps.collect::<Vec<_>>().join("."))
    }
}

#[test]
fn places_are_written_as_in_the_document_and_as_in_errors() {
    for (text, in_document, shown) in [
        ("a[1].b", "a[].b", "a.1.b"),
        ("[].id", "[].id", "0.id"),
        ("a.b[].c[2].d", "a.b[].c[].d", "a.b.0.c.2.d"),
    ] {
        let place = Place::parse(text);
        assert_eq!(place.in_document(), in_document);
        assert_eq!(place.to_string(), shown);
    }
}

#[test]
fn a_field_is_set_among_others_or_left_out() {
    let mut body = serde_json::json!({"a": "text", "b": [{"c": 1, "d": 2}]});
    Place::parse("a.x[].y").set(&mut body, Some(3.into()));
    Place::parse("b[].c").set(&mut body, None);
    Place::parse("b[1].c").set(&mut body, Some(4.into()));
    let expected = serde_json::json!({"a": {"x": [{"y": 3}]}, "b": [{"d": 2}, {"c": 4}]});
    assert_eq!(body, expected);
}
