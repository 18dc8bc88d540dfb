//! Containers of a zone that cannot do their work, for each reason that there is. Each says on one
//! line what is wrong and what to do, ends with the code that docs/configuration.md names or goes
//! on trying, and serves once the reason is gone: nobody touches the container. The gateways of
//! other zones serve meanwhile.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use xtask::{
    engine,
    wait::{Look, until},
};

use super::{Containers, path};
use crate::{
    backend::Backend as _,
    lab::{Lab, PATIENCE},
    party::Party,
    resource,
};

/// The zone that is added, and the service beside it that claims the same name.
const ZONE: &str = "south";
const TWIN: &str = "twin";

/// The user of programs in containers.
const USER: u32 = 65_532;

/// What is wrong with a zone's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Name,
    Address,
    Token,
    Authority,
    Password,
    FullVolume,
    ReadOnlyVolume,
}

impl Fault {
    /// What one line has to say: what is wrong, and what to do.
    fn words(self) -> [&'static str; 2] {
        match self {
            Self::Name => ["multizone.zone.name", "must be set"],
            Self::Address => {
                ["failed to lookup address", "check the host name in multizone.zone.globalAddress"]
            }
            Self::Token => ["expired", "multizone.zone.kds.auth.tokenPath"],
            Self::Authority => ["UnknownIssuer", "multizone.zone.kds.rootCaFile"],
            Self::Password => ["password authentication failed", "check store.postgres.user"],
            Self::FullVolume => ["disk is full", "make room"],
            Self::ReadOnlyVolume => ["read-only", "make the folder writable"],
        }
    }

    /// The code that the program ends with. None: it tries again by itself.
    fn exit_code(self) -> Option<i32> {
        match self {
            Self::Name => Some(2),
            Self::Password | Self::FullVolume | Self::ReadOnlyVolume => Some(1),
            Self::Address | Self::Token | Self::Authority => None,
        }
    }

    fn networks(self) -> &'static str {
        match self {
            // Nobody is called `balancer` there.
            Self::Address => "misfit",
            Self::Password => "control, data",
            Self::Name
            | Self::Token
            | Self::Authority
            | Self::FullVolume
            | Self::ReadOnlyVolume => "control",
        }
    }

    fn store(self) -> &'static str {
        if self == Self::Password { "postgres" } else { "sqlite" }
    }
}

/// Guard: `shared/runtime/src/config`: a zone with a global's address needs a name.
pub fn without_a_name(lab: &mut Lab<Containers>) -> Result<()> {
    is_said_and_mended(lab, Fault::Name)
}

/// Guard: `shared/kds/src/client.rs`, `advice` and `keep`; `dial.rs`: names are resolved anew.
pub fn with_a_wrong_address(lab: &mut Lab<Containers>) -> Result<()> {
    is_said_and_mended(lab, Fault::Address)
}

/// Guard: `shared/kds/src/client.rs`, `request`: the token is read for each stream.
pub fn with_an_expired_token(lab: &mut Lab<Containers>) -> Result<()> {
    is_said_and_mended(lab, Fault::Token)
}

/// Guard: `shared/kds/src/dial.rs`, `channel`: the authority is read for each connection.
pub fn with_a_wrong_authority(lab: &mut Lab<Containers>) -> Result<()> {
    is_said_and_mended(lab, Fault::Authority)
}

/// Guard: `shared/control-plane/src/advice.rs`, and the exit code in `program.rs`.
pub fn with_a_wrong_password(lab: &mut Lab<Containers>) -> Result<()> {
    is_said_and_mended(lab, Fault::Password)
}

/// Guard: the same.
pub fn on_a_full_volume(lab: &mut Lab<Containers>) -> Result<()> {
    is_said_and_mended(lab, Fault::FullVolume)
}

/// Guard: the same.
pub fn on_a_read_only_volume(lab: &mut Lab<Containers>) -> Result<()> {
    is_said_and_mended(lab, Fault::ReadOnlyVolume)
}

