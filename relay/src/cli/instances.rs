//! `sipwake instances`: the operator's view, through the operator listener.
//!
//! Invariant: it shows the listener's answers, which identify no user. AORs are read from the standard
//! input, all of them or none, and leave this process as their hashes alone. An action that cannot be undone is confirmed first. A list with a hole says so,
//! and a wipe waits while the relay does not know all instances, [`PATIENCE`] at most; then it is said that there may be more.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::answer::{is_receipt, of_instance, of_wipe};
use super::operator::{At, Listener};
use super::question::{confirm, is_attended};
use super::table::{cell, incomplete, lines, one_line, pretty, table};
use super::{BYTE_ORDER_MARK, CommandError, print_done};
use crate::api::sip_uri::SipUri;
use crate::log::{say, say_line};
use crate::secret::Aor;
use crate::vault::AorHash;

/// How many instances are asked for at once.
const PAGE: usize = 1_000;
/// How long a wipe waits for nodes that start, or whose instances others are taking over: longer than a death is noticed and its records are claimed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon they are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How many accounts of a list are looked up between two words of it.
const TOLD_EACH: usize = 500;

/// Look at a relay's push instances, or wipe some
#[derive(Args)]
pub struct Instances {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// The instances of all nodes of the store
    List {
        #[command(flatten)]
        which: Which,
        /// Those in this state alone
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Those of this push service alone
        #[arg(long, value_enum)]
        push: Option<Push>,
        /// Those that came here in this way alone
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        #[command(flatten)]
        at: At,
    },
    /// The instances of accounts, whose AORs stand on the standard input, one a line; only their hashes leave this command
    Find {
        #[command(flatten)]
        at: At,
    },
    /// One instance
    Show {
        /// Its id: pi_…
        id: String,
        #[command(flatten)]
        at: At,
    },
    /// Unregister and wipe instances; prints each signed receipt, or "wiping" while the store is away, and then ends with 1
    Wipe {
        /// Their ids: pi_…
        #[arg(required_unless_present_any = ["app", "domain", "aor"], conflicts_with_all = ["app", "domain", "aor"])]
        ids: Vec<String>,
        #[command(flatten)]
        which: Which,
        /// Those of accounts, whose AORs stand on the standard input, one a line
        #[arg(long, conflicts_with_all = ["app", "domain"])]
        aor: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        at: At,
    },
    /// Everything that is held about one instance, but for what tells whose it is; as JSON
    Export {
        /// Its id: pi_…
        id: String,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Args)]
struct Which {
    /// Those of this App alone
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// Those of accounts of this SIP domain alone
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Registered,
    Registering,
    Retrying,
    Unregistered,
}

#[derive(Clone, Copy, ValueEnum)]
enum Push {
    Apns,
    Fcm,
    Webpush,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// An app lent its account
    Lent,
    /// Its device registered through the edge (RFC 8599)
    PassedThrough,
}

/// Does what was asked, and prints it.
///
/// # Errors
/// [`CommandError`] when the listener is not reached or refuses.
pub async fn run(instances: Instances) -> Result<(), CommandError> {
    match instances.action {
        Action::List { which, state, push, kind, at } => {
            let mut seen = all(&at.open()?, &which).await?;
            seen.instances.retain(|one| {
                is(state, &one["registration"]["state"])
                    && is(push, &one["call_push"]["provider"])
                    && is(kind, &one["kind"])
            });
            seen.print(&at)
        }
        Action::Find { at } => {
            let listener = at.open()?;
            find(&listener, &asked_accounts()?).await?.print(&at)
        }
        Action::Show { id, at } => {
            let one = of_instance(at.open()?.ask("GET", &id, "").await?)?;
            print(&if at.json { pretty(&one) } else { lines(&one) })
        }
        Action::Wipe { ids, which, aor, yes, at } => wipe(ids, &which, aor, yes, &at).await,
        Action::Export { id, at } => print(&pretty(&of_instance(at.open()?.ask("GET", &id, "/export").await?)?)),
    }
}

