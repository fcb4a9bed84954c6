//! PyTorch's zip archives: what `torch.save` and TorchScript write.
//!
//! `<name>/data.pkl` holds the structure, `<name>/data/<key>` the storages, `<name>/byteorder` the
//! order of their bytes. Of a training checkpoint only the storages of its model are ever read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use stage::{Error, Result};

use super::bytes::read_at;
use super::pickle::{CONVERT, Object, Pickle, Value, View};
use super::zip::Directory;
use super::{Entry, MOST_TENSORS, Read};

/// Largest pickle, bytes.
const MOST_PICKLE: u64 = 32 << 20;
/// Deepest module of TorchScript.
const DEEPEST: usize = 32;
/// Most attributes of modules that are visited; those of a module that stands in several places
/// count each time. With 32 modules of two references each, the last would be visited 2³¹ times.
const MOST_ATTRIBUTES: usize = 1 << 20;
/// Longest name of a tensor, bytes: a name holds those of all modules above it.
const LONGEST_NAME: usize = 4096;
/// Where trainers keep the model beside its optimiser: open_clip; timm and its heirs.
const STATE: &[&str] = &["state_dict", "model", "model_state_dict"];

/// The first bytes of the archives of torch before 1.6, a pickled magic number.
pub(super) const LEGACY: &[u8] = &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a];

/// The refusal of torch's first format.
pub(super) fn legacy() -> Error {
    Error::model("written by torch before 1.6, or with its old format").hint(
        "save it as a zip archive: python -c \"import sys, torch; torch.save(torch.load(\
         sys.argv[1], map_location='cpu', weights_only=True), sys.argv[2])\" IN.pt OUT.pt",
    )
}

/// What stands in an archive of `length` bytes.
pub(super) fn read(file: &File, length: u64) -> Result<Read> {
    let archive = Archive::open(file, length)?;
    let (start, bytes) = archive.member("data.pkl")?.ok_or_else(|| {
        Error::model("a zip file without data.pkl, so not one of torch.save").hint(CONVERT)
    })?;
    if bytes > MOST_PICKLE {
        return Err(Error::model(format!(
            "data.pkl has {bytes} bytes, more than the {MOST_PICKLE} that are read"
        ))
        .hint(CONVERT));
    }
    archive.little_endian()?;
    let text = read_at(file, start, bytes)?;
    let pickle = Pickle::read(&text, archive.script).map_err(|e| e.at("data.pkl"))?;
    let mut found = Found { views: BTreeMap::new(), left_out: BTreeSet::new(), attributes: 0 };
    if matches!(pickle.object(pickle.root), Some(Object::Module(_))) {
        found.module(&pickle, pickle.root, "", &mut Vec::new())?;
    } else {
        found.state(&pickle, state_of(&pickle)?)?;
    }
    let Found { views, left_out, .. } = found;
    let entries = archive.entries(&pickle, views)?;
    let format = if archive.script { "TorchScript archive" } else { "PyTorch archive" };
    Ok(Read { format, entries, left_out })
}

/// The dict that holds the model's tensors.
fn state_of(pickle: &Pickle) -> Result<Value> {
    let Some(top) = pickle.dict(pickle.root) else {
        return Err(Error::model("the archive holds neither a state dict nor a module")
            .hint("save model.state_dict() with torch.save"));
    };
    let under = |name: &str| {
        let entry = top.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name));
        entry.map(|(_, value)| *value).filter(|value| pickle.dict(*value).is_some())
    };
    Ok(STATE.iter().find_map(|name| under(name)).unwrap_or(pickle.root))
}

struct Archive<'a> {
    file: &'a File,
    directory: Directory,
    /// The folder that all members stand in, with its slash.
    prefix: String,
    script: bool,
}

impl<'a> Archive<'a> {
    fn open(file: &'a File, length: u64) -> Result<Self> {
        let directory = Directory::read(file, length)?;
        let pickle = directory.names().find(|name| {
            name.strip_suffix("data.pkl")
                .is_some_and(|prefix| prefix.matches('/').count() <= 1 && !prefix.starts_with('/'))
        });
        let prefix = pickle.map_or("", |name| &name[..name.len() - "data.pkl".len()]).to_owned();
        let script = directory.names().any(|name| {
            name.strip_prefix(prefix.as_str()).is_some_and(|name| name.starts_with("code/"))
        });
        Ok(Self { file, directory, prefix, script })
    }

    fn member(&self, name: &str) -> Result<Option<(u64, u64)>> {
        self.directory.place(self.file, &format!("{}{name}", self.prefix))
    }

    fn little_endian(&self) -> Result<()> {
        let Some((start, length)) = self.member("byteorder")? else { return Ok(()) };
        if length == 6 && read_at(self.file, start, length)? == b"little" {
            return Ok(());
        }
        Err(Error::model("the numbers are not in little-endian order").hint(CONVERT))
    }

