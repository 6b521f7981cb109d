//! A Redis in virtual time: the commands that the relay uses, its own scripts in a real Lua, and the faults of a network.
//!
//! | fault of a node's way to it | what the node sees |
//! | --- | --- |
//! | [`Way::Silent`] | nothing is answered, nothing is done; what was asked is done when the way is well again, also when nobody waits for it any more |
//! | [`Way::Closed`] | every connection ends at once |
//! | [`Way::Deaf`] | what is asked is done, and the connection ends before its answer |
//!
//! It may [lose](Redis::lose) what it holds, all of it or what came lately: as a server that starts again without a disk, or with an old dump.
//!
//! Invariant: nothing ends but by the virtual clock. Each node has a door of its own, so that its way can fail alone.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use mlua::{Lua, MultiValue, Value as LuaValue};

use super::breaks::Break;
use super::resp::{Args, Reply, from_lua, name_of, number_of, read_command, text_of, to_lua};

/// How often it is remembered what it holds, and how many times.
const DUMP_EVERY: Duration = Duration::from_secs(1);
const DUMPS: usize = 30;

/// How a node's way to the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Well.
    Open,
    /// See the module's table.
    Silent,
    /// See the module's table.
    Closed,
    /// See the module's table.
    Deaf,
}

/// The store.
pub struct Redis {
    keys: Rc<RefCell<Keys>>,
    lua: Lua,
    scripts: BTreeMap<String, String>,
    doors: Vec<Door>,
    breaks: Option<Break>,
    /// What it held at some moments of late, oldest first.
    dumps: VecDeque<(Duration, BTreeMap<Vec<u8>, Entry>)>,
}

struct Door {
    listener: TcpListener,
    way: Way,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    /// What it waits for, and until when.
    waits: Option<(Vec<u8>, u64)>,
    is_over: bool,
}

#[derive(Default)]
struct Keys {
    breaks: Option<Break>,
    now_ms: u64,
    all: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Clone)]
struct Entry {
    held: Held,
    ends_at: Option<u64>,
}

#[derive(Clone)]
enum Held {
    Text(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    List(VecDeque<Vec<u8>>),
}

impl Redis {
    /// With a door for each of so many nodes.
    pub fn open(nodes: usize, breaks: Option<Break>) -> Self {
        let keys = Rc::new(RefCell::new(Keys { breaks, ..Keys::default() }));
        let lua = Lua::new();
        let table = lua.create_table().expect("a table");
        for (name, raises) in [("call", true), ("pcall", false)] {
            let keys = keys.clone();
            let call = lua.create_function(move |lua, given: MultiValue| {
                let args: Vec<Vec<u8>> = given.iter().map(text_of).collect();
                match keys.borrow_mut().answer(&args) {
                    Reply::Error(error) if raises => Err(mlua::Error::runtime(error)),
                    reply => to_lua(lua, reply),
                }
            });
            table.set(name, call.expect("a function")).expect("set");
        }
        let status = lua.create_function(|lua, status: String| {
            let table = lua.create_table()?;
            table.set("ok", status)?;
            Ok(table)
        });
        table.set("status_reply", status.expect("a function")).expect("set");
        let error = lua.create_function(|lua, error: String| {
            let table = lua.create_table()?;
            table.set("err", error)?;
            Ok(table)
        });
        table.set("error_reply", error.expect("a function")).expect("set");
        lua.globals().set("redis", table).expect("set");
        let doors = (0..nodes).map(|_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a door");
            listener.set_nonblocking(true).expect("non-blocking");
            Door { listener, way: Way::Open, clients: Vec::new() }
        });
        Self { keys, lua, scripts: BTreeMap::new(), doors: doors.collect(), breaks, dumps: VecDeque::new() }
    }

    /// What a node is told.
    pub fn url(&self, node: usize) -> String {
        let at = self.doors[node].listener.local_addr().expect("bound");
        format!("redis://{at}")
    }

    /// How a node's way is from now on.
    pub fn set_way(&mut self, node: usize, way: Way) {
        self.doors[node].way = way;
        if way != Way::Open {
            // What was under way has a fate of its own.
            self.doors[node].clients.retain(|client| way == Way::Silent && !client.is_over);
        }
    }

    /// Starts again with what it held so long ago, or with nothing.
    pub fn lose(&mut self, back: Option<Duration>) {
        let now = Duration::from_millis(self.keys.borrow().now_ms);
        let dump = back.and_then(|back| self.dumps.iter().rev().find(|(at, _)| *at + back <= now));
        self.keys.borrow_mut().all = dump.map(|(_, all)| all.clone()).unwrap_or_default();
        self.scripts.clear();
        self.doors.iter_mut().for_each(|door| door.clients.clear());
    }

