//! Overrides from the environment.
//!
//! `SIPWAKE_CALL__RING_TIMEOUT` sets `call.ring_timeout`; `SIPWAKE_APP__0__APNS__KEY_FILE` sets
//! `app[0].apns.key_file`. A list is written with commas or as a TOML array.
//!
//! Invariant: a variable whose name begins with `SIPWAKE_` and holds two underscores in a row names a setting or is
//! a problem; any other variable is none of ours (a cluster adds `SIPWAKE_PORT` and the like by itself).

use toml::{Table, Value};

use super::problem::Problem;

const PREFIX: &str = "SIPWAKE_";

/// Tables in an array that a variable may reach, so that a large index cannot make a large array.
const MAX_INDEX: usize = 64;

/// The variables of this process; one that is not Unicode cannot name a setting and is left out.
pub(super) fn of_this_process() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Where a value was set from the environment: its place and the variable's name.
pub(super) type Origins = Vec<(String, String)>;

/// Writes the overrides into `root`.
pub(super) fn apply(
    root: &mut Table,
    variables: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) -> Origins {
    let mut ours: Vec<_> = variables
        .into_iter()
        .filter(|(name, _)| name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains("__")))
        .collect();
    ours.sort();
    let mut origins = Origins::new();
    for (name, value) in ours {
        let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        match set(root, &path, value) {
            Some(place) => origins.push((place, name)),
            None => problems.push(Problem::new(
                &name,
                "names no setting",
                "write SIPWAKE_SECTION__KEY, and SIPWAKE_APP__0__KEY for the first [[app]]",
            )),
        }
    }
    origins
}

/// Sets the value at `path`, making tables on the way; gives back its place, or `None` when the path leads nowhere.
fn set(root: &mut Table, path: &[String], value: String) -> Option<String> {
    let (last, way) = path.split_last()?;
    if path.iter().any(String::is_empty) {
        return None;
    }
    let mut table = root;
    let mut place = String::new();
    let mut steps = way.iter().peekable();
    while let Some(step) = steps.next() {
        place.push_str(step);
        let index = steps.peek().and_then(|next| next.parse::<usize>().ok());
        let entry = table.entry(step.clone());
        table = match index {
            None => entry.or_insert_with(|| Value::Table(Table::new())).as_table_mut()?,
            Some(index) => {
                steps.next();
                let array = entry.or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
                if index > array.len() || index >= MAX_INDEX {
                    return None;
                }
                if index == array.len() {
                    array.push(Value::Table(Table::new()));
                }
                place.push_str(&format!("[{index}]"));
                array[index].as_table_mut()?
            }
        };
        place.push('.');
    }
    place.push_str(last);
    table.insert(last.clone(), Value::String(value));
    Some(place)
}
