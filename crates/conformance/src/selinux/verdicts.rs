//! Results of real system calls under a policy, where they follow from the policy alone.
//!
//! The file says which domain each tag is. Only domains with all capabilities as root are compared: elsewhere the mode
//! of a file refuses first. Results other than success and EACCES come from the order of the calls, not from a policy.

use std::collections::BTreeMap;

use ferrovirt_selinux::{Database, LookupError, policy::Context};

use super::{Policies, report::Report};

/// Whose access is asked: the domain itself, or a type with the level that new objects get or with the host's.
#[derive(Clone, Copy)]
enum Target {
    Own,
    Host(&'static str),
    Files,
    Domain(&'static str),
    New(&'static str, &'static str),
}
use Target::{Domain, Files, Host, New, Own};

type Access = (Target, &'static str, &'static [&'static str]);

const SYSFS: Target = Host("sysfs_t");
const HUGE: Target = Host("hugetlbfs_t");
const HUGE_FILE: Target = New("hugetlbfs_t", "file");
const HUGE_DIR: Target = New("hugetlbfs_t", "dir");
const MEMORY: Target = New("tmpfs_t", "file");
const WRITE: Access = (SYSFS, "file", &["open", "write"]);
const TAP: Access = (Own, "tun_socket", &["relabelfrom", "relabelto"]);
const ENTER: Access = (HUGE, "dir", &["search", "write", "add_name"]);
const LEAVE: Access = (HUGE, "dir", &["search", "write", "remove_name"]);

/// What each call needs.
const CALLS: [(&str, &[Access]); 33] = [
    ("own_file_create", &[(Files, "dir", &["write", "add_name"]), (Files, "file", &["create", "open"])]),
    ("proc_cpuinfo_read", &[(Host("proc_t"), "file", &["open", "read"])]),
    ("proc_uptime_read", &[(Host("proc_t"), "file", &["open", "read"])]),
    ("proc_meminfo_read", &[(Host("proc_t"), "file", &["open", "read"])]),
    ("setcurrent(dyntransition)_to_spc_t", &[(Own, "process", &["setcurrent"])]),
    ("setexec_to_spc_t", &[(Own, "process", &["setexec"])]),
    ("setenforce0_attempt", &[(Host("security_t"), "security", &["setenforce"])]),
    ("tun_create_mq(1st queue, new dev)", &[(Own, "tun_socket", &["create"])]),
    ("tun_create_single_queue", &[(Own, "tun_socket", &["create"])]),
    ("tun_setiff_2nd_queue", &[TAP]),
    ("tun_setiff_3rd_queue", &[TAP]),
    ("tun_reopen_own_persistent", &[TAP]),
    ("tun_attach_1st", &[(Own, "tun_socket", &["attach_queue"])]),
    ("tun_attach_2nd", &[(Own, "tun_socket", &["attach_queue"])]),
    ("tun_open_tap_of_kernel_t", &[(Domain("kernel_t"), "tun_socket", &["relabelfrom"])]),
    ("tun_open_tap_of_spc_t", &[(Domain("spc_t"), "tun_socket", &["relabelfrom"])]),
    ("hp_mkdir", &[ENTER, (HUGE_DIR, "dir", &["create"])]),
    ("hp_chmod_root", &[(HUGE, "dir", &["setattr"])]),
    ("hp_chmod_dir", &[(HUGE_DIR, "dir", &["setattr"])]),
    ("hp_opendir", &[(HUGE, "dir", &["open", "read"])]),
    ("hp_create_open_rw", &[ENTER, (HUGE_FILE, "file", &["create", "open", "read", "write"])]),
    ("hp_unlink", &[LEAVE, (HUGE_FILE, "file", &["unlink"])]),
    ("hp_rmdir", &[LEAVE, (HUGE_DIR, "dir", &["rmdir"])]),
    ("hp_mmap_MAP_HUGETLB_anon", &[(HUGE_FILE, "file", &["map", "read"])]),
    ("hp_memfd_ftruncate", &[(HUGE_FILE, "file", &["write"])]),
    ("hp_memfd_fstat", &[(HUGE_FILE, "file", &["getattr"])]),
    ("memfd4k_ftruncate", &[(MEMORY, "file", &["write"])]),
    ("memfd4k_mmap_shared", &[(MEMORY, "file", &["map", "read", "write"])]),
    ("sys_open_ro", &[(SYSFS, "file", &["open", "read"])]),
    ("sys_open_wo(mm tunable)", &[WRITE]),
    ("sys_open_shell_gtgt(O_APPEND)", &[(SYSFS, "file", &["open", "append"])]),
    ("sys_chmod", &[(SYSFS, "file", &["setattr"])]),
    ("sriov_numvfs_open_wo", &[WRITE]),
];

pub(super) fn check(name: &str, text: &str, policies: &Policies, report: &mut Report) {
    let Some(known) = policies.0.iter().rev().find(|known| of_base(name, &known.database)) else {
        return report.note("no policy of this base is here, so these results are not compared");
    };
    let domains: BTreeMap<&str, &str> = text.lines().filter_map(domain).collect();
    // How the launcher's type was derived from the base.
    let cloned = name.contains(".clone");
    let mut left = 0;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("info\t")) {
        let mut fields = line.split('\t');
        let (Some(tag), Some(call), Some(result)) = (fields.next(), fields.next(), fields.next()) else {
            report.compare("system calls", Err(format!("three fields are expected: {line}")));
            continue;
        };
        let needs = CALLS.iter().find(|(name, _)| *name == call).map(|(_, needs)| *needs);
        // Another derivation is another policy: of that, only the base's own domain is the same.
        let context = domains.get(tag).filter(|context| cloned || context.contains(":container_t:"));
        let source = context.and_then(|context| known.database.find_context(context).ok());
        let (Some(needs), Some(source), "OK" | "EACCES") = (needs, source, result) else {
            left += 1;
            continue;
        };
        let may =
            needs.iter().try_fold(true, |may, need| Ok(may && allowed(&known.database, &source, need)?));
        report.compare(
            "system calls",
            match may {
                Ok(may) if may == (result == "OK") => Ok(()),
                Ok(true) => Err(format!("to us the policy allows it: {line}")),
                Ok(false) => Err(format!("to us the policy denies it: {line}")),
                Err(error) => Err(LookupError::to_string(&error)),
            },
        );
    }
    report.note(format!("{left} results do not follow from the policies that are here alone"));
}

/// Whether the results are of this base policy: of which family it is, and how much of the documented rules
/// `container_t` has there.
fn of_base(name: &str, database: &Database) -> bool {
    let has = |target: &str, class: &str, permission: &str| {
        let context = |kind: &str| database.find_context(&format!("system_u:system_r:{kind}:s0"));
        let ask = || -> Result<bool, LookupError> {
            let source = context("container_t")?;
            let target = if target == "self" { source.clone() } else { context(target)? };
            let class = database.find_class(class)?;
            let allowed = database.decide(&source, &target, class).allowed;
            Ok(allowed & database.find_permission(class, permission)? != 0)
        };
        ask().unwrap_or(false)
    };
    let refpolicy = database.find_type("container_engine_t").is_ok();
    let modern = has("self", "tun_socket", "attach_queue");
    let early = !modern && has("hugetlbfs_t", "file", "open");
    if let Some(version) = name.strip_prefix("container-selinux-2.") {
        let version = version.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        // The tap rules came with 2.150.
        return !refpolicy && if version < 150 { early } else { modern };
    }
    let here = match name.split('.').next() {
        Some("refpolicy") => !early && !modern,
        Some("debian-early2020-like") => early,
        Some("debian-modern-like") => modern,
        _ => false,
    };
    refpolicy && here
}

/// `# tag NAME = CONTEXT uid=0 caps=all`
fn domain(line: &str) -> Option<(&str, &str)> {
    let (tag, rest) = line.strip_prefix("# tag ")?.split_once(" = ")?;
    let (context, rest) = rest.split_once(' ')?;
    (rest == "uid=0 caps=all").then_some((tag, context))
}

fn allowed(database: &Database, source: &Context, need: &Access) -> Result<bool, LookupError> {
    let (target, class, permissions) = need;
    let class = database.find_class(class)?;
    let object = |kind: &str| database.find_context(&format!("system_u:object_r:{kind}:s0"));
    let target = match target {
        Own => source.clone(),
        Host(kind) => object(kind)?,
        Files => Context { range: source.range.clone(), ..object("container_file_t")? },
        Domain(kind) => database.find_context(&format!("system_u:system_r:{kind}:s0"))?,
        New(parent, class) => {
            let (parent, class) = (object(parent)?, database.find_class(class)?);
            database.new_label(source, &parent, class, None).unwrap_or(parent)
        }
    };
    let allowed = database.decide(source, &target, class).allowed;
    permissions
        .iter()
        .try_fold(true, |may, name| Ok(may && allowed & database.find_permission(class, name)? != 0))
}