    /// Goes on to `now`, and answers what has come; how much.
    pub fn poll(&mut self, now: Duration) -> usize {
        self.keys.borrow_mut().now_ms = now.as_millis() as u64;
        self.keys.borrow_mut().end_what_is_over();
        if self.dumps.back().is_none_or(|(at, _)| *at + DUMP_EVERY <= now) {
            self.dumps.push_back((now, self.keys.borrow().all.clone()));
            if self.dumps.len() > DUMPS {
                self.dumps.pop_front();
            }
        }
        let mut done = 0;
        for door in 0..self.doors.len() {
            while let Ok((stream, _)) = self.doors[door].listener.accept() {
                stream.set_nonblocking(true).expect("non-blocking");
                let _ = stream.set_nodelay(true);
                if self.doors[door].way != Way::Closed {
                    let client = Client { stream, read: Vec::new(), waits: None, is_over: false };
                    self.doors[door].clients.push(client);
                }
            }
            let mut clients = std::mem::take(&mut self.doors[door].clients);
            let way = self.doors[door].way;
            for client in &mut clients {
                done += self.serve(client, way);
            }
            clients.retain(|client| !client.is_over);
            self.doors[door].clients = clients;
        }
        done
    }

    fn serve(&mut self, client: &mut Client, way: Way) -> usize {
        if way == Way::Silent {
            return 0;
        }
        let mut buffer = [0; 16 * 1024];
        let mut is_left = false;
        loop {
            match client.stream.read(&mut buffer) {
                // What was asked before the end is done all the same.
                Ok(0) => {
                    is_left = true;
                    break;
                }
                Ok(length) => client.read.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    client.is_over = true;
                    return 0;
                }
            }
        }
        let mut done = 0;
        if let Some((list, until)) = client.waits.take() {
            let (first, now_ms) = {
                let mut keys = self.keys.borrow_mut();
                (keys.pop_first(&list), keys.now_ms)
            };
            match first {
                Some(first) => {
                    let reply = Reply::Array(vec![Reply::Bulk(list), Reply::Bulk(first)]);
                    client.tell(&reply, way);
                    done += 1;
                }
                None if now_ms >= until => {
                    client.tell_nothing(way);
                    done += 1;
                }
                None => client.waits = Some((list, until)),
            }
        }
        while client.waits.is_none()
            && !client.is_over
            && let Some((args, length)) = read_command(&client.read)
        {
            client.read.drain(..length);
            done += 1;
            match self.answer(&args) {
                Reply::Wait(list, until) => client.waits = Some((list, until)),
                reply => client.tell(&reply, way),
            }
        }
        client.is_over |= is_left;
        done
    }

    fn answer(&mut self, args: &Args) -> Reply {
        match &*name_of(args) {
            "EVALSHA" => self.run(args),
            "SCRIPT" => {
                let script = args[2].clone();
                let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &script);
                let name: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                let script = String::from_utf8(script).expect("a script");
                let runs = match self.breaks {
                    Some(breaks) => breaks.script(script),
                    None => script,
                };
                self.scripts.insert(name.clone(), runs);
                Reply::Bulk(name.into_bytes())
            }
            _ => self.keys.borrow_mut().answer(args),
        }
    }

    fn run(&mut self, args: &Args) -> Reply {
        let name = String::from_utf8_lossy(&args[1]).to_ascii_lowercase();
        let Some(script) = self.scripts.get(&name) else {
            return Reply::Error("NOSCRIPT No matching script. Please use EVAL.".into());
        };
        let keys = number_of(&args[2]) as usize;
        let list = |from: &Args| {
            let table = self.lua.create_table().expect("a table");
            for (place, item) in from.iter().enumerate() {
                table.set(place + 1, self.lua.create_string(item).expect("a string")).expect("set");
            }
            table
        };
        self.lua.globals().set("KEYS", list(&args[3..3 + keys])).expect("set");
        self.lua.globals().set("ARGV", list(&args[3 + keys..])).expect("set");
        match self.lua.load(script.as_str()).eval::<LuaValue>() {
            Ok(value) => from_lua(value),
            Err(error) => Reply::Error(format!("ERR {}", error.to_string().replace(['\r', '\n'], " "))),
        }
    }
}

impl Client {
    fn tell(&mut self, reply: &Reply, way: Way) {
        let mut bytes = Vec::new();
        reply.write(&mut bytes);
        self.send(&bytes, way);
    }

    /// The end of a wait in which nothing came.
    fn tell_nothing(&mut self, way: Way) {
        self.send(b"*-1\r\n", way);
    }