fn is_said_and_mended(lab: &mut Lab<Containers>, fault: Fault) -> Result<()> {
    let traffic = lab.base_traffic()?;
    if fault == Fault::Password {
        lab.backend.sql("CREATE DATABASE south")?;
    }
    let right = Settings::right(&lab.backend)?;
    let place = Place::new(lab.backend.folder.path(), ZONE, fault)?;
    place.write(&right.with(fault, &lab.backend)?, fault)?;
    lab.timeline.note(format!("a zone with {fault:?} that is wrong"));
    lab.backend.start_misfit(&place, fault)?;
    let party = Party::zone(ZONE);
    lab.backend.await_line(&party, &fault.words())?;
    match fault.exit_code() {
        Some(code) => lab.backend.await_exit(&party, code)?,
        None => {
            let state = lab.backend.state(&party)?;
            ensure!(state == "running 0 0", "{party} does not go on trying: {state}");
            ensure!(!lab.backend.is_ready(&party), "{party} says that it is ready");
        }
    }

    lab.timeline.note("it is put right");
    let balancer = lab.backend.container(&Party::Balancer)?;
    let network = format!("{}_misfit", lab.backend.project);
    match fault {
        Fault::Address => {
            let connect = ["network", "connect", "--alias", "balancer", &network, &balancer];
            lab.backend.docker(&connect)?;
        }
        Fault::FullVolume | Fault::ReadOnlyVolume => place.mend_disk()?,
        Fault::Name | Fault::Token | Fault::Authority | Fault::Password => {
            place.write(&right, fault)?;
        }
    }
    lab.await_ready(&party)?;
    lab.await_sync_of(ZONE)?;

    lab.backend.remove_misfit(&party)?;
    match fault {
        Fault::Address => {
            drop(lab.backend.docker(&["network", "disconnect", &network, &balancer])?);
        }
        Fault::Password => lab.backend.sql("DROP DATABASE south")?,
        Fault::Name
        | Fault::Token
        | Fault::Authority
        | Fault::FullVolume
        | Fault::ReadOnlyVolume => {}
    }
    delete_zone(lab)?;
    traffic.finish().map(drop)
}

/// Two zones with one name, whichever replicas of the global they reach: the second is refused and
/// told, the first keeps the name and what it has on the global. When the first goes, the second
/// takes its place.
///
/// Guard: `shared/kds/src/server/registry.rs`, `claim`, and `zone_insight.rs`: replicas know of each other's
/// zones.
pub fn with_anothers_name(lab: &mut Lab<Containers>) -> Result<()> {
    let traffic = lab.base_traffic()?;
    let (first, second) = (Party::zone(ZONE), Party::zone(TWIN));
    let right = Settings::right(&lab.backend)?;
    // Nothing is wrong with either by itself.
    let fault = Fault::Token;
    let folder = lab.backend.folder.path().to_owned();
    let places = [Place::new(&folder, ZONE, fault)?, Place::new(&folder, TWIN, fault)?];
    for place in &places {
        place.write(&right, fault)?;
    }
    lab.backend.start_misfit(&places[0], fault)?;
    lab.await_ready(&first)?;
    let proxy = json!({
        "type": "Dataplane", "mesh": "default", "name": "only-of-the-first",
        "networking": {
            "address": "192.0.2.1",
            "inbound": [{"port": 80, "tags": {"kuma.io/service": "nobody"}}],
        },
    });
    let of_the_first = "/meshes/default/dataplanes/only-of-the-first";
    crate::lab::succeeded(&lab.call(&first, "PUT", of_the_first, proxy.to_string())?)?;
    await_proxy(lab)?;

    lab.timeline.note("a second zone of that name");
    lab.backend.start_misfit(&places[1], fault)?;
    let words = ["two control planes use zone name", "give one of them another name"];
    lab.backend.await_line(&second, &words)?;
    lab.apply(&resource::extra_route("extra-south", "/south"))?;
    lab.await_sync_of(ZONE)?;
    await_proxy(lab)?;

    lab.timeline.note("the first goes");
    lab.backend.remove_misfit(&first)?;
    lab.apply(&resource::extra_route("extra-twin", "/twin"))?;
    lab.await_sync_of(TWIN)?;

    lab.backend.remove_misfit(&second)?;
    delete_zone(lab)?;
    traffic.finish().map(drop)
}

