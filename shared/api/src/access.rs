//! What a caller may do (`spec/rest-api.md` 10.3).

use std::collections::BTreeSet;

use sunbear_model::{Kind, Writable};

use crate::{
    problem::Problem,
    user::{AUTHENTICATED, UNAUTHENTICATED, User},
};

/// Users and groups that may do something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Names of users.
    pub users: BTreeSet<String>,
    /// Names of groups.
    pub groups: BTreeSet<String>,
}

impl Subjects {
    /// The administrators.
    pub fn admins() -> Self {
        let admin = User::admin();
        Self { users: [admin.name.clone()].into(), groups: [admin.name].into() }
    }

    /// Everybody, with or without credentials.
    pub fn everybody() -> Self {
        let groups = [AUTHENTICATED.to_owned(), UNAUTHENTICATED.to_owned()].into();
        Self { users: BTreeSet::new(), groups }
    }

    /// Is the user one of them?
    pub fn contain(&self, user: &User) -> bool {
        self.users.contains(&user.name) || user.groups.iter().any(|g| self.groups.contains(g))
    }
}

/// How callers are told apart and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Whoever calls directly from this host is the administrator.
    pub localhost_is_admin: bool,
    /// Whoever has shown a good client certificate is the administrator.
    pub admin_client_certificates: bool,
    /// Bearers of user tokens are who the token says. If not, the header is not looked at.
    pub user_tokens: bool,
    /// Callers without credentials may write. Kuma allows it; we do not by default.
    pub anonymous_writes: bool,
    /// See and change secrets.
    pub admin_resources: Subjects,
    /// Issue dataplane tokens.
    pub generate_dataplane_token: Subjects,
    /// Issue zone tokens.
    pub generate_zone_token: Subjects,
    /// Issue user tokens.
    pub generate_user_token: Subjects,
    /// See the configuration of proxies.
    pub view_config_dump: Subjects,
    /// See statistics of proxies.
    pub view_stats: Subjects,
    /// See clusters of proxies.
    pub view_clusters: Subjects,
    /// See the configuration of the control plane.
    pub control_plane_metadata: Subjects,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            localhost_is_admin: true,
            admin_client_certificates: false,
            user_tokens: true,
            anonymous_writes: false,
            admin_resources: Subjects::admins(),
            generate_dataplane_token: Subjects::admins(),
            generate_zone_token: Subjects::admins(),
            generate_user_token: Subjects::admins(),
            view_config_dump: Subjects::everybody(),
            view_stats: Subjects::everybody(),
            view_clusters: Subjects::everybody(),
            control_plane_metadata: Subjects::everybody(),
        }
    }
}

impl Access {
    /// May the user see objects of this type, and change them if anybody may?
    pub(crate) fn check_kind(&self, user: &User, kind: Kind) -> Result<(), Problem> {
        match kind.row().writable {
            Writable::Provided | Writable::Never => Ok(()),
            Writable::Admin => {
                let action = || format!("the resource of type \"{kind}\"");
                check(&self.admin_resources, user, action)
            }
        }
    }

    /// May the user write at all?
    pub(crate) fn check_write(&self, user: &User, kind: Kind) -> Result<(), Problem> {
        if self.anonymous_writes || !user.is_anonymous() {
            return Ok(());
        }
        Err(denied(user, &format!("the resource of type \"{kind}\"")))
    }
}

/// Is the user one of `subjects`?
pub(crate) fn check(
    subjects: &Subjects,
    user: &User,
    action: impl FnOnce() -> String,
) -> Result<(), Problem> {
    if subjects.contain(user) { Ok(()) } else { Err(denied(user, &action())) }
}

fn denied(user: &User, action: &str) -> Problem {
    Problem::denied(format!("user \"{user}\" cannot access {action}"))
}
