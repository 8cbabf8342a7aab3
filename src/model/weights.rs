//! Tensors of a checkpoint as the parts of a decoder want them: fused projections apart, transposed weights turned.

use candle_core::{Device, Result, Tensor};

use super::{
    Path,
    family::{Architecture, Fused, Names},
    linear::Linear,
    norm::Norm,
    spec::{DecoderSpec, NormSpec},
};

type Fetch<'a> = dyn FnMut(&str) -> Result<Tensor> + 'a;

/// Hands out the tensors of a checkpoint, each asked for once.
pub struct Weights<'a> {
    architecture: &'a Architecture,
    path: Path,
    fetch: Box<Fetch<'a>>,
}

impl<'a> Weights<'a> {
    pub fn new(architecture: &'a Architecture, path: Path, fetch: impl FnMut(&str) -> Result<Tensor> + 'a) -> Self {
        Self { architecture, path, fetch: Box::new(fetch) }
    }

    pub fn spec(&self) -> &'a DecoderSpec {
        &self.architecture.spec
    }

    pub fn names(&self) -> &'a Names {
        &self.architecture.names
    }

    pub fn path(&self) -> Path {
        self.path
    }

    /// The path, once it is known where the weights are.
    pub fn settle(&mut self, device: &Device) -> Path {
        if self.path == Path::Inference && !device.is_cpu() {
            self.path = Path::Portable;
        }
        self.path
    }

    pub fn tensor(&mut self, name: &str) -> Result<Tensor> {
        (self.fetch)(name)
    }

    pub fn norm(&mut self, stem: &str, spec: NormSpec) -> Result<Norm> {
        let weight = self.tensor(&format!("{stem}.weight"))?;
        let bias = if spec.bias { Some(self.tensor(&format!("{stem}.bias"))?) } else { None };
        Norm::new(spec, weight, bias, self.path)
    }

    pub fn linear(&mut self, stem: &str, bias: bool) -> Result<Linear> {
        let (weight, bias) = self.pair(stem, bias)?;
        Linear::new(&weight, bias, self.path)
    }

    /// Weight `[out, in]` and bias.
    fn pair(&mut self, stem: &str, bias: bool) -> Result<(Tensor, Option<Tensor>)> {
        let weight = self.tensor(&format!("{stem}.weight"))?;
        let weight = if self.names().transposed { weight.t()?.contiguous()? } else { weight };
        let bias = if bias { Some(self.tensor(&format!("{stem}.bias"))?) } else { None };
        Ok((weight, bias))
    }

    /// Projections of the given output widths that the checkpoint may hold as one.
    pub fn fused<const PARTS: usize>(
        &mut self,
        layer: usize,
        stems: &Fused<PARTS>,
        widths: [usize; PARTS],
        bias: bool,
    ) -> Result<[Linear; PARTS]> {
        let names = self.names();
        let parts = match stems {
            Fused::Apart(stems) => {
                let parts = stems.iter().map(|stem| self.linear(&names.inner(layer, stem), bias));
                parts.collect::<Result<Vec<_>>>()?
            }
            Fused::Stacked(stem) => {
                let (weight, bias) = self.pair(&names.inner(layer, stem), bias)?;
                let mut start = 0;
                let mut parts = Vec::with_capacity(PARTS);
                for width in widths {
                    let cut = |x: &Tensor| x.narrow(0, start, width)?.contiguous();
                    parts.push(Linear::new(&cut(&weight)?, bias.as_ref().map(cut).transpose()?, self.path)?);
                    start += width;
                }
                parts
            }
            Fused::ByHead(stem) => {
                let (weight, bias) = self.pair(&names.inner(layer, stem), bias)?;
                let dim = self.spec().attention.head_dim;
                let part = |part: usize| {
                    let cut = |x: &Tensor| {
                        let (rank, heads) = (x.rank(), x.dim(0)? / (PARTS * dim));
                        let inner = x.elem_count() / x.dim(0)?;
                        let x = x.reshape((heads, PARTS, dim, inner))?.narrow(1, part, 1)?.contiguous()?;
                        if rank == 1 { x.flatten_all() } else { x.reshape((heads * dim, inner)) }
                    };
                    Linear::new(&cut(&weight)?, bias.as_ref().map(cut).transpose()?, self.path)
                };
                (0..PARTS).map(part).collect::<Result<Vec<_>>>()?
            }
        };
        Ok(parts.try_into().unwrap_or_else(|_| unreachable!("one projection for each part")))
    }
}
