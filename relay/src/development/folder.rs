//! The state folder of a relay without a configuration: its CA, its keys and where it is, so that what was pasted once works
//! again after a restart, and `sipwake device` finds it by itself.
//!
//! | file | what it is | mode |
//! | --- | --- | --- |
//! | `ca.pem` | the CA that vouches for the certificates of this folder's relays | 0644 |
//! | `ca.key` | its key; it vouches for loopback alone, as long as nobody trusts it elsewhere | 0600 |
//! | `app-key`, `operator-token` | what an app and an operator show | 0600 |
//! | `sip-password` | the password of the accounts at the SIP server that comes with the relay | 0600 |
//! | `relay.json` | the addresses of the relay that was started last | 0600 |
//!
//! Invariant: the folder is its user's alone (0700), and a secret in it is made once, complete or not at all: of two relays
//! that start at once, the second one takes what the first one made. What lies there and is none, as an editor or a full disk leaves it, is
//! made anew, likewise once: a relay with an empty token would let everybody in.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::config;
use crate::random;
use crate::regular_file::BYTE_ORDER_MARK;

/// Random bytes of a key, and of a password that a person may have to type.
const KEY_BYTES: usize = 16;
const PASSWORD_BYTES: usize = 6;

/// A relay's state folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// The addresses of a relay without a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// `https://127.0.0.1:8443`
    pub api: String,
    /// `127.0.0.1:5060`, when it came with a SIP server.
    pub sip_server: Option<String>,
    /// `192.168.1.9`, where SIP servers elsewhere find it, when it was started for them.
    pub public: Option<String>,
}

impl Folder {
    /// The usual one: `$XDG_STATE_HOME/sipwake`, else `~/.local/state/sipwake`; `None` for a user without a home.
    pub fn usual() -> Option<PathBuf> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        state.map(|state| state.join("sipwake"))
    }

    /// The folder at `path`, made when it is absent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        Ok(Self(path.to_owned()))
    }

    /// The folder at `path`, when a relay has been started with it.
    pub fn existing(path: &Path) -> Option<Self> {
        path.join(RELAY).is_file().then(|| Self(path.to_owned()))
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A password that is as good as [`Folder::password`] and is kept nowhere.
    pub fn password_of_this_run() -> Zeroizing<String> {
        random_hex(PASSWORD_BYTES)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The key in this file, made when it is absent.
    ///
    /// # Errors
    /// When it can be neither read nor written.
    pub fn key(&self, name: &str) -> io::Result<Zeroizing<String>> {
        self.secret(name, KEY_BYTES, |text| config::token_of(text).is_some())
    }

    /// The password of the accounts of its SIP server, likewise.
    ///
    /// # Errors
    /// As for [`Folder::key`].
    pub fn password(&self) -> io::Result<Zeroizing<String>> {
        let is_password = |text: &str| !bare(text).is_empty() && !bare(text).contains(char::is_control);
        self.secret(PASSWORD, PASSWORD_BYTES, is_password)
    }

    /// The content of this file; when it is absent, or is not good, the result of `make` is kept in it.
    ///
    /// # Errors
    /// As for [`Folder::key`], and those of `make`.
    pub fn made(
        &self,
        name: &str,
        is_good: impl Fn(&str) -> bool,
        make: impl Fn() -> io::Result<Zeroizing<String>>,
    ) -> io::Result<Zeroizing<String>> {
        let mut has_made = false;
        loop {
            match self.kept(name, &is_good) {
                Ok(Some(kept)) => return Ok(kept),
                Ok(None) if has_made => return Err(io::Error::other(format!("{name} is no secret again"))),
                Ok(None) => self.make_anew(name, &is_good, &make)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !has_made => {
                    keep_first(&self.file(name), make()?.as_bytes())?;
                }
                Err(error) => return Err(error),
            }
            has_made = true;
        }
    }

    /// The secret in this file; `None`: it holds none.
    fn kept(&self, name: &str, is_good: impl Fn(&str) -> bool) -> io::Result<Option<Zeroizing<String>>> {
        let kept = Zeroizing::new(fs::read(self.file(name))?);
        let text = std::str::from_utf8(&kept).ok().filter(|text| is_good(text));
        Ok(text.map(|text| Zeroizing::new(text.to_owned())))
    }

    /// Puts a secret in the place of what is none, unless another relay has done so since.
    fn make_anew(
        &self,
        name: &str,
        is_good: impl Fn(&str) -> bool,
        make: impl Fn() -> io::Result<Zeroizing<String>>,
    ) -> io::Result<()> {
        let folder = File::open(&self.0)?;
        // Held until the folder is closed. A file system without locks does without: relays that start there at once may differ.
        let _ = folder.lock();
        if self.kept(name, is_good).is_ok_and(|kept| kept.is_some()) {
            return Ok(());
        }
        tracing::warn!(
            event = "state-made-anew",
            file = name,
            "what lay in the state folder is no secret that a relay can use, and is made anew; what was pasted of it is refused"
        );
        self.replace(name, make()?.as_bytes())
    }

    fn secret(&self, name: &str, bytes: usize, is_good: impl Fn(&str) -> bool) -> io::Result<Zeroizing<String>> {
        let text = self.made(name, is_good, || Ok(random_hex(bytes)))?;
        Ok(Zeroizing::new(bare(&text).to_owned()))
    }

    /// Keeps the certificate of its CA, in PEM.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_ca(&self, pem: &str) -> io::Result<()> {
        self.replace(CA, pem.as_bytes())?;
        fs::set_permissions(self.file(CA), Permissions::from_mode(0o644))
    }

    /// Says where the relay is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn say(&self, addresses: &Addresses) -> io::Result<()> {
        let text =
            json!({"api": addresses.api, "sip_server": addresses.sip_server, "public": addresses.public}).to_string();
        self.replace(RELAY, text.as_bytes())
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let aside = aside(&self.file(name));
        write_new(&aside, content)?;
        fs::rename(&aside, self.file(name))
    }

    /// The addresses of the relay that was started last.
    pub fn addresses(&self) -> Option<Addresses> {
        let told: Value = serde_json::from_str(&fs::read_to_string(self.file(RELAY)).ok()?).ok()?;
        let text = |member: &str| told[member].as_str().map(str::to_owned);
        Some(Addresses { api: text("api")?, sip_server: text("sip_server"), public: text("public") })
    }
}

