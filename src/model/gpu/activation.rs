//! The activation's kernel, and the sums that stay on the GPU until a language is done.
//! What it computes is what `model/activation.rs` computes on the CPU; the kernels are in activation.cu.

use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Result,
    backend::BackendStorage,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg},
    },
};
use half::bf16;

use super::{ACTIVATION, Number, function, pointer};
use crate::model::{activation::Activation, observer::Tally};

/// Sums on a GPU, in the order of the tally's own.
#[derive(Debug)]
pub struct Sums {
    device: CudaDevice,
    /// `[folds, neurons]`.
    active: CudaSlice<u64>,
    sum: CudaSlice<f64>,
    sum_sq: CudaSlice<f64>,
    max: CudaSlice<f32>,
    /// First token of each run of the batch at hand and its end; the folds of the runs.
    starts: CudaSlice<u32>,
    folds: CudaSlice<u32>,
    /// Whether the runs are of an older batch.
    stale: bool,
}

/// Where a tally keeps them.
#[derive(Debug, Default)]
pub struct Abroad(Option<Box<Sums>>);

impl Abroad {
    /// The next batch has other runs.
    pub fn begin(&mut self) {
        if let Some(sums) = &mut self.0 {
            sums.stale = true;
        }
    }

    pub fn take(&mut self) -> Option<Box<Sums>> {
        self.0.take()
    }
}

impl Clone for Abroad {
    fn clone(&self) -> Self {
        assert!(self.0.is_none(), "a tally is settled before it is copied");
        Self(None)
    }
}

impl PartialEq for Abroad {
    /// What is still abroad cannot be compared.
    fn eq(&self, other: &Self) -> bool {
        self.0.is_none() && other.0.is_none()
    }
}

impl Sums {
    fn new(tally: &Tally, device: &CudaDevice) -> Result<Self> {
        let neurons = tally.shape().neurons();
        let (active, sum, sum_sq) = (
            device.alloc_zeros(tally.active.len() * neurons)?,
            device.alloc_zeros(neurons)?,
            device.alloc_zeros(neurons)?,
        );
        let max = device.clone_htod(&vec![f32::NEG_INFINITY; neurons])?;
        let (starts, folds) = (device.alloc_zeros(1)?, device.alloc_zeros(1)?);
        Ok(Self { device: device.clone(), active, sum, sum_sq, max, starts, folds, stale: true })
    }

    fn send_runs(&mut self, tally: &Tally) -> Result<()> {
        if self.stale {
            let (starts, folds) = places(tally)?;
            self.starts = self.device.clone_htod(&starts)?;
            self.folds = self.device.clone_htod(&folds)?;
            self.stale = false;
        }
        Ok(())
    }

    /// Adds everything to the tally's own sums.
    ///
    /// # Errors
    /// When the GPU has failed meanwhile.
    pub fn bring_home(&self, tally: &mut Tally) -> Result<()> {
        let neurons = tally.shape().neurons();
        let active = self.device.clone_dtoh(&self.active)?;
        for (total, active) in tally.active.iter_mut().zip(active.chunks_exact(neurons)) {
            total.iter_mut().zip(active).for_each(|(total, n)| *total += n);
        }
        let add = |total: &mut [f64], sums: Vec<f64>| total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        add(&mut tally.sum, self.device.clone_dtoh(&self.sum)?);
        add(&mut tally.sum_sq, self.device.clone_dtoh(&self.sum_sq)?);
        let max = self.device.clone_dtoh(&self.max)?;
        tally.max.iter_mut().zip(max).for_each(|(total, max)| *total = total.max(max));
        Ok(())
    }
}

/// First tokens of a tally's runs with the end of the last, and their folds.
fn places(tally: &Tally) -> Result<(Vec<u32>, Vec<u32>)> {
    let number = |n: usize| u32::try_from(n).map_err(candle_core::Error::wrap);
    let (mut starts, mut folds, mut end) = (vec![0], Vec::new(), 0);
    for run in tally.runs() {
        end += run.tokens;
        starts.push(number(end)?);
        folds.push(number(run.fold)?);
    }
    Ok((starts, folds))
}

/// Values that one thread reads as one word.
const PACK: usize = 4;

/// Threads of a block that goes over gate and up: 256 are up to 5 % slower.
const BLOCK: u32 = 128;

/// Threads of a block where there are hardly enough for the whole GPU.
const FEW: u32 = 64;

/// What a pass writes.
#[derive(Clone, Copy)]
pub enum Output {
    /// `act(gate) · up`, over `up`.
    OverUp,
    /// `act(gate)`, over `gate`.
    OverGate,
    /// Nothing: only the counts are wanted.
    Nowhere,
}

/// One pass over a gate `[batch, seq, ffn]` and, where it is asked for, an up projection of the same shape. For `Output::OverUp` the
/// first storage is written, else the gate is the first.
///
/// # Errors
/// When the GPU has no room or fails, or the storages are neither f32 nor bf16.
pub fn pass(
    act: Activation,
    layer: usize,
    tally: Option<&mut Tally>,
    gate: (&CudaStorage, &Layout),
    up: Option<(&CudaStorage, &Layout)>,
    output: Output,
) -> Result<()> {
    match gate.0.dtype() {
        DType::F32 => typed::<f32>(["activation_f32", "activation_f32_wide"], act, layer, tally, gate, up, output),
        DType::BF16 => typed::<bf16>(["activation_bf16", "activation_bf16_wide"], act, layer, tally, gate, up, output),
        other => candle_core::bail!("the gate is {other:?}, but the kernel reads f32 and bf16"),
    }
}

