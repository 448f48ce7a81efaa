#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::proxy_header::run(bytes));
