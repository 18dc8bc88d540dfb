//! Ports for Envoys to listen on.

use tokio::net::TcpSocket;

/// A port on loopback that nobody else gets as long as this lives. Envoy may listen on it, since it
/// shares ports; connections go to who listens.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _socket: TcpSocket,
}

impl Port {
    /// Takes one.
    pub fn take() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { number: socket.local_addr().unwrap().port(), _socket: socket }
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