fn await_proxy(lab: &Lab<Containers>) -> Result<()> {
    until("the first zone's proxy on the global", PATIENCE, || {
        let names = lab.names(&Party::Balancer, "dataplanes")?;
        Ok(match names.iter().any(|name| name == "only-of-the-first") {
            true => Look::Done(()),
            false => Look::NotYet(format!("{names:?}")),
        })
    })
}

fn delete_zone(lab: &Lab<Containers>) -> Result<()> {
    until("the deletion of the zone", PATIENCE, || {
        let answer = lab.remove(&Party::Balancer, &json!({"type": "Zone", "name": ZONE}))?;
        Ok(match answer.status {
            200 => Look::Done(()),
            // Until the global knows that it is offline.
            _ => Look::NotYet(format!("{}: {}", answer.status, answer.body)),
        })
    })
}

/// What a container is told by files, so that it can be put right from outside.
#[derive(Debug, Clone)]
struct Settings {
    name: String,
    token: String,
    authority: String,
    password: String,
}

impl Settings {
    fn right(containers: &Containers) -> Result<Self> {
        let postgres = containers.container(&Party::Postgres)?;
        Ok(Self {
            name: format!("name: {ZONE}"),
            token: containers.zone_token(ZONE, "24h")?,
            authority: containers.in_ctl(&["cat", "/secrets/admin/ca.crt"])?,
            password: containers.docker(&[
                "exec",
                &postgres,
                "cat",
                "/run/postgres-secrets/password",
            ])?,
        })
    }

    fn with(&self, fault: Fault, containers: &Containers) -> Result<Self> {
        let mut settings = self.clone();
        match fault {
            Fault::Name => settings.name = String::new(),
            Fault::Token => settings.token = containers.zone_token(ZONE, "1ms")?,
            Fault::Authority => {
                let own = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"];
                let stranger = ["-subj", "/CN=Stranger", "-keyout", "/dev/null"];
                settings.authority = containers.in_ctl(&[&own[..], &stranger].concat())?;
            }
            Fault::Password => settings.password = "wrong".to_owned(),
            Fault::Address | Fault::FullVolume | Fault::ReadOnlyVolume => {}
        }
        Ok(settings)
    }
}

/// Folders of this machine that a container sees: its settings, and a disk of its own.
#[derive(Debug)]
struct Place {
    service: &'static str,
    settings: PathBuf,
    disk: PathBuf,
}

impl Place {
    fn new(folder: &Path, service: &'static str, fault: Fault) -> Result<Self> {
        let own = folder.join(service);
        let place = Self { service, settings: own.join("settings"), disk: own.join("disk") };
        for folder in [&place.settings, &place.disk] {
            fs::create_dir_all(folder)?;
        }
        fs::set_permissions(&place.settings, fs::Permissions::from_mode(0o755))?;
        let kind = match fault {
            Fault::FullVolume => "size=64k",
            Fault::ReadOnlyVolume => "size=64m,ro",
            Fault::Name | Fault::Address | Fault::Token | Fault::Authority | Fault::Password => {
                "size=64m"
            }
        };
        let options = format!("{kind},uid={USER},gid={USER},mode=0700");
        place.mount(&["-t", "tmpfs", "-o", &options, "none"])?;
        Ok(place)
    }

    fn mount(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("mount");
        command.args(arguments).arg(&self.disk);
        engine::output(command).map(drop)
    }

    fn mend_disk(&self) -> Result<()> {
        self.mount(&["-o", "remount,rw,size=64m"])
    }

    /// Each file as a whole: the program may be reading it.
    fn write(&self, settings: &Settings, fault: Fault) -> Result<()> {
        let Settings { name, token, authority, password } = settings;
        let configuration = format!(
            "multizone: {{ zone: {{ {name} }} }}\n\
             apiServer: {{ authn: {{ tokens: {{ validator: {{\n\
               publicKeys: [{{ kid: init, keyFile: /run/sunbear/user.pub }}] }} }} }} }}\n\
             store: {{ type: {}, postgres: {{ password: \"{password}\" }} }}\n",
            fault.store()
        );
        for (file, text) in [("token", token), ("ca.crt", authority), ("zone.yaml", &configuration)]
        {
            let fresh = self.settings.join("new");
            fs::write(&fresh, text)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644))?;
            fs::rename(&fresh, self.settings.join(file))?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Lazily, because a container may still use it. There is nobody to tell of an error.
        let mut command = Command::new("umount");
        command.arg("--lazy").arg(&self.disk);
        let _ = engine::output(command);
    }
}

