//! `torch.save` files of published masks, `list[language][layer]` of int64 tensors: written so that existing scripts run with our
//! masks, and read without running anything that is in them. In: a path, or sets of neurons. Out: lists of indices, or bytes.

mod archive;
mod pickle;
mod read;
mod write;

pub use self::{
    pickle::{Lists, PickleError, Storage, StorageKind, Tensor},
    read::{MaskFile, PthError},
    write::lists,
};
