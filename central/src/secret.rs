//! Keys, tokens and cookies: random, compared by their hash, never kept as they are.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// A secret that a person or a program holds. 256 random bits as 43 characters that are safe in a URL.
pub struct Secret(String);

/// SHA-256 of a secret. Fast on purpose: a secret of 256 random bits cannot be guessed from it.
#[derive(Clone, Copy, Debug)]
pub struct SecretHash([u8; 32]);

/// The shortest secret that a file may hold, in characters: 16 random ones of base64 are 96 bits.
const FILE_SECRET_CHARACTERS_MIN: usize = 16;

/// A file that should hold a secret does not.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It is missing or not readable.
    #[error(
        "{field} {path}: {source}; write a random secret of at least {FILE_SECRET_CHARACTERS_MIN} characters into it"
    )]
    Read {
        /// The setting that names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds too little.
    #[error(
        "{field} {path} holds fewer than {FILE_SECRET_CHARACTERS_MIN} characters; write a longer random secret into it"
    )]
    Short {
        /// The setting that names it.
        field: &'static str,
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// A new one.
    pub fn random() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
    }

    /// A new key of a site: the same behind `tlk_`, by which it is recognised where it should not be.
    pub fn of_site() -> Self {
        Self(format!("tlk_{}", Self::random().0))
    }

    /// As it is handed out, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretHash {
    /// Of a secret as someone presents it.
    pub fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }

    /// Of the secret in a file, trimmed. `field` is the setting that names the file.
    pub fn of_file(field: &'static str, path: &Path) -> Result<Self, SecretFileError> {
        let text = std::fs::read_to_string(path).map_err(|source| SecretFileError::Read {
            field,
            path: path.to_owned(),
            source,
        })?;
        let secret = text.trim();
        if secret.chars().count() < FILE_SECRET_CHARACTERS_MIN {
            return Err(SecretFileError::Short { field, path: path.to_owned() });
        }
        Ok(Self::of(secret))
    }

    /// Whether both are of the same secret, in a time that does not tell how much of them is equal.
    pub fn matches(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(difference) == 0
    }

    /// The key under which it is kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_matches() {
        let secret = Secret::random();
        assert_eq!(secret.reveal().len(), 43);
        assert!(secret.hash().matches(&SecretHash::of(secret.reveal())));
        assert!(!secret.hash().matches(&Secret::random().hash()));
    }

    #[test]
    fn a_file_is_trimmed_and_must_hold_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let error = SecretHash::of_file("api_key_file", &path).unwrap_err().to_string();
        assert!(error.starts_with("api_key_file "), "{error}");

        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(SecretHash::of_file("api_key_file", &path), Err(SecretFileError::Short { .. })));

        std::fs::write(&path, "long-enough-to-be-a-key\n").unwrap();
        let hash = SecretHash::of_file("api_key_file", &path).unwrap();
        assert!(hash.matches(&SecretHash::of("long-enough-to-be-a-key")));
    }
}
