//! The operator's token, and the one that is to take its place.
//!
//! Invariant: the token in force opens everything. The one that its file has now, or the file that the configuration names now, opens the reload alone,
//! which takes it when the whole configuration can be used, and refuses the earlier one from then on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::api::access::KeyDigest;
use crate::config::Operator as Settings;
use crate::config::{operator_token, token_in};
use crate::secret::ApiKey;

/// The operator's token.
pub(super) struct Token {
    in_force: ArcSwap<KeyDigest>,
    file: ArcSwap<Option<PathBuf>>,
    /// The configuration.
    source: ArcSwap<Option<PathBuf>>,
}

impl Token {
    pub(super) fn new(in_force: KeyDigest) -> Self {
        Self { in_force: ArcSwap::from_pointee(in_force), file: ArcSwap::default(), source: ArcSwap::default() }
    }

    /// From now on it is this one, and its successor is looked for in its file, and in the one that the configuration in `source` names by then.
    pub(super) fn take(&self, settings: &Settings, source: Option<&Path>) {
        self.in_force.store(Arc::new(KeyDigest::of(settings.token.expose())));
        self.file.store(Arc::new(settings.token_file.clone()));
        self.source.store(Arc::new(source.map(Path::to_owned)));
    }

    /// Whether `shown` is the token in force.
    pub(super) fn fits(&self, shown: &KeyDigest) -> bool {
        self.in_force.load().fits(shown)
    }

    /// Whether `shown` is what its file has now, or the one that the configuration names now. Reads them.
    pub(super) fn is_next(&self, shown: &KeyDigest) -> bool {
        let (file, source) = (self.file.load(), self.source.load());
        let read = |path: &Option<PathBuf>, token: fn(&Path) -> Option<ApiKey>| path.as_deref().and_then(token);
        let fits = |next: ApiKey| KeyDigest::of(next.expose()).fits(shown);
        read(&file, token_in).is_some_and(fits) || read(&source, operator_token).is_some_and(fits)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::random;
    use crate::vault::hex;

    #[test]
    fn what_the_file_has_now_is_the_next_token_and_the_one_in_force_is_what_was_taken() {
        let file = std::env::temp_dir().join(format!("sipwake-operator-token-{}", hex(&random::bytes::<8>())));
        let settings = |token: &str| Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            token: ApiKey::new(token),
            token_file: Some(file.clone()),
        };
        let (first, second) = ("the-first-token-0123456789", "the-second-token-0123456789");
        let token = Token::new(KeyDigest::of(first));
        assert!(!token.is_next(&KeyDigest::of(second)), "no file was named");
        token.take(&settings(first), None);
        for (content, is_next) in [
            (second.to_owned(), true),
            (format!("{second}\n"), true),
            (format!("{second}\nand more\n"), false),
            (String::new(), false),
        ] {
            std::fs::write(&file, &content).unwrap();
            assert_eq!(token.is_next(&KeyDigest::of(second)), is_next, "{content}");
            assert!(token.fits(&KeyDigest::of(first)) && !token.fits(&KeyDigest::of(second)));
        }
        std::fs::write(&file, "short").unwrap();
        assert!(!token.is_next(&KeyDigest::of("short")), "no configuration could name it");
        token.take(&settings(second), None);
        assert!(token.fits(&KeyDigest::of(second)) && !token.fits(&KeyDigest::of(first)));
        std::fs::remove_file(&file).unwrap();
        assert!(!token.is_next(&KeyDigest::of(first)));
    }

    #[test]
    fn the_token_of_another_file_that_the_configuration_names_by_now_is_the_next_one() {
        let folder = std::env::temp_dir().join(format!("sipwake-operator-token-{}", hex(&random::bytes::<8>())));
        std::fs::create_dir(&folder).unwrap();
        let [source, old, new] = ["relay.toml", "token", "token-2"].map(|name| folder.join(name));
        let (first, second) = ("the-first-token-0123456789", "the-second-token-0123456789");
        std::fs::write(&old, first).unwrap();
        std::fs::write(&new, second).unwrap();
        let names = |file: &str| std::fs::write(&source, format!("[operator]\ntoken_file = \"{file}\"\n")).unwrap();
        let settings = |token: &str, file: &Path| Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            token: ApiKey::new(token),
            token_file: Some(file.to_owned()),
        };
        let token = Token::new(KeyDigest::of(first));
        names("token");
        token.take(&settings(first, &old), Some(&source));
        assert!(!token.is_next(&KeyDigest::of(second)));
        names("token-2");
        assert!(token.is_next(&KeyDigest::of(second)) && !token.fits(&KeyDigest::of(second)));
        token.take(&settings(second, &new), Some(&source));
        assert!(token.fits(&KeyDigest::of(second)) && !token.fits(&KeyDigest::of(first)));
        assert!(!token.is_next(&KeyDigest::of(first)), "what the earlier file has opens nothing any more");
        std::fs::write(&source, "[operator").unwrap();
        assert!(token.is_next(&KeyDigest::of(second)), "the file in force has it");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
