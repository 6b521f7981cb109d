//! The state folder of ACME.
//!
//! | file | what it is |
//! | --- | --- |
//! | `account.json` | the account at the CA, with its key |
//! | `issued.json` | from which CA the chain is, and for which names it was ordered |
//! | `order.json` | an order that was begun, with the key that its certificate is for; gone when that is in use |
//! | `certificate.pem` | the chain in use, leaf first |
//! | `certificate.key` | its key |
//!
//! Invariant: the folder is 0700 and each file 0600, and what root makes is its owner's whose folder it is in; a file is replaced by a rename, the key before the chain, and a pair that is half
//! replaced is none that is taken.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use instant_acme::{Account, AccountCredentials, NewAccount};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::AcmeError;
use super::http::Client;
use crate::clock;
use crate::config::Acme as Settings;
use crate::file_owner::{give_to_owner_of_its_folder, make_folder};
use crate::net::tls::{Doubt, ServerTls, doubts, web_client};
use crate::regular_file;

/// How long what stands in for a certificate says that it has been valid, and is.
const PAST: Duration = Duration::from_secs(30 * 86_400);
const FUTURE: Duration = Duration::from_secs(86_400);

/// Subject of the placeholder certificate.
const STANDS_IN: &str = "sipwake waits for its CA";

/// An order that was begun.
pub(super) struct Begun {
    /// Its URL at the CA.
    pub(super) url: String,
    /// The key that its certificate is for, in PEM.
    pub(super) key: Zeroizing<String>,
}

/// An order as it is kept; it is that of one account, for these names.
#[derive(Serialize, Deserialize)]
struct KeptOrder {
    account: String,
    names: Vec<String>,
    url: String,
    key: String,
}

/// The names that the chain in use was ordered for.
#[derive(Serialize, Deserialize)]
struct Issued {
    directory: String,
    names: Vec<String>,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    /// The folder at `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The chain and its key.
    pub fn pair(&self) -> (PathBuf, PathBuf) {
        (self.0.join("certificate.pem"), self.0.join("certificate.key"))
    }

