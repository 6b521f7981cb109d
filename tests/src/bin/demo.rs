//! `cargo run --bin demo`: the whole story in one process on loopback, each step printed as it happens, with its time.
//!
//! The program takes no arguments but `--help` and `--version`. It ends with 1 when a step did not happen within its deadline. `RUST_LOG` shows the
//! relay's own log beside the story.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tests::story;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// The whole story in one process on loopback: registrar, push stand-ins, relay, phone, caller; each step printed as it happens, with its time
#[derive(Parser)]
#[command(name = "demo", version)]
struct Cli {}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::ERROR.into()).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut tell = |at: Duration, what: &str| println!("{:>9.3} s  {what}", at.as_secs_f64());
    match story::play(&mut tell).await {
        Ok(()) => {
            println!("every step happened");
            ExitCode::SUCCESS
        }
        Err(missed) => {
            println!("           MISSED: {missed}");
            ExitCode::FAILURE
        }
    }
}
