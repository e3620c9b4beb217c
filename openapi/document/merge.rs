//! Merges the files of the document with utoipa's model. Fails if the model would lose or add content.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use utoipa::openapi::OpenApi;

/// Reads and merges the files; title, version and description come from the first one.
pub(crate) fn merge(files: &[PathBuf]) -> Result<OpenApi, String> {
    let mut merged: Option<(OpenApi, Value)> = None;
    for file in files {
        let sum = add(merged, file).map_err(|error| format!("{}: {error}", file.display()))?;
        merged = Some(sum);
    }
    merged
        .map(|(model, _)| model)
        .ok_or_else(|| "the document has no files".to_owned())
}

/// Merges a file into the model of the files before it, if any. Returns the model and its JSON.
fn add(merged: Option<(OpenApi, Value)>, file: &Path) -> Result<(OpenApi, Value), String> {
    let (model, written) = read(file)?;
    let Some((sum, sum_written)) = merged else {
        return Ok((model, written));
    };
    refuse_duplicates(&sum_written, &written)?;
    let sum = sum.merge_from(model);
    let sum_written = serde_json::to_value(&sum).map_err(|error| error.to_string())?;
    Ok((sum, sum_written))
}

/// Parses a file with utoipa's model and as plain JSON. Fails if they differ.
fn read(file: &Path) -> Result<(OpenApi, Value), String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    // Unlike a JSON map, a YAML map rejects duplicate keys.
    let mut written: Value = yaml_serde::from_str::<yaml_serde::Value>(&text)
        .and_then(yaml_serde::from_value)
        .map_err(|error| error.to_string())?;
    expand_aliases(&mut written)?;
    let model: OpenApi = serde_json::from_value(written.clone())
        .map_err(|error| format!("not OpenAPI 3.1: {error}"))?;
    let kept = serde_json::to_value(&model).map_err(|error| error.to_string())?;
    match difference(&written, &kept, "") {
        None => Ok((model, written)),
        Some(difference) => Err(format!("utoipa's model does not keep {difference}")),
    }
}

/// Extension that marks a path, and its operations, as an alias of a path in the same file.
const ALIAS_OF: &str = "x-ortolan-alias-of";

/// Replaces each alias by the operations of its target path.
fn expand_aliases(document: &mut Value) -> Result<(), String> {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let targets = paths.clone();
    let mut aliases: HashMap<String, usize> = HashMap::new();
    for (path, item) in paths {
        let Some(target) = item.get(ALIAS_OF).and_then(Value::as_str) else {
            continue;
        };
        let mut operations = targets
            .get(target)
            .filter(|operations| operations.get(ALIAS_OF).is_none())
            .cloned()
            .ok_or_else(|| {
                format!("{path} is an alias of {target}, which is not a path of the file")
            })?;
        let number = aliases.entry(target.to_owned()).or_default();
        *number += 1;
        // Operation ids must be unique in the document.
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
            operation["summary"] = format!("Alias of `{target}`").into();
            operation[ALIAS_OF] = id;
        }
        *item = operations;
    }
    Ok(())
}

/// Describes the first difference between the file and utoipa's model of it.
fn difference(written: &Value, kept: &Value, pointer: &str) -> Option<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written
            .keys()
            .chain(kept.keys().filter(|key| !written.contains_key(*key)))
            .find_map(|key| match (written.get(key), kept.get(key)) {
                (Some(written), Some(kept)) => {
                    difference(written, kept, &format!("{pointer}/{key}"))
                }
                (Some(_), None) => Some(format!("{pointer}/{key}: it is lost")),
                (None, kept) => Some(format!(
                    "{pointer}: it adds \"{key}\": {}",
                    kept.unwrap_or(&Value::Null)
                )),
            }),
        (Value::Array(written), Value::Array(kept)) if written.len() == kept.len() => written
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (written, kept))| {
                difference(written, kept, &format!("{pointer}/{index}"))
            }),
        _ if written == kept => None,
        _ => Some(format!("{pointer}: {written} becomes {kept}")),
    }
}

/// Rejects paths and components that are already defined, because `merge_from` would silently keep the first.
fn refuse_duplicates(sum: &Value, part: &Value) -> Result<(), String> {
    for pointer in ["/paths", "/components/schemas", "/components/responses"] {
        let names = part
            .pointer(pointer)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|named| named.keys());
        for name in names {
            if sum
                .pointer(pointer)
                .is_some_and(|sum| sum.get(name).is_some())
            {
                return Err(format!(
                    "{pointer}: \"{name}\" is defined in another file, too"
                ));
            }
        }
    }
    Ok(())
}