    /// Makes the folder; and, where there is no certificate yet, or a process died between the two renames, one that is signed by
    /// itself and due at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare(&self, names: &[String]) -> io::Result<()> {
        make_folder(&self.0)?;
        // A disk that cannot be written any more, with a good certificate on it, keeps no relay from its start.
        if fs::metadata(&self.0)?.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(&self.0, Permissions::from_mode(0o700))?;
        }
        let (chain, key) = self.pair();
        // A file that is there and cannot be read is no reason to write over it.
        let readable = |file: &Path| {
            regular_file::read(file).map(drop).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })
        };
        readable(&chain)?;
        readable(&key)?;
        if ServerTls::load(&chain, &key).is_ok() {
            return Ok(());
        }
        let (key, chain) = stand_in(names).map_err(io::Error::other)?;
        self.keep(&key, &chain)
    }

    /// Keeps a key and its chain, in PEM.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn keep(&self, key: &str, chain: &str) -> io::Result<()> {
        let (chain_file, key_file) = self.pair();
        // Both are on the disk before either takes its place: a disk that is full changes nothing.
        let (key_aside, chain_aside) = (written(&key_file, key.as_bytes())?, written(&chain_file, chain.as_bytes())?);
        fs::rename(key_aside, key_file)?;
        fs::rename(chain_aside, chain_file)
    }

    /// The account at the CA of the settings, made when there is none.
    pub(super) async fn account(&self, settings: &Settings) -> Result<Account, AcmeError> {
        let client = || Ok::<_, AcmeError>(Box::new(Client::new(web_client(settings.ca_file.as_deref())?)));
        let file = self.0.join("account.json");
        if let Ok(text) = fs::read_to_string(&file).map(Zeroizing::new) {
            let is_of_this_ca = serde_json::from_str::<serde_json::Value>(&text)
                .is_ok_and(|told| told["directory"].as_str() == Some(&settings.directory_url));
            if let Ok(credentials) = serde_json::from_str::<AccountCredentials>(&text)
                && is_of_this_ca
            {
                return Ok(Account::builder_with_http(client()?).from_credentials(credentials).await?);
            }
        }
        let contact: Vec<&str> = settings.contact.iter().map(|contact| &**contact).collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = Account::builder_with_http(client()?).create(&new, settings.directory_url.to_string(), None);
        let (account, credentials) = made.await?;
        let text = Zeroizing::new(serde_json::to_string(&credentials).map_err(io::Error::other)?);
        fs::rename(written(&file, text.as_bytes())?, &file)?;
        Ok(account)
    }

    /// The chain that was kept last is that of these settings.
    pub(super) fn keep_issued(&self, settings: &Settings) -> io::Result<()> {
        let issued = Issued { directory: settings.directory_url.to_string(), names: settings.names.clone() };
        let text = serde_json::to_string(&issued).map_err(io::Error::other)?;
        let file = self.0.join("issued.json");
        fs::rename(written(&file, text.as_bytes())?, file)
    }

    /// Whether the chain in use is from the CA of these settings, and for their names. Of one that an earlier build ordered, or that
    /// somebody put there, its names tell, and the account that there is.
    pub(super) fn is_of(&self, settings: &Settings) -> bool {
        let read = |name: &str| fs::read_to_string(self.0.join(name)).ok();
        if let Some(issued) = read("issued.json").and_then(|text| serde_json::from_str::<Issued>(&text).ok()) {
            let sorted = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect::<BTreeSet<_>>();
            return *issued.directory == *settings.directory_url && sorted(&issued.names) == sorted(&settings.names);
        }
        let account = read("account.json").map(Zeroizing::new);
        let account = account.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        let directory = account.as_ref().and_then(|told| told["directory"].as_str());
        let hosts: Vec<&str> = settings.names.iter().map(String::as_str).collect();
        let found =
            doubts(&self.pair().0, &hosts, settings.ca_file.as_deref(), clock::advertised_now()).unwrap_or_default();
        directory.is_none_or(|directory| *directory == *settings.directory_url)
            && !found.iter().any(|doubt| matches!(doubt, Doubt::DoesNotName(..)))
    }

    /// Whether what is in use only stands in for a certificate.
    pub fn has_stand_in(&self) -> bool {
        let chain = regular_file::read(&self.pair().0).unwrap_or_default();
        CertificateDer::from_pem_slice(&chain).is_ok_and(|leaf| stands_in(&leaf))
    }

    /// The CA knows the account no more: the next order makes one.
    pub(super) fn forget_account(&self) -> io::Result<()> {
        self.remove("account.json")
    }

    /// The order that this account has begun for these names.
    pub(super) fn begun(&self, account: &str, names: &[String]) -> Option<Begun> {
        let text = fs::read_to_string(self.0.join("order.json")).map(Zeroizing::new).ok()?;
        let KeptOrder { account: of, names: for_names, url, key } = serde_json::from_str(&text).ok()?;
        let begun = Begun { url, key: Zeroizing::new(key) };
        (of == account && for_names == names).then_some(begun)
    }

    /// Keeps it.
    pub(super) fn keep_begun(&self, account: &str, names: &[String], begun: &Begun) -> io::Result<()> {
        let (account, names, url) = (account.to_owned(), names.to_vec(), begun.url.clone());
        let mut kept = KeptOrder { account, names, url, key: (*begun.key).clone() };
        let text = serde_json::to_string(&kept).map(Zeroizing::new).map_err(io::Error::other);
        kept.key.zeroize();
        let file = self.0.join("order.json");
        fs::rename(written(&file, text?.as_bytes())?, file)
    }

    /// Forgets the order, which is over: the next one is a new one.
    pub(super) fn forget_order(&self) -> io::Result<()> {
        self.remove("order.json")
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether it is what is shown until the CA has issued something.
pub fn stands_in(leaf: &CertificateDer<'_>) -> bool {
    leaf.windows(STANDS_IN.len()).any(|part| part == STANDS_IN.as_bytes())
}

/// A placeholder certificate, shown until the CA has issued one.
fn stand_in(names: &[String]) -> Result<(Zeroizing<String>, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, STANDS_IN);
    let now = SystemTime::now();
    params.not_before = (now - PAST).into();
    params.not_after = (now + FUTURE).into();
    let chain = params.self_signed(&key)?.pem();
    Ok((Zeroizing::new(key.serialize_pem()), chain))
}

