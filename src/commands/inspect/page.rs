//! A report as people read it.

use std::fmt::Write;

use bytesize::ByteSize;
use serde_json::Value;

use super::{Memory, NamedToken, Report, Sizes, TokenizerFacts};
use crate::terminal::printable;

/// Characters of a text that are shown.
const SHOWN_CHARACTERS: usize = 120;
/// Where values begin.
const NAME_WIDTH: usize = 18;

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut page = Page::default();
    page.whole(report);
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
        page.free(&format!("{key} = {}", brief(value)));
    }
    if let Some(tensors) = &report.tensors {
        page.title("Tensors");
        for tensor in tensors {
            let bytes = tensor.bytes.map_or("?".to_owned(), bytes);
            let (name, shape, kind) = (&tensor.name, &tensor.shape, &tensor.kind);
            page.free(&format!("{name}  {shape:?}  {kind}  {bytes}"));
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
        self.free(&format!("{name:NAME_WIDTH$}{value}"));
    }

    fn free(&mut self, line: &str) {
        self.0.push_str("  ");
        self.0.push_str(&printable(line));
        self.0.push('\n');
    }

    fn whole(&mut self, report: &Report) {
        self.0.push_str(&printable(&report.path));
        self.0.push('\n');
        let files = match report.files {
            1 => String::new(),
            count => format!(" in {count} files"),
        };
        let size = bytes(report.bytes);
        self.line("format", &format!("{}, {size}{files}", report.format));
        self.line("parameters", &grouped(report.parameters));
        self.line("family", report.family.as_deref().unwrap_or("not named"));
        match &report.problem {
            None => self.line("served", "yes"),
            Some(problem) => self.line("served", &format!("no: {problem}")),
        }
    }

    fn sizes(&mut self, sizes: &Sizes) {
        self.title("Model");
        self.line("layers", &sizes.layers.to_string());
        self.line("hidden", &sizes.hidden.to_string());
        let (heads, kv_heads, size) = (sizes.heads, sizes.kv_heads, sizes.head_size);
        let heads = format!("{heads} of {size} values, {kv_heads} for keys and values");
        self.line("heads", &heads);
        self.line("feed forward", &sizes.feed_forward.to_string());
        self.line("vocabulary", &grouped(sizes.vocabulary as u64));
        let context = grouped(sizes.trained_context as u64);
        self.line("trained context", &format!("{context} tokens"));
        if let Some(rotary) = &sizes.rotary {
            let turned = match rotary.pairs {
                "halves" => "in pairs half of them apart",
                _ => "in pairs of neighbours",
            };
            let (values, base) = (rotary.values, rotary.base);
            self.line(
                "rotary",
                &format!("{values} values of a head {turned}, base {base}"),
            );
            self.line("rotary scaling", &rotary.scaling);
            let window = match &sizes.window {
                None => "none".to_owned(),
                Some(window) => match window.all_seeing {
                    None => format!("{} tokens", window.tokens),
                    Some(every) => {
                        format!("{} tokens, but all in each {every}. layer", window.tokens)
                    }
                },
            };
            self.line("window", &window);
            self.line(
                "output matrix",
                match sizes.tied_output {
                    true => "the embedding matrix",
                    false => "its own",
                },
            );
        }
        if !sizes.parts.is_empty() {
            self.line("parts", &sizes.parts.join("; "));
        }
    }

    fn tokenizer(&mut self, tokenizer: &TokenizerFacts, template: Option<&str>) {
        self.title("Text");
        self.line("tokenizer", &tokenizer.algorithm);
        self.line("tokens", &grouped(tokenizer.tokens as u64));
        let mut named = |role: &str, token: &Option<NamedToken>, adds: bool| {
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
        named("beginning", &tokenizer.beginning, tokenizer.adds_beginning);
        named("end", &tokenizer.end, tokenizer.adds_end);
        let template = match template {
            None => "none of its own".to_owned(),
            Some(template) => format!("its own, {} characters", template.chars().count()),
        };
        self.line("chat template", &template);
    }

    fn types(&mut self, report: &Report) {
        self.title("Tensor types, and how products with them are computed");
        for count in &report.tensor_types {
            let size = count.bytes.map_or("?".to_owned(), bytes);
            let (kind, tensors) = (&count.kind, count.tensors);
            let line = format!("{kind:10}{tensors:>5} of {size:12}{}", count.computed);
            self.free(&line);
        }
        let coded = |computed: &str| computed.starts_with("int8 products");
        if report
            .tensor_types
            .iter()
            .any(|count| coded(&count.computed))
        {
            self.free("Weights are the file's numbers; what they are multiplied with is rounded to 8 bits in each group.");
        }
    }

    fn memory(&mut self, memory: &Memory) {
        self.title("Memory");
        let mut weights = bytes(memory.weights);
        if memory.packed > 0 {
            let packed = bytes(memory.packed);
            weights += &format!(", and about {packed} that the runtime packs of them");
        }
        self.line("weights", &weights);
        let rows = bytes(memory.embeddings);
        self.line("embeddings", &format!("{rows}, as far as they are used"));
        if memory.experts > 0 {
            let matrices = bytes(memory.experts);
            self.line(
                "experts",
                &format!("{matrices}, read where they lie in the file"),
            );
        }
        let (ctx_size, parallel) = (memory.ctx_size, memory.parallel);
        if memory.cache_per_token > 0 {
            let token = bytes(memory.cache_per_token);
            let trained = bytes(memory.cache_of_trained_context);
            let cache = format!("{token} for a token, {trained} for the trained context");
            self.line("cache", &cache);
        }
        let (cache, total) = (bytes(memory.cache), bytes(memory.total));
        let mut in_all = format!("{total} with --ctx-size {ctx_size} --parallel {parallel}");
        if memory.cache_per_token > 0 {
            // What is written to a string does not fail.
            let _ = write!(in_all, ", {cache} of it the cache");
        }
        self.line("in all", &in_all);
    }
}

/// A value in a line.
fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => brief_text(text),
        Value::Array(elements) => format!("[{}]", listed(elements)),
        Value::Object(parts) => match (parts.get("first"), parts.get("length")) {
            (Some(Value::Array(first)), Some(length)) if parts.len() == 2 => {
                format!("[{}, …] ({length} in all)", listed(first))
            }
            _ => brief_text(&value.to_string()),
        },
        other => other.to_string(),
    }
}

fn brief_text(text: &str) -> String {
    let characters = text.chars().count();
    if characters <= SHOWN_CHARACTERS {
        return text.to_owned();
    }
    let begin: String = text.chars().take(SHOWN_CHARACTERS).collect();
    format!("{begin}… ({characters} characters)")
}

fn listed(elements: &[Value]) -> String {
    let elements: Vec<String> = elements.iter().map(brief).collect();
    elements.join(", ")
}

fn bytes(count: u64) -> String {
    ByteSize(count).display().iec().to_string()
}

/// A number with commas.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
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
    fn numbers_have_commas() {
        for (number, wanted) in [
            (0, "0"),
            (999, "999"),
            (98_880, "98,880"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(grouped(number), wanted);
        }
    }
}
