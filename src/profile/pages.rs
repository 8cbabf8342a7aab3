//! What a Parquet file declares of its pages, held against what its bytes can be, before a reader makes room for it: a page that says it
//! unpacks to two gigabytes, or that it holds a thousand million values in ten bytes, is refused. In: an open file's metadata. Out: a
//! problem in words, if there is one.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use parquet::{
    arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    errors::ParquetError,
    file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
};

/// Values that a byte of a table may stand for. Run lengths pack a column without news into nothing, and a stranger's table of a few bytes
/// can declare a billion rows; those of ours that pack best, overlaps of languages that share nothing, stay below ten.
const VALUES_A_BYTE: u64 = 32;
/// Values that any column may have, however small its file.
const FEW_VALUES: u64 = 1 << 16;
/// The largest page, unpacked. Writers end a page near one megabyte.
const LARGEST_PAGE: i64 = 64 << 20;
/// The largest header of a page; it may hold the smallest and the largest value of a column of text.
const LONGEST_HEADER: usize = 1 << 20;
/// PLAIN, the dictionaries, RLE, the old bits and `BYTE_STREAM_SPLIT`: what our tables are written in. What the others declare about
/// themselves is not bounded by a page's size.
const ENCODINGS: [i64; 6] = [0, 2, 3, 4, 8, 9];

/// Opens a Parquet file whose footer is one: the crate passes over a list of two thousand million elements without bytes one by one.
pub fn open(mut file: File) -> Result<ParquetRecordBatchReaderBuilder<File>, ParquetError> {
    let broken = |problem: &str| ParquetError::General(problem.to_owned());
    let length = file.metadata()?.len();
    let mut end = [0; 8];
    let at = length.checked_sub(8).ok_or_else(|| broken("it is too short to be one"))?;
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut end)?;
    if &end[4..] != b"PAR1" {
        return Err(broken("it has no footer at its end"));
    }
    let footer = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let start = at.checked_sub(footer).ok_or_else(|| broken("its footer is longer than the file"))?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.by_ref().take(footer).read_to_end(&mut bytes)?;
    let mut thrift = Thrift { bytes: &bytes, at: 0, fields: Fields::new(), keep: false };
    thrift.structure(0, 0).ok_or_else(|| broken("its footer is broken"))?;
    file.seek(SeekFrom::Start(0))?;
    ParquetRecordBatchReaderBuilder::try_new(file)
}

/// What is wrong with a file's declarations.
pub fn problem(file: &mut File, metadata: &ParquetMetaData) -> std::io::Result<Option<String>> {
    let length = file.metadata()?.len();
    let most = length.saturating_mul(VALUES_A_BYTE).saturating_add(FEW_VALUES);
    let groups = metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok());
    let rows = groups.collect::<Option<Vec<u64>>>().and_then(|rows| rows.into_iter().try_fold(0u64, u64::checked_add));
    let declared = metadata.file_metadata().num_rows();
    if rows.is_none_or(|rows| rows > most || i64::try_from(rows) != Ok(declared)) {
        return Ok(Some(format!(
            "declares {declared} rows, which {length} bytes cannot hold; download or make it again"
        )));
    }
    for column in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        if let Some(problem) = column_problem(file, length, most, column)? {
            let name = column.column_path().string();
            return Ok(Some(format!("column `{name}` {problem}; download or make it again")));
        }
    }
    Ok(None)
}

fn column_problem(
    file: &mut File,
    length: u64,
    most: u64,
    column: &ColumnChunkMetaData,
) -> std::io::Result<Option<String>> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let end = start.checked_add(column.compressed_size());
    let (Ok(mut at), Some(Ok(end))) = (u64::try_from(start), end.map(u64::try_from)) else {
        return Ok(Some("lies at no place of the file".to_owned()));
    };
    if column.compressed_size() < 0 || end > length {
        return Ok(Some("lies behind the end of the file".to_owned()));
    }
    let mut values = 0u64;
    while at < end {
        let Some((header, bytes)) = header(file, at, end)? else {
            return Ok(Some(format!("has a broken page at byte {at}")));
        };
        let Some(page) = Page::of(&header) else {
            return Ok(Some(format!("has a page at byte {at} that declares nonsense")));
        };
        if page.unpacked > LARGEST_PAGE {
            return Ok(Some(format!("has a page that unpacks to {} bytes", page.unpacked)));
        }
        if page.encoding.is_some_and(|encoding| !ENCODINGS.contains(&encoding)) {
            return Ok(Some(format!("has a page at byte {at} in an encoding that our tables do not have")));
        }
        values = values.saturating_add(page.values);
        if values > most {
            return Ok(Some(format!("declares {values} values, which {length} bytes cannot hold")));
        }
        at = at.saturating_add(bytes as u64).saturating_add(page.packed);
    }
    Ok((at > end).then(|| "has a page that ends behind it".to_owned()))
}

