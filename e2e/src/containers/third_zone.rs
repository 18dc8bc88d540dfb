//! A zone that `docker-compose.yml` does not have, added to the running project by a further file.
//! It borrows what `init` made for `east`: the authority, the keys that tokens are checked with, and
//! the certificate, by answering to the name of `zone-east` in a network of its own. Its tokens are
//! its own.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;
use xtask::{
    engine,
    http::{Answer, Request},
};

use super::{Containers, ECHO_PORT};
use crate::{
    backend::Backend as _,
    lab::succeeded,
    party::{Party, SERVICES},
    request,
};

impl Containers {
    pub(super) fn add_third_zone(&mut self, zone: &str) -> Result<()> {
        let token = self.post(
            &Party::Balancer,
            "/tokens/zone",
            &json!({"zone": zone, "scope": ["cp"], "validFor": "24h"}),
        )?;
        // It is as secret as a token of a throw-away installation can be.
        self.write_file(zone, &token, "")?;
        self.up(&[
            Party::zone(zone),
            Party::service("frontend", zone),
            Party::service("api", zone),
        ])?;
        self.zones.insert(zone.to_owned());
        self.await_ready(&Party::zone(zone))?;
        for service in SERVICES {
            let party = Party::service(service, zone);
            self.await_ready(&party)?;
            self.register(service, zone)?;
        }
        let proxy = self.post(
            &Party::zone(zone),
            "/tokens/dataplane",
            &json!({
                "name": format!("gateway-{zone}"), "mesh": "default", "validFor": "24h",
                "tags": {"kuma.io/service": ["edge-gateway"]},
            }),
        )?;
        self.write_file(zone, &token, &proxy)?;
        self.up(&[Party::gateway(zone)])?;
        self.await_ready(&Party::gateway(zone))
    }

    pub(super) fn up(&self, parties: &[Party]) -> Result<()> {
        let names: Vec<_> = parties.iter().map(Party::to_string).collect();
        let mut arguments = vec!["up", "-d", "--no-deps", "--no-recreate"];
        arguments.extend(names.iter().map(String::as_str));
        engine::output(self.compose(&arguments)?).map(drop)
    }

    fn write_file(&mut self, zone: &str, zone_token: &str, proxy_token: &str) -> Result<()> {
        let file = self.folder.path().join(format!("{zone}.yml"));
        fs::write(&file, compose_file(zone, zone_token, proxy_token))?;
        self.add_file(&file)
    }

    fn send(&self, party: &Party, request: Request) -> Result<Answer> {
        let api = self.api(party)?;
        let token = api.token.context("no token")?;
        let request = request.header("authorization", &format!("Bearer {token}"));
        request::send_tls(api.address, "control-plane", &request)
    }

    pub(super) fn post(
        &self,
        party: &Party,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<String> {
        let request = Request::new("POST", "localhost", path).json(body.to_string());
        let answer = self.send(party, request)?;
        succeeded(&answer).with_context(|| format!("POST {path} at {party}"))?;
        Ok(answer.body.trim().to_owned())
    }

    fn register(&self, service: &str, zone: &str) -> Result<()> {
        let name = format!("{service}-{zone}");
        let address = self.address(&Party::service(service, zone))?;
        let dataplane = json!({
            "type": "Dataplane", "mesh": "default", "name": name,
            "networking": {
                "address": address.to_string(),
                "inbound": [{
                    "port": ECHO_PORT,
                    "tags": {"kuma.io/service": service, "kuma.io/protocol": "http"},
                }],
            },
        });
        let path = format!("/meshes/default/dataplanes/{name}");
        let request = Request::new("PUT", "localhost", &path).json(dataplane.to_string());
        succeeded(&self.send(&Party::zone(zone), request)?)
    }
}

/// As the services of `docker-compose.yml`, which cannot be extended from another file in a way that
/// both versions of Compose know.
fn compose_file(zone: &str, zone_token: &str, proxy_token: &str) -> String {
    format!(
        r#"
x-program: &program
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  user: "65532:65532"
  restart: unless-stopped
services:
  zone-{zone}:
    <<: *program
    image: localhost/sunbear/zone:${{SUNBEAR_TAG:-local}}
    command: [run, --config-file=/run/sunbear/zone.yaml]
    mem_limit: 256m
    tmpfs: [/tmp, "/var/lib/sunbear:uid=65532,gid=65532"]
    networks:
      control: {{}}
      {zone}: {{ aliases: [zone-east] }}
    environment:
      KUMA_MODE: zone
      KUMA_GENERAL_WORK_DIR: /var/lib/sunbear
      KUMA_GENERAL_TLS_CERT_FILE: /run/sunbear/tls.crt
      KUMA_GENERAL_TLS_KEY_FILE: /run/sunbear/tls.key
      KUMA_STORE_TYPE: sqlite
      KUMA_API_SERVER_HTTP_ENABLED: "false"
      KUMA_API_SERVER_AUTHN_LOCALHOST_IS_ADMIN: "false"
      KUMA_API_SERVER_AUTHN_TOKENS_BOOTSTRAP_ADMIN_TOKEN: "false"
      KUMA_MULTIZONE_ZONE_NAME: {zone}
      KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS: grpcs://balancer:5685
      KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE: /run/sunbear/ca.crt
      KUMA_MULTIZONE_ZONE_KDS_AUTH_TOKEN_INLINE: "{zone_token}"
    volumes: ["zone-east-secrets:/run/sunbear:ro"]
  gateway-{zone}:
    <<: *program
    image: localhost/sunbear/gateway:${{SUNBEAR_TAG:-local}}
    command: [run, --cp-address=https://zone-east:5678, -v, "name=gateway-{zone},adminPort=9901"]
    mem_limit: 512m
    tmpfs:
      - /tmp
      - /run/sunbear-dp:uid=65532,gid=65532,mode=0700
      - /var/lib/sunbear:uid=65532,gid=65532,mode=0700
    networks: [{zone}]
    environment:
      KUMA_CONTROL_PLANE_CA_CERT_FILE: /run/sunbear/ca.crt
      KUMA_DATAPLANE_RUNTIME_TOKEN: "{proxy_token}"
      KUMA_DATAPLANE_RUNTIME_WORK_DIR: /run/sunbear-dp
      KUMA_DATAPLANE_RUNTIME_BINARY_PATH: /usr/local/bin/envoy
      KUMA_DATAPLANE_RUNTIME_CONCURRENCY: "2"
      KUMA_DATAPLANE_DRAIN_TIME: 1s
      KUMA_DNS_ENABLED: "false"
      SUNBEAR_DP_STATE_DIR: /var/lib/sunbear
    volumes: ["gateway-east-secrets:/run/sunbear:ro"]
  frontend-{zone}:
    <<: *program
    image: localhost/sunbear/echo:${{SUNBEAR_TAG:-local}}
    command: [--name=frontend, --zone={zone}, "--listen=0.0.0.0:8000"]
    mem_limit: 64m
    networks: [{zone}]
  api-{zone}:
    <<: *program
    image: localhost/sunbear/echo:${{SUNBEAR_TAG:-local}}
    command: [--name=api, --zone={zone}, "--listen=0.0.0.0:8000"]
    mem_limit: 64m
    networks: [{zone}]
networks:
  {zone}: {{}}
"#
    )
}
