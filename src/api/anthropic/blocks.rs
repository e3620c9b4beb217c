//! The blocks of a message as what a chat template knows: text, calls, their results, thoughts of the assistant. Others
//! are left out and reported, or refused if the user asks for something about them (images, scanned documents).

use serde_json::{Map, Value};

use crate::api::error::Error;
use crate::api::payload::Ignored;
use crate::api::types;
use crate::text::{ChatMessage, ToolCall};

/// Between texts that are paragraphs of their own.
const PARAGRAPH: &str = "\n\n";

/// Between text blocks that no white space separates, but for the assistant's: citations cut its text within sentences.
const LINE: &str = "\n";

/// What is among the blocks of a message.
#[derive(Default)]
pub(super) struct Blocks {
    /// What was thought.
    pub thought: String,
    /// What was said.
    pub text: String,
    /// Which tools were called.
    pub calls: Vec<ToolCall>,
    /// Messages with the results of calls.
    pub results: Vec<ChatMessage>,
    /// How the tools of the request change.
    pub changes: Vec<ToolChange>,
    /// Whether a block was left out.
    pub is_incomplete: bool,
}

/// A block that adds a tool to those of the request or takes one away.
pub(super) struct ToolChange {
    /// Where the change stands.
    pub place: String,
    /// Which change.
    pub kind: ToolChangeKind,
}

/// How the tools of a request change.
pub(super) enum ToolChangeKind {
    /// A tool of this name, declared before, may be called.
    Add(String),
    /// A new tool may be called.
    Define(Value),
    /// A tool of this name may no longer be called.
    Remove(String),
}

/// Reads blocks of a message of this role that stand at a place of the body.
///
/// # Errors
/// If a block lacks a field, if it is an image or a document without text, or if fields without effect are refused.
pub(super) fn blocks(
    place: &str,
    role: types::InputMessageRole,
    content: types::BlocksOrText,
    ignored: &mut Ignored,
) -> Result<Blocks, Error> {
    let mut read = Blocks::default();
    let blocks = match content {
        types::BlocksOrText::String(text) => return Ok(Blocks { text, ..read }),
        types::BlocksOrText::Array(blocks) => blocks,
    };
    for (number, block) in blocks.into_iter().enumerate() {
        read.take(&format!("{place}.{number}"), block, role, ignored)?;
    }
    Ok(read)
}

impl Blocks {
    fn take(
        &mut self,
        place: &str,
        block: types::InputBlock,
        role: types::InputMessageRole,
        ignored: &mut Ignored,
    ) -> Result<(), Error> {
        let is_assistant = role == types::InputMessageRole::Assistant;
        match &*block.type_ {
            "text" => {
                let text = required(block.text, place, "text")?;
                let separator = if is_assistant { "" } else { LINE };
                add_text(&mut self.text, &text, separator);
            }
            "thinking" if is_assistant => {
                let thought = required(block.thinking, place, "thinking")?;
                self.thought.push_str(&thought);
            }
            "tool_use" => self.calls.push(ToolCall {
                id: required(block.id, place, "id")?,
                name: required(block.name, place, "name")?,
                arguments: Value::from(block.input.unwrap_or_default()).to_string(),
            }),
            "tool_result" => {
                let answers = required(block.tool_use_id, place, "tool_use_id")?;
                let place = format!("{place}.content");
                let text = result_text(&place, block.content, ignored)?;
                self.results.push(ChatMessage {
                    answers: Some(answers),
                    ..ChatMessage::new("tool", text)
                });
            }
            "image" => {
                let problem = "images are not supported: the model reads text alone";
                return Err(refused(&format!("{place}.type"), problem));
            }
            "document" => match document_text(&block) {
                Some(text) => add_paragraph(&mut self.text, &text),
                None => return Err(unreadable_document(place, &block)),
            },
            "search_result" => {
                let text = search_result_text(block, place, ignored)?;
                add_paragraph(&mut self.text, &text);
            }
            "compaction" => match block.content {
                Some(types::BlockContent::String(summary)) => {
                    add_paragraph(&mut self.text, &summary);
                }
                _ => self.leave_out(place, ignored)?,
            },
            "tool_addition" | "tool_removal" => match tool_change(&block, place)? {
                Some(kind) => self.changes.push(ToolChange {
                    place: place.to_owned(),
                    kind,
                }),
                None => self.leave_out(place, ignored)?,
            },
            _ => self.leave_out(place, ignored)?,
        }
        Ok(())
    }

    fn leave_out(&mut self, place: &str, ignored: &mut Ignored) -> Result<(), Error> {
        self.is_incomplete = true;
        ignored.report(place)
    }
}

