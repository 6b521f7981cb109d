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

/// Entries of a list and tables of an array, in the file and by the environment; more is refused.
pub(super) const MAX_ENTRIES: usize = 1_024;

/// Variables of ours that are no settings: those of debug builds and of the tests. One that ends in `_` is a beginning.
const OTHERS: [&str; 5] = ["SIPWAKE_TIMING", "SIPWAKE_SHARDS", "SIPWAKE_BINARY", "SIPWAKE_SIM_", "SIPWAKE_TEST_"];

/// The variables of this process that are Unicode.
pub(super) fn of_this_process() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Variables that are to set something and cannot, for they are no Unicode.
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

/// The settings from the environment: each place and the variable's name.
pub(super) type Origins = Vec<(String, String)>;

/// Writes the overrides into `root`.
pub(super) fn apply(root: &mut Table, variables: &[(String, String)], problems: &mut Vec<Problem>) -> Origins {
    let is_ours = |name: &str| name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains("__"));
    let path = |name: &str| name[PREFIX.len()..].split("__").map(Step::of).collect::<Vec<_>>();
    let ours = variables.iter().filter(|(name, _)| is_ours(name));
    let mut ours: Vec<_> = ours.map(|(name, value)| (path(name), name, value)).collect();
    // The tables of an array one after the other, each by its number.
    ours.sort();
    let mut origins = Origins::new();
    let mut before: Option<(Vec<Step>, &String)> = None;
    for (path, name, value) in ours {
        // Of two that are written differently none is the right one: upper and lower case, `0` and `00`.
        if let Some((_, other)) = before.as_ref().filter(|(earlier, _)| *earlier == path) {
            problems.push(Problem::new(name, format!("sets what {other} sets, too"), "remove one of the two"));
            continue;
        }
        before = Some((path.clone(), name));
        let remedy = match set(root, &path, value) {
            Ok(place) => {
                origins.push((place, name.clone()));
                continue;
            }
            Err(Nowhere::Unnamed) => {
                "write SIPWAKE_SECTION__KEY, and SIPWAKE_APP__0__KEY for the first [[app]]".to_owned()
            }
            Err(Nowhere::Gap { array, next }) => format!(
                "the next [[{array}]] is {PREFIX}{}__{next}__…: leave out no number, and write at most {MAX_ENTRIES} of them",
                array.to_ascii_uppercase()
            ),
        };
        problems.push(Problem::new(name, "names no setting", remedy));
    }
    origins
}

/// A part of a variable's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The number of a table in an array.
    Index(usize),
    /// A section, or a key.
    Key(String),
}

impl Step {
    fn of(part: &str) -> Self {
        part.parse().map_or_else(|_| Self::Key(part.to_ascii_lowercase()), Self::Index)
    }
}

