#![no_main]
#![allow(missing_docs, reason = "the documentation is the function's")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switch_core_fuzz::overlay_parse(data));
