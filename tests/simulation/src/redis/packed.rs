//! `cmsgpack` and `struct`, as far as the functions use them.

use mlua::{Lua, MultiValue, Table, Value};

/// Both, as globals.
pub(super) fn add_to(lua: &Lua) -> mlua::Result<()> {
    let cmsgpack = lua.create_table()?;
    cmsgpack.set(
        "pack",
        lua.create_function(|lua, value: Value| {
            let mut out = Vec::new();
            pack(&mut out, &value)?;
            lua.create_string(out)
        })?,
    )?;
    cmsgpack.set(
        "unpack",
        lua.create_function(|lua, packed: mlua::LuaString| {
            let bytes = packed.as_bytes();
            let (mut rest, mut values) = (&bytes[..], Vec::new());
            while !rest.is_empty() {
                values.push(unpack(lua, &mut rest)?);
            }
            Ok(MultiValue::from_vec(values))
        })?,
    )?;
    lua.globals().set("cmsgpack", cmsgpack)?;
    let record = lua.create_table()?;
    record.set("pack", lua.create_function(pack_struct)?)?;
    record.set("unpack", lua.create_function(unpack_struct)?)?;
    lua.globals().set("struct", record)
}

fn failed(what: &str) -> mlua::Error {
    mlua::Error::runtime(what)
}

fn pack(out: &mut Vec<u8>, value: &Value) -> mlua::Result<()> {
    match value {
        Value::String(text) => {
            let bytes = text.as_bytes();
            match bytes.len() {
                len @ 0..32 => out.push(0xa0 | len as u8),
                len @ 32..256 => out.extend([0xd9, len as u8]),
                len @ 256..0x1_0000 => {
                    out.push(0xda);
                    out.extend((len as u16).to_be_bytes());
                }
                len => {
                    out.push(0xdb);
                    out.extend((len as u32).to_be_bytes());
                }
            }
            out.extend(&bytes[..]);
        }
        Value::Integer(number) => pack_integer(out, *number),
        Value::Number(number) if number % 1.0 == 0.0 && number.abs() < 2f64.powi(63) => {
            pack_integer(out, *number as i64)
        }
        Value::Number(number) => {
            out.push(0xcb);
            out.extend(number.to_be_bytes());
        }
        Value::Boolean(it) => out.push(0xc2 + u8::from(*it)),
        Value::Nil => out.push(0xc0),
        Value::Table(table) => pack_array(out, table)?,
        other => return Err(failed(&format!("cannot pack a {}", other.type_name()))),
    }
    Ok(())
}

fn pack_integer(out: &mut Vec<u8>, number: i64) {
    rmp::encode::write_sint(out, number).expect("writing into memory cannot fail");
}

/// The functions pack arrays alone.
fn pack_array(out: &mut Vec<u8>, table: &Table) -> mlua::Result<()> {
    let len = table.raw_len();
    rmp::encode::write_array_len(out, len as u32).expect("writing into memory cannot fail");
    (1..=len).try_for_each(|at| pack(out, &table.raw_get(at)?))
}

fn unpack(lua: &Lua, rest: &mut &[u8]) -> mlua::Result<Value> {
    let kind = take(rest, 1)?[0];
    let mut length = |bytes: usize| -> mlua::Result<usize> {
        Ok(take(rest, bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    Ok(match kind {
        0x00..=0x7f => Value::Number(kind.into()),
        0xe0..=0xff => Value::Number((kind as i8).into()),
        0xc0 => Value::Nil,
        0xc2 | 0xc3 => Value::Boolean(kind == 0xc3),
        0xcc..=0xcf => Value::Number(length(1 << (kind - 0xcc))? as u64 as f64),
        0xd0 => Value::Number((length(1)? as u8 as i8).into()),
        0xd1 => Value::Number((length(2)? as u16 as i16).into()),
        0xd2 => Value::Number((length(4)? as u32 as i32).into()),
        0xd3 => Value::Number(length(8)? as u64 as i64 as f64),
        0xca => Value::Number(f32::from_bits(length(4)? as u32).into()),
        0xcb => Value::Number(f64::from_bits(length(8)? as u64)),
        0xa0..=0xbf => string(lua, rest, usize::from(kind & 0x1f))?,
        0xd9 | 0xc4 => length(1).and_then(|len| string(lua, rest, len))?,
        0xda | 0xc5 => length(2).and_then(|len| string(lua, rest, len))?,
        0xdb | 0xc6 => length(4).and_then(|len| string(lua, rest, len))?,
        0x90..=0x9f => array(lua, rest, usize::from(kind & 0x0f))?,
        0xdc => length(2).and_then(|len| array(lua, rest, len))?,
        0xdd => length(4).and_then(|len| array(lua, rest, len))?,
        _ => return Err(failed("Bad data format in input.")),
    })
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> mlua::Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len).ok_or_else(|| failed("Missing bytes in input."))?;
    *rest = left;
    Ok(taken)
}

fn string(lua: &Lua, rest: &mut &[u8], len: usize) -> mlua::Result<Value> {
    Ok(Value::String(lua.create_string(take(rest, len)?)?))
}

fn array(lua: &Lua, rest: &mut &[u8], len: usize) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(len.min(rest.len()), 0)?;
    for at in 1..=len {
        table.raw_set(at, unpack(lua, rest)?)?;
    }
    Ok(Value::Table(table))
}

/// The sizes of a format such as `<i8I4I2`: whole numbers, little endian.
fn sizes(format: &str) -> mlua::Result<Vec<usize>> {
    let format = format.strip_prefix('<').ok_or_else(|| failed("a format is little endian"))?;
    let size = |size: &str| size.parse().map_err(|_| failed("a format has sizes"));
    format.split(['i', 'I']).skip(1).map(size).collect()
}

fn pack_struct(lua: &Lua, (format, values): (String, mlua::Variadic<f64>)) -> mlua::Result<mlua::LuaString> {
    let mut out = Vec::new();
    for (size, value) in sizes(&format)?.into_iter().zip(values.iter()) {
        out.extend(&(*value as i64).to_le_bytes()[..size]);
    }
    lua.create_string(out)
}

fn unpack_struct(_: &Lua, (format, packed): (String, mlua::LuaString)) -> mlua::Result<mlua::Variadic<f64>> {
    let bytes = packed.as_bytes();
    let mut rest = &bytes[..];
    let mut values = Vec::new();
    for size in sizes(&format)? {
        let mut whole = [0; 8];
        whole[..size].copy_from_slice(take(&mut rest, size).map_err(|_| failed("data string too short"))?);
        values.push(u64::from_le_bytes(whole) as f64);
    }
    values.push((bytes.len() - rest.len() + 1) as f64);
    Ok(values.into_iter().collect())
}
