//! Where the tensors of a checkpoint lie: names, fused projections, transposed weights.

use super::spec::{DecoderSpec, QueryKeyNorm};
use crate::{
    checkpoint::TensorNeed,
    model::patch::{Cut, Part, Place, Projection, Site},
};

/// An architecture as a checkpoint holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// What is computed.
    pub spec: DecoderSpec,
    /// With which tensors.
    pub names: Names,
}

/// Stems of tensor names, to which `.weight` or `.bias` is added. The default is Llama's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// In front of every name but the head's.
    pub prefix: String,
    /// Embedding `[vocabulary, hidden]`.
    pub embedding: &'static str,
    /// Learned positions `[rows, hidden]`.
    pub positions: &'static str,
    /// Norm behind the embedding.
    pub embedding_norm: &'static str,
    /// In front of a layer's number.
    pub layers: &'static str,
    /// Norm before attention.
    pub before_attention: &'static str,
    /// Norm after attention.
    pub after_attention: &'static str,
    /// Norm before the FFN.
    pub before_ffn: &'static str,
    /// Norm after the FFN.
    pub after_ffn: &'static str,
    /// Queries, keys and values.
    pub attention: Fused<3>,
    /// Projection behind attention.
    pub attention_output: &'static str,
    /// Norm of the queries.
    pub query_norm: &'static str,
    /// Norm of the keys.
    pub key_norm: &'static str,
    /// Gate and up projection of a gated FFN.
    pub gated: Fused<2>,
    /// Input projection of an FFN without gate.
    pub plain: &'static str,
    /// Output projection of the FFN.
    pub down: &'static str,
    /// Router of a mixture of experts.
    pub router: &'static str,
    /// In front of an expert's number.
    pub experts: &'static str,
    /// Gate, up and down projection of an expert.
    pub expert_projections: [&'static str; 3],
    /// Norm before the head.
    pub norm: &'static str,
    /// The head.
    pub head: &'static str,
    /// Whether the weights inside layers are stored `[in, out]` (GPT-2).
    pub transposed: bool,
    /// Tensors that checkpoints carry and the text model does not read: beginnings of names, or endings that begin with a dot.
    pub ignored: &'static [&'static str],
}

