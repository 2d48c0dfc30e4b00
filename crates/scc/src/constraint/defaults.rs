//! The SCCs that a cluster starts with.

use crate::constraint::types::SecurityContextConstraints;

/// The thirteen default objects as JSON list, as stored (after the defaulting of objects).
pub const JSON: &str = include_str!("defaults.json");

/// The thirteen default objects.
pub fn all() -> Vec<SecurityContextConstraints> {
    // The text is part of the program and a test reads it.
    serde_json::from_str(JSON).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Constraints, points, validate_object};

    #[test]
    fn defaults_are_whole_valid_and_in_the_known_order() {
        let all = all();
        assert_eq!(all.len(), 13);
        for scc in &all {
            assert_eq!(validate_object(scc), [], "{}", scc.name());
            let mut again = scc.clone();
            crate::default_object(&mut again);
            assert_eq!(&again, scc);
        }
        let order: Vec<(String, u32)> =
            Constraints::compile(all).iter().map(|s| (s.name().to_owned(), points(s))).collect();
        let want = [
            ("anyuid", 154_950),
            ("restricted-v2", 132_010),
            ("restricted-v3", 132_010),
            ("restricted", 134_800),
            ("nested-container", 135_020),
            ("nonroot-v2", 142_010),
            ("nonroot", 144_800),
            ("hostmount-anyuid", 254_950),
            ("hostmount-anyuid-v2", 284_950),
            ("hostnetwork-v2", 1_332_010),
            ("hostnetwork", 1_334_800),
            ("hostaccess", 1_434_800),
            ("privileged", 3_089_000),
        ];
        assert_eq!(order, want.map(|(n, p)| (n.to_owned(), p)));
    }
}
