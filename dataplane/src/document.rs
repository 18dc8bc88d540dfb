//! Envoy bootstrap documents as JSON values. Field names come in lowerCamelCase (control planes) or
//! snake_case (Envoy's own dumps); Envoy reads both, and so do these functions.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

/// Address of an Envoy's admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    /// A unix socket.
    Pipe(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Pipe(path) => write!(f, "unix:{}", path.display()),
            AdminAddress::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl AdminAddress {
    /// Reads what `Display` wrote.
    pub(crate) fn parse(text: &str) -> Option<AdminAddress> {
        match text.split_once(':')? {
            ("unix", path) => Some(AdminAddress::Pipe(path.into())),
            ("tcp", address) => Some(AdminAddress::Tcp(address.to_owned())),
            _ => None,
        }
    }
}

/// Parses a bootstrap document.
pub(crate) fn parse(text: &str) -> anyhow::Result<Value> {
    let document: Value = match serde_json::from_str(text) {
        Ok(document) => document,
        Err(_) => serde_saphyr::from_str(text).context("the bootstrap is neither YAML nor JSON")?,
    };
    if !document.is_object() {
        bail!("the bootstrap is not an object");
    }
    Ok(document)
}

/// The field with this snake_case name, in either spelling.
pub(crate) fn field<'a>(value: &'a Value, snake: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(snake).or_else(|| object.get(&camel_case(snake)))
}

/// Likewise, along a path of names.
pub(crate) fn path<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().try_fold(value, |value, name| field(value, name))
}

/// Likewise, to change it.
pub(crate) fn field_mut<'a>(
    object: &'a mut Map<String, Value>,
    snake: &str,
) -> Option<&'a mut Value> {
    let camel = camel_case(snake);
    let key = if object.contains_key(snake) { snake } else { camel.as_str() };
    object.get_mut(key)
}

/// Removes the field in either spelling.
pub(crate) fn take(object: &mut Map<String, Value>, snake: &str) -> Option<Value> {
    let camel = object.remove(&camel_case(snake));
    object.remove(snake).or(camel)
}

/// The elements of a list, none if it is absent.
pub(crate) fn elements<'a>(value: &'a Value, snake: &str) -> impl Iterator<Item = &'a Value> {
    field(value, snake).and_then(Value::as_array).into_iter().flatten()
}

fn camel_case(snake: &str) -> String {
    let mut out = String::with_capacity(snake.len());
    let mut upper = false;
    for c in snake.chars() {
        match c {
            '_' => upper = true,
            _ if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            _ => out.push(c),
        }
    }
    out
}

/// Where the admin interface of an Envoy with this bootstrap listens.
pub(crate) fn admin_address(document: &Value) -> Option<AdminAddress> {
    let address = path(document, &["admin", "address"])?;
    if let Some(path) = path(address, &["pipe", "path"]).and_then(Value::as_str) {
        return Some(AdminAddress::Pipe(path.into()));
    }
    let socket = field(address, "socket_address")?;
    let host = match field(socket, "address")?.as_str()? {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let port = field(socket, "port_value")?.as_u64()?;
    Some(AdminAddress::Tcp(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }))
}

/// Puts the admin interface on a unix socket.
pub(crate) fn set_admin_pipe(document: &mut Value, socket: &Path) {
    let Some(document) = document.as_object_mut() else { return };
    let mut admin = match take(document, "admin") {
        Some(Value::Object(admin)) => admin,
        _ => Map::new(),
    };
    // 0600: who may reach the admin interface may stop Envoy.
    admin.insert("address".into(), json!({"pipe": {"path": socket, "mode": 0o600}}));
    document.insert("admin".into(), Value::Object(admin));
}

/// Replaces a leading folder in all strings, for documents that are used in another work folder
/// than the one they were made in.
pub(crate) fn move_paths(value: &mut Value, from: &Path, to: &Path) {
    match value {
        Value::String(text) => {
            if let Ok(rest) = Path::new(text.as_str()).strip_prefix(from) {
                let moved = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
                *text = moved.display().to_string();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_paths(item, from, to)),
        Value::Object(fields) => fields.values_mut().for_each(|field| move_paths(field, from, to)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = include_str!("../tests/data/gw-east-bootstrap.yaml");

    #[test]
    fn the_recorded_bootstrap_is_read() {
        let document = parse(RECORDED).unwrap();
        assert_eq!(
            admin_address(&document),
            Some(AdminAddress::Pipe("WORKDIR/gw-east/kuma-envoy-admin.sock".into()))
        );
        assert_eq!(
            path(&document, &["node", "metadata"]).unwrap()["dataplane.admin.port"],
            "19901"
        );
        assert_eq!(path(&document, &["overload_manager", "refresh_interval"]).unwrap(), "0.250s");
        let layers = path(&document, &["layered_runtime", "layers"]).unwrap();
        assert_eq!(layers[0]["staticLayer"]["re2.max_program_size.error_level"], 4_294_967_295_u64);
        assert_eq!(elements(field(&document, "static_resources").unwrap(), "clusters").count(), 2);
    }

    #[test]
    fn admin_addresses() {
        let tcp = |address: &str| json!({"admin": {"address": {"socketAddress": {"address": address, "portValue": 9901}}}});
        let cases = [
            (tcp("127.0.0.1"), Some("tcp:127.0.0.1:9901")),
            (tcp("0.0.0.0"), Some("tcp:127.0.0.1:9901")),
            (tcp("::1"), Some("tcp:[::1]:9901")),
            (
                json!({"admin": {"address": {"socket_address": {"address": "a", "port_value": 1}}}}),
                Some("tcp:a:1"),
            ),
            (
                json!({"admin": {"address": {"pipe": {"path": "/x/y.sock"}}}}),
                Some("unix:/x/y.sock"),
            ),
            (json!({}), None),
        ];
        for (document, expected) in cases {
            let address = admin_address(&document);
            assert_eq!(address.as_ref().map(ToString::to_string).as_deref(), expected);
            assert_eq!(
                address.as_ref().and_then(|address| AdminAddress::parse(&address.to_string())),
                address
            );
        }
    }

    #[test]
    fn the_admin_interface_moves_to_a_socket() {
        let mut document =
            json!({"admin": {"accessLog": [1], "address": {"socketAddress": {}}}, "node": {}});
        set_admin_pipe(&mut document, Path::new("/w/a.sock"));
        assert_eq!(
            document,
            json!({"admin": {"accessLog": [1], "address": {"pipe": {"path": "/w/a.sock", "mode": 384}}}, "node": {}})
        );
    }

    #[test]
    fn only_whole_folders_move() {
        let mut value = json!({"a": ["/w/x.sock", "/wx/y"], "b": {"c": "/w"}, "d": "see /w/x"});
        move_paths(&mut value, Path::new("/w"), Path::new("/new"));
        assert_eq!(
            value,
            json!({"a": ["/new/x.sock", "/wx/y"], "b": {"c": "/new"}, "d": "see /w/x"})
        );
    }
}
