//! What somebody may have meant who mistyped a name.

/// The name that is nearest to what was typed, if one is near: no more than a third of its letters
/// wrong, missing or too many.
pub fn nearest<'n>(typed: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let distance = |name: &str| strsim::damerau_levenshtein(typed, name);
    let nearest = names.min_by_key(|name| distance(name))?;
    let most = typed.chars().count().max(3) / 3;
    (distance(nearest) <= most).then_some(nearest)
}

/// That as a remark, after what was wrong: ` (did you mean gemm?)`, or nothing.
pub fn hint<'n>(typed: &str, names: impl Iterator<Item = &'n str>) -> String {
    let nearest = nearest(typed, names);
    nearest.map_or(String::new(), |name| format!(" (did you mean {name}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_near_is_meant_and_one_that_is_far_is_not() {
        let of = |typed| nearest(typed, ["copy", "gemm", "attention", "conv"].into_iter());
        for (typed, meant) in [
            ("gem", Some("gemm")),
            ("gmem", Some("gemm")),
            ("atention", Some("attention")),
            ("cnov", Some("conv")),
            ("softmax", None),
            ("", None),
        ] {
            assert_eq!(of(typed), meant, "{typed}");
        }
        assert_eq!(nearest("x", [].into_iter()), None);
    }
}
