//! Attacks from this machine on a server with the default model, each beside a witness: a client whose stream must not
//! pause for a second and must have the text that it has without the attack. At the end the server has no more memory than
//! at the beginning, and stops at once. `make attack` runs it, Linux only; `ATTACK_ROUNDS` says how often.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "how long the gaps were is of interest")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/program.rs"]
mod program;
#[path = "../common/running.rs"]
mod running;

mod connections;
mod requests;
mod target;

use std::time::{Duration, Instant};

use target::Target;

/// Connections at once of the server that is attacked: few, so that all can be taken.
const MAX_CONNECTIONS: usize = 256;
/// How much more memory the server may have in the end: what allocators keep of threads and buffers.
const MAX_GROWTH: f64 = 0.2;
/// The longest that a stop may take while silent connections are open.
const STOP_TIME: Duration = Duration::from_secs(10);

fn rounds() -> usize {
    std::env::var("ATTACK_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_is_served_beside_every_attack() {
    let most = MAX_CONNECTIONS.to_string();
    let options = [
        "--timeout",
        "5",
        "--queue",
        "16",
        "--max-connections",
        &most,
    ];
    let (program, address) =
        program::ready_with(&[&options[..], &["--connections-per-address", &most]].concat());
    let target = Target::new(&address, program.id());
    // What is made once is made now: the grammars' vocabulary, threads, buffers of usual size.
    target.warm_up().await;
    let before = target.resident_bytes();
    for round in 0..rounds() {
        println!("round {round}");
        target
            .beside_witness("silent connections", connections::silent(&target))
            .await;
        target
            .beside_witness("connections that come and go", connections::flood(&target))
            .await;
        target
            .beside_witness("expensive preparations", requests::preparations(&target))
            .await;
        target
            .beside_witness("multiplied bodies", requests::multiplied(&target))
            .await;
        target
            .beside_witness("unfinished bodies", requests::unfinished(&target))
            .await;
        target
            .beside_witness("disconnects", requests::disconnects(&target))
            .await;
    }
    let after = target.resident_bytes();
    let growth = after as f64 / before as f64 - 1.0;
    println!(
        "resident memory: {} MiB before, {} MiB after",
        before >> 20,
        after >> 20
    );
    assert!(
        growth < MAX_GROWTH,
        "resident memory grew by {:.0} %",
        100.0 * growth
    );
    let _silent = connections::open_silent(&target, MAX_CONNECTIONS).await;
    let asked = Instant::now();
    assert_eq!(program.stop().code, Some(0));
    assert!(
        asked.elapsed() < STOP_TIME,
        "it stopped after {:?}",
        asked.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_lock_clients_out_of_an_encrypted_server() {
    connections::silent_tls(MAX_CONNECTIONS).await;
}
