//! Mixture of experts (MoE): a layer has several feed-forward networks (experts), and a router selects the top-k
//! experts for each row. This module reads the number of experts, the routing options and the storage layout.
//!
//! Source: Jiang et al., "Mixtral of Experts" (2024), section 2.1; "Qwen3 Technical Report" (2025).

use super::{GraphError, Header, block};
use crate::gguf::Optional;
use crate::graph::{Tensor, Tensors};

/// The mixture of experts that replaces the feed-forward network in every layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Number of experts in a layer.
    pub count: usize,
    /// Number of experts that compute each row.
    pub top_k: usize,
    /// Width of an expert's feed-forward network.
    pub feed_forward: usize,
    /// Whether the routing weights of the selected experts are normalized to a sum of 1.
    pub normalized: bool,
    /// Factor of the routing weights.
    pub scale: f32,
    layout: ExpertLayout,
}

/// How the experts' matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpertLayout {
    /// Three tensors per layer: the gate, up and down matrices of all experts, stacked.
    Stacked,
    /// Two tensors per layer: the stacked down matrices, and stacked matrices that contain an expert's gate and up.
    StackedGateUp,
    /// Three tensors per expert: gate, up and down.
    Separate,
}

impl Experts {
    /// Reads the options from the header; `None` if the model has no experts. `layers` is the model's number of layers,
    /// and `feed_forward` the default width of an expert.
    pub(super) fn read(
        header: &Header<'_>,
        layers: usize,
        feed_forward: usize,
    ) -> Result<Option<Self>, GraphError> {
        let count = header.metadata.count(&header.key("expert_count"));
        if count.optional()?.unwrap_or(0) == 0 {
            return Ok(None);
        }
        let has = |part: &str| header.tensors.get(&block(0, part)).is_some();
        let experts = Self {
            count: header.size("expert_count")?,
            top_k: header.size("expert_used_count")?,
            feed_forward: header.size_or("expert_feed_forward_length", feed_forward)?,
            normalized: header.flag_or("expert_weights_norm", true)?,
            scale: header.positive_or("expert_weights_scale", 1.0)?,
            layout: match (has("ffn_gate_up_exps"), has("ffn_gate.0")) {
                (true, _) => ExpertLayout::StackedGateUp,
                (_, true) => ExpertLayout::Separate,
                _ => ExpertLayout::Stacked,
            },
        };
        experts.check(header, layers)?;
        Ok(Some(experts))
    }

    fn check(&self, header: &Header<'_>, layers: usize) -> Result<(), GraphError> {
        /// The value of `expert_gating_func` for softmax.
        const SOFTMAX: usize = 1;

        let &Self { count, top_k, .. } = self;
        if top_k > count {
            return Err(GraphError::Inconsistent(format!(
                "{top_k} experts per token are more than the {count} experts"
            )));
        }
        let gating = header.size_or("expert_gating_func", SOFTMAX)?;
        if gating != SOFTMAX {
            let feature = format!("the expert gating function {gating}");
            return Err(GraphError::Unsupported(feature));
        }
        // Check before memory is allocated for this number of tensors.
        let tensors = header.tensors.names().count();
        if self.layout == ExpertLayout::Separate && count.saturating_mul(layers) > tensors {
            return Err(GraphError::Inconsistent(format!(
                "the header declares {layers} layers of {count} experts, but there are only {tensors} tensors"
            )));
        }
        Ok(())
    }

