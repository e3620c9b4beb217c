//! The page at the root, in a real browser: a conversation that grows, is stopped and stays, settings that are
//! sent, and errors in words. It needs Chromium and chromedriver.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use thirtyfour::prelude::*;

/// The longest that something may take to show on the page.
const PATIENCE: Duration = Duration::from_secs(60);

const TEXT_OF_LAST_ANSWER: &str =
    "[...document.querySelectorAll('#thread .assistant .text')].at(-1)?.textContent";
const NOTE_OF_LAST_ANSWER: &str =
    "[...document.querySelectorAll('#thread .assistant .note')].at(-1)?.textContent";
const IS_READY: &str = "document.querySelector('#state').dataset.state === 'ready'";
const IS_DONE: &str = "document.querySelector('#stop').hidden";
const PROBLEM: &str = "document.querySelector('#problem p')?.textContent";

/// A text that no model ends.
const ENDLESS: &str = "root ::= [a-z ] root";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program and answers it with the first thing that `find` finds in its lines. What it says later is read
/// and dropped, so that it never waits for a reader.
fn start<R: Read + Send + 'static>(
    command: &mut Command,
    output: fn(&mut Child) -> R,
    find: fn(&str) -> Option<String>,
) -> (Running, String) {
    let mut process = command
        .spawn()
        .unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()));
    let mut lines = BufReader::new(output(&mut process)).lines();
    let running = Running(process);
    let found = lines.find_map(|line| find(&line.unwrap())).unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    (running, found)
}

/// The program with the default model, and its address.
fn serve(options: &[&str]) -> (Running, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ortolan"));
    command
        .args(["--port", "0", "--ctx-size", "4096", "--parallel", "2", "-m"])
        .arg(common::model())
        .arg("--onnxruntime")
        .arg(common::onnxruntime())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    start(
        &mut command,
        |process| process.stderr.take().unwrap(),
        |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            Some(event["address"].as_str()?.to_owned())
        },
    )
}

/// chromedriver on a free port, and its address.
fn chromedriver() -> (Running, String) {
    let mut command = Command::new("chromedriver");
    command
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    start(
        &mut command,
        |process| process.stdout.take().unwrap(),
        |line| {
            let port = line.split("successfully on port ").nth(1)?;
            Some(format!("http://127.0.0.1:{}", port.trim_end_matches('.')))
        },
    )
}

/// Opens a page in a browser of its own, does what the test does with it, and closes the browser in any case.
async fn browse(address: &str, test: impl AsyncFnOnce(Page) -> WebDriverResult<()>) {
    let (_chromedriver, driver_address) = chromedriver();
    let mut capabilities = DesiredCapabilities::chrome();
    for argument in [
        "--headless=new",
        "--window-size=1280,800",
        // Chromium's own sandbox does not work for root, and small containers have little shared memory.
        "--no-sandbox",
        "--disable-dev-shm-usage",
    ] {
        capabilities.add_arg(argument).unwrap();
    }
    let driver = WebDriver::new(driver_address, capabilities).await.unwrap();
    driver
        .run_and_quit(|driver| async move {
            driver.set_script_timeout(PATIENCE).await?;
            driver.goto(address).await?;
            test(Page(driver)).await
        })
        .await
        .unwrap();
}

/// The page, as somebody uses it.
struct Page(WebDriver);

impl Page {
    /// Waits until a JavaScript expression is true, or something that counts as true, and answers it.
    async fn until(&self, expression: &str) -> WebDriverResult<Value> {
        let script = format!(
            "const [done] = arguments;
             const look = () => {{
               const found = {expression};
               if (found) done(found); else setTimeout(look, 20);
             }};
             look();"
        );
        let found = self.0.execute_async(script, Vec::new()).await;
        Ok(found
            .unwrap_or_else(|error| panic!("it never came to {expression}: {error}"))
            .json()
            .clone())
    }

    async fn until_text(&self, expression: &str) -> WebDriverResult<String> {
        Ok(self.until(expression).await?.as_str().unwrap().to_owned())
    }

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
    let (_server, address) = serve(&[]);
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
        let all_idle = "window.slots?.every((slot) => slot.state === 0) || void fetch('slots')
            .then((answer) => answer.json()).then((slots) => { window.slots = slots; })";
        page.until(all_idle).await?;

        page.0.refresh().await?;
        page.until("document.querySelectorAll('#thread > li').length === 4")
            .await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn errors_are_shown_in_words() {
    let (server, address) = serve(&["--api-key", "right"]);
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
