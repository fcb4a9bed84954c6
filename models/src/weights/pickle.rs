//! Pickle without execution: a stack machine over an allow-list of opcodes and names.
//!
//! Protocols 2 to 4 as Python's `pickletools` describes them, as far as `torch.save` and
//! TorchScript write them. A name stands for a value of ours ([`Global`]) and never for code; any
//! other opcode or name is refused. Values are indices into one list of objects, so that cycles,
//! shared objects and deep nesting cost nothing, and every list has a limit.

use std::collections::HashMap;

use stage::{Error, Result};

use super::Dtype;
use super::bytes::Bytes;
use super::globals::Global;

/// Most objects: containers and tensors. A training checkpoint of 1,000 tensors has about 20,000.
const MOST_OBJECTS: usize = 1 << 20;
/// Most values on the stack, or marks.
const MOST_STACK: usize = 1 << 20;
/// Most remembered values.
const MOST_MEMO: usize = 1 << 21;
/// Most values inside containers.
const MOST_ITEMS: usize = 1 << 21;
/// Most dimensions of a tensor.
const MOST_DIMS: usize = 8;

/// A value; strings and objects by place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    /// Numbers that nobody asks for, `None`, bytes, flags.
    Skipped,
    Int(i64),
    /// Bytes of the pickle, UTF-8 not yet checked.
    Text(u32, u32),
    Global(Global),
    Object(usize),
}

/// What a [`Value::Object`] points to.
#[derive(Debug)]
pub(super) enum Object {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// A class instance of TorchScript; its state is a dict.
    Module(Value),
    Storage(Storage),
    Tensor(View),
    /// The result of a function that is not needed.
    Skipped,
}

/// A storage: the member `data/<key>` of the archive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage {
    pub(super) dtype: Dtype,
    pub(super) key: Value,
    /// Number of elements.
    pub(super) count: u64,
}

/// A tensor as a view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) storage: Storage,
    /// First element.
    pub(super) offset: u64,
    pub(super) dims: Vec<usize>,
    /// Elements from one index to the next, a dimension each.
    pub(super) strides: Vec<usize>,
}

/// A pickle that has been read.
pub(super) struct Pickle<'a> {
    text: &'a [u8],
    objects: Vec<Object>,
    pub(super) root: Value,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle; `script` allows TorchScript's module classes.
    pub(super) fn read(text: &'a [u8], script: bool) -> Result<Self> {
        let mut machine = Machine {
            text,
            bytes: Bytes::new(text),
            script,
            objects: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            items: 0,
        };
        let root = machine.run()?;
        Ok(Self { text, objects: machine.objects, root })
    }

    pub(super) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    pub(super) fn text(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(start, length) => std::str::from_utf8(slice(self.text, start, length)).ok(),
            _ => None,
        }
    }

    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.object(value) {
            Some(Object::Dict(entries)) => Some(entries),
            _ => None,
        }
    }
}

