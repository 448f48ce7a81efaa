#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::waf_rules::run(bytes));
