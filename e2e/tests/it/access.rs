//! Callers from other hosts without credentials.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
};

use crate::control_plane::{ControlPlane, PATIENCE, Ports};

/// A request to this address under this name; the status.
fn status(address: SocketAddr, host: &str, method: &str, path: &str, body: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// An address of this host that is not the loopback's, if there is one. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

#[test]
fn strangers_write_only_where_that_is_switched_on() {
    let policy = r#"{"type":"MeshGateway","mesh":"default","name":"edge","selectors":[{"match":{"kuma.io/service":"gw"}}],"conf":{"listeners":[{"port":80,"protocol":"HTTP"}]}}"#;
    let secret = r#"{"type":"GlobalSecret","name":"s","data":"eA=="}"#;
    for (switch, expected) in [("false", 403), ("true", 201)] {
        let folder = tempfile::tempdir().unwrap();
        let settings = [("SUNBEAR_API_SERVER_AUTHN_ANONYMOUS_WRITES", switch)];
        let mut global = ControlPlane::global_with(folder.path(), Ports::free(), &settings);
        global.until_ready();
        // Whoever is asked under another name than the loopback's counts as reached from
        // elsewhere; so does, of course, whoever really was.
        let mut callers = vec![(IpAddr::from([127, 0, 0, 1]), "global.example")];
        callers.extend(own_address().map(|address| (address, "localhost")));
        for (index, (address, host)) in callers.into_iter().enumerate() {
            let address = SocketAddr::new(address, global.ports.http);
            let name = format!("edge-{index}");
            let path = format!("/meshes/default/meshgateways/{name}");
            let policy = policy.replace("\"edge\"", &format!("\"{name}\""));
            let said = status(address, host, "PUT", &path, &policy);
            assert_eq!(said, expected, "{switch}: {address} as {host}");
            assert_eq!(status(address, host, "GET", "/meshes/default", ""), 200);
            // Never these.
            assert_eq!(status(address, host, "PUT", "/global-secrets/s", secret), 403);
            assert_eq!(status(address, host, "POST", "/tokens/user", "{}"), 403);
        }
        // The administrator on this host.
        let path = "/meshes/default/meshgateways/edge";
        let (code, said) = global.send("PUT", path, policy);
        assert_eq!(code, 201, "{said}");
    }
}
