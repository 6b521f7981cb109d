//! The content of the page, for a program and for a terminal.
//!
//! Invariant: it agrees with the page's banner, numbers and list of faults, by the same functions.

use serde_json::{Value, json};

use super::banner::{self, State};
use super::html::bound;
use super::{PageData, attention, numbers};
use crate::clock::advertised_now;
use crate::clock::rfc3339;

/// How the node `name` stands.
pub fn status(name: &str, look: &PageData<'_>) -> Value {
    let words = banner::words(look);
    let state = words.first().map_or(State::Good, |word| word.state);
    let says = words.iter().map(|word| json!({"state": word_of(word.state), "what": word.what, "next": word.next}));
    let numbers = numbers(look);
    let attention = attention::rows(look).into_iter().map(|row| {
        let [short, long, total] = row.counts;
        json!({
            "what": row.what, "last_5_min": whole(short), "last_hour": whole(long), "since_start": whole(total), "why": row.why,
        })
    });
    json!({
        "node": name,
        "version": env!("CARGO_PKG_VERSION"),
        "at": rfc3339(advertised_now()),
        "state": word_of(state),
        "says": says.collect::<Vec<_>>(),
        "numbers": {
            "phones_reachable": whole(numbers.reached),
            "phones": whole(numbers.all),
            "calls_waiting": whole(numbers.waiting),
            "pushes_accepted_5_min": numbers.pushes.iter().map(|(name, count)| ((*name).to_owned(), whole(*count))).collect::<serde_json::Map<_, _>>(),
            "wake_p90": bound(numbers.wake),
        },
        "attention": attention.collect::<Vec<_>>(),
    })
}

/// A count as a whole number, which metrics hold as a float.
fn whole(count: f64) -> Value {
    if count.fract() == 0.0 { json!(count as i64) } else { json!(count) }
}

fn word_of(state: State) -> &'static str {
    match state {
        State::Good => "good",
        State::Warn => "warn",
        State::Bad => "bad",
    }
}
