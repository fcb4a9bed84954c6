#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        // A decoder's panic is caught and named; libFuzzer's own hook ends the process before that.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |data: &[u8]| targets::image::run(data)
);