fn print(text: &str) -> Result<(), CommandError> {
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::Output)
}

/// Whether a member is what was asked for, if anything was.
fn is<V: ValueEnum>(wanted: Option<V>, member: &Value) -> bool {
    let name = |wanted: V| wanted.to_possible_value().map(|value| value.get_name().to_owned());
    wanted.and_then(name).is_none_or(|name| member.as_str() == Some(name.as_str()))
}

async fn all(listener: &Listener, which: &Which) -> Result<Seen, CommandError> {
    let mut seen = Seen::default();
    let mut filter = String::new();
    for (key, value) in [("app", &which.app), ("domain", &which.domain)] {
        if let Some(value) = value {
            let harmless = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
            if value.is_empty() || !value.chars().all(harmless) {
                return Err(CommandError::NoSuchFilter(key));
            }
            filter += &format!("&{key}={value}");
        }
    }
    let mut path = format!("/instances?limit={PAGE}{filter}");
    let mut pages = Pages::default();
    loop {
        let mut page = listener.call("GET", &path, None).await?;
        seen.add(&mut page)?;
        match pages.next(&page)? {
            Some(next) => path = format!("/instances?limit={PAGE}&after={next}{filter}"),
            None => return Ok(seen),
        }
    }
}

/// The places where pages began.
#[derive(Default)]
struct Pages(BTreeSet<String>);

impl Pages {
    /// Where the page behind this one begins, if there is one. A list that goes round is no relay's.
    fn next(&mut self, page: &Value) -> Result<Option<String>, CommandError> {
        match &page["next"] {
            Value::Null => Ok(None),
            Value::String(next) if self.0.insert(next.clone()) => Ok(Some(next.clone())),
            _ => Err(CommandError::NotARelay),
        }
    }
}

/// The answers of the nodes so far.
#[derive(Clone, Default)]
struct Seen {
    instances: Vec<Value>,
    /// Nodes of which there may be more.
    silent: BTreeSet<String>,
    /// Lines of a list of accounts of which there is none.
    without: Vec<usize>,
}

impl Seen {
    fn add(&mut self, answer: &mut Value) -> Result<(), CommandError> {
        let instances = answer.get_mut("instances").map(Value::take);
        let Some(Value::Array(instances)) = instances else { return Err(CommandError::NotARelay) };
        self.instances.extend(instances);
        self.silent.extend(answer["silent"].as_array().into_iter().flatten().map(cell));
        Ok(())
    }

    fn join(&mut self, other: Self) {
        self.instances.extend(other.instances);
        self.silent.extend(other.silent);
        self.without.extend(other.without);
    }

    fn print(&self, at: &At) -> Result<(), CommandError> {
        print(&if at.json { pretty(&Value::from(self.instances.clone())) } else { listed(&self.instances) })?;
        for node in &self.silent {
            say_line(incomplete(node, "did not answer, or its instances are still being taken over"));
        }
        self.say_without();
        Ok(())
    }

    /// Names the lines of a list that led to nothing: whoever reads it cannot see that by the instances.
    fn say_without(&self) {
        for line in &self.without {
            say_line(format_args!("line {line} of the standard input: there is no instance of that account"));
        }
    }

    fn silent(&self) -> String {
        let named = self.silent.iter().map(|node| match node.as_str() {
            "unknown" => "nodes that the store did not name",
            node => node,
        });
        named.collect::<Vec<_>>().join(", ")
    }
}

/// The accounts whose AORs stand on the standard input, one a line; of a person at a terminal one is asked for.
fn asked_accounts() -> Result<Vec<Account>, CommandError> {
    let input = io::stdin().lock();
    if !input.is_terminal() {
        return read_accounts(input, usize::MAX);
    }
    say("AOR of the account (sip:user@domain): ");
    read_accounts(input, 1)
}

