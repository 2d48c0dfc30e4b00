//! The reader against policies of every version and against damage.

mod common;

use common::{TINY, data};
use ferrovirt_selinux::{Database, Policy, PolicyError, ReadError};
use proptest::prelude::*;

#[test]
fn every_policy_is_written_back_byte_for_byte() {
    for name in TINY.iter().chain(&["plain.33", "refpolicy-base.33.gz", "refpolicy-virt_launcher.33.gz"]) {
        let bytes = data(name);
        let policy = Policy::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        policy.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(policy.serialize() == bytes, "{name} differs");
    }
}

/// A source that gives few bytes at a time reads as the whole does; one that has less than it promised is an error.
#[test]
fn a_policy_is_read_piece_by_piece() {
    struct Drops<'a>(&'a [u8]);
    impl std::io::Read for Drops<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let few = out.len().min(1013);
            self.0.read(&mut out[..few])
        }
    }
    let bytes = data("refpolicy-base.33.gz");
    let policy = Policy::read(&mut Drops(&bytes), bytes.len()).unwrap();
    assert!(policy == Policy::parse(&bytes).unwrap());
    let short = Policy::read(&mut Drops(&bytes[..1 << 20]), bytes.len()).unwrap_err();
    assert!(matches!(short, ReadError::Source { .. }), "{short}");
    // What follows belongs to somebody else.
    let mut source: &[u8] = &bytes;
    let short = Policy::read(&mut source, bytes.len() - 1).unwrap_err();
    assert!(matches!(short, ReadError::Ended { .. } | ReadError::Count { .. }), "{short}");
}

#[test]
fn sizes_are_those_that_other_tools_count() {
    let counts: serde_json::Value = serde_json::from_slice(&data("refpolicy.counts.json")).unwrap();
    for (name, key) in [("refpolicy-base.33.gz", "base"), ("refpolicy-virt_launcher.33.gz", "v1")] {
        let bytes = data(name);
        let database = Database::open(&bytes).unwrap();
        let policy = database.policy();
        let conditional = policy.rules.len() - policy.unconditional;
        let named: usize = policy
            .named_transitions
            .iter()
            .flat_map(|one| &one.results)
            .map(|(sources, _)| sources.len())
            .sum();
        for (what, found) in [
            ("size", bytes.len()),
            ("types", database.types().count()),
            ("attributes", database.attributes().count()),
            ("avtab_entries", policy.unconditional),
            ("cond_nodes", policy.conditionals.len()),
            ("cond_rules", conditional),
            ("booleans", policy.booleans.entries.len()),
            ("permissive", policy.permissive.len()),
            ("filename_transitions", named),
        ] {
            assert_eq!(counts[key][what], found, "{name}: {what}");
        }
    }
}

#[test]
fn each_truncation_is_an_error_with_its_place() {
    for name in TINY {
        let bytes = data(name);
        for length in 0..bytes.len() {
            let error = Policy::parse(&bytes[..length]).expect_err("a part is no policy");
            match error {
                ReadError::Ended { offset, .. } | ReadError::Count { offset, .. } => {
                    assert!(offset <= length)
                }
                other => panic!("{name} cut at {length}: {other}"),
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Policy::parse(&longer), Err(ReadError::Trailing { offset: bytes.len(), left: 1 }));
    }
}

#[test]
fn each_word_as_a_huge_number_is_refused_or_survived() {
    for name in ["tiny.35"] {
        let bytes = data(name);
        for place in 0..bytes.len() - 3 {
            for number in [u32::MAX, 0x0100_0000, 0] {
                let mut damaged = bytes.clone();
                damaged[place..place + 4].copy_from_slice(&number.to_le_bytes());
                if let Ok(policy) = Policy::parse(&damaged) {
                    assert!(policy.serialize() == damaged, "{name}: byte {place} as {number} is lost");
                    let _ = policy.validate();
                }
            }
        }
    }
}

#[test]
fn foreign_files_get_a_hint() {
    for (bytes, word) in [
        (&b"(block virt_launcher)"[..], "secilc"),
        (&[0x1f, 0x8b, 8, 0][..], "gzip"),
        (&[0x8f, 0xff, 0x7c, 0xf9, 1][..], "package"),
        (&b"ELF!"[..], "/sys/fs/selinux/policy"),
    ] {
        let error = Policy::parse(bytes).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let mut other = data("tiny.33");
    other[16] = 29;
    let error = Policy::parse(&other).unwrap_err();
    assert_eq!(
        error.to_string(),
        "byte 16: version of the format is 29, expected 30 to 35 (checkpolicy -b -M -c 33 converts others)"
    );
}

#[test]
fn a_reference_to_nothing_is_invalid() {
    let mut policy = Policy::parse(&data("tiny.33")).unwrap();
    policy.rules[3].target = 4711;
    let error = Database::new(policy).unwrap_err();
    assert!(error.to_string().contains("access rule 3: type 4711 does not exist"), "{error}");
}

/// A policy without levels writes zeros for them, and an attribute of roles leaves a value without a role.
#[test]
fn a_policy_without_levels_whose_roles_have_an_attribute() {
    let database = Database::open(&data("plain.33")).unwrap();
    assert!(!database.policy().mls());
    assert_eq!(database.policy().roles.highest as usize, database.policy().roles.entries.len() + 1);
    assert_eq!(database.role_name(3), "", "the attribute's value is nobody's");
    let context = |text: &str| database.find_context(text).unwrap();
    let (user, data) = (context("staff_u:staff_r:user_t"), context("system_u:object_r:data_t"));
    assert!(database.is_valid(&user) && database.is_valid(&data));
    assert!(!database.is_valid(&context("staff_u:system_r:kernel_t")));
    let process = database.find_class("process").unwrap();
    let label = database.new_label(&user, &data, process, None).unwrap();
    assert_eq!(database.context_text(&label), "staff_u:system_r:kernel_t");
    assert!(database.find_context("staff_u:staff_r:user_t:s0").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damage_never_panics_and_what_is_read_is_written_back(
        version in 0_usize..6,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = data(TINY[version]);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        match Database::open(&bytes) {
            Ok(database) => prop_assert!(database.policy().serialize() == bytes),
            Err(PolicyError::Invalid(error)) => {
                prop_assert!(!error.to_string().is_empty());
                prop_assert!(Policy::parse(&bytes).unwrap().serialize() == bytes);
            }
            Err(PolicyError::Read(error)) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(Policy::parse(&bytes).is_err());
    }
}
