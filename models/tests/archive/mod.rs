//! Writes tiny PyTorch archives, right ones and wrong ones, opcode by opcode.

use std::path::{Path, PathBuf};

/// One member of a zip file as its headers describe it.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
    pub(crate) method: u16,
    /// Length that the directory claims.
    pub(crate) length: u32,
}

pub(crate) fn member(name: &str, data: &[u8]) -> Member {
    let length = u32::try_from(data.len()).unwrap();
    Member { name: name.to_owned(), data: data.to_vec(), method: 0, length }
}

/// A zip file of stored members; checksums stay 0, which torch allows too.
pub(crate) fn zip(members: &[Member]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let u16s = |out: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    };
    for m in members {
        let at = u32::try_from(file.len()).unwrap();
        let name = u16::try_from(m.name.len()).unwrap();
        file.extend(b"PK\x03\x04");
        u16s(&mut file, &[0, 0, m.method, 0, 0, 0, 0]);
        file.extend(m.length.to_le_bytes());
        file.extend(m.length.to_le_bytes());
        u16s(&mut file, &[name, 0]);
        file.extend(m.name.bytes());
        file.extend(&m.data);
        directory.extend(b"PK\x01\x02");
        u16s(&mut directory, &[0, 0, 0, m.method, 0, 0, 0, 0]);
        directory.extend(m.length.to_le_bytes());
        directory.extend(m.length.to_le_bytes());
        u16s(&mut directory, &[name, 0, 0, 0, 0, 0, 0]);
        directory.extend(at.to_le_bytes());
        directory.extend(m.name.bytes());
    }
    let (at, count) = (file.len(), u16::try_from(members.len()).unwrap());
    file.extend(&directory);
    file.extend(b"PK\x05\x06");
    u16s(&mut file, &[0, 0, count, count]);
    file.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    file.extend(u32::try_from(at).unwrap().to_le_bytes());
    u16s(&mut file, &[0]);
    file
}

/// A pickle in the making.
#[derive(Clone, Default)]
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        self.raw(b"X").raw(&length).raw(text.as_bytes())
    }

    pub(crate) fn int(self, value: i64) -> Self {
        self.raw(b"\x8a\x08").raw(&value.to_le_bytes())
    }

    pub(crate) fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.raw(b"("), |p, v| p.int(*v)).raw(b"t")
    }

    pub(crate) fn storage(self, class: &str, key: &str, count: i64) -> Self {
        let p = self.raw(b"(").text("storage").raw(format!("ctorch\n{class}\n").as_bytes());
        p.text(key).text("cpu").int(count).raw(b"tQ")
    }

    /// `_rebuild_tensor_v2` of a whole storage `key` of `count` numbers.
    pub(crate) fn tensor(
        self,
        (class, key, count): (&str, &str, i64),
        offset: i64,
        dims: &[i64],
        strides: &[i64],
    ) -> Self {
        let p = self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n(").storage(class, key, count);
        p.int(offset).ints(dims).ints(strides).raw(b"\x89ccollections\nOrderedDict\n)Rt").raw(b"R")
    }

    /// An `OrderedDict` of what `entries` adds.
    pub(crate) fn dict(self, entries: impl FnOnce(Self) -> Self) -> Self {
        entries(self.raw(b"ccollections\nOrderedDict\n)R(")).raw(b"u")
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `torch.save`'s layout of a pickle and its storages.
pub(crate) fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut members =
        vec![member("archive/data.pkl", pickle), member("archive/byteorder", b"little")];
    members.extend(storages.iter().map(|(k, data)| member(&format!("archive/data/{k}"), data)));
    members.push(member("archive/version", b"3\n"));
    zip(&members)
}

pub(crate) fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
