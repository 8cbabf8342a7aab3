//! Tensors of a checkpoint as the parts of a decoder want them: fused projections apart, transposed weights turned.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::{
    Path,
    family::{Architecture, Names},
    linear::Linear,
    norm::Norm,
    patch::{Cut, Part, Patch, Place, Projection, Site},
    spec::{DecoderSpec, NormSpec},
};

type Fetch<'a> = dyn FnMut(&str) -> Result<Tensor> + 'a;
type Patches<'a> = dyn FnMut(Site, &Tensor) -> Result<Option<Arc<dyn Patch>>> + 'a;

/// Hands out the tensors of a checkpoint, each asked for once.
pub struct Weights<'a> {
    architecture: &'a Architecture,
    path: Path,
    fetch: Box<Fetch<'a>>,
    patch: Box<Patches<'a>>,
}

impl<'a> Weights<'a> {
    pub fn new(architecture: &'a Architecture, path: Path, fetch: impl FnMut(&str) -> Result<Tensor> + 'a) -> Self {
        Self { architecture, path, fetch: Box::new(fetch), patch: Box::new(|_, _| Ok(None)) }
    }

    /// With patches beside projections, of which each is asked for by its site and its weight `[out, in]`.
    pub fn patched(self, patch: impl FnMut(Site, &Tensor) -> Result<Option<Arc<dyn Patch>>> + 'a) -> Self {
        Self { patch: Box::new(patch), ..self }
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

    /// A projection that is a tensor of its own.
    pub fn linear(&mut self, stem: &str, bias: bool, site: Option<Site>) -> Result<Linear> {
        let (weight, bias) = self.pair(stem, bias)?;
        let cut = Cut { transposed: self.names().transposed, part: Part::Whole };
        self.projection(site, &weight, bias.as_ref(), cut)
    }

    /// The head, whose weight others may hold too.
    pub fn shared(&mut self, weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        if self.path == Path::Training {
            Linear::trainable(&weight, bias, Cut::WHOLE, None)
        } else {
            Linear::shared(weight, bias)
        }
    }

    fn projection(&mut self, site: Option<Site>, weight: &Tensor, bias: Option<&Tensor>, cut: Cut) -> Result<Linear> {
        if self.path == Path::Training {
            let patch = match site {
                Some(site) => (self.patch)(site, &cut.of(weight)?)?,
                None => None,
            };
            return Linear::trainable(weight, bias.cloned(), cut, patch);
        }
        Linear::new(&cut.of(weight)?, bias.map(|bias| cut.of_bias(bias)).transpose()?, self.path)
    }

    /// A weight as it is stored, and its bias.
    fn pair(&mut self, stem: &str, bias: bool) -> Result<(Tensor, Option<Tensor>)> {
        let weight = self.tensor(&format!("{stem}.weight"))?;
        let bias = if bias { Some(self.tensor(&format!("{stem}.bias"))?) } else { None };
        Ok((weight, bias))
    }

    /// Projections that the checkpoint may hold as one.
    pub fn fused<const PARTS: usize>(
        &mut self,
        layer: usize,
        projections: [Projection; PARTS],
        bias: bool,
    ) -> Result<[Linear; PARTS]> {
        let architecture = self.architecture;
        let mut fetched: Option<(String, (Tensor, Option<Tensor>))> = None;
        let mut parts = Vec::with_capacity(PARTS);
        for projection in projections {
            let site = Site { layer, projection };
            let Some(Place { stem, cut }) = architecture.place(site) else { candle_core::bail!("there is no {site}") };
            if fetched.as_ref().is_none_or(|(name, _)| *name != stem) {
                let pair = self.pair(&stem, bias)?;
                fetched = Some((stem, pair));
            }
            let (_, (weight, bias)) = fetched.clone().expect("it was fetched above");
            parts.push(self.projection(Some(site), &weight, bias.as_ref(), cut)?);
        }
        Ok(parts.try_into().unwrap_or_else(|_| unreachable!("one projection for each part")))
    }
}
