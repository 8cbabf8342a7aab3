//! The number formats of GGUF tensors, and how each becomes floats. A new one is a row.

use candle_core::{
    DType, Device, Result, Tensor,
    quantized::{GgmlDType, ggml_file::qtensor_from_ggml},
};

/// A number format: blocks of a fixed number of elements in a fixed number of bytes.
pub struct Format {
    number: u32,
    /// As llama.cpp spells it.
    pub name: &'static str,
    /// Elements of a block.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    kind: Kind,
}

enum Kind {
    Plain(DType),
    Quantised(GgmlDType),
}

const fn plain(number: u32, name: &'static str, bytes: usize, dtype: DType) -> Format {
    Format { number, name, block: 1, bytes, kind: Kind::Plain(dtype) }
}

const fn quantised(number: u32, name: &'static str, block: usize, bytes: usize, dtype: GgmlDType) -> Format {
    Format { number, name, block, bytes, kind: Kind::Quantised(dtype) }
}

/// Every format that is read, with the sizes of its blocks (ggml-common.h).
static FORMATS: [Format; 13] = [
    plain(0, "F32", 4, DType::F32),
    plain(1, "F16", 2, DType::F16),
    plain(30, "BF16", 2, DType::BF16),
    quantised(2, "Q4_0", 32, 18, GgmlDType::Q4_0),
    quantised(3, "Q4_1", 32, 20, GgmlDType::Q4_1),
    quantised(6, "Q5_0", 32, 22, GgmlDType::Q5_0),
    quantised(7, "Q5_1", 32, 24, GgmlDType::Q5_1),
    quantised(8, "Q8_0", 32, 34, GgmlDType::Q8_0),
    quantised(10, "Q2_K", 256, 84, GgmlDType::Q2K),
    quantised(11, "Q3_K", 256, 110, GgmlDType::Q3K),
    quantised(12, "Q4_K", 256, 144, GgmlDType::Q4K),
    quantised(13, "Q5_K", 256, 176, GgmlDType::Q5K),
    quantised(14, "Q6_K", 256, 210, GgmlDType::Q6K),
];

/// Names of the formats that are not read, for messages.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// The names of the formats that are read.
pub fn read() -> String {
    FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", ")
}

impl Format {
    /// A format by its number in the file, or the name of one that is not read.
    pub fn of(number: u32) -> std::result::Result<&'static Self, String> {
        let other = || OTHERS.iter().find(|(other, _)| *other == number).map(|(_, name)| (*name).to_owned());
        FORMATS
            .iter()
            .find(|format| format.number == number)
            .ok_or_else(|| other().unwrap_or_else(|| format!("type {number}")))
    }

    /// The values of whole blocks.
    pub fn floats(&self, bytes: &[u8], elements: usize) -> Result<Vec<f32>> {
        match self.kind {
            Kind::Plain(dtype) => {
                Tensor::from_raw_buffer(bytes, dtype, &[elements], &Device::Cpu)?.to_dtype(DType::F32)?
            }
            Kind::Quantised(dtype) => {
                qtensor_from_ggml(dtype, bytes, vec![elements], &Device::Cpu)?.dequantize(&Device::Cpu)?
            }
        }
        .to_vec1()
    }
}
