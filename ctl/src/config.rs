//! `config`: the file of known control planes.

use anyhow::anyhow;

use crate::{
    arguments::{Config, Connection, ControlPlanes},
    client::Client,
    config_file::{Configuration, ControlPlane, Coordinates},
    failure::Failure,
    output::{Output, printable},
    table, target,
    version::{self, PRODUCT},
};

/// Runs one of the commands.
pub(crate) async fn run(
    connection: &Connection,
    what: &Config,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut configuration = target::configuration(connection)?;
    match what {
        Config::View => write!(output.out, "{}", configuration.yaml()?)?,
        Config::ControlPlanes { what: ControlPlanes::List } => {
            write!(output.out, "{}", list(&configuration))?;
        }
        Config::ControlPlanes { what: ControlPlanes::Add { name, overwrite, skip_check } } => {
            if name.is_empty() {
                return Err(Failure::Usage("--name: cannot be empty".to_owned()));
            }
            if configuration.control_plane(name).is_some() && !overwrite {
                return Err(Failure::Refused(format!(
                    "Control Plane with name {name:?} already exists. Use --overwrite to replace an \
                     existing one."
                )));
            }
            let added = add(connection, name, *skip_check).await?;
            configuration.put(added);
            save(&configuration, connection)?;
            writeln!(output.out, "added Control Plane {name:?}")?;
            writeln!(output.out, "switched active Control Plane to {name:?}")?;
        }
        Config::ControlPlanes { what: ControlPlanes::Remove { name } } => {
            if !configuration.remove(name) {
                return Err(absent(name));
            }
            save(&configuration, connection)?;
            writeln!(output.out, "removed Control Plane {name:?}")?;
            match configuration.current() {
                Some(current) => {
                    writeln!(output.out, "switched active Control Plane to {:?}", current.name)?;
                }
                None => writeln!(
                    output.out,
                    "there is no active Control Plane left. Use `sunbearctl config control-planes \
                     add` to add a Control Plane and make it active"
                )?,
            }
        }
        Config::ControlPlanes { what: ControlPlanes::Switch { name } } => {
            if configuration.context(name).is_none() {
                return Err(absent(name));
            }
            configuration.current_context.clone_from(name);
            save(&configuration, connection)?;
            writeln!(output.out, "switched active Control Plane to {name:?}")?;
        }
    }
    Ok(())
}

fn absent(name: &str) -> Failure {
    Failure::NotFound(format!("there is no Control Plane with name {name:?}"))
}

fn list(configuration: &Configuration) -> String {
    let current = configuration.current().map(|cp| &cp.name);
    let mut rows = vec![["ACTIVE", "NAME", "ADDRESS"].map(str::to_owned).to_vec()];
    rows.extend(configuration.control_planes.iter().map(|cp| {
        let active = if Some(&cp.name) == current { "*" } else { "" };
        vec![active.to_owned(), printable(&cp.name), printable(&cp.coordinates.api_server.url)]
    }));
    table::layout(&rows)
}

/// The control plane that the options describe, asked whether it is one.
async fn add(
    connection: &Connection,
    name: &str,
    skip_check: bool,
) -> Result<ControlPlane, Failure> {
    if connection.address.is_none() {
        return Err(Failure::Usage("--address: is required".to_owned()));
    }
    let api_server = target::of_options(connection)?;
    let client = Client::new(&target::of_server(api_server.clone(), connection)?)?;
    if !skip_check {
        let index = version::index(&client).await?;
        let product = version::field(&index, "product");
        if product != PRODUCT && !version::field(&index, "version").contains("preview") {
            return Err(Failure::Refused(format!(
                "this program is for {PRODUCT}, but the control plane is {product:?}; with \
                 --skip-check it is not asked"
            )));
        }
    }
    Ok(ControlPlane { name: name.to_owned(), coordinates: Coordinates { api_server } })
}

fn save(configuration: &Configuration, connection: &Connection) -> Result<(), Failure> {
    if connection.no_config {
        return Err(Failure::Usage("--no-config: there is no file to change".to_owned()));
    }
    let path = target::config_path(connection)
        .ok_or_else(|| anyhow!("HOME is not set; name a file with --config-file"))?;
    Ok(configuration.save(&path)?)
}
