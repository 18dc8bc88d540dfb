//! `inspect`: the state of meshes, zones and proxies, and what acts on them.

mod attachments;
mod overview;

use reqwest::{Method, Url};
use sunbear_model::Kind;
use time::OffsetDateTime;

use crate::{
    arguments::{
        Dataplane, Dataplanes, Format, Inspect, Known, Part, Policy, What, ZoneProxy, ZoneProxyPart,
    },
    client::Client,
    failure::Failure,
    list::{self, Page},
    output::Output,
    pairs,
};

/// Runs one of the commands.
pub(crate) async fn run(
    client: &Client,
    arguments: &Inspect,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let format = arguments.output;
    let now = OffsetDateTime::now_utc();
    match &arguments.what {
        What::Known(Known::Meshes) => {
            let url = client.path(&["mesh-insights"]);
            let list = list::read(client, &url, Page::default()).await?;
            list::print(&list, format, overview::meshes, output)
        }
        What::Known(Known::Zones) => {
            let url = client.path(&["zones", "_overview"]);
            let list = list::read(client, &url, Page::default()).await?;
            list::print(&list, format, |items| overview::zones(items, now), output)
        }
        What::Known(Known::Services(of)) => {
            let url = in_mesh(client, &of.mesh, &["service-insights"])?;
            let list = list::read(client, &url, Page::default()).await?;
            list::print(&list, format, overview::services, output)
        }
        What::Known(Known::Dataplanes(wanted)) => {
            let list = list::read(client, &dataplanes(client, wanted)?, Page::default()).await?;
            list::print(&list, format, |items| overview::dataplanes(items, now), output)
        }
        What::Known(Known::Zoneingresses) => {
            let url = client.path(&["zoneingresses", "_overview"]);
            let list = list::read(client, &url, Page::default()).await?;
            let table = |items: &[_]| overview::zone_proxies(items, "zoneIngressInsight", now);
            list::print(&list, format, table, output)
        }
        What::Known(Known::Zoneegresses) => {
            let url = client.path(&["zoneegresses", "_overview"]);
            let list = list::read(client, &url, Page::default()).await?;
            let table = |items: &[_]| overview::zone_proxies(items, "zoneEgressInsight", now);
            list::print(&list, format, table, output)
        }
        What::Known(Known::Dataplane(wanted)) => dataplane(client, wanted, output).await,
        What::Known(Known::Zoneingress(wanted)) => {
            zone_proxy(client, Kind::ZONE_INGRESS, wanted, output).await
        }
        What::Known(Known::Zoneegress(wanted)) => {
            zone_proxy(client, Kind::ZONE_EGRESS, wanted, output).await
        }
        What::Known(Known::Meshgateway(named)) => {
            let url = below(client, Kind::MESH_GATEWAY, &named.mesh, &named.name, &["dataplanes"])?;
            let reply = client.send(Method::GET, url, None).await?.success()?.json()?;
            write!(output.out, "{}", attachments::names(&reply))?;
            Ok(())
        }
        What::Policy(kind, wanted) => policy(client, *kind, wanted, format, output).await,
    }
}

/// The address of something below an object.
fn below(
    client: &Client,
    kind: Kind,
    mesh: &str,
    name: &str,
    path: &[&str],
) -> Result<Url, Failure> {
    let mut url = client.resource(kind, mesh, Some(name))?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.extend(path);
    }
    Ok(url)
}

/// The address of something in a mesh.
fn in_mesh(client: &Client, mesh: &str, path: &[&str]) -> Result<Url, Failure> {
    below(client, Kind::MESH, "", mesh, path)
}

fn dataplanes(client: &Client, wanted: &Dataplanes) -> Result<Url, Failure> {
    let mut url = in_mesh(client, &wanted.mesh.mesh, &["dataplanes", "_overview"])?;
    // An empty query would leave a question mark.
    if wanted.gateway {
        url.query_pairs_mut().append_pair("gateway", "true");
    }
    for (tag, value) in pairs::all(&wanted.tags) {
        url.query_pairs_mut().append_pair("tag", &format!("{tag}:{value}"));
    }
    Ok(url)
}

async fn dataplane(
    client: &Client,
    wanted: &Dataplane,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let part = if wanted.config_dump { Part::ConfigDump } else { wanted.part };
    let only = |option: &str, for_type: &str| {
        Err(Failure::Usage(format!("--{option} can be used only with --type={for_type}")))
    };
    if wanted.include_eds && part != Part::ConfigDump {
        return only("include-eds", "config-dump");
    }
    if wanted.shadow && part != Part::Config {
        return only("shadow", "config");
    }
    if !wanted.include.is_empty() && part != Part::Config {
        return only("include", "config");
    }
    let at = |path| below(client, Kind::DATAPLANE, &wanted.named.mesh, &wanted.named.name, &[path]);
    let url = match part {
        Part::Policies => {
            let reply = client.send(Method::GET, at("policies")?, None).await?.success()?.json()?;
            write!(output.out, "{}", attachments::of_dataplane(&reply))?;
            return Ok(());
        }
        Part::ConfigDump => with_endpoints(at("xds")?, wanted.include_eds),
        Part::Stats => at("stats")?,
        Part::Clusters => at("clusters")?,
        Part::Config => {
            let mut url = at("_config")?;
            let shadow = if wanted.shadow { "true" } else { "false" };
            url.query_pairs_mut().append_pair("shadow", shadow);
            if !wanted.include.is_empty() {
                url.query_pairs_mut().append_pair("include", &wanted.include.join(","));
            }
            url
        }
    };
    copy(client, url, output).await
}

async fn zone_proxy(
    client: &Client,
    kind: Kind,
    wanted: &ZoneProxy,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let part = if wanted.config_dump { ZoneProxyPart::ConfigDump } else { wanted.part };
    if wanted.include_eds && part != ZoneProxyPart::ConfigDump {
        return Err(Failure::Usage(
            "--include-eds can be used only with --type=config-dump".to_owned(),
        ));
    }
    let at = |path| below(client, kind, "", &wanted.name, &[path]);
    let url = match part {
        ZoneProxyPart::ConfigDump => with_endpoints(at("xds")?, wanted.include_eds),
        ZoneProxyPart::Stats => at("stats")?,
        ZoneProxyPart::Clusters => at("clusters")?,
    };
    copy(client, url, output).await
}

fn with_endpoints(mut url: Url, wanted: bool) -> Url {
    if wanted {
        url.query_pairs_mut().append_pair("include_eds", "true");
    }
    url
}

/// Prints an answer as it is.
async fn copy(client: &Client, url: Url, output: &mut Output<'_>) -> Result<(), Failure> {
    let reply = client.send(Method::GET, url, None).await?.success()?;
    output.out.write_all(reply.text.as_bytes())?;
    Ok(())
}

async fn policy(
    client: &Client,
    kind: Kind,
    wanted: &Policy,
    format: Format,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let at = |path: &[&str]| below(client, kind, &wanted.named.mesh, &wanted.named.name, path);
    if wanted.new_api {
        let url = at(&["_resources", "dataplanes"])?;
        let list = list::read(client, &url, Page::default()).await?;
        return list::print(&list, format, overview::proxies, output);
    }
    let reply = client.send(Method::GET, at(&["dataplanes"])?, None).await?.success()?.json()?;
    write!(output.out, "{}", attachments::of_policy(&reply))?;
    Ok(())
}
