//! CIL: what is read is written so that it is read alike.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::text;
use ferrovirt_selinux::cil;

#[test]
fn modules_are_read_alike_after_they_were_written() {
    let names =
        ["container_early2020_like.cil", "container_modern_like.cil", "virt_launcher.clone-example.cil"];
    for name in names {
        let statements = cil::parse(&text(name)).unwrap();
        assert!(statements.len() > 1 || name.starts_with("virt"), "{name}");
        assert_eq!(cil::parse(&cil::text(&statements)).unwrap(), statements, "{name}");
    }
}

/// Found by fuzzing: the carriage return was kept when it was read, and became a space when it was written.
#[test]
fn a_carriage_return_in_a_comment() {
    let statements = cil::parse("; one\rtwo\r\n(type a)").unwrap();
    assert_eq!(cil::text(&statements), "; one two\n(type a)\n");
    assert_eq!(cil::parse(&cil::text(&statements)).unwrap(), statements);
}
