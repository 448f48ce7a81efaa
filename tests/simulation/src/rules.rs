//! Rules of the delivery protocol that a run can leave out, to see that it fails without them.

/// What to replace in the functions to take a rule out; nothing for a rule that is elsewhere.
pub fn patches(without: Option<&str>) -> Vec<(&'static str, &'static str)> {
    match without {
        Some("1-gap") => vec![("if have ~= prev then return {'GAP', have} end", "")],
        Some("3-bitmap") => vec![("return math.floor(byte / 2 ^ (seq % 8)) % 2 == 1", "return false")],
        Some("4-incarnation") => {
            vec![("if redis.call('HGET', p .. 'i', gateway) ~= incarnation then return 'FENCED' end", "")]
        }
        _ => Vec::new(),
    }
}
