//! What the allocator does with freed memory.

/// Asks the allocator to keep freed memory for the next allocation, for the whole process.
///
/// A training step allocates and frees the same hundred megabytes again and again. glibc returns
/// large blocks to the kernel at once and takes them back page by page: a third of the time of a
/// large product, measured on a virtual machine. Peak memory stays what it is. Call it once, before
/// training; it does nothing where the allocator is not glibc's.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const GIGABYTE: i32 = 1 << 30;
        // SAFETY: mallopt takes two numbers and may be called at any time; these three parameters
        // only move thresholds.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, GIGABYTE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}

/// Caps the address space of this process at so many bytes, and lets it leave no core file: an
/// allocation beyond that fails, and the process ends. For processes that do one dangerous thing.
///
/// # Errors
/// What the system says; on systems without such a cap, that it has none.
pub fn limit_address_space(bytes: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let limit = |what, bytes: u64| {
            let bytes = bytes as libc::rlim_t;
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            // SAFETY: setrlimit reads the struct during the call and keeps nothing of it.
            match unsafe { libc::setrlimit(what, &raw const limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        limit(libc::RLIMIT_CORE, 0)?;
        limit(libc::RLIMIT_AS, bytes)
    }
    #[cfg(not(unix))]
    {
        let _ = bytes;
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