struct Machine<'a> {
    text: &'a [u8],
    bytes: Bytes<'a>,
    script: bool,
    objects: Vec<Object>,
    stack: Vec<Value>,
    /// Heights of the stack where a mark stands.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Values inside containers so far.
    items: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value> {
        loop {
            let at = self.text.len() - self.bytes.left();
            match self.bytes.u8()? {
                b'.' => return self.pop(),
                op => self.step(op).map_err(|e| e.at(format!("pickle byte {at}")))?,
            }
        }
    }

    fn step(&mut self, op: u8) -> Result<()> {
        match op {
            0x80 => match self.bytes.u8()? {
                2..=4 => Ok(()),
                other => Err(refused(&format!("protocol {other}, expected 2 to 4"))),
            },
            0x95 => self.bytes.skip(8), // FRAME
            b'(' => {
                limit("marks", self.marks.len(), MOST_STACK)?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),
            b'N' | 0x88 | 0x89 => self.push(Value::Skipped), // NONE, NEWTRUE, NEWFALSE
            b'G' => self.skipped(8),                         // BINFLOAT
            b'J' => {
                let value = self.bytes.u32()? as i32;
                self.push(Value::Int(value.into()))
            }
            b'K' => {
                let value = self.bytes.u8()?;
                self.push(Value::Int(value.into()))
            }
            b'M' => {
                let value = self.bytes.u16()?;
                self.push(Value::Int(value.into()))
            }
            0x8a => self.long(),           // LONG1
            b'X' | b'T' => self.string(4), // BINUNICODE, BINSTRING
            0x8c | b'U' => self.string(1), // SHORT_BINUNICODE, SHORT_BINSTRING
            b'C' => {
                let length = self.bytes.u8()?;
                self.skipped(length.into()) // SHORT_BINBYTES
            }
            b'B' => {
                let length = self.bytes.u32()?;
                self.skipped(length as usize) // BINBYTES
            }
            b')' => self.add(Object::Tuple(Vec::new())),
            b']' => self.add(Object::List(Vec::new())),
            b'}' => self.add(Object::Dict(Vec::new())),
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(op - 0x84))?;
                self.add(Object::Tuple(items))
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.add(Object::Tuple(items))
            }
            b'a' => {
                let items = self.pop_many(1)?;
                self.append(items)
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.set(&items)
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(&items)
            }
            b'q' => {
                let key = self.bytes.u8()?;
                self.remember(key.into())
            }
            b'r' => {
                let key = self.bytes.u32()?;
                self.remember(key)
            }
            0x94 => self.remember(self.memo.len() as u32), // MEMOIZE
            b'h' => {
                let key = self.bytes.u8()?;
                self.recall(key.into())
            }
            b'j' => {
                let key = self.bytes.u32()?;
                self.recall(key)
            }
            b'c' => {
                let (module, name) = (self.bytes.line()?, self.bytes.line()?);
                self.global(&String::from_utf8_lossy(module), &String::from_utf8_lossy(name))
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let [module, name] = [0, 1].map(|i| self.lossy(names[i]));
                self.global(&module, &name) // STACK_GLOBAL
            }
            b'Q' => self.storage(), // BINPERSID
            b'R' => self.reduce(),
            0x81 => self.new_object(),
            b'b' => self.build(),
            other => Err(refused(&format!("the opcode {}", opcode(other)))),
        }
    }

    fn push(&mut self, value: Value) -> Result<()> {
        limit("values on the stack", self.stack.len(), MOST_STACK)?;
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        // What lies below a mark belongs to whoever set it.
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => Err(malformed("the stack is empty")),
        }
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => {
                self.items += count;
                limit("values in containers", self.items, MOST_ITEMS)?;
                Ok(self.stack.split_off(start))
            }
            _ => Err(malformed("the stack is empty")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| malformed("there is no mark"))?;
        let items = self.stack.split_off(mark.min(self.stack.len()));
        self.items += items.len();
        limit("values in containers", self.items, MOST_ITEMS)?;
        Ok(items)
    }

    fn add(&mut self, object: Object) -> Result<()> {
        limit("objects", self.objects.len(), MOST_OBJECTS)?;
        self.objects.push(object);
        self.push(Value::Object(self.objects.len() - 1))
    }

    /// The object on top of the stack, which stays there.
    fn top(&mut self) -> Result<&mut Object> {
        let Some(Value::Object(index)) = self.stack.last() else {
            return Err(malformed("there is no object on the stack"));
        };
        self.objects.get_mut(*index).ok_or_else(|| malformed("an object that was never made"))
    }

    fn skipped(&mut self, bytes: usize) -> Result<()> {
        self.bytes.skip(bytes)?;
        self.push(Value::Skipped)
    }

    fn string(&mut self, width: usize) -> Result<()> {
        let length = if width == 1 { self.bytes.u8()?.into() } else { self.bytes.u32()? as usize };
        let start = self.text.len() - self.bytes.left();
        self.bytes.skip(length)?;
        // The pickle is far shorter than 4 GiB.
        self.push(Value::Text(start as u32, length as u32))
    }

    /// An integer of up to 8 bytes; larger ones (legacy magic numbers) are no sizes.
    fn long(&mut self) -> Result<()> {
        let length = usize::from(self.bytes.u8()?);
        let bytes = self.bytes.take(length)?;
        if length > 8 {
            return self.push(Value::Skipped);
        }
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut whole = [fill; 8];
        whole[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(whole)))
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let value = *self.stack.last().ok_or_else(|| malformed("the stack is empty"))?;
        limit("remembered values", self.memo.len(), MOST_MEMO)?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        match self.memo.get(&key) {
            Some(value) => self.push(*value),
            None => Err(malformed(&format!("value {key} was never remembered"))),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match Global::named(module, name, self.script) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(refused(&format!("the name `{}`", shown(&format!("{module}.{name}"))))),
        }
    }

    fn lossy(&self, value: Value) -> String {
        match value {
            Value::Text(start, length) => {
                String::from_utf8_lossy(slice(self.text, start, length)).into_owned()
            }
            _ => String::from("?"),
        }
    }

    fn append(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top()? {
            Object::List(list) => list.extend(items),
            Object::Skipped => {}
            _ => return Err(malformed("items are appended to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Value]) -> Result<()> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(malformed("a key without a value"));
        };
        match self.top()? {
            Object::Dict(dict) => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Object::Skipped => {}
            _ => return Err(malformed("items are set in what is no dict")),
        }
        Ok(())
    }

    /// `("storage", class, key, location, number of elements)`
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let items = self.tuple(id)?;
        let [kind, Value::Global(Global::Storage(dtype)), key, _, Value::Int(count), ..] = items
        else {
            return Err(malformed("a persistent id that is no storage"));
        };
        if self.lossy(*kind) != "storage" || !matches!(key, Value::Text(..)) {
            return Err(malformed("a persistent id that is no storage"));
        }
        let count = u64::try_from(*count).map_err(|_| malformed("a storage of negative size"))?;
        let storage = Storage { dtype: *dtype, key: *key, count };
        self.add(Object::Storage(storage))
    }

    fn reduce(&mut self) -> Result<()> {
        let call = self.pop_many(2)?;
        let Value::Global(global) = call[0] else {
            return Err(malformed("a call of what is no name of the list"));
        };
        match global {
            Global::OrderedDict => self.add(Object::Dict(Vec::new())),
            Global::Tensor => {
                let view = self.view(call[1])?;
                self.add(Object::Tensor(view))
            }
            Global::First => {
                let first = self.tuple(call[1])?.first().copied();
                self.push(first.ok_or_else(|| malformed("a call without arguments"))?)
            }
            Global::Function | Global::Skipped => self.add(Object::Skipped),
            Global::Storage(_) | Global::Module => {
                Err(refused("a storage or a module made by a call"))
            }
        }
    }

    fn view(&self, arguments: Value) -> Result<View> {
        let [storage, Value::Int(offset), size, stride, ..] = self.tuple(arguments)? else {
            return Err(malformed("a tensor needs storage, offset, size and stride"));
        };
        let Value::Object(storage) = storage else {
            return Err(malformed("a tensor without storage"));
        };
        let Some(Object::Storage(storage)) = self.objects.get(*storage) else {
            return Err(malformed("a tensor without storage"));
        };
        let view = View {
            storage: *storage,
            offset: u64::try_from(*offset)
                .map_err(|_| malformed(&format!("a tensor at offset {offset}")))?,
            dims: self.sizes(*size)?,
            strides: self.sizes(*stride)?,
        };
        if view.dims.len() == view.strides.len() {
            return Ok(view);
        }
        Err(malformed(&format!("{} sizes and {} strides", view.dims.len(), view.strides.len())))
    }

    fn sizes(&self, value: Value) -> Result<Vec<usize>> {
        let items = self.tuple(value)?;
        limit("dimensions of a tensor", items.len(), MOST_DIMS + 1)?;
        let size = |item: &Value| match item {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let sizes: Option<Vec<usize>> = items.iter().map(size).collect();
        sizes.ok_or_else(|| malformed("a size or stride that is no whole number from 0 on"))
    }

    fn tuple(&self, value: Value) -> Result<&[Value]> {
        if let Value::Object(index) = value
            && let Some(Object::Tuple(items) | Object::List(items)) = self.objects.get(index)
        {
            return Ok(items);
        }
        Err(malformed("something else stands in the place of a tuple"))
    }

    fn new_object(&mut self) -> Result<()> {
        let call = self.pop_many(2)?;
        match call[0] {
            Value::Global(Global::Module) => self.add(Object::Module(Value::Skipped)),
            Value::Global(Global::OrderedDict) => self.add(Object::Dict(Vec::new())),
            Value::Global(Global::Skipped) => self.add(Object::Skipped),
            _ => Err(refused("an instance of a class that is not on the list")),
        }
    }

    /// The state of an instance: that of a module is kept, attributes of others are not needed.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match self.top()? {
            Object::Module(own) => *own = state,
            Object::Dict(_) | Object::Skipped | Object::Tensor(_) => {}
            _ => return Err(malformed("a state for what has none")),
        }
        Ok(())
    }
}

