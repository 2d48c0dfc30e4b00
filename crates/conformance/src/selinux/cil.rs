//! CIL: what is read is written so that it is read alike.

use ferrovirt_selinux::cil;

use super::report::Report;

pub(super) fn check(text: &str, report: &mut Report) {
    let statements = match cil::parse(text) {
        Ok(statements) => statements,
        // Only the part of CIL that we write is read; a base's own sources have more.
        Err(error) => return report.note(format!("not compared: {error}")),
    };
    let written = cil::text(&statements);
    report.compare(
        "CIL modules",
        match cil::parse(&written) {
            Ok(again) if again == statements => Ok(()),
            Ok(_) => Err("it is read differently after it was written".to_owned()),
            Err(error) => Err(format!("what was written is not read: {error}")),
        },
    );
}
