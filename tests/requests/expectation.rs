//! What a request must be answered with, as the tables say it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::server::{Answer, Server};

/// Where the generated text stands in a whole answer.
const TEXTS: [&str; 5] = [
    "/content",
    "/choices/0/message/content",
    "/choices/0/text",
    "/output/0/content/0/text",
    "/content/0/text",
];

/// What must hold of an answer. At least one of the fields is given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expectation {
    /// 400, and the error names this field (in `param`, or on Anthropic's routes in its message).
    refused: Option<String>,
    /// Entries of `x-ortolan-ignored`; where it is absent, the header is absent.
    reported: Vec<String>,
    /// What `/slots` shows of the request.
    slot: Map<String, Value>,
    /// JSON pointers into the answer and what stands there: a value, `{matches: REGEX}`, `{absent: true}` or
    /// `{present: true}`.
    answer: BTreeMap<String, Value>,
    /// What the generated text is, or of a stream all its events: `same` or `other` as without the field, or a regular
    /// expression.
    text: Option<String>,
    /// `other`: the whole answer is not the one without the field.
    body: Option<String>,
    /// What a GET of these paths shows after that, as `answer`; `{id}` in a path is the answer's id.
    then: BTreeMap<String, BTreeMap<String, Value>>,
    /// A JSON Schema that the generated text follows.
    json: Option<Value>,
    /// Whether the answer is a stream of events.
    streamed: Option<bool>,
    /// Another status than 200, or with `refused` than 400.
    status: Option<u16>,
}

impl Expectation {
    /// The same about a field: `@` stands for its path, `^` for that of its object.
    pub(crate) fn about(&self, path: &str) -> Self {
        let object = path.rsplit_once('.').map_or("", |(object, _)| object);
        let named = |text: &String| text.replace('@', path).replace('^', object);
        Self {
            refused: self.refused.as_ref().map(named),
            reported: self.reported.iter().map(named).collect(),
            ..self.clone()
        }
    }

    /// Whether the answer is compared with that without the field.
    pub(crate) fn compares(&self) -> bool {
        let text = self.text.as_deref();
        self.body.is_some() || text.is_some_and(|text| ["same", "other"].contains(&text))
    }

    /// What does not hold; `without` is the answer to the same request without the field.
    pub(crate) async fn check(
        &self,
        server: &Server,
        answer: &Answer,
        without: Option<&Answer>,
    ) -> Option<String> {
        if self.says_nothing() {
            return Some("nothing is expected".to_owned());
        }
        let expected = self.status.unwrap_or(match self.refused {
            Some(_) => 400,
            None => 200,
        });
        if answer.status != expected {
            return Some(format!(
                "status {} instead of {expected}: {}",
                answer.status, answer.body
            ));
        }
        if let Some(field) = &self.refused {
            let error = &answer.body["error"];
            let message = error["message"].as_str().unwrap_or_default();
            if error["param"] != **field && !message.contains(&**field) {
                return Some(format!("the error does not name {field}: {error}"));
            }
            if message.is_empty() {
                return Some("the error has no message".to_owned());
            }
        }
        if answer.ignored != self.reported {
            return Some(format!(
                "reported as ignored: {:?} instead of {:?}",
                answer.ignored, self.reported
            ));
        }
        if self
            .streamed
            .is_some_and(|streamed| streamed != answer.streamed)
        {
            return Some(format!("a stream: {}", answer.streamed));
        }
        for (pointer, expected) in &self.answer {
            if !holds(answer.body.pointer(pointer), expected) {
                return Some(format!("{pointer} is not {expected}: {}", answer.body));
            }
        }
        if self.body.is_some() && without.is_none_or(|without| without.body == answer.body) {
            return Some(format!("the answer is the same: {}", answer.body));
        }
        for (path, expected) in &self.then {
            let id = answer.body["id"].as_str().unwrap_or_default();
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
        self.check_text(answer, without)
    }

    /// The same of a route that counts the tokens of such a request or shows its prompt: what shapes only the answer may have any value there.
    pub(crate) fn check_count(&self, answer: &Answer) -> Option<String> {
        let is_counted = answer.status == 200
            && (answer.body["input_tokens"].is_u64() || answer.body["prompt"].is_string());
        let may_be_refused = self.refused.is_some() || self.status.is_some();
        // Without an answer no schema is enforced, so that none is relaxed.
        let mut fields = self.reported.iter().filter(|path| !path.contains('/'));
        let is_reported = fields.all(|path| answer.ignored.contains(path));
        match (is_counted && is_reported) || (may_be_refused && answer.status == 400) {
            true => None,
            false => Some(format!("status {}: {}", answer.status, answer.body)),
        }
    }

    fn says_nothing(&self) -> bool {
        self.refused.is_none()
            && self.reported.is_empty()
            && self.slot.is_empty()
            && self.answer.is_empty()
            && self.text.is_none()
            && self.json.is_none()
            && self.body.is_none()
            && self.then.is_empty()
            && self.streamed.is_none()
            && self.status.is_none()
    }

    fn check_text(&self, answer: &Answer, without: Option<&Answer>) -> Option<String> {
        let text = text(answer);
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

/// The generated text of a whole answer, empty if there is none; of a stream all events.
fn text(answer: &Answer) -> String {
    if answer.streamed {
        return answer.body.to_string();
    }
    let texts = TEXTS.iter();
    let texts = texts.filter_map(|pointer| answer.body.pointer(pointer)?.as_str());
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
            // The server computes in single precision.
            let near = |found: f64, expected: f64| (found - expected).abs() < 1e-6;
            let found = found.and_then(Value::as_f64);
            found.is_some_and(|found| near(found, expected.as_f64().unwrap()))
        }
        expected => found == Some(expected),
    }
}
