//! Which executors a test with a `main` of its own runs on.

/// All that there are.
const ALL: [&str; 4] = ["simt", "cuda", "standin", "cpu"];

/// Those that `AUTOASSIST_TEST_DEVICES` names, with commas between; all without it.
///
/// # Errors
/// A name that none has, in one line.
pub fn wanted() -> Result<Vec<&'static str>, String> {
    let Ok(wish) = std::env::var("AUTOASSIST_TEST_DEVICES") else {
        return Ok(ALL.into());
    };
    let known = |name: &str| ALL.into_iter().find(|known| *known == name.trim());
    let named: Option<_> = wish.split(',').map(known).collect();
    named.ok_or_else(|| {
        let all = ALL.join(", ");
        format!("AUTOASSIST_TEST_DEVICES={wish}: choose of {all}, with commas between")
    })
}