fn limit(what: &str, count: usize, most: usize) -> Result<()> {
    if count < most {
        return Ok(());
    }
    Err(Error::model(format!("the pickle has more than {most} {what}")).hint(CONVERT))
}

fn malformed(what: &str) -> Error {
    Error::model(format!("the pickle is malformed: {what}"))
        .hint("copy the file again; it is damaged or was not written by torch.save")
}

fn refused(what: &str) -> Error {
    Error::model(format!("the pickle uses {what}, which is not on the list of what is read"))
        .hint(CONVERT)
}

/// How to get past a refusal.
pub(super) const CONVERT: &str = "convert a file that you trust: python -c \"import sys, torch; \
    from safetensors.torch import save_file; c = torch.load(sys.argv[1], map_location='cpu', \
    weights_only=False); c = c.state_dict() if hasattr(c, 'state_dict') else c.get('state_dict', c); \
    save_file({k: v.clone().contiguous() for k, v in c.items() if torch.is_tensor(v)}, sys.argv[2])\" \
    IN.pt OUT.safetensors";

fn slice(text: &[u8], start: u32, length: u32) -> &[u8] {
    text.get(start as usize..start as usize + length as usize).unwrap_or_default()
}

/// A text from the file for a message: short, and without control characters.
fn shown(text: &str) -> String {
    let clean = text.chars().filter(|c| !c.is_control());
    clean.take(80).collect()
}

/// The number and name of an opcode that is refused.
fn opcode(op: u8) -> String {
    let name = match op {
        b'i' => "INST",
        b'o' => "OBJ",
        b'P' => "PERSID",
        b'I' => "INT",
        b'L' => "LONG",
        b'F' => "FLOAT",
        b'S' => "STRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'l' => "LIST",
        b'p' => "PUT",
        b'g' => "GET",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x8b => "LONG4",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => "of no protocol",
    };
    format!("0x{op:02x} ({name})")
}
