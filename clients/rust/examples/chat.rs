//! Sends a chat message to a running server and prints the answer: once whole, once as it is generated.
//!
//!     cargo run -p ortolan-client --example chat -- http://127.0.0.1:8080 "Name three birds."

#![expect(clippy::print_stdout, reason = "the example prints the answer")]

use std::env::args;

use anyhow::Context;
use futures_util::TryStreamExt;
use ortolan_client::Client;
use ortolan_client::types::ChatCompletionRequest;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = args().nth(1).context("usage: chat ADDRESS MESSAGE")?;
    let message = args().nth(2).context("usage: chat ADDRESS MESSAGE")?;
    // `Client::new` would limit a request to 15 seconds.
    let client = Client::new_with_client(&address, reqwest::Client::new());
    let request: ChatCompletionRequest = serde_json::from_value(json!({
        "model": "default",
        "messages": [{"role": "user", "content": message}],
        "max_tokens": 64,
    }))?;

    let answer = client.chat_completion(&request).await?.into_inner();
    println!("{}", serde_json::to_string_pretty(&answer)?);

    let mut events = client
        .chat_completion_stream(&request)
        .await?
        .into_inner()
        .into_inner();
    while let Some(bytes) = events.try_next().await? {
        print!("{}", String::from_utf8_lossy(&bytes));
    }
    Ok(())
}
