//! The guest's TAP and bridge: new ones, and those that were asked for.

use super::{Refusal, netlink, view::View};
use ferrovirt_netlink::{
    Channel,
    route::{Bridge, Link},
};
use ferrovirt_sys::tap;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Kind of a TAP, and of a bridge, as the kernel names them.
const TUN: &str = "tun";
const BRIDGE: &str = "bridge";

/// A device that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    name: String,
    kind: &'static str,
    index: u32,
}

impl Made {
    /// Its index in the pod's namespace, by which it is called from now on: names can be given to others.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether it is still what it was made: its index has its name and kind, and it is a port of the bridge, or of
    /// none. To be asked once more before the guest starts.
    ///
    /// # Errors
    /// [`Refusal::Changed`].
    pub fn verify(&self, view: &mut View, master: Option<&Made>) -> Result<(), Refusal> {
        let changed = |what| Err(Refusal::Changed { name: self.name.clone(), what });
        match view.link_at(self.index)? {
            None => changed("index"),
            Some(link) if link.name != self.name => changed("name"),
            Some(link) if link.kind != self.kind => changed("kind"),
            Some(link) if link.master != master.map(Made::index) => changed("bridge"),
            Some(_) => Ok(()),
        }
    }
}

/// The bridge of this name, which was made before.
///
/// # Errors
/// [`Refusal::Changed`] when there is none, or what has the name is no bridge.
pub fn find_bridge(view: &mut View, name: &str) -> Result<Made, Refusal> {
    found(view, name, BRIDGE)
}

fn found(view: &mut View, name: &str, kind: &'static str) -> Result<Made, Refusal> {
    let changed = |what| Refusal::Changed { name: name.to_owned(), what };
    let link = view.link(name)?.ok_or_else(|| changed("name"))?;
    if link.name != name {
        return Err(changed("name"));
    }
    if link.kind != kind {
        return Err(changed("kind"));
    }
    Ok(Made { name: name.to_owned(), kind, index: link.index })
}

/// Makes the descriptors the queues of a new TAP. A device that has the name, also as another name, is refused: it may
/// have any owner, filter or program.
///
/// # Errors
/// [`Refusal::Present`], and what the kernel says.
pub fn make_tap(view: &mut View, name: &str, queues: &[OwnedFd], owner: u32) -> Result<Made, Refusal> {
    view.free(name)?;
    tap::make(name, queues, owner).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::BUSY | Errno::EXIST) => Refusal::Present(name.to_owned()),
        _ => Refusal::Kernel { what: "making the guest's TAP", source: error },
    })?;
    let made = found(view, name, TUN)?;
    made.verify(view, None)?;
    Ok(made)
}

/// Makes a new bridge.
///
/// # Errors
/// [`Refusal::Present`], and what the kernel says.
pub fn make_bridge(
    view: &mut View,
    route: &mut Channel,
    name: &str,
    options: Bridge,
    with: impl FnOnce(Link) -> Link,
) -> Result<Made, Refusal> {
    view.free(name)?;
    route.order(&with(Link::new_bridge(name, options)).create()).map_err(|error| match error.errno() {
        Some(Errno::EXIST) => Refusal::Present(name.to_owned()),
        _ => netlink("making the guest's bridge")(error),
    })?;
    let made = found(view, name, BRIDGE)?;
    made.verify(view, None)?;
    Ok(made)
}

/// Makes the TAP a port of the bridge, of which nothing is learned, and sets it up.
///
/// # Errors
/// What the kernel says, and [`Refusal::Changed`].
pub fn join(view: &mut View, route: &mut Channel, port: &Made, bridge: &Made) -> Result<(), Refusal> {
    let joining = || netlink("joining the guest's TAP to its bridge");
    route.order(&Link::of(port.index).master(bridge.index).set()).map_err(joining())?;
    let quiet = ferrovirt_netlink::route::Port { learning: Some(false), ..Default::default() };
    route.order(&Link::of(port.index).port(quiet).set()).map_err(joining())?;
    route.order(&Link::of(port.index).up().set()).map_err(joining())?;
    port.verify(view, Some(bridge))?;
    bridge.verify(view, None)
}
