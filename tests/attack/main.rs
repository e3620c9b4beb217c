//! Denial-of-service tests: attacks from this machine on a server with the default model. Another client, the witness,
//! reads streams in the meantime. No stream may pause for a second, and its text must be the same as without an
//! attack. Afterwards the server must use about as much memory as before and stop quickly. `make attack` runs the
//! tests, on Linux only; `ATTACK_ROUNDS` sets the number of rounds.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
#![expect(clippy::print_stdout, reason = "the test reports the measured gaps")]

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

/// Connection limit of the attacked server: low, so that an attack can reach it.
const MAX_CONNECTIONS: usize = 256;
/// Maximum growth of the server's resident memory, as a fraction: allocators keep memory of threads and buffers.
const MAX_GROWTH: f64 = 0.2;
/// Maximum duration of a stop while silent connections are open.
const MAX_STOP_DURATION: Duration = Duration::from_secs(10);

fn rounds() -> usize {
    std::env::var("ATTACK_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_correct_and_has_no_long_gap_during_any_attack() {
    let max_connections = MAX_CONNECTIONS.to_string();
    let options = [
        "--timeout",
        "5",
        "--queue",
        "16",
        "--max-connections",
        &max_connections,
    ];
    let (program, address) = program::ready_with(
        &[
            &options[..],
            &["--connections-per-address", &max_connections],
        ]
        .concat(),
    );
    let target = Target::new(&address, program.id());
    // Let the server allocate what it keeps before the measurement: the grammars' vocabulary, threads, buffers.
    target.warm_up().await;
    let before_bytes = target.resident_bytes();
    for round in 0..rounds() {
        println!("round {round}");
        target
            .run_with_witness("silent connections", connections::silent(&target))
            .await;
        target
            .run_with_witness("short-lived connections", connections::flood(&target))
            .await;
        target
            .run_with_witness("expensive preparations", requests::preparations(&target))
            .await;
        target
            .run_with_witness("multiplied bodies", requests::multiplied_bodies(&target))
            .await;
        target
            .run_with_witness("unfinished bodies", requests::unfinished_bodies(&target))
            .await;
        target
            .run_with_witness("disconnects", requests::disconnects(&target))
            .await;
    }
    let after_bytes = target.resident_bytes();
    let growth = after_bytes as f64 / before_bytes as f64 - 1.0;
    println!(
        "resident memory: {} MiB before, {} MiB after",
        before_bytes >> 20,
        after_bytes >> 20
    );
    assert!(
        growth < MAX_GROWTH,
        "resident memory grew by {:.0} %",
        100.0 * growth
    );
    let _silent = connections::open_silent(&target, MAX_CONNECTIONS).await;
    let stop_requested_at = Instant::now();
    assert_eq!(program.stop().code, Some(0));
    assert!(
        stop_requested_at.elapsed() < MAX_STOP_DURATION,
        "the stop took {:?}",
        stop_requested_at.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_block_other_clients_of_a_tls_server() {
    connections::silent_tls(MAX_CONNECTIONS).await;
}