/// Why a path leads nowhere.
enum Nowhere {
    /// No setting can be called so.
    Unnamed,
    /// The index is beyond the next free one of its array.
    Gap { array: String, next: usize },
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

/// Variables that Kubernetes sets in each container for a service whose name begins with `sipwake`.
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

/// Sets the value at `path`, making tables on the way; gives back its place.
fn set(root: &mut Table, path: &[Step], value: &str) -> Result<String, Nowhere> {
    let Some((Step::Key(last), mut way)) = path.split_last() else { return Err(Nowhere::Unnamed) };
    let mut table = root;
    let mut place = String::new();
    while let Some((Step::Key(step), rest)) = way.split_first() {
        place.push_str(step);
        if step.is_empty() {
            return Err(Nowhere::Unnamed);
        }
        let entry = table.entry(step.clone());
        (table, way) = match rest.split_first() {
            Some((Step::Index(index), rest)) => {
                let array = entry.or_insert_with(|| Value::Array(Vec::new()));
                let array = array.as_array_mut().ok_or(Nowhere::Unnamed)?;
                if *index > array.len() || *index >= MAX_ENTRIES {
                    return Err(Nowhere::Gap { array: step.clone(), next: array.len() });
                }
                if *index == array.len() {
                    array.push(Value::Table(Table::new()));
                }
                place.push_str(&format!("[{index}]"));
                (array[*index].as_table_mut().ok_or(Nowhere::Unnamed)?, rest)
            }
            _ => {
                let section = entry.or_insert_with(|| Value::Table(Table::new()));
                (section.as_table_mut().ok_or(Nowhere::Unnamed)?, rest)
            }
        };
        place.push('.');
    }
    if !way.is_empty() || last.is_empty() {
        return Err(Nowhere::Unnamed);
    }
    place.push_str(last);
    table.insert(last.clone(), Value::String(value.to_owned()));
    Ok(place)
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

    #[test]
    fn the_tables_of_an_array_are_counted_as_numbers_are_and_as_far_as_the_file_may_go() {
        let number = |index: usize| (format!("SIPWAKE_SIP_SERVER__{index}__ID"), format!("pbx-{index}"));
        let ids = |root: &Table| {
            let all = root["sip_server"].as_array().unwrap().iter();
            all.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for count in [12, 101, MAX_ENTRIES] {
            let (mut root, mut problems) = (Table::new(), Vec::new());
            let variables: Vec<_> = (0..count).rev().map(number).collect();
            let origins = apply(&mut root, &variables, &mut problems);
            assert!(problems.is_empty(), "{problems:?}");
            assert_eq!(ids(&root), (0..count).map(|index| format!("pbx-{index}")).collect::<Vec<_>>());
            assert_eq!(origins[count - 1], (format!("sip_server[{}].id", count - 1), number(count - 1).0));
        }
        // One of a file's tables, whichever it is.
        let text: String = (0..70).map(|index| format!("[[sip_server]]\nid = \"file-{index}\"\n")).collect();
        let (mut root, mut problems) = (text.parse::<Table>().unwrap(), Vec::new());
        apply(&mut root, &[number(64)], &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((ids(&root)[63].as_str(), ids(&root)[64].as_str()), ("file-63", "pbx-64"));
    }

    #[test]
    fn two_variables_for_one_setting_are_a_problem_that_names_both() {
        for (one, other) in [
            ("SIPWAKE_EDGE__LISTEN", "SIPWAKE_edge__listen"),
            ("SIPWAKE_APP__0__ID", "SIPWAKE_APP__00__ID"),
            ("SIPWAKE_APP__0__APNS__KEY_ID", "SIPWAKE_APP__+0__Apns__KEY_ID"),
        ] {
            let variables = [(one.to_owned(), "a".to_owned()), (other.to_owned(), "a".to_owned())];
            let mut problems = Vec::new();
            apply(&mut Table::new(), &variables, &mut problems);
            assert_eq!(problems.len(), 1, "{problems:?}");
            let told = problems[0].to_string();
            assert!(told.contains(one) && told.contains(other), "{told}");
        }
    }

    #[test]
    fn what_a_variable_brings_in_is_told_with_its_name_and_with_no_line_of_the_file() {
        let text = "[[app]]\nid = \"com.example.one\"\n[edge]\n";
        for (variable, place) in [
            ("SIPWAKE_FOO__BAR", "foo (from SIPWAKE_FOO__BAR)"),
            ("SIPWAKE_APP__0__APNSX__KEY_ID", "app[0].apnsx (from SIPWAKE_APP__0__APNSX__KEY_ID)"),
            ("SIPWAKE_EDGE__LISTN", "edge.listn (from SIPWAKE_EDGE__LISTN)"),
            ("SIPWAKE_APP__1__ID", "app[1].api_key_file (beside SIPWAKE_APP__1__ID)"),
        ] {
            let set = [(variable.to_owned(), "com.example.two".to_owned())];
            let read = crate::config::Config::read(text, std::path::Path::new("/nowhere"), set);
            let problems = read.expect_err("there are problems");
            let told = problems.iter().find(|problem| problem.place == place);
            assert!(told.is_some_and(|problem| problem.line.is_none()), "{place}: {problems}");
        }
    }

    #[test]
    fn a_number_that_is_left_out_is_named() {
        for (names, wrong, next) in [
            (&["SIPWAKE_APP__0__ID", "SIPWAKE_APP__2__ID"][..], "SIPWAKE_APP__2__ID", Some("SIPWAKE_APP__1__…")),
            (&["SIPWAKE_APP__5000000000__ID"], "SIPWAKE_APP__5000000000__ID", Some("SIPWAKE_APP__0__…")),
            (&["SIPWAKE_APP__0"], "SIPWAKE_APP__0", None),
            (&["SIPWAKE_0__ID"], "SIPWAKE_0__ID", None),
            (&["SIPWAKE_CALL____RING_TIMEOUT"], "SIPWAKE_CALL____RING_TIMEOUT", None),
            (&["SIPWAKE_APP__0__1__ID"], "SIPWAKE_APP__0__1__ID", None),
            (&["SIPWAKE_APP__0__"], "SIPWAKE_APP__0__", None),
        ] {
            let variables: Vec<_> = names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
            let mut problems = Vec::new();
            apply(&mut Table::new(), &variables, &mut problems);
            assert_eq!(problems.len(), 1, "{names:?}: {problems:?}");
            assert_eq!(&*problems[0].place, wrong);
            let told = next.unwrap_or("SIPWAKE_APP__0__KEY for the first");
            assert!(problems[0].remedy.contains(told), "{problems:?}");
        }
    }
}
