#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| berth_state_fuzz::redis::check(input));
