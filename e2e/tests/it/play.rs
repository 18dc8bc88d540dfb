//! The scenarios on one back end, a test each.

/// Makes the tests. They share one installation: whoever comes while another one plays waits and
/// goes on with it. After a failure the next one gets a new installation.
macro_rules! play_on {
    ($backend:ty) => {
        use std::sync::{Arc, Mutex, PoisonError, Weak};

        use anyhow::Result;
        use sunbear_e2e::{lab::Lab, scenario::*};

        type Shared = Mutex<Option<Lab<$backend>>>;

        /// Weak: the last one to leave ends everything, which no destructor of a static would.
        static SHARED: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

        fn play(name: &str, scenario: fn(&mut Lab<$backend>) -> Result<()>) {
            let shared = {
                let mut weak = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
                let shared = weak.upgrade().unwrap_or_default();
                *weak = Arc::downgrade(&shared);
                shared
            };
            let mut slot = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let mut lab = match slot.take() {
                Some(lab) => lab,
                None => Lab::start().unwrap(),
            };
            // If this fails the installation is dropped here, with whatever is wrong with it.
            if let Err(error) = lab.play(name, scenario) {
                drop(lab);
                panic!("{error:#}");
            }
            *slot = Some(lab);
        }

        crate::play::tests! {
            policies::written_on_the_global_only,
            policies::changes_and_deletions_arrive,
            partition::catches_up_after_a_black_hole,
            partition::catches_up_after_resets,
            partition::one_way,
            partition::a_bad_network,
            one_by_one::killed,
            one_by_one::paused,
            one_by_one::restarted,
            one_by_one::a_replica_killed,
            alone::a_gateway_starts_alone,
            store::postgres_killed,
            store::a_replica_without_postgres,
            store::an_empty_database,
            all_at_once::stopped_and_started,
            all_at_once::killed_and_started,
            zones::a_third_zone,
        }
    };
}

macro_rules! tests {
    ($($module:ident :: $name:ident,)*) => {$(
        #[test]
        fn $name() {
            play(stringify!($name), $module::$name);
        }
    )*};
}

pub(crate) use {play_on, tests};