    fn send(&mut self, bytes: &[u8], way: Way) {
        // Loopback takes at once what is as short as these.
        if way == Way::Deaf || self.stream.write_all(bytes).is_err() {
            self.is_over = true;
        }
    }
}

impl Keys {
    fn end_what_is_over(&mut self) {
        let now = self.now_ms;
        self.all.retain(|_, entry| entry.ends_at.is_none_or(|at| at > now));
    }

    fn answer(&mut self, args: &Args) -> Reply {
        if let Some(broken) = self.breaks.and_then(|breaks| breaks.answer(&name_of(args), args)) {
            return broken;
        }
        let key = args.get(1).cloned().unwrap_or_default();
        let found = self.all.get_mut(&key);
        match (&*name_of(args), found.map(|entry| &mut entry.held)) {
            ("PING", _) => Reply::Status("PONG"),
            ("CLIENT" | "SELECT", _) => Reply::Status("OK"),
            ("TIME", _) => {
                let unix_ms = relay::clock::virtual_unix_ms(Duration::from_millis(self.now_ms));
                let seconds = (unix_ms / 1_000).to_string();
                let micros = (unix_ms % 1_000 * 1_000).to_string();
                Reply::Array(vec![Reply::Bulk(seconds.into()), Reply::Bulk(micros.into())])
            }
            ("INFO", _) => {
                Reply::Bulk(b"redis_version:7.2.0\r\naof_enabled:0\r\nmaxmemory_policy:noeviction\r\n".into())
            }
            ("CONFIG", _) => {
                let name = String::from_utf8_lossy(&args[2]).into_owned();
                let value = if name == "appendonly" {
                    "no"
                } else if name == "maxmemory-policy" {
                    "noeviction"
                } else {
                    ""
                };
                Reply::Array(vec![Reply::Bulk(name.into()), Reply::Bulk(value.into())])
            }
            ("GET", None) => Reply::Nil,
            ("GET", Some(Held::Text(text))) => Reply::Bulk(text.clone()),
            ("SET", _) => self.set(&key, args),
            ("DEL", _) => Reply::Number(args[1..].iter().filter(|key| self.all.remove(*key).is_some()).count() as i64),
            ("EXISTS", found) => Reply::Number(found.is_some().into()),
            ("PTTL", None) => Reply::Number(-2),
            ("PTTL", Some(_)) => {
                let now = self.now_ms;
                let ends_at = self.all.get(&key).and_then(|entry| entry.ends_at);
                Reply::Number(ends_at.map_or(-1, |at| at.saturating_sub(now) as i64))
            }
            ("PEXPIRE", found) => {
                let (is_there, ends_at) = (found.is_some(), self.now_ms + number_of(&args[2]) as u64);
                if let Some(entry) = self.all.get_mut(&key) {
                    entry.ends_at = Some(ends_at);
                }
                Reply::Number(is_there.into())
            }
            ("HGET", None) => Reply::Nil,
            ("HGET", Some(Held::Hash(hash))) => hash.get(&args[2]).cloned().map_or(Reply::Nil, Reply::Bulk),
            ("HMGET", None) => Reply::Array(args[2..].iter().map(|_| Reply::Nil).collect()),
            ("HMGET", Some(Held::Hash(hash))) => {
                let one = |field| hash.get(field).cloned().map_or(Reply::Nil, Reply::Bulk);
                Reply::Array(args[2..].iter().map(one).collect())
            }
            ("HGETALL", None) => Reply::Array(Vec::new()),
            ("HGETALL", Some(Held::Hash(hash))) => {
                let pairs = hash.iter().flat_map(|(field, value)| [field.clone(), value.clone()]);
                Reply::Array(pairs.map(Reply::Bulk).collect())
            }
            ("HLEN", None) | ("LLEN", None) => Reply::Number(0),
            ("HLEN", Some(Held::Hash(hash))) => Reply::Number(hash.len() as i64),
            ("LLEN", Some(Held::List(list))) => Reply::Number(list.len() as i64),
            ("HDEL", None) | ("SREM", None) => Reply::Number(0),
            ("HDEL", Some(Held::Hash(hash))) => {
                let gone = args[2..].iter().filter(|field| hash.remove(*field).is_some()).count();
                self.forget_empty(&key);
                Reply::Number(gone as i64)
            }
            ("SREM", Some(Held::Set(set))) => {
                let gone = args[2..].iter().filter(|member| set.remove(*member)).count();
                self.forget_empty(&key);
                Reply::Number(gone as i64)
            }
            ("HSET", None | Some(Held::Hash(_))) => {
                let Held::Hash(hash) = self.held(&key, || Held::Hash(BTreeMap::new())) else { return wrong_type() };
                for pair in args[2..].chunks(2) {
                    hash.insert(pair[0].clone(), pair[1].clone());
                }
                Reply::Number(1)
            }
            ("HINCRBY", None | Some(Held::Hash(_))) => {
                let Held::Hash(hash) = self.held(&key, || Held::Hash(BTreeMap::new())) else { return wrong_type() };
                let value = hash.get(&args[2]).map_or(0, |text| number_of(text)) + number_of(&args[3]);
                hash.insert(args[2].clone(), value.to_string().into());
                Reply::Number(value)
            }
            ("SADD", None | Some(Held::Set(_))) => {
                let Held::Set(set) = self.held(&key, || Held::Set(BTreeSet::new())) else { return wrong_type() };
                Reply::Number(args[2..].iter().filter(|member| set.insert((*member).clone())).count() as i64)
            }
            ("RPUSH", None | Some(Held::List(_))) => {
                let Held::List(list) = self.held(&key, || Held::List(VecDeque::new())) else { return wrong_type() };
                list.extend(args[2..].iter().cloned());
                Reply::Number(list.len() as i64)
            }
            ("SSCAN", None) => page(Vec::new()),
            ("SSCAN", Some(Held::Set(set))) => page(set.iter().cloned().collect()),
            ("SCAN", _) => {
                // MATCH prefix*, TYPE hash: all that the relay asks for.
                let prefix = args[3].strip_suffix(b"*").unwrap_or(&args[3]).to_vec();
                let is_meant =
                    |(key, entry): &(&Vec<u8>, &Entry)| key.starts_with(&prefix) && matches!(entry.held, Held::Hash(_));
                page(self.all.iter().filter(is_meant).map(|(key, _)| key.clone()).collect())
            }
            ("BLPOP", None | Some(Held::List(_))) => match self.pop_first(&key) {
                Some(first) => Reply::Array(vec![Reply::Bulk(key), Reply::Bulk(first)]),
                None => {
                    let seconds: f64 = String::from_utf8_lossy(&args[2]).parse().unwrap_or(0.0);
                    Reply::Wait(key, self.now_ms + (seconds * 1_000.0) as u64)
                }
            },
            (_, Some(_)) => wrong_type(),
            (name, None) => Reply::Error(format!("ERR unknown command '{name}'")),
        }
    }

