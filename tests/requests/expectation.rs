//! Expectations of the request tables: conditions that a response must meet.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::server::{Response, Server};

/// JSON pointers to the generated text in a response that is not streamed.
const TEXT_POINTERS: [&str; 5] = [
    "/content",
    "/choices/0/message/content",
    "/choices/0/text",
    "/output/0/content/0/text",
    "/content/0/text",
];

/// Conditions that a response must meet. At least one field is set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expectation {
    /// The status is 400, and the error names this field (in `param`, or on Anthropic's routes in its message).
    refused: Option<String>,
    /// Entries of `x-ortolan-ignored`; if empty, the header must be absent.
    reported: Vec<String>,
    /// Fields that `/slots` must show for the request.
    slot: Map<String, Value>,
    /// JSON pointers into the response and their expected content: a value, `{matches: REGEX}`, `{absent: true}` or
    /// `{present: true}`.
    #[serde(rename = "answer")]
    response: BTreeMap<String, Value>,
    /// The generated text (of a stream: all events): `same` as or `other` than without the field, or a regular
    /// expression.
    text: Option<String>,
    /// `other`: the whole response differs from the response without the field.
    body: Option<String>,
    /// Paths for subsequent GET requests, with expectations as in `answer`; `{id}` in a path is the id of the response.
    then: BTreeMap<String, BTreeMap<String, Value>>,
    /// A JSON Schema that the generated text must follow.
    json: Option<Value>,
    /// Whether the response must be an event stream.
    streamed: Option<bool>,
    /// Expected status if it is neither 200 nor, with `refused`, 400.
    status: Option<u16>,
}

impl Expectation {
    /// The expectation for the field at `path`: `@` is replaced with its path, `^` with the path of its object.
    pub(crate) fn for_field(&self, path: &str) -> Self {
        let object = path.rsplit_once('.').map_or("", |(object, _)| object);
        let named = |text: &String| text.replace('@', path).replace('^', object);
        Self {
            refused: self.refused.as_ref().map(named),
            reported: self.reported.iter().map(named).collect(),
            ..self.clone()
        }
    }

    /// Whether the check needs the response without the field.
    pub(crate) fn needs_comparison(&self) -> bool {
        let text = self.text.as_deref();
        self.body.is_some() || text.is_some_and(|text| ["same", "other"].contains(&text))
    }

    /// Returns the first unmet condition; `without` is the response to the same request without the field.
    pub(crate) async fn check(
        &self,
        server: &Server,
        response: &Response,
        without: Option<&Response>,
    ) -> Option<String> {
        if self.is_empty() {
            return Some("the expectation is empty".to_owned());
        }
        let expected = self.status.unwrap_or(match self.refused {
            Some(_) => 400,
            None => 200,
        });
        if response.status != expected {
            return Some(format!(
                "status {} instead of {expected}: {}",
                response.status, response.body
            ));
        }
        if let Some(field) = &self.refused {
            let error = &response.body["error"];
            let message = error["message"].as_str().unwrap_or_default();
            if error["param"] != **field && !message.contains(&**field) {
                return Some(format!("the error does not name {field}: {error}"));
            }
            if message.is_empty() {
                return Some("the error has no message".to_owned());
            }
        }
        if response.ignored != self.reported {
            return Some(format!(
                "reported as ignored: {:?} instead of {:?}",
                response.ignored, self.reported
            ));
        }
        if self
            .streamed
            .is_some_and(|streamed| streamed != response.streamed)
        {
            return Some(format!("streamed is {}", response.streamed));
        }
        for (pointer, expected) in &self.response {
            if !holds(response.body.pointer(pointer), expected) {
                return Some(format!("{pointer} is not {expected}: {}", response.body));
            }
        }
        if self.body.is_some() && without.is_none_or(|without| without.body == response.body) {
            return Some(format!(
                "the response is the same without the field: {}",
                response.body
            ));
        }
        for (path, expected) in &self.then {
            let id = response.body["id"].as_str().unwrap_or_default();
            let shown = server.get(&path.replace("{id}", id)).await;
            for (pointer, expected) in expected {
                if !holds(shown.pointer(pointer), expected) {
                    return Some(format!("{path} {pointer} is not {expected}: {shown}"));
                }
            }
        }
        if !self.slot.is_empty() {
            let slot = server.last_slot().await;
            for (name, expected) in &self.slot {
                if !holds(slot.get(name), expected) {
                    let shown = &slot[name];
                    return Some(format!(
                        "/slots shows {name} as {shown} instead of {expected}"
                    ));
                }
            }
        }
        self.check_text(response, without)
    }

