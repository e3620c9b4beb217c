//! Mixtures of experts: a layer with several feed-forward networks, of which each row goes through those that a router's
//! scores choose. How many there are and how rows are given to them, and where their matrices lie in the files.
//!
//! Source: Jiang et al., "Mixtral of Experts" (2024), section 2.1; "Qwen3 Technical Report" (2025).

use super::{GraphError, Header, block};
use crate::gguf::Optional;
use crate::graph::{Tensor, Tensors};

/// What stands in the place of a layer's feed-forward network.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Feed-forward networks of a layer.
    pub count: usize,
    /// Those of them that a row goes through.
    pub used: usize,
    /// Width of each.
    pub feed_forward: usize,
    /// Whether the shares of those that a row goes through are brought to a sum of 1.
    pub normalised: bool,
    /// Multiplies the shares.
    pub scale: f32,
    stored: Stored,
}

/// How experts' matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Those of all experts are one tensor.
    Stacked,
    /// As well, and each expert's gate and up are one matrix.
    StackedWithGate,
    /// Each is a tensor.
    Apart,
}

impl Experts {
    /// What the header says of them, if it does; `layers` and `feed_forward` are what it says of the model.
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
            used: header.size("expert_used_count")?,
            feed_forward: header.optional("expert_feed_forward_length", feed_forward)?,
            normalised: header.flag_or("expert_weights_norm", true)?,
            scale: header.above_zero_or("expert_weights_scale", 1.0)?,
            stored: match (has("ffn_gate_up_exps"), has("ffn_gate.0")) {
                (true, _) => Stored::StackedWithGate,
                (_, true) => Stored::Apart,
                _ => Stored::Stacked,
            },
        };
        experts.check(header, layers)?;
        Ok(Some(experts))
    }

    fn check(&self, header: &Header<'_>, layers: usize) -> Result<(), GraphError> {
        /// The number of softmax in `expert_gating_func`.
        const SOFTMAX: usize = 1;

        let &Self { count, used, .. } = self;
        if used > count {
            return Err(GraphError::Inconsistent(format!(
                "{used} experts of {count} cannot be used"
            )));
        }
        let gating = header.optional("expert_gating_func", SOFTMAX)?;
        if gating != SOFTMAX {
            let what = format!("the choice of experts by the function number {gating}");
            return Err(GraphError::Unsupported(what));
        }
        // A header's numbers are not to be believed before.
        let tensors = header.tensors.names().count();
        if self.stored == Stored::Apart && count.saturating_mul(layers) > tensors {
            return Err(GraphError::Inconsistent(format!(
                "the header names {layers} layers of {count} experts and has {tensors} tensors"
            )));
        }
        Ok(())
    }

    /// The tensors of layer `layer`, each with its sizes, contiguous dimension first.
    pub(super) fn tensors(&self, layer: usize, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let &Self {
            count,
            feed_forward: wide,
            ..
        } = self;
        let mut tensors = vec![(block(layer, ROUTER), vec![hidden, count])];
        let mut add = |part: &str, sizes: Vec<usize>| tensors.push((block(layer, part), sizes));
        match self.stored {
            Stored::Stacked => {
                add("ffn_gate_exps", vec![hidden, wide, count]);
                add("ffn_up_exps", vec![hidden, wide, count]);
                add("ffn_down_exps", vec![wide, hidden, count]);
            }
            Stored::StackedWithGate => {
                add("ffn_gate_up_exps", vec![hidden, 2 * wide, count]);
                add("ffn_down_exps", vec![wide, hidden, count]);
            }
            Stored::Apart => {
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

/// The matrix that gives each expert a score.
pub(crate) const ROUTER: &str = "ffn_gate_inp";

/// Whether a tensor of that name is experts' matrices, which stay in the file.
pub fn stays_in_file(name: &str) -> bool {
    let mut parts = name.split('.').skip(2);
    let (part, next) = (parts.next().unwrap_or_default(), parts.next());
    part.ends_with("_exps") || next.is_some_and(|next| next.parse::<usize>().is_ok())
}

/// The matrices of a layer's experts, in the open files.
#[derive(Debug, Clone)]
pub struct ExpertMatrices {
    tensors: Tensors,
    experts: Experts,
    layer: usize,
}

impl ExpertMatrices {
    /// Those of layer `layer`, whose tensors were checked.
    pub(crate) fn new(tensors: &Tensors, experts: &Experts, layer: usize) -> Self {
        Self {
            tensors: tensors.clone(),
            experts: experts.clone(),
            layer,
        }
    }

    /// Experts.
    pub fn count(&self) -> usize {
        self.experts.count
    }

    /// Width of each: rows of gate and up, columns of down.
    pub fn feed_forward(&self) -> usize {
        self.experts.feed_forward
    }

    /// `[feed forward, hidden]`: what goes through the activation.
    pub fn gate(&self, expert: usize) -> Tensor<'_> {
        match self.experts.stored {
            Stored::StackedWithGate => self.half("ffn_gate_up", 2 * expert),
            _ => self.matrix("ffn_gate", expert),
        }
    }

    /// `[feed forward, hidden]`: what that is multiplied with.
    pub fn up(&self, expert: usize) -> Tensor<'_> {
        match self.experts.stored {
            Stored::StackedWithGate => self.half("ffn_gate_up", 2 * expert + 1),
            _ => self.matrix("ffn_up", expert),
        }
    }

    /// `[hidden, feed forward]`: what gives the result.
    pub fn down(&self, expert: usize) -> Tensor<'_> {
        self.matrix("ffn_down", expert)
    }

    fn matrix(&self, part: &str, expert: usize) -> Tensor<'_> {
        match self.experts.stored {
            Stored::Apart => self.tensor(&format!("{part}.{expert}")),
            _ => self.part(part, expert, self.experts.count),
        }
    }

    fn half(&self, part: &str, number: usize) -> Tensor<'_> {
        self.part(part, number, 2 * self.experts.count)
    }

    /// One of the `parts` equal parts of a stack.
    fn part(&self, part: &str, number: usize, parts: usize) -> Tensor<'_> {
        let stack = self.tensor(&format!("{part}_exps"));
        let rows = stack.rows() / parts;
        stack.part(number * rows..(number + 1) * rows)
    }

    fn tensor(&self, part: &str) -> Tensor<'_> {
        let tensor = self.tensors.get(&block(self.layer, part));
        tensor.expect("every tensor's presence was checked with the architecture")
    }
}
