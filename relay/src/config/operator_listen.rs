//! The operator listener of a configuration, and nothing else of it: for a check whether its relay is alive.
//!
//! Invariant: nothing that is wrong with the rest of the file, or with the files that it names, is in the way. A file that is half
//! written is read line by line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use toml::Table;

use super::values;
use crate::regular_file;

/// The usual address of the listener.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9443);
const VARIABLE: &str = "SIPWAKE_OPERATOR__LISTEN";

/// The address that reaches it from this machine, by the environment, the configuration in `file`, or the usual one.
pub fn operator_listener(file: &Path) -> SocketAddr {
    let text = regular_file::read_anything(file, regular_file::MAX_FILE).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let named = std::env::var(VARIABLE).ok().or_else(|| listen_of(&text));
    values::reachable(named.and_then(|text| values::socket_address(&text)).unwrap_or(USUAL))
}

fn listen_of(text: &str) -> Option<String> {
    match text.parse::<Table>() {
        Ok(table) => table.get("operator")?.get("listen")?.as_str().map(str::to_owned),
        Err(_) => {
            let in_section = |section: &mut bool, line: &str| {
                let header = line.split('#').next().unwrap_or_default().trim();
                if header.starts_with('[') {
                    *section = header == "[operator]";
                }
                *section
            };
            let mut section = false;
            let mut lines = text.lines().map(str::trim).filter(|line| in_section(&mut section, line));
            lines.find_map(|line| {
                let (key, value) = line.split_once('=')?;
                let value = value.split('#').next()?.trim().trim_matches(['"', '\'']);
                (key.trim() == "listen" && !value.is_empty()).then(|| value.to_owned())
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_listener_is_found_in_a_file_that_is_whole_or_not() {
        for (text, listen) in [
            ("[operator]\nlisten = \"127.0.0.1:9000\"\n", Some("127.0.0.1:9000")),
            (
                "[edge]\nlisten = \"0.0.0.0:5061\"\n[operator]\nlisten = '[::1]:9000' # here\nnonsense = 1\n",
                Some("[::1]:9000"),
            ),
            ("operator.listen = \"127.0.0.1:9000\"\n", Some("127.0.0.1:9000")),
            ("[edge]\nlisten = \"0.0.0.0:5061\"\n", None),
            ("", None),
            // Half written.
            ("[operator]\nlisten = \"127.0.0.1:9000\" # here\n[edge]\npublic = \"relay", Some("127.0.0.1:9000")),
            (
                "[edge]\nlisten = \"0.0.0.0:5061\"\n[operator] # ours\n listen=\"127.0.0.1:9000\"\n[api\n",
                Some("127.0.0.1:9000"),
            ),
            ("[edge]\nlisten = \"0.0.0.0:5061\"\n[operator]\nlisten = \n[api\n", None),
            ("\u{0}\u{1}[[[", None),
        ] {
            assert_eq!(listen_of(text).as_deref(), listen, "{text}");
        }
        assert_eq!(operator_listener(Path::new("/nowhere/relay.toml")), USUAL);
    }
}
