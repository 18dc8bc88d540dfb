//! Which control plane a command goes to, and how.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};

use crate::{
    arguments::{Connection, SecretPairs, Token},
    config_file::{self, ApiServer, Configuration, Header, LOCAL},
    failure::Failure,
};

/// A control plane, and how to speak with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) token: Option<Token>,
    /// Headers of every request.
    pub(crate) headers: Vec<Header>,
    pub(crate) ca_cert: Option<PathBuf>,
    /// Files of certificate and key.
    pub(crate) client_cert: Option<(PathBuf, PathBuf)>,
    pub(crate) skip_verify: bool,
    pub(crate) timeout: Option<Duration>,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The control plane that the options and the configuration file name.
///
/// An address among the options stands for itself: what the file says about another address, its
/// token above all, is not used for it. Else the file chooses, and options change single points.
pub(crate) fn resolve(connection: &Connection) -> Result<Target, Failure> {
    let mut server = match (&connection.address, &connection.context) {
        (Some(_), Some(_)) => {
            return Err(Failure::Usage(
                "--address (or SUNBEAR_ADDRESS) and --context exclude each other".to_owned(),
            ));
        }
        (Some(_), None) => ApiServer::default(),
        (None, context) => chosen(&configuration(connection)?, context.as_deref())?,
    };
    let given = of_options(connection)?;
    let replace = |old: &mut String, new: String| {
        if !new.is_empty() {
            *old = new;
        }
    };
    replace(&mut server.url, given.url);
    if !given.auth_type.is_empty() {
        (server.auth_type, server.auth_conf) = (given.auth_type, given.auth_conf);
    }
    if given.skip_verify || !given.ca_cert_file.is_empty() {
        (server.skip_verify, server.ca_cert_file) = (given.skip_verify, given.ca_cert_file);
    }
    replace(&mut server.client_cert_file, given.client_cert_file);
    replace(&mut server.client_key_file, given.client_key_file);
    for header in given.headers {
        server.headers.retain(|old| !old.key.eq_ignore_ascii_case(&header.key));
        server.headers.push(header);
    }
    of_server(server, connection)
}

/// What the options alone say; this is what `config control-planes add` keeps. Their token, if any,
/// is among it.
pub(crate) fn of_options(connection: &Connection) -> Result<ApiServer, Failure> {
    let text = |path: &Option<PathBuf>| {
        path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    };
    let mut server = ApiServer {
        url: connection.address.clone().unwrap_or_default(),
        auth_type: connection.auth_type.clone().unwrap_or_default(),
        auth_conf: SecretPairs::all(&connection.auth_conf).collect(),
        ca_cert_file: text(&connection.ca_cert_file),
        client_cert_file: text(&connection.client_cert_file),
        client_key_file: text(&connection.client_key_file),
        headers: SecretPairs::all(&connection.headers)
            .map(|(key, value)| Header { key, value })
            .collect(),
        skip_verify: connection.skip_verify,
    };
    server.headers.sort_by(|a, b| a.key.cmp(&b.key));
    if server.client_cert_file.is_empty() != server.client_key_file.is_empty() {
        return Err(Failure::Usage(
            "--client-cert-file and --client-key-file need each other".to_owned(),
        ));
    }
    if let Some(token) = token(connection)? {
        server.auth_type = TOKENS.to_owned();
        server.auth_conf.insert(TOKEN.to_owned(), token);
    }
    if server.auth_type.is_empty() && !server.auth_conf.is_empty() {
        return Err(Failure::Usage("--auth-conf needs --auth-type".to_owned()));
    }
    check_authentication(&server).map_err(Failure::Usage)?;
    Ok(server)
}

const TOKENS: &str = "tokens";
const TOKEN: &str = "token";

fn check_authentication(server: &ApiServer) -> Result<(), String> {
    match server.auth_type.as_str() {
        "" => Ok(()),
        TOKENS if server.auth_conf.get(TOKEN).is_some_and(|token| !token.is_empty()) => Ok(()),
        TOKENS => Err("authentication with tokens needs --auth-conf token=TOKEN".to_owned()),
        other => Err(format!("there is no authentication of type {other:?}")),
    }
}

/// The configuration that counts for a command.
pub(crate) fn configuration(connection: &Connection) -> Result<Configuration, Failure> {
    if connection.no_config {
        return Ok(Configuration::usual());
    }
    match config_path(connection) {
        Some(path) => Ok(Configuration::load(&path)?),
        None => Ok(Configuration::usual()),
    }
}