/// An account that was asked for, by the hash of its AOR.
struct Account {
    hash: AorHash,
    /// Where it stood, from 1 on.
    line: usize,
}

/// Reads so many lines, of which each names an account or is empty: a list of which one line is no AOR is refused whole.
fn read_accounts(mut input: impl BufRead, lines: usize) -> Result<Vec<Account>, CommandError> {
    let mut accounts: Vec<Account> = Vec::new();
    for number in 1..=lines {
        let mut bytes = Zeroizing::new(Vec::with_capacity(512));
        let refused = |why| CommandError::NotAnAor { line: number, why };
        if input.read_until(b'\n', &mut bytes).map_err(|_| refused("it cannot be read"))? == 0 {
            break;
        }
        let line =
            std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8: save the list in that encoding"))?;
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| number == 1).unwrap_or(line).trim();
        if line.is_empty() {
            continue;
        }
        let uri = read_account(line).map_err(refused)?;
        let hash = AorHash::of(&Aor::new(&uri.to_string()));
        if !accounts.iter().any(|known| known.hash == hash) {
            accounts.push(Account { hash, line: number });
        }
    }
    if accounts.is_empty() {
        return Err(CommandError::NotAnAor { line: 1, why: "it is empty; write sip:user@domain" });
    }
    Ok(accounts)
}

/// An AOR as a person writes it: its scheme may be missing, and stands in any case (RFC 3261 §25.1).
fn read_account(typed: &str) -> Result<SipUri, &'static str> {
    // The text before the first colon is a scheme, unless it names a user and a host, whose port follows.
    let scheme = typed.split_once(':').map(|(before, _)| before).filter(|before| !before.contains('@'));
    match scheme {
        Some(scheme) if ["sip", "sips"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
            SipUri::address_of_record(typed)
        }
        Some(_) => Err("write sip:user@domain, with no other scheme and no password"),
        None => SipUri::address_of_record(&Zeroizing::new(format!("sip:{typed}"))),
    }
}

async fn find(listener: &Listener, accounts: &[Account]) -> Result<Seen, CommandError> {
    let mut asked = AskedAccounts::new(accounts);
    asked.ask(by(listener)).await
}

/// Asks all nodes for an account.
fn by(listener: &Listener) -> impl AsyncFn(Value) -> Result<Value, CommandError> {
    async move |asked| listener.call("POST", "/instances/find", Some(&asked)).await
}

/// Accounts that are asked for, until all nodes have answered for each.
struct AskedAccounts<'a> {
    is_list: bool,
    /// Those for which a node was silent, or that were not asked for yet.
    open: Vec<&'a Account>,
    /// The answers for the others.
    seen: Seen,
}

impl<'a> AskedAccounts<'a> {
    fn new(accounts: &'a [Account]) -> Self {
        Self { is_list: accounts.len() > 1, open: accounts.iter().collect(), seen: Seen::default() }
    }

    /// Asks for those that are open; what is known of all by then.
    async fn ask(&mut self, call: impl AsyncFn(Value) -> Result<Value, CommandError>) -> Result<Seen, CommandError> {
        let mut partly = Seen::default();
        let open = std::mem::take(&mut self.open);
        for (index, account) in open.iter().enumerate() {
            let asked = json!({"aor_sha256": account.hash.to_hex()});
            let mut one = Seen::default();
            one.add(&mut call(asked).await?)?;
            if self.is_list && one.instances.is_empty() {
                one.without.push(account.line);
            }
            if one.silent.is_empty() {
                self.seen.join(one);
            } else {
                self.open.push(account);
                partly.join(one);
            }
            if (index + 1) % TOLD_EACH == 0 {
                say_line(format_args!("{} of {} accounts looked up", index + 1, open.len()));
            }
        }
        partly.join(self.seen.clone());
        partly.without.sort_unstable();
        Ok(partly)
    }
}

