//! The fuzz targets over what is committed in their corpora: what a fuzzer found once stays found, without one. `make fuzz` looks for more.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use fuzz::Run;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// Every file through its target; each that breaks a law is named.
fn replay(target: &str, run: Run) {
    let folder = corpora().join(target);
    let entries = fs::read_dir(&folder).expect("a folder a target");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no inputs: nothing was tested", folder.display());
    let breaks = |file: &PathBuf| {
        let bytes = fs::read(file).expect("a file");
        catch_unwind(AssertUnwindSafe(|| run(&bytes))).is_err()
    };
    let broken: Vec<_> = files.iter().filter(|file| breaks(file)).collect();
    assert!(broken.is_empty(), "{} of {} inputs break a law: {broken:#?}", broken.len(), files.len());
}

#[test]
fn every_corpus_has_its_target() {
    let folders = fs::read_dir(corpora()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let targets = fuzz::TARGETS.map(|(name, _)| name.to_owned());
    assert_eq!(folders.collect::<BTreeSet<_>>(), targets.into_iter().collect());
}

#[test]
fn agent_frames() {
    replay("agent_frames", fuzz::agent_frames::run);
}

#[test]
fn batch() {
    replay("batch", fuzz::batch::run);
}

#[test]
fn frame() {
    replay("frame", fuzz::frame::run);
}

#[test]
fn log_record() {
    replay("log_record", fuzz::log_record::run);
}

#[test]
fn proxy_header() {
    replay("proxy_header", fuzz::proxy_header::run);
}

#[test]
fn waf_rules() {
    replay("waf_rules", fuzz::waf_rules::run);
}

#[test]
fn wire() {
    replay("wire", fuzz::wire::run);
}
