//! The gated activation.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{CHUNK, with};
#[cfg(feature = "cuda")]
use crate::model::gpu::training as gpu;
use crate::model::{Activation, matrix::slice, simd::vectorised};

/// `act(gate) · up`.
pub struct Gated(pub Activation);

/// Values whose activations fit into the first-level cache.
const TILE: usize = 512;

vectorised! {
    fn gate_forward(act: Activation, gate: &[f32], up: &[f32], h: &mut [f32]) {
        for ((gate, up), h) in gate.chunks(TILE).zip(up.chunks(TILE)).zip(h.chunks_mut(TILE)) {
            act.values(gate, h);
            for (h, up) in h.iter_mut().zip(up) {
                *h *= up;
            }
        }
    }
}

/// The two slices of gradients that one task writes.
struct Pair<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
}

vectorised! {
    fn gate_back(act: Activation, gate: &[f32], up: &[f32], g: &[f32], to: Pair) {
        let mut slope = [0f32; TILE];
        let parts = gate.chunks(TILE).zip(up.chunks(TILE)).zip(g.chunks(TILE));
        for (((gate, up), g), (d_gate, d_up)) in parts.zip(to.gate.chunks_mut(TILE).zip(to.up.chunks_mut(TILE))) {
            act.slopes(gate, d_up, &mut slope);
            for ((((d_gate, d_up), slope), up), g) in d_gate.iter_mut().zip(d_up).zip(&slope).zip(up).zip(g) {
                *d_gate = g * up * slope;
                *d_up *= g;
            }
        }
    }
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated-activation-with-gradient"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let mut h = vec![0f32; gate.len()];
        h.par_chunks_mut(CHUNK)
            .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
            .for_each(|(h, (gate, up))| gate_forward(self.0, gate, up, h));
        Ok((CpuStorage::F32(h), gate_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        gpu::gated(self.0, (gate, gate_layout), (up, up_layout))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [gate, up] = self.back(gate, up, gradient)?;
        Ok((Some(gate), Some(up)))
    }
}

impl Gated {
    /// The gradients of gate and up from that of their product.
    pub fn back(&self, gate: &Tensor, up: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]> {
        #[cfg(feature = "cuda")]
        if gate.device().is_cuda() {
            return gpu::gated_back(self.0, gate, up, gradient);
        }
        let size = gate.elem_count();
        let (mut d_gate, mut d_up) = (vec![0f32; size], vec![0f32; size]);
        with(gate, |gate| {
            with(up, |up| {
                with(gradient, |g| {
                    let from = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(g.par_chunks(CHUNK));
                    let to = d_gate.par_chunks_mut(CHUNK).zip(d_up.par_chunks_mut(CHUNK));
                    from.zip(to).for_each(|(((gate, up), g), (d_gate, d_up))| {
                        gate_back(self.0, gate, up, g, Pair { gate: d_gate, up: d_up });
                    });
                    Ok(())
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), &Device::Cpu);
        Ok([tensor(d_gate)?, tensor(d_up)?])
    }
}
