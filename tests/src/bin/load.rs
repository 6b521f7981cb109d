//! `load`: loads a relay on loopback and prints what it took. See [`tests::load`], or `load --help`.
//!
//! Invariant: exits with 0 when every phase came to its end, with 1 and the reason on stderr otherwise, with 2 on bad
//! usage.

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser as _;
use serde::Serialize;
use tests::load::Failure;
use tests::load::plan::Plan;

fn main() -> ExitCode {
    tests::load::against::floor::serve_if_asked().unwrap_or_else(run)
}

#[tokio::main]
async fn run() -> ExitCode {
    let mut plan = Plan::parse();
    let json = plan.json;
    if plan.nodes.is_some() {
        for said in plan.settle() {
            eprintln!("{said}");
        }
        match tests::load::nodes::run(&plan).await {
            Ok(report) if json => println!("{:#}", report.to_json()),
            Ok(report) => print!("{report}"),
            Err(failure) => {
                eprintln!("load: {failure}");
                return ExitCode::FAILURE;
            }
        }
        return ExitCode::SUCCESS;
    }
    if let Some(rival) = plan.against {
        for said in plan.settle() {
            eprintln!("{said}");
        }
        return show(json, tests::load::against::run(&plan, rival).await);
    }
    if plan.sweep.is_some() {
        return show(json, tests::load::sweep::run(plan).await);
    }
    match tests::load::run(plan).await {
        Ok(report) if json => println!("{:#}", report.to_json()),
        Ok(report) => print!("{report}"),
        Err(failure) => {
            eprintln!("load: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn show<T: Serialize + Display>(json: bool, outcome: Result<T, Failure>) -> ExitCode {
    match outcome {
        Ok(found) if json => println!("{:#}", serde_json::to_value(&found).unwrap_or_default()),
        Ok(found) => print!("{found}"),
        Err(failure) => {
            eprintln!("load: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
