//! Giving memory back that the allocator keeps for later.
#![allow(unsafe_code, reason = "the allocator has no safe face")]

/// Has the allocator return what is free to the operating system, where it does not by itself: glibc keeps what lies between
/// things in use, in an area for each few threads, and what comes and goes while graphs are built leaves much of that.
pub(crate) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
