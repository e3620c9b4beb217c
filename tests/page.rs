//! The page at the root, in a real browser: a conversation that grows, is stopped and stays, settings that are
//! sent, and errors in words.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/browser.rs"]
mod browser;
mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use browser::{ALL_IDLE, Page, browse};
use program::ready_with;
use serde_json::{Value, json};
use thirtyfour::prelude::*;

const TEXT_OF_LAST_ANSWER: &str =
    "[...document.querySelectorAll('#thread .assistant .text')].at(-1)?.textContent";
const NOTE_OF_LAST_ANSWER: &str =
    "[...document.querySelectorAll('#thread .assistant .note')].at(-1)?.textContent";
const IS_READY: &str = "document.querySelector('#state').dataset.state === 'ready'";
const IS_DONE: &str = "document.querySelector('#stop').hidden";
const PROBLEM: &str = "document.querySelector('#problem p')?.textContent";

/// A text that no model ends.
const ENDLESS: &str = "root ::= [a-z ] root";

impl Page {
    async fn click(&self, id: &str) -> WebDriverResult<()> {
        self.0.find(By::Id(id)).await?.click().await
    }

    async fn say(&self, text: &str) -> WebDriverResult<()> {
        let message = self.0.find(By::Id("message")).await?;
        message.send_keys(text + Key::Enter).await
    }

    async fn set(&self, fields: &[(&str, &str)]) -> WebDriverResult<()> {
        self.click("open-settings").await?;
        for (name, text) in fields {
            let field = self.0.find(By::Name(*name)).await?;
            field.clear().await?;
            field.send_keys(*text).await?;
        }
        self.click("done").await
    }

    /// Keeps the length that the last answer has whenever the conversation changes.
    async fn watch_growth(&self) -> WebDriverResult<()> {
        let script = format!(
            "window.lengths = new Set();
             new MutationObserver(() => window.lengths.add(({TEXT_OF_LAST_ANSWER} ?? '').length))
               .observe(document.querySelector('#thread'), {{childList: true, subtree: true, characterData: true}});"
        );
        self.0.execute(script, Vec::new()).await?;
        Ok(())
    }

    /// What `/slots` answers.
    async fn slots(&self) -> WebDriverResult<Vec<Value>> {
        let script =
            "const [done] = arguments; fetch('slots').then((answer) => answer.json()).then(done);";
        self.0.execute_async(script, Vec::new()).await?.convert()
    }
}

#[tokio::test]
async fn a_conversation_grows_is_stopped_and_stays() {
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
        page.set(&settings).await?;
        page.watch_growth().await?;
        page.say("What is a songbird?").await?;
        let lengths = page
            .until(&format!(
                "{IS_DONE} && {NOTE_OF_LAST_ANSWER} && [...window.lengths]"
            ))
            .await?;
        assert!(lengths.as_array().unwrap().len() > 3, "{lengths}");
        let answer = page.until_text(TEXT_OF_LAST_ANSWER).await?;
        let note = page.until_text(NOTE_OF_LAST_ANSWER).await?;
        assert!(note.contains("tokens") && note.contains("second"), "{note}");

        let slots = page.slots().await?;
        let sent = slots.iter().find(|slot| slot["n_predict"] == 32).unwrap();
        assert_eq!(sent["temperature"], 0.0, "{sent}");
        assert_eq!(sent["seed"], 7, "{sent}");
        // What was left open is as the server's settings have it, which the form shows.
        assert_eq!(sent["top_k"], 40, "{sent}");
        let prompt = sent["prompt"].as_str().unwrap();
        assert!(prompt.contains("You answer at length."), "{prompt}");

        page.0.refresh().await?;
        page.until(IS_READY).await?;
        assert_eq!(page.until_text(TEXT_OF_LAST_ANSWER).await?, answer);
        assert_eq!(page.until_text(NOTE_OF_LAST_ANSWER).await?, note);

        page.click("open-settings").await?;
        page.click("defaults").await?;
        page.click("done").await?;
        page.set(&[("grammar", ENDLESS)]).await?;
        page.say("And now?").await?;
        page.until("document.querySelector('#thread .growing .text')?.textContent.length > 9")
            .await?;
        page.click("stop").await?;
        page.until(IS_DONE).await?;
        let note = page.until_text(NOTE_OF_LAST_ANSWER).await?;
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
async fn errors_are_shown_in_words() {
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

        page.set(&[("temperature", "3")]).await?;
        page.say("Hello").await?;
        assert_eq!(
            page.until(PROBLEM).await?,
            json!("temperature: 3 is greater than the maximum of 2")
        );
        page.set(&[("temperature", "0"), ("max_tokens", "4")])
            .await?;
        page.0
            .find(By::Css("#problem button"))
            .await?
            .click()
            .await?;
        page.until(&format!(
            "{IS_DONE} && !({PROBLEM}) && {TEXT_OF_LAST_ANSWER}"
        ))
        .await?;

        drop(server);
        page.say("Are you there?").await?;
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
