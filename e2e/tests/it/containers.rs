//! The scenarios on the containers of `docker-compose.yml`: `cargo xtask e2e --compose`.

crate::play::play_on!(sunbear_e2e::containers::Containers);
