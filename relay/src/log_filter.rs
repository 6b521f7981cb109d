//! The filter of the log: RUST_LOG speaks for this program, and for the libraries that it names.
//!
//! | RUST_LOG | what is told |
//! | --- | --- |
//! | nothing | INFO and above |
//! | `debug` | that level and above, also where a directive names nothing |
//! | `relay=debug`, `sipwake=debug` | either stands for the whole program, unless the other is named as well; all else from INFO on |
//! | a directive that is none, or a word that was meant for a level | it is left out, and the program says so |
//!
//! Invariant: no mistake in RUST_LOG silences the log.

use tracing::Level;
use tracing_subscriber::filter::{Directive, EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::Registry;

/// The names of the parts that are one program to its operator.
const PROGRAM: [&str; 2] = ["relay", "sipwake"];
/// The levels, as RUST_LOG has them.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Words that other programs have for levels.
const FOREIGN_LEVELS: [&str; 10] =
    ["all", "crit", "critical", "emerg", "fatal", "none", "notice", "quiet", "silent", "verbose"];

/// A filter, and what was left out of it.
pub struct Filtered {
    /// The filter itself.
    pub filter: Box<dyn Filter<Registry> + Send + Sync>,
    /// The directives that are none.
    pub ignored: Vec<String>,
}

/// The filter that these directives (RUST_LOG) ask for.
pub fn read(directives: &str) -> Filtered {
    let (wanted, ignored) = wanted(directives);
    let libraries = Libraries::named_in(directives);
    let filter = wanted.and(filter_fn(move |metadata| libraries.may_say(metadata.target(), *metadata.level())));
    Filtered { filter: Box::new(filter), ignored }
}

fn wanted(directives: &str) -> (EnvFilter, Vec<String>) {
    let mut filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy("");
    let mut ignored = Vec::new();
    let parts: Vec<&str> = directives.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_named = |name: &str| parts.iter().any(|part| target_of(part) == name);
    for part in &parts {
        let Some(directive) = part.parse::<Directive>().ok().filter(|_| !is_meant_for_a_level(part)) else {
            ignored.push((*part).to_owned());
            continue;
        };
        filter = filter.add_directive(directive);
        for (one, other) in [(PROGRAM[0], PROGRAM[1]), (PROGRAM[1], PROGRAM[0])] {
            if target_of(part) == one
                && !is_named(other)
                && let Ok(directive) = format!("{other}{}", &part[one.len()..]).parse::<Directive>()
            {
                filter = filter.add_directive(directive);
            }
        }
    }
    (filter, ignored)
}

/// The target of a directive, as `hickory_net` in `hickory_net=warn`.
fn target_of(directive: &str) -> &str {
    directive[..directive.find(['=', '[']).unwrap_or(directive.len())].trim()
}

/// Whether a word by itself, which would be a target, was most likely meant for a level: `warning`.
fn is_meant_for_a_level(part: &str) -> bool {
    let word = part.to_ascii_lowercase();
    let is_word = word.bytes().all(|byte| byte.is_ascii_alphabetic()) && !LEVELS.contains(&&*word);
    let begins_so = LEVELS.iter().any(|level| word.starts_with(level) || (word.len() > 2 && level.starts_with(&word)));
    is_word && (begins_so || FOREIGN_LEVELS.contains(&&*word))
}

/// Filter for the log lines of libraries.
///
/// | library | its lines |
/// | --- | --- |
/// | any | ERROR: lower levels may be said once for each packet of a stranger, and no line of it is counted and held back |
/// | one that RUST_LOG names | INFO and above: some tell at lower levels what they send |
/// | rustls | none: it repeats what a peer has said, and the relay tells of a failed handshake itself |
struct Libraries {
    named: Vec<String>,
}

impl Libraries {
    /// The targets of RUST_LOG's directives, as `hickory_net` in `info,hickory_net=warn`.
    fn named_in(directives: &str) -> Self {
        Self { named: directives.split(',').map(|directive| crate_of(target_of(directive)).to_owned()).collect() }
    }

    fn may_say(&self, target: &str, level: Level) -> bool {
        match crate_of(target) {
            "relay" | "sip" | "sipwake" => true,
            "rustls" => false,
            library if self.named.iter().any(|named| named == library) => level <= Level::INFO,
            _ => level <= Level::ERROR,
        }
    }
}

fn crate_of(target: &str) -> &str {
    target.split("::").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mistake_silences_the_log_and_what_was_left_out_is_told() {
        for (directives, shown, ignored) in [
            ("", "info", &[][..]),
            ("debug", "debug", &[]),
            ("WARN", "warn", &[]),
            ("warning", "info", &["warning"]),
            ("verbose, err", "info", &["verbose", "err"]),
            ("[", "info", &["["]),
            ("relay=warning,debug", "debug", &["relay=warning"]),
            ("off", "off", &[]),
        ] {
            let (filter, told) = wanted(directives);
            assert_eq!(
                (filter.to_string().as_str(), told.as_slice() == ignored),
                (shown, true),
                "{directives}: {told:?}"
            );
        }
    }

    #[test]
    fn either_name_of_the_program_stands_for_all_of_it_and_the_rest_is_told_from_info_on() {
        let parts = |directives: &str| {
            let (filter, _) = wanted(directives);
            let mut parts: Vec<String> = filter.to_string().split(',').map(str::to_owned).collect();
            parts.sort();
            parts
        };
        assert_eq!(parts("relay=debug"), ["info", "relay=debug", "sipwake=debug"]);
        assert_eq!(parts("sipwake=debug"), ["info", "relay=debug", "sipwake=debug"]);
        assert_eq!(parts("relay=debug,sipwake=warn"), ["info", "relay=debug", "sipwake=warn"]);
        assert_eq!(parts("relay::push=debug"), ["info", "relay::push=debug"]);
        assert_eq!(parts("error,hickory_net=warn"), ["error", "hickory_net=warn"]);
    }

    #[test]
    fn libraries_say_what_is_grave_unless_the_operator_asks_for_more() {
        let hickory = "hickory_net::udp::udp_client_stream";
        for directives in ["", "info", "debug", "trace,relay=info"] {
            let libraries = Libraries::named_in(directives);
            assert!(libraries.may_say("relay::net::dns::resolve", Level::TRACE), "{directives}");
            assert!(libraries.may_say(hickory, Level::ERROR), "{directives}");
            assert!(!libraries.may_say(hickory, Level::WARN), "{directives}");
        }
        for directives in ["info,hickory_net=warn", "hickory_net", "hickory_net::udp=trace", "hickory_net[query]=info"]
        {
            let libraries = Libraries::named_in(directives);
            assert!(
                libraries.may_say(hickory, Level::INFO) && !libraries.may_say(hickory, Level::DEBUG),
                "{directives}"
            );
            assert!(!libraries.may_say("h2::client", Level::WARN), "{directives}");
            assert!(!libraries.may_say("rustls::conn", Level::ERROR), "{directives}");
        }
        assert!(!Libraries::named_in("rustls=trace").may_say("rustls::conn", Level::ERROR));
    }
}