/// Writes what is to take a file's place beside it; where.
fn written(file: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut aside = file.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    // A half-written file of an earlier run.
    let _ = fs::remove_file(&aside);
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    open.write_all(content)?;
    open.sync_all()?;
    give_to_owner_of_its_folder(&aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use super::*;

    #[test]
    fn a_pair_that_is_half_replaced_is_not_taken_and_one_that_is_whole_stays() {
        let folder = std::env::temp_dir().join(format!("sipwake-acme-{}", std::process::id()));
        let (files, names) = (Files::new(&folder), ["relay.example.net".to_owned()]);
        files.prepare(&names).unwrap();
        let (chain, key) = files.pair();
        let first = fs::read(&chain).unwrap();
        files.prepare(&names).unwrap();
        assert_eq!(fs::read(&chain).unwrap(), first, "a whole pair stays");
        // Killed between the two renames.
        let (other, _) = stand_in(&names).unwrap();
        fs::write(&key, other.as_bytes()).unwrap();
        assert!(ServerTls::load(&chain, &key).is_err());
        files.prepare(&names).unwrap();
        assert!(ServerTls::load(&chain, &key).is_ok() && fs::read(&chain).unwrap() != first);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn nothing_is_written_where_a_pair_is_whole_and_the_folder_its_users_alone() {
        let folder = std::env::temp_dir().join(format!("sipwake-acme-whole-{}", std::process::id()));
        let (files, names) = (Files::new(&folder), ["relay.example.net".to_owned()]);
        let changed_at = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            (found.ctime(), found.ctime_nsec())
        };
        files.prepare(&names).unwrap();
        let (chain, key) = files.pair();
        let before = [&folder, &chain, &key].map(|path| changed_at(path));
        // A change would be seen from the next moment on that the file system tells from this one.
        let beside = folder.with_extension("beside");
        while {
            fs::write(&beside, "").unwrap();
            changed_at(&beside) <= before[2].max(before[1]).max(before[0])
        } {}
        files.prepare(&names).unwrap();
        assert_eq!([&folder, &chain, &key].map(|path| changed_at(path)), before);
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        files.prepare(&names).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_file(&beside).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_root_makes_is_the_relays() {
        let above = std::env::temp_dir().join(format!("sipwake-acme-root-{}", std::process::id()));
        fs::create_dir_all(&above).unwrap();
        if fs::metadata(&above).unwrap().uid() != 0 {
            return fs::remove_dir_all(&above).unwrap();
        }
        chown(&above, Some(12_345), Some(12_346)).unwrap();
        let files = Files::new(&above.join("further/acme"));
        files.prepare(&["relay.example.net".to_owned()]).unwrap();
        let (chain, key) = files.pair();
        for path in [above.join("further"), above.join("further/acme"), chain, key] {
            let found = fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid()), (12_345, 12_346), "{}", path.display());
        }
        fs::remove_dir_all(&above).unwrap();
    }

    #[test]
    fn a_chain_of_another_ca_or_for_other_names_is_none_of_these_settings() {
        let folder = std::env::temp_dir().join(format!("sipwake-acme-issued-{}", std::process::id()));
        let files = Files::new(&folder);
        let settings = |directory: &str, names: &[&str]| Settings {
            directory_url: directory.into(),
            contact: Vec::new(),
            state: folder.clone(),
            challenge: crate::config::AcmeChallenge::Http01,
            listen: None,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ca_file: None,
        };
        let (staging, production) = ("https://staging.example/dir", "https://ca.example/dir");
        let first = settings(staging, &["a.example.net", "b.example.net"]);
        files.prepare(&first.names).unwrap();
        assert!(files.has_stand_in());
        // Of an earlier build: its names, and the account.
        assert!(files.is_of(&first) && !files.is_of(&settings(staging, &["a.example.net", "c.example.net"])));
        fs::write(folder.join("account.json"), format!("{{\"directory\":\"{staging}\"}}")).unwrap();
        assert!(files.is_of(&first) && !files.is_of(&settings(production, &["a.example.net"])));
        files.keep_issued(&first).unwrap();
        for (directory, names, is_of) in [
            (staging, &["b.example.net", "A.example.net"][..], true),
            (staging, &["a.example.net"], false),
            (staging, &["a.example.net", "b.example.net", "c.example.net"], false),
            (production, &["a.example.net", "b.example.net"], false),
        ] {
            assert_eq!(files.is_of(&settings(directory, names)), is_of, "{directory} {names:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_order_is_gone_on_with_by_its_own_account_and_for_its_own_names() {
        let folder = std::env::temp_dir().join(format!("sipwake-acme-order-{}", std::process::id()));
        let (files, names) = (Files::new(&folder), ["relay.example.net".to_owned()]);
        files.prepare(&names).unwrap();
        assert!(files.begun("https://ca/account/1", &names).is_none());
        let begun = Begun { url: "https://ca/order/1".to_owned(), key: Zeroizing::new("a key".to_owned()) };
        files.keep_begun("https://ca/account/1", &names, &begun).unwrap();
        let found = files.begun("https://ca/account/1", &names).expect("it was kept");
        assert_eq!((found.url, found.key), (begun.url, begun.key));
        assert!(files.begun("https://ca/account/2", &names).is_none());
        assert!(files.begun("https://ca/account/1", &["other.example.net".to_owned()]).is_none());
        assert_eq!(fs::metadata(folder.join("order.json")).unwrap().permissions().mode() & 0o777, 0o600);
        files.forget_order().unwrap();
        files.forget_order().unwrap();
        assert!(files.begun("https://ca/account/1", &names).is_none());
        fs::remove_dir_all(&folder).unwrap();
    }
}