/// The configuration file; none without a home.
pub(crate) fn config_path(connection: &Connection) -> Option<PathBuf> {
    config_file::path(connection.config_file.as_deref(), connection.home.as_deref())
}

fn chosen(configuration: &Configuration, context: Option<&str>) -> Result<ApiServer, Failure> {
    let control_plane = match context {
        Some(name) => configuration.chosen(name).ok_or_else(|| {
            Failure::Usage(format!("--context: there is no control plane with name {name:?}"))
        })?,
        None => configuration.current().ok_or_else(|| {
            anyhow!(
                "no control plane is chosen: use `sunbearctl config control-planes add` or `switch`, \
                 or --address"
            )
        })?,
    };
    Ok(control_plane.coordinates.api_server.clone())
}

/// A control plane as it is written into the configuration file, with what that cannot hold.
pub(crate) fn of_server(server: ApiServer, connection: &Connection) -> Result<Target, Failure> {
    check_authentication(&server).map_err(|message| Failure::Other(anyhow!(message)))?;
    let path = |text: &str| (!text.is_empty()).then(|| Path::new(text).to_owned());
    let token = server.auth_conf.get(TOKEN).filter(|_| server.auth_type == TOKENS);
    Ok(Target {
        token: token.map(|token| Token(token.clone())),
        ca_cert: path(&server.ca_cert_file),
        client_cert: path(&server.client_cert_file).zip(path(&server.client_key_file)),
        skip_verify: server.skip_verify,
        headers: server.headers,
        url: if server.url.is_empty() { LOCAL.to_owned() } else { server.url },
        timeout: (!connection.timeout.is_zero()).then_some(connection.timeout),
    })
}

fn token(connection: &Connection) -> Result<Option<String>, Failure> {
    let token = match (&connection.token, &connection.token_file) {
        (Some(token), _) => token.0.clone(),
        (None, Some(path)) => {
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
        }
        (None, None) => return Ok(None),
    };
    let token = token.trim();
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::Arguments;

    const FILE: &str = "
controlPlanes:
- name: a
  coordinates: {apiServer: {url: 'https://a:5682', authType: tokens, authConf: {token: of-a},
    headers: [{key: h, value: of-a}], caCertFile: /ca}}
- name: b
  coordinates: {apiServer: {url: 'https://b:5682', skipVerify: true}}
contexts:
- {name: a, controlPlane: a}
- {name: b, controlPlane: b}
currentContext: a
";

    fn check(options: &str) -> Result<Target, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, FILE).unwrap();
        let line = format!("sunbearctl version --config-file {} {options}", file.display());
        resolve(&Arguments::parse_from(line.split_whitespace()).connection)
    }

    fn token_of(target: &Target) -> &str {
        target.token.as_ref().map_or("", |token| &token.0)
    }

    #[test]
    fn the_file_chooses_and_options_change_points() {
        let target = check("").unwrap();
        assert_eq!((target.url.as_str(), token_of(&target)), ("https://a:5682", "of-a"));
        assert_eq!(target.ca_cert.as_deref(), Some(Path::new("/ca")));
        let target = check("--token mine --skip-verify --headers H=mine,x=y").unwrap();
        assert_eq!((target.url.as_str(), token_of(&target)), ("https://a:5682", "mine"));
        assert!(target.skip_verify && target.ca_cert.is_none());
        assert_eq!(target.headers.len(), 2);
        assert_eq!(target.headers[0].value, "mine");
        let target = check("--context b").unwrap();
        assert_eq!((target.url.as_str(), token_of(&target)), ("https://b:5682", ""));
        assert!(target.skip_verify);
        let target = check("--no-config").unwrap();
        assert_eq!((target.url.as_str(), token_of(&target)), (LOCAL, ""));
    }

    #[test]
    fn another_address_gets_no_credentials_of_the_file() {
        let target = check("--address https://c:1").unwrap();
        assert_eq!((target.url.as_str(), token_of(&target)), ("https://c:1", ""));
        assert_eq!((target.headers.len(), target.ca_cert), (0, None));
    }

    #[test]
    fn wrong_options() {
        for options in [
            "--address http://c --context a",
            "--context c",
            "--client-cert-file x",
            "--client-key-file x",
            "--auth-conf token=x",
            "--auth-type tokens",
            "--auth-type tokens --auth-conf tokn=x",
        ] {
            assert!(matches!(check(options), Err(Failure::Usage(_))), "{options}");
        }
        assert!(check("--timeout 0").unwrap().timeout.is_none());
    }
}
