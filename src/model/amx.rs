//! Products of bf16 tiles with Intel's Advanced Matrix Extensions, in assembly: the language has no intrinsics for them yet.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2, TDPBF16PS.

use std::{
    arch::{
        asm,
        x86_64::{__cpuid, __cpuid_count, _xgetbv},
    },
    mem::MaybeUninit,
    sync::OnceLock,
};

use super::{panels::PANEL, simd::Line};

/// Tiles of a panel side by side.
const TILES: usize = PANEL / 16;
/// Pairs of bf16 that a row of a tile holds.
const STEP: usize = 16;
/// Lines that are asked for at every step: a panel, while 256 tokens are multiplied with another.
const ASKED: usize = 4;

/// Shape of the eight tiles: 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static SQUARE: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether processor and kernel let this process use tiles of bf16.
pub fn is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| processor_has_tiles() && permitted())
}

#[allow(unsafe_code)]
fn processor_has_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    // XTILECFG and XTILEDATA: the operating system saves the tiles when it changes threads.
    const SAVED: u64 = 0b11 << 17;
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the register is there where OSXSAVE is set.
        unsafe { _xgetbv(0) }
    }
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has cpuid; a leaf is asked for only where there is one.
    unsafe {
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        let wanted = AMX_BF16 | AMX_TILE;
        __cpuid_count(7, 0).edx & wanted == wanted && is_x86_feature_detected!("xsave") && saved() & SAVED == SAVED
    }
}

/// Linux gives the tiles' state only to processes that ask for it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call takes two numbers and no memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The product of tiles of tokens `[tokens / 16, pairs / 16, 16, 16]` with a panel `[pairs / 16, 4, 16, 16]`, into rows that are `stride`
/// apart; writes 64 values of each. A panel that lies behind this one is asked for meanwhile.
#[allow(unsafe_code)]
pub fn times(x: &[Line], pairs: usize, panel: &[Line], product: &mut [MaybeUninit<f32>], stride: usize) {
    assert!(is_there(), "asked for only where there are tiles");
    assert!(pairs > 0 && pairs.is_multiple_of(STEP) && x.len().is_multiple_of(pairs));
    let (blocks, steps, size) = (x.len() / pairs, pairs / STEP, pairs * TILES);
    assert!(panel.len() >= size && product.len() + stride >= blocks * 16 * stride + PANEL);
    let mut next = panel[size..].chunks_exact(ASKED * steps).take(size / (ASKED * steps));
    // SAFETY: the tiles are configured before they are used and released after; a tile reads 16 lines, which the assertions keep inside
    // the slices.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const SQUARE, options(nostack, readonly));
        for block in (0..blocks).step_by(2) {
            for tile in (0..TILES).step_by(2) {
                let from = x.as_ptr().add(block * pairs);
                let panel = panel.as_ptr().add(tile * 16);
                let to = product.as_mut_ptr().cast::<f32>().add(block * 16 * stride + tile * 16);
                if block + 1 < blocks {
                    // What is here already is asked for again where there is nothing else.
                    let ask = next.next().map_or((panel, 0), |lines| (lines.as_ptr(), ASKED));
                    four((from, from.add(pairs)), steps, panel, ask, (to, stride));
                } else {
                    beside(from, steps, panel, (to, stride));
                }
            }
        }
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// 32 tokens × 32 columns: two tiles of tokens by two of the panel. On the way it asks for lines that will be read next, and for the
/// places of the sums, which would else come from memory while the tiles wait.
#[allow(unsafe_code)]
#[inline]
unsafe fn four(
    (x, lower): (*const Line, *const Line),
    steps: usize,
    panel: *const Line,
    (next, lines): (*const Line, usize),
    (product, stride): (*mut f32, usize),
) {
    // SAFETY: the caller's; asking for memory reads none, whatever the address.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{x} + {line}]",
            "tileloadd tmm6, [{panel} + {line}]",
            "tileloadd tmm7, [{panel} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{next}]",
            "prefetcht1 [{next} + 64]",
            "prefetcht1 [{next} + 128]",
            "prefetcht1 [{next} + 192]",
            "prefetchw [{place}]",
            "prefetchw [{place} + 64]",
            "prefetchw [{place} + {stride}]",
            "prefetchw [{place} + {stride} + 64]",
            "add {x}, 1024",
            "add {lower}, 1024",
            "add {panel}, 4096",
            "add {next}, {lines}",
            "lea {place}, [{place} + 2 * {stride}]",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{product} + {stride}], tmm0",
            "tilestored [{product} + {stride} + 64], tmm1",
            "tilestored [{below} + {stride}], tmm2",
            "tilestored [{below} + {stride} + 64], tmm3",
            x = inout(reg) x => _,
            lower = inout(reg) lower => _,
            panel = inout(reg) panel => _,
            line = in(reg) size_of::<Line>(),
            next = inout(reg) next => _,
            lines = in(reg) lines * size_of::<Line>(),
            steps = inout(reg) steps => _,
            product = in(reg) product,
            place = inout(reg) product => _,
            below = in(reg) product.add(16 * stride),
            stride = in(reg) 4 * stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// 16 tokens × 32 columns.
#[allow(unsafe_code)]
#[inline]
unsafe fn beside(x: *const Line, steps: usize, panel: *const Line, (product, stride): (*mut f32, usize)) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{x} + {line}]",
            "tileloadd tmm6, [{panel} + {line}]",
            "tileloadd tmm7, [{panel} + {line} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {x}, 1024",
            "add {panel}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{product} + {stride}], tmm0",
            "tilestored [{product} + {stride} + 64], tmm1",
            x = inout(reg) x => _,
            panel = inout(reg) panel => _,
            line = in(reg) size_of::<Line>(),
            steps = inout(reg) steps => _,
            product = in(reg) product,
            stride = in(reg) 4 * stride,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
