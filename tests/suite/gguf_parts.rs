//! A GGUF file in parts, to be changed and put together again: what the tests of refused files are written with.

/// Everything in a file, in its order. Nothing is checked: what is written may be nonsense.
pub struct Parts {
    pub version: u32,
    /// Key, type, and the value's bytes.
    pub metadata: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Place>,
    pub data: Vec<u8>,
    /// What the header says, where it shall not be the truth.
    pub counts: Option<(u64, u64)>,
}

#[derive(Clone)]
pub struct Place {
    pub name: String,
    /// As the file has them: the shape reversed.
    pub dimensions: Vec<u64>,
    pub format: u32,
    pub offset: u64,
}

pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const TEXT: u32 = 8;
pub const LIST: u32 = 9;

/// Bytes of a value by its type.
const SIZES: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

pub fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

pub fn list(kind: u32, length: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), items].concat()
}

pub fn texts<T: AsRef<[u8]>>(items: &[T]) -> Vec<u8> {
    list(TEXT, items.len() as u64, &items.iter().flat_map(text).collect::<Vec<_>>())
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Vec<u8> {
        match kind {
            TEXT => text(self.text()),
            LIST => {
                let (kind, length) = (self.u32(), self.u64());
                let items: Vec<u8> = (0..length).flat_map(|_| self.value(kind)).collect();
                list(kind, length, &items)
            }
            plain => self.take(SIZES[plain as usize]).to_vec(),
        }
    }
}

impl Parts {
    pub fn read(bytes: &[u8]) -> Self {
        let mut rest = Bytes(bytes);
        assert_eq!(rest.take(4), b"GGUF");
        let (version, tensors, entries) = (rest.u32(), rest.u64(), rest.u64());
        let mut metadata = Vec::new();
        for _ in 0..entries {
            let (key, kind) = (rest.text(), rest.u32());
            metadata.push((key, kind, rest.value(kind)));
        }
        let mut places = Vec::new();
        for _ in 0..tensors {
            let (name, dimensions) = (rest.text(), rest.u32());
            let dimensions = (0..dimensions).map(|_| rest.u64()).collect();
            places.push(Place { name, dimensions, format: rest.u32(), offset: rest.u64() });
        }
        let head = bytes.len() - rest.0.len();
        let data = bytes[head.next_multiple_of(32).min(bytes.len())..].to_vec();
        Self { version, metadata, tensors: places, data, counts: None }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (tensors, entries) = self.counts.unwrap_or((self.tensors.len() as u64, self.metadata.len() as u64));
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        for (key, kind, value) in &self.metadata {
            bytes.extend(text(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for place in &self.tensors {
            bytes.extend(text(&place.name));
            bytes.extend((place.dimensions.len() as u32).to_le_bytes());
            bytes.extend(place.dimensions.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend(place.format.to_le_bytes());
            bytes.extend(place.offset.to_le_bytes());
        }
        // A file without weights ends where they would begin.
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    /// The value of a key, to be changed.
    pub fn value(&mut self, key: &str) -> &mut Vec<u8> {
        &mut self.metadata.iter_mut().find(|(name, ..)| name == key).unwrap().2
    }

    /// Sets a key, in its place if it is there.
    pub fn set(&mut self, key: &str, kind: u32, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.metadata.iter_mut().find(|(name, ..)| name == key) {
            Some(entry) => (entry.1, entry.2) = (kind, value),
            None => self.metadata.push((key.to_owned(), kind, value)),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(name, ..)| name != key);
    }

    pub fn tensor(&mut self, name: &str) -> &mut Place {
        self.tensors.iter_mut().find(|place| place.name == name).unwrap()
    }
}
