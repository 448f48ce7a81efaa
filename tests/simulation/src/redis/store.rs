//! The data of a Redis and the commands that the functions and links use, as Redis 7 answers them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a command answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing there.
    Nil,
    /// An integer.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// A status line.
    Status(&'static str),
    /// Several.
    Array(Vec<Reply>),
    /// Code and message.
    Error(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    Text(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Sorted(BTreeMap<Vec<u8>, f64>),
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    data: Data,
    expires_ms: Option<u64>,
}

/// Everything that is stored. A copy costs as much as it has keys: values are shared until they are written to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    entries: BTreeMap<Vec<u8>, Arc<Entry>>,
    /// Unix ms; keys expire by it.
    pub now_ms: u64,
    /// Grows with every write.
    pub writes: u64,
}

type Arguments<'a> = &'a [Vec<u8>];

impl Store {
    /// Runs one command: its name, then its arguments.
    pub fn execute(&mut self, command: Arguments<'_>) -> Reply {
        let Some((name, given)) = command.split_first() else { return error("ERR empty command") };
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        match self.run(&name, given) {
            Ok(reply) => reply,
            Err(reply) => reply,
        }
    }

    /// No key is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys that begin with `prefix`.
    pub fn keys(&mut self, prefix: &[u8]) -> Vec<Vec<u8>> {
        self.expire();
        self.entries.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    fn run(&mut self, name: &str, given: Arguments<'_>) -> Result<Reply, Reply> {
        match (name, given) {
            ("GET", [key]) => Ok(self.text(key)?.map_or(Reply::Nil, |text| Reply::Bulk(text.clone()))),
            ("MGET", keys) => Ok(Reply::Array(
                keys.iter()
                    .map(|key| match self.text(key) {
                        Ok(Some(text)) => Reply::Bulk(text.clone()),
                        _ => Reply::Nil,
                    })
                    .collect(),
            )),
            ("SET", [key, value]) => Ok(self.set(key, value, None)),
            ("SET", [key, value, px, ms]) if px.eq_ignore_ascii_case(b"PX") => {
                let expires_ms = self.now_ms + number(ms)? as u64;
                Ok(self.set(key, value, Some(expires_ms)))
            }
            ("MSET", pairs) => {
                for pair in pairs.chunks_exact(2) {
                    self.set(&pair[0], &pair[1], None);
                }
                Ok(Reply::Status("OK"))
            }
            ("INCRBY", [key, by]) => {
                let now = self.text(key)?.map_or(Ok(0), |text| number(text))? + number(by)?;
                let expires_ms = self.look(key).and_then(|entry| entry.expires_ms);
                self.set(key, now.to_string().as_bytes(), expires_ms);
                Ok(Reply::Int(now))
            }
            ("DEL" | "UNLINK", keys) => {
                let gone = keys.iter().filter(|key| self.look(key).is_some()).count();
                for key in keys {
                    self.entries.remove(key);
                }
                self.writes += u64::from(gone > 0);
                Ok(Reply::Int(gone as i64))
            }
            ("EXISTS", keys) => Ok(Reply::Int(keys.iter().filter(|key| self.look(key).is_some()).count() as i64)),
            ("TYPE", [key]) => Ok(Reply::Status(self.look(key).map_or("none", |entry| match entry.data {
                Data::Text(_) => "string",
                Data::Hash(_) => "hash",
                Data::Set(_) => "set",
                Data::Sorted(_) => "zset",
            }))),
            ("KEYS", [pattern]) | ("SCAN", [_, _, pattern, ..]) => {
                let prefix = pattern.strip_suffix(b"*").ok_or_else(|| error("ERR only prefixes are looked for"))?;
                let keys = Reply::Array(self.keys(prefix).into_iter().map(Reply::Bulk).collect());
                Ok(if name == "KEYS" { keys } else { scanned(keys) })
            }
            ("TIME", []) => Ok(Reply::Array(vec![
                Reply::Bulk((self.now_ms / 1000).to_string().into_bytes()),
                Reply::Bulk((self.now_ms % 1000 * 1000).to_string().into_bytes()),
            ])),
            (name, [key, given @ ..]) if name.starts_with('H') => self.hash(name, key, given),
            (name, [key, given @ ..]) if name.starts_with('S') => self.of_set(name, key, given),
            (name, [key, given @ ..]) if name.starts_with('Z') => self.sorted(name, key, given),
            _ => Err(error(&format!("ERR unknown command '{name}'"))),
        }
    }

    fn hash(&mut self, name: &str, key: &[u8], given: Arguments<'_>) -> Result<Reply, Reply> {
        let read = match self.look(key).map(|entry| &entry.data) {
            None => None,
            Some(Data::Hash(hash)) => Some(hash),
            Some(_) => return Err(wrong_type()),
        };
        let found = |field: &Vec<u8>| read.and_then(|hash| hash.get(field)).cloned();
        match (name, given) {
            ("HGET", [field]) => Ok(found(field).map_or(Reply::Nil, Reply::Bulk)),
            ("HMGET", fields) => {
                Ok(Reply::Array(fields.iter().map(|f| found(f).map_or(Reply::Nil, Reply::Bulk)).collect()))
            }
            ("HKEYS", []) => {
                Ok(Reply::Array(read.into_iter().flat_map(BTreeMap::keys).cloned().map(Reply::Bulk).collect()))
            }
            ("HGETALL" | "HSCAN", _) => {
                let pairs = read.into_iter().flatten().flat_map(|(field, value)| [field.clone(), value.clone()]);
                let pairs = Reply::Array(pairs.map(Reply::Bulk).collect());
                Ok(if name == "HSCAN" { scanned(pairs) } else { pairs })
            }
            ("HSET", pairs) if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                let hash = self.write_hash(key);
                let before = hash.len();
                hash.extend(pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                Ok(Reply::Int((hash.len() - before) as i64))
            }
            ("HSETNX", [field, value]) => {
                if found(field).is_some() {
                    return Ok(Reply::Int(0));
                }
                self.write_hash(key).insert(field.clone(), value.clone());
                Ok(Reply::Int(1))
            }
            ("HINCRBY", [field, by]) => {
                let now = found(field).map_or(Ok(0), |text| number(&text))? + number(by)?;
                self.write_hash(key).insert(field.clone(), now.to_string().into_bytes());
                Ok(Reply::Int(now))
            }
            ("HDEL", fields) => {
                let gone = fields.iter().filter(|field| found(field).is_some()).count();
                if gone > 0 {
                    let hash = self.write_hash(key);
                    fields.iter().for_each(|field| drop(hash.remove(field)));
                    if hash.is_empty() {
                        self.entries.remove(key);
                    }
                }
                Ok(Reply::Int(gone as i64))
            }
            _ => Err(error(&format!("ERR unknown command '{name}'"))),
        }
    }

    fn of_set(&mut self, name: &str, key: &[u8], given: Arguments<'_>) -> Result<Reply, Reply> {
        let read = match self.look(key).map(|entry| &entry.data) {
            None => None,
            Some(Data::Set(set)) => Some(set),
            Some(_) => return Err(wrong_type()),
        };
        let holds = |member: &Vec<u8>| read.is_some_and(|set| set.contains(member));
        match (name, given) {
            ("SISMEMBER", [member]) => Ok(Reply::Int(holds(member).into())),
            ("SMEMBERS" | "SSCAN", _) => {
                let members = Reply::Array(read.into_iter().flatten().cloned().map(Reply::Bulk).collect());
                Ok(if name == "SSCAN" { scanned(members) } else { members })
            }
            ("SADD", members) if !members.is_empty() => {
                let Data::Set(set) = self.write(key, Data::Set(BTreeSet::new())) else { return Err(wrong_type()) };
                let before = set.len();
                set.extend(members.iter().cloned());
                Ok(Reply::Int((set.len() - before) as i64))
            }
            ("SREM", members) => {
                let gone = members.iter().filter(|member| holds(member)).count();
                if gone > 0 {
                    let Data::Set(set) = self.write(key, Data::Set(BTreeSet::new())) else { return Err(wrong_type()) };
                    set.retain(|member| !members.contains(member));
                    if set.is_empty() {
                        self.entries.remove(key);
                    }
                }
                Ok(Reply::Int(gone as i64))
            }
            _ => Err(error(&format!("ERR unknown command '{name}'"))),
        }
    }

    fn sorted(&mut self, name: &str, key: &[u8], given: Arguments<'_>) -> Result<Reply, Reply> {
        let read = match self.look(key).map(|entry| &entry.data) {
            None => None,
            Some(Data::Sorted(sorted)) => Some(sorted),
            Some(_) => return Err(wrong_type()),
        };
        let within = |from: &[u8], to: &[u8]| -> Result<Vec<Vec<u8>>, Reply> {
            let (from, to) = (bound(from)?, bound(to)?);
            let fits = |score: f64| {
                (if from.1 { score > from.0 } else { score >= from.0 })
                    && (if to.1 { score < to.0 } else { score <= to.0 })
            };
            let mut found: Vec<_> = read.into_iter().flatten().filter(|(_, score)| fits(**score)).collect();
            found.sort_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
            Ok(found.into_iter().map(|(member, _)| member.clone()).collect())
        };
        match (name, given) {
            ("ZADD", pairs) if !pairs.is_empty() && pairs.len() % 2 == 0 => {
                let scores = pairs.chunks_exact(2).map(|pair| Ok((pair[1].clone(), bound(&pair[0])?.0)));
                let scores = scores.collect::<Result<Vec<_>, Reply>>()?;
                let Data::Sorted(sorted) = self.write(key, Data::Sorted(BTreeMap::new())) else {
                    return Err(wrong_type());
                };
                let before = sorted.len();
                sorted.extend(scores);
                Ok(Reply::Int((sorted.len() - before) as i64))
            }
            ("ZCOUNT", [from, to]) => Ok(Reply::Int(within(from, to)?.len() as i64)),
            ("ZRANGE", [from, to, by, limit @ ..]) if by.eq_ignore_ascii_case(b"BYSCORE") => {
                let mut found = within(from, to)?;
                if let [_, skip, count] = limit {
                    let (skip, count) = (number(skip)? as usize, number(count)? as usize);
                    found = found.into_iter().skip(skip).take(count).collect();
                }
                Ok(Reply::Array(found.into_iter().map(Reply::Bulk).collect()))
            }
            ("ZRANGE", [_, _, with]) if with.eq_ignore_ascii_case(b"WITHSCORES") => {
                let mut all: Vec<_> = read.into_iter().flatten().collect();
                all.sort_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
                let flat = all.into_iter().flat_map(|(member, score)| [member.clone(), score.to_string().into_bytes()]);
                Ok(Reply::Array(flat.map(Reply::Bulk).collect()))
            }
            ("ZREMRANGEBYSCORE" | "ZREM", given) => {
                let gone = match (name, given) {
                    ("ZREM", members) => members.to_vec(),
                    (_, [from, to]) => within(from, to)?,
                    _ => return Err(error("ERR syntax error")),
                };
                let gone: Vec<_> =
                    gone.into_iter().filter(|member| read.is_some_and(|it| it.contains_key(member))).collect();
                if !gone.is_empty() {
                    let Data::Sorted(sorted) = self.write(key, Data::Sorted(BTreeMap::new())) else {
                        return Err(wrong_type());
                    };
                    sorted.retain(|member, _| !gone.contains(member));
                    if sorted.is_empty() {
                        self.entries.remove(key);
                    }
                }
                Ok(Reply::Int(gone.len() as i64))
            }
            _ => Err(error(&format!("ERR unknown command '{name}'"))),
        }
    }

    fn look(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key).map(|entry| &**entry).filter(|entry| entry.expires_ms.is_none_or(|at| at > self.now_ms))
    }

    fn text(&self, key: &[u8]) -> Result<Option<&Vec<u8>>, Reply> {
        match self.look(key).map(|entry| &entry.data) {
            None => Ok(None),
            Some(Data::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type()),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Reply {
        self.writes += 1;
        self.entries.insert(key.to_vec(), Arc::new(Entry { data: Data::Text(value.to_vec()), expires_ms }));
        Reply::Status("OK")
    }

    fn write(&mut self, key: &[u8], empty: Data) -> &mut Data {
        if self.look(key).is_none() {
            self.entries.remove(key);
        }
        self.writes += 1;
        let entry = self.entries.entry(key.to_vec());
        let entry = entry.or_insert_with(|| Arc::new(Entry { data: empty, expires_ms: None }));
        &mut Arc::make_mut(entry).data
    }

    /// Of a key that is a hash or nothing.
    fn write_hash(&mut self, key: &[u8]) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        match self.write(key, Data::Hash(BTreeMap::new())) {
            Data::Hash(hash) => hash,
            _ => unreachable!("its type was looked at before"),
        }
    }

    fn expire(&mut self) {
        let now_ms = self.now_ms;
        self.entries.retain(|_, entry| entry.expires_ms.is_none_or(|at| at > now_ms));
    }
}

/// A scan that has come to its end.
fn scanned(elements: Reply) -> Reply {
    Reply::Array(vec![Reply::Bulk(b"0".to_vec()), elements])
}

pub(super) fn error(message: &str) -> Reply {
    Reply::Error(message.to_owned())
}

fn wrong_type() -> Reply {
    error("WRONGTYPE Operation against a key holding the wrong kind of value")
}

fn number(text: &[u8]) -> Result<i64, Reply> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| error("ERR value is not an integer or out of range"))
}

/// A score, and whether it is excluded.
fn bound(text: &[u8]) -> Result<(f64, bool), Reply> {
    let (text, excluded) = text.strip_prefix(b"(").map_or((text, false), |text| (text, true));
    let score = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    score.map(|score| (score, excluded)).ok_or_else(|| error("ERR min or max is not a float"))
}
