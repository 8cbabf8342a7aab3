//! The structure of a GGUF file: metadata by key, and where every tensor lies (the format: ggml/docs/gguf.md).
//! In: a path. Out: [`GgufFile`], whose every count, length and offset was held against the file's own size, so that no
//! number in a damaged or hostile file decides how much memory we ask for.
//!
//! candle's reader of the same format is not used for this: it drops duplicates and trailing NULs, replaces invalid UTF-8
//! and so makes two tokens one, and divides by an alignment of 0. Its dequantisation is used (see `formats`).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{GgufError, formats::Format};
use crate::checkpoint::CheckpointError;

/// An open GGUF file: the metadata in memory, the weights on the disk.
pub struct GgufFile {
    pub path: PathBuf,
    pub tensors: BTreeMap<String, TensorPlace>,
    metadata: BTreeMap<String, Entry>,
    /// The bytes before the weights; every entry is a range of them.
    head: Vec<u8>,
    file: Mutex<File>,
}

/// A tensor as the file declares it.
pub struct TensorPlace {
    pub format: &'static Format,
    /// Its shape as `torch` writes it; the file has it reversed.
    pub shape: Vec<usize>,
    pub elements: usize,
    start: u64,
}

/// The type of a value, and its bytes' place in the head.
struct Entry {
    kind: Kind,
    bytes: Range<usize>,
}

#[derive(Clone, Copy)]
enum Kind {
    One(Type),
    List(Type, u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    U64,
    I64,
    F64,
}

/// Types by their number in the file, and their bytes; 9 is a list.
const TYPES: [Option<(Type, u64)>; 13] = [
    Some((Type::U8, 1)),
    Some((Type::I8, 1)),
    Some((Type::U16, 2)),
    Some((Type::I16, 2)),
    Some((Type::U32, 4)),
    Some((Type::I32, 4)),
    Some((Type::F32, 4)),
    Some((Type::Bool, 1)),
    Some((Type::Text, 8)),
    None,
    Some((Type::U64, 8)),
    Some((Type::I64, 8)),
    Some((Type::F64, 8)),
];
const LIST: u32 = 9;

/// Everything before the weights: 6 MB for a vocabulary of 262,144. More than this is no model's.
const LONGEST_HEAD: u64 = 100_000_000;
/// The fewest bytes that one entry of the metadata, and one tensor, can take.
const SMALLEST_ENTRY: u64 = 8 + 4 + 1;
const SMALLEST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;
/// Elements that are dequantised at a time: 4 MiB of floats, whole blocks of every format.
const PIECE: usize = 1 << 20;

impl GgufFile {
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut walk = Walk::begin(path)?;
        walk.magic()?;
        let (tensors, entries) = (walk.u64()?, walk.u64()?);
        let wanted = tensors.saturating_mul(SMALLEST_TENSOR).saturating_add(entries.saturating_mul(SMALLEST_ENTRY));
        if wanted > walk.length {
            return walk.broken(format!(
                "it declares {tensors} tensors and {entries} keys, more than its {} bytes can hold",
                walk.length
            ));
        }
        let metadata = walk.metadata(entries)?;
        let places = walk.places(tensors)?;
        let Walk { file, head, length, .. } = walk;
        let mut file = Self {
            path: path.to_owned(),
            tensors: BTreeMap::new(),
            metadata,
            head,
            file: Mutex::new(file.into_inner()),
        };
        file.tensors = file.place(places, length)?;
        Ok(file)
    }

