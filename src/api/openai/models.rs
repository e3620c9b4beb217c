//! `GET /v1/models` and `GET /v1/models/{model}`: the served model.

use std::ffi::OsStr;
use std::path::Path;

use super::unix_seconds;
use crate::api::error::Error;
use crate::api::types;
use crate::model::ModelDetails;

/// Handles `GET /v1/models`.
pub(in crate::api) fn models(details: &ModelDetails) -> types::ModelList {
    types::ModelList {
        object: types::ModelListObject::List,
        data: vec![model_object(details)],
        models: vec![types::OllamaModel {
            name: details.name.clone(),
            model: details.name.clone(),
            capabilities: vec![match details.generates {
                true => types::OllamaModelCapabilitiesItem::Completion,
                false => types::OllamaModelCapabilitiesItem::Embedding,
            }],
            details: types::OllamaModelDetails {
                format: format(&details.path).to_owned(),
                family: details.architecture.clone(),
                parameter_size: details.parameters.to_string(),
            },
        }],
    }
}

/// Handles `GET /v1/models/{model}`.
pub(in crate::api) fn model(details: &ModelDetails, name: String) -> Result<types::Model, Error> {
    if name == details.name {
        Ok(model_object(details))
    } else {
        Err(Error::ModelNotFound(name))
    }
}

fn model_object(details: &ModelDetails) -> types::Model {
    types::Model {
        id: details.name.clone(),
        object: types::ModelObject::Model,
        created: unix_seconds(details.loaded_at),
        owned_by: "ortolan".to_owned(),
        meta: types::ModelMeta {
            architecture: details.architecture.clone(),
            n_vocab: details.vocabulary_size as u64,
            n_ctx: details.context_tokens as u64,
            n_ctx_train: details.trained_context_tokens as u64,
            n_embd: details.hidden_size as u64,
            n_params: details.parameters,
            size: details.file_bytes,
        },
    }
}

/// Returns the format of a model file; empty for a folder, whose name may contain dots, too.
fn format(path: &Path) -> &'static str {
    match path.extension().and_then(OsStr::to_str) {
        Some("gguf") => "gguf",
        Some("onnx") => "onnx",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::details;

    #[test]
    fn finds_a_model_only_by_its_name() {
        assert_eq!(model(&details(), "tiny".to_owned()).unwrap().id, "tiny");
        let error = model(&details(), "gpt-5".to_owned()).unwrap_err();
        assert_eq!(error.to_string(), "model not found: 'gpt-5'");
    }

    #[test]
    fn a_folder_has_no_format() {
        assert_eq!(format(Path::new("models/tiny.Q8_0.gguf")), "gguf");
        assert_eq!(format(Path::new("models/Qwen2.5-0.5B")), "");
    }
}
