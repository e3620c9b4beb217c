//! The servers that the scenarios speak to, in this process: one with the real model, shared by all, and
//! some in states that the real one leaves at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ortolan::api::{self, ApiSettings};
use ortolan::model::ModelState;
use ortolan::model::load::{LoadOptions, inspect};
use ortolan::server::{ServeOptions, Server};
use tokio::sync::{OnceCell, watch};

use crate::{common, witness};

pub(crate) const SLOTS: usize = 4;
pub(crate) const QUEUE: usize = 16;
const CONTEXT_TOKENS: usize = 512;

/// The server with the real model.
pub(crate) async fn shared() -> SocketAddr {
    static SHARED: OnceCell<(SocketAddr, ModelState)> = OnceCell::const_new();
    SHARED.get_or_init(real).await.0
}

/// A server of the same model that hides its slots.
pub(crate) async fn hiding_slots() -> SocketAddr {
    serve(ModelState::Loading { done: 0.5 }, false).await
}

/// A server whose model never changes its state.
pub(crate) async fn in_state(state: ModelState) -> SocketAddr {
    serve(state, true).await
}

async fn real() -> (SocketAddr, ModelState) {
    let loaded = tokio::task::spawn_blocking(|| {
        let inspected = inspect(LoadOptions {
            path: common::model(),
            alias: Some("smollm2".to_owned()),
            context_tokens: Some(CONTEXT_TOKENS),
            parallel: SLOTS,
            queue: QUEUE,
            step_tokens: 256,
            cache_tokens: None,
            threads: None,
            onnxruntime: common::onnxruntime(),
            chat_template: None,
        });
        inspected.unwrap().load(&|_| ()).unwrap()
    });
    let state = ModelState::Ready(Arc::new(loaded.await.unwrap()));
    (serve(state.clone(), true).await, state)
}

async fn serve(state: ModelState, slots_visible: bool) -> SocketAddr {
    let server = Server::bind(ServeOptions {
        host: "127.0.0.1".to_owned(),
        port: 0,
        origins: Vec::new(),
        stop_deadline: Duration::from_secs(1),
    });
    let server = server.await.unwrap();
    let address = server.address();
    let (_, model) = watch::channel(state);
    let routes = api::routes(ApiSettings {
        model,
        slots_visible,
        max_tokens: None,
    });
    tokio::spawn(server.serve(
        witness::watch(routes),
        std::future::pending(),
        std::future::pending(),
    ));
    address
}
