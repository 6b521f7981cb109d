//! What the store is asked and answers, in bytes (RESP 2) and as its scripts see it.

use mlua::{Lua, Table, Value as LuaValue};

/// A command and its arguments.
pub type Args = [Vec<u8>];

/// An answer, as RESP has it.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(&'static str),
    Number(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
    Error(String),
    /// It is answered later.
    Wait(Vec<u8>, u64),
}

/// The command.
pub fn name_of(args: &Args) -> String {
    args.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase()).unwrap_or_default()
}

/// A number in text; 0 for anything else.
pub fn number_of(text: &[u8]) -> i64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Reply {
    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status(status) => out.extend_from_slice(format!("+{status}\r\n").as_bytes()),
            Self::Number(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::Error(error) => out.extend_from_slice(format!("-{error}\r\n").as_bytes()),
            Self::Nil | Self::Wait(..) => out.extend_from_slice(b"$-1\r\n"),
            Self::Bulk(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Array(items) => {
                out.extend_from_slice(format!("*{}\r\n", items.len()).as_bytes());
                for item in items {
                    item.write(out);
                }
            }
        }
    }
}

/// One command, and how long it was; `None`: it is not whole.
pub fn read_command(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (items, mut at) = count_at(bytes, 0, b'*')?;
    let mut args = Vec::with_capacity(items);
    for _ in 0..items {
        let (length, from) = count_at(bytes, at, b'$')?;
        args.push(bytes.get(from..from + length)?.to_vec());
        at = from + length + 2;
        bytes.get(at - 1)?;
    }
    Some((args, at))
}

/// The count behind a mark, and where its line ends.
fn count_at(bytes: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?;
    let length = line.windows(2).position(|two| two == b"\r\n")?;
    let count = line[..length].strip_prefix(&[mark]).map(number_of)?;
    Some((count as usize, at + length + 2))
}

/// A value of a script, as an argument.
pub fn text_of(value: &LuaValue) -> Vec<u8> {
    match value {
        LuaValue::String(text) => text.as_bytes().to_vec(),
        LuaValue::Integer(number) => number.to_string().into(),
        LuaValue::Number(number) => format!("{number}").into(),
        _ => Vec::new(),
    }
}

/// An answer, for a script.
pub fn to_lua(lua: &Lua, reply: Reply) -> mlua::Result<LuaValue> {
    Ok(match reply {
        Reply::Number(number) => LuaValue::Number(number as f64),
        Reply::Bulk(bytes) => LuaValue::String(lua.create_string(&bytes)?),
        Reply::Nil | Reply::Wait(..) => LuaValue::Boolean(false),
        Reply::Status(status) => LuaValue::Table(named(lua, "ok", status)?),
        Reply::Error(error) => LuaValue::Table(named(lua, "err", &error)?),
        Reply::Array(items) => {
            let table = lua.create_table()?;
            for (place, item) in items.into_iter().enumerate() {
                table.set(place + 1, to_lua(lua, item)?)?;
            }
            LuaValue::Table(table)
        }
    })
}

fn named(lua: &Lua, name: &str, value: &str) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set(name, value)?;
    Ok(table)
}

/// What a script gives back.
pub fn from_lua(value: LuaValue) -> Reply {
    match value {
        LuaValue::Integer(number) => Reply::Number(number),
        LuaValue::Number(number) => Reply::Number(number as i64),
        LuaValue::Boolean(true) => Reply::Number(1),
        LuaValue::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
        LuaValue::Table(table) if table.contains_key("ok").unwrap_or(false) => Reply::Status("OK"),
        LuaValue::Table(table) if table.contains_key("err").unwrap_or(false) => {
            Reply::Error(table.get("err").unwrap_or_default())
        }
        LuaValue::Table(table) => {
            let items = (1..).map_while(|place| match table.get::<LuaValue>(place) {
                Ok(LuaValue::Nil) | Err(_) => None,
                Ok(item) => Some(from_lua(item)),
            });
            Reply::Array(items.collect())
        }
        _ => Reply::Nil,
    }
}
