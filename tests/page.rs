//! The chat page in a real browser: streaming, stopping and storing conversations, settings, error messages, Markdown
//! (cases in `page/markdown.js`), edited messages, and tool calls with their results.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

#[path = "common/browser.rs"]
mod browser;
mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use browser::{ALL_IDLE, Page, browse};
use program::{listening, ortolan, ready_with, with_model};
use serde_json::{Value, json};
use thirtyfour::prelude::*;

const LAST_ANSWER_TEXT: &str =
    "[...document.querySelectorAll('#thread .assistant .text')].at(-1)?.textContent";
const LAST_ANSWER_NOTE: &str =
    "[...document.querySelectorAll('#thread .assistant .note')].at(-1)?.textContent";
const IS_READY: &str = "document.querySelector('#state').dataset.state === 'ready'";
const IS_DONE: &str = "document.querySelector('#stop').hidden";
const PROBLEM: &str = "document.querySelector('#problem p')?.textContent";

/// A grammar whose text never ends.
const ENDLESS: &str = "root ::= [a-z ] root";

impl Page {
    async fn click(&self, id: &str) -> WebDriverResult<()> {
        self.0.find(By::Id(id)).await?.click().await
    }

    async fn send_message(&self, text: &str) -> WebDriverResult<()> {
        let message = self.0.find(By::Id("message")).await?;
        message.send_keys(text + Key::Enter).await
    }

    /// Changes settings: pairs of field name and value.
    async fn change_settings(&self, fields: &[(&str, &str)]) -> WebDriverResult<()> {
        self.click("open-settings").await?;
        for (name, text) in fields {
            let field = self.0.find(By::Name(*name)).await?;
            field.clear().await?;
            field.send_keys(*text).await?;
        }
        self.click("done").await
    }

    /// Records the length of the last answer at every change, in `window.lengths`.
    async fn record_lengths(&self) -> WebDriverResult<()> {
        let script = format!(
            "window.lengths = new Set();
             new MutationObserver(() => window.lengths.add(({LAST_ANSWER_TEXT} ?? '').length))
               .observe(document.querySelector('#thread'), {{childList: true, subtree: true, characterData: true}});"
        );
        self.0.execute(script, Vec::new()).await?;
        Ok(())
    }

    /// Clicks the last button with this label.
    async fn press(&self, text: &str) -> WebDriverResult<()> {
        let path = format!("(//button[normalize-space()='{text}'])[last()]");
        self.0.find(By::XPath(path)).await?.click().await
    }

    /// Runs a script that passes its result to a callback.
    async fn run(&self, script: &str) -> WebDriverResult<Value> {
        Ok(self
            .0
            .execute_async(script, Vec::new())
            .await?
            .json()
            .clone())
    }

    /// Roles and texts of the conversations in the browser's local storage.
    async fn stored_conversations(&self) -> WebDriverResult<Value> {
        let script = "const [done] = arguments;
            done(Object.keys(localStorage).filter((name) => name.startsWith('ortolan.conversation.'))
              .map((name) => JSON.parse(localStorage[name]).messages.map(({ role, content }) => [role, content])));";
        self.run(script).await
    }

    /// The response of `/slots`.
    async fn slots(&self) -> WebDriverResult<Vec<Value>> {
        let script = "const [done] = arguments; fetch('slots').then((response) => response.json()).then(done);";
        self.0.execute_async(script, Vec::new()).await?.convert()
    }
}

