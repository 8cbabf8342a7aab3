//! Where to compute, and in which number format: what was asked becomes what is there.

use std::str::FromStr;

use candle_core::{DType, Device};

use super::DecoderSpec;

/// A device as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that works, or else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

/// A number format as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// f32 on the CPU, bf16 on a GPU.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of f32. On the CPU only the factors of matrix products are rounded to it.
    Bf16,
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Another program.
    #[error(
        "--device {asked}: this program was built without {feature}; build it by `cargo build --release --features {feature}`, or take --device cpu"
    )]
    NotBuilt {
        /// What was asked.
        asked: DeviceChoice,
        /// The feature that it needs.
        feature: &'static str,
    },
    /// No driver.
    #[error("--device {asked}: NVIDIA's driver is not on this machine ({reason}); install it, or take --device cpu")]
    NoDriver {
        /// What was asked.
        asked: DeviceChoice,
        /// What the loader said.
        reason: &'static str,
    },
    /// No such device, or a driver that does not give it.
    #[error("--device {asked}: {source}; check that the driver sees it (nvidia-smi), or take --device cpu")]
    NotThere {
        /// What was asked.
        asked: DeviceChoice,
        /// What the driver said.
        source: candle_core::Error,
    },
}

/// A device that works.
pub struct Opened {
    /// The device.
    pub device: Device,
    /// Why it is not a better one, where `auto` had to do with less.
    pub remark: Option<String>,
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no device; write auto, cpu, cuda, cuda:N or metal");
        match text.split_once(':') {
            None => match text {
                "auto" => Ok(Self::Auto),
                "cpu" => Ok(Self::Cpu),
                "cuda" => Ok(Self::Cuda(0)),
                "metal" => Ok(Self::Metal),
                _ => Err(wrong()),
            },
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| wrong()),
            Some(_) => Err(wrong()),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// When this program was built without it, or the driver does not give it. `Auto` and `Cpu` never fail.
    pub fn open(self) -> Result<Opened, DeviceError> {
        let plain = |device| Opened { device, remark: None };
        match self {
            Self::Cpu => Ok(plain(Device::Cpu)),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Err(DeviceError::NotBuilt { asked: self, feature: "cuda" }),
            Self::Metal if !cfg!(feature = "metal") => Err(DeviceError::NotBuilt { asked: self, feature: "metal" }),
            Self::Cuda(number) => {
                // Elsewhere a program is linked with the driver and has not started without it.
                #[cfg(all(feature = "cuda", target_os = "linux", target_arch = "x86_64"))]
                super::gpu::driver::find().map_err(|reason| DeviceError::NoDriver { asked: self, reason })?;
                self.there(Device::new_cuda_with_stream(number).inspect(settle)).map(plain)
            }
            Self::Metal => self.there(Device::new_metal(0)).map(plain),
            Self::Auto => {
                let gpu = match () {
                    () if cfg!(feature = "cuda") => Self::Cuda(0).open(),
                    () if cfg!(feature = "metal") => Self::Metal.open(),
                    () => return Ok(plain(Device::Cpu)),
                };
                Ok(gpu.unwrap_or_else(|error| Opened {
                    device: Device::Cpu,
                    remark: Some(format!("no GPU can be used, so this computes on the CPU ({error})")),
                }))
            }
        }
    }

    fn there(self, device: candle_core::Result<Device>) -> Result<Device, DeviceError> {
        device.map_err(|source| DeviceError::NotThere { asked: self, source })
    }
}

/// What is given back stays at hand, where the driver can keep it, and nothing is noted of who used it last: everything of a device is on its
/// one stream, in the order in which it was queued.
fn settle(device: &Device) {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        super::gpu::use_one_stream(device);
        if let Err(error) = super::gpu::keep_memory(device) {
            tracing::debug!("the driver keeps no memory at hand: {error}");
        }
    }
    #[cfg(not(feature = "cuda"))]
    let _ = device;
}

impl Precision {
    /// The number format on a device.
    #[must_use]
    pub fn on(self, device: &Device) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Auto if device.is_cpu() => DType::F32,
            Self::Bf16 | Self::Auto => DType::BF16,
        }
    }
}

/// The kind of a device, as provenance names it.
#[must_use]
pub fn kind(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}

/// The name of a number format, as provenance and the command line have it.
#[must_use]
pub fn precision(dtype: DType) -> &'static str {
    dtype.as_str()
}

/// Tokens that go through a model together: on the CPU as many as keep all threads busy, on a GPU as many as make its products as
/// fast as they get; of more than a few, only as many as free memory holds. At least one window.
#[must_use]
pub fn batch_tokens(spec: &DecoderSpec, dtype: DType, device: &Device, context: usize) -> usize {
    /// On the CPU: fewer would leave even two threads waiting for each other, and as many need little memory.
    const FEW: usize = 2048;
    /// A thread that has as many reads a weight seldom enough.
    const PER_THREAD: usize = 256;
    /// Beyond this a GPU's products are as fast as they get.
    const MOST: usize = 16_384;
    /// Room for activations: an 8B model's whole profile then stays below its weights and 4 GB.
    const ROOM: u64 = 3 << 30;
    let (attention, on_cpu) = (&spec.attention, device.is_cpu());
    let heads = (attention.heads + 2 * attention.kv_heads) * attention.head_dim;
    // The residual stream and what is added to it, queries, keys and values twice for their turning; gate, up and product.
    let values = 4 * spec.hidden + 3 * heads + 3 * spec.ffn.width;
    let size = if on_cpu { DType::F32 } else { dtype }.size_in_bytes();
    let room = free_memory(device).map_or(ROOM, |free| (free / 2).min(ROOM));
    let fitting = (room / (values * size) as u64).min(MOST as u64) as usize;
    let tokens = if on_cpu { fitting.min(PER_THREAD * rayon::current_num_threads()).max(FEW) } else { fitting };
    (tokens / context).max(1) * context
}

/// Bytes that can be had on a device, where it says so.
#[must_use]
pub fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => free_on_cpu(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::gpu::free_memory(device).ok(),
        _ => None,
    }
}

/// Without swapping, and within the limit of this process's control group, which counts files that were read and can be dropped.
fn free_on_cpu() -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(file).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    let field = |file: &str, name: &str| {
        let table = read(file)?;
        let line = table.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let free = field("/proc/meminfo", "MemAvailable:")? * 1024;
    let limit = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    let dropped = || field("/sys/fs/cgroup/memory.stat", "inactive_file ").unwrap_or(0);
    Some(limit.map_or(free, |(most, used)| most.saturating_sub(used.saturating_sub(dropped())).min(free)))
}

/// Whether an operation failed for want of memory on its device, so that a smaller batch may succeed.
#[must_use]
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = error.to_string().to_lowercase();
    text.contains("out_of_memory") || text.contains("out of memory") || text.contains("alloc_failed")
}

/// The most memory that this process has held on a device, in bytes, where the system says.
#[must_use]
pub fn peak_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return super::gpu::peak_memory(device).ok();
    }
    if !device.is_cpu() {
        return None;
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
