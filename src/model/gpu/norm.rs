//! `RMSNorm` and `LayerNorm`, with their gradients. The kernels are in norm.cu.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, backend::BackendStorage};

use super::{
    Argument::{Long, Number, Place, Real},
    NORM, check_alike, device_of, in_words, named, number, only_on_gpus, place, place_of, start, unwritten,
};

/// A norm over the last dimension, whose weight and bias have no gradient.
pub struct Normal {
    /// `[width]`, in the format of what is normed.
    pub weight: Tensor,
    /// Likewise.
    pub bias: Option<Tensor>,
    /// Added to the mean square.
    pub eps: f32,
    /// Whether the mean is taken off.
    pub centred: bool,
}

impl Normal {
    /// Rows of `x`, threads and the kernel for them.
    fn kernel(&self, name: &str, (x, format): (&Layout, DType), places: &[u64]) -> Result<(String, u64, usize)> {
        let (width, dtype) = (self.weight.elem_count(), self.weight.dtype());
        let bias = self.bias.as_ref().is_none_or(|bias| bias.elem_count() == width && bias.dtype() == dtype);
        if x.dims().last() != Some(&width) || format != dtype || !bias {
            candle_core::bail!("a norm of width {width} in {dtype:?} was given {:?} in {format:?}", x.shape());
        }
        let rows = x.shape().elem_count() / width;
        Ok((named(name, dtype, in_words(dtype, width, places)).0, rows as u64, rows * 32))
    }

    #[allow(unsafe_code)]
    fn back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let (x, gradient) = (x.contiguous()?, gradient.contiguous()?);
        check_alike(&[&x, &gradient])?;
        // SAFETY: the kernel writes every value.
        let out = unsafe { x.empty_like()? };
        let [from, weight, above, to] = [place_of(&x)?, place_of(&self.weight)?, place_of(&gradient)?, place_of(&out)?];
        let (name, rows, threads) = self.kernel("norm_back", (x.layout(), x.dtype()), &[from, weight, above, to])?;
        let arguments = [Place(from), Place(weight), Place(above), Place(to), Long(rows)];
        let rest = [Number(number(self.weight.elem_count())?), Real(self.eps), Number(self.centred.into())];
        // SAFETY: the arguments are those of the kernel in norm.cu, and all tensors of the rows' size.
        unsafe { start(&device_of(&x)?, &NORM, &name, threads, &[&arguments[..], &rest].concat())? };
        Ok(out)
    }
}

impl CustomOp1 for Normal {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        only_on_gpus()
    }

    #[allow(unsafe_code)]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        // SAFETY: the kernel writes every value.
        let out = unsafe { unwritten(&x.device, layout.shape(), x.dtype())? };
        let bias = self.bias.as_ref().map_or(Ok(0), place_of)?;
        let whole = Layout::contiguous(layout.shape());
        let [from, weight, to] = [place(x, layout)?, place_of(&self.weight)?, place(&out, &whole)?];
        let (name, rows, threads) = self.kernel("norm", (layout, x.dtype()), &[from, weight, bias, to])?;
        let plain = name == "norm_bf16_wide" && !self.centred && self.bias.is_none();
        // Rows that stay in registers are read once.
        let name = match self.weight.elem_count() {
            0..=2048 if plain => "norm_bf16_2048",
            2049..=4096 if plain => "norm_bf16_4096",
            4097..=6144 if plain => "norm_bf16_6144",
            _ => name.as_str(),
        };
        let arguments = [Place(from), Place(weight), Place(bias), Place(to), Long(rows)];
        let rest = [Number(number(self.weight.elem_count())?), Real(self.eps), Number(self.centred.into())];
        // SAFETY: the arguments are those of the kernel in norm.cu, and all tensors as large as it reads and writes.
        unsafe { start(&x.device, &NORM, name, threads, &[&arguments[..], &rest].concat())? };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.back(x, gradient).map(Some)
    }
}
