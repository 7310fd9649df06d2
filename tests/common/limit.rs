//! How long tests wait for a GPU.

/// A kernel that hangs fails its test within a minute, unless `AUTOASSIST_STEP_LIMIT` says otherwise.
/// To be called before there are other threads.
pub fn steps() {
    const LIMIT: &str = "AUTOASSIST_STEP_LIMIT";
    if std::env::var_os(LIMIT).is_none() {
        // SAFETY: no other thread reads the environment meanwhile.
        unsafe { std::env::set_var(LIMIT, "60") };
    }
}
