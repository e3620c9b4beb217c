//! The filters `tojson` and `fromjson`, which equal Python's `json.dumps` and `json.loads`, as in transformers.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::{BoundedOutput, FUEL_BYTES};
use crate::cancel::CancelFlag;

/// Maximum number of spaces per level of indentation.
const MAX_INDENT: usize = 16;

/// Writes a value as `json.dumps` does with `ensure_ascii=False`, the default of transformers. (Jinja's own filter
/// escapes for HTML.) Accepts the options `indent`, `separators`, `sort_keys` and `ensure_ascii`.
#[expect(clippy::needless_pass_by_value, reason = "the library calls filters like this")]
pub(super) fn to_json(
    state: &State<'_, '_>,
    value: &Value,
    options: Kwargs,
) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ensure_ascii = options
        .get::<Option<bool>>("ensure_ascii")?
        .unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => {
            let problem = "separators: expected two strings";
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let style = JsonStyle {
        indent: indent.map(|width| width.min(MAX_INDENT)),
        item_separator,
        key_separator,
        ensure_ascii,
        ..JsonStyle::ONE_LINE
    };
    if !sort_keys {
        return write(state, value, style);
    }
    // `write` bounds the length of the text, and thus the size of the copy.
    let copy = write(state, value, JsonStyle::ONE_LINE)?;
    let mut copy: serde_json::Value = serde_json::from_str(&copy).map_err(bad_json)?;
    copy.sort_all_objects();
    write(state, &Value::from(Serde(&copy)), style)
}

/// Parses a JSON text, as `json.loads` does.
pub(super) fn from_json(state: &State<'_, '_>, text: &str) -> Result<Value, Error> {
    state.consume_fuel(text.len() as u64 / FUEL_BYTES)?;
    let value: serde_json::Value = serde_json::from_str(text).map_err(bad_json)?;
    Ok(Value::from(Serde(&value)))
}

fn write(state: &State<'_, '_>, value: &Value, style: JsonStyle<'_>) -> Result<String, Error> {
    let cancel = CancelFlag::default();
    let mut output = BoundedOutput::new(&cancel);
    let result = value.serialize(&mut Serializer::with_formatter(&mut output, style));
    // minijinja charges fuel only for the strings that it creates. The JSON text repeats shared values, so it can be
    // much longer.
    state.consume_fuel(output.bytes.len() as u64 / FUEL_BYTES)?;
    result.map_err(bad_json)?;
    String::from_utf8(output.bytes)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn bad_json(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::BadSerialization, "JSON").with_source(error)
}

/// A JSON formatter with the options of Python's `json.dumps`.
#[derive(Debug, Clone, Copy)]
struct JsonStyle<'a> {
    /// Number of spaces per level of nesting; `None` writes everything on one line.
    indent: Option<usize>,
    item_separator: &'a str,
    key_separator: &'a str,
    /// Whether non-ASCII characters are escaped.
    ensure_ascii: bool,
    depth: usize,
    /// Whether the innermost array or object has an item so far.
    has_items: bool,
}

impl JsonStyle<'_> {
    const ONE_LINE: Self = Self {
        indent: None,
        item_separator: ", ",
        key_separator: ": ",
        ensure_ascii: false,
        depth: 0,
        has_items: false,
    };

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_items {
            self.break_line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item_separator.as_bytes())?;
        }
        self.break_line(writer)
    }

    fn break_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(writer, "\n{:1$}", "", width * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for JsonStyle<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_items = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key_separator.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_items = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for character in fragment.chars() {
            match character.is_ascii() {
                true => writer.write_all(&[character as u8])?,
                false => character
                    .encode_utf16(&mut units)
                    .iter()
                    .try_for_each(|unit| write!(writer, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, render};

    #[test]
    fn tojson_writes_the_same_text_as_python() {
        let value = "{'b': [1, {'ä': '<&>'}], 'a': none, 'c': [], 'd': {}}";
        let with = |options: &str| format!("{{{{ ({value} | tojson{options}) }}}}");
        check(
            &with(""),
            r#"{"b": [1, {"ä": "<&>"}], "a": null, "c": [], "d": {}}"#,
        );
        check(
            &with("(separators=(',', ':'), sort_keys=true)"),
            r#"{"a":null,"b":[1,{"ä":"<&>"}],"c":[],"d":{}}"#,
        );
        check(
            &with("(ensure_ascii=true)"),
            r#"{"b": [1, {"\u00e4": "<&>"}], "a": null, "c": [], "d": {}}"#,
        );
        check(
            "{{ '😀' | tojson(ensure_ascii=True) }}",
            r#""\ud83d\ude00""#,
        );
        check(
            &with("(indent=2)"),
            "{\n  \"b\": [\n    1,\n    {\n      \"ä\": \"<&>\"\n    }\n  ],\n  \"a\": null,\n  \"c\": [],\n  \"d\": {}\n}",
        );
        check("{{ 1.0 | tojson(sort_keys=true) }}", "1.0");
    }

    #[test]
    fn fromjson_parses_json() {
        check("{{ ('{\"a\": [1, 2.5]}' | fromjson).a[1] }}", "2.5");
        check("{{ ('[true, null]' | from_json) | length }}", "2");
        let error = render("{{ '{' | fromjson }}").unwrap_err().to_string();
        assert!(
            error.contains("JSON") && error.contains("chat template:1"),
            "{error}"
        );
    }
}
