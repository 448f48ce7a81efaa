//! What the functions find around them: Lua 5.1 with `redis`, `cmsgpack` and `struct`, as Redis 7 gives them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mlua::{Function, Lua, MultiValue, Table, Value};

use super::packed;
use super::store::{Reply, Store};

/// A loaded library.
pub struct Library {
    lua: Lua,
    functions: HashMap<String, Function>,
}

impl Library {
    /// Runs the library's text, which registers its functions.
    pub fn load(text: &str, store: &Arc<Mutex<Store>>) -> mlua::Result<Self> {
        let lua = Lua::new();
        let registered: Arc<Mutex<Vec<(String, Function)>>> = Arc::default();
        let redis = lua.create_table()?;
        let into = Arc::clone(&registered);
        redis.set(
            "register_function",
            lua.create_function(move |_, given: MultiValue| {
                let mut given = given.into_iter();
                let (name, function) = match (given.next(), given.next()) {
                    (Some(Value::Table(named)), None) => (named.get("function_name")?, named.get("callback")?),
                    (Some(Value::String(name)), Some(Value::Function(function))) => (name.to_string_lossy(), function),
                    other => return Err(mlua::Error::runtime(format!("register_function: {other:?}"))),
                };
                into.lock().unwrap_or_else(PoisonError::into_inner).push((name, function));
                Ok(())
            })?,
        )?;
        let store = Arc::clone(store);
        redis.set("call", lua.create_function(move |lua, given: MultiValue| call(lua, &store, given))?)?;
        redis.set(
            "error_reply",
            lua.create_function(|lua, message: mlua::LuaString| {
                let error = lua.create_table()?;
                error.set("err", message)?;
                Ok(error)
            })?,
        )?;
        lua.globals().set("redis", redis)?;
        packed::add_to(&lua)?;
        // The first line names the library, and is not Lua.
        let body = text.split_once('\n').map_or("", |(_, body)| body);
        lua.load(body).set_name("@functions.lua").exec()?;
        let functions = std::mem::take(&mut *registered.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Self { lua, functions: functions.into_iter().collect() })
    }

    /// FCALL, behind the number of keys.
    pub fn call(&self, name: &str, keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> Reply {
        let Some(function) = self.functions.get(name) else { return super::store::error("ERR Function not found") };
        let run = || -> mlua::Result<Reply> {
            let keys = self.strings(keys)?;
            let arguments = self.strings(arguments)?;
            to_reply(function.call((keys, arguments))?)
        };
        run().unwrap_or_else(|error| Reply::Error(format!("ERR {error}").replace(['\r', '\n'], " ")))
    }

    fn strings(&self, strings: &[Vec<u8>]) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(strings.len(), 0)?;
        for string in strings {
            table.raw_push(self.lua.create_string(string)?)?;
        }
        Ok(table)
    }
}

fn call(lua: &Lua, store: &Mutex<Store>, given: MultiValue) -> mlua::Result<Value> {
    let command = given.into_iter().map(argument).collect::<mlua::Result<Vec<_>>>()?;
    let reply = store.lock().unwrap_or_else(PoisonError::into_inner).execute(&command);
    to_lua(lua, reply)
}

fn argument(value: Value) -> mlua::Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        Value::Number(number) if number % 1.0 == 0.0 && number.abs() < 1e17 => Ok(format!("{number:.0}").into_bytes()),
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        other => Err(mlua::Error::runtime(format!(
            "Lua redis lib command arguments must be strings or integers, not {}",
            other.type_name()
        ))),
    }
}

fn to_lua(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Nil => Value::Boolean(false),
        Reply::Int(number) => Value::Number(number as f64),
        Reply::Bulk(bytes) => Value::String(lua.create_string(bytes)?),
        Reply::Status(status) => {
            let table = lua.create_table()?;
            table.set("ok", status)?;
            Value::Table(table)
        }
        Reply::Array(replies) => {
            let table = lua.create_table_with_capacity(replies.len(), 0)?;
            for (reply, at) in replies.into_iter().zip(1..) {
                table.raw_set(at, to_lua(lua, reply)?)?;
            }
            Value::Table(table)
        }
        Reply::Error(message) => return Err(mlua::Error::runtime(message)),
    })
}

fn to_reply(value: Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
        Value::Integer(number) => Reply::Int(number),
        Value::Number(number) => Reply::Int(number as i64),
        Value::Boolean(true) => Reply::Int(1),
        Value::Table(table) => {
            if let Some(message) = table.raw_get::<Option<mlua::LuaString>>("err")? {
                return Ok(Reply::Error(message.to_string_lossy()));
            }
            let mut replies = Vec::new();
            for at in 1.. {
                match table.raw_get::<Value>(at)? {
                    Value::Nil => break,
                    value => replies.push(to_reply(value)?),
                }
            }
            Reply::Array(replies)
        }
        _ => Reply::Nil,
    })
}
