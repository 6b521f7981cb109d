//! `sipwake keys`: showing a keyring's fingerprint, mixing something into it, and beginning with a new one.
//!
//! Invariant: no key is printed, nor anything that one follows from.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::{CommandError, print_done};
use crate::clock::{DAY_S, Reading, rfc3339};
use crate::config::Config;
use crate::log::say_line;
use crate::random;
use crate::vault::{Fingerprint, Keyring};

/// The least that is mixed in, in bytes: fewer can be guessed.
const ENTROPY_MIN: usize = 16;
/// The most, in bytes.
const ENTROPY_MAX: u64 = 64 * 1024;

/// Show what tells a keyring from another one, and rotate it
#[derive(Args)]
pub struct Keys {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print the keyring's fingerprint; the same on each node of a store
    Show {
        #[command(flatten)]
        place: KeyringLocation,
        /// JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Mix something in that nobody can know who had the file until now; what was sealed before opens until its end
    Rotate {
        #[command(flatten)]
        place: KeyringLocation,
        /// What is mixed in, 16 bytes at least (`-`: the standard input): with the same on the same day (UTC) copies of the keyring
        /// on other machines stay alike. Without it: random bytes, and copies are to be replaced by this file
        #[arg(long, value_name = "FILE")]
        entropy: Option<PathBuf>,
    },
    /// Begin with a keyring that was made because there was none, although the store holds accounts: each app has to lend its account
    /// anew. What another one has sealed is not opened, and left to its expiry; what an app ends of it is erased
    Accept {
        #[command(flatten)]
        place: KeyringLocation,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct KeyringLocation {
    /// The relay's configuration file, which names the keyring
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The keyring
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
}

impl KeyringLocation {
    fn open(self) -> Result<Keyring, CommandError> {
        let path = match (self.keyring, self.config) {
            (Some(keyring), _) => Some(keyring),
            (None, Some(file)) => {
                let loaded =
                    Config::load(&file).map_err(|problems| CommandError::Configuration(problems.to_string()))?;
                loaded.store.keyring
            }
            (None, None) => None,
        };
        let path = path.filter(|path| path.exists());
        let path = path.ok_or_else(|| CommandError::Configuration("there is no such keyring yet".to_owned()))?;
        Keyring::open(&path).map_err(|error| CommandError::Configuration(error.to_string()))
    }
}

/// Does what is asked.
///
/// # Errors
/// [`CommandError`] when the keyring, or what is to be mixed in, cannot be used.
pub fn run(keys: Keys) -> Result<(), CommandError> {
    match keys.action {
        Action::Show { place, json } => Ok(std::io::stdout().write_all(shown(&place.open()?, json).as_bytes())?),
        Action::Accept { place } => {
            let keyring = place.open()?;
            keyring.accept().map_err(|error| CommandError::Configuration(error.to_string()))?;
            print_done(&shown(&keyring, false))
        }
        Action::Rotate { place, entropy } => {
            let keyring = place.open()?;
            let (bytes, note) = match entropy {
                Some(file) => (read(file)?, "Do the same with the copies of the keyring today (UTC)."),
                None => {
                    let bytes = Zeroizing::new(random::bytes::<32>().to_vec());
                    (bytes, "Copies of this keyring on other machines are now to be replaced by it.")
                }
            };
            keyring.mix(&bytes, Reading::now()).map_err(|error| CommandError::Configuration(error.to_string()))?;
            let printed = print_done(&shown(&keyring, false));
            say_line(format_args!("{note} A relay that runs takes it over within 10 s."));
            printed
        }
    }
}

fn shown(keyring: &Keyring, json: bool) -> String {
    let fingerprint = keyring.fingerprint(Reading::now());
    let (identity, chain) = (fingerprint.identity_text(), fingerprint.chain_text());
    let Fingerprint { day, rotation, .. } = fingerprint;
    let day = rfc3339(u64::from(day) * DAY_S)[..10].to_owned();
    if json {
        format!("{}\n", json!({"ring": identity, "day": day, "rotation": rotation, "chain": chain}))
    } else {
        format!("keyring      {identity}\nrotation     {rotation}\nkey of today {chain} ({day})\n")
    }
}

fn read(file: PathBuf) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(ENTROPY_MAX as usize));
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(ENTROPY_MAX).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(&file).and_then(|opened| opened.take(ENTROPY_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|why| CommandError::File { file, why })?;
    if bytes.len() < ENTROPY_MIN {
        let what =
            format!("what is to be mixed in has fewer than {ENTROPY_MIN} bytes; for example: openssl rand -hex 32");
        return Err(CommandError::Configuration(what));
    }
    Ok(bytes)
}
