//! The pure decisions of every controller: a snapshot and the time in, actions out.
