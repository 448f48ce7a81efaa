//! Leaves a rule of the delivery protocol out, so that the simulation can show that it is needed. Compiled in only with the feature
//! `controls`, which nothing that ships has; every other rule is left out without the gateway's help.

#[cfg(feature = "controls")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static LEFT_OUT: Cell<[Option<&'static str>; 2]> = const { Cell::new([None; 2]) };
    }

    /// From now on this thread's gateways do without the rule, and without the one that was left out before it.
    pub fn leave_out(rule: &'static str) {
        let [_, before] = LEFT_OUT.get();
        LEFT_OUT.set([before, Some(rule)]);
    }

    pub(crate) fn keeps(rule: &str) -> bool {
        !LEFT_OUT.get().contains(&Some(rule))
    }
}

#[cfg(feature = "controls")]
pub(crate) use switch::keeps;
#[cfg(feature = "controls")]
pub use switch::leave_out;

#[cfg(not(feature = "controls"))]
pub(crate) const fn keeps(_: &str) -> bool {
    true
}
