//! Merges the files of the document with utoipa's model, and stops where the model would lose something.

use std::collections::HashMap;
use std::fs;

use serde_json::{Map, Value};
use utoipa::openapi::OpenApi;

/// Reads the files and merges them; the first one gives title, version and description.
pub(crate) fn merge(sources: &[&str]) -> Result<OpenApi, String> {
    let mut merged: Option<(OpenApi, Value)> = None;
    for source in sources {
        let (model, written) = read(source)?;
        merged = Some(match merged {
            None => (model, written),
            Some((sum, sum_written)) => {
                refuse_duplicates(source, &sum_written, &written)?;
                let sum = sum.merge_from(model);
                let sum_written =
                    serde_json::to_value(&sum).map_err(|error| format!("{source}: {error}"))?;
                (sum, sum_written)
            }
        });
    }
    merged
        .map(|(model, _)| model)
        .ok_or_else(|| "the document has no files".to_owned())
}

/// A file as utoipa understands it and as it was written; these must be the same.
fn read(source: &str) -> Result<(OpenApi, Value), String> {
    let text = fs::read_to_string(source).map_err(|error| format!("{source}: {error}"))?;
    // Unlike a map of JSON, one of YAML refuses a key that it already has.
    let mut written: Value = yaml_serde::from_str::<yaml_serde::Value>(&text)
        .and_then(yaml_serde::from_value)
        .map_err(|error| format!("{source}: {error}"))?;
    write_aliases_out(&mut written).map_err(|error| format!("{source}: {error}"))?;
    let model: OpenApi = serde_json::from_value(written.clone())
        .map_err(|error| format!("{source}: not OpenAPI 3.1: {error}"))?;
    let kept = serde_json::to_value(&model).map_err(|error| format!("{source}: {error}"))?;
    match difference(&written, &kept, "") {
        None => Ok((model, written)),
        Some(difference) => Err(format!(
            "{source}: utoipa's model does not keep {difference}"
        )),
    }
}

/// Says of a path, and of each of its operations, that it is another name of a path in the same file.
const ALIAS_OF: &str = "x-ortolan-alias-of";

/// An alias becomes a path with the operations of the path that it names.
fn write_aliases_out(document: &mut Value) -> Result<(), String> {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let named = paths.clone();
    let mut aliases: HashMap<String, usize> = HashMap::new();
    for (path, item) in paths {
        let Some(target) = item.get(ALIAS_OF).and_then(Value::as_str) else {
            continue;
        };
        let mut operations = named
            .get(target)
            .filter(|operations| operations.get(ALIAS_OF).is_none())
            .cloned()
            .ok_or_else(|| format!("{path} is an alias of {target}, which is no path"))?;
        let number = aliases.entry(target.to_owned()).or_default();
        *number += 1;
        // Operation ids are unique in the document.
        let suffix = match *number {
            1 => "_alias".to_owned(),
            number => format!("_alias_{number}"),
        };
        for operation in operations
            .as_object_mut()
            .into_iter()
            .flat_map(Map::values_mut)
        {
            let id = operation["operationId"].clone();
            operation["operationId"] =
                (id.as_str().unwrap_or_default().to_owned() + &suffix).into();
            operation["summary"] = format!("The same as `{target}`").into();
            operation[ALIAS_OF] = id;
        }
        *item = operations;
    }
    Ok(())
}

/// The place of the first difference between what was written and what was kept.
fn difference(written: &Value, kept: &Value, place: &str) -> Option<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written
            .keys()
            .chain(kept.keys().filter(|key| !written.contains_key(*key)))
            .find_map(|key| match (written.get(key), kept.get(key)) {
                (Some(written), Some(kept)) => difference(written, kept, &format!("{place}/{key}")),
                (Some(_), None) => Some(format!("{place}/{key}: it is lost")),
                (None, kept) => Some(format!(
                    "{place}: it adds \"{key}\": {}",
                    kept.unwrap_or(&Value::Null)
                )),
            }),
        (Value::Array(written), Value::Array(kept)) if written.len() == kept.len() => written
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (written, kept))| {
                difference(written, kept, &format!("{place}/{index}"))
            }),
        _ if written == kept => None,
        _ => Some(format!("{place}: {written} becomes {kept}")),
    }
}

/// A path or a component may be defined once: `merge_from` would keep the first and say nothing.
fn refuse_duplicates(source: &str, sum: &Value, part: &Value) -> Result<(), String> {
    for place in ["/paths", "/components/schemas", "/components/responses"] {
        let names = part
            .pointer(place)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|named| named.keys());
        for name in names {
            if sum
                .pointer(place)
                .is_some_and(|sum| sum.get(name).is_some())
            {
                return Err(format!(
                    "{source}: {place}: \"{name}\" is defined in another file, too"
                ));
            }
        }
    }
    Ok(())
}
