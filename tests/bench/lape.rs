//! Times identification at the size of an 8B model over 132 languages, and prints the peak memory with the counts' own.
//!
//!     cargo bench --bench lape [-- LAYERS WIDTH LANGUAGES [EXPERTS]]

use std::time::Instant;

use neuroglot::identify::{Arithmetic, Identifier, LanguageCounts, Lape, Profiles, Resampling, Stability, overlaps};
use neuroglot::language::LanguageCode;
use neuroglot::neuron::FfnShape;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

fn main() {
    let sizes: Vec<usize> =
        std::env::args().skip(1).filter(|text| text != "--bench").map(|text| text.parse().expect("a number")).collect();
    let (layers, width, languages, experts) = match sizes[..] {
        [] => (32, 14_336, 132, 1),
        [layers, width, languages] => (layers, width, languages, 1),
        [layers, width, languages, experts] => (layers, width, languages, experts),
        _ => panic!("give LAYERS WIDTH LANGUAGES [EXPERTS]"),
    };
    let shape = FfnShape { layers, experts, width };
    let counts: Vec<LanguageCounts> = (0..languages).into_par_iter().map(|language| counts(language, shape)).collect();
    println!("{shape} × {languages} languages, {} threads", rayon::current_num_threads());
    println!("counts: {} MB, peak {} MB", 4 * shape.neurons() * languages / 1_000_000, peak());
    let start = Clock::start();
    let profiles = Profiles::new(shape, counts).expect("the counts are right");
    println!("check {}", start.stop());
    for arithmetic in [Arithmetic::Exact, Arithmetic::Reference] {
        let lape = Lape { arithmetic, ..Lape::default() };
        let start = Clock::start();
        let selection = lape.identify(&profiles).expect("the profiles are comparable");
        let seconds = start.stop();
        println!("lape {arithmetic} {seconds}, peak {} MB", peak());
        println!("  {} pass the filter, {} selected", selection.finite, selection.neurons.len());
    }
    let lape = Lape { filter_rate: 0.9.try_into().expect("a quantile"), ..Lape::default() };
    let start = Clock::start();
    let selection = lape.identify(&profiles).expect("the profiles are comparable");
    println!("lape with two bars {}, peak {} MB", start.stop(), peak());
    let start = Clock::start();
    let pairs = overlaps(&profiles, &selection).expect("the selection is of these profiles");
    println!("overlaps of {} pairs {}, peak {} MB", pairs.len(), start.stop(), peak());
    if shape.neurons() < 10_000 {
        let start = Clock::start();
        let stability = Stability::estimate(&lape, &profiles, &selection, Resampling::default()).expect("as above");
        println!("stability {}, peak {} MB", start.stop(), peak());
        println!("  {:?}", stability.languages[0]);
    }
}

/// A neuron is mostly quiet everywhere; some fire more often, and one in eight much more for a few languages. An expert gets from an
/// eighth of a language's tokens to all.
fn counts(language: usize, shape: FfnShape) -> LanguageCounts {
    let (neurons, tokens) = (shape.neurons(), 1_000_000 + 1_000 * language as u64);
    let mut noise = ChaCha8Rng::seed_from_u64(language as u64);
    let mut shared = ChaCha8Rng::seed_from_u64(u64::MAX);
    let mut router = ChaCha8Rng::seed_from_u64(1 << 32 | language as u64);
    let fold_tokens = vec![tokens / 4; 4];
    let routed: Vec<u64> = if shape.is_routed() {
        (0..shape.ffns()).map(|_| tokens / 32 + router.next_u64() % (tokens / 4 - tokens / 32)).collect()
    } else {
        Vec::new()
    };
    let active: Vec<u32> = (0..neurons)
        .map(|place| {
            let neuron = shared.next_u64();
            let base = 0.02 + 0.4 * unit(neuron).powi(3);
            let own = neuron % 8 == 0 && (neuron >> 8) as usize % 132 / 6 == language / 6;
            let p = if own { 0.5 + 0.5 * unit(noise.next_u64()) } else { base * (0.5 + unit(noise.next_u64())) };
            let tokens = routed.get(shape.ffn_of(place)).map_or(tokens, |routed| 4 * routed);
            (p * tokens as f64) as u32
        })
        .collect();
    let fold = |fold: u32| active.iter().map(|&active| active / 4 + u32::from(active % 4 > fold)).collect();
    let fold_active = if neurons < 10_000 { (0..4).map(fold).collect() } else { Vec::new() };
    let fold_routed = if routed.is_empty() { Vec::new() } else { vec![routed; 4] };
    let code = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"];
    let language: LanguageCode =
        format!("{}{}x_Latn", code[language / 13], code[language % 13]).parse().expect("a code");
    LanguageCounts { language, fold_tokens, active, fold_active, fold_routed }
}

fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// A clock of wall and processor time: on a machine that is shared only the second says what the work costs.
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), processor())
    }

    fn stop(&self) -> String {
        format!("{:.3} s ({:.2} s of processor)", self.0.elapsed().as_secs_f64(), processor() - self.1)
    }
}

/// Seconds of processor time of all threads, from the kernel's ticks of 10 ms.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The most memory that this process has held, in MB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) * 1024 / 1_000_000
}