/// The fields of the page header at a place, and its length; none if it is broken.
fn header(file: &mut File, at: u64, end: u64) -> std::io::Result<Option<(Fields, usize)>> {
    // Almost all are short, and a file has thousands.
    for guess in [256, LONGEST_HEADER as u64] {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        file.take(guess.min(end - at)).read_to_end(&mut bytes)?;
        let mut thrift = Thrift { bytes: &bytes, at: 0, fields: Fields::new(), keep: true };
        if thrift.structure(0, 0).is_some() {
            return Ok(Some((thrift.fields, thrift.at)));
        }
    }
    Ok(None)
}

/// Numbers of a header by the field that they stand in and that field's parent, 0 for none.
type Fields = BTreeMap<(i64, i64), i64>;

/// What a page header says of sizes.
struct Page {
    unpacked: i64,
    packed: u64,
    values: u64,
    encoding: Option<i64>,
}

impl Page {
    /// Reads the header's fields, numbered as in the format's `PageHeader`; none where a size is missing or negative.
    fn of(fields: &Fields) -> Option<Self> {
        const DATA: i64 = 5;
        const DICTIONARY: i64 = 7;
        const DATA_2: i64 = 8;
        let field = |parent: i64, id: i64| fields.get(&(parent, id)).copied();
        let unpacked = field(0, 2).filter(|&size| size >= 0)?;
        let packed = u64::try_from(field(0, 3)?).ok()?;
        let values = [DATA, DICTIONARY, DATA_2].into_iter().find_map(|kind| field(kind, 1)).unwrap_or(0);
        let levels = [field(DATA_2, 5).unwrap_or(0), field(DATA_2, 6).unwrap_or(0)];
        if levels.iter().any(|&level| level < 0 || level > unpacked) {
            return None;
        }
        let encoding = field(DATA, 2).or(field(DICTIONARY, 2)).or(field(DATA_2, 4));
        Some(Self { unpacked, packed, values: u64::try_from(values).ok()?, encoding })
    }
}

/// Thrift's compact protocol, as far as Parquet goes: the numbers of a page header are kept, everything else is passed over.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: Fields,
    keep: bool,
}

impl Thrift<'_> {
    /// Deepest nesting of a footer: row groups, columns, what is known of a column, its statistics, and lists between them.
    const DEEPEST: usize = 16;

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn pass(&mut self, bytes: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(bytes).ok()?)?;
        self.at = (end <= self.bytes.len()).then_some(end)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn structure(&mut self, parent: i64, depth: usize) -> Option<()> {
        let mut last = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            let delta = i64::from(head >> 4);
            last = if delta == 0 { self.zigzag()? } else { last.checked_add(delta)? };
            self.value(head & 0x0f, parent, last, depth)?;
        }
    }

    fn value(&mut self, kind: u8, parent: i64, id: i64, depth: usize) -> Option<()> {
        match kind {
            // A truth value is in the type.
            1 | 2 => Some(()),
            3 => self.pass(1),
            4..=6 => {
                let number = self.zigzag()?;
                // Deeper numbers are of statistics, which are not asked for.
                if self.keep && depth < 2 {
                    self.fields.insert((parent, id), number);
                }
                Some(())
            }
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            9 | 10 if depth < Self::DEEPEST => {
                let head = self.byte()?;
                let length = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                // Every element has a byte at least, a truth value in a list too.
                (length <= (self.bytes.len() - self.at) as u64).then_some(())?;
                (0..length).try_for_each(|_| match head & 0x0f {
                    1 | 2 => self.pass(1),
                    kind => self.value(kind, -1, -1, depth + 1),
                })
            }
            12 if depth < Self::DEEPEST => self.structure(id, depth + 1),
            // Parquet has no maps.
            _ => None,
        }
    }
}
