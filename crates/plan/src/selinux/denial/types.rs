//! What the names and levels of a denial's contexts tell without a policy.

use crate::selinux::module::{DOCUMENTED, object_name};
use ferrovirt_privilege::DOMAIN_BLOCK;

/// Type and level of a context.
pub(super) fn parts(context: &str) -> (&str, &str) {
    let mut parts = context.splitn(4, ':').skip(2);
    (parts.next().unwrap_or(""), parts.next().unwrap_or(""))
}

/// Whether it is a type of the minimal profile, as the module or the Security Profiles Operator names them. They are no
/// copies of another type.
pub fn is_minimal(name: &str) -> bool {
    let block = name.split_once('.').map(|(block, _)| block);
    block.is_some_and(|block| block == DOMAIN_BLOCK || block == object_name(DOMAIN_BLOCK))
}

/// Whether a type is the documented profile's, a copy of container_t, as the module or the operator names it.
pub(super) fn is_copy(name: &str) -> bool {
    let (block, process) = DOCUMENTED;
    name.split_once('.')
        .is_some_and(|(own, rest)| rest == process && (own == block || own == object_name(block)))
}

/// Whether a type of a block is none of ours, such as those that udica makes.
pub(super) fn is_foreign(name: &str) -> bool {
    name.contains('.') && !is_minimal(name) && !is_copy(name)
}

/// Names that begin like a container's type and are none.
const NO_CONTAINERS: [&str; 3] = ["container_runtime", "container_engine", "container_user"];

/// Whether a domain is a container's by its name.
pub(super) fn is_named_container(name: &str) -> bool {
    let named = name.contains('.') || name.starts_with("container_") || name.starts_with("svirt");
    named && !NO_CONTAINERS.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the source is a container's, by its name or because containers have categories, and the node's own services none.
pub(super) fn is_container(source: &str, level: &str) -> bool {
    is_named_container(source) || !categories(low(level)).is_empty()
}

/// The low level of a range.
pub(super) fn low(level: &str) -> &str {
    level.split('-').next().unwrap_or(level)
}

/// The categories of the high level as text; without a policy only the usual `c1,c2` and `c1.c3` are understood.
pub(super) fn categories(level: &str) -> Vec<(u32, u32)> {
    let high = level.rsplit_once('-').map_or(level, |(_, high)| high);
    let Some((_, list)) = high.split_once(':') else { return Vec::new() };
    let number = |text: &str| text.strip_prefix('c').and_then(|number| number.parse().ok());
    let runs = list.split(',').filter_map(|part| {
        let (low, high) = part.split_once('.').unwrap_or((part, part));
        Some((number(low)?, number(high)?))
    });
    runs.collect()
}

/// Whether the target has a category that the source lacks.
pub(super) fn apart(source: &str, target: &str) -> bool {
    let source = categories(source);
    categories(target).iter().any(|(low, high)| !source.iter().any(|(from, to)| from <= low && high <= to))
}

/// What `container_t` may do in each base that is known: Debian's, and container-selinux since April 2020.
const EVERYWHERE: [(&str, &str, &[&str]); 8] = [
    ("self", "tun_socket", &["create"]),
    ("container_file_t", "file", &["entrypoint"]),
    ("hugetlbfs_t", "dir", &["getattr", "open", "search"]),
    ("proc_t", "dir", &["getattr", "open", "search"]),
    ("proc_t", "file", &["getattr", "open", "read"]),
    ("sysfs_t", "dir", &["getattr", "open", "read", "search"]),
    ("sysfs_t", "file", &["getattr", "open", "read"]),
    ("sysfs_t", "lnk_file", &["getattr", "read"]),
];

/// Whether every known base gives a permission to `container_t`; the target may be `self`.
pub(super) fn is_everywhere(target: &str, class: &str, permission: &str) -> bool {
    EVERYWHERE
        .iter()
        .any(|(of, on, permissions)| (*of, *on) == (target, class) && permissions.contains(&permission))
}
