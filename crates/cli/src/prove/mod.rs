//! `ferrovirt selinux prove`: the privilege table's SELinux rules tried in a real kernel that enforces them.
//!
//! Exit codes: 0 the kernel did as the table says everywhere, 1 it did not somewhere, 2 nothing could be tried.

mod compile;
mod guest;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use ferrovirt_model::Profile;
use ferrovirt_plan::selinux::prove::{compare, html, json, plan, scenario, text};
use ferrovirt_selinux::{Database, diff::between_policies};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Documented,
    Minimal,
    All,
}

#[derive(Args)]
pub(crate) struct Options {
    /// Whose types are tried, each beside container_t
    #[arg(long, value_enum, default_value_t = Which::All)]
    profile: Which,
    /// The base policy: a name in the directory of --files (base, early2020, modern), or a directory with a policy's modules in CIL
    #[arg(long, default_value = "base")]
    base: String,
    /// A further module in CIL, such as a node's own rules: whether the proof holds with it
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Directory that `cargo xtask selinux-base` made [default: selinux beside the program's directory]
    #[arg(long)]
    files: Option<PathBuf>,
    /// Linux kernel with SELinux [default: vmlinuz in the directory of --files]
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// Directory with the kernel's module tun.ko [default: modules in the directory of --files]
    #[arg(long)]
    modules: Option<PathBuf>,
    /// The guest's program [default: selinux-witness beside this one]
    #[arg(long)]
    witness: Option<PathBuf>,
    /// Longest time for the guest, in seconds
    #[arg(long, default_value_t = 180)]
    timeout: u64,
    /// Keep everything that was made, and say where
    #[arg(long)]
    keep: bool,
    /// Write the table for programs
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table as a page that stands alone
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What to print, and the exit code.
pub(crate) fn prove(options: &Options) -> Result<(String, i32)> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let files = options.files.clone().unwrap_or_else(|| beside.with_file_name("selinux"));
    let kernel = there(options.kernel.clone().unwrap_or_else(|| files.join("vmlinuz")), "a kernel")?;
    let modules = options.modules.clone().unwrap_or_else(|| files.join("modules"));
    let modules = there(modules.join("tun.ko"), "the kernel's module")?;
    let witness = there(
        options.witness.clone().unwrap_or_else(|| beside.join("selinux-witness")),
        "the guest's program",
    )?;

    let mut work =
        tempfile::Builder::new().prefix("ferrovirt-prove-").tempdir().context("cannot make a directory")?;
    if options.keep {
        work.disable_cleanup(true);
        eprintln!("everything is kept in {}", work.path().display());
    }
    let source = compile::Base::find(&options.base, &files, work.path())?;
    let base = open(&source.binary)?;
    let profiles: &[Profile] = match options.profile {
        Which::Documented => &[Profile::Documented],
        Which::Minimal => &[Profile::Minimal],
        Which::All => &[Profile::Documented, Profile::Minimal],
    };
    let plan = plan(&base, profiles).with_context(|| format!("base policy {}", options.base))?;
    let scenario = scenario(&base, &plan.trials)?;
    let (policy, blank) = (work.path().join("policy"), work.path().join("blank.33"));
    // Each takes a processor for seconds.
    let (compiled, compared) = std::thread::scope(|threads| {
        let own = || source.compile(&plan.module, &options.with, &work.path().join("ours.cil"), &policy);
        let own = threads.spawn(own);
        let blank = source.compile(&plan.blank, &[], &work.path().join("blank.cil"), &blank);
        (own.join(), blank)
    });
    compiled.map_err(|_| anyhow!("compiling the policy failed"))??;
    compared?;
    let (base, given) = (open(&blank)?, open(&policy)?);
    let guest =
        guest::Guest { kernel: &kernel, directory: work.path(), limit: Duration::from_secs(options.timeout) };
    let contents = guest::Contents { witness: &witness, tun: &modules, policy: &policy, scenario: &scenario };
    let seen = guest.run(&contents)?;
    let said = ferrovirt_lab_protocol::read(&seen.results);
    said.end.clone().with_context(|| seen.last_lines())?;
    let loaded =
        Database::open(&guest.policy(&said.reports)?).context("the policy that the kernel hands back")?;
    let difference = between_policies(&given, &loaded).to_string();
    let proof = compare((&base, &given), &plan, &scenario.questions, (said, &seen.console), difference)
        .with_context(|| seen.last_lines())?;
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&json(&proof, &options.base))?;
        write(file, &text)?;
    }
    if let Some(file) = &options.html {
        write(file, &html(&proof, &options.base))?;
    }
    Ok((text(&proof, &options.base), i32::from(!proof.holds())))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn open(policy: &Path) -> Result<Database> {
    let bytes = fs::read(policy).with_context(|| format!("cannot read {}", policy.display()))?;
    Database::open(&bytes).with_context(|| policy.display().to_string())
}

fn there(file: PathBuf, what: &str) -> Result<PathBuf> {
    if !file.exists() {
        bail!(
            "{what} is missing: there is no {}. In the repository `cargo xtask selinux-base` and `cargo xtask build` make \
             it; elsewhere say where it is (see --help)",
            file.display()
        );
    }
    Ok(file)
}
