//! What the allocator does with memory that is freed.

/// Gives back what has been freed, and keeps what will be: a pass or a step wants tensors of the sizes of the one before. Given back to
/// the system after a second and fetched again page by page, they cost SmolLM2-135M on two cores an eighth of the speed of training
/// and a sixtieth of that of a profile.
#[allow(unsafe_code)]
pub fn keep_freed() {
    // `mi_option_purge_delay` of mimalloc.h, in milliseconds, or -1 for never; the crate does not name it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: what is collected is free, and options are atomic numbers, read whenever something is freed.
    unsafe {
        libmimalloc_sys::mi_collect(true);
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
}
