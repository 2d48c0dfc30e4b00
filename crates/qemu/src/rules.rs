//! Rules for what people write into a machine and what becomes part of a command line: one for each kind of value.
//!
//! Anyone who accepts a machine (validation in `ferrovirt-api`) and anyone who starts it (the check of an order) ask the same
//! functions, so that nothing is accepted that cannot be started. A broken rule is a sentence without its subject.

/// Fewest bytes of guest memory: the firmware of a q35 board does not fit into less.
pub const MIN_MEMORY: u64 = 1 << 20;
/// Largest number of vCPUs without an interrupt-remapping IOMMU.
pub const MAX_VCPUS: u64 = 255;
/// Most bytes of a guest's name: the longest namespace, a character, the longest name of an object.
pub const MAX_NAME: usize = 63 + 1 + 253;
/// Most bytes of a path that a person gives; what it is put below makes it longer.
pub const MAX_FILE: usize = 2048;
/// Most bytes of a path.
pub const MAX_PATH: usize = 4095;
/// Most bytes of a kernel's command line; Linux itself reads 2048 of them on this architecture.
pub const MAX_KERNEL_ARGS: usize = 4096;
/// Most bytes of a serial number, of the machine or of a disk.
pub const MAX_SERIAL: usize = 256;

/// What a value must be.
pub type Broken = &'static str;

fn check(good: bool, rule: Broken) -> Result<(), Broken> {
    if good { Ok(()) } else { Err(rule) }
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// QEMU's machine type.
///
/// # Errors
/// What it must be.
pub fn machine_type(text: &str) -> Result<(), Broken> {
    let version = |text: &str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    };
    let q35 = text == "q35" || text.strip_prefix("pc-q35-").is_some_and(version);
    check(q35, "must be q35 or pc-q35- and a version")
}

/// QEMU's CPU model.
///
/// # Errors
/// What it must be.
pub fn cpu_model(text: &str) -> Result<(), Broken> {
    check(word(text, 64), "must be the name of a CPU model: at most 64 letters, digits and -_.+")
}

/// The guest's name.
///
/// # Errors
/// What it must be.
pub fn name(text: &str) -> Result<(), Broken> {
    check(word(text, MAX_NAME), "must be at most 317 letters, digits and -_.+")
}

/// Letters, digits and `-_.+`, starting with a letter or digit.
fn word(text: &str, most: usize) -> bool {
    text.len() <= most
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}

/// SMBIOS serial number of the machine.
///
/// # Errors
/// What it must be.
pub fn serial(text: &str) -> Result<(), Broken> {
    check(
        text.len() <= MAX_SERIAL && printable(text),
        "must be at most 256 bytes of text without control characters",
    )
}

/// Serial number of a disk.
///
/// # Errors
/// What it must be.
pub fn disk_serial(text: &str) -> Result<(), Broken> {
    let good =
        text.len() <= MAX_SERIAL && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    check(good, "must be at most 256 letters, digits and -_.+")
}

/// Arguments of a kernel.
///
/// # Errors
/// What they must be.
pub fn kernel_args(text: &str) -> Result<(), Broken> {
    check(
        text.len() <= MAX_KERNEL_ARGS && printable(text),
        "must be one line of at most 4096 bytes without control characters",
    )
}

/// An absolute path of the launcher's container.
///
/// # Errors
/// What it must be.
pub fn path(text: &str) -> Result<(), Broken> {
    check(
        text.starts_with('/') && text.len() <= MAX_PATH && printable(text),
        "must be an absolute path without control characters",
    )
}

/// A path that a person gives, below which directory ever.
///
/// # Errors
/// What it must be.
pub fn file(text: &str) -> Result<(), Broken> {
    check(
        text.len() <= MAX_FILE && printable(text),
        "must be a path of at most 2048 bytes without control characters",
    )
}

/// Name of a disk: an RFC 1123 label; a little longer and dots are allowed, as in names of Kubernetes objects.
///
/// # Errors
/// What it must be.
pub fn disk_name(text: &str) -> Result<(), Broken> {
    let good = (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        && !text.starts_with(['-', '.']);
    check(good, "must be lower-case letters, digits, dashes and dots")
}

/// Name of an interface, as upstream has it.
///
/// # Errors
/// What it must be.
pub fn interface_name(text: &str) -> Result<(), Broken> {
    let good = (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    check(good, "must be at most 253 letters, digits, dashes and underscores")
}

/// A boot position.
///
/// # Errors
/// What it must be.
pub fn boot_order(position: u32) -> Result<(), Broken> {
    check((1..=i32::MAX.unsigned_abs()).contains(&position), "must be from 1 to 2147483647")
}

/// vCPUs of a topology.
///
/// # Errors
/// What they must be.
pub fn vcpus(sockets: u32, cores: u32, threads: u32) -> Result<u64, Broken> {
    let count = u64::from(sockets).saturating_mul(cores.into()).saturating_mul(threads.into());
    check((1..=MAX_VCPUS).contains(&count), "sockets, cores and threads must multiply to 1 to 255 vCPUs")?;
    Ok(count)
}

/// Bytes of guest memory. QEMU reads sizes as signed 64-bit numbers.
///
/// # Errors
/// What they must be.
pub fn memory(bytes: u64) -> Result<(), Broken> {
    check(bytes >= MIN_MEMORY && i64::try_from(bytes).is_ok(), "must be at least 1Mi and less than 8Ei")
}

/// Bytes of a huge page.
///
/// # Errors
/// What they must be.
pub fn huge_page(bytes: u64) -> Result<(), Broken> {
    check(bytes.is_power_of_two() && bytes >= 4096, "must be a power of two of at least 4Ki")
}

/// A disk that cannot be written to, on the SATA bus and no CD-ROM drive: QEMU has no such device.
pub const READ_ONLY_SATA: Broken =
    "a SATA disk cannot be read-only: use virtio, scsi or usb, or a CD-ROM drive";