    /// The declared tensors at their places in the file, all of them inside it.
    fn place(
        &self,
        declared: BTreeMap<String, Declared>,
        length: u64,
    ) -> Result<BTreeMap<String, TensorPlace>, CheckpointError> {
        let alignment = self.whole("general.alignment")?.unwrap_or(32);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(self.metadata_error("general.alignment", "a power of two"))?;
        }
        let data = (self.head.len() as u64).next_multiple_of(alignment);
        let mut places = BTreeMap::new();
        let mut end = data;
        for (name, Declared { format, shape, elements, offset }) in declared {
            let bytes = (elements / format.block * format.bytes) as u64;
            if !offset.is_multiple_of(alignment) {
                let problem = format!("tensor `{name}` begins at byte {offset}, which is no multiple of {alignment}");
                return Err(CheckpointError::Broken { path: self.path.clone(), problem });
            }
            let start = data.saturating_add(offset);
            end = end.max(start.saturating_add(bytes));
            places.insert(name, TensorPlace { format, shape, elements, start });
        }
        if end > length {
            return Err(CheckpointError::Short { path: self.path.clone(), found: length, wanted: end });
        }
        Ok(places)
    }

    /// A tensor's values. The file's own form is only ever in memory a piece at a time.
    pub fn floats(&self, place: &TensorPlace) -> candle_core::Result<Vec<f32>> {
        let format = place.format;
        let mut floats = Vec::with_capacity(place.elements);
        let mut file = self.file.lock().expect("no reader panics");
        file.seek(SeekFrom::Start(place.start))?;
        while floats.len() < place.elements {
            let piece = PIECE.min(place.elements - floats.len());
            let mut bytes = vec![0; piece / format.block * format.bytes];
            file.read_exact(&mut bytes)?;
            floats.extend(format.floats(&bytes, piece)?);
        }
        Ok(floats)
    }

    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// A value's bytes as they stand in the file, type first.
    pub fn bytes(&self, key: &str) -> Option<(u8, &[u8])> {
        let entry = self.metadata.get(key)?;
        let (Kind::One(kind) | Kind::List(kind, _)) = entry.kind;
        Some((kind as u8, &self.head[entry.bytes.clone()]))
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        let Some(entry) = self.metadata.get(key) else { return Ok(None) };
        let text = match entry.kind {
            Kind::One(Type::Text) => std::str::from_utf8(&self.head[entry.bytes.clone()][8..]).ok(),
            _ => None,
        };
        text.map(Some).ok_or_else(|| self.metadata_error(key, "a string in UTF-8"))
    }

    /// A whole number of 0 or more; of a list of equal ones (a value per layer), the number.
    pub fn whole(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let wanted = "one whole number";
        let numbers = self.numbers(key, wanted)?;
        let equal = |numbers: Vec<f64>| match numbers.as_slice() {
            // Above 2^53 an f64 is not exact, but no size of a model is.
            [first, rest @ ..]
                if rest.iter().all(|n| n.to_bits() == first.to_bits()) && first.fract() == 0.0 && *first >= 0.0 =>
            {
                Some(*first as u64)
            }
            _ => None,
        };
        numbers.map(|numbers| equal(numbers).ok_or_else(|| self.metadata_error(key, wanted))).transpose()
    }

    /// A number. An f32 becomes the shortest decimal that stands for it: 1e-6, and not 9.99999997e-7.
    pub fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let wanted = "one finite number";
        match self.numbers(key, wanted)?.as_deref() {
            None => Ok(None),
            Some([number]) if number.is_finite() => Ok(Some(*number)),
            Some(_) => Err(self.metadata_error(key, wanted)),
        }
    }

    /// A switch.
    pub fn switch(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Entry { kind: Kind::One(Type::Bool), bytes }) => Ok(Some(self.head[bytes.start] != 0)),
            Some(_) => Err(self.metadata_error(key, "true or false")),
        }
    }

    /// A number, a switch as 0 or 1, or a list of them.
    pub fn numbers(&self, key: &str, wanted: &'static str) -> Result<Option<Vec<f64>>, GgufError> {
        let Some(entry) = self.metadata.get(key) else { return Ok(None) };
        let bytes = &self.head[entry.bytes.clone()];
        let (Kind::One(kind) | Kind::List(kind, _)) = entry.kind;
        let numbers = match kind {
            Type::U8 | Type::Bool => each(bytes, |b| f64::from(u8::from_le_bytes(b))),
            Type::I8 => each(bytes, |b| f64::from(i8::from_le_bytes(b))),
            Type::U16 => each(bytes, |b| f64::from(u16::from_le_bytes(b))),
            Type::I16 => each(bytes, |b| f64::from(i16::from_le_bytes(b))),
            Type::U32 => each(bytes, |b| f64::from(u32::from_le_bytes(b))),
            Type::I32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
            Type::U64 => each(bytes, |b| u64::from_le_bytes(b) as f64),
            Type::I64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
            Type::F32 => each(bytes, |b| shortest(f32::from_le_bytes(b))),
            Type::F64 => each(bytes, f64::from_le_bytes),
            Type::Text => return Err(self.metadata_error(key, wanted)),
        };
        Ok(Some(numbers))
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, GgufError> {
        let wanted = "a list of strings in UTF-8";
        let Some(entry) = self.metadata.get(key) else { return Ok(None) };
        let Kind::List(Type::Text, length) = entry.kind else { return Err(self.metadata_error(key, wanted)) };
        let mut rest = &self.head[entry.bytes.clone()];
        let mut texts = Vec::with_capacity(length as usize);
        for i in 0..length {
            // The walk measured every string.
            let (size, after) = rest.split_first_chunk().expect("a measured list");
            let (text, after) = after.split_at(u64::from_le_bytes(*size) as usize);
            rest = after;
            texts.push(std::str::from_utf8(text).map_err(|_| GgufError::Metadata {
                path: self.path.clone(),
                key: key.to_owned(),
                found: format!("{} at place {i}", text.escape_ascii()),
                wanted,
            })?);
        }
        Ok(Some(texts))
    }

    /// The error that a value is not of the form in which it is used.
    pub fn metadata_error(&self, key: &str, wanted: &'static str) -> GgufError {
        GgufError::Metadata { path: self.path.clone(), key: key.to_owned(), found: self.shown(key), wanted }
    }

    /// A value for people; of a list, its length.
    pub fn shown(&self, key: &str) -> String {
        match self.metadata.get(key).map(|entry| (entry.kind, &self.head[entry.bytes.clone()])) {
            None => "missing".to_owned(),
            Some((Kind::List(_, length), _)) => format!("a list of {length}"),
            Some((Kind::One(Type::Text), bytes)) => {
                let text = bytes[8..].escape_ascii().to_string();
                if text.len() > 80 { format!("a string of {} bytes", bytes.len() - 8) } else { format!("`{text}`") }
            }
            Some((Kind::One(Type::Bool), bytes)) => (bytes[0] != 0).to_string(),
            Some(_) => match self.numbers(key, "").ok().flatten().as_deref() {
                Some([number]) => number.to_string(),
                _ => "no number".to_owned(),
            },
        }
    }
}

