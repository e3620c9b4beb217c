//! Formats a report as text for the terminal.

use std::fmt::Write;

use bytesize::ByteSize;
use serde_json::Value;

use super::{Hyperparameters, Memory, NamedToken, Report, TokenizerInfo};
use crate::terminal::printable;

/// Maximum number of characters of a metadata text to show.
const MAX_SHOWN_CHARACTERS: usize = 120;
/// Width of the name column in characters.
const NAME_WIDTH: usize = 18;

/// Returns a report as text.
pub(super) fn page(report: &Report) -> String {
    let mut page = Page::default();
    page.summary(report);
    if let Some(sizes) = &report.sizes {
        page.sizes(sizes);
    }
    if let Some(tokenizer) = &report.tokenizer {
        page.tokenizer(tokenizer, report.chat_template.as_deref());
    }
    page.types(report);
    if let Some(memory) = &report.memory {
        page.memory(memory);
    }
    page.title("Metadata");
    for (key, value) in &report.metadata {
        page.text_line(&format!("{key} = {}", brief(value)));
    }
    if let Some(tensors) = &report.tensors {
        page.title("Tensors");
        for tensor in tensors {
            let bytes = tensor.bytes.map_or("?".to_owned(), bytes);
            let (name, shape, kind) = (&tensor.name, &tensor.shape, &tensor.kind);
            page.text_line(&format!("{name}  {shape:?}  {kind}  {bytes}"));
        }
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn title(&mut self, title: &str) {
        self.0.push_str(&format!("\n{title}\n"));
    }

    fn line(&mut self, name: &str, value: &str) {
        self.text_line(&format!("{name:NAME_WIDTH$}{value}"));
    }

    fn text_line(&mut self, line: &str) {
        self.0.push_str("  ");
        self.0.push_str(&printable(line));
        self.0.push('\n');
    }

    fn summary(&mut self, report: &Report) {
        self.0.push_str(&printable(&report.path));
        self.0.push('\n');
        let files = match report.files {
            1 => String::new(),
            count => format!(" in {count} files"),
        };
        let size = bytes(report.bytes);
        self.line("format", &format!("{}, {size}{files}", report.format));
        self.line("parameters", &grouped(report.parameters));
        self.line("family", report.family.as_deref().unwrap_or("unknown"));
        match &report.problem {
            None => self.line("served", "yes"),
            Some(problem) => self.line("served", &format!("no: {problem}")),
        }
    }

    fn sizes(&mut self, sizes: &Hyperparameters) {
        self.title("Model");
        self.line("layers", &sizes.layers.to_string());
        self.line("hidden size", &sizes.hidden.to_string());
        let (heads, kv_heads, size) = (sizes.heads, sizes.kv_heads, sizes.head_size);
        let heads = format!("{heads} query heads of size {size}, {kv_heads} key/value heads");
        self.line("heads", &heads);
        self.line("feed-forward size", &sizes.feed_forward.to_string());
        self.line("vocabulary", &grouped(sizes.vocabulary as u64));
        let context = grouped(sizes.trained_context as u64);
        self.line("trained context", &format!("{context} tokens"));
        if let Some(rotary) = &sizes.rotary {
            let pairs = match rotary.pairs {
                "halves" => "split-half pairs",
                _ => "interleaved pairs",
            };
            let (values, base) = (rotary.values, rotary.base);
            self.line(
                "rotary",
                &format!("{values} values per head, {pairs}, base {base}"),
            );
            self.line("rotary scaling", &rotary.scaling);
            let window = match &sizes.window {
                None => "none".to_owned(),
                Some(window) => match window.global_every {
                    None => format!("{} tokens", window.tokens),
                    Some(every) => {
                        format!(
                            "{} tokens, global attention every {every} layers",
                            window.tokens
                        )
                    }
                },
            };
            self.line("sliding window", &window);
            self.line(
                "output matrix",
                match sizes.tied_output {
                    true => "the embedding matrix",
                    false => "a separate matrix",
                },
            );
        }
        if !sizes.parts.is_empty() {
            self.line("features", &sizes.parts.join("; "));
        }
    }

    fn tokenizer(&mut self, tokenizer: &TokenizerInfo, template: Option<&str>) {
        self.title("Tokenizer");
        self.line("tokenizer", &tokenizer.algorithm);
        self.line("tokens", &grouped(tokenizer.tokens as u64));
        let mut special = |role: &str, token: &Option<NamedToken>, adds: bool| {
            let added = match adds {
                true => "added",
                false => "not added",
            };
            let value = match token {
                None => "none".to_owned(),
                Some(NamedToken { id, text }) => format!("{id} \"{text}\", {added}"),
            };
            self.line(role, &value);
        };
        special("BOS token", &tokenizer.beginning, tokenizer.adds_beginning);
        special("EOS token", &tokenizer.end, tokenizer.adds_end);
        let template = match template {
            None => "none".to_owned(),
            Some(template) => format!("{} characters", template.chars().count()),
        };
        self.line("chat template", &template);
    }

    fn types(&mut self, report: &Report) {
        self.title("Tensor types and their computation");
        for summary in &report.tensor_types {
            let size = summary.bytes.map_or("?".to_owned(), bytes);
            let (kind, tensors) = (&summary.kind, summary.tensors);
            let line = format!(
                "{kind:10}{tensors:>5} tensors, {size:12}{}",
                summary.computed
            );
            self.text_line(&line);
        }
        let is_quantized = |computed: &str| computed.starts_with("int8 matmul");
        if report
            .tensor_types
            .iter()
            .any(|summary| is_quantized(&summary.computed))
        {
            self.text_line(
                "Weights keep the values of the file; activations are quantized to int8 per group.",
            );
        }
    }

    fn memory(&mut self, memory: &Memory) {
        self.title("Memory");
        let mut weights = bytes(memory.weights);
        if memory.packed > 0 {
            let packed = bytes(memory.packed);
            weights += &format!(", and about {packed} for the runtime's packed copy");
        }
        self.line("weights", &weights);
        let rows = bytes(memory.embeddings);
        self.line(
            "embeddings",
            &format!("{rows}, mapped; only rows in use take memory"),
        );
        if memory.experts > 0 {
            let matrices = bytes(memory.experts);
            self.line("experts", &format!("{matrices}, mapped from the file"));
        }
        let (ctx_size, parallel) = (memory.ctx_size, memory.parallel);
        if memory.cache_per_token > 0 {
            let token = bytes(memory.cache_per_token);
            let trained = bytes(memory.cache_of_trained_context);
            let cache = format!("{token} per token, {trained} for the trained context");
            self.line("cache", &cache);
        }
        let (cache, total) = (bytes(memory.cache), bytes(memory.total));
        let mut text = format!("{total} with --ctx-size {ctx_size} --parallel {parallel}");
        if memory.cache_per_token > 0 {
            // Writing to a `String` cannot fail.
            let _ = write!(text, ", including {cache} for the cache");
        }
        self.line("total", &text);
    }
}

/// Formats a metadata value on one line and shortens long texts.
fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => brief_text(text),
        Value::Array(elements) => format!("[{}]", listed(elements)),
        Value::Object(parts) => match (parts.get("first"), parts.get("length")) {
            (Some(Value::Array(first)), Some(length)) if parts.len() == 2 => {
                format!("[{}, …] ({length} in total)", listed(first))
            }
            _ => brief_text(&value.to_string()),
        },
        other => other.to_string(),
    }
}

fn brief_text(text: &str) -> String {
    let characters = text.chars().count();
    if characters <= MAX_SHOWN_CHARACTERS {
        return text.to_owned();
    }
    let begin: String = text.chars().take(MAX_SHOWN_CHARACTERS).collect();
    format!("{begin}… ({characters} characters)")
}

fn listed(elements: &[Value]) -> String {
    let elements: Vec<String> = elements.iter().map(brief).collect();
    elements.join(", ")
}

fn bytes(count: u64) -> String {
    ByteSize(count).display().iec().to_string()
}

/// Formats a number with thousands separators.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_thousands_separators() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (98_880, "98,880"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }
}
