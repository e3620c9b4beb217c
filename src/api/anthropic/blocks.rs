//! Converts the content blocks of a message to text, reasoning, tool calls and tool results for the chat template. An
//! image or a document without text is rejected, because the model cannot answer without it. Blocks of other
//! unsupported types are ignored and reported.

use serde_json::{Map, Value};

use crate::api::error::Error;
use crate::api::payload::IgnoredFields;
use crate::api::types;
use crate::text::{ChatMessage, ToolCall};

/// Separates a document, search result, summary or note from the text before it.
const PARAGRAPH: &str = "\n\n";

/// Separates two text blocks unless whitespace already does. Text blocks of the assistant are joined without a
/// separator: citations split them in the middle of sentences.
const LINE: &str = "\n";

/// The content blocks of one message, sorted by kind.
#[derive(Default)]
pub(super) struct MessageContent {
    pub reasoning: String,
    pub text: String,
    pub calls: Vec<ToolCall>,
    /// A message of role `tool` for each tool result.
    pub results: Vec<ChatMessage>,
    /// `tool_addition` and `tool_removal` blocks, in order.
    pub changes: Vec<ToolChange>,
    /// Whether an unsupported block was ignored.
    pub is_incomplete: bool,
}

/// A `tool_addition` or `tool_removal` block, which changes the set of tools that the model may call.
pub(super) struct ToolChange {
    /// Dotted path of the block, such as `messages.0.content.1`.
    pub path: String,
    pub kind: ToolChangeKind,
}

pub(super) enum ToolChangeKind {
    /// Offers the named tool again after its removal.
    Add(String),
    /// Declares a new tool, which replaces an existing tool of the same name.
    Define(Value),
    /// Stops offering the named tool.
    Remove(String),
}

/// Reads the content of a message; `path` is the dotted path of the content.
///
/// # Errors
/// If a block lacks a field, is an image, or is a document without text; or if the server runs with `--strict` and
/// ignores a block.
pub(super) fn read_content(
    path: &str,
    role: types::InputMessageRole,
    content: types::BlocksOrText,
    ignored: &mut IgnoredFields,
) -> Result<MessageContent, Error> {
    let mut result = MessageContent::default();
    let blocks = match content {
        types::BlocksOrText::String(text) => return Ok(MessageContent { text, ..result }),
        types::BlocksOrText::Array(blocks) => blocks,
    };
    for (number, block) in blocks.into_iter().enumerate() {
        result.add_block(&format!("{path}.{number}"), block, role, ignored)?;
    }
    Ok(result)
}

impl MessageContent {
    fn add_block(
        &mut self,
        path: &str,
        block: types::InputBlock,
        role: types::InputMessageRole,
        ignored: &mut IgnoredFields,
    ) -> Result<(), Error> {
        let is_assistant = role == types::InputMessageRole::Assistant;
        match &*block.type_ {
            "text" => {
                let text = required(block.text, path, "text")?;
                let separator = if is_assistant { "" } else { LINE };
                add_text(&mut self.text, &text, separator);
            }
            "thinking" if is_assistant => {
                let reasoning = required(block.thinking, path, "thinking")?;
                self.reasoning.push_str(&reasoning);
            }
            "tool_use" => self.calls.push(ToolCall {
                id: required(block.id, path, "id")?,
                name: required(block.name, path, "name")?,
                arguments: Value::from(block.input.unwrap_or_default()).to_string(),
            }),
            "tool_result" => {
                let tool_use_id = required(block.tool_use_id, path, "tool_use_id")?;
                let path = format!("{path}.content");
                let text = result_text(&path, block.content, ignored)?;
                self.results.push(ChatMessage {
                    tool_call_id: Some(tool_use_id),
                    ..ChatMessage::new("tool", text)
                });
            }
            "image" => {
                let problem = "images are not supported: the model reads only text";
                return Err(refused(&format!("{path}.type"), problem));
            }
            "document" => match document_text(&block) {
                Some(text) => add_paragraph(&mut self.text, &text),
                None => return Err(unreadable_document(path, &block)),
            },
            "search_result" => {
                let text = search_result_text(block, path, ignored)?;
                add_paragraph(&mut self.text, &text);
            }
            "compaction" => match block.content {
                Some(types::BlockContent::String(summary)) => {
                    add_paragraph(&mut self.text, &summary);
                }
                _ => self.ignore_block(path, ignored)?,
            },
            "tool_addition" | "tool_removal" => match tool_change(&block, path)? {
                Some(kind) => self.changes.push(ToolChange {
                    path: path.to_owned(),
                    kind,
                }),
                None => self.ignore_block(path, ignored)?,
            },
            _ => self.ignore_block(path, ignored)?,
        }
        Ok(())
    }