/// The values of a list of numbers that take N bytes each.
fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
}

fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| f64::from(number))
}

/// A tensor whose place was not yet held against the file.
struct Declared {
    format: &'static Format,
    shape: Vec<usize>,
    elements: usize,
    offset: u64,
}

/// The way through a file from its first byte: whatever is read is kept, and nothing beyond the file is asked for.
struct Walk<'a> {
    path: &'a Path,
    file: BufReader<File>,
    length: u64,
    head: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn begin(path: &'a Path) -> Result<Self, CheckpointError> {
        let unreadable = |source| CheckpointError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        Ok(Self { path, file: BufReader::with_capacity(1 << 16, file), length, head: Vec::new() })
    }

    fn broken<T>(&self, problem: String) -> Result<T, CheckpointError> {
        Err(CheckpointError::Broken { path: self.path.to_owned(), problem })
    }

    /// The next bytes, by their place in the head.
    fn take(&mut self, bytes: u64) -> Result<Range<usize>, CheckpointError> {
        let start = self.head.len();
        let end = (start as u64).saturating_add(bytes);
        if end > self.length {
            return Err(CheckpointError::Short { path: self.path.to_owned(), found: self.length, wanted: end });
        }
        if end > LONGEST_HEAD {
            return self.broken(format!("its metadata take more than {LONGEST_HEAD} bytes; no model's do"));
        }
        self.head.resize(end as usize, 0);
        let path = self.path;
        let unreadable = |source| CheckpointError::Unreadable { path: path.to_owned(), source };
        self.file.read_exact(&mut self.head[start..]).map_err(unreadable)?;
        Ok(start..end as usize)
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(self.head[bytes].try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(self.head[bytes].try_into().expect("eight bytes")))
    }

    /// A string, without its length.
    fn text(&mut self) -> Result<Range<usize>, CheckpointError> {
        let length = self.u64()?;
        self.take(length)
    }

    /// A name of a key or a tensor.
    fn name(&mut self) -> Result<String, CheckpointError> {
        let bytes = self.text()?;
        match std::str::from_utf8(&self.head[bytes.clone()]) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => self.broken(format!("the name at byte {} is not UTF-8", bytes.start)),
        }
    }

    fn magic(&mut self) -> Result<(), CheckpointError> {
        let magic = self.take(4)?;
        if &self.head[magic] != MAGIC {
            return self.broken("it does not begin with `GGUF`; this is no GGUF file".to_owned());
        }
        match self.u32()? {
            2 | 3 => Ok(()),
            version if matches!(version.swap_bytes(), 2 | 3) => {
                self.broken("it is big-endian; convert the model again without --bigendian".to_owned())
            }
            version => self.broken(format!(
                "it is of GGUF version {version}; 2 and 3 are read, convert the model again with a current llama.cpp"
            )),
        }
    }

    fn metadata(&mut self, entries: u64) -> Result<BTreeMap<String, Entry>, CheckpointError> {
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = self.name()?;
            let entry = self.entry(&key)?;
            if metadata.insert(key.clone(), entry).is_some() {
                return self.broken(format!("it has the key `{key}` twice"));
            }
        }
        Ok(metadata)
    }

    fn entry(&mut self, key: &str) -> Result<Entry, CheckpointError> {
        let number = self.u32()?;
        if number != LIST {
            let (kind, size) = self.kind(key, number)?;
            let start = self.head.len();
            if kind == Type::Text {
                self.text()?
            } else {
                self.take(size)?
            };
            return Ok(Entry { kind: Kind::One(kind), bytes: start..self.head.len() });
        }
        let number = self.u32()?;
        let (kind, size) = self.kind(key, number)?;
        let length = self.u64()?;
        let start = self.head.len();
        if kind == Type::Text {
            // Each takes eight bytes at least, so that a length beyond the file ends with the file.
            for _ in 0..length {
                self.text()?;
            }
        } else {
            self.take(length.saturating_mul(size))?;
        }
        Ok(Entry { kind: Kind::List(kind, length), bytes: start..self.head.len() })
    }

    fn kind(&self, key: &str, number: u32) -> Result<(Type, u64), CheckpointError> {
        match TYPES.get(number as usize) {
            Some(Some(kind)) => Ok(*kind),
            Some(None) => self.broken(format!("`{key}` is a list of lists, which no model's metadata hold")),
            None => self.broken(format!("`{key}` is of type {number}, which GGUF does not have")),
        }
    }

    fn places(&mut self, tensors: u64) -> Result<BTreeMap<String, Declared>, CheckpointError> {
        let mut places = BTreeMap::new();
        for _ in 0..tensors {
            let name = self.name()?;
            let place = self.declared(&name)?;
            if places.insert(name.clone(), place).is_some() {
                return self.broken(format!("it has the tensor `{name}` twice"));
            }
        }
        Ok(places)
    }

    fn declared(&mut self, name: &str) -> Result<Declared, CheckpointError> {
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return self.broken(format!("tensor `{name}` has {dimensions} dimensions, but one to four are possible"));
        }
        let sizes = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        let number = self.u32()?;
        let format = Format::of(number).map_err(|found| GgufError::Format {
            path: self.path.to_owned(),
            tensor: name.to_owned(),
            found,
        })?;
        let offset = self.u64()?;
        // 2^48 elements are more than any disk holds, and keep sums and products below from overflowing.
        let elements = sizes.iter().try_fold(1u64, |n, &size| n.checked_mul(size)).filter(|n| (1..1 << 48).contains(n));
        let Some(elements) = elements.and_then(|n| usize::try_from(n).ok()) else {
            return self.broken(format!("tensor `{name}` has the dimensions {sizes:?}, which no tensor can have"));
        };
        // A row is quantised by itself.
        if !(sizes[0] as usize).is_multiple_of(format.block) {
            return self.broken(format!(
                "tensor `{name}` has rows of {}, which are no whole blocks of {} ({})",
                sizes[0], format.name, format.block
            ));
        }
        let shape = sizes.iter().rev().map(|&size| size as usize).collect();
        Ok(Declared { format, shape, elements, offset })
    }
}

/// How a GGUF file begins.
pub const MAGIC: &[u8; 4] = b"GGUF";
