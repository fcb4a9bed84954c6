//! A worker's side: pictures in, pictures out, until its input ends.

use std::io::{BufReader, BufWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use stage::{Error, Result, ResultExt};

use super::super::picture::develop;
use super::super::plan::seconds;
use super::super::{FetchPlan, Reason};
use super::frame;

/// Makes pictures for the process at the other end of these pipes, until it ends. The program calls
/// it in a process of its own, after it has capped its memory.
///
/// # Errors
/// When the other end does not speak as a fetcher does, or is gone in the middle of a picture.
pub fn work(input: impl Read, output: impl Write) -> Result<()> {
    let (mut input, mut output) = (BufReader::new(input), BufWriter::new(output));
    let plan = frame::take(&mut input).internal("no plan")?;
    let plan: FetchPlan = serde_json::from_slice(&plan).internal("not a plan")?;
    frame::put(&mut output, b"ready").and_then(|()| output.flush()).internal("nobody listens")?;
    // Whoever kills a picture that takes too long may be gone: then the worker ends itself.
    let limit = seconds(plan.decode.timeout) * 2 + Duration::from_secs(1);
    let (begin, begun) = channel::<bool>();
    std::thread::Builder::new()
        .stack_size(64 << 10)
        .spawn(move || {
            while begun.recv().is_ok() {
                if begun.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    std::process::abort();
                }
            }
        })
        .internal("cannot start a thread")?;
    loop {
        // The end of the input is the end of the work.
        let Ok(faces) = frame::take(&mut input) else { return Ok(()) };
        let bytes = frame::take(&mut input).internal("a picture's bytes")?;
        let faces = frame::to_faces(&faces);
        let tell = |begins| begin.send(begins).map_err(|_| Error::internal("no watch"));
        tell(true)?;
        let made = catch_unwind(AssertUnwindSafe(|| develop(bytes, &faces, &plan)));
        tell(false)?;
        let result = made.unwrap_or(Err(Reason::DecoderPanic));
        frame::put_result(&mut output, &result).internal("a picture")?;
    }
}