#[allow(unsafe_code)]
fn typed<T: Number>(
    [name, wide_name]: [&str; 2],
    act: Activation,
    layer: usize,
    tally: Option<&mut Tally>,
    (gate, gate_layout): (&CudaStorage, &Layout),
    up: Option<(&CudaStorage, &Layout)>,
    output: Output,
) -> Result<()> {
    let device = &gate.device;
    let (batch, seq, width) = gate_layout.shape().dims3()?;
    let (tokens, wide) = (batch * seq, u32::try_from(width).map_err(candle_core::Error::wrap)?);
    let place = |storage: &CudaStorage, layout: &Layout| -> Result<u64> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{:?} has gaps", layout.shape())
        };
        if end - start != tokens * width {
            candle_core::bail!("gate and up projection are of different shapes");
        }
        pointer::<T>(storage, start)
    };
    let gate_at = place(gate, gate_layout)?;
    let up_at = up.map(|(storage, layout)| place(storage, layout)).transpose()?.unwrap_or(0);
    let out_at = match output {
        Output::OverUp => up_at,
        Output::OverGate => gate_at,
        Output::Nowhere => 0,
    };
    // Where the words of a row are whole words of the storage, too.
    let packed =
        width.is_multiple_of(PACK) && [gate_at, up_at].iter().all(|at| at % (PACK * size_of::<T>()) as u64 == 0);
    let (name, values) = if packed { (wide_name, PACK as u32) } else { (name, 1) };
    let (kernel, stream) = (function(device, &ACTIVATION, name)?, device.cuda_stream());
    let grid = |block: u32, values: u32, rows: u32| LaunchConfig {
        grid_dim: (wide.div_ceil(values).div_ceil(block), rows, 1),
        block_dim: (block, 1, 1),
        shared_mem_bytes: 0,
    };
    let kind = act as u32;
    let Some(tally) = tally else {
        // Without folds to mind, runs of 64 tokens for the sake of the grid alone.
        let starts = even(tokens)?;
        let runs = starts.len() as u32 - 1;
        let starts = device.clone_htod(&starts)?;
        let (nothing, mut launch) = (0u64, stream.launch_builder(&kernel));
        launch.arg(&gate_at).arg(&up_at).arg(&out_at).arg(&kind).arg(&wide).arg(&starts);
        launch.arg(&nothing).arg(&nothing).arg(&nothing).arg(&nothing);
        // SAFETY: the arguments are those of the kernel in activation.cu, and every run lies within the tokens.
        unsafe { launch.launch(grid(BLOCK, values, runs)) }.w()?;
        return Ok(());
    };
    let mut sums = match tally.abroad.take() {
        Some(sums) => sums,
        None => Box::new(Sums::new(tally, device)?),
    };
    let result = (|| -> Result<()> {
        sums.send_runs(tally)?;
        let runs = tally.runs().len();
        // SAFETY: the kernel writes every element.
        let (active, sum, sum_sq, max) = unsafe {
            let size = runs * width;
            (
                device.alloc::<u32>(size)?,
                device.alloc::<f32>(size)?,
                device.alloc::<f32>(size)?,
                device.alloc::<f32>(size)?,
            )
        };
        let runs = u32::try_from(runs).map_err(candle_core::Error::wrap)?;
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&gate_at).arg(&up_at).arg(&out_at).arg(&kind).arg(&wide).arg(&sums.starts);
        launch.arg(&active).arg(&sum).arg(&sum_sq).arg(&max);
        // SAFETY: the arguments are those of the kernel in activation.cu; `check_runs` has seen that the runs are the tokens.
        unsafe { launch.launch(grid(BLOCK, values, runs)) }.w()?;
        if !tally.wants(layer) {
            return Ok(());
        }
        let add = function(device, &ACTIVATION, "add_runs")?;
        let (first, neurons) = ((layer * width) as u64, tally.shape().neurons() as u64);
        let sums = &mut *sums;
        let mut launch = stream.launch_builder(&add);
        launch.arg(&wide).arg(&first).arg(&neurons).arg(&runs).arg(&sums.folds);
        launch.arg(&active).arg(&sum).arg(&sum_sq).arg(&max);
        launch.arg(&mut sums.active).arg(&mut sums.sum).arg(&mut sums.sum_sq).arg(&mut sums.max);
        // SAFETY: the arguments are those of the kernel in activation.cu, and the layer's neurons lie within the model's.
        unsafe { launch.launch(grid(FEW, 1, 1)) }.w()?;
        tally.has_counted(layer);
        Ok(())
    })();
    tally.abroad = Abroad(Some(sums));
    result
}

/// Runs of 64 tokens.
fn even(tokens: usize) -> Result<Vec<u32>> {
    let places = (0..tokens).step_by(64).chain([tokens]);
    places.map(|place| u32::try_from(place).map_err(candle_core::Error::wrap)).collect()
}