impl Containers {
    fn start_misfit(&mut self, place: &Place, fault: Fault) -> Result<()> {
        let file = self.folder.path().join(format!("{}.yml", place.service));
        fs::write(&file, compose_file(place, fault)?)?;
        self.add_file(&file)?;
        self.up(&[Party::zone(place.service)])
    }

    fn remove_misfit(&mut self, party: &Party) -> Result<()> {
        self.docker(&["stop", "--time", super::END, &self.container(party)?])?;
        self.docker(&["rm", "--force", &self.container(party)?]).map(drop)
    }

    fn zone_token(&self, zone: &str, valid_for: &str) -> Result<String> {
        let wish = json!({"zone": zone, "scope": ["cp"], "validFor": valid_for});
        self.post(&Party::Balancer, "/tokens/zone", &wish)
    }

    /// Waits until a line of the log has all of these words.
    fn await_line(&self, party: &Party, words: &[&str]) -> Result<()> {
        until(&format!("{words:?} of {party}"), PATIENCE, || {
            let log = self.log(party);
            let said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
            Ok(match said {
                true => Look::Done(()),
                false => Look::NotYet(tail(&log)),
            })
        })
    }

    /// Waits until the engine starts a container again that ended with this code.
    fn await_exit(&self, party: &Party, code: i32) -> Result<()> {
        until(&format!("a restart of {party}"), PATIENCE, || {
            let state = self.state(party)?;
            let words: Vec<_> = state.split(' ').collect();
            match words[..] {
                // While it waits for its next start, the code is that of the last end.
                ["restarting", ended, _] if ended == code.to_string() => Ok(Look::Done(())),
                ["restarting", ended, _] => bail!("{party} ended with code {ended}, not {code}"),
                _ => Ok(Look::NotYet(state)),
            }
        })
    }

    /// Status, exit code, and how often it was started again.
    fn state(&self, party: &Party) -> Result<String> {
        let format = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}";
        self.docker(&["inspect", "--format", format, &self.container(party)?])
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

fn compose_file(place: &Place, fault: Fault) -> Result<String> {
    let (service, networks) = (place.service, fault.networks());
    let (settings, disk) = (path(&place.settings)?, path(&place.disk)?);
    Ok(format!(
        r#"
services:
  zone-{service}:
    image: localhost/sunbear/zone:${{SUNBEAR_TAG:-local}}
    command: [run, --config-file=/run/misfit/zone.yaml]
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    user: "{USER}:{USER}"
    restart: unless-stopped
    mem_limit: 256m
    tmpfs: [/tmp]
    networks: [{networks}]
    environment:
      KUMA_MODE: zone
      KUMA_GENERAL_WORK_DIR: /var/lib/sunbear
      KUMA_GENERAL_TLS_CERT_FILE: /run/sunbear/tls.crt
      KUMA_GENERAL_TLS_KEY_FILE: /run/sunbear/tls.key
      KUMA_STORE_POSTGRES_HOST: postgres
      KUMA_STORE_POSTGRES_PORT: "5432"
      KUMA_STORE_POSTGRES_USER: sunbear
      KUMA_STORE_POSTGRES_DB_NAME: south
      KUMA_API_SERVER_HTTP_ENABLED: "false"
      KUMA_API_SERVER_AUTHN_LOCALHOST_IS_ADMIN: "false"
      KUMA_API_SERVER_AUTHN_TOKENS_BOOTSTRAP_ADMIN_TOKEN: "false"
      KUMA_MULTIZONE_ZONE_GLOBAL_ADDRESS: grpcs://balancer:5685
      KUMA_MULTIZONE_ZONE_KDS_ROOT_CA_FILE: /run/misfit/ca.crt
      KUMA_MULTIZONE_ZONE_KDS_AUTH_TOKEN_PATH: /run/misfit/token
    volumes:
      - zone-east-secrets:/run/sunbear:ro
      - {settings}:/run/misfit:ro
      - {disk}:/var/lib/sunbear
networks:
  misfit: {{}}
"#
    ))
}