/// Asks until nothing is on its way that would be missed.
async fn all_seen(mut ask: impl AsyncFnMut() -> Result<Seen, CommandError>) -> Result<Seen, CommandError> {
    // A first pass over a long list may take longer than that by itself.
    let mut until = None;
    let mut has_told = false;
    loop {
        let seen = ask().await?;
        let now = Instant::now();
        if seen.silent.is_empty() || now >= *until.get_or_insert(now + PATIENCE) {
            return Ok(seen);
        }
        if !has_told {
            has_told = true;
            say_line(format_args!(
                "waiting for {}: no answer yet, or instances are still being taken over",
                seen.silent()
            ));
        }
        sleep(ASK_AGAIN).await;
    }
}

/// The consequences of a wipe of this many instances, for the question before it.
fn consequence(count: usize, which: &Which, accounts: usize) -> String {
    let whose = match (&which.app, &which.domain) {
        (Some(app), Some(domain)) => format!(" of the app {app} at {domain}"),
        (Some(app), None) => format!(" of the app {app}"),
        (None, Some(domain)) => format!(" of the domain {domain}"),
        (None, None) => match accounts {
            0 => String::new(),
            1 => " of this account".to_owned(),
            accounts => format!(" of these {accounts} accounts"),
        },
    };
    let many = if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") };
    format!("{many}{whose} will be unregistered and wiped; their users hear no more calls.")
}

async fn wipe(ids: Vec<String>, which: &Which, aor: bool, yes: bool, at: &At) -> Result<(), CommandError> {
    let listener = at.open()?;
    let accounts = if aor { asked_accounts()? } else { Vec::new() };
    let chosen = if aor {
        let mut asked = AskedAccounts::new(&accounts);
        Some(all_seen(async || asked.ask(by(&listener)).await).await?)
    } else if ids.is_empty() {
        Some(all_seen(async || all(&listener, which).await).await?)
    } else {
        None
    };
    let single = chosen.is_none() && ids.len() == 1;
    if let Some(seen) = &chosen {
        seen.say_without();
    }
    let (ids, unseen) = match chosen {
        Some(seen) => (seen.instances.iter().map(|one| cell(&one["instance"])).collect(), seen.silent()),
        None => (ids, String::new()),
    };
    if ids.is_empty() && unseen.is_empty() {
        say_line("there is none: nothing was wiped");
        return Ok(());
    }
    if ids.is_empty() {
        return Err(CommandError::NotAllSeen(unseen));
    }
    // A program that names one instance means it.
    if !single || is_attended() {
        confirm(&consequence(ids.len(), which, accounts.len()), yes)?;
    }
    let (mut failed, mut wiping, mut unprinted) = (0, 0, None);
    for (index, id) in ids.iter().enumerate() {
        let told = listener.ask("POST", id, "/wipe").await.and_then(of_wipe);
        wiping += usize::from(told.as_ref().is_ok_and(|told| !is_receipt(told)));
        match told {
            // A user whose output is closed wants the other instances wiped all the same.
            Ok(receipt) => unprinted = print_done(&shown(id, &receipt, single, at.json)).err().or(unprinted),
            Err(error) if single => return Err(error),
            Err(error) => {
                failed += 1;
                say_line(format_args!("{id}: {error}"));
            }
        }
        if !single && (index + 1) % 100 == 0 {
            say_line(format_args!("{} of {}", index + 1, ids.len()));
        }
    }
    if !single {
        say_line(format_args!("{} of {} wiped", ids.len() - failed - wiping, ids.len()));
    }
    match (failed, wiping) {
        (0, 0) if unseen.is_empty() => unprinted.map_or(Ok(()), Err),
        (0, 0) => Err(CommandError::NotAllSeen(unseen)),
        (0, wiping) => Err(CommandError::Wiping(wiping)),
        (failed, 0) => Err(CommandError::NotAll(failed)),
        (failed, wiping) => Err(CommandError::NotAllAndWiping { failed, wiping }),
    }
}

