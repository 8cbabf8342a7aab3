//! A pickle of lists of tensors, read and never run: a stack machine with an allow-list of the opcodes that such a file needs and of
//! the four kinds of names that it may call for. In: the bytes of `data.pkl`. Out: which part of which storage every tensor is.
//!
//! candle's own reader takes any name, believes the lengths that a file declares and sets no bound, which is right for a checkpoint
//! that one has chosen to trust, and wrong here.

use std::collections::{BTreeMap, HashMap};

/// The largest pickle that is read; published ones have 70 bytes a tensor.
pub const LONGEST: u64 = 8 << 20;
/// Values that a pickle may make or keep. torch makes some thirty a tensor; a thousand languages of a model of a hundred layers fit.
const MOST_VALUES: usize = 1 << 22;

/// Which tensors stand at which place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// `[language][layer]`.
    pub languages: Vec<Vec<Tensor>>,
    /// What the tensors are parts of, by its key, which is the name of its entry.
    pub storages: Vec<Storage>,
}

/// A one-dimensional tensor: `length` values of a storage, from `offset` on, each `stride` after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its place in [`Lists::storages`].
    pub storage: usize,
    /// Its first value.
    pub offset: u64,
    /// Its number of values.
    pub length: u64,
    /// Steps from one value to the next.
    pub stride: u64,
}

/// An entry of the archive that holds values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Its name below `data/`.
    pub key: String,
    /// How its values are stored.
    pub kind: StorageKind,
    /// Its number of values.
    pub length: u64,
}

/// Number formats that indices are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// `torch.LongStorage`, int64: what torch's own functions give.
    Long,
    /// `torch.IntStorage`, int32.
    Int,
    /// `torch.ShortStorage`, int16.
    Short,
    /// `torch.ByteStorage`, uint8.
    Byte,
}

impl StorageKind {
    /// Bytes of a value.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::Long => 8,
            Self::Int => 4,
            Self::Short => 2,
            Self::Byte => 1,
        }
    }

    /// The values of bytes, whole ones only.
    #[must_use]
    pub fn values(self, bytes: &[u8], little: bool) -> Vec<i64> {
        let value = |bytes: &[u8]| {
            let mut wide = [0; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            if !little {
                wide[..bytes.len()].reverse();
            }
            let unsigned = i64::from_le_bytes(wide);
            match self {
                Self::Long | Self::Byte => unsigned,
                Self::Int => i64::from(unsigned as i32),
                Self::Short => i64::from(unsigned as i16),
            }
        };
        bytes.chunks_exact(self.width()).map(value).collect()
    }
}

/// Why a pickle is not read.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// An opcode that lists of tensors do not need.
    #[error("opcode {code:#04x} at byte {at} {what}; {WANTED}")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Where it stands.
        at: usize,
        /// What it would do, in words.
        what: &'static str,
    },
    /// A name that lists of tensors do not need.
    #[error(
        "byte {at} calls for `{name}`, which index tensors do not need and which is not run here; do not load this file elsewhere \
         unless you trust whoever made it"
    )]
    Name {
        /// Module and name.
        name: String,
        /// Where it stands.
        at: usize,
    },
    /// It ends before it is done.
    #[error("is cut short at byte {at}; download the file again")]
    Short {
        /// Where it ends.
        at: usize,
    },
    /// It asks for more than any mask needs.
    #[error("has more than {most} {what} by byte {at}, more than any mask needs; {WANTED}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        most: u64,
        /// Where that became clear.
        at: usize,
    },
    /// Its parts do not fit together.
    #[error("byte {at}: {found} where {wanted} is wanted; {WANTED}")]
    Unexpected {
        /// What there is.
        found: String,
        /// What there should be.
        wanted: &'static str,
        /// Where it stands.
        at: usize,
    },
}

const WANTED: &str = "save `list[language][layer]` of one-dimensional int64 tensors with `torch.save`";

/// A value on the stack; what takes room lies in the machine's lists, so that a value that is put in many places is kept once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    None,
    Bool,
    Int(i64),
    Text(usize),
    Tuple(usize),
    List(usize),
    Name(Name),
    /// An `OrderedDict` without entries: a tensor's backward hooks.
    Hooks,
    Storage(usize),
    Tensor(usize),
}

/// The names that are known, none of which is called: each is a case of [`Machine::reduce`] or of [`Machine::storage`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Name {
    RebuildTensor,
    OrderedDict,
    Storage(StorageKind),
}

impl Name {
    fn known(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "LongStorage") => Self::Storage(StorageKind::Long),
            ("torch", "IntStorage") => Self::Storage(StorageKind::Int),
            ("torch", "ShortStorage") => Self::Storage(StorageKind::Short),
            ("torch", "ByteStorage") => Self::Storage(StorageKind::Byte),
            _ => return None,
        })
    }
}