    fn ignore_block(&mut self, path: &str, ignored: &mut IgnoredFields) -> Result<(), Error> {
        self.is_incomplete = true;
        ignored.report(path)
    }
}

/// Returns the text of a tool result. A note such as `[image omitted]` replaces each image and each document without
/// text: the conversation can continue without a file that a tool sent.
fn result_text(
    path: &str,
    content: Option<types::BlockContent>,
    ignored: &mut IgnoredFields,
) -> Result<String, Error> {
    let blocks = match content {
        None => return Ok(String::new()),
        Some(types::BlockContent::String(text)) => return Ok(text),
        Some(types::BlockContent::Object(value)) => return Ok(Value::from(value).to_string()),
        Some(types::BlockContent::Array(blocks)) => blocks,
    };
    let mut text = String::new();
    for (number, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}.{number}");
        match &*block.type_ {
            "text" => add_text(&mut text, &required(block.text, &path, "text")?, LINE),
            "search_result" => {
                let result = search_result_text(block, &path, ignored)?;
                add_paragraph(&mut text, &result);
            }
            "tool_reference" => {
                let name = required(block.tool_name, &path, "tool_name")?;
                add_paragraph(&mut text, &name);
            }
            kind => match document_text(&block) {
                Some(document) => add_paragraph(&mut text, &document),
                None => {
                    ignored.report(path)?;
                    if ["image", "document"].contains(&kind) {
                        add_paragraph(&mut text, &format!("[{kind} omitted]"));
                    }
                }
            },
        }
    }
    Ok(text)
}

/// Returns the title, context and text of a document block; `None` for other blocks and for documents with content
/// other than text.
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

fn unreadable_document(path: &str, block: &types::InputBlock) -> Error {
    let source = match &block.source {
        Some(types::BlockSource::Object(source)) => source,
        _ => return missing(path, "source"),
    };
    match source.get("type").and_then(Value::as_str) {
        Some(kind @ ("text" | "content")) => {
            let problem = format!("the source of type {kind} must contain text and nothing else");
            refused(&format!("{path}.source"), &problem)
        }
        Some(kind) => {
            let problem = format!("{kind} documents are not supported: send the document's text");
            refused(&format!("{path}.source.type"), &problem)
        }
        None => missing(path, "source.type"),
    }
}

fn search_result_text(
    block: types::InputBlock,
    path: &str,
    ignored: &mut IgnoredFields,
) -> Result<String, Error> {
    let text = result_text(&format!("{path}.content"), block.content, ignored)?;
    let source = match &block.source {
        Some(types::BlockSource::String(source)) => Some(&**source),
        _ => None,
    };
    Ok(lines(&[block.title.as_deref(), source, Some(&text)]))
}

/// Reads a `tool_addition` or `tool_removal` block; `None` for a change of another kind, such as an MCP server, because
/// ortolan does not connect to MCP servers.
fn tool_change(block: &types::InputBlock, path: &str) -> Result<Option<ToolChangeKind>, Error> {
    let empty = Map::new();
    let tool = block.tool.as_ref().unwrap_or(&empty);
    let is_addition = block.type_ == "tool_addition";
    Ok(match tool.get("type").and_then(Value::as_str) {
        None => return Err(missing(path, "tool.type")),
        Some("tool_reference") => {
            let name = tool.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| missing(path, "tool.name"))?.to_owned();
            Some(match is_addition {
                true => ToolChangeKind::Add(name),
                false => ToolChangeKind::Remove(name),
            })
        }
        Some("tool_definition") if is_addition => {
            let definition = tool.get("definition").cloned();
            let definition = definition.ok_or_else(|| missing(path, "tool.definition"))?;
            Some(ToolChangeKind::Define(definition))
        }
        Some(_) => None,
    })
}

/// Joins the non-empty texts with line breaks.
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

fn required<T>(value: Option<T>, path: &str, field: &str) -> Result<T, Error> {
    value.ok_or_else(|| missing(path, field))
}

/// Returns the error for the missing field `field` of the object at `path`.
pub(super) fn missing(path: &str, field: &str) -> Error {
    refused(&format!("{path}.{field}"), "it is required")
}

/// Returns the error for an invalid value at the dotted path `path`.
pub(super) fn refused(path: &str, problem: &str) -> Error {
    Error::invalid(path, format!("{path}: {problem}"))
}
