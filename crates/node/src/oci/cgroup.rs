//! The cgroup layout of the node: version 2 alone, version 1 alone, or a mix that the runtime may refuse.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Where version 2 is mounted in a hybrid layout; the runtime looks at this path and no other.
const BESIDE: &str = "/sys/fs/cgroup/unified";

/// How cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Version 2 at `/sys/fs/cgroup` itself.
    pub pure_v2: bool,
    /// Version 2 beside version 1, with the controllers that it offers.
    pub beside: Option<Vec<String>>,
    /// Version 1 controllers and where they are mounted.
    pub v1: BTreeMap<String, PathBuf>,
}

/// Who limits huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugeLimit {
    /// The runtime, from the bundle.
    Runtime,
    /// The agent, on the version 2 tree that the runtime does not see.
    Agent,
    /// Nobody: no hierarchy has the controller.
    Nobody,
}

impl Layout {
    /// Reads this node's layout.
    ///
    /// # Errors
    /// When `/proc/self/mountinfo` cannot be read.
    pub fn detect() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let controllers =
            fs::read_to_string(Path::new(BESIDE).join("cgroup.controllers")).unwrap_or_default();
        Ok(Self::parse(&mounts, &controllers))
    }

    fn parse(mountinfo: &str, beside_controllers: &str) -> Self {
        let mut layout = Self { pure_v2: false, beside: None, v1: BTreeMap::new() };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(place) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) if place == "/sys/fs/cgroup" => layout.pure_v2 = true,
                (Some("cgroup2"), _) if place == BESIDE => {
                    layout.beside = Some(beside_controllers.split_whitespace().map(str::to_owned).collect());
                }
                (Some("cgroup"), Some(options)) => {
                    for option in options.split(',').filter(|o| *o != "rw" && *o != "ro") {
                        layout.v1.insert(option.to_owned(), PathBuf::from(place));
                    }
                }
                _ => {}
            }
        }
        layout
    }

    /// The runtime must not see the version 2 tree: crun refuses a hybrid layout in which that tree has controllers.
    pub fn hide_v2(&self) -> bool {
        self.beside.as_ref().is_some_and(|controllers| !controllers.is_empty())
    }

    /// Who limits huge pages here.
    pub fn huge_limit(&self) -> HugeLimit {
        if self.pure_v2 || self.v1.contains_key("hugetlb") {
            HugeLimit::Runtime
        } else if self.beside.iter().flatten().any(|controller| controller == "hugetlb") {
            HugeLimit::Agent
        } else {
            HugeLimit::Nobody
        }
    }
}

/// The cgroup above all pods. It has the node's whole CPU weight, as the kubelet's has: a pod's own weight is a part of
/// that, and not a weight beside each single process of the host.
const PARENT: &str = "ferrovirt";

/// Path of a pod's cgroup for the runtime.
pub fn path(pod_uid: &str) -> String {
    format!("/{PARENT}/{}", name(pod_uid))
}

/// Makes the cgroup above all pods, or finds it made.
///
/// # Errors
/// What mkdir(2) and write(2) say.
pub fn make_parent(layout: &Layout) -> io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (root, file, weight) = match layout.v1.get("cpu") {
        Some(root) => (root.clone(), "cpu.shares", 1024 * cores),
        None if layout.pure_v2 => (PathBuf::from("/sys/fs/cgroup"), "cpu.weight", (100 * cores).min(10_000)),
        None => return Ok(()),
    };
    if layout.pure_v2 {
        fs::write(root.join("cgroup.subtree_control"), "+cpu")?;
    }
    let parent = root.join(PARENT);
    match fs::create_dir(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::write(parent.join(file), weight.to_string()),
    }
}

/// Removes the cgroup above all pods where it is empty.
pub fn remove_parent(layout: &Layout) {
    for root in layout.v1.values() {
        let _in_use = fs::remove_dir(root.join(PARENT));
    }
    if layout.pure_v2 {
        let _in_use = fs::remove_dir(Path::new("/sys/fs/cgroup").join(PARENT));
    }
}

/// Limits for every size of huge pages that this kernel has: what is not granted is none, as a kubelet has it. Without
/// a limit, any process may take the pages that were reserved for other pods: they need no mount and no capability.
///
/// # Errors
/// When the kernel's directory of sizes cannot be read.
pub fn every_size(granted: &BTreeMap<u64, u64>) -> io::Result<BTreeMap<u64, u64>> {
    let mut limits = granted.clone();
    let sizes = match fs::read_dir("/sys/kernel/mm/hugepages") {
        Ok(sizes) => sizes,
        // A kernel without huge pages.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(limits),
        Err(error) => return Err(error),
    };
    for entry in sizes {
        let name = entry?.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB"));
        if let Some(kib) = size.and_then(|text| text.parse::<u64>().ok()) {
            limits.entry(kib << 10).or_insert(0);
        }
    }
    Ok(limits)
}

