//! Opens pages in a headless browser; needs Chromium and chromedriver.

use std::process::Command;

use serde_json::Value;
use thirtyfour::prelude::*;

use crate::running::{Running, TIMEOUT};

/// JavaScript expression that is true if all slots are idle.
pub(crate) const ALL_IDLE: &str =
    "window.slots?.every((slot) => slot.state === 0) || void fetch('slots')
        .then((response) => response.json()).then((slots) => { window.slots = slots; })";

/// An open page with helpers that act as its user.
pub(crate) struct Page(pub(crate) WebDriver);

/// Opens a page in a new browser, runs `test` on it, and closes the browser even if the test fails.
pub(crate) async fn browse(address: &str, test: impl AsyncFnOnce(Page) -> WebDriverResult<()>) {
    let (_chromedriver, driver_address) = start_chromedriver();
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
            driver.set_script_timeout(TIMEOUT).await?;
            driver.goto(address).await?;
            test(Page(driver)).await
        })
        .await
        .unwrap();
}

/// Starts chromedriver on a free port; also returns its address.
fn start_chromedriver() -> (Running, String) {
    let mut chromedriver = Running::start(Command::new("chromedriver").arg("--port=0"));
    let address = chromedriver.output.find_map(|line| {
        let port = line.trim_end().split("successfully on port ").nth(1)?;
        Some(format!("http://127.0.0.1:{}", port.trim_end_matches('.')))
    });
    let address = address.expect("chromedriver exited before it listened");
    (chromedriver, address)
}

impl Page {
    /// Waits until a JavaScript expression is truthy, and returns its value.
    pub(crate) async fn until(&self, expression: &str) -> WebDriverResult<Value> {
        let script = format!(
            "const [done] = arguments;
             const poll = () => {{
               const value = {expression};
               if (value) done(value); else setTimeout(poll, 20);
             }};
             poll();"
        );
        let value = self.0.execute_async(script, Vec::new()).await;
        Ok(value
            .unwrap_or_else(|error| panic!("{expression} did not become true: {error}"))
            .json()
            .clone())
    }

    pub(crate) async fn until_text(&self, expression: &str) -> WebDriverResult<String> {
        Ok(self.until(expression).await?.as_str().unwrap().to_owned())
    }
}