/// The App's key.
pub const APP_KEY: &str = "app-key";
/// The operator's token.
pub const OPERATOR_TOKEN: &str = "operator-token";
/// The CA's certificate.
pub const CA: &str = "ca.pem";
/// The CA's key.
pub const CA_KEY: &str = "ca.key";
/// The password of the accounts at the SIP server.
pub const PASSWORD: &str = "sip-password";
const RELAY: &str = "relay.json";

/// A secret without what an editor adds to it.
fn bare(text: &str) -> &str {
    text.trim_start_matches(BYTE_ORDER_MARK).trim()
}

fn random_hex(bytes: usize) -> Zeroizing<String> {
    let mut random = Zeroizing::new(vec![0; bytes]);
    random::fill(&mut random);
    let mut text = Zeroizing::new(String::with_capacity(bytes * 2));
    for byte in random.iter() {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    text
}

/// Writes the file whole, unless another process was first.
fn keep_first(file: &Path, content: &[u8]) -> io::Result<()> {
    let aside = aside(file);
    write_new(&aside, content)?;
    let linked = fs::hard_link(&aside, file);
    fs::remove_file(&aside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn write_new(file: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(content)
}

/// A name beside the file's that nobody else takes.
fn aside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{:016x}", u64::from_ne_bytes(random::bytes())));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_is_its_users_alone() {
        let path = std::env::temp_dir().join(format!("sipwake-folder-{:016x}", u64::from_ne_bytes(random::bytes())));
        let folder = Folder::open(&path).unwrap();
        assert!(Folder::existing(&path).is_none(), "no relay was started with it");
        let made = std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| folder.key(APP_KEY).unwrap().to_string()));
            both.map(|one| one.join().unwrap())
        });
        assert_eq!(made[0], made[1]);
        assert_eq!(made[0].len(), 32);
        assert_eq!(*Folder::open(&path).unwrap().key(APP_KEY).unwrap(), made[0]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&folder.file(APP_KEY))), (0o700, 0o600));
        for (none, is_kept) in [
            ("", false),
            ("\n", false),
            ("abc", false),
            ("fifteen letters", false),
            ("a key that is long enough\n", true),
            ("\u{feff}a key behind a byte order mark\n", true),
        ] {
            fs::write(folder.file(APP_KEY), none).unwrap();
            let key = folder.key(APP_KEY).unwrap();
            assert_eq!(*key == none.trim_start_matches('\u{feff}').trim(), is_kept, "{none:?}");
            assert!(key.len() >= 16 && mode(&folder.file(APP_KEY)) == 0o600, "{none:?}");
            assert_eq!(folder.key(APP_KEY).unwrap(), key, "{none:?}: it is made once");
        }
        fs::write(folder.file(APP_KEY), [0xff; 40]).unwrap();
        assert_eq!(folder.key(APP_KEY).unwrap().len(), 32, "no text");
        let cases = [("", false), (" \n", false), ("\u{feff}\n", false), ("secret", true), ("\u{feff}secret", true)];
        for (none, is_kept) in cases {
            fs::write(folder.file(PASSWORD), none).unwrap();
            let password = folder.password().unwrap();
            assert!((*password == "secret") == is_kept && !password.is_empty(), "{none:?}");
        }
        fs::remove_file(folder.file(PASSWORD)).unwrap();
        let addresses = Addresses { api: "https://127.0.0.1:8443".to_owned(), sip_server: None, public: None };
        folder.say(&addresses).unwrap();
        assert_eq!(Folder::existing(&path).unwrap().addresses(), Some(addresses));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "nothing is left aside");
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn two_relays_that_find_what_is_no_secret_take_the_same_one() {
        let path = std::env::temp_dir().join(format!("sipwake-anew-{:016x}", u64::from_ne_bytes(random::bytes())));
        let folder = Folder::open(&path).unwrap();
        for _ in 0..20 {
            fs::write(folder.file(APP_KEY), "").unwrap();
            let both_have_read = std::sync::Barrier::new(2);
            let take = || {
                let has_read = std::cell::Cell::new(false);
                let is_good = |text: &str| {
                    if !has_read.replace(true) {
                        both_have_read.wait();
                    }
                    !text.is_empty()
                };
                folder.made(APP_KEY, is_good, || Ok(random_hex(KEY_BYTES))).unwrap()
            };
            let taken = std::thread::scope(|scope| [(); 2].map(|()| scope.spawn(take)).map(|one| one.join().unwrap()));
            assert_eq!(taken[0], taken[1]);
            assert_eq!(*fs::read_to_string(folder.file(APP_KEY)).unwrap(), **taken[0]);
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left aside");
        fs::remove_dir_all(&path).unwrap();
    }
}
