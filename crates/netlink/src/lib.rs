//! Links, addresses, bridge ports and nf_tables of the kernel, without a program between.
//!
//! [`message`] writes requests and [`read`] reads answers: both are pure. [`route`] and [`nft`] say what requests there
//! are. [`channel`] exchanges them with the kernel, on a socket of one's own or on one that another process has opened
//! in its network namespace and keeps a copy of: an answer counts only if the kernel sent it for exactly this request.

pub mod channel;
pub mod mac;
pub mod message;
pub mod nft;
pub mod read;
pub mod route;

pub use channel::{Channel, Error, Socket};
pub use message::Message;
