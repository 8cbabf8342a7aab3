//! Where a command computes, and in which number format.

use candle_core::{DType, Device};
use clap::Args;

use super::Talk;
use crate::model::{
    bf16::Kernel,
    device::{DeviceChoice, DeviceError, Opened, Precision},
};

/// What a person says of it.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct PlaceArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, default_value_t, value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Number format to compute in.
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Precision,
}

/// A device that is there.
pub struct Place {
    pub device: Device,
    pub dtype: DType,
    remark: Option<String>,
}

impl PlaceArgs {
    /// Opens the device.
    pub fn open(self) -> Result<Place, DeviceError> {
        let Opened { device, remark } = self.device.open()?;
        Ok(Place { dtype: self.dtype.on(&device), device, remark })
    }
}

impl Place {
    /// The instructions of the products, where there is a choice.
    pub fn instructions(&self) -> Option<&'static str> {
        (self.device.is_cpu() && self.dtype == DType::BF16).then(|| Kernel::best().name())
    }

    /// Says what a person should know of the choice.
    pub fn tell(&self, talk: &Talk) {
        if let Some(remark) = &self.remark {
            talk.say(remark);
        }
    }
}
