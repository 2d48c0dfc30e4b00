//! The cluster's programs, built once from published Go modules and kept in a cache outside the repository.
//!
//! What is built stands in `programs/`: a go.mod for each module, because their dependencies disagree, and a go.sum,
//! against which Go checks every byte that it fetches.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The version that is built when none is named.
pub const KUBERNETES: &str = "v1.36.3";
/// The digests of a part's programs, as `sha256sum` writes and checks them.
const DIGESTS: &str = "SHA256SUMS";

/// Why there can be no cluster here, where that is the machine's fault and not ours: the caller may go on without one.
#[derive(Debug)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// One module, and the programs that are taken from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The directory below `programs/`.
    directory: String,
    /// Name of each program, and its package.
    programs: Vec<(&'static str, &'static str)>,
    /// Flags of `go build`.
    flags: Vec<String>,
    /// Whether it has parts in C.
    cgo: bool,
}

impl Part {
    fn new(directory: &str, programs: &[(&'static str, &'static str)]) -> Self {
        let flags = ["-trimpath", "-ldflags=-s -w"].map(str::to_owned).to_vec();
        Self { directory: directory.to_owned(), programs: programs.to_vec(), flags, cgo: false }
    }

    /// The same inputs have the same key; `go` is what `go env` says of itself.
    fn key(&self, go: &str, module: &[u8], sums: &[u8]) -> String {
        let mut hash = Sha256::new();
        let names = self.programs.iter().flat_map(|(name, package)| [name.as_bytes(), package.as_bytes()]);
        let flags = self.flags.iter().map(|flag| flag.as_bytes());
        let cgo: &[u8] = if self.cgo { b"cgo" } else { b"" };
        for part in [go.as_bytes(), module, sums, cgo].into_iter().chain(names).chain(flags) {
            // The length first, so that no two lists of parts read the same.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().iter().take(10).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Everything that a cluster of this version of Kubernetes runs.
pub fn parts(kubernetes: &str) -> Vec<Part> {
    let mut kube = Part::new(
        &format!("kubernetes-{kubernetes}"),
        &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
    );
    // Without these the programs say v0.0.0-master, and clients complain.
    let version = "k8s.io/component-base/version";
    let mut numbers = kubernetes.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    kube.flags = vec![
        "-trimpath".to_owned(),
        format!(
            "-ldflags=-s -w -X {version}.gitVersion={kubernetes} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
        ),
    ];
    let etcd = Part::new("etcd", &[("etcd", "go.etcd.io/etcd/server/v3")]);
    let containerd = Part::new(
        "containerd",
        &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    );
    let cni = Part::new(
        "cni",
        &[
            ("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            ("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
            ("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            ("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
        ],
    );
    let mut runc = Part::new("runc", &[("runc", "github.com/opencontainers/runc")]);
    runc.cgo = true;
    runc.flags.push("-tags=seccomp netgo osusergo".to_owned());
    vec![kube, etcd, containerd, cni, runc]
}

/// The versions of Kubernetes whose go.mod and go.sum are here.
pub fn versions() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sources())? {
        let name = entry?.file_name();
        found.extend(name.to_string_lossy().strip_prefix("kubernetes-").map(str::to_owned));
    }
    found.sort();
    Ok(found)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// The built programs of one cluster.
#[derive(Clone, Debug)]
pub struct Programs {
    directories: Vec<(Part, PathBuf)>,
}

impl Programs {
    /// Builds what is not in the cache, and checks what is.
    ///
    /// The error is [`Unavailable`] where Go or the modules are missing.
    pub fn prepare(kubernetes: &str) -> Result<Self> {
        let known = versions()?;
        ensure!(
            known.iter().any(|version| version == kubernetes),
            "Kubernetes {kubernetes} has no go.mod in tests/cluster/programs; there are {}",
            known.join(", ")
        );
        let parts = parts(kubernetes);
        let go = Go::find(&wanted(&parts)?)?;
        let cache = cache()?;
        fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        let lock = fs::File::create(cache.join("lock"))?;
        // Two builds at once would do everything twice; the lock ends with the file's descriptor.
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        let mut directories = Vec::new();
        for part in parts {
            let directory = go.part(&part, &cache)?;
            directories.push((part, directory));
        }
        Ok(Self { directories })
    }

    /// Makes a directory with a link to every program.
    pub fn link(&self, bin: &Path) -> Result<()> {
        fs::create_dir_all(bin)?;
        for (part, directory) in &self.directories {
            for (name, _) in &part.programs {
                std::os::unix::fs::symlink(directory.join(name), bin.join(name))
                    .with_context(|| bin.join(name).display().to_string())?;
            }
        }
        Ok(())
    }
}

/// Where built programs are kept: below `XDG_CACHE_HOME`, or `~/.cache`.
fn cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(home).context("neither HOME nor XDG_CACHE_HOME is set: set one of them")?;
    Ok(base.join("ferrovirt/kubernetes"))
}

/// The `go` lines of the go.mod files: the least version that builds all of them.
fn wanted(parts: &[Part]) -> Result<String> {
    let mut newest = String::new();
    for part in parts {
        let text = fs::read_to_string(sources().join(&part.directory).join("go.mod"))?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("go ")).context("a go.mod has no go line")?;
        if numbers(line) > numbers(&newest) {
            newest = line.to_owned();
        }
    }
    Ok(newest)
}

/// `go1.26.8` or `1.26.8` as numbers; what follows them, as in `1.27rc1`, is left out.
fn numbers(version: &str) -> Vec<u32> {
    let plain = version.trim().trim_start_matches("go");
    plain
        .split('.')
        .map(|part| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0))
        .collect()
}

/// The Go of this machine.
struct Go {
    program: PathBuf,
    /// Version, system and architecture.
    identity: String,
}

impl Go {
    fn find(wanted: &str) -> Result<Self> {
        let advice = format!(
            "the cluster's programs are built from Go modules: install Go {wanted} or newer, put `go` into PATH, \
             and run the command again"
        );
        for program in ["go", "/usr/local/go/bin/go"] {
            let program = PathBuf::from(program);
            let asked = Self::command(&program).args(["env", "GOVERSION", "GOOS", "GOARCH"]).output();
            let Ok(output) = asked else { continue };
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let words: Vec<&str> = said.split_whitespace().collect();
            let version = words.first().copied().unwrap_or_default();
            if version.is_empty() {
                continue;
            }
            if !output.status.success() || numbers(version) < numbers(wanted) {
                let found = format!("{} is {version}: ", program.display());
                return Err(Unavailable(format!("{found}{advice}")).into());
            }
            return Ok(Self { program, identity: words.join(" ") });
        }
        Err(Unavailable(format!("Go is missing: {advice}")).into())
    }