    /// Each view held against its storage, and each storage against its member.
    fn entries(
        &self,
        pickle: &Pickle,
        views: BTreeMap<String, View>,
    ) -> Result<BTreeMap<String, Entry>> {
        let mut entries = BTreeMap::new();
        let mut places: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (name, view) in views {
            let key = pickle.text(view.storage.key).unwrap_or("?");
            let at = |e: Error| e.at(format!("tensor `{name}`"));
            let place = match places.get(key) {
                Some(place) => *place,
                None => self.member(&format!("data/{key}")).map_err(at)?.ok_or_else(|| {
                    at(Error::model(format!("its storage `data/{key}` is not in the archive"))
                        .hint("copy the file again; it is damaged"))
                })?,
            };
            places.insert(key.to_owned(), place);
            let (start, length) = place;
            let claimed = view.storage.count.checked_mul(view.storage.dtype.size());
            if claimed.is_none_or(|bytes| bytes > length) {
                return Err(at(Error::model(format!(
                    "its storage `data/{key}` has {length} bytes, expected {} numbers of {} bytes",
                    view.storage.count,
                    view.storage.dtype.size()
                ))
                .hint("copy the file again; it is damaged")));
            }
            let entry = Entry {
                file: 0,
                start,
                count: view.storage.count,
                offset: view.offset,
                dims: view.dims,
                strides: view.strides,
                dtype: view.storage.dtype,
            };
            entry.check().map_err(at)?;
            entries.insert(name, entry);
        }
        apart(places.into_iter().collect())?;
        Ok(entries)
    }
}

/// Refuses members that share bytes: no writer makes them, and a small file could claim much.
fn apart(mut places: Vec<(String, (u64, u64))>) -> Result<()> {
    places.sort_by_key(|(_, place)| *place);
    for two in places.windows(2) {
        let [(one, (start, length)), (other, (next, more))] = two else { continue };
        if *more > 0 && start + length > *next {
            return Err(Error::model(format!(
                "the storages `data/{one}` and `data/{other}` overlap"
            ))
            .hint("copy the file again; it is damaged"));
        }
    }
    Ok(())
}

/// The tensors of the model, and the names of what is not one.
struct Found {
    views: BTreeMap<String, View>,
    left_out: BTreeSet<String>,
    /// Attributes of modules that were visited.
    attributes: usize,
}

impl Found {
    /// A state dict: names and tensors.
    fn state(&mut self, pickle: &Pickle, state: Value) -> Result<()> {
        for (key, value) in pickle.dict(state).unwrap_or_default() {
            let Some(name) = pickle.text(*key) else {
                return Err(Error::model("a state dict has a key that is no text")
                    .hint("save model.state_dict() with torch.save"));
            };
            match pickle.object(*value) {
                Some(Object::Tensor(view)) => self.add(name.to_owned(), view)?,
                _ => drop(self.left_out.insert(name.to_owned())),
            }
        }
        Ok(())
    }

    /// A module of TorchScript: its attributes, and those of its submodules after a dot.
    fn module(
        &mut self,
        pickle: &Pickle,
        module: Value,
        prefix: &str,
        above: &mut Vec<Value>,
    ) -> Result<()> {
        if above.len() >= DEEPEST || above.contains(&module) {
            return Err(Error::model(format!(
                "the module `{prefix}` stands inside itself, or more than {DEEPEST} modules deep"
            ))
            .hint(CONVERT));
        }
        above.push(module);
        let state = match pickle.object(module) {
            Some(Object::Module(state)) => *state,
            _ => Value::Skipped,
        };
        for (key, value) in pickle.dict(state).unwrap_or_default() {
            self.attributes += 1;
            if self.attributes > MOST_ATTRIBUTES {
                return Err(Error::model(format!(
                    "more than {MOST_ATTRIBUTES} attributes of modules, each counted where it stands"
                ))
                .hint(CONVERT));
            }
            let own = pickle.text(*key).unwrap_or("?");
            if prefix.len() + own.len() > LONGEST_NAME {
                return Err(
                    Error::model(format!("a name of more than {LONGEST_NAME} bytes")).hint(CONVERT)
                );
            }
            let name = format!("{prefix}{own}");
            match pickle.object(*value) {
                Some(Object::Tensor(view)) => self.add(name, view)?,
                Some(Object::Module(_)) => {
                    self.module(pickle, *value, &format!("{name}."), above)?;
                }
                // Flags such as `training`: attributes, not state.
                _ => {}
            }
        }
        above.pop();
        Ok(())
    }

    fn add(&mut self, name: String, view: &View) -> Result<()> {
        if self.views.len() >= MOST_TENSORS {
            return Err(Error::model(format!("more than {MOST_TENSORS} tensors")).hint(CONVERT));
        }
        if self.views.contains_key(&name) {
            return Err(Error::model(format!("two tensors are called `{name}`"))
                .hint("save model.state_dict() again; names are unique there"));
        }
        self.views.insert(name, view.clone());
        Ok(())
    }
}