    fn set(&mut self, key: &[u8], args: &Args) -> Reply {
        let options: Vec<String> =
            args[3..].iter().map(|it| String::from_utf8_lossy(it).to_ascii_uppercase()).collect();
        let has = |name: &str| options.iter().any(|option| option == name);
        let earlier = match self.all.get(key).map(|entry| &entry.held) {
            Some(Held::Text(text)) => Some(text.clone()),
            Some(_) if has("GET") => return wrong_type(),
            Some(_) => Some(Vec::new()),
            None => None,
        };
        if has("NX") && earlier.is_some() {
            return Reply::Nil;
        }
        let px = options.iter().position(|option| option == "PX");
        let ends_at = px.map(|place| self.now_ms + number_of(&args[4 + place]) as u64);
        self.all.insert(key.to_vec(), Entry { held: Held::Text(args[2].clone()), ends_at });
        if has("GET") { earlier.map_or(Reply::Nil, Reply::Bulk) } else { Reply::Status("OK") }
    }

    fn held(&mut self, key: &[u8], new: impl FnOnce() -> Held) -> &mut Held {
        &mut self.all.entry(key.to_vec()).or_insert_with(|| Entry { held: new(), ends_at: None }).held
    }

    fn pop_first(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let Some(Entry { held: Held::List(list), .. }) = self.all.get_mut(key) else { return None };
        let first = list.pop_front();
        self.forget_empty(key);
        first
    }

    fn forget_empty(&mut self, key: &[u8]) {
        let is_empty = match self.all.get(key).map(|entry| &entry.held) {
            Some(Held::Hash(hash)) => hash.is_empty(),
            Some(Held::Set(set)) => set.is_empty(),
            Some(Held::List(list)) => list.is_empty(),
            Some(Held::Text(_)) | None => false,
        };
        if is_empty {
            self.all.remove(key);
        }
    }
}

fn wrong_type() -> Reply {
    Reply::Error("WRONGTYPE Operation against a key holding the wrong kind of value".into())
}

/// All at once: the sets of a simulation are small.
fn page(members: Vec<Vec<u8>>) -> Reply {
    Reply::Array(vec![Reply::Bulk(b"0".into()), Reply::Array(members.into_iter().map(Reply::Bulk).collect())])
}