    /// Go without what a user's settings would change in the result. The proxy and the caches stay those of the user.
    fn command(program: &Path) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(program);
        command
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=readonly -buildvcs=false")
            .env("GOWORK", "off")
            .env("GOOS", "linux")
            .env_remove("GOEXPERIMENT")
            .stdin(Stdio::null());
        command
    }

    /// The directory with the part's programs, built if need be.
    fn part(&self, part: &Part, cache: &Path) -> Result<PathBuf> {
        let source = sources().join(&part.directory);
        let (module, sums) = (fs::read(source.join("go.mod"))?, fs::read(source.join("go.sum"))?);
        let directory =
            cache.join(format!("{}-{}", part.directory, part.key(&self.identity, &module, &sums)));
        if directory.exists() {
            match verify(part, &directory) {
                Ok(()) => return Ok(directory),
                Err(error) => println!("{} is built again: {error:#}", directory.display()),
            }
            fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        println!(
            "building {} with {}, once; it is kept in {}",
            part.directory,
            self.identity,
            directory.display()
        );
        let work = tempfile::Builder::new().prefix("building-").tempdir_in(cache)?;
        self.build(part, &source, work.path())?;
        digests(part, work.path())?;
        fs::rename(work.keep(), &directory)?;
        Ok(directory)
    }

    fn build(&self, part: &Part, source: &Path, out: &Path) -> Result<()> {
        let command = || {
            let mut command = Self::command(&self.program);
            command.current_dir(source).env("CGO_ENABLED", if part.cgo { "1" } else { "0" });
            command
        };
        let packages = part.programs.iter().map(|(_, package)| *package);
        // Everything is fetched first: what fails here is the network or the proxy, and what fails later is not.
        let fetched = command().args(["list", "-deps", "-f", "{{.Name}}"]).args(packages).output()?;
        if !fetched.status.success() {
            let said = String::from_utf8_lossy(&fetched.stderr);
            return Err(Unavailable(format!(
                "the Go modules of {} cannot be fetched; see that GOPROXY leads to a module proxy that this machine \
                 reaches, and run the command again. Go said: {}",
                part.directory,
                said.trim()
            ))
            .into());
        }
        for (name, package) in &part.programs {
            let status = command()
                .arg("build")
                .args(&part.flags)
                .arg("-o")
                .arg(out.join(name))
                .arg(package)
                .status()?;
            ensure!(status.success(), "go build {package}: {status}");
        }
        Ok(())
    }
}

fn digests(part: &Part, directory: &Path) -> Result<()> {
    let names = part.programs.iter().map(|(name, _)| *name);
    let output = Command::new("sha256sum").current_dir(directory).arg("--binary").args(names).output()?;
    ensure!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr));
    Ok(fs::write(directory.join(DIGESTS), output.stdout)?)
}

