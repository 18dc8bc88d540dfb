//! Paths: what a request is about (`spec/rest-api.md` 3). One grammar over the table of types
//! instead of routes per type.

use http::Method;
use sunbear_model::Kind;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/`
    Index,
    /// `/config`
    Config,
    /// `/who-am-i`
    WhoAmI,
    /// `/policies`
    Policies,
    /// `/_resources`
    Resources,
    /// `/global-insight`
    GlobalInsight,
    /// `/global-insights`
    GlobalInsights,
    /// `/openapi.json`
    OpenApi,
    /// `/_kri/…`
    Kri(String),
    /// `/tokens/…`
    Token(Token),
    /// All objects of a type, in one mesh or everywhere.
    Collection(Collection),
    /// One object.
    Item(Item),
    /// What an object does, or what is done to it.
    Inspect(Inspect),
}

/// A question about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspect {
    pub(crate) kind: Kind,
    /// Empty for types of global scope.
    pub(crate) mesh: String,
    pub(crate) name: String,
    pub(crate) aspect: Aspect,
}

/// What is asked about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aspect {
    /// Of a proxy: the configuration dump of its Envoy.
    ConfigDump,
    /// Of a proxy: the statistics of its Envoy.
    Stats,
    /// Of a proxy: the clusters of its Envoy.
    Clusters,
    /// Of a proxy: something that Envoy is not asked for.
    Unknown,
    /// Of a policy or gateway: the Dataplanes that it acts on, and where.
    Dataplanes,
    /// Of a policy or service: a list of the Dataplanes that it selects.
    Selected,
    /// Of a Dataplane: what is attached where.
    Policies,
    /// Of a Dataplane: merged configurations, in the older form.
    Rules,
    /// Of a Dataplane or gateway: merged configurations.
    MergedRules,
    /// Of a service: the host names that it has.
    Hostnames,
    /// Of a Dataplane: its configuration as it would be generated; not on a global.
    Config,
    /// Of a Dataplane: what exists only where meshes have MeshServices.
    Exclusive(&'static str),
}

/// Kinds of tokens that are issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Dataplane,
    Zone,
    User,
}

/// A list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collection {
    pub(crate) kind: Kind,
    /// Only this mesh.
    pub(crate) mesh: Option<String>,
    pub(crate) view: View,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    /// Empty for types of global scope.
    pub(crate) mesh: String,
    pub(crate) name: String,
    pub(crate) view: View,
}

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Plain,
    /// Joined with their insights.
    Overview,
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const ITEM: &[Method] = &[Method::GET, Method::PUT, Method::DELETE];

impl Target {
    /// Reads a path as it stands in the request line.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        if path.is_empty() {
            return Some(Self::Index);
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments: Vec<String> = path.split('/').map(decode).collect::<Option<_>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["config"] => Some(Self::Config),
            ["who-am-i"] => Some(Self::WhoAmI),
            ["policies"] => Some(Self::Policies),
            ["_resources"] => Some(Self::Resources),
            ["global-insight"] => Some(Self::GlobalInsight),
            ["global-insights"] => Some(Self::GlobalInsights),
            ["openapi.json"] => Some(Self::OpenApi),
            ["_kri", kri] => Some(Self::Kri((*kri).to_owned())),
            ["tokens", "dataplane"] => Some(Self::Token(Token::Dataplane)),
            ["tokens", "zone"] => Some(Self::Token(Token::Zone)),
            ["tokens", "user"] => Some(Self::Token(Token::User)),
            ["meshes", mesh, plural, rest @ ..] => {
                let (kind, view) = collection(plural).filter(|(k, _)| k.is_mesh_scoped())?;
                below(kind, Some(mesh), view, rest)
            }
            [plural, rest @ ..] => {
                let (kind, view) = collection(plural)?;
                below(kind, None, view, rest)
            }
            [] => None,
        }
    }

    /// Answers may be plain text.
    pub(crate) fn is_text(&self) -> bool {
        match self {
            Self::Token(_) => true,
            Self::Inspect(inspect) => matches!(inspect.aspect, Aspect::Stats | Aspect::Clusters),
            _ => false,
        }
    }

    /// Methods that the path takes. HEAD goes wherever GET goes.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Index
            | Self::Config
            | Self::WhoAmI
            | Self::Policies
            | Self::Resources
            | Self::GlobalInsight
            | Self::GlobalInsights
            | Self::OpenApi
            | Self::Kri(_)
            | Self::Inspect(_)
            | Self::Collection(_) => GET,
            Self::Token(_) => POST,
            Self::Item(Item { view: View::Overview, .. }) => GET,
            Self::Item(_) => ITEM,
        }
    }
}

impl Collection {
    /// The path with its variables, as error texts name it.
    pub(crate) fn template(&self) -> String {
        let mesh = if self.mesh.is_some() { "/meshes/{mesh}" } else { "" };
        let view = match self.view {
            View::Plain => "",
            View::Overview => "/_overview",
        };
        format!("{mesh}/{}{view}", self.kind.row().plural)
    }
}

/// The type that holds the insights of a type.
pub(crate) fn insight_of(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::DATAPLANE => Some(Kind::DATAPLANE_INSIGHT),
        Kind::ZONE => Some(Kind::ZONE_INSIGHT),
        Kind::ZONE_INGRESS => Some(Kind::ZONE_INGRESS_INSIGHT),
        Kind::ZONE_EGRESS => Some(Kind::ZONE_EGRESS_INSIGHT),
        _ => None,
    }
}

/// A collection segment, among them the older names of overviews.
fn collection(segment: &str) -> Option<(Kind, View)> {
    let overview = |kind| Some((kind, View::Overview));
    match segment {
        "dataplanes+insights" => overview(Kind::DATAPLANE),
        "zones+insights" => overview(Kind::ZONE),
        "zoneingresses+insights" => overview(Kind::ZONE_INGRESS),
        "zoneegressoverviews" => overview(Kind::ZONE_EGRESS),
        plural => Kind::by_plural(plural).map(|kind| (kind, View::Plain)),
    }
}

fn below(kind: Kind, mesh: Option<&str>, view: View, rest: &[&str]) -> Option<Target> {
    let overviews = view == View::Plain && insight_of(kind).is_some();
    let list = |view| Target::Collection(Collection { kind, mesh: mesh.map(str::to_owned), view });
    let item = |name: &str, view| {
        // An object of mesh scope is only found through its mesh.
        (kind.is_mesh_scoped() == mesh.is_some() && !name.is_empty()).then(|| {
            let mesh = mesh.unwrap_or_default().to_owned();
            Target::Item(Item { kind, mesh, name: name.to_owned(), view })
        })
    };
    match rest {
        [] => Some(list(view)),
        ["_overview"] if overviews => Some(list(View::Overview)),
        [name] => item(name, view),
        [name, "_overview"] if overviews => item(name, View::Overview),
        [name, rest @ ..] if view == View::Plain && kind.is_mesh_scoped() == mesh.is_some() => {
            let aspect = aspect(kind, rest)?;
            let mesh = mesh.unwrap_or_default().to_owned();
            Some(Target::Inspect(Inspect { kind, mesh, name: (*name).to_owned(), aspect }))
        }
        _ => None,
    }
}

/// Has the type a proxy whose Envoy can be asked?
pub(crate) fn is_proxy(kind: Kind) -> bool {
    matches!(kind, Kind::DATAPLANE | Kind::ZONE_INGRESS | Kind::ZONE_EGRESS)
}

/// Can the type be asked for the places where it is attached?
pub(crate) fn is_attached(kind: Kind) -> bool {
    kind == Kind::MESH_GATEWAY || kind.row().policy && kind.name() != "VirtualOutbound"
}

fn aspect(kind: Kind, rest: &[&str]) -> Option<Aspect> {
    let dataplane = kind == Kind::DATAPLANE;
    match rest {
        ["policies"] if dataplane => Some(Aspect::Policies),
        ["rules"] if dataplane => Some(Aspect::Rules),
        ["_rules"] if dataplane || kind == Kind::MESH_GATEWAY => Some(Aspect::MergedRules),
        ["_config"] if dataplane || kind == Kind::MESH_GATEWAY => Some(Aspect::Config),
        ["_layout"] if dataplane => Some(Aspect::Exclusive("_layout")),
        ["_policies"] | ["_inbounds" | "_outbounds", _, "_policies"] if dataplane => {
            Some(Aspect::Exclusive("_policies"))
        }
        ["_outbounds", _, "_routes"] | ["_outbounds", _, "_routes", _, "_policies"]
            if dataplane =>
        {
            Some(Aspect::Exclusive("_policies"))
        }
        ["xds"] if is_proxy(kind) => Some(Aspect::ConfigDump),
        ["stats"] if is_proxy(kind) => Some(Aspect::Stats),
        ["clusters"] if is_proxy(kind) => Some(Aspect::Clusters),
        [_] if is_proxy(kind) => Some(Aspect::Unknown),
        ["dataplanes"] if is_attached(kind) => Some(Aspect::Dataplanes),
        // The second spelling is what `kumactl` asks for.
        ["_resources" | "-resources", "dataplanes"]
            if kind.row().policy || kind.name() == "MeshService" =>
        {
            Some(Aspect::Selected)
        }
        ["_hostnames"] if kind.is_mesh_scoped() => Some(Aspect::Hostnames),
        ["_dataplanes"] if kind.name() == "MeshService" => Some(Aspect::Selected),
        _ => None,
    }
}

/// Percent-decodes one segment; nothing if it is not UTF-8 then.
pub(crate) fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(kind: Kind, mesh: Option<&str>, view: View) -> Option<Target> {
        Some(Target::Collection(Collection { kind, mesh: mesh.map(str::to_owned), view }))
    }

    fn item(kind: Kind, mesh: &str, name: &str, view: View) -> Option<Target> {
        Some(Target::Item(Item { kind, mesh: mesh.into(), name: name.into(), view }))
    }

    fn inspect(kind: Kind, mesh: &str, name: &str, aspect: Aspect) -> Option<Target> {
        Some(Target::Inspect(Inspect { kind, mesh: mesh.into(), name: name.into(), aspect }))
    }

    #[test]
    fn paths() {
        let plain = View::Plain;
        let overview = View::Overview;
        for (path, want) in [
            ("/", Some(Target::Index)),
            ("/tokens/dataplane", Some(Target::Token(Token::Dataplane))),
            ("/tokens/other", None),
            ("/versions", None),
            ("/meshes", list(Kind::MESH, None, plain)),
            ("/meshes/", list(Kind::MESH, None, plain)),
            ("/meshes/default", item(Kind::MESH, "", "default", plain)),
            ("/meshes/m/meshgateways", list(Kind::MESH_GATEWAY, Some("m"), plain)),
            ("/meshes/m/meshgateways/g", item(Kind::MESH_GATEWAY, "m", "g", plain)),
            ("/meshes/m%2E1/meshgateways/g", item(Kind::MESH_GATEWAY, "m.1", "g", plain)),
            ("/meshes/m/meshgateways/%zz", None),
            ("/meshes/m/meshgateways/%ff", None),
            ("/meshes/m/meshgateways/%+1", None),
            ("/meshgateways", list(Kind::MESH_GATEWAY, None, plain)),
            ("/meshgateways/g", None),
            ("/meshes/m/zones", None),
            ("/meshes/m/nonsense", None),
            ("/zones/east", item(Kind::ZONE, "", "east", plain)),
            ("/zones/_overview", list(Kind::ZONE, None, overview)),
            ("/zones/east/_overview", item(Kind::ZONE, "", "east", overview)),
            ("/zones+insights", list(Kind::ZONE, None, overview)),
            ("/zones+insights/east", item(Kind::ZONE, "", "east", overview)),
            ("/zones+insights/east/_overview", None),
            ("/zoneegresses+insights", None),
            ("/zoneegressoverviews", list(Kind::ZONE_EGRESS, None, overview)),
            ("/zone-ingresses", list(Kind::ZONE_INGRESS, None, plain)),
            ("/global-secrets/s", item(Kind::GLOBAL_SECRET, "", "s", plain)),
            ("/dataplanes/_overview", list(Kind::DATAPLANE, None, overview)),
            ("/meshes/m/dataplanes/_overview", list(Kind::DATAPLANE, Some("m"), overview)),
            ("/meshes/m/dataplanes/d/_overview", item(Kind::DATAPLANE, "m", "d", overview)),
            ("/meshes/m/dataplanes+insights/d", item(Kind::DATAPLANE, "m", "d", overview)),
            ("/meshes/m/meshgateways/g/_overview", None),
            ("/meshes/m/meshgateways/_overview", item(Kind::MESH_GATEWAY, "m", "_overview", plain)),
            ("//", None),
            ("/meshes/m/dataplanes/d/xds", inspect(Kind::DATAPLANE, "m", "d", Aspect::ConfigDump)),
            ("/meshes/m/dataplanes/d/x", inspect(Kind::DATAPLANE, "m", "d", Aspect::Unknown)),
            ("/meshes/m/dataplanes/d/x/y", None),
            ("/meshes/m/dataplanes+insights/d/xds", None),
            ("/dataplanes/d/xds", None),
            ("/zone-ingresses/i/stats", inspect(Kind::ZONE_INGRESS, "", "i", Aspect::Stats)),
            (
                "/meshes/m/meshgateways/g/dataplanes",
                inspect(Kind::MESH_GATEWAY, "m", "g", Aspect::Dataplanes),
            ),
            ("/meshes/m/meshgateways/g/_resources/dataplanes", None),
            (
                "/meshes/m/meshtimeouts/t/-resources/dataplanes",
                inspect(Kind::MESH_TIMEOUT, "m", "t", Aspect::Selected),
            ),
            ("/meshes/m/virtual-outbounds/v/dataplanes", None),
            ("/meshes/m/secrets/s/dataplanes", None),
            ("/_kri/kri_m____x_", Some(Target::Kri("kri_m____x_".into()))),
            ("/meshes//meshgateways", list(Kind::MESH_GATEWAY, Some(""), plain)),
        ] {
            assert_eq!(Target::parse(path), want, "{path}");
        }
    }
}
