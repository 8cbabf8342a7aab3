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

/// Columns of a panel.
const PANEL: usize = 64;
/// Pairs of bf16 that a row of a tile holds.
const STEP: usize = 16;

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

/// The product of rows `[a multiple of 16, pairs]` with a panel `[pairs, 64]`, into rows that are `stride` apart; `pairs` is a multiple of 16.
#[allow(unsafe_code)]
pub fn times(x: &[u32], pairs: usize, panel: &[u32], product: &mut [MaybeUninit<f32>], stride: usize) {
    let tokens = x.len() / pairs;
    assert!(is_there(), "asked for only where there are tiles");
    assert!(pairs > 0 && pairs.is_multiple_of(STEP) && tokens.is_multiple_of(16) && x.len() == tokens * pairs);
    assert!(panel.len() >= pairs * PANEL && product.len() + stride >= tokens * stride + PANEL);
    // SAFETY: the tiles are configured before they are used and released after; a tile reads 16 rows of 64 bytes, which the
    // assertions keep inside the slices.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const SQUARE, options(nostack, readonly));
        let mut token = 0;
        while token < tokens {
            let two = token + 32 <= tokens;
            for column in (0..PANEL).step_by(32) {
                let from = x.as_ptr().add(token * pairs);
                let to = product.as_mut_ptr().cast::<f32>().add(token * stride + column);
                let panel = panel.as_ptr().add(column);
                if two { four(from, pairs, panel, to, stride) } else { beside(from, pairs, panel, to, stride) }
            }
            token += if two { 32 } else { 16 };
        }
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// 32 tokens × 32 columns: two tiles of tokens by two of the panel.
#[allow(unsafe_code)]
#[inline]
unsafe fn four(x: *const u32, pairs: usize, panel: *const u32, product: *mut f32, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{x} + {x_stride}]",
            "tileloadd tmm6, [{panel} + {stride}]",
            "tileloadd tmm7, [{panel} + {stride} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {x_stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x}, 64",
            "add {lower}, 64",
            "add {panel}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{product} + {to_stride}], tmm0",
            "tilestored [{product} + {to_stride} + 64], tmm1",
            "tilestored [{below} + {to_stride}], tmm2",
            "tilestored [{below} + {to_stride} + 64], tmm3",
            x = inout(reg) x => _,
            lower = inout(reg) x.add(16 * pairs) => _,
            x_stride = in(reg) 4 * pairs,
            panel = inout(reg) panel => _,
            stride = in(reg) 4 * PANEL,
            steps = inout(reg) pairs / STEP => _,
            product = in(reg) product,
            to_stride = in(reg) 4 * stride,
            below = in(reg) product.add(16 * stride),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// 16 tokens × 32 columns.
#[allow(unsafe_code)]
#[inline]
unsafe fn beside(x: *const u32, pairs: usize, panel: *const u32, product: *mut f32, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{x} + {x_stride}]",
            "tileloadd tmm6, [{panel} + {stride}]",
            "tileloadd tmm7, [{panel} + {stride} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {x}, 64",
            "add {panel}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{product} + {to_stride}], tmm0",
            "tilestored [{product} + {to_stride} + 64], tmm1",
            x = inout(reg) x => _,
            x_stride = in(reg) 4 * pairs,
            panel = inout(reg) panel => _,
            stride = in(reg) 4 * PANEL,
            steps = inout(reg) pairs / STEP => _,
            product = in(reg) product,
            to_stride = in(reg) 4 * stride,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
