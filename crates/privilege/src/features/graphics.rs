//! VNC: a socket in the pod. It needs nothing beyond the base machine's directory of sockets.

use super::Table;

pub(super) const TABLE: Table = Table::NONE;
