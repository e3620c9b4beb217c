//! Built-in chat templates, with the names and the output of llama.cpp's `llama_chat_apply_template` (2024).

/// Names and templates, sorted by name.
const TEMPLATES: &[(&str, &str)] = &[
    ("chatglm3", include_str!("templates/chatglm3.jinja")),
    ("chatglm4", include_str!("templates/chatglm4.jinja")),
    ("chatml", CHATML),
    ("command-r", include_str!("templates/command-r.jinja")),
    ("deepseek", include_str!("templates/deepseek.jinja")),
    ("deepseek2", include_str!("templates/deepseek2.jinja")),
    ("deepseek3", include_str!("templates/deepseek3.jinja")),
    ("exaone3", include_str!("templates/exaone3.jinja")),
    ("falcon3", include_str!("templates/falcon3.jinja")),
    ("gemma", include_str!("templates/gemma.jinja")),
    ("gigachat", include_str!("templates/gigachat.jinja")),
    ("glmedge", include_str!("templates/glmedge.jinja")),
    ("granite", include_str!("templates/granite.jinja")),
    ("llama2", LLAMA2),
    ("llama2-sys", include_str!("templates/llama2-sys.jinja")),
    (
        "llama2-sys-bos",
        include_str!("templates/llama2-sys-bos.jinja"),
    ),
    (
        "llama2-sys-strip",
        include_str!("templates/llama2-sys-strip.jinja"),
    ),
    ("llama3", include_str!("templates/llama3.jinja")),
    ("megrez", include_str!("templates/megrez.jinja")),
    ("minicpm", include_str!("templates/minicpm.jinja")),
    // The template of Mistral's first models, before the versioned templates below.
    ("mistral", LLAMA2),
    ("mistral-v1", include_str!("templates/mistral-v1.jinja")),
    ("mistral-v3", include_str!("templates/mistral-v3.jinja")),
    (
        "mistral-v3-tekken",
        include_str!("templates/mistral-v3-tekken.jinja"),
    ),
    ("mistral-v7", include_str!("templates/mistral-v7.jinja")),
    ("monarch", include_str!("templates/monarch.jinja")),
    ("openchat", include_str!("templates/openchat.jinja")),
    ("orion", include_str!("templates/orion.jinja")),
    ("phi3", include_str!("templates/phi3.jinja")),
    ("rwkv-world", include_str!("templates/rwkv-world.jinja")),
    ("vicuna", include_str!("templates/vicuna.jinja")),
    ("vicuna-orca", include_str!("templates/vicuna-orca.jinja")),
    ("zephyr", include_str!("templates/zephyr.jinja")),
];

/// The template of models whose file contains no template.
pub(super) const CHATML: &str = include_str!("templates/chatml.jinja");
const LLAMA2: &str = include_str!("templates/llama2.jinja");

/// Returns the built-in template with this name.
pub fn predefined(name: &str) -> Option<&'static str> {
    let found = TEMPLATES.iter().find(|(known, _)| *known == name);
    found.map(|(_, template)| *template)
}

/// Returns the names of all built-in templates, sorted.
pub fn predefined_names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests;
