//! A machine on its node, no matter who runs its pod: what the node knows of it, and what is written of that into the API.

pub mod accept;
pub mod client;
pub mod clock;
pub mod events;
pub mod facts;
pub mod meter;
pub mod notice;
pub mod poll;
pub mod redacted;
pub mod report;
pub mod serve;
pub mod status;
pub mod websocket;
