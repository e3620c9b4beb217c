//! What an exported graph is fed with: every input is known by its name, or named in the error.
//!
//! Source: optimum's and onnxruntime-genai's names, which are alike.

use std::collections::{HashMap, HashSet};

use super::super::onnx::ElementType;
use super::super::onnx::proto::{Graph, ValueInfo};
use super::super::{GraphError, names};
use super::nodes::sizes;
use super::{
    ATTENTION_MASK, ImportSettings, LOGITS_TO_KEEP, MAX_HEAD_SIZE, MAX_LAYERS, MAX_SIZE,
    POSITION_IDS, USE_CACHE_BRANCH,
};

/// `TensorProto.DataType.BOOL`.
const BOOL: i32 = 9;

/// What a graph takes beside tokens and what is past of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FedInputs {
    /// [`super::ATTENTION_MASK`].
    pub mask: bool,
    /// [`super::POSITION_IDS`].
    pub positions: bool,
    /// [`super::USE_CACHE_BRANCH`].
    pub cache_branch: bool,
    /// [`super::LOGITS_TO_KEEP`], with how many dimensions.
    pub logits_to_keep: Option<usize>,
}

/// What a graph's inputs say.
pub(super) struct Found {
    pub(super) fed: FedInputs,
    /// Each layer's past keys and values, by name.
    pub(super) pasts: Vec<[String; 2]>,
    /// Of keys and values: single, half or brain precision.
    pub(super) element: ElementType,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
}

/// The names of a layer's past keys and values, and of those that come out.
pub fn past_names(layer: usize) -> [[String; 2]; 2] {
    ["past_key_values", "present"]
        .map(|of| ["key", "value"].map(|what| format!("{of}.{layer}.{what}")))
}

/// Reads the inputs.
///
/// # Errors
/// One that is not known, or is another than its name says; one that is missing; sizes that do not fit together.
pub(super) fn find(graph: &Graph, settings: &ImportSettings) -> Result<Found, GraphError> {
    for (what, size) in [
        ("vocabulary", settings.vocabulary),
        ("hidden size", settings.hidden),
        ("context", settings.trained_context),
    ] {
        if !(1..=MAX_SIZE).contains(&size) {
            let problem = format!("the {what} is {size}");
            return Err(GraphError::Inconsistent(problem));
        }
    }
    let inputs = graph.input.iter().map(|input| (input.name.as_str(), input));
    let mut inputs: HashMap<&str, &ValueInfo> = inputs.collect();
    let mut pasts = Vec::new();
    let mut shapes = Vec::new();
    while pasts.len() < MAX_LAYERS {
        let [pair, _] = past_names(pasts.len());
        let found = pair.each_ref().map(|name| inputs.remove(name.as_str()));
        let [Some(key), Some(value)] = found else {
            // One without the other is an input that is not known.
            inputs.extend(
                found
                    .into_iter()
                    .flatten()
                    .map(|past| (past.name.as_str(), past)),
            );
            break;
        };
        pasts.push(pair);
        shapes.extend([key, value]);
    }
    let mut take = |name: &str, element: i32, dimensions: &[usize]| match inputs.remove(name) {
        None => Ok(None),
        Some(input) => {
            let (found, sizes) = sizes(input);
            match found == element && dimensions.contains(&sizes.len()) {
                true => Ok(Some(sizes.len())),
                false => Err(GraphError::Unsupported(format!(
                    "the graph's input \"{name}\" of type {found} with {} dimensions",
                    sizes.len()
                ))),
            }
        }
    };
    let integers = ElementType::I64 as i32;
    let tokens = take(names::INPUT_IDS, integers, &[2])?;
    let fed = FedInputs {
        mask: take(ATTENTION_MASK, integers, &[2])?.is_some(),
        positions: take(POSITION_IDS, integers, &[2])?.is_some(),
        cache_branch: take(USE_CACHE_BRANCH, BOOL, &[1])?.is_some(),
        logits_to_keep: take(LOGITS_TO_KEEP, integers, &[0, 1])?,
    };
    if let Some(other) = inputs.keys().min() {
        let problem = format!("the graph's input \"{other}\"");
        return Err(GraphError::Unsupported(problem));
    }
    let missing = |what: &str| Err(GraphError::Inconsistent(format!("the graph has no {what}")));
    if tokens.is_none() {
        return missing("input \"input_ids\"");
    }
    if pasts.is_empty() {
        return missing("inputs \"past_key_values.0.…\": it was exported without a cache");
    }
    let mut outputs = graph.output.iter();
    if !outputs.any(|output| output.name == names::LOGITS) {
        return missing("output \"logits\"");
    }
    let (element, kv_heads, head_size) = past_shape(&shapes, settings)?;
    Ok(Found {
        fed,
        pasts,
        element,
        kv_heads,
        head_size,
    })
}

/// What the past keys and values of all layers are alike in.
fn past_shape(
    pasts: &[&ValueInfo],
    settings: &ImportSettings,
) -> Result<(ElementType, usize, usize), GraphError> {
    let mut all = None;
    for past in pasts {
        let name = &past.name;
        let (element, sizes) = sizes(past);
        let element = [ElementType::F32, ElementType::F16, ElementType::Bf16]
            .into_iter()
            .find(|known| *known as i32 == element);
        let [_, Some(heads), _, head_size] = sizes[..] else {
            let problem = format!(
                "\"{name}\" is not of the shape [batch, heads, past, head size] with a number of heads"
            );
            return Err(GraphError::Inconsistent(problem));
        };
        let Some(element) = element else {
            return Err(GraphError::Unsupported(format!("the type of \"{name}\"")));
        };
        let head_size = match (head_size, settings.head_size) {
            (None, None) => {
                let problem = format!("nothing says how large a head of \"{name}\" is");
                return Err(GraphError::Inconsistent(problem));
            }
            (Some(size), _) => usize::try_from(size).unwrap_or(0),
            (None, Some(size)) => size,
        };
        let heads = usize::try_from(heads).unwrap_or(0);
        let fine = |size| (1..=MAX_HEAD_SIZE).contains(&size);
        if !fine(heads) || !fine(head_size) {
            let problem = format!("\"{name}\" has {heads} heads of {head_size}");
            return Err(GraphError::Inconsistent(problem));
        }
        let found = (element, heads, head_size);
        if *all.get_or_insert(found) != found {
            let problem = format!("\"{name}\" of another shape or type than the layers before it");
            return Err(GraphError::Unsupported(problem));
        }
    }
    Ok(all.expect("there is a layer"))
}

/// Keys and values come out again.
pub(super) fn check_presents(graph: &Graph, layers: usize) -> Result<(), GraphError> {
    let outputs = graph.output.iter().map(|output| output.name.as_str());
    let outputs: HashSet<&str> = outputs.collect();
    for name in (0..layers).flat_map(|layer| past_names(layer)[1].clone()) {
        if !outputs.contains(name.as_str()) {
            let problem = format!("the graph has no output \"{name}\"");
            return Err(GraphError::Inconsistent(problem));
        }
    }
    Ok(())
}
