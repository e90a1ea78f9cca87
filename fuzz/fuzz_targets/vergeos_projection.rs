#![no_main]

#[path = "../bodies/vergeos.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::projection(data));
