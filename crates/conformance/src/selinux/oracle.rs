//! Answers of a running kernel.

use ferrovirt_selinux::{Database, policy::Context};

use super::{Beside, report::Report};

pub(super) fn check(name: &str, text: &str, policies: Beside<'_>, report: &mut Report) {
    let policy = name.strip_suffix(".tsv").unwrap_or(name);
    let Some(known) = policies.named(policy) else {
        report.note(format!("the policy {policy} is not here, so the kernel's answers are not compared"));
        return;
    };
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (kind, result) = match fields.as_slice() {
            ["access", source, target, class, rest @ ..] => {
                let asked = ask(&known.database, source, target, class);
                ("access decisions", asked.and_then(|asked| access(&known.database, &asked, rest)))
            }
            ["create", source, target, class, rest @ ..] => {
                let asked = ask(&known.database, source, target, class);
                ("new labels", asked.and_then(|asked| create(&known.database, &asked, rest)))
            }
            ["invalid", source, target, class] => (
                "refused contexts",
                match ask(&known.database, source, target, class) {
                    Ok(_) => Err("both contexts are valid to us".to_owned()),
                    Err(_) => Ok(()),
                },
            ),
            _ => ("other answers", Err("neither access, create nor invalid with its fields".to_owned())),
        };
        report.compare(kind, result.map_err(|problem| format!("{problem}: {line}")));
    }
}

struct Asked {
    source: Context,
    target: Context,
    class: u32,
}

fn ask(database: &Database, source: &str, target: &str, class: &str) -> Result<Asked, String> {
    let context = |text: &str| {
        let context = database.find_context(text).map_err(|error| error.to_string())?;
        match database.invalid(&context) {
            Some(problem) => Err(format!("{text} is not valid to us: {problem}")),
            None => Ok(context),
        }
    };
    let class = database.find_class(class).map_err(|error| error.to_string())?;
    Ok(Asked { source: context(source)?, target: context(target)?, class })
}

fn access(database: &Database, asked: &Asked, want: &[&str]) -> Result<(), String> {
    let [allowed, audit_allow, audit_deny, flags, rest @ ..] = want else {
        return Err("four fields of the answer are expected".to_owned());
    };
    let number = |text: &str| u32::from_str_radix(text, 16).map_err(|error| format!("{text}: {error}"));
    let decision = database.decide(&asked.source, &asked.target, asked.class);
    for (what, want, have) in [
        ("allowed", number(allowed)?, decision.allowed),
        ("auditallow", number(audit_allow)?, decision.audit_allow),
        ("auditdeny", number(audit_deny)?, decision.audit_deny),
        ("flags", number(flags)?, u32::from(decision.permissive)),
    ] {
        if want != have {
            return Err(format!("{what}: want {want:x}, have {have:x}"));
        }
    }
    let Some(want) = rest.first() else { return Ok(()) };
    let mut want: Vec<&str> = want.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    want.sort_unstable();
    let have = database.permission_names(asked.class, decision.allowed);
    if want == have { Ok(()) } else { Err(format!("names: want {want:?}, have {have:?}")) }
}

fn create(database: &Database, asked: &Asked, want: &[&str]) -> Result<(), String> {
    let (name, want) = match want {
        [want] => (None, want),
        [name, want] => (Some(*name), want),
        _ => return Err("a name at most and a context are expected".to_owned()),
    };
    let label = database
        .new_label(&asked.source, &asked.target, asked.class, name)
        .map_err(|error| error.to_string())?;
    let have = database.context_text(&label);
    if have == **want { Ok(()) } else { Err(format!("want {want}, have {have}")) }
}
