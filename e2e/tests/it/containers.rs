//! The scenarios on the containers of `docker-compose.yml`: `cargo xtask e2e --compose`.

use sunbear_e2e::containers::misfits;

crate::play::play_on!(sunbear_e2e::containers::Containers);

crate::play::tests! {
    misfits::without_a_name,
    misfits::with_anothers_name,
    misfits::with_a_wrong_address,
    misfits::with_an_expired_token,
    misfits::with_a_wrong_authority,
    misfits::with_a_wrong_password,
    misfits::on_a_full_volume,
    misfits::on_a_read_only_volume,
}
