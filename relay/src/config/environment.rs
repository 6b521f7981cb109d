//! Overrides from the environment.
//!
//! `SIPWAKE_CALL__RING_TIMEOUT` sets `call.ring_timeout`; `SIPWAKE_APP__0__APNS__KEY_FILE` sets
//! `app[0].apns.key_file`. A list is written with commas or as a TOML array.
//!
//! Invariant: a variable whose name begins with `SIPWAKE_` names a setting, is one of [`OTHERS`], or is one that a cluster
//! adds by itself for a service `sipwake` (`SIPWAKE_PORT=tcp://…`); every other one is said, and so is one that is no Unicode. No value is repeated.

use std::ffi::OsString;

use toml::{Table, Value};

use super::problem::Problem;

const PREFIX: &str = "SIPWAKE_";

/// Variables of ours that are no settings: those of debug builds and of the tests. One that ends in `_` is a beginning.
const OTHERS: [&str; 5] = ["SIPWAKE_TIMING", "SIPWAKE_SHARDS", "SIPWAKE_BINARY", "SIPWAKE_SIM_", "SIPWAKE_TEST_"];

/// Tables in an array that a variable may reach, so that a large index cannot make a large array.
const MAX_INDEX: usize = 64;

/// The variables of this process that are Unicode.
pub(super) fn of_this_process() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Those that are to set something and cannot, for they are no Unicode.
pub(super) fn unreadable(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<Problem> {
    let ours = variables.filter_map(|(name, value)| {
        let shown = name.to_string_lossy().into_owned();
        let sets = shown.strip_prefix(PREFIX).is_some_and(|rest| rest.contains("__"));
        (sets && (name.to_str().is_none() || value.to_str().is_none())).then_some(shown)
    });
    let mut names: Vec<String> = ours.collect();
    names.sort();
    names.iter().map(|name| Problem::new(name, "is not UTF-8", "write it in UTF-8, or remove it")).collect()
}

/// Where a value was set from the environment: its place and the variable's name.
pub(super) type Origins = Vec<(String, String)>;

/// Writes the overrides into `root`.
pub(super) fn apply(root: &mut Table, variables: &[(String, String)], problems: &mut Vec<Problem>) -> Origins {
    let is_ours = |name: &str| name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains("__"));
    let mut ours: Vec<_> = variables.iter().filter(|(name, _)| is_ours(name)).cloned().collect();
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

/// The variables that begin like ours and set nothing: those that are a setting but for an underscore, and the others.
pub(super) fn strays(variables: &[(String, String)], settings: &[String]) -> (Vec<Problem>, Vec<Problem>) {
    let flat = |place: &str| place.replace(['.', '['], "_").replace(']', "").to_ascii_uppercase();
    let (mut meant, mut others) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !rest.contains("__")) else { continue };
        if is_another(name) || is_of_a_cluster(rest, value) {
            continue;
        }
        // A section by itself is none.
        let is_setting = |place: &&String| place.contains('.') && flat(place) == rest.to_ascii_uppercase();
        let setting = settings.iter().find(is_setting);
        match setting {
            Some(place) => {
                let right = place.replace(['.', '['], "__").replace(']', "").to_ascii_uppercase();
                let remedy = format!("write {PREFIX}{right}, with two underscores between the parts");
                meant.push(Problem::new(name, "sets nothing", remedy));
            }
            None => {
                let remedy = "remove it, or write SIPWAKE_SECTION__KEY, with two underscores between the parts";
                others.push(Problem::new(name, "names no setting", remedy));
            }
        }
    }
    (meant, others)
}

fn is_another(name: &str) -> bool {
    OTHERS.iter().any(|other| if other.ends_with('_') { name.starts_with(other) } else { name == *other })
}

/// What Kubernetes sets in each container for a service whose name begins with `sipwake`.
fn is_of_a_cluster(rest: &str, value: &str) -> bool {
    let rest = format!("_{rest}");
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let of_a_port = |kind: &str| {
        let Some((_, port)) = rest.rsplit_once("_PORT_") else { return false };
        let digits = port.split('_').next().is_some_and(|digits| digits.parse::<u16>().is_ok());
        digits && port.contains(kind)
    };
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && address)
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|kind| of_a_port(kind))
        || rest.rsplit_once("_PORT_").is_some_and(|(_, port)| matches!(port, "PROTO" | "ADDR" | "PORT"))
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

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_variable_of_ours_that_is_no_unicode_is_a_problem_and_another_ones_is_not() {
        let odd = || OsString::from_vec(vec![b'5', 0xff]);
        let variables = [
            ("SIPWAKE_CALL__RING_TIMEOUT".into(), odd()),
            ([OsString::from("SIPWAKE_CALL__"), odd()].into_iter().collect::<OsString>(), "5s".into()),
            ("SIPWAKE_STORE__URL".into(), "memory:".into()),
            ("PATH".into(), odd()),
            ("SIPWAKE_TYPO".into(), odd()),
        ];
        let told = unreadable(variables.into_iter());
        let places: Vec<&str> = told.iter().map(|problem| &*problem.place).collect();
        assert_eq!(places, ["SIPWAKE_CALL__5\u{fffd}", "SIPWAKE_CALL__RING_TIMEOUT"]);
    }
}
