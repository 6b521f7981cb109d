//! The operator listener of a configuration, and beside which keyring its relay notes where it listens; nothing else of it: for a check whether its relay is alive.
//!
//! Invariant: nothing that is wrong with the rest of the file, or with the files that it names, is in the way. A file that is half
//! written is read line by line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::Table;

use super::reader::found;
use super::{HostPort, environment, sections, values};
use crate::regular_file;

/// The usual address of the listener.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9443);

/// The address that reaches it from this machine, by the environment, the configuration in `file`, or the usual one.
pub fn operator_listener(file: &Path) -> SocketAddr {
    let named = named(&environment::of_this_process(), &text_of(file), "operator", "listen");
    values::reachable(named.and_then(|text| values::socket_address(&text)).unwrap_or(USUAL))
}

/// The keyring and the public address of the relay, likewise: they tell where its notes are. `None`: it names no address.
pub fn place_of_notes(file: &Path) -> Option<(PathBuf, HostPort)> {
    let (environment, text) = (environment::of_this_process(), text_of(file));
    let public = named(&environment, &text, "edge", "public")?;
    let public = values::host_port(&public, sections::PORT_OF_EDGE)?;
    let keyring = named(&environment, &text, "store", "keyring");
    let directory = file.parent().unwrap_or(Path::new(""));
    let keyring = match keyring {
        Some(keyring) => found(&keyring, directory, sections::credentials(&environment).as_deref()),
        None => directory.join(sections::KEYRING),
    };
    Some((keyring, public))
}

fn text_of(file: &Path) -> String {
    let text = regular_file::read_anything(file, regular_file::MAX_FILE).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// A setting by the environment, or by a configuration.
fn named(environment: &[(String, String)], text: &str, section: &str, key: &str) -> Option<String> {
    let variable = format!("SIPWAKE_{}__{}", section.to_uppercase(), key.to_uppercase());
    let of_environment = environment.iter().find(|(name, _)| *name == variable).map(|(_, value)| value.clone());
    of_environment.or_else(|| setting(text, section, key))
}

fn setting(text: &str, section: &str, key: &str) -> Option<String> {
    match text.parse::<Table>() {
        Ok(table) => table.get(section)?.get(key)?.as_str().map(str::to_owned),
        Err(_) => {
            let header_of_section = format!("[{section}]");
            let in_section = |is_in: &mut bool, line: &str| {
                let header = line.split('#').next().unwrap_or_default().trim();
                if header.starts_with('[') {
                    *is_in = header == header_of_section;
                }
                *is_in
            };
            let mut is_in = false;
            let mut lines = text.lines().map(str::trim).filter(|line| in_section(&mut is_in, line));
            lines.find_map(|line| {
                let (name, value) = line.split_once('=')?;
                let value = value.split('#').next()?.trim().trim_matches(['"', '\'']);
                (name.trim() == key && !value.is_empty()).then(|| value.to_owned())
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

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
            assert_eq!(setting(text, "operator", "listen").as_deref(), listen, "{text}");
        }
        assert_eq!(operator_listener(Path::new("/nowhere/relay.toml")), USUAL);
    }

    #[test]
    fn the_place_of_notes_is_found_in_a_file_that_is_half_written() {
        let folder = std::env::temp_dir().join(format!("sipwake-notes-{:x}", u64::from_le_bytes(random::bytes::<8>())));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("relay.toml");
        for (text, place) in [
            ("[edge]\npublic = \"Relay.example.net\"\n", Some(("secrets/keyring", "relay.example.net:5061"))),
            ("[edge]\npublic = \"a.example:1\"\n[store]\nkeyring = \"k\"\n[api\n", Some(("k", "a.example:1"))),
            ("[store]\nkeyring = \"/k\"\n[edge]\npublic = \"a.example:1\"\n", Some(("/k", "a.example:1"))),
            ("[store]\nkeyring = \"k\"\n", None),
        ] {
            std::fs::write(&file, text).unwrap();
            let found = place_of_notes(&file).map(|(keyring, public)| (keyring, public.to_string()));
            assert_eq!(found, place.map(|(keyring, public)| (folder.join(keyring), public.to_owned())), "{text}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(place_of_notes(&file), None);
    }
}