/// Projections that some checkpoints store as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fused<const PARTS: usize> {
    /// Each by itself.
    Apart([&'static str; PARTS]),
    /// One after the other along the outputs.
    Stacked(&'static str),
    /// For each head one after the other: outputs `[heads, parts, head_dim]`.
    ByHead(&'static str),
}

impl<const PARTS: usize> Fused<PARTS> {
    /// The stem of one of the projections, and which part of that tensor it is.
    fn part(&self, part: usize, widths: [usize; PARTS], dim: usize) -> (&'static str, Part) {
        match self {
            Self::Apart(stems) => (stems[part], Part::Whole),
            Self::Stacked(stem) => (stem, Part::Rows { start: widths[..part].iter().sum(), len: widths[part] }),
            Self::ByHead(stem) => (stem, Part::Heads { part, parts: PARTS, dim }),
        }
    }
}

impl Default for Names {
    fn default() -> Self {
        Self {
            prefix: "model.".to_owned(),
            embedding: "embed_tokens",
            positions: "embed_positions",
            embedding_norm: "embed_norm",
            layers: "layers",
            before_attention: "input_layernorm",
            after_attention: "post_attention_layernorm",
            before_ffn: "post_attention_layernorm",
            after_ffn: "post_feedforward_layernorm",
            attention: Fused::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            attention_output: "self_attn.o_proj",
            query_norm: "self_attn.q_norm",
            key_norm: "self_attn.k_norm",
            gated: Fused::Apart(["mlp.gate_proj", "mlp.up_proj"]),
            plain: "mlp.fc1",
            down: "mlp.down_proj",
            router: "mlp.gate",
            experts: "mlp.experts",
            expert_projections: ["gate_proj", "up_proj", "down_proj"],
            norm: "norm",
            head: "lm_head",
            transposed: false,
            ignored: &[".rotary_emb.inv_freq"],
        }
    }
}

impl Names {
    /// A stem that no layer owns.
    #[must_use]
    pub fn outer(&self, stem: &str) -> String {
        format!("{}{stem}", self.prefix)
    }

    /// A stem of one layer.
    #[must_use]
    pub fn inner(&self, layer: usize, stem: &str) -> String {
        format!("{}{}.{layer}.{stem}", self.prefix, self.layers)
    }

    /// A stem of one expert.
    #[must_use]
    pub fn expert(&self, layer: usize, expert: usize, stem: &str) -> String {
        self.inner(layer, &format!("{}.{expert}.{stem}", self.experts))
    }
}

impl Architecture {
    /// Every tensor that a checkpoint of this architecture holds.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorNeed> {
        let Self { spec, names } = self;
        let mut needs = Needs { needs: Vec::new(), transposed: names.transposed };
        needs.weight(&names.outer(names.embedding), &[spec.vocabulary, spec.hidden]);
        if let Some(positions) = spec.embedding.learned_positions {
            needs.weight(&names.outer(names.positions), &[positions.rows, spec.hidden]);
        }
        if spec.embedding.norm {
            needs.norm(names.outer(names.embedding_norm), &[spec.hidden], spec.norm.bias);
        }
        for layer in 0..spec.ffn.layers {
            self.layer(layer, &mut needs);
        }
        needs.norm(names.outer(names.norm), &[spec.hidden], spec.norm.bias);
        if !spec.head.tied {
            needs.weight(names.head, &[spec.vocabulary, spec.hidden]);
        }
        if spec.head.bias {
            needs.bias(names.head, spec.vocabulary);
        }
        needs.needs
    }

    fn layer(&self, layer: usize, needs: &mut Needs) {
        let Self { spec, names } = self;
        let at = |stem: &str| names.inner(layer, stem);
        let attention = &spec.attention;
        let [queries, keys] = [attention.heads, attention.kv_heads].map(|heads| heads * attention.head_dim);
        for (there, stem) in [
            (spec.placement.before_attention(), names.before_attention),
            (spec.placement.after(), names.after_attention),
            (spec.placement.before_ffn(), names.before_ffn),
            (spec.placement.after(), names.after_ffn),
        ] {
            if there {
                needs.norm(at(stem), &[spec.hidden], spec.norm.bias);
            }
        }
        needs.fused(&names.attention, [queries, keys, keys], spec.hidden, attention.input_bias, at);
        needs.linear(&at(names.attention_output), spec.hidden, queries, attention.output_bias);
        for (stem, heads, width) in
            [(names.query_norm, attention.heads, queries), (names.key_norm, attention.kv_heads, keys)]
        {
            match attention.query_key_norm {
                QueryKeyNorm::None => {}
                QueryKeyNorm::PerHead(norm) => needs.norm(at(stem), &[attention.head_dim], norm.bias),
                QueryKeyNorm::PerHeadOwn(norm) => needs.norm(at(stem), &[heads, attention.head_dim], norm.bias),
                QueryKeyNorm::Whole(norm) => needs.norm(at(stem), &[width], norm.bias),
            }
        }
        let (width, bias) = (spec.ffn.width, spec.feed_forward.bias);
        if spec.feed_forward.routing.is_some() {
            needs.linear(&at(names.router), spec.ffn.experts, spec.hidden, false);
            let [gate, up, down] = names.expert_projections;
            for expert in 0..spec.ffn.experts {
                needs.linear(&names.expert(layer, expert, gate), width, spec.hidden, false);
                needs.linear(&names.expert(layer, expert, up), width, spec.hidden, false);
                needs.linear(&names.expert(layer, expert, down), spec.hidden, width, false);
            }
            return;
        }
        if spec.feed_forward.gated {
            needs.fused(&names.gated, [width; 2], spec.hidden, bias, at);
        } else {
            needs.linear(&at(names.plain), width, spec.hidden, bias);
        }
        needs.linear(&at(names.down), spec.hidden, width, bias);
    }

    /// Where a projection of a layer without experts lies; none for the up projection of a FFN without gate.
    #[must_use]
    pub fn place(&self, site: Site) -> Option<Place> {
        let Self { spec, names } = self;
        let Site { layer, projection } = site;
        let [queries, keys] =
            [spec.attention.heads, spec.attention.kv_heads].map(|heads| heads * spec.attention.head_dim);
        let attention = |part| names.attention.part(part, [queries, keys, keys], spec.attention.head_dim);
        let gated = |part| names.gated.part(part, [spec.ffn.width; 2], spec.ffn.width);
        let (stem, part) = match projection {
            Projection::Query => attention(0),
            Projection::Key => attention(1),
            Projection::Value => attention(2),
            Projection::Output => (names.attention_output, Part::Whole),
            Projection::Gate if spec.feed_forward.gated => gated(0),
            Projection::Gate => (names.plain, Part::Whole),
            Projection::Up if spec.feed_forward.gated => gated(1),
            Projection::Up => return None,
            Projection::Down => (names.down, Part::Whole),
        };
        Some(Place { stem: names.inner(layer, stem), cut: Cut { transposed: names.transposed, part } })
    }

    /// Tensors that checkpoints carry and nobody reads: precomputed rotary frequencies, masks, the vision part, and a copy of a
    /// tied head.
    #[must_use]
    pub fn ignores(&self, name: &str) -> bool {
        let listed = |pattern: &&str| {
            if pattern.starts_with('.') { name.ends_with(*pattern) } else { name.starts_with(*pattern) }
        };
        self.names.ignored.iter().any(listed)
            || (self.spec.head.tied && name.strip_suffix(".weight") == Some(self.names.head))
    }

    /// Number of parameters, a tied head counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|need| need.shape.iter().product::<usize>() as u64).sum()
    }
}

struct Needs {
    needs: Vec<TensorNeed>,
    transposed: bool,
}

impl Needs {
    fn weight(&mut self, stem: &str, shape: &[usize]) {
        self.needs.push(TensorNeed { name: format!("{stem}.weight"), shape: shape.to_vec() });
    }

    fn bias(&mut self, stem: &str, width: usize) {
        self.needs.push(TensorNeed { name: format!("{stem}.bias"), shape: vec![width] });
    }

    fn norm(&mut self, stem: String, shape: &[usize], bias: bool) {
        self.weight(&stem, shape);
        if bias {
            self.needs.push(TensorNeed { name: stem + ".bias", shape: shape.to_vec() });
        }
    }

    fn linear(&mut self, stem: &str, out: usize, inner: usize, bias: bool) {
        self.weight(stem, &if self.transposed { [inner, out] } else { [out, inner] });
        if bias {
            self.bias(stem, out);
        }
    }

    fn fused<const PARTS: usize>(
        &mut self,
        stems: &Fused<PARTS>,
        widths: [usize; PARTS],
        inner: usize,
        bias: bool,
        at: impl Fn(&str) -> String,
    ) {
        match stems {
            Fused::Apart(stems) => {
                for (stem, width) in stems.iter().zip(widths) {
                    self.linear(&at(stem), width, inner, bias);
                }
            }
            Fused::Stacked(stem) | Fused::ByHead(stem) => {
                self.linear(&at(stem), widths.iter().sum(), inner, bias);
            }
        }
    }
}
