//! `pipe:COMMAND`: what a shell command writes to its standard output, where that was asked for.

use std::fs::File;
use std::io::{self, Seek};
use std::process::{Command, Stdio};

use stage::{Error, Result};

use crate::trouble::disk_error;

/// What a name starts with that is a command.
pub(crate) const PREFIX: &str = "pipe:";
/// A list of shards from elsewhere must not run programs: whoever wants that says so here.
const VARIABLE: &str = "CLIPMILL_PIPE";

/// Runs the command to its end; gives its output and how long that is.
pub(crate) fn run(command: &str) -> Result<(File, u64)> {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != "1") {
        return Err(Error::recipe("commands are not run unless that is asked for")
            .at(format!("{PREFIX}{command}"))
            .hint(format!("set {VARIABLE}=1 if you trust this list of shards")));
    }
    output_of(command).map_err(|e| e.at(format!("{PREFIX}{command}")))
}

fn output_of(command: &str) -> Result<(File, u64)> {
    let disk = |error| disk_error("a temporary file", "cannot keep the output", error);
    let mut copy = tempfile::tempfile().map_err(disk)?;
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::input("cannot run it").because(e))?;
    let copied = match child.stdout.take() {
        Some(mut output) => io::copy(&mut output, &mut copy),
        None => Ok(0),
    };
    // Its reader is gone: the command ends, too.
    let status = child.wait().map_err(|e| Error::input("cannot wait for it").because(e))?;
    let len = copied.map_err(disk)?;
    if !status.success() {
        return Err(Error::input(format!("the command ended with {status}")));
    }
    copy.rewind().map_err(disk)?;
    Ok((copy, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_its_output_and_its_failure_is_an_error() {
        let (file, len) = output_of("printf abc").unwrap();
        assert_eq!((len, io::read_to_string(file).unwrap()), (3, "abc".to_owned()));
        assert!(
            output_of("printf abc; exit 3").unwrap_err().to_string().contains("exit status: 3")
        );
        assert!(run("printf abc").unwrap_err().hint_text().unwrap().contains("CLIPMILL_PIPE=1"));
    }
}
