//! The keys of a site: what a page, an app or a server may have to present beside the origin. A key itself is nowhere kept or logged.

use proto::agent::{Envelope, Hello, Reason};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// A key has 47 bytes. What is much longer is none, and costs nothing to hash.
const KEY_BYTES_MAX: usize = 128;

type Hash = [u8; 32];

/// What a client says to be let in, beside its origin.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The site's name.
    pub site: &'a str,
    /// A key of the site, or not.
    pub key: Presented,
}

/// A key as somebody presents it.
#[derive(Clone, Copy)]
pub enum Presented {
    /// None at all.
    Missing,
    /// Longer than any key.
    TooLong,
    /// Its SHA-256.
    Hashed(Hash),
}

/// What a site that has keys but does not require them lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unkeyed {
    /// No key came.
    Missing,
    /// One that is none of the site's.
    Wrong,
}

/// Of one site.
#[derive(Debug, Default)]
pub(super) struct Keys {
    hashes: Vec<Hash>,
    required: bool,
}

impl<'a> From<&'a Hello> for Credentials<'a> {
    fn from(hello: &'a Hello) -> Self {
        Self { site: &hello.site, key: Presented::new(&hello.key) }
    }
}

impl<'a> From<&'a Envelope> for Credentials<'a> {
    fn from(envelope: &'a Envelope) -> Self {
        Self { site: &envelope.site, key: Presented::new(&envelope.key) }
    }
}

impl Presented {
    /// As it came; empty is none.
    pub fn new(key: &str) -> Self {
        match key.len() {
            0 => Self::Missing,
            1..=KEY_BYTES_MAX => Self::Hashed(hash_of(key)),
            _ => Self::TooLong,
        }
    }
}

impl std::fmt::Debug for Presented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Presented(…)")
    }
}

impl Unkeyed {
    /// As the metric calls it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }
}

impl Keys {
    /// Of these SHA-256. One that is none opens nothing, and holds up neither the site's others nor other sites.
    pub(super) fn new(site: &str, hashes: &[Vec<u8>], required: bool) -> Self {
        let hash = |hash: &Vec<u8>| {
            let read = Hash::try_from(hash.as_slice());
            read.inspect_err(|_| tracing::warn!(site, "a key of a site opens nothing; make it anew")).ok()
        };
        Self { hashes: hashes.iter().filter_map(hash).collect(), required }
    }

    /// Whether this opens the site. `Some`: it does only because no key is required.
    pub(super) fn judge(&self, presented: &Presented) -> Result<Option<Unkeyed>, Reason> {
        let unkeyed = match presented {
            Presented::Missing => Unkeyed::Missing,
            Presented::Hashed(hash) if self.hold(hash) => return Ok(None),
            Presented::Hashed(_) | Presented::TooLong => Unkeyed::Wrong,
        };
        match (self.required, self.hashes.is_empty()) {
            (true, _) => Err(Reason::WrongKey),
            (false, true) => Ok(None),
            (false, false) => Ok(Some(unkeyed)),
        }
    }

    /// In a time that tells neither which key it is nor how much of one is equal: every one is compared to its end.
    fn hold(&self, presented: &Hash) -> bool {
        self.hashes.iter().fold(Choice::from(0), |found, hash| found | hash.ct_eq(presented)).into()
    }
}

pub(super) fn hash_of(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: &[&str], required: bool) -> Keys {
        Keys::new("shop", &of.iter().map(|key| hash_of(key).to_vec()).collect::<Vec<_>>(), required)
    }

    fn judge(keys: &Keys, key: &str) -> Result<Option<Unkeyed>, Reason> {
        keys.judge(&Presented::new(key))
    }

    #[test]
    fn each_of_the_keys_opens_and_nothing_else() {
        let keys = keys(&["one", "two", "three", "four"], true);
        for key in ["one", "two", "three", "four"] {
            assert_eq!(judge(&keys, key), Ok(None), "{key}");
        }
        for key in ["", "five", "on", "one ", "ONE", &"x".repeat(200)] {
            assert_eq!(judge(&keys, key), Err(Reason::WrongKey), "{key}");
        }
    }

    #[test]
    fn before_it_is_required_it_is_told_what_would_be_refused() {
        let keys = keys(&["one"], false);
        assert_eq!(judge(&keys, "one"), Ok(None));
        assert_eq!(judge(&keys, ""), Ok(Some(Unkeyed::Missing)));
        assert_eq!(judge(&keys, "two"), Ok(Some(Unkeyed::Wrong)));
        assert_eq!(judge(&keys, &"x".repeat(200)), Ok(Some(Unkeyed::Wrong)));
    }

    #[test]
    fn a_site_without_keys_asks_for_none_unless_it_says_so() {
        for key in ["", "any"] {
            assert_eq!(judge(&keys(&[], false), key), Ok(None));
            assert_eq!(judge(&keys(&[], true), key), Err(Reason::WrongKey));
        }
    }

    #[test]
    fn a_hash_that_is_none_opens_nothing_and_leaves_the_others() {
        let keys = Keys::new("shop", &[Vec::new(), vec![0; 31], hash_of("one").to_vec()], true);
        assert_eq!((judge(&keys, "one"), judge(&keys, "")), (Ok(None), Err(Reason::WrongKey)));
    }

    #[test]
    fn what_is_printed_names_no_key() {
        let hello = Hello { site: "shop".into(), key: "tlk_secret".into(), ..Default::default() };
        let printed = format!("{:?}", Credentials::from(&hello));
        assert!(printed.contains("shop") && !printed.contains("secret"), "{printed}");
    }
}
