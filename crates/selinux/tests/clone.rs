//! CIL, and the launcher's module on a real policy.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::{database, text};
use ferrovirt_selinux::{
    cil::{self, Statement},
    clone::{CloneError, Extra, Held, module},
    policy::RuleKind,
};
use proptest::prelude::*;

fn documented() -> Vec<Extra> {
    [
        ("self", "tun_socket", "relabelfrom relabelto attach_queue"),
        ("sysfs_t", "file", "write"),
        ("hugetlbfs_t", "dir", "add_name create write remove_name rmdir setattr"),
        ("hugetlbfs_t", "file", "create unlink"),
    ]
    .map(|(target, class, permissions)| Extra {
        target: target.to_owned(),
        class: class.to_owned(),
        permissions: permissions.split(' ').map(str::to_owned).collect(),
        comments: vec![format!("{class} of {target}")],
    })
    .into()
}

#[test]
fn the_modules_text_is_read_back_and_stable() {
    let database = database("refpolicy-base.33.gz");
    let made = module(&database, "container_t", "virt_launcher", "process", &documented()).unwrap();
    let text = cil::text(&made.statements);
    assert_eq!(cil::parse(&text).unwrap(), made.statements);
    assert_eq!(made, module(&database, "container_t", "virt_launcher", "process", &documented()).unwrap());
    assert!(made.remainder.iter().all(|one| one.held == Held::No), "{:?}", made.remainder);
    assert_eq!(made.remainder.len(), 12);
    assert!(text.contains("(typeattributeset mcs_constrained_type (process))"));
    assert!(!text.contains("_typeattr_"));
}

/// The module in the recorded policy was made on a policy without it; each of its lines follows from that policy.
#[test]
fn a_clone_of_the_launcher_equals_the_launchers_rules() {
    let database = database("refpolicy-virt_launcher.33.gz");
    let of = |name| {
        let made = module(&database, name, "b", "t", &[]).unwrap();
        let [Statement::Block { body, .. }] = &made.statements[..] else { panic!() };
        let mut lines: Vec<String> = cil::text(body).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (base, launcher) = (of("container_t"), of("virt_launcher.process"));
    let extra: Vec<_> = launcher.iter().filter(|line| !base.contains(line)).collect();
    // Three of the four rules stand alone or replace a line of container_t; everything else is the same.
    assert!(extra.len() <= 4, "{extra:#?}");
    let lost: Vec<_> = base.iter().filter(|line| !launcher.contains(line)).collect();
    assert!(lost.len() <= 4, "{lost:#?}");
}

#[test]
fn wrong_bases_are_refused_with_what_to_do() {
    let database = database("tiny.33");
    let error = module(&database, "container_tt", "a", "b", &[]).unwrap_err();
    assert!(error.to_string().contains("did you mean container_t"), "{error}");
    assert_eq!(module(&database, "domain", "a", "b", &[]), Err(CloneError::Attribute("domain".to_owned())));
    assert_eq!(
        module(&database, "child_t", "a", "b", &[]),
        Err(CloneError::Permissive("child_t".to_owned()))
    );
    assert!(CloneError::NoBase("container_t".to_owned()).to_string().contains("container-selinux"));
}

#[test]
fn every_kind_of_statement_is_copied() {
    let database = database("tiny.35");
    let mut text_of_all = String::new();
    for name in ["vm_t", "boss_t", "container_t", "exec_t"] {
        let made = module(&database, name, "copy", "process", &[]).unwrap();
        let text = cil::text(&made.statements);
        assert_eq!(cil::parse(&text).unwrap(), made.statements, "{text}");
        text_of_all.push_str(&text);
    }
    for line in [
        "(typetransition process container_file_t file \"disk.img\" data_t)",
        "(typechange process tun_dev_t chr_file container_file_t)",
        "(typemember process container_file_t dir data_t)",
        "(rangetransition process container_file_t file ((s0 (c3)) (s0 (c3))))",
        "(roletransition boss_r process process system_r)",
        "(allowx process tun_dev_t (ioctl chr_file (0x54ca 0x54d9)))",
        "(allowx process tun_dev_t (ioctl chr_file ((range 0x0000 0xffff))))",
        "(allowx process self (nlmsg netlink_route_socket ((range 0x0010 0x0012))))",
        "(booleanif (and vm_huge (not vm_debug))",
        "(booleanif (xor vm_debug vm_huge)",
        "(dontaudit process sysfs_t (file (write)))",
        "(allow boss_t process (process (signal transition)))",
    ] {
        assert!(text_of_all.contains(line), "{line}\n{text_of_all}");
    }
}

#[test]
fn a_module_of_another_writer_is_read() {
    let statements = cil::parse(&text("virt_launcher.clone-example.cil")).unwrap();
    let [Statement::Block { name, body }] = &statements[..] else { panic!() };
    assert_eq!(name, "virt_launcher");
    assert_eq!(body.iter().filter(|one| matches!(one, Statement::BooleanIf { .. })).count(), 5);
    assert_eq!(cil::parse(&cil::text(&statements)).unwrap(), statements);
}

#[test]
fn errors_have_a_place() {
    for (text, message) in [
        ("(block a\n  (type b)", "line 1, column 1: this parenthesis is not closed"),
        ("(type b))", "line 1, column 9: nothing is open that this closes"),
        ("\n(typo x)", "line 2, column 1: \"typo\" with 1 parts is no statement that is known here"),
        ("(allow a b (file))", "line 1, column 12: expected a class and permissions"),
        ("(typetransition a b file \"x", "line 1, column 26: this string does not end on its line"),
    ] {
        assert_eq!(cil::parse(text).unwrap_err().to_string(), message);
    }
    assert!(cil::parse(&"(".repeat(100_000)).is_err());
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.]{0,8}"
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        source in name(), target in name(), class in name(),
        permissions in proptest::collection::vec(name(), 1..5),
        file in "[ -!#-~]{0,12}", comment in "[ -~]{0,20}", numbers in proptest::collection::vec((0_u32..=0xffff, 0_u32..=0xffff), 1..4),
    ) {
        let access = Statement::Access { kind: RuleKind::DontAudit, source: source.clone(), target: target.clone(), class: class.clone(), permissions };
        let statements = vec![Statement::Block { name: source.clone(), body: vec![
            Statement::Comment(comment.trim().to_owned()),
            Statement::BooleanIf {
                condition: cil::Condition::Boolean(target.clone()),
                yes: vec![access.clone(), Statement::Comment("last".to_owned())],
                no: vec![access],
            },
            Statement::TypeRule { kind: RuleKind::TypeTransition, source: source.clone(), target: target.clone(), class: class.clone(), name: Some(file), result: target.clone() },
            Statement::Extended { kind: RuleKind::AllowXperm, source, target, sort: "ioctl".to_owned(), class, numbers },
        ] }];
        prop_assert_eq!(cil::parse(&cil::text(&statements)).unwrap(), statements);
    }

    #[test]
    fn no_text_panics(text in "[();\" a-z\n0x]{0,200}") {
        let _ = cil::parse(&text);
    }
}
