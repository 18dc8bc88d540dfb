//! `/` and `/who-am-i`.

use serde::Serialize;
use sunbear_model::{Kind, ResourceKey, Typed};

use crate::{defaults::CLUSTER_ID, state::ApiState, user::User};

/// Answer of `/`. `kumactl` ignores the last field.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index<'a> {
    hostname: &'a str,
    product: &'a str,
    version: &'a str,
    instance_id: &'a str,
    /// Empty until it is known.
    cluster_id: String,
    gui: &'a str,
    sunbear_version: &'a str,
}

pub(crate) fn index(api: &ApiState) -> Index<'_> {
    let key = ResourceKey::new(Kind::CONFIG, "", CLUSTER_ID);
    let snapshot = api.world.snapshot();
    let cluster_id = match snapshot.get(&key).map(|r| r.spec.typed()) {
        Some(Typed::Config(config)) => config.config.clone(),
        _ => String::new(),
    };
    let identity = &api.identity;
    Index {
        hostname: &identity.hostname,
        product: &identity.product,
        version: &identity.version,
        instance_id: &identity.instance_id,
        cluster_id,
        gui: &identity.gui,
        sunbear_version: &identity.sunbear_version,
    }
}

/// Answer of `/who-am-i`.
#[derive(Serialize)]
pub(crate) struct WhoAmI<'a> {
    name: &'a str,
    groups: &'a [String],
}

pub(crate) fn who_am_i(user: &User) -> WhoAmI<'_> {
    WhoAmI { name: &user.name, groups: &user.groups }
}
