//! The launchers' modules in a real module store, made of Debian's policy in a directory of its own: installed, found,
//! stale, made again, removed. Compiles a policy five times, which takes a minute.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The store's directory and the program on it.
struct Node {
    root: tempfile::TempDir,
}

impl Node {
    /// A store with Debian's modules and the container module.
    fn new() -> Self {
        let cil = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/selinux/cil");
        let files = fs::read_dir(&cil)
            .unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask selinux-base`", cil.display()));
        let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let node = Self { root: tempfile::tempdir().unwrap() };
        let etc = node.root.path().join("etc/selinux");
        fs::create_dir_all(etc.join("default")).unwrap();
        fs::create_dir_all(node.root.path().join("var/lib/selinux")).unwrap();
        fs::write(etc.join("semanage.conf"), "module-store = direct\nexpand-check=0\n").unwrap();
        fs::write(etc.join("config"), "SELINUX=enforcing\nSELINUXTYPE=default\n").unwrap();
        node.semodule("100", &files);
        node
    }

    fn semodule(&self, priority: &str, modules: &[PathBuf]) {
        let mut command = Command::new("semodule");
        command.arg("-p").arg(self.root.path()).args(["-n", "-N", "-s", "default", "-X", priority]);
        for module in modules {
            command.arg("-i").arg(module);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn ferrovirt(&self, command: &str, more: &[&str]) -> (i32, String) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ferrovirt"));
        program.args(["selinux", command, "--root"]).arg(self.root.path()).args(more);
        answer(&program.output().unwrap())
    }

    fn policy(&self) -> PathBuf {
        let directory = self.root.path().join("etc/selinux/default/policy");
        fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
    }
}

fn answer(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn modules_come_go_and_are_known_to_be_stale() {
    let node = Node::new();
    let (code, text) = node.ferrovirt("status", &[]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("virt_launcher is not installed") && text.contains("virt_machine is not installed")
    );

    let (code, text) = node.ferrovirt("install", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("virt_launcher is installed;") && text.contains("virt_machine is installed;"),
        "{text}"
    );
    assert_eq!(node.ferrovirt("status", &[]).0, 0);
    // What the compiled policy has, asked in another way.
    let types = Command::new(env!("CARGO_BIN_EXE_ferrovirt"))
        .args(["selinux", "diff"])
        .arg(node.policy())
        .args(["--from", "container_t", "--to", "virt_launcher.process"])
        .output()
        .unwrap();
    let difference = String::from_utf8_lossy(&types.stdout).into_owned();
    assert_eq!(difference.lines().count(), 5, "{difference}");

    let before = fs::metadata(node.policy()).unwrap().modified().unwrap();
    let (code, text) = node.ferrovirt("install", &["-o", "json"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("nothing to do").count(), 2, "{text}");
    assert_eq!(fs::metadata(node.policy()).unwrap().modified().unwrap(), before);

    let change = node.root.path().join("change.cil");
    fs::write(&change, "(allow container_t hugetlbfs_t (dir (read)))\n").unwrap();
    node.semodule("300", &[change]);
    let (code, text) = node.ferrovirt("status", &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("virt_launcher is stale") && text.contains("hugetlbfs_t"), "{text}");
    // The minimal types do not follow container_t.
    assert!(text.contains("virt_machine is current"), "{text}");

    let (code, text) = node.ferrovirt("install", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("virt_launcher was stale") && text.contains("virt_machine is installed and current")
    );

    let (code, text) = node.ferrovirt("remove", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("virt_launcher is removed") && text.contains("virt_machine is removed"), "{text}");
    let (code, text) = node.ferrovirt("status", &[]);
    assert!(code == 1 && text.contains("virt_launcher is not installed"), "{text}");
    let (code, text) = node.ferrovirt("remove", &["--profile", "documented"]);
    assert!(code == 0 && text.contains("nothing to do"), "{text}");
}

#[test]
fn refusals_say_what_to_change() {
    let empty = Node { root: tempfile::tempdir().unwrap() };
    let (code, text) = empty.ferrovirt("install", &[]);
    assert!(code == 2 && text.contains("etc/selinux/config") && text.contains("--store"), "{text}");
    let (code, text) = empty.ferrovirt("install", &["--store", "targeted"]);
    assert!(
        code == 2 && text.contains("no module store targeted") && text.contains("selinux-policy"),
        "{text}"
    );
    // A policy without container_t: nothing is asked of semodule.
    let policy = empty.root.path().join("etc/selinux/small/policy");
    fs::create_dir_all(&policy).unwrap();
    fs::create_dir_all(empty.root.path().join("var/lib/selinux/small/active/modules")).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../selinux/tests/data/tiny.33");
    let mut bytes = fs::read(tiny).unwrap();
    let name = b"container_t";
    for at in 0..bytes.len() - name.len() {
        if bytes[at..].starts_with(name) {
            bytes[at + 8] = b'x';
        }
    }
    fs::write(policy.join("policy.33"), bytes).unwrap();
    let (code, text) = empty.ferrovirt("install", &["--store", "small", "--profile", "documented"]);
    assert!(
        code == 2 && text.contains("no type \"container_t\"") && text.contains("container-selinux"),
        "{text}"
    );
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        for command in ["install", "remove", "status"] {
            let output =
                Command::new(env!("CARGO_BIN_EXE_ferrovirt")).args(["selinux", command]).output().unwrap();
            let (code, text) = answer(&output);
            assert_eq!(code, if command == "status" { 1 } else { 2 });
            assert!(text.contains("SELinux is disabled on this node"), "{text}");
        }
    }
}
