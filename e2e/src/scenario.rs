//! The scenarios: what users rely on, as texts of verbs that run on every back end. Each fault
//! names the guard in the code that it checks, and was seen to fail without it.

pub mod all_at_once;
pub mod alone;
pub mod one_by_one;
pub mod partition;
pub mod policies;
pub mod store;
pub mod zones;