    /// Returns the name and shape (contiguous dimension first) of each expert tensor of layer `layer`, router included.
    pub(super) fn tensors(&self, layer: usize, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let &Self {
            count,
            feed_forward: wide,
            ..
        } = self;
        let mut tensors = vec![(block(layer, ROUTER), vec![hidden, count])];
        let mut add = |part: &str, sizes: Vec<usize>| tensors.push((block(layer, part), sizes));
        match self.layout {
            ExpertLayout::Stacked => {
                add("ffn_gate_exps", vec![hidden, wide, count]);
                add("ffn_up_exps", vec![hidden, wide, count]);
                add("ffn_down_exps", vec![wide, hidden, count]);
            }
            ExpertLayout::StackedGateUp => {
                add("ffn_gate_up_exps", vec![hidden, 2 * wide, count]);
                add("ffn_down_exps", vec![wide, hidden, count]);
            }
            ExpertLayout::Separate => {
                for expert in 0..count {
                    add(&format!("ffn_gate.{expert}"), vec![hidden, wide]);
                    add(&format!("ffn_up.{expert}"), vec![hidden, wide]);
                    add(&format!("ffn_down.{expert}"), vec![wide, hidden]);
                }
            }
        }
        tensors
    }
}

/// The router matrix, which computes a score for each expert.
pub(crate) const ROUTER: &str = "ffn_gate_inp";

/// Whether the tensor named `name` contains expert matrices, which are not copied: operators read them from the open
/// file.
pub fn is_expert_tensor(name: &str) -> bool {
    let mut parts = name.split('.').skip(2);
    let (part, next) = (parts.next().unwrap_or_default(), parts.next());
    part.ends_with("_exps") || next.is_some_and(|next| next.parse::<usize>().is_ok())
}

/// The matrices of a layer's experts, which are read from the open files.
#[derive(Debug, Clone)]
pub struct ExpertMatrices {
    tensors: Tensors,
    experts: Experts,
    layer: usize,
}

impl ExpertMatrices {
    /// Returns the experts of layer `layer`, whose tensors must have been checked.
    pub(crate) fn new(tensors: &Tensors, experts: &Experts, layer: usize) -> Self {
        Self {
            tensors: tensors.clone(),
            experts: experts.clone(),
            layer,
        }
    }

    /// Number of experts.
    pub fn count(&self) -> usize {
        self.experts.count
    }

    /// Width of an expert: rows of gate and up, columns of down.
    pub fn feed_forward(&self) -> usize {
        self.experts.feed_forward
    }

    /// The gate matrix, `[feed forward, hidden]`.
    pub fn gate(&self, expert: usize) -> Tensor<'_> {
        match self.experts.layout {
            ExpertLayout::StackedGateUp => self.gate_or_up("ffn_gate_up", 2 * expert),
            _ => self.matrix("ffn_gate", expert),
        }
    }

    /// The up matrix, `[feed forward, hidden]`.
    pub fn up(&self, expert: usize) -> Tensor<'_> {
        match self.experts.layout {
            ExpertLayout::StackedGateUp => self.gate_or_up("ffn_gate_up", 2 * expert + 1),
            _ => self.matrix("ffn_up", expert),
        }
    }

    /// The down matrix, `[hidden, feed forward]`.
    pub fn down(&self, expert: usize) -> Tensor<'_> {
        self.matrix("ffn_down", expert)
    }

    fn matrix(&self, part: &str, expert: usize) -> Tensor<'_> {
        match self.experts.layout {
            ExpertLayout::Separate => self.tensor(&format!("{part}.{expert}")),
            _ => self.stack_part(part, expert, self.experts.count),
        }
    }

    fn gate_or_up(&self, part: &str, index: usize) -> Tensor<'_> {
        self.stack_part(part, index, 2 * self.experts.count)
    }

    /// Returns matrix `index` of the tensor `part`, which is a stack of `parts` matrices of the same shape.
    fn stack_part(&self, part: &str, index: usize, parts: usize) -> Tensor<'_> {
        let stack = self.tensor(&format!("{part}_exps"));
        let rows = stack.rows() / parts;
        stack.slice_rows(index * rows..(index + 1) * rows)
    }

    fn tensor(&self, part: &str) -> Tensor<'_> {
        let tensor = self.tensors.get(&block(self.layer, part));
        tensor.expect("every tensor's presence was checked with the architecture")
    }
}
