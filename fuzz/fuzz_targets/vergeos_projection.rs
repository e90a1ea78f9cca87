#![no_main]

#[path = "../bodies/vergeos.rs"]
#[allow(dead_code)]
mod bodies;
#[path = "../../crates/server/src/vergeos/ere.rs"]
#[allow(dead_code)]
mod ere;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::projection(data));
