//! This program as a worker that decodes pictures: a command that nobody types.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ingest::fetch::decode;

/// The word that makes a worker of this program. It is no part of the grammar.
const WORD: &str = "__decode-worker";

/// What starts a worker with so many bytes of address space.
pub(crate) fn decode_worker(memory: u64) -> Vec<OsString> {
    // On Linux this is the running program even when its file was replaced meanwhile.
    let own = std::path::Path::new("/proc/self/exe");
    let program = if own.exists() {
        own.into()
    } else {
        std::env::current_exe().map(OsString::from).unwrap_or_default()
    };
    vec![program, WORD.into(), memory.to_string().into()]
}

/// Works until the other end is gone, where this process was started for that.
pub(crate) fn main() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != WORD {
        return None;
    }
    // Ctrl-C and a scheduler's stop reach the whole group. The run ends in order: a picture that is
    // being made for it must not look as if it had killed its decoder. The end of the input ends
    // this process.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).is_err() {
            return Some(ExitCode::from(2));
        }
    }
    let memory = arguments.next().and_then(|text| text.to_str()?.parse().ok());
    let capped = memory.is_some_and(|bytes| kernels::limit_address_space(bytes).is_ok());
    if !capped {
        return Some(ExitCode::from(2));
    }
    Some(match decode::work(std::io::stdin(), std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}