impl Lists {
    /// Reads a pickle.
    ///
    /// # Errors
    /// When it is anything but lists of lists of index tensors.
    pub fn parse(pickle: &[u8]) -> Result<Self, PickleError> {
        if pickle.len() as u64 > LONGEST {
            return Err(PickleError::TooMuch { what: "bytes", most: LONGEST, at: 0 });
        }
        let mut machine = Machine { bytes: pickle, ..Machine::default() };
        let root = machine.run()?;
        machine.lists(root)
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack where a MARK stands.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    texts: Vec<&'a str>,
    tuples: Vec<Vec<Value>>,
    lists: Vec<Vec<Value>>,
    storages: Vec<Storage>,
    by_key: BTreeMap<&'a str, usize>,
    tensors: Vec<Tensor>,
    /// Values made and kept so far.
    made: usize,
}

type Step<T> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    /// Runs to STOP, which leaves one value.
    fn run(&mut self) -> Step<Value> {
        if !self.bytes.starts_with(&[0x80]) {
            return Err(self.unexpected("something else", "a pickle of protocol 2 or later"));
        }
        loop {
            let start = self.at;
            let code = self.byte()?;
            if code == b'.' {
                return self.end();
            }
            self.step(code, start)?;
            self.spend(0)?;
        }
    }

    fn end(&mut self) -> Step<Value> {
        if self.at != self.bytes.len() {
            let rest = self.bytes.len() - self.at;
            return Err(self.unexpected(format!("{rest} more bytes"), "the end of the pickle"));
        }
        match (self.stack.as_slice(), self.marks.as_slice()) {
            (&[root], []) => Ok(root),
            (stack, _) => Err(self.unexpected(format!("{} values at the end", stack.len()), "one list")),
        }
    }

    fn step(&mut self, code: u8, start: usize) -> Step<()> {
        match code {
            0x80 => self.protocol()?,
            // FRAME only says how much to read ahead.
            0x95 => drop(self.take(8)?),
            b'(' => {
                self.spend(1)?;
                self.marks.push(self.stack.len());
            }
            b']' => self.make_list()?,
            b')' => self.make_tuple(Vec::new())?,
            b't' => {
                let items = self.above_mark()?;
                self.make_tuple(items)?;
            }
            0x85..=0x87 => {
                let items = self.top(usize::from(code - 0x84))?;
                self.make_tuple(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(items)?;
            }
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'J' => {
                let bytes = self.array::<4>()?;
                self.stack.push(Value::Int(i32::from_le_bytes(bytes).into()));
            }
            b'K' => {
                let byte = self.byte()?;
                self.stack.push(Value::Int(byte.into()));
            }
            b'M' => {
                let bytes = self.array::<2>()?;
                self.stack.push(Value::Int(u16::from_le_bytes(bytes).into()));
            }
            0x8a => self.long()?,
            b'X' => {
                let length = self.array::<4>()?;
                self.text(u32::from_le_bytes(length) as usize)?;
            }
            0x8c => {
                let length = self.byte()?;
                self.text(length.into())?;
            }
            b'q' => {
                let key = self.byte()?;
                self.keep(key.into())?;
            }
            b'r' => {
                let key = self.array::<4>()?;
                self.keep(u32::from_le_bytes(key))?;
            }
            0x94 => self.keep(self.memo.len() as u32)?,
            b'h' => {
                let key = self.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = self.array::<4>()?;
                self.recall(u32::from_le_bytes(key))?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(module, name, start)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(self.unexpected("something else", "a module and a name"));
                };
                self.name(self.texts[module], self.texts[name], start)?;
            }
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            code => return Err(PickleError::Opcode { code, at: start, what: foreign(code) }),
        }
        Ok(())
    }

    /// Counts values against the bound, those on the stack among them.
    fn spend(&mut self, values: usize) -> Step<()> {
        self.made += values;
        if self.made + self.stack.len() > MOST_VALUES {
            return Err(PickleError::TooMuch { what: "values", most: MOST_VALUES as u64, at: self.at });
        }
        Ok(())
    }

    fn unexpected(&self, found: impl ToString, wanted: &'static str) -> PickleError {
        PickleError::Unexpected { found: found.to_string(), wanted, at: self.at }
    }

