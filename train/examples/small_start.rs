//! Writes the start of `tests/small_training.rs` for open_clip: `small_start FOLDER`.

#[path = "../tests/common/small.rs"]
mod small;

use std::path::Path;

use stage::{Error, Result, ResultExt};

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or_else(|| Error::recipe("small_start FOLDER"))?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).store("cannot make the folder")?;
    small::clip().save(&folder.join("start.safetensors"))?;
    std::fs::write(folder.join("config.json"), small::json().to_string())
        .store("cannot write the configuration")?;
    eprintln!("{} passes of {}", small::STEPS, small::batch(0).tokens.dim(0).unwrap_or(0));
    Ok(())
}
