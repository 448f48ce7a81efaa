//! The dashboard's files are embedded from `dashboard/dist`, which its own build makes.
use std::path::Path;

fn main() {
    let page = "../dashboard/dist/index.html";
    println!("cargo::rerun-if-changed={page}");
    if !Path::new(page).is_file() {
        println!("cargo::error=dashboard/dist/index.html is missing; run `make build`: it builds the dashboard first");
    }
}
