//! A gateway whose control plane is away.

use anyhow::{Result, ensure};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use xtask::{
    http::Request,
    wait::{Look, until},
};

use crate::{
    backend::Backend,
    lab::{BASE, Lab, PATIENCE, judge, request_for},
    party::Party,
    resource::{self, HOST},
};

/// A gateway is started while its control plane is away: it serves as before, what ends TLS too.
///
/// Guard: `dataplane/src/sealer.rs`, what an Envoy has accepted is sealed, and `dataplane/src/keys.rs`,
/// so are the keys that its dump does not show.
pub fn a_gateway_starts_alone<B: Backend>(lab: &mut Lab<B>) -> Result<()> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([HOST.to_owned()])?;
    let pem = format!("{}{}", cert.pem(), signing_key.serialize_pem());
    let secret = resource::secret("edge-certificate", &pem);
    let (plain, tls) = lab.backend.gateway_ports();
    lab.apply(&secret)?;
    lab.apply(&resource::gateway_with_tls(plain, tls, "edge-certificate"))?;
    for zone in lab.backend.zones() {
        await_both(lab, &zone)?;
        lab.await_log(&Party::gateway(&zone), "sealed the configuration listeners=2")?;
    }
    let zone = "east";
    let (control_plane, gateway) = (Party::zone(zone), Party::gateway(zone));
    lab.kill(&control_plane)?;
    lab.kill(&gateway)?;
    lab.start_again(&gateway)?;
    await_both(lab, zone)?;
    ensure!(!lab.backend.is_ready(&control_plane), "{control_plane} is there");
    lab.start_again(&control_plane)?;
    lab.await_ready(&control_plane)?;
    lab.apply(&resource::route("after"))?;
    lab.await_change("after")?;
    lab.apply(&resource::gateway(plain))?;
    lab.delete(&secret)?;
    lab.await_sync()
}

/// Waits for answers of both listeners of a zone's gateway.
fn await_both<B: Backend>(lab: &Lab<B>, zone: &str) -> Result<()> {
    lab.await_change_of(zone, BASE)?;
    let request: Request = request_for("api");
    until(&format!("answers of {zone} over TLS"), PATIENCE, || {
        Ok(match lab.ask_tls(zone, HOST, &request) {
            Ok(answer) => match judge(&answer, &format!("api/{zone}"), &[BASE]) {
                Ok(_) => Look::Done(()),
                Err(wrong) => Look::NotYet(wrong),
            },
            Err(error) => Look::NotYet(format!("{error:#}")),
        })
    })
}