/// Name of a pod's cgroup.
pub fn name(pod_uid: &str) -> String {
    format!("ferrovirt-{pod_uid}")
}

/// The processes of a pod, as far as they can be listed.
pub fn processes(layout: &Layout, pod_uid: &str) -> Vec<u32> {
    let v2 = layout.pure_v2.then(|| PathBuf::from("/sys/fs/cgroup"));
    let found =
        layout.v1.values().cloned().chain(v2).find_map(|root| {
            fs::read_to_string(root.join(PARENT).join(name(pod_uid)).join("cgroup.procs")).ok()
        });
    found.unwrap_or_default().lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Limits the huge pages of a running container on the version 2 tree and moves its first process there.
///
/// # Errors
/// What mkdir(2) and write(2) say.
pub fn limit_huge_pages(pod_uid: &str, pid: u32, limits: &BTreeMap<u64, u64>) -> io::Result<()> {
    limit_below(Path::new(BESIDE), pod_uid, pid, limits)
}

fn limit_below(root: &Path, pod_uid: &str, pid: u32, limits: &BTreeMap<u64, u64>) -> io::Result<()> {
    fs::write(root.join("cgroup.subtree_control"), "+hugetlb")?;
    let directory = root.join(name(pod_uid));
    match fs::create_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for (page, limit) in limits {
        let size = page_name(*page);
        fs::write(directory.join(format!("hugetlb.{size}.max")), limit.to_string())?;
        // Reservation is what mmap(2) takes; without its limit a process that asks for too much dies by SIGBUS later.
        fs::write(directory.join(format!("hugetlb.{size}.rsvd.max")), limit.to_string())?;
    }
    fs::write(directory.join("cgroup.procs"), pid.to_string())
}

/// Removes what [`limit_huge_pages`] made; gives the controller back when no pod is left. Missing is fine.
pub fn forget_huge_pages(pod_uid: &str) {
    let root = Path::new(BESIDE);
    // A process that is just ending keeps the directory busy for a moment; the sweep at the next start finds it then.
    if fs::remove_dir(root.join(name(pod_uid))).is_ok() && pods_below(root).is_empty() {
        let _busy = fs::write(root.join("cgroup.subtree_control"), "-hugetlb");
    }
}

/// Removes every empty cgroup directory of a pod.
pub fn remove(layout: &Layout, pod_uid: &str) {
    for root in layout.v1.values() {
        let _missing = fs::remove_dir(root.join(PARENT).join(name(pod_uid)));
    }
    if layout.pure_v2 {
        let _missing = fs::remove_dir(Path::new("/sys/fs/cgroup").join(PARENT).join(name(pod_uid)));
    }
    if layout.huge_limit() == HugeLimit::Agent {
        forget_huge_pages(pod_uid);
    }
}

fn pods_below(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("ferrovirt-")?.to_owned()))
        .collect()
}

/// A page size as the kernel writes it in file names: `2MB`, `1GB`, `64KB`.
pub fn page_name(bytes: u64) -> String {
    match bytes {
        size if size >= 1 << 30 => format!("{}GB", size >> 30),
        size if size >= 1 << 20 => format!("{}MB", size >> 20),
        size => format!("{}KB", size >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 29 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
31 29 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 29 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
33 29 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_layout_hides_version_2_and_the_agent_limits_huge_pages() {
        let layout = Layout::parse(HYBRID, "hugetlb\n");
        assert!(!layout.pure_v2 && layout.hide_v2());
        assert_eq!(layout.huge_limit(), HugeLimit::Agent);
        assert_eq!(layout.v1["memory"], Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn a_hybrid_layout_without_controllers_needs_no_hiding() {
        let layout = Layout::parse(HYBRID, "");
        assert!(!layout.hide_v2());
        assert_eq!(layout.huge_limit(), HugeLimit::Nobody);
    }

    #[test]
    fn hugetlb_in_version_1_or_pure_version_2_is_the_runtimes() {
        let v1 = format!("{HYBRID}34 29 0:30 / /sys/fs/cgroup/hugetlb rw - cgroup cgroup rw,hugetlb\n");
        assert_eq!(Layout::parse(&v1, "").huge_limit(), HugeLimit::Runtime);
        let v2 = "30 29 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = Layout::parse(v2, "");
        assert!(layout.pure_v2 && !layout.hide_v2());
        assert_eq!(layout.huge_limit(), HugeLimit::Runtime);
    }

    #[test]
    fn page_sizes_have_the_kernels_names() {
        assert_eq!(page_name(2 << 20), "2MB");
        assert_eq!(page_name(1 << 30), "1GB");
        assert_eq!(page_name(64 << 10), "64KB");
    }
}
