//! Namespaces of functions, and the names of their functions in the prompt: chat templates have no namespaces.

use std::collections::HashMap;

/// The type of tools that group functions under a common name.
pub(super) const NAMESPACE: &str = "namespace";

/// Maps the name of a function in the prompt to the function's namespace and its name in the namespace.
pub(super) type Namespaces = HashMap<String, (String, String)>;

/// Returns the name of a function in the prompt: `namespace__name` in a namespace.
pub(super) fn prompt_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!(
            "{}__{}",
            namespace.trim_end_matches('_'),
            name.trim_start_matches('_')
        ),
        None => name.to_owned(),
    }
}
