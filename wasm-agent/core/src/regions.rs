//! The regions that gateways named, so that a transmission can say where its batch has been before.

/// An agent that has met more regions than this names the first ones only.
pub(crate) const REGIONS_MAX: usize = 4;
/// A longer name is not kept.
pub(crate) const REGION_BYTES_MAX: usize = 32;

/// A region that has a place in [`Regions`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Region(u8);

/// A set of regions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct RegionSet(u8);

impl RegionSet {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn insert(&mut self, region: Option<Region>) {
        if let Some(Region(place)) = region {
            self.0 |= 1 << place;
        }
    }
}

pub(crate) struct Regions {
    names: [[u8; REGION_BYTES_MAX]; REGIONS_MAX],
    lens: [u8; REGIONS_MAX],
}

impl Regions {
    pub(crate) const fn new() -> Self {
        Self { names: [[0; REGION_BYTES_MAX]; REGIONS_MAX], lens: [0; REGIONS_MAX] }
    }

    /// The region of this name, which gets a place if it has none and one is free. No region has a name that is not ASCII, and one
    /// that is no text would make every envelope that names it malformed.
    pub(crate) fn meet(&mut self, name: &[u8]) -> Option<Region> {
        if name.is_empty() || name.len() > REGION_BYTES_MAX || !name.is_ascii() {
            return None;
        }
        for (place, (known, len)) in self.names.iter_mut().zip(&mut self.lens).enumerate() {
            if *len == 0 {
                known[..name.len()].copy_from_slice(name);
                *len = name.len() as u8;
            }
            if known.get(..usize::from(*len)) == Some(name) {
                return Some(Region(place as u8));
            }
        }
        None
    }

    /// The names of a set's regions.
    pub(crate) fn names(&self, set: RegionSet) -> impl Iterator<Item = &[u8]> + Clone {
        let named = self.names.iter().zip(&self.lens).enumerate();
        named
            .filter(move |&(place, _)| set.0 >> place & 1 == 1)
            .map(|(_, (name, &len))| name.get(..len.into()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_place_and_the_first_ones_are_kept() {
        let mut regions = Regions::new();
        let eu = regions.meet(b"eu-north");
        let us = regions.meet(b"us-east");
        assert_eq!(regions.meet(b"eu-north"), eu);
        assert_ne!(eu, us);
        assert_eq!(regions.meet(b""), None);
        assert_eq!(regions.meet(&[b'x'; REGION_BYTES_MAX + 1]), None);
        assert_eq!(regions.meet(b"us-e\xffst"), None);
        assert!(regions.meet(b"ap").is_some() && regions.meet(b"sa").is_some());
        assert_eq!(regions.meet(b"af"), None);

        let mut set = RegionSet::EMPTY;
        set.insert(us);
        set.insert(None);
        set.insert(eu);
        assert_eq!(regions.names(set).collect::<Vec<_>>(), [&b"eu-north"[..], b"us-east"]);
    }
}