    fn take(&mut self, length: usize) -> Step<&'a [u8]> {
        let short = PickleError::Short { at: self.bytes.len() };
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len()).ok_or(short)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("that many were taken"))
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn utf8(&self, bytes: &'a [u8]) -> Step<&'a str> {
        std::str::from_utf8(bytes).map_err(|_| self.unexpected("text that is not UTF-8", "a name"))
    }

    /// To the next line feed, which is taken and not given.
    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleError::Short { at: self.bytes.len() })?;
        let line = self.take(length + 1)?;
        self.utf8(&line[..length])
    }

    fn protocol(&mut self) -> Step<()> {
        match self.byte()? {
            2..=5 if self.at == 2 => Ok(()),
            version => {
                Err(self.unexpected(format!("protocol {version}"), "one protocol from 2 to 5, at the beginning"))
            }
        }
    }

    /// A signed integer of as many bytes as the first one says.
    fn long(&mut self) -> Step<()> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(self.unexpected(format!("an integer of {length} bytes"), "one of at most 8"));
        }
        let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..length].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        let text = self.utf8(bytes)?;
        self.spend(1)?;
        self.texts.push(text);
        self.stack.push(Value::Text(self.texts.len() - 1));
        Ok(())
    }

    fn make_list(&mut self) -> Step<()> {
        self.spend(1)?;
        self.lists.push(Vec::new());
        self.stack.push(Value::List(self.lists.len() - 1));
        Ok(())
    }

    fn make_tuple(&mut self, items: Vec<Value>) -> Step<()> {
        self.spend(1 + items.len())?;
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Step<()> {
        self.spend(items.len())?;
        match self.stack.last() {
            Some(&Value::List(list)) => {
                self.lists[list].extend(items);
                Ok(())
            }
            other => Err(self.unexpected(self.words(other.copied()), "a list to append to")),
        }
    }

    /// The lowest height that may be popped: nothing reaches below a mark but what takes the mark with it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Step<Value> {
        Ok(self.top(1)?[0])
    }

    fn top(&mut self, count: usize) -> Step<Vec<Value>> {
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= self.floor());
        let start = start.ok_or_else(|| self.unexpected("an empty stack", "a value"))?;
        Ok(self.stack.split_off(start))
    }

    fn above_mark(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| self.unexpected("no mark", "one"))?;
        Ok(self.stack.split_off(mark))
    }

    fn keep(&mut self, key: u32) -> Step<()> {
        let value = *self.stack.last().ok_or_else(|| self.unexpected("an empty stack", "a value to keep"))?;
        if self.memo.insert(key, value).is_none() {
            self.spend(1)?;
        }
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Step<()> {
        let value = self.memo.get(&key).copied();
        let value = value.ok_or_else(|| self.unexpected(format!("number {key}, which was not kept"), "a value"))?;
        self.stack.push(value);
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str, at: usize) -> Step<()> {
        let known = Name::known(module, name);
        let known = known.ok_or_else(|| PickleError::Name { name: shortened(&format!("{module}.{name}")), at })?;
        self.stack.push(Value::Name(known));
        Ok(())
    }

    /// `('storage', torch.LongStorage, key, location, length)` stands for a storage.
    fn storage(&mut self) -> Step<()> {
        let wanted = "the five parts of a storage";
        let Value::Tuple(parts) = self.pop()? else { return Err(self.unexpected("something else", wanted)) };
        let &[Value::Text(tag), Value::Name(Name::Storage(kind)), Value::Text(key), Value::Text(_), Value::Int(length)] =
            self.tuples[parts].as_slice()
        else {
            return Err(self.unexpected("something else", wanted));
        };
        if self.texts[tag] != "storage" {
            return Err(self.unexpected(format!("`{}`", shortened(self.texts[tag])), "`storage`"));
        }
        let key = self.texts[key];
        let length = self.size(length)?;
        let place = match self.by_key.get(key) {
            Some(&place) if (self.storages[place].kind, self.storages[place].length) == (kind, length) => place,
            Some(_) => return Err(self.unexpected(format!("storage `{}` in two ways", shortened(key)), "one")),
            None => {
                self.spend(1)?;
                self.storages.push(Storage { key: key.to_owned(), kind, length });
                self.by_key.insert(key, self.storages.len() - 1);
                self.storages.len() - 1
            }
        };
        self.stack.push(Value::Storage(place));
        Ok(())
    }

    fn size(&self, value: i64) -> Step<u64> {
        u64::try_from(value).map_err(|_| self.unexpected(value, "a size that is not negative"))
    }

    fn reduce(&mut self) -> Step<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let (Value::Name(name), Value::Tuple(arguments)) = (callee, arguments) else {
            return Err(self.unexpected("something else", "a name and its arguments"));
        };
        let made = match (name, self.tuples[arguments].as_slice()) {
            (Name::OrderedDict, []) => Value::Hooks,
            // A seventh part is the tensor's metadata, of which an index has none.
            (Name::RebuildTensor, &[storage, offset, size, stride, Value::Bool, Value::Hooks])
            | (Name::RebuildTensor, &[storage, offset, size, stride, Value::Bool, Value::Hooks, Value::None]) => {
                self.tensor(storage, offset, size, stride)?
            }
            _ => return Err(self.unexpected("other arguments", "those of an index tensor")),
        };
        self.stack.push(made);
        Ok(())
    }

    fn tensor(&mut self, storage: Value, offset: Value, size: Value, stride: Value) -> Step<Value> {
        let wanted = "a one-dimensional tensor";
        let (Value::Storage(storage), Value::Int(offset), Value::Tuple(size), Value::Tuple(stride)) =
            (storage, offset, size, stride)
        else {
            return Err(self.unexpected("something else", wanted));
        };
        let (&[Value::Int(length)], &[Value::Int(stride)]) =
            (self.tuples[size].as_slice(), self.tuples[stride].as_slice())
        else {
            return Err(self.unexpected(format!("a tensor of {} dimensions", self.tuples[size].len()), wanted));
        };
        let (offset, length, stride) = (self.size(offset)?, self.size(length)?, self.size(stride)?);
        if stride == 0 && length > 1 {
            return Err(self.unexpected("one value at many places", "a list of different indices"));
        }
        let last = match length {
            0 => Some(offset),
            _ => stride.checked_mul(length - 1).and_then(|steps| steps.checked_add(offset)?.checked_add(1)),
        };
        let held = self.storages[storage].length;
        if last.is_none_or(|last| last > held) {
            let found = format!("{length} values from {offset} on in steps of {stride} of a storage of {held}");
            return Err(self.unexpected(found, "a tensor that lies within its storage"));
        }
        self.spend(1)?;
        self.tensors.push(Tensor { storage, offset, length, stride });
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    /// What the pickle holds, as lists of tensors.
    fn lists(mut self, root: Value) -> Step<Lists> {
        let Value::List(root) = root else {
            return Err(self.unexpected(self.words(Some(root)), "a list of languages"));
        };
        let mut languages = Vec::new();
        for item in std::mem::take(&mut self.lists[root]) {
            let Value::List(layers) = item else {
                let found = format!("{} as language {}", self.words(Some(item)), languages.len());
                return Err(self.unexpected(found, "a list of layers"));
            };
            // A list may stand at many places; what it takes to write it out is counted each time.
            self.spend(self.lists[layers].len())?;
            let tensor = |(layer, &item): (usize, &Value)| match item {
                Value::Tensor(tensor) => Ok(self.tensors[tensor]),
                other => {
                    let found = format!("{} as layer {layer} of language {}", self.words(Some(other)), languages.len());
                    Err(self.unexpected(found, "a tensor of indices"))
                }
            };
            let layers: Vec<Tensor> = self.lists[layers].iter().enumerate().map(tensor).collect::<Step<_>>()?;
            languages.push(layers);
        }
        Ok(Lists { languages, storages: self.storages })
    }

    fn words(&self, value: Option<Value>) -> String {
        match value {
            None => "nothing".to_owned(),
            Some(Value::None) => "None".to_owned(),
            Some(Value::Bool) => "a truth value".to_owned(),
            Some(Value::Int(value)) => format!("the number {value}"),
            Some(Value::Text(at)) => format!("the text `{}`", shortened(self.texts[at])),
            Some(Value::Tuple(at)) => format!("a tuple of {}", self.tuples[at].len()),
            Some(Value::List(at)) => format!("a list of {}", self.lists[at].len()),
            Some(Value::Name(_)) => "a name".to_owned(),
            Some(Value::Hooks) => "a dictionary".to_owned(),
            Some(Value::Storage(_)) => "a storage".to_owned(),
            Some(Value::Tensor(_)) => "a tensor".to_owned(),
        }
    }
}

/// What people save instead, by the first opcode that gives it away.
fn foreign(code: u8) -> &'static str {
    match code {
        b'}' | b'd' | b's' | b'u' => "makes a dictionary, not a list",
        b'i' | b'o' | 0x81 | 0x92 | b'b' => "makes an object of some class, which is not run here",
        b'G' | b'F' => "makes a fraction, not an index",
        b'P' => "asks for something outside the file",
        0x82..=0x84 => "asks for a registered extension, which is not run here",
        0x8f | 0x90 | 0x91 => "makes a set, not a list",
        _ => "is none that lists of tensors need",
    }
}

/// The beginning of a text that a stranger wrote, without what would disturb a terminal.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}
