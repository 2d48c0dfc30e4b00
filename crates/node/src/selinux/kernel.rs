//! What the kernel shows of its SELinux.

use std::{
    fs,
    io::{self, Read, Write},
    path::PathBuf,
};

/// Where the kernel shows SELinux.
const SHOWN: &str = "/sys/fs/selinux";

/// The kernel's SELinux.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { root: PathBuf::from(SHOWN) }
    }
}

impl Kernel {
    /// What is shown in a directory, in the place of /sys/fs/selinux.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// SELinux is on, enforcing or not.
    pub fn is_enabled(&self) -> bool {
        self.root.join("enforce").exists()
    }

    /// Denials are enforced, not only logged.
    pub fn is_enforcing(&self) -> bool {
        fs::read_to_string(self.root.join("enforce")).is_ok_and(|text| text.trim() == "1")
    }

    /// How many times a policy was loaded since the kernel started. Read without loading anything into memory.
    pub fn loads(&self) -> Option<u32> {
        // Five numbers of 32 bits: version, sequence, enforcing, loads, what happens to unknown permissions.
        let bytes = fs::read(self.root.join("status")).ok()?;
        Some(u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?))
    }

    /// The policy that is loaded, in the kernel's binary form: some megabytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn policy(&self) -> io::Result<Vec<u8>> {
        fs::read(self.root.join("policy"))
    }

    /// The policy that is loaded has this context.
    pub fn knows(&self, context: &str) -> bool {
        let ask = || -> io::Result<()> {
            fs::OpenOptions::new().write(true).open(self.root.join("context"))?.write_all(context.as_bytes())
        };
        ask().is_ok()
    }

    /// The context of a process, `None` where SELinux is off or the process is gone.
    pub fn context_of(&self, pid: u32) -> Option<String> {
        let text =
            fs::read_to_string(format!("/proc/{pid}/attr/current")).ok().filter(|_| self.is_enabled())?;
        Some(text.trim_end_matches(['\0', '\n']).to_owned())
    }

    /// Whether the policy lets this process start one with the context `wanted`, as far as the transition goes that crun
    /// makes in this process's own domain, and that domain's context. `None` where that is not to be learned.
    pub fn may_start(&self, wanted: &str) -> Option<(bool, String)> {
        let own = self.context_of(std::process::id())?;
        let number = |path: &str| fs::read_to_string(self.root.join("class/process").join(path)).ok();
        let class = number("index")?;
        let permission = number("perms/transition")?.trim().parse().ok()?;
        let mut file = fs::OpenOptions::new().read(true).write(true).open(self.root.join("access")).ok()?;
        file.write_all(format!("{own} {wanted} {}", class.trim()).as_bytes()).ok()?;
        let mut answer = String::new();
        file.read_to_string(&mut answer).ok()?;
        Some((is_allowed(&answer, permission)?, own))
    }
}

/// What the kernel's answer to a question about access says of a permission, which is counted from 1. Of the answer's six
/// hexadecimal words the first has the allowed ones as bits, and the last is 1 where the asking domain is permissive.
fn is_allowed(answer: &str, permission: u32) -> Option<bool> {
    let words: Vec<u32> =
        answer.split_whitespace().map_while(|word| u32::from_str_radix(word, 16).ok()).collect();
    let [allowed, _, _, _, _, flags] = *words.as_slice() else { return None };
    Some((allowed.checked_shr(permission.checked_sub(1)?)? | flags) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_kernel_are_read() {
        // As the kernel writes them: allowed, decided, audited, audited denials, sequence, flags.
        let answer = "2 ffffffff 0 ffffffff 3 0";
        assert_eq!(
            [1, 2, 3].map(|permission| is_allowed(answer, permission)),
            [false, true, false].map(Some)
        );
        assert_eq!(is_allowed("2 ffffffff 0 ffffffff 3 1", 1), Some(true));
        for (answer, permission) in
            [("", 1), ("x 0 0 0 0 0", 1), ("1 0 0 0 0 0", 0), ("1 0 0 0 0 0", 33), ("1", 1)]
        {
            assert_eq!(is_allowed(answer, permission), None, "{answer} {permission}");
        }
    }

    #[test]
    fn without_selinux_no_process_has_a_context() {
        let directory = tempfile::tempdir().unwrap();
        let off = Kernel::at(directory.path().join("nothing"));
        assert_eq!(off.context_of(std::process::id()), None);
    }
}