    /// Checks the response of a route that accepts the same body but only counts its tokens or renders its prompt. Such
    /// a route ignores fields that affect only the generated text.
    pub(crate) fn check_count(&self, response: &Response) -> Option<String> {
        let is_counted = response.status == 200
            && (response.body["input_tokens"].is_u64() || response.body["prompt"].is_string());
        let may_be_refused = self.refused.is_some() || self.status.is_some();
        // Nothing is generated, so no schema is enforced and no constraint is reported as relaxed.
        let mut fields = self.reported.iter().filter(|path| !path.contains('/'));
        let is_reported = fields.all(|path| response.ignored.contains(path));
        match (is_counted && is_reported) || (may_be_refused && response.status == 400) {
            true => None,
            false => Some(format!("status {}: {}", response.status, response.body)),
        }
    }

    fn is_empty(&self) -> bool {
        self.refused.is_none()
            && self.reported.is_empty()
            && self.slot.is_empty()
            && self.response.is_empty()
            && self.text.is_none()
            && self.json.is_none()
            && self.body.is_none()
            && self.then.is_empty()
            && self.streamed.is_none()
            && self.status.is_none()
    }

    fn check_text(&self, response: &Response, without: Option<&Response>) -> Option<String> {
        let text = text(response);
        if let Some(expected) = &self.text {
            let before = without.map(self::text);
            let holds = match &**expected {
                "same" => before.is_some_and(|before| before == text),
                "other" => before.is_some_and(|before| before != text),
                expression => fancy_regex::Regex::new(expression)
                    .unwrap()
                    .is_match(&text)
                    .unwrap(),
            };
            if !holds {
                return Some(format!("the text is {text:?}, expected: {expected}"));
            }
        }
        let schema = self.json.as_ref()?;
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(error) => return Some(format!("the text {text:?} is not JSON: {error}")),
        };
        let error = jsonschema::validate(schema, &value).err()?;
        Some(format!("{value}: {error}"))
    }
}

/// The generated text of a response, or an empty string; for a stream, all events as JSON.
fn text(response: &Response) -> String {
    if response.streamed {
        return response.body.to_string();
    }
    let texts = TEXT_POINTERS.iter();
    let texts = texts.filter_map(|pointer| response.body.pointer(pointer)?.as_str());
    texts.map(str::to_owned).next().unwrap_or_default()
}

fn holds(found: Option<&Value>, expected: &Value) -> bool {
    match expected {
        Value::Object(condition) if condition.contains_key("absent") => found.is_none(),
        Value::Object(condition) if condition.contains_key("present") => found.is_some(),
        Value::Object(condition) if condition.contains_key("matches") => {
            let expression = condition["matches"].as_str().unwrap();
            let shown = match found {
                Some(Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
                None => return false,
            };
            let expression = fancy_regex::Regex::new(expression).unwrap();
            expression.is_match(&shown).unwrap()
        }
        Value::Number(expected) => {
            // The server stores these numbers in single precision.
            let is_near = |found: f64, expected: f64| (found - expected).abs() < 1e-6;
            let found = found.and_then(Value::as_f64);
            found.is_some_and(|found| is_near(found, expected.as_f64().unwrap()))
        }
        expected => found == Some(expected),
    }
}
