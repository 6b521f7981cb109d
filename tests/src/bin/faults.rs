//! `faults`: the table of what push services that misbehave cost. See [`tests::load::faults`], or `faults --help`.
//!
//! Invariant: exits with 0 when every fault was measured, with 1 and the reason on stderr otherwise, with 2 on bad usage.

use std::process::ExitCode;

use clap::Parser as _;
use tests::load::faults::{self, Arguments, Table};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        faults::list().for_each(|(name, words)| println!("{name:24}{words}"));
        return ExitCode::SUCCESS;
    }
    let (meant, before, known) =
        match (arguments.faults(), faults::read(&arguments.before), faults::read(&arguments.table_of)) {
            (Ok(meant), Ok(before), Ok(known)) => (meant, before, known),
            (Err(why), _, _) => return bad_usage(&why),
            (_, Err(why), _) | (_, _, Err(why)) => return bad_usage(&why.to_string()),
        };
    let table = if arguments.table_of.is_empty() {
        let each = |row: &faults::Row| {
            if arguments.json {
                println!("{}", serde_json::to_string(row).unwrap_or_default());
            }
        };
        faults::run(&arguments, &meant, each).await
    } else {
        Table { rows: known, ..Table::default() }
    };
    let whole = table.failed.is_empty();
    if !arguments.json {
        print!("{}", Table { before, ..table });
    }
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bad_usage(why: &str) -> ExitCode {
    eprintln!("faults: {why}");
    ExitCode::from(2)
}