/// The outcome for an instance, as it is printed.
fn shown(id: &str, told: &Value, single: bool, json: bool) -> String {
    match (single, json) {
        (true, true) => pretty(told),
        (true, false) => lines(told),
        (false, true) => format!("{}\n", one_line(told)),
        (false, false) => wiped(id, told),
    }
}

/// A line of what became of an instance among several.
fn wiped(id: &str, told: &Value) -> String {
    if !is_receipt(told) {
        return format!("{id}  wiping\n");
    }
    let left = if told["unregistered"] == true { "unregistered" } else { "not unregistered" };
    format!("{id}  wiped  {left}  {}\n", cell(&told["signature"]))
}

fn listed(all: &[Value]) -> String {
    let columns = ["INSTANCE", "APP", "KIND", "STATE", "REGISTRATION", "PUSH", "EXPIRES"];
    let row = |one: &Value| {
        let registration = [cell(&one["registration"]["state"]), cell(&one["registration"]["status"])];
        [
            cell(&one["instance"]),
            cell(&one["app"]),
            cell(&one["kind"]),
            cell(&one["state"]),
            registration.join(" ").trim_end().to_owned(),
            cell(&one["call_push"]["provider"]),
            cell(&one["expires_at"]),
        ]
    };
    table(columns, all.iter().map(row))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn an_account_is_the_same_however_its_scheme_is_written() {
        let read = |typed: &str| read_account(typed).map(|uri| uri.to_string());
        let alice = read("sip:alice@acc.example").unwrap();
        for typed in ["SIP:alice@ACC.example", "Sip:alice@acc.example", "alice@acc.example", "alice@ACC.example"] {
            assert_eq!(read(typed).as_ref(), Ok(&alice), "{typed}");
        }
        let sipper = read("sip:sipper@acc.example:5070");
        assert!(sipper.is_ok() && read("sipper@acc.example:5070") == sipper);
        assert_eq!(read("SIPS:alice@acc.example"), read("sips:alice@acc.example"));
        for typed in ["tel:+15550100", "TEL:+15550100", "mailto:alice@acc.example", "alice:secret@acc.example"] {
            assert!(read(typed).is_err_and(|why| why.starts_with("write sip:user@domain")), "{typed}");
        }
        for typed in ["", "alice", "sip:", "sip:acc.example", "alice@", "@acc.example"] {
            assert!(read(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn each_line_of_the_standard_input_is_an_account_and_a_list_with_another_line_is_none() {
        let read = |text: &str, lines| read_accounts(text.as_bytes(), lines);
        let of = |text: &str, lines| read(text, lines).unwrap().iter().map(|one| one.line).collect::<Vec<_>>();
        assert_eq!(of("sip:a1@acc.example\nsip:a2@acc.example\r\n\na3@acc.example", usize::MAX), [1, 2, 4]);
        assert_eq!(of("sip:a1@acc.example\na1@ACC.example\n", usize::MAX), [1], "the same one is wiped once");
        assert_eq!(of("sip:a1@acc.example\nyes\n", 1), [1], "what a person types next is another answer");
        for (none, at) in [("", 1), ("\n\n", 1), ("nobody\n", 1), ("sip:a1@acc.example\ntel:+15550100\n", 2)] {
            let refused = read(none, usize::MAX).err();
            assert!(matches!(refused, Some(CommandError::NotAnAor { line, .. }) if line == at), "{none:?}");
        }
        let account = "sip:a1@acc.example\n";
        assert_eq!(of(&format!("\u{feff}{account}"), usize::MAX), [1], "as Windows writes it");
        let utf_16: Vec<u8> = format!("\u{feff}{account}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let latin_1 = [account.as_bytes(), b"sip:m\xfcller@acc.example\n"].concat();
        for (other, at) in [(utf_16, 1), (latin_1, 2)] {
            let refused = read_accounts(&other[..], usize::MAX).err().map(|why| why.to_string()).unwrap_or_default();
            assert!(refused.contains(&format!("line {at}")) && refused.contains("UTF-8"), "{refused}");
        }
        let which = Which { app: None, domain: None };
        assert!(consequence(3, &which, 2).starts_with("3 instances of these 2 accounts will be"));
        assert!(consequence(1, &which, 1).starts_with("1 instance of this account will be"));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_first_pass_that_took_long_a_silent_node_is_still_asked_again() {
        let passes = RefCell::new(0);
        let ask = async || {
            *passes.borrow_mut() += 1;
            let is_first = *passes.borrow() == 1;
            if is_first {
                sleep(PATIENCE * 2).await;
            }
            let mut seen = Seen::default();
            seen.add(&mut if is_first {
                json!({"instances": [], "silent": ["a"]})
            } else {
                json!({"instances": [1]})
            })?;
            Ok(seen)
        };
        let seen = all_seen(ask).await.unwrap();
        assert_eq!((seen.instances.len(), seen.silent(), *passes.borrow()), (1, String::new(), 2));
    }

    #[tokio::test]
    async fn of_a_list_only_the_accounts_are_asked_for_again_for_which_a_node_was_silent() {
        let accounts = read_accounts(&b"sip:a1@acc.example\nsip:a2@acc.example\nsip:a3@acc.example\n"[..], 3).unwrap();
        let hashes: Vec<_> = accounts.iter().map(|account| account.hash.to_hex()).collect();
        let (asked, mut all) = (RefCell::new(Vec::new()), AskedAccounts::new(&accounts));
        let call = async |question: Value| {
            let at = hashes.iter().position(|hash| question["aor_sha256"] == **hash).unwrap();
            asked.borrow_mut().push(at);
            let silent = at == 1 && asked.borrow().len() < 4;
            let instances = if at == 2 { json!([]) } else { json!([{"instance": at}]) };
            Ok(if silent { json!({"instances": [], "silent": ["a"]}) } else { json!({"instances": instances}) })
        };
        let first = all.ask(&call).await.unwrap();
        assert_eq!((first.instances.len(), first.silent(), &first.without[..]), (1, "a".to_owned(), &[2, 3][..]));
        let second = all.ask(&call).await.unwrap();
        assert_eq!((second.instances.len(), second.silent(), &second.without[..]), (2, String::new(), &[3][..]));
        assert_eq!(*asked.borrow(), [0, 1, 2, 1]);
    }

    #[test]
    fn a_list_of_pages_that_goes_round_ends_and_one_of_another_service_is_none() {
        let mut seen = Seen::default();
        for mut other in [json!([]), json!(null), json!({}), json!("instances"), json!({"instances": {}})] {
            assert!(matches!(seen.add(&mut other), Err(CommandError::NotARelay)), "{other}");
        }
        let mut pages = Pages::default();
        let page = |next: Value| json!({"instances": [], "next": next});
        assert_eq!(pages.next(&page(json!("pi_b"))).unwrap().as_deref(), Some("pi_b"));
        assert_eq!(pages.next(&page(json!("pi_a"))).unwrap().as_deref(), Some("pi_a"));
        for round in [json!("pi_b"), json!("pi_a"), json!(7)] {
            assert!(matches!(pages.next(&page(round)), Err(CommandError::NotARelay)));
        }
        assert!(pages.next(&page(json!(null))).unwrap().is_none());
    }

    #[test]
    fn what_has_no_receipt_is_not_called_wiped() {
        assert_eq!(wiped("pi_1", &json!({"state": "wiping"})), "pi_1  wiping\n");
        let receipt = |unregistered: bool| json!({"instance": "pi_1", "unregistered": unregistered, "signature": "s"});
        assert_eq!(wiped("pi_1", &receipt(true)), "pi_1  wiped  unregistered  s\n");
        assert_eq!(wiped("pi_1", &receipt(false)), "pi_1  wiped  not unregistered  s\n");
    }
}