/// The text of a tool's result. A note stands for an image or a document that cannot be read: the conversation is not
/// about it alone, and it was not the user who sent it.
fn result_text(
    place: &str,
    content: Option<types::BlockContent>,
    ignored: &mut Ignored,
) -> Result<String, Error> {
    let blocks = match content {
        None => return Ok(String::new()),
        Some(types::BlockContent::String(text)) => return Ok(text),
        Some(types::BlockContent::Object(value)) => return Ok(Value::from(value).to_string()),
        Some(types::BlockContent::Array(blocks)) => blocks,
    };
    let mut text = String::new();
    for (number, block) in blocks.into_iter().enumerate() {
        let place = format!("{place}.{number}");
        match &*block.type_ {
            "text" => add_text(&mut text, &required(block.text, &place, "text")?, LINE),
            "search_result" => {
                let found = search_result_text(block, &place, ignored)?;
                add_paragraph(&mut text, &found);
            }
            "tool_reference" => {
                let name = required(block.tool_name, &place, "tool_name")?;
                add_paragraph(&mut text, &name);
            }
            kind => match document_text(&block) {
                Some(document) => add_paragraph(&mut text, &document),
                None => {
                    ignored.report(place)?;
                    if ["image", "document"].contains(&kind) {
                        add_paragraph(&mut text, &format!("[{kind} omitted]"));
                    }
                }
            },
        }
    }
    Ok(text)
}

/// The text of a document that has any, with its title.
fn document_text(block: &types::InputBlock) -> Option<String> {
    let Some(types::BlockSource::Object(source)) = &block.source else {
        return None;
    };
    if block.type_ != "document" {
        return None;
    }
    let text = match source.get("type")?.as_str()? {
        "text" => source.get("data")?.as_str()?.to_owned(),
        "content" => match source.get("content")? {
            Value::String(text) => text.clone(),
            Value::Array(blocks) => {
                let texts = blocks.iter().map(|block| {
                    let is_text = block.get("type")?.as_str()? == "text";
                    block.get("text").filter(|_| is_text)?.as_str()
                });
                texts.collect::<Option<String>>()?
            }
            _ => return None,
        },
        _ => return None,
    };
    let (title, context) = (block.title.as_deref(), block.context.as_deref());
    Some(lines(&[title, context, Some(&text)]))
}

fn unreadable_document(place: &str, block: &types::InputBlock) -> Error {
    let source = match &block.source {
        Some(types::BlockSource::Object(source)) => source,
        _ => return missing(place, "source"),
    };
    match source.get("type").and_then(Value::as_str) {
        Some(kind @ ("text" | "content")) => {
            let problem = format!("the source of type {kind} has no text, or more than text");
            refused(&format!("{place}.source"), &problem)
        }
        Some(kind) => {
            let problem = format!("{kind} documents are not supported: send the document's text");
            refused(&format!("{place}.source.type"), &problem)
        }
        None => missing(place, "source.type"),
    }
}

fn search_result_text(
    block: types::InputBlock,
    place: &str,
    ignored: &mut Ignored,
) -> Result<String, Error> {
    let text = result_text(&format!("{place}.content"), block.content, ignored)?;
    let source = match &block.source {
        Some(types::BlockSource::String(source)) => Some(&**source),
        _ => None,
    };
    Ok(lines(&[block.title.as_deref(), source, Some(&text)]))
}

/// What a block says of the request's tools; `None` if it is about tools of a server that this one does not connect to.
fn tool_change(block: &types::InputBlock, place: &str) -> Result<Option<ToolChangeKind>, Error> {
    let empty = Map::new();
    let tool = block.tool.as_ref().unwrap_or(&empty);
    let adds = block.type_ == "tool_addition";
    Ok(match tool.get("type").and_then(Value::as_str) {
        None => return Err(missing(place, "tool.type")),
        Some("tool_reference") => {
            let name = tool.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| missing(place, "tool.name"))?.to_owned();
            Some(match adds {
                true => ToolChangeKind::Add(name),
                false => ToolChangeKind::Remove(name),
            })
        }
        Some("tool_definition") if adds => {
            let definition = tool.get("definition").cloned();
            let definition = definition.ok_or_else(|| missing(place, "tool.definition"))?;
            Some(ToolChangeKind::Define(definition))
        }
        Some(_) => None,
    })
}

/// The texts that are there, a line each.
fn lines(texts: &[Option<&str>]) -> String {
    let texts = texts.iter().flatten().filter(|text| !text.is_empty());
    texts.copied().collect::<Vec<_>>().join("\n")
}

fn add_text(text: &mut String, more: &str, separator: &str) {
    let is_separate = text.is_empty()
        || more.is_empty()
        || text.ends_with(char::is_whitespace)
        || more.starts_with(char::is_whitespace);
    if !is_separate {
        text.push_str(separator);
    }
    text.push_str(more);
}

fn add_paragraph(text: &mut String, paragraph: &str) {
    if !text.is_empty() && !paragraph.is_empty() {
        text.push_str(PARAGRAPH);
    }
    text.push_str(paragraph);
}

fn required<T>(value: Option<T>, place: &str, field: &str) -> Result<T, Error> {
    value.ok_or_else(|| missing(place, field))
}

/// A field that the kind of its object needs.
pub(super) fn missing(place: &str, field: &str) -> Error {
    refused(&format!("{place}.{field}"), "it is required")
}

/// A field that is wrong, and why.
pub(super) fn refused(place: &str, problem: &str) -> Error {
    Error::invalid(place, format!("{place}: {problem}"))
}