/// Whether the directory is ours alone and holds exactly what was built.
fn verify(part: &Part, directory: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(directory)?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0;
    ensure!(ours, "others may write into it");
    let list = fs::read_to_string(directory.join(DIGESTS)).context(DIGESTS)?;
    let mut listed: Vec<&str> = list.lines().filter_map(|line| Some(line.split_once(" *")?.1)).collect();
    let mut wanted: Vec<&str> = part.programs.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    wanted.sort_unstable();
    ensure!(listed == wanted, "{DIGESTS} lists {listed:?}");
    let output = Command::new("sha256sum")
        .current_dir(directory)
        .args(["--check", "--strict", "--quiet", DIGESTS])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_changes_the_key() {
        let part = Part::new("etcd", &[("etcd", "example.invalid/etcd")]);
        let key = part.key("go1.26.8 linux amd64", b"module", b"sums");
        assert_eq!(key, part.key("go1.26.8 linux amd64", b"module", b"sums"));
        let mut other = part.clone();
        other.flags.push("-tags=x".to_owned());
        let mut cgo = part.clone();
        cgo.cgo = true;
        let all = [
            key,
            part.key("go1.26.9 linux amd64", b"module", b"sums"),
            part.key("go1.26.8 linux amd64", b"module", b"other"),
            part.key("go1.26.8 linux amd64", b"modules", b"ums"),
            other.key("go1.26.8 linux amd64", b"module", b"sums"),
            cgo.key("go1.26.8 linux amd64", b"module", b"sums"),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
    }

    #[test]
    fn every_version_has_its_sums_and_its_number_in_the_flags() {
        let versions = versions().unwrap();
        assert!(versions.contains(&KUBERNETES.to_owned()), "{versions:?}");
        for version in versions {
            let parts = parts(&version);
            for part in &parts {
                let directory = sources().join(&part.directory);
                assert!(directory.join("go.sum").exists(), "{}", directory.display());
            }
            let module = fs::read_to_string(sources().join(&parts[0].directory).join("go.mod")).unwrap();
            assert!(module.contains(&format!("k8s.io/kubernetes {version}")), "{version}");
            let flags = parts[0].flags.join(" ");
            assert!(flags.contains(&format!("gitVersion={version} ")), "{flags}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(numbers("go1.26.8") > numbers("1.26"));
        assert!(numbers("go1.26.10") > numbers("go1.26.8"));
        assert!(numbers("go1.9") < numbers("go1.26"));
        assert!(numbers("go1.27rc1") > numbers("go1.26.8"));
        assert!(numbers("") < numbers("go1.1"));
    }

    #[test]
    fn programs_that_changed_or_are_missing_are_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let part = Part::new("x", &[("one", "p"), ("two", "q")]);
        fs::write(directory.path().join("one"), "1").unwrap();
        fs::write(directory.path().join("two"), "2").unwrap();
        digests(&part, directory.path()).unwrap();
        verify(&part, directory.path()).unwrap();
        let fewer = Part::new("x", &[("one", "p")]);
        assert!(verify(&fewer, directory.path()).is_err());
        fs::write(directory.path().join("two"), "3").unwrap();
        assert!(verify(&part, directory.path()).is_err());
        fs::remove_file(directory.path().join("two")).unwrap();
        assert!(verify(&part, directory.path()).is_err());
    }

    #[test]
    fn a_missing_or_old_go_is_said_with_what_to_do() {
        let error = Go::find("99.1").err().unwrap();
        assert!(error.downcast_ref::<Unavailable>().is_some());
        assert!(error.to_string().contains("install Go 99.1 or newer"), "{error}");
    }
}
