//! The operator's token, and the one that is to take its place.
//!
//! Invariant: the token in force opens everything. The one that its file has now opens the reload alone, which takes it when the whole
//! configuration can be used, and refuses the earlier one from then on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::api::access::KeyDigest;
use crate::config::Operator as Settings;
use crate::config::token_in;

/// What an operator shows.
pub(super) struct Token {
    in_force: ArcSwap<KeyDigest>,
    file: ArcSwap<Option<PathBuf>>,
}

impl Token {
    pub(super) fn new(in_force: KeyDigest) -> Self {
        Self { in_force: ArcSwap::from_pointee(in_force), file: ArcSwap::default() }
    }

    /// From now on it is this one, and its successor is looked for in its file.
    pub(super) fn take(&self, settings: &Settings) {
        self.in_force.store(Arc::new(KeyDigest::of(settings.token.expose())));
        self.file.store(Arc::new(settings.token_file.clone()));
    }

    /// Whether `shown` is the token in force.
    pub(super) fn fits(&self, shown: &KeyDigest) -> bool {
        self.in_force.load().fits(shown)
    }

    /// Whether `shown` is what its file has now. Reads the file.
    pub(super) fn is_next(&self, shown: &KeyDigest) -> bool {
        let file = self.file.load();
        let next = file.as_ref().as_ref().and_then(|file: &PathBuf| token_in(Path::new(file)));
        next.is_some_and(|next| KeyDigest::of(next.expose()).fits(shown))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::random;
    use crate::secret::ApiKey;
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
        token.take(&settings(first));
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
        token.take(&settings(second));
        assert!(token.fits(&KeyDigest::of(second)) && !token.fits(&KeyDigest::of(first)));
        std::fs::remove_file(&file).unwrap();
        assert!(!token.is_next(&KeyDigest::of(first)));
    }
}
