//! The operator's token as a configuration has it now, and nothing else of it: for who shows a token that is to be taken.
//!
//! Invariant: nothing that is wrong with the rest of the file, or with the other files that it names, is in the way. A file that is no TOML names no token.

use std::path::Path;

use toml::Table;

use super::reader::{found, token_in};
use super::{environment, sections};
use crate::regular_file;
use crate::secret::ApiKey;

const VARIABLE: &str = "SIPWAKE_OPERATOR__TOKEN_FILE";

/// The token in the file that the environment, or the configuration in `source`, names; `None` where there is none that it could use.
pub fn operator_token(source: &Path) -> Option<ApiKey> {
    let environment = environment::of_this_process();
    let named = environment.iter().find(|(name, _)| name == VARIABLE).map(|(_, file)| file.clone());
    let named = named.or_else(|| {
        let text = String::from_utf8(regular_file::read(source).ok()?).ok()?;
        let table: Table = text.parse().ok()?;
        table.get("operator")?.get("token_file")?.as_str().map(str::to_owned)
    })?;
    let directory = source.parent().unwrap_or(Path::new(""));
    token_in(&found(&named, directory, sections::credentials(&environment).as_deref()))
}
