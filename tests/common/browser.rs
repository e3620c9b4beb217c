//! Opens pages in a browser. It needs Chromium and chromedriver.

use std::process::Command;

use serde_json::Value;
use thirtyfour::prelude::*;

use crate::running::{PATIENCE, Running};

/// True when no request is computed any more.
pub(crate) const ALL_IDLE: &str =
    "window.slots?.every((slot) => slot.state === 0) || void fetch('slots')
        .then((answer) => answer.json()).then((slots) => { window.slots = slots; })";

/// A page, as somebody uses it.
pub(crate) struct Page(pub(crate) WebDriver);

/// Opens a page in a browser of its own, does what the test does with it, and closes the browser in any case.
pub(crate) async fn browse(address: &str, test: impl AsyncFnOnce(Page) -> WebDriverResult<()>) {
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

/// chromedriver on a free port, and its address.
fn chromedriver() -> (Running, String) {
    let mut chromedriver = Running::start(Command::new("chromedriver").arg("--port=0"));
    let address = chromedriver.output.find_map(|line| {
        let port = line.trim_end().split("successfully on port ").nth(1)?;
        Some(format!("http://127.0.0.1:{}", port.trim_end_matches('.')))
    });
    let address = address.expect("chromedriver ended before it listened");
    (chromedriver, address)
}

impl Page {
    /// Waits until a JavaScript expression is true, or something that counts as true, and answers it.
    pub(crate) async fn until(&self, expression: &str) -> WebDriverResult<Value> {
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

    pub(crate) async fn until_text(&self, expression: &str) -> WebDriverResult<String> {
        Ok(self.until(expression).await?.as_str().unwrap().to_owned())
    }
}
