//! The images that a cluster has from the start, and how images get in: there is no registry.

use crate::{
    nodes::PAUSE,
    oci::{Entry, Image},
};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

/// A shell and what tests need of the usual tools; its name in containerd. Pods that use it say `imagePullPolicy: Never`.
pub const TOOLS: &str = "localhost/tools:1";

/// User and group of the launcher's image: the controllers know it by the same number.
const LAUNCHER_USER: u32 = 107;

/// QEMU, as Debian's package has it.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// QEMU's modules; of them a machine needs the accelerators.
const MODULES: &str = "/usr/lib/x86_64-linux-gnu/qemu";
/// Firmware, option ROMs and the keys of VNC that the command lines of crates/qemu load: for a disk or VNC, for a kernel, and to boot from
/// the network with each model of interface.
const FIRMWARE: [&str; 12] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/share/qemu/keymaps/en-us",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
    "/usr/share/qemu/qboot.rom",
    "/usr/lib/ipxe/qemu/efi-virtio.rom",
    "/usr/lib/ipxe/qemu/efi-e1000.rom",
    "/usr/lib/ipxe/qemu/efi-e1000e.rom",
    "/usr/lib/ipxe/qemu/efi-rtl8139.rom",
];

/// Debian's busybox-static: one program without libraries.
const BUSYBOX: &str = "/bin/busybox";

fn busybox(name: &str, entry: &[&str]) -> Image {
    let mut image = Image { name: name.to_owned(), ..Image::default() };
    image.entries.insert("bin/busybox".to_owned(), Entry::File(BUSYBOX.into(), 0o755));
    image.config = json!({"Entrypoint": entry, "Env": ["PATH=/bin"]});
    image
}

/// What holds a pod's namespaces: it sleeps.
fn pause() -> Image {
    busybox(PAUSE, &["/bin/busybox", "sleep", "2147483647"])
}

fn tools() -> Image {
    let mut image = busybox(TOOLS, &["/bin/sh"]);
    for tool in ["sh", "cat", "echo", "hostname", "httpd", "id", "ls", "mount", "nc", "sleep", "true"] {
        image.entries.insert(format!("bin/{tool}"), Entry::Link("busybox".into()));
    }
    for directory in ["tmp", "proc", "sys", "dev"] {
        image.entries.insert(directory.to_owned(), Entry::Directory);
    }
    image
}

/// Writes the archives of both into `directory`.
pub fn write(directory: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let mut written = Vec::new();
    for (file, image) in [("pause.tar", pause()), ("tools.tar", tools())] {
        let path = directory.join(file);
        image.write(&path).context("busybox-static is needed")?;
        written.push(path);
    }
    Ok(written)
}

/// An image of one program of this machine with the libraries that its loader finds for it, and nothing else.
///
/// glibc resolves names by itself, without further files, so that this is enough for a program that opens connections.
pub fn program(name: &str, program: &Path) -> Result<Image> {
    let file = program.file_name().and_then(|name| name.to_str()).context("the program has no name")?;
    let mut image = Image { name: name.to_owned(), ..Image::default() };
    image.entries.insert(format!("usr/bin/{file}"), Entry::File(program.to_owned(), 0o755));
    for library in libraries(program)? {
        let inside = library.strip_prefix("/").unwrap_or(&library).to_string_lossy().into_owned();
        image.entries.insert(inside, Entry::File(library, 0o755));
    }
    image.config = config(file);
    Ok(image)
}

/// How the image of one of our programs starts it: the launcher as the user to whom disks in images belong, and others as a user
/// who is nobody; pods name another one where they need it.
pub fn config(file: &str) -> serde_json::Value {
    let user = if file == "virt-launcher" { LAUNCHER_USER } else { 65_532 };
    json!({"Entrypoint": [format!("/usr/bin/{file}")], "User": format!("{user}:{user}")})
}

/// Adds QEMU of this machine with what it loads for a machine.
pub fn add_qemu(image: &mut Image) -> Result<()> {
    add(image, Path::new(QEMU), 0o755);
    let mut loads = vec![PathBuf::from(QEMU)];
    let modules = std::fs::read_dir(MODULES).with_context(|| MODULES.to_owned())?;
    for module in modules {
        let module = module?;
        if module.path().is_file() && module.file_name().to_string_lossy().starts_with("accel-") {
            add(image, &module.path(), 0o644);
            loads.push(module.path());
        }
    }
    for firmware in FIRMWARE {
        add(image, Path::new(firmware), 0o644);
    }
    for program in &loads {
        for library in libraries(program)? {
            // The loader starts every program, and is started itself.
            add(image, &library, 0o755);
        }
    }
    Ok(())
}

/// A file of this machine at its own place; links are followed, so that the contents are there.
pub fn add(image: &mut Image, path: &Path, mode: u32) {
    let inside = path.strip_prefix("/").unwrap_or(path).to_string_lossy().into_owned();
    image.entries.insert(inside, Entry::File(path.to_owned(), mode));
}

/// The libraries of a program of our own, or of one that is installed, with the loader itself: what `ldd` names, which
/// starts the program's loader. Empty for a static program.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // A static program is no dynamic executable, which ldd calls a failure.
    if String::from_utf8_lossy(&output.stderr).contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(output.status.success() && !said.contains("not found"), "ldd {}: {said}", program.display());
    Ok(parse_ldd(&said))
}

/// Lines are `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader; the kernel's own has no path.
fn parse_ldd(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let line = line.trim();
        let (path, _) = line.rsplit_once(" (")?;
        let path = path.rsplit_once("=> ").map_or(path, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    said.lines().filter_map(path).collect()
}

/// Brings an archive into a node's containerd, with the node's first process as the way in.
pub fn load(archive: &Path, init: i32, ctr: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| archive.display().to_string())?;
    // Through standard input, because the node sees a /run and other directories of its own.
    let output = Command::new("nsenter")
        .args(["--mount", "--net", "--pid", "--target", &init.to_string(), "--"])
        .arg(ctr)
        .args(["--namespace", "k8s.io", "images", "import", "-"])
        .stdin(file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", archive.display(), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launcher_has_the_user_that_the_controllers_give_to_images() {
        assert_eq!(LAUNCHER_USER, ferrovirt_plan::config::LAUNCHER_USER);
        assert_eq!(config("virt-launcher")["User"], "107:107");
    }

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_own_is_not() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f4a)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f4b)\n";
        let found = parse_ldd(said);
        assert_eq!(
            found,
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }

    #[test]
    fn pause_and_tools_have_no_file_that_their_links_miss() {
        for image in [pause(), tools()] {
            for (path, entry) in &image.entries {
                if let Entry::Link(target) = entry {
                    let place = Path::new(path).parent().unwrap().join(target);
                    assert!(image.entries.contains_key(place.to_str().unwrap()), "{path}");
                }
            }
        }
    }
}
