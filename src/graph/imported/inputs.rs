//! Reads the inputs of an imported graph. Inputs are identified by name; an unknown input is an error.
//!
//! Source: the input names of optimum and onnxruntime-genai, which are the same.

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

/// The optional inputs that a graph has, in addition to token ids and past keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtraInputs {
    /// Whether the graph has [`super::ATTENTION_MASK`].
    pub mask: bool,
    /// Whether the graph has [`super::POSITION_IDS`].
    pub positions: bool,
    /// Whether the graph has [`super::USE_CACHE_BRANCH`].
    pub cache_branch: bool,
    /// The number of dimensions of [`super::LOGITS_TO_KEEP`], if the graph has this input.
    pub logits_to_keep: Option<usize>,
}

/// The checked inputs of a graph.
pub(super) struct GraphInputs {
    pub(super) extra: ExtraInputs,
    /// The names of each layer's past keys and past values.
    pub(super) pasts: Vec<[String; 2]>,
    /// The element type of keys and values: `F32`, `F16` or `Bf16`.
    pub(super) element: ElementType,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
}

/// Returns the names of a layer's key and value tensors: the pair of past inputs, then the pair of present outputs.
pub fn past_names(layer: usize) -> [[String; 2]; 2] {
    ["past_key_values", "present"]
        .map(|prefix| ["key", "value"].map(|part| format!("{prefix}.{layer}.{part}")))
}

/// Reads and checks the inputs of `graph`.
///
/// # Errors
/// If an input is unknown, missing or of an unexpected type, or if dimensions contradict each other.
pub(super) fn read_inputs(
    graph: &Graph,
    settings: &ImportSettings,
) -> Result<GraphInputs, GraphError> {
    for (name, size) in [
        ("vocabulary", settings.vocabulary),
        ("hidden size", settings.hidden),
        ("context", settings.trained_context),
    ] {
        if !(1..=MAX_SIZE).contains(&size) {
            let problem = format!("the {name} is {size}; it must be from 1 to {MAX_SIZE}");
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
            // Put back a key without a value, or a value without a key, to report it as an unknown input.
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
    let int64 = ElementType::I64 as i32;
    let tokens = take(names::INPUT_IDS, int64, &[2])?;
    let extra = ExtraInputs {
        mask: take(ATTENTION_MASK, int64, &[2])?.is_some(),
        positions: take(POSITION_IDS, int64, &[2])?.is_some(),
        cache_branch: take(USE_CACHE_BRANCH, BOOL, &[1])?.is_some(),
        logits_to_keep: take(LOGITS_TO_KEEP, int64, &[0, 1])?,
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
        return missing("inputs \"past_key_values.0.…\": export it with a key-value cache");
    }
    let mut outputs = graph.output.iter();
    if !outputs.any(|output| output.name == names::LOGITS) {
        return missing("output \"logits\"");
    }
    let (element, kv_heads, head_size) = past_shape(&shapes, settings)?;
    Ok(GraphInputs {
        extra,
        pasts,
        element,
        kv_heads,
        head_size,
    })
}

/// Returns the element type, number of heads and head size of past keys and values. Fails if layers differ.
fn past_shape(
    pasts: &[&ValueInfo],
    settings: &ImportSettings,
) -> Result<(ElementType, usize, usize), GraphError> {
    let mut common = None;
    for past in pasts {
        let name = &past.name;
        let (element, sizes) = sizes(past);
        let element = [ElementType::F32, ElementType::F16, ElementType::Bf16]
            .into_iter()
            .find(|known| *known as i32 == element);
        let [_, Some(heads), _, head_size] = sizes[..] else {
            let problem = format!(
                "\"{name}\" must have the shape [batch, heads, past, head size] with a constant number of heads"
            );
            return Err(GraphError::Inconsistent(problem));
        };
        let Some(element) = element else {
            return Err(GraphError::Unsupported(format!("the type of \"{name}\"")));
        };
        let head_size = match (head_size, settings.head_size) {
            (None, None) => {
                let problem = format!(
                    "the head size of \"{name}\" is unknown: neither the graph nor config.json has it"
                );
                return Err(GraphError::Inconsistent(problem));
            }
            (Some(size), _) => usize::try_from(size).unwrap_or(0),
            (None, Some(size)) => size,
        };
        let heads = usize::try_from(heads).unwrap_or(0);
        let is_valid = |size| (1..=MAX_HEAD_SIZE).contains(&size);
        if !is_valid(heads) || !is_valid(head_size) {
            let problem = format!(
                "\"{name}\" has {heads} heads of size {head_size}; both must be from 1 to {MAX_HEAD_SIZE}"
            );
            return Err(GraphError::Inconsistent(problem));
        }
        let found = (element, heads, head_size);
        if *common.get_or_insert(found) != found {
            let problem = format!("a shape or type of \"{name}\" that differs from earlier layers");
            return Err(GraphError::Unsupported(problem));
        }
    }
    Ok(common.expect("there is a layer"))
}

/// Checks that the graph has outputs for the present keys and values of every layer.
pub(super) fn check_present_outputs(graph: &Graph, layers: usize) -> Result<(), GraphError> {
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
