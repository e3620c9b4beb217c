//! Detects whether a template expects the content of a message as a string or as a list of content parts. Templates of
//! vision models expect parts, and silently drop a string.

use std::time::SystemTime;

use minijinja::context;
use minijinja::value::Value;

use super::ChatTemplate;
use crate::cancel::CancelFlag;
use crate::text::conversation::{ChatMessage, Conversation};

/// The content of probe messages: text that occurs in no template.
const PROBE: &str = "ortolan-probe-5b1f";

/// The content format of each role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ContentFormats {
    /// The roles whose content is a list of parts; for other roles it is a string.
    roles_with_parts: Vec<&'static str>,
}

impl ContentFormats {
    /// Renders a probe message for each role, with its content as a string and as a list of one part. A role gets
    /// content parts if only the second output contains the probe.
    pub(super) fn detect(template: &ChatTemplate) -> Self {
        let contains_probe = |conversation: &Conversation, formats: &Self| {
            let text = template.render_with(
                conversation,
                SystemTime::UNIX_EPOCH,
                formats,
                &CancelFlag::default(),
            );
            text.is_ok_and(|text| text.contains(PROBE))
        };
        let mut formats = Self::default();
        for role in ["user", "system", "assistant", "tool"] {
            let conversation = probe(role);
            if contains_probe(&conversation, &formats) {
                continue;
            }
            let mut with_parts = formats.clone();
            with_parts.roles_with_parts.push(role);
            if contains_probe(&conversation, &with_parts) {
                formats = with_parts;
            }
        }
        formats
    }

    /// Returns the content of a message in the format that the template expects.
    pub(super) fn content(&self, message: &ChatMessage) -> Value {
        let text = Value::from(message.content.as_str());
        match self.roles_with_parts.contains(&&*message.role) {
            true => [context! { type => "text", text }].into_iter().collect(),
            false => text,
        }
    }
}

/// Creates a conversation in which a message of this role contains the probe.
fn probe(role: &str) -> Conversation {
    let before: &[&str] = match role {
        "assistant" | "tool" => &["user"],
        _ => &[],
    };
    let after: &[&str] = match role {
        "system" | "assistant" => &["user"],
        _ => &[],
    };
    let other = |role: &&str| ChatMessage::new(*role, "Hello");
    let messages = before.iter().map(other);
    let messages = messages.chain([ChatMessage::new(role, PROBE)]);
    let messages: Vec<_> = messages.chain(after.iter().map(other)).collect();
    messages.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles_with_parts(source: &str) -> Vec<&'static str> {
        let template = ChatTemplate::new(Some(source), "<s>", "</s>").unwrap();
        template.content_formats.roles_with_parts
    }

    fn render(source: &str, role: &str) -> String {
        let template = ChatTemplate::new(Some(source), "<s>", "</s>").unwrap();
        let messages = [
            ChatMessage::new(role, "Who?"),
            ChatMessage::new("user", "Go on."),
        ];
        template
            .render(&messages.into(), SystemTime::UNIX_EPOCH)
            .unwrap()
    }

    const STRINGS: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    /// As in SmolVLM's template.
    const PARTS: &str = "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}\
        {% if part.type == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}\
        {% endfor %}{% endfor %}";
    /// As in the templates of Llama 3.2 Vision and Qwen 2 VL.
    const EITHER: &str = "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}\
        {% else %}{% for part in m.content %}{{ part.text }}!{% endfor %}{% endif %}{% endfor %}";
    /// As in Mistral Small's template: the system prompt is a string, the user message has parts.
    const MIXED: &str = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' %}\
        {% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}\
        {% else %}{{ m.content + '' }}{% endif %}{% endfor %}";

    #[test]
    fn detects_the_format_that_a_template_expects() {
        assert!(roles_with_parts(STRINGS).is_empty() && roles_with_parts(EITHER).is_empty());
        assert_eq!(roles_with_parts(PARTS), ["user", "system", "assistant"]);
        assert_eq!(roles_with_parts(MIXED), ["user"]);
        for source in [STRINGS, PARTS, EITHER, MIXED] {
            assert_eq!(render(source, "system"), "[system]Who?[user]Go on.");
        }
    }

    #[test]
    fn a_template_that_prints_no_content_gets_strings() {
        assert!(roles_with_parts("{{ messages | length }}").is_empty());
        assert!(roles_with_parts("{{ raise_exception('no') }}").is_empty());
    }
}
