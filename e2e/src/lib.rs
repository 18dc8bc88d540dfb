//! One harness for tests of a whole installation over the network, and the scenarios that it plays.
//!
//! A [`scenario`] is a text of verbs ([`lab::Lab`]): apply, request, partition, kill ... What the
//! verbs act on is a [`backend::Backend`]: real processes on loopback addresses ([`processes`]), or
//! the containers of
//! `docker-compose.yml` ([`containers`]). A scenario knows only the trait, so that the same text
//! runs on both.
//!
//! Nothing here knows Sunbear's code: it starts programs and asks them over the network.

pub mod backend;
pub mod containers;
pub mod lab;
pub mod network;
pub mod party;
pub mod processes;
pub mod request;
pub mod resource;
pub mod scenario;
pub mod timeline;
pub mod traffic;
