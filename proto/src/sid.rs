//! The identity of an agent's stream of batches.

/// A UUIDv7: its first 48 bits are the stamp, Unix milliseconds, and never change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sid([u8; 16]);

/// The bytes are not a UUIDv7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotASid;

impl Sid {
    /// Sixteen bytes with version 7 and the RFC 9562 variant.
    pub fn try_new(bytes: &[u8]) -> Result<Self, NotASid> {
        let bytes: [u8; 16] = bytes.try_into().map_err(|_| NotASid)?;
        if bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10 { Ok(Self(bytes)) } else { Err(NotASid) }
    }

    /// A sid of this stamp (Unix ms) and these random bits, of which 74 are used.
    pub fn from_parts(stamp_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&stamp_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        bytes[6] = 0x70 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        Self(bytes)
    }

    /// When the sid was made, Unix ms by its agent's idea of the server's clock.
    pub fn stamp_ms(&self) -> u64 {
        let mut stamp = [0; 8];
        stamp[2..].copy_from_slice(&self.0[..6]);
        u64::from_be_bytes(stamp)
    }

    /// The bytes as they travel.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl core::fmt::Debug for Sid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_stamp_and_is_a_uuid_of_version_7() {
        let sid = Sid::from_parts(1_700_000_000_123, [0xff; 10]);
        assert_eq!(sid.stamp_ms(), 1_700_000_000_123);
        assert_eq!(Sid::try_new(sid.as_bytes()), Ok(sid));
        assert_eq!(Sid::try_new(&[0; 16]), Err(NotASid));
        assert_eq!(Sid::try_new(&sid.as_bytes()[..15]), Err(NotASid));
    }
}
