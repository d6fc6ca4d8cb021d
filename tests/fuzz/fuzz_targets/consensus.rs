//! See `consensus` in `tests/src/fuzz.rs`.
#![no_main]
#![allow(dead_code)]

#[path = "../../src/fuzz.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::consensus(bytes));
