//! Both profiles' SELinux modules through the real compiler, on each base policy of `cargo xtask selinux-base`, and read
//! back. Takes some seconds for each base.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use ferrovirt_model::Profile;
use ferrovirt_plan::{
    lift, render,
    selinux::{base::Base, module},
};
use ferrovirt_privilege::{DOMAIN_BLOCK, Domain, Right, Surface, cluster_grants};
use ferrovirt_selinux::{
    Database, cil,
    clone::{self, Extra, Held},
    diff::{Access, Side, Sign, between_types},
    policy::RuleKind,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The bases: a name, and whether an overlay makes it.
const BASES: [(&str, bool); 3] = [("base", false), ("early2020", true), ("modern", true)];

/// The types with every feature.
const WITH_KVM: &str = "virt_machine.kvm_multiqueue_hugepages_block";
const EMULATED: &str = "virt_machine.emulated_multiqueue_hugepages_block";

fn selinux() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("selinux");
    assert!(dir.join("stamp").exists(), "make the base policies first: cargo xtask selinux-base");
    dir
}

fn open(path: &Path) -> Database {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Database::open(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The base policy with both modules, and what the base has of the documented rules.
fn compiled(name: &str, overlay: bool) -> (Database, Base, Vec<clone::Remainder>) {
    let dir = selinux();
    let base = open(&dir.join(name).with_extension("33"));
    let names = Base::of(&base).unwrap();
    names.check(&base).unwrap();
    let documented = clone::module(&base, "container_t", "virt_launcher", "process", &documented()).unwrap();
    let texts = [cil::text(&documented.statements), cil::text(&render::cil::minimal(&names))];
    (compile(name, overlay, &texts), names, documented.remainder)
}

/// The policy of a base and further modules.
fn compile(name: &str, overlay: bool, texts: &[String]) -> Database {
    let dir = selinux();
    let work = tempfile::tempdir().unwrap();
    let mut modules: Vec<PathBuf> =
        fs::read_dir(dir.join("cil")).unwrap().map(|entry| entry.unwrap().path()).collect();
    modules.sort();
    if overlay {
        modules.push(dir.join("overlays").join(name).with_extension("cil"));
    }
    for (number, text) in texts.iter().enumerate() {
        let path = work.path().join(format!("{number}.cil"));
        fs::write(&path, text).unwrap();
        modules.push(path);
    }
    let policy = work.path().join("policy");
    let made = Command::new("secilc")
        .args(["-M", "true", "-c", "33", "-f", "/dev/null", "-o"])
        .arg(&policy)
        .args(&modules)
        .output()
        .expect("secilc cannot be run: apt-get install secilc");
    assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
    open(&policy)
}

/// The documented rules, as the clone takes them.
fn documented() -> Vec<Extra> {
    let mut rules: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for right in cluster_grants(Profile::Documented).on(Surface::Selinux) {
        let Right::Selinux { target, class, permission, .. } = right else { panic!("{right}") };
        rules.entry((target, class)).or_default().push(permission);
    }
    let extra = |((target, class), permissions)| Extra { target, class, permissions, comments: vec![] };
    rules.into_iter().map(extra).collect()
}

fn lines(accesses: &[&Access]) -> BTreeSet<(String, String, String)> {
    let one = |access: &&Access| {
        assert_eq!(access.condition, None, "{access:?}");
        let (other, class) = (access.other.clone(), access.class.clone());
        access.what.iter().map(move |what| (other.clone(), class.clone(), what.clone())).collect::<Vec<_>>()
    };
    accesses.iter().flat_map(one).collect()
}

fn check(name: &str, overlay: bool, sizes: &mut String, beyond: &mut String) {
    let (policy, names, remainder) = compiled(name, overlay);

    // Proof 2, both ways: what was rendered, compiled and read back is what was granted.
    let asked: BTreeSet<_> = Domain::all().iter().flat_map(|domain| names.rights(domain)).collect();
    let lifted = lift::policy::lift(&policy, DOMAIN_BLOCK).unwrap();
    let [more, less] = lifted.differences(&asked);
    assert!(more.is_empty() && less.is_empty(), "{name}: more {more:#?}, less {less:#?}");

    // The documented type is container_t and the rules that the base lacks, nothing more and nothing less.
    let container = policy.find_type("container_t").unwrap();
    let launcher = policy.find_type("virt_launcher.process").unwrap();
    let found = between_types(&policy, container, launcher);
    assert!(found.rest.is_empty(), "{name}: {}", found.rest);
    assert!(found.accesses.iter().all(|one| one.sign == Sign::Added), "{name}: {found:#?}");
    let lacking: BTreeSet<_> = remainder
        .iter()
        .filter(|one| one.held != Held::Always)
        .map(|one| (one.target.clone(), one.class.clone(), one.permission.clone()))
        .collect();
    assert_eq!(lines(&found.accesses.iter().collect::<Vec<_>>()), lacking, "{name}");

    // Each type of the minimal profile may less than container_t, and nothing that container_t may not, but for what is
    // in the table and listed under review. The two types with everything stand for all, whose rights are among theirs.
    let container_has = count(&policy, container);
    for domain in Domain::all() {
        let has = count(&policy, policy.find_type(domain.name()).unwrap());
        assert!(has < container_has / 4, "{name}: {domain} has {has} of {container_has}");
        let _ = writeln!(sizes, "{name:<10} {:<42} {has:>5} of {container_has}", domain.name());
    }
    for whole in [WITH_KVM, EMULATED] {
        let of = |one: &str, right: &Right<String>| right.map(&|text| text.replace(one, "{domain}"));
        let widest: BTreeSet<_> = asked.iter().map(|right| of(whole, right)).collect();
        let kind = if whole == WITH_KVM { "virt_machine.kvm" } else { "virt_machine.emulated" };
        for domain in Domain::all().iter().filter(|domain| domain.name().starts_with(kind)) {
            let rights: BTreeSet<_> =
                names.rights(domain).iter().map(|right| of(domain.name(), right)).collect();
            assert!(rights.is_subset(&widest), "{domain}");
        }
        let found = between_types(&policy, container, policy.find_type(whole).unwrap());
        let allowed = |side, sign| -> Vec<&Access> {
            let wanted = |one: &&Access| one.kind == RuleKind::Allow && one.side == side && one.sign == sign;
            found.accesses.iter().filter(wanted).collect()
        };
        for (target, class, permission) in lines(&allowed(Side::Source, Sign::Added)) {
            let right = Right::Selinux { source: whole.to_owned(), target, class, permission };
            assert!(asked.contains(&right), "{name}: {right} comes from an attribute");
            let _ = writeln!(beyond, "{name:<10} {right}");
        }
        // Others may no more on it than on container_t, but for what is in the table.
        let mut on_it = lines(&allowed(Side::Target, Sign::Added));
        on_it.retain(|(source, class, permission)| {
            let (source, class, permission) = (source.clone(), class.clone(), permission.clone());
            let right = Right::Selinux { source, target: whole.to_owned(), class, permission };
            let granted = asked.contains(&right);
            if granted {
                let _ = writeln!(beyond, "{name:<10} {right}");
            }
            !granted
        });
        assert!(on_it.is_empty(), "{name}: {whole}: {on_it:?}");
        assert!(!allowed(Side::Source, Sign::Removed).is_empty());
    }
}

/// Permissions of a type on types and classes, attributes expanded, conditions in force.
fn count(policy: &Database, source: u32) -> u32 {
    let mut vectors: BTreeMap<(u32, u16), u32> = BTreeMap::new();
    for value in policy.attributes_of(source).chain([source]) {
        for number in policy.rules_from(value) {
            let Some(rule) = policy.rule(*number).filter(|rule| rule.kind == RuleKind::Allow) else {
                continue;
            };
            if policy.in_force(*number) {
                for bit in policy.members(rule.target.into()).iter() {
                    *vectors.entry((bit + 1, rule.class)).or_default() |= rule.data;
                }
            }
        }
    }
    vectors.values().map(|vector| vector.count_ones()).sum()
}

#[test]
fn what_is_compiled_is_what_was_granted_and_less_than_container_t() {
    let (mut sizes, mut beyond) = (
        String::from(
            "Permissions of each type on types and classes, attributes expanded, beside those of container_t on the same \
             base policy\n\n",
        ),
        String::from(
            "What a type of the minimal profile may and container_t may not, on each base policy\n\n",
        ),
    );
    for (name, overlay) in BASES {
        check(name, overlay, &mut sizes, &mut beyond);
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/selinux");
    for (file, text) in [("sizes.txt", sizes), ("beyond.txt", beyond)] {
        let path = golden.join(file);
        if std::env::var_os("FERROVIRT_BLESS").is_some() {
            fs::create_dir_all(&golden).unwrap();
            fs::write(&path, text).unwrap();
        } else {
            let kept = fs::read_to_string(&path).unwrap_or_default();
            assert!(kept == text, "review the change of {file} with FERROVIRT_BLESS=1 and git diff");
        }
    }
}

/// The Security Profiles Operator puts a block of the object's name around the text of a raw profile: the types that come
/// of it have the rules of our modules, under names with a hyphen.
#[test]
fn a_raw_profile_makes_the_same_types_under_the_operators_names() {
    let base = open(&selinux().join("base.33"));
    let made = [Profile::Documented, Profile::Minimal].map(|profile| module::module(&base, profile).unwrap());
    let blocks = made.each_ref().map(|module| {
        let object = module::raw_selinux_profile(module);
        let (head, text) = object.split_once("  policy: |\n").unwrap();
        let name = head.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap();
        let text: String =
            text.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
        format!("(block {name}\n{text})\n")
    });
    let policy = compile("base", false, &blocks);

    let renamed = |text: &String| text.replace("virt_machine.", "virt-machine.");
    let names = Base::of(&base).unwrap();
    let domains = Domain::all();
    let rights = domains.iter().flat_map(|domain| names.rights(domain));
    let asked: BTreeSet<_> = rights.map(|right| right.map(&renamed)).collect();
    let [more, less] = lift::policy::lift(&policy, "virt-machine").unwrap().differences(&asked);
    assert!(more.is_empty() && less.is_empty(), "more {more:#?}, less {less:#?}");

    let kind = |name| policy.find_type(name).unwrap();
    let found = between_types(&policy, kind("container_t"), kind("virt-launcher.process"));
    assert!(found.rest.is_empty() && found.accesses.iter().all(|one| one.sign == Sign::Added), "{found:#?}");
    let lacking = made[0].remainder.iter().filter(|one| one.held != Held::Always);
    let lacking =
        lacking.map(|one| (one.target.clone(), one.class.clone(), one.permission.clone())).collect();
    assert_eq!(lines(&found.accesses.iter().collect::<Vec<_>>()), lacking);
}

#[test]
fn a_name_that_the_base_lacks_is_an_error_that_names_it() {
    let base = open(&selinux().join("base.33"));
    let error = Base::container_selinux().check(&base).unwrap_err().to_string();
    assert!(error.contains("\"container_runtime_t\" is not the domain of a process"), "{error}");
    let error =
        Base { agent: "spc_tt".to_owned(), ..Base::refpolicy() }.check(&base).unwrap_err().to_string();
    assert!(error.contains("spc_tt") && error.contains("did you mean spc_t"), "{error}");
}
