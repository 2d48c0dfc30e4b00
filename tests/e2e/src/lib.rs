//! A whole Ferrovirt on this machine, seen from outside: what a person has at hand (the binaries, kubectl, /proc)
//! and nothing of the inside. Used by the end-to-end tests, the demo and the benchmarks.

// Indexing a JSON value that is not there gives null; nothing else is indexed here.
#![allow(clippy::indexing_slicing)]

pub mod clock;
pub mod cluster;
pub mod host;
pub mod person;
pub mod process;
pub mod raw;

pub use clock::Clock;
pub use cluster::{Cluster, Options};
pub use person::Person;

use anyhow::{Result, bail};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The repository's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

/// Where builds go: `CARGO_TARGET_DIR`, or `target` in the repository.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Looks again and again until `look` finds something, at the most for `limit`; `what` names it in the error.
///
/// Looking costs little compared with what is waited for (a guest's boot), so the pause between two looks is short
/// and fixed; nothing depends on its length.
pub fn wait_for<T>(what: &str, limit: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    look_every(Duration::from_millis(20), what, limit, look)
}

/// [`wait_for`] with a pause of its own, where a look costs more.
pub fn look_every<T>(
    pause: Duration,
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            match last {
                Some(error) => bail!("waited {limit:?} for {what}; the last look failed: {error:#}"),
                None => bail!("waited {limit:?} for {what}"),
            }
        }
        std::thread::sleep(pause);
    }
}

/// A machine that boots the test guest's kernel, with one interface behind the pod's address.
///
/// `strategy`: the run strategy; `grace`: seconds that the guest gets to shut down.
pub fn machine(name: &str, strategy: &str, grace: u32) -> String {
    format!(
        r"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}}}
spec:
  runStrategy: {strategy}
  template:
    spec:
      terminationGracePeriodSeconds: {grace}
      domain:
        memory: {{guest: 192Mi}}
        firmware:
          kernelBoot:
            container: {{image: 'ferrovirt/guest-kernel', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
        devices:
          autoattachGraphicsDevice: false
          interfaces: [{{name: default, masquerade: {{}}}}]
      networks: [{{name: default, pod: {{}}}}]
"
    )
}
