//! A function's answer.

use redis::Value;

use crate::Lsn;
use crate::link::LinkError;

/// A word, and what belongs to it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) word: String,
    pub(crate) rest: Vec<Value>,
}

impl Reply {
    pub(crate) fn read(value: Value) -> Result<Self, LinkError> {
        let Value::Array(mut rest) = value else { return Err(LinkError::Unknown(format!("{value:?}"))) };
        if rest.is_empty() {
            return Err(LinkError::Unknown("an empty array".into()));
        }
        let word = match rest.remove(0) {
            Value::BulkString(word) => String::from_utf8_lossy(&word).into_owned(),
            Value::SimpleString(word) => word,
            other => return Err(LinkError::Unknown(format!("{other:?}"))),
        };
        Ok(Self { word, rest })
    }

    pub(crate) fn bytes(&self, at: usize) -> Result<&[u8], LinkError> {
        match self.rest.get(at) {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(self.unknown()),
        }
    }

    pub(crate) fn text(&self, at: usize) -> Result<String, LinkError> {
        String::from_utf8(self.bytes(at)?.to_vec()).map_err(|_| self.unknown())
    }

    pub(crate) fn number(&self, at: usize) -> Result<u64, LinkError> {
        match self.rest.get(at) {
            Some(Value::Int(number)) => u64::try_from(*number).map_err(|_| self.unknown()),
            Some(Value::BulkString(text)) => {
                std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| self.unknown())
            }
            _ => Err(self.unknown()),
        }
    }

    pub(crate) fn lsn(&self, at: usize) -> Result<Lsn, LinkError> {
        self.number(at).map(Lsn)
    }

    pub(crate) fn unknown(&self) -> LinkError {
        LinkError::Unknown(format!("{} {:?}", self.word, self.rest))
    }
}
