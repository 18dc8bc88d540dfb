//! The scenarios on real processes.

crate::play::play_on!(sunbear_e2e::processes::Processes);
