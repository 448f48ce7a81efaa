//! The lists of user agents come from the npm registry and are embedded: without them the compiler would only say that
//! some file is missing.
use std::path::Path;

const LISTS: [&str; 2] = [
    "user-agents/node_modules/uap-core/regexes.yaml",
    "user-agents/node_modules/crawler-user-agents/crawler-user-agents.json",
];

fn main() {
    for list in LISTS {
        println!("cargo::rerun-if-changed={list}");
        if !Path::new(list).exists() {
            println!(
                "cargo::error=gateway/{list} is missing: run `make build`, which installs it (npm ci in gateway/user-agents)"
            );
        }
    }
}
