//! `ferrovirt store`: what an administrator does to the store of `ferrovirt up` by hand.

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use ferrovirt_apiserver::store::{Keys, Store};
use ferrovirt_sys::process::{Setup, spawn};
use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    task: Task,
    /// Where `ferrovirt up` keeps everything
    #[arg(long, global = true, default_value = "/var/lib/ferrovirt")]
    data_dir: PathBuf,
    /// The store is in the working directory, and this process is its owner's
    #[arg(long, global = true, hide = true)]
    here: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Make a new key for Secrets. They are encrypted with it at the next start; the keys before stay in the file, for
    /// backups of the store
    NewKey,
    /// Remove the objects that are damaged, and no others. `ferrovirt up` must not be running
    DropDamaged {
        /// Also remove Secrets whose key is lost
        #[arg(long)]
        lost_keys: bool,
    },
}

/// The files are those of the API server's user, who is not trusted with root's: what is done to them is done as that
/// user, in that directory.
pub(crate) fn run(options: Options) -> Result<()> {
    if options.here {
        return perform(options.task);
    }
    let api = options.data_dir.join("api");
    let missing =
        || format!("there is no store in {}: name its place with --data-dir", options.data_dir.display());
    let directory = File::open(&api).with_context(missing)?;
    let owner = directory.metadata()?.uid();
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--here");
    let user = rustix::process::geteuid().is_root().then_some(owner);
    let setup = Setup { directory: Some(directory.into()), user, ..Setup::default() };
    let status =
        spawn(command, setup).with_context(|| format!("becoming the owner of {}", api.display()))?.wait()?;
    ensure!(status.success(), "nothing was done to {}: {status}", api.display());
    Ok(())
}

fn perform(task: Task) -> Result<()> {
    let (path, keys) = (Path::new("store.redb"), Path::new("pki/store.keys"));
    ensure!(path.exists(), "there is no store here");
    match task {
        Task::NewKey => {
            Keys::prepend(keys)?;
            println!("there is a new key: start `ferrovirt up` again, and Secrets are encrypted with it");
        }
        Task::DropDamaged { lost_keys } => {
            let dropped = Store::drop_damaged(path, Keys::open(keys)?, lost_keys)?;
            for object in &dropped {
                println!("removed {object}");
            }
            println!("{} damaged objects removed", dropped.len());
        }
    }
    Ok(())
}