#[tokio::test]
async fn a_conversation_streams_can_be_stopped_and_is_stored() {
    let (_server, address) = ready_with(&[]);
    browse(&address, async |page| {
        page.until(IS_READY).await?;
        let state = page
            .until_text("document.querySelector('#state').textContent.trim()")
            .await?;
        assert_eq!(state, "SmolLM2-135M-Instruct.Q4_1");

        let settings = [
            ("system", "You answer at length."),
            ("temperature", "0"),
            ("seed", "7"),
            ("max_tokens", "32"),
        ];
        page.change_settings(&settings).await?;
        page.record_lengths().await?;
        page.send_message("What is a songbird?").await?;
        let lengths = page
            .until(&format!(
                "{IS_DONE} && {LAST_ANSWER_NOTE} && [...window.lengths]"
            ))
            .await?;
        assert!(lengths.as_array().unwrap().len() > 3, "{lengths}");
        let answer = page.until_text(LAST_ANSWER_TEXT).await?;
        let note = page.until_text(LAST_ANSWER_NOTE).await?;
        assert!(note.contains("tokens") && note.contains("second"), "{note}");

        let slots = page.slots().await?;
        let sent = slots.iter().find(|slot| slot["n_predict"] == 32).unwrap();
        assert_eq!(sent["temperature"], 0.0, "{sent}");
        assert_eq!(sent["seed"], 7, "{sent}");
        // Settings that the user left empty have the server's defaults.
        assert_eq!(sent["top_k"], 40, "{sent}");
        let prompt = sent["prompt"].as_str().unwrap();
        assert!(prompt.contains("You answer at length."), "{prompt}");

        page.0.refresh().await?;
        page.until(IS_READY).await?;
        assert_eq!(page.until_text(LAST_ANSWER_TEXT).await?, answer);
        assert_eq!(page.until_text(LAST_ANSWER_NOTE).await?, note);

        page.click("open-settings").await?;
        page.click("defaults").await?;
        page.click("done").await?;
        page.change_settings(&[("grammar", ENDLESS)]).await?;
        page.send_message("And now?").await?;
        page.until("document.querySelector('#thread .growing .text')?.textContent.length > 9")
            .await?;
        page.click("stop").await?;
        page.until(IS_DONE).await?;
        let note = page.until_text(LAST_ANSWER_NOTE).await?;
        assert!(note.starts_with("stopped"), "{note}");
        page.until(ALL_IDLE).await?;

        page.0.refresh().await?;
        page.until("document.querySelectorAll('#thread > li').length === 4")
            .await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn error_messages_are_shown() {
    let (server, address) = ready_with(&["--api-key", "right"]);
    browse(&address, async |page| {
        let key_problem = "document.querySelector('#settings').open
            && document.querySelector('#key-problem').textContent";
        let problem = page.until_text(key_problem).await?;
        assert!(problem.contains("key"), "{problem}");
        let key = page.0.find(By::Name("key")).await?;
        key.send_keys("wrong" + Key::Tab).await?;
        page.until("document.querySelector('#key-problem').textContent.includes('Invalid')")
            .await?;
        key.clear().await?;
        key.send_keys("right" + Key::Tab).await?;
        page.until(IS_READY).await?;
        page.click("done").await?;

        page.change_settings(&[("temperature", "3")]).await?;
        page.send_message("Hello").await?;
        assert_eq!(
            page.until(PROBLEM).await?,
            json!("temperature: 3 is greater than the maximum of 2")
        );
        page.change_settings(&[("temperature", "0"), ("max_tokens", "4")])
            .await?;
        page.0
            .find(By::Css("#problem button"))
            .await?
            .click()
            .await?;
        page.until(&format!("{IS_DONE} && !({PROBLEM}) && {LAST_ANSWER_TEXT}"))
            .await?;

        drop(server);
        page.send_message("Are you there?").await?;
        assert_eq!(
            page.until(PROBLEM).await?,
            json!("The server cannot be reached.")
        );
        page.until("document.querySelector('#state').dataset.state === 'gone'")
            .await?;
        Ok(())
    })
    .await;
}

/// A grammar that allows exactly one answer: Markdown with nested lists, emphasis, a formula and a table.
const MARKDOWN_GRAMMAR: &str = r#"root ::= "- a\n  - b\n    - c\n\n***d*** \\( x \\, y \\)\n\n| e | f |\n|---|---|\n| `g|h` | i |\n""#;

#[tokio::test]
async fn markdown_is_rendered() {
    let (_server, address) = ready_with(&[]);
    browse(&address, async |page| {
        page.until(IS_READY).await?;
        let outcome = page.run(include_str!("page/markdown.js")).await?;
        assert_eq!(outcome["failures"], json!([]), "{outcome:#}");
        assert!(outcome["cases"].as_u64().unwrap() > 50, "{outcome}");

        page.change_settings(&[("grammar", MARKDOWN_GRAMMAR), ("temperature", "0")])
            .await?;
        page.send_message("Show me a list.").await?;
        page.until(&format!("{IS_DONE} && {LAST_ANSWER_NOTE}"))
            .await?;
        for (element, expression) in [
            (
                "three levels",
                "document.querySelector('.text ul ul ul > li')?.textContent === 'c'",
            ),
            (
                "both emphases",
                "document.querySelector('.text em > strong')?.textContent === 'd'",
            ),
            (
                "a formula",
                "document.querySelector('.text .formula > math mspace')",
            ),
            (
                "a pipe in code",
                "[...document.querySelectorAll('.text td')].map((cell) => cell.textContent).join() === 'g|h,i'",
            ),
        ] {
            let is_shown = page
                .run(&format!("arguments[0](Boolean({expression}))"))
                .await?;
            assert_eq!(is_shown, json!(true), "{element}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn vendored_libraries_are_served_unchanged() {
    let (_server, address) = listening(with_model(ortolan()));
    browse(&address, async |page| {
        let sums = include_str!("../src/web/vendor/SHA256SUMS");
        assert!(sums.lines().count() >= 5, "{sums}");
        for line in sums.lines() {
            let (sum, name) = line.split_once("  ").unwrap();
            let script = format!(
                "const [done] = arguments;
                 fetch('/vendor/{name}').then((response) => response.arrayBuffer())
                   .then((bytes) => crypto.subtle.digest('SHA-256', bytes))
                   .then((sum) => done([...new Uint8Array(sum)].map((byte) => byte.toString(16).padStart(2, '0')).join('')),
                         (error) => done(String(error)));"
            );
            assert_eq!(page.run(&script).await?, json!(sum), "{name}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_edited_message_replaces_the_old_one_when_it_is_sent() {
    let (_server, address) = ready_with(&[]);
    browse(&address, async |page| {
        let input_text = "document.querySelector('#message').value";
        page.until(IS_READY).await?;
        page.change_settings(&[("grammar", r#"root ::= "one""#)])
            .await?;
        page.send_message("First").await?;
        page.until(&format!("{IS_DONE} && {LAST_ANSWER_NOTE}"))
            .await?;
        let before = json!([[["user", "First"], ["assistant", "one"]]]);
        assert_eq!(page.stored_conversations().await?, before);

        let message = page.0.find(By::Id("message")).await?;
        message.send_keys("a draft").await?;
        page.press("Edit").await?;
        assert_eq!(page.until(input_text).await?, "First");
        assert_eq!(page.stored_conversations().await?, before);
        message.send_keys(" and more").await?;
        page.press("Cancel").await?;
        assert_eq!(page.until(input_text).await?, "a draft");
        page.press("Edit").await?;
        message.send_keys(Key::Escape + "").await?;
        assert_eq!(page.until(input_text).await?, "a draft");
        assert_eq!(page.stored_conversations().await?, before);
        page.0.refresh().await?;
        page.until(IS_READY).await?;
        assert_eq!(page.until_text(LAST_ANSWER_TEXT).await?, "one");

        page.change_settings(&[("grammar", r#"root ::= "two""#)])
            .await?;
        page.press("Edit").await?;
        page.send_message(", changed").await?;
        page.until(&format!("{IS_DONE} && {LAST_ANSWER_TEXT} === 'two'"))
            .await?;
        page.until(&format!("{IS_DONE} && {LAST_ANSWER_NOTE}"))
            .await?;
        let after = json!([[["user", "First, changed"], ["assistant", "two"]]]);
        assert_eq!(page.stored_conversations().await?, after);

        // A failed request keeps the previous answer.
        page.change_settings(&[("temperature", "3")]).await?;
        page.press("Regenerate").await?;
        page.until(PROBLEM).await?;
        assert_eq!(page.until_text(LAST_ANSWER_TEXT).await?, "two");
        assert_eq!(page.stored_conversations().await?, after);
        Ok(())
    })
    .await;
}

/// A conversation after which the default model writes a tool call.
const BEFORE_TOOL_CALL: &str = r#"{"id": "calls", "changed": 1, "messages": [
    {"role": "user", "content": "Say: <tool_call>"}, {"role": "assistant", "content": "<tool_call>"},
    {"role": "user", "content": "Say: <tool_call>"}, {"role": "assistant", "content": "<tool_call>"}]}"#;

#[tokio::test]
async fn tool_calls_are_shown_and_accept_results() {
    let (_server, address) = ready_with(&[]);
    browse(&address, async |page| {
        page.until(IS_READY).await?;
        let store_conversation = format!(
            "localStorage.setItem('ortolan.conversation.calls', JSON.stringify({BEFORE_TOOL_CALL})); arguments[0]();"
        );
        page.run(&store_conversation).await?;
        page.0.refresh().await?;
        page.until(IS_READY).await?;
        page.change_settings(&[
            ("tools", r#"[{"name": "now"}]"#),
            ("temperature", "0"),
            ("repeat_penalty", "1"),
            ("max_tokens", "60"),
        ])
        .await?;
        page.send_message("Say: <tool_call>").await?;
        let called = page
            .until(
                "document.querySelector('.results')
                 && [...document.querySelectorAll('.call')].map((call) => [...call.querySelectorAll('code')].map((code) => code.textContent))",
            )
            .await?;
        assert_eq!(called[0], json!(["now", "{}"]), "{called}");

        let result = page.0.find(By::Css(".results textarea")).await?;
        result.send_keys("12:30").await?;
        page.press("Send to the model").await?;
        page.until(&format!(
            "document.querySelectorAll('#thread > li').length === 7 && {IS_DONE} && {LAST_ANSWER_NOTE}"
        ))
        .await?;
        let shown = page
            .until_text("document.querySelector('.call pre:last-child').textContent")
            .await?;
        assert_eq!(shown, "12:30");
        let slots = page.slots().await?;
        let was_sent = slots.iter().any(|slot| {
            let prompt = slot["prompt"].as_str().unwrap_or_default();
            prompt.contains(r#"{"name": "now", "arguments": {}}"#) && prompt.contains("12:30")
        });
        assert!(was_sent, "{slots:?}");
        Ok(())
    })
    .await;
}
