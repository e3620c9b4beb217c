//! Whether a template reads a message's content as a string or as a list of parts, as templates of models do that see
//! images. A template that expects parts shows nothing of a string, and says nothing of it.

use std::time::SystemTime;

use minijinja::context;
use minijinja::value::Value;

use super::ChatTemplate;
use crate::cancel::CancelFlag;
use crate::text::conversation::{ChatMessage, Conversation};

/// A text that no template has.
const PROBE: &str = "ortolan-probe-5b1f";

/// The roles whose contents are shown as lists of parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ContentForms {
    as_parts: Vec<&'static str>,
}

impl ContentForms {
    /// Renders probes: a role whose text is lost as a string and found in parts gets parts.
    pub(super) fn of_template(template: &ChatTemplate) -> Self {
        let shows_probe = |conversation: &Conversation, forms: &Self| {
            let text = template.render_with(
                conversation,
                SystemTime::UNIX_EPOCH,
                forms,
                &CancelFlag::default(),
            );
            text.is_ok_and(|text| text.contains(PROBE))
        };
        let mut forms = Self::default();
        for role in ["user", "system", "assistant", "tool"] {
            let conversation = probe(role);
            if shows_probe(&conversation, &forms) {
                continue;
            }
            let mut with_parts = forms.clone();
            with_parts.as_parts.push(role);
            if shows_probe(&conversation, &with_parts) {
                forms = with_parts;
            }
        }
        forms
    }

    /// A message's content as the template reads it.
    pub(super) fn content(&self, message: &ChatMessage) -> Value {
        let text = Value::from(message.content.as_str());
        match self.as_parts.contains(&&*message.role) {
            true => [context! { type => "text", text }].into_iter().collect(),
            false => text,
        }
    }
}

/// A conversation in which a message of this role has the probe.
fn probe(role: &str) -> Conversation {
    let before: &[&str] = match role {
        "assistant" | "tool" => &["user"],
        _ => &[],
    };
    let behind: &[&str] = match role {
        "system" | "assistant" => &["user"],
        _ => &[],
    };
    let other = |role: &&str| ChatMessage::new(*role, "Hello");
    let messages = before.iter().map(other);
    let messages = messages.chain([ChatMessage::new(role, PROBE)]);
    let messages: Vec<_> = messages.chain(behind.iter().map(other)).collect();
    messages.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The roles that get parts.
    fn as_parts(source: &str) -> Vec<&'static str> {
        let template = ChatTemplate::new(Some(source), "<s>", "</s>").unwrap();
        template.content_forms.as_parts
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
    /// As SmolVLM's.
    const PARTS: &str = "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}\
        {% if part.type == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}\
        {% endfor %}{% endfor %}";
    /// As Llama 3.2's and Qwen 2's with images.
    const EITHER: &str = "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}\
        {% else %}{% for part in m.content %}{{ part.text }}!{% endfor %}{% endif %}{% endfor %}";
    /// As Mistral Small's: the system prompt is one text, the user's message has parts.
    const MIXED: &str = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' %}\
        {% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}\
        {% else %}{{ m.content + '' }}{% endif %}{% endfor %}";

    #[test]
    fn a_template_gets_the_form_that_it_reads() {
        assert!(as_parts(STRINGS).is_empty() && as_parts(EITHER).is_empty());
        assert_eq!(as_parts(PARTS), ["user", "system", "assistant"]);
        assert_eq!(as_parts(MIXED), ["user"]);
        for source in [STRINGS, PARTS, EITHER, MIXED] {
            assert_eq!(render(source, "system"), "[system]Who?[user]Go on.");
        }
    }

    #[test]
    fn a_template_that_shows_no_text_gets_strings() {
        assert!(as_parts("{{ messages | length }}").is_empty());
        assert!(as_parts("{{ raise_exception('no') }}").is_empty());
    }
}
