//! What a user, an operator or an attacker sees of the real processes: `tideline up` with its own ports and data folder for
//! every test, agents over the real protocol, answers from the Stats API.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod bad_input;
mod instance;
mod operator;
mod proxies;
mod site_keys;
mod site_rules;
mod start;
mod survival;
mod transports;
mod turned_away;
mod visits;

use harness::page;
