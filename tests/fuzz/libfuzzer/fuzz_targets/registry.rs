#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vipsec_fuzz::run("registry", bytes));
