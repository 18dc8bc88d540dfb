//! Connections between parties through proxies of the harness, so that they can be cut, slowed
//! down and made lossy without being root.
//!
//! - A cut as a black hole holds back what was sent, as a network does that TCP sends to again and
//!   again: after [`Network::heal`] it arrives. New connections are taken and answered by nobody.
//! - A cut by reset ends connections with RST and refuses new ones.
//! - Loss is what TCP makes of it: a chunk that is lost arrives after a retransmission timeout,
//!   which doubles with each further loss, and all that is behind it waits.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{backend::Cut, party::Party};

/// As much as fits an Ethernet frame: the unit of loss.
const CHUNK: usize = 1400;

/// Chunks under way in one direction. With a delay this bounds the throughput, as windows do.
const WINDOW: usize = 256;

/// Linux' first retransmission timeout on a fast network.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Most that one chunk is held back for losses.
const LONGEST_RETRANSMISSION: Duration = Duration::from_secs(3);

/// A connection to an upstream that does not come about in this time has failed.
const CONNECT: Duration = Duration::from_secs(2);

/// Between two looks of a balancer at its upstreams.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// An upstream that does not answer in this time is not healthy.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(750);

/// What is wrong with the way between two parties, seen from the one that connects.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Faults {
    /// From the one that connects.
    there: Option<Cut>,
    /// Towards it.
    back: Option<Cut>,
    delay: Duration,
    loss: f64,
}

impl Faults {
    fn is_reset(&self) -> bool {
        self.there == Some(Cut::Reset) || self.back == Some(Cut::Reset)
    }

    fn is_held(&self) -> bool {
        self.there.is_some() || self.back.is_some()
    }
}

/// All links by who connects to whom.
#[derive(Debug)]
pub struct Network {
    links: Mutex<BTreeMap<(Party, Party), watch::Sender<Faults>>>,
    runtime: Runtime,
}

/// A listener that passes connections on. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    end: watch::Sender<bool>,
}

/// One of the places where a proxy passes connections on to.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Who that is.
    pub party: Party,
    /// Where.
    pub address: SocketAddr,
    /// Where it says whether it is ready, as `GET /ready` does. None: it always is.
    pub health: Option<SocketAddr>,
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    faults: watch::Receiver<Faults>,
    healthy: AtomicBool,
}

impl Network {
    /// A network without faults.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()?;
        Ok(Self { links: Mutex::default(), runtime })
    }

    /// A listener for connections of `from` to `to`.
    pub fn link(&self, from: &Party, to: &Party, address: SocketAddr) -> Result<Proxy> {
        let upstream = Upstream { party: to.clone(), address, health: None };
        self.proxy(any_port(), from, vec![upstream])
    }

    /// A listener that spreads connections over several upstreams: the next one that takes it.
    pub fn balance(
        &self,
        listen: SocketAddr,
        from: &Party,
        upstreams: Vec<Upstream>,
    ) -> Result<Proxy> {
        self.proxy(listen, from, upstreams)
    }

    fn proxy(&self, listen: SocketAddr, from: &Party, upstreams: Vec<Upstream>) -> Result<Proxy> {
        let listener = StdListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (end, ended) = watch::channel(false);
        let targets: Vec<_> = upstreams
            .iter()
            .map(|upstream| {
                Arc::new(Target {
                    address: upstream.address,
                    faults: self.faults(from, &upstream.party),
                    healthy: AtomicBool::new(true),
                })
            })
            .collect();
        for (upstream, target) in upstreams.iter().zip(&targets) {
            if let Some(health) = upstream.health {
                let (target, ended) = (Arc::clone(target), ended.clone());
                self.runtime.spawn(watch_health(health, target, ended));
            }
        }
        let _context = self.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let accepting = self.runtime.spawn(async move {
            let next = Arc::new(AtomicUsize::new(0));
            // An error concerns one connection, or file descriptors that get free again.
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    sleep(Duration::from_millis(10)).await;
                    continue;
                };
                tokio::spawn(serve(client, targets.clone(), Arc::clone(&next), ended.clone()));
            }
        });
        Ok(Proxy { address, accepting, end })
    }

    fn faults(&self, from: &Party, to: &Party) -> watch::Receiver<Faults> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links
            .entry((from.clone(), to.clone()))
            .or_insert_with(|| watch::Sender::new(Faults::default()))
            .subscribe()
    }

    /// Lets nothing through from one party to another. False if they are never connected.
    pub fn cut(&self, from: &Party, to: &Party, how: Cut) -> bool {
        let there = self.change(from, to, |faults| faults.there = Some(how));
        let back = self.change(to, from, |faults| faults.back = Some(how));
        there || back
    }

    /// Sets the delay between two parties, each way. False if they are never connected.
    pub fn delay(&self, a: &Party, b: &Party, delay: Duration) -> bool {
        let one = self.change(a, b, |faults| faults.delay = delay);
        let other = self.change(b, a, |faults| faults.delay = delay);
        one || other
    }

    /// Sets the part of chunks that is lost between two parties. False if they are never connected.
    pub fn loss(&self, a: &Party, b: &Party, loss: f64) -> bool {
        let one = self.change(a, b, |faults| faults.loss = loss);
        let other = self.change(b, a, |faults| faults.loss = loss);
        one || other
    }

    /// Ends all faults.
    pub fn heal(&self) {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        for link in links.values() {
            link.send_replace(Faults::default());
        }
    }

    fn change(&self, from: &Party, to: &Party, change: impl FnOnce(&mut Faults)) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = links.get(&(from.clone(), to.clone())) else { return false };
        link.send_modify(change);
        true
    }
}

impl Proxy {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.end.send_replace(true);
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// One connection, from its beginning to its end.
async fn serve(
    client: TcpStream,
    targets: Vec<Arc<Target>>,
    next: Arc<AtomicUsize>,
    mut ended: watch::Receiver<bool>,
) {
    tokio::select! {
        () = pass(client, &targets, &next) => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
}

async fn pass(client: TcpStream, targets: &[Arc<Target>], next: &AtomicUsize) {
    let _ = client.set_nodelay(true);
    // What is dropped before its clean end is reset.
    let _ = client.set_zero_linger();
    let first = next.fetch_add(1, Ordering::Relaxed);
    let order = (0..targets.len()).map(|n| &targets[(first + n) % targets.len()]);
    // The healthy first; the others may have recovered just now.
    let (healthy, others): (Vec<_>, Vec<_>) =
        order.partition(|t| t.healthy.load(Ordering::Relaxed) && !is_cut(t));
    for target in healthy.into_iter().chain(others) {
        let mut faults = target.faults.clone();
        // Nobody can connect through a black hole. When it heals, the connection comes about.
        if faults.wait_for(|faults| !faults.is_held() || faults.is_reset()).await.is_err()
            || faults.borrow().is_reset()
        {
            continue;
        }
        if let Ok(Ok(upstream)) = timeout(CONNECT, TcpStream::connect(target.address)).await {
            let _ = upstream.set_nodelay(true);
            let _ = upstream.set_zero_linger();
            run(client, upstream, faults).await;
            return;
        }
    }
}

fn is_cut(target: &Target) -> bool {
    target.faults.borrow().is_held()
}

async fn run(client: TcpStream, upstream: TcpStream, mut faults: watch::Receiver<Faults>) {
    let (from_client, to_client) = client.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    let there = direction(from_client, to_upstream, faults.clone(), |f| f.there);
    let back = direction(from_upstream, to_client, faults.clone(), |f| f.back);
    let both = async {
        tokio::pin!(there, back);
        tokio::select! {
            end = &mut there => if end.is_ok() { let _ = back.await; },
            end = &mut back => if end.is_ok() { let _ = there.await; },
        }
    };
    tokio::select! {
        () = both => {}
        _ = faults.wait_for(Faults::is_reset) => {}
    }
}

/// The peer reset its connection.
struct Broken;

/// Passes on what comes until it ends cleanly, and then the end.
async fn direction(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    faults: watch::Receiver<Faults>,
    cut: impl Fn(&Faults) -> Option<Cut> + Copy,
) -> Result<(), Broken> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(WINDOW);
    let mut read_faults = faults.clone();
    // Done, it is dropped with its sender, and that ends the writing.
    let reading = async move {
        let mut dice = Dice::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = from.read(&mut buffer).await.map_err(|_| Broken)?;
            if count == 0 {
                return Ok(());
            }
            let (delay, loss) = {
                let faults = read_faults.borrow_and_update();
                (faults.delay, faults.loss)
            };
            let due = Instant::now() + delay + dice.held_back(loss);
            sender.send((due, buffer[..count].to_vec())).await.map_err(|_| Broken)?;
        }
    };
    let mut faults = faults;
    let writing = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            // Only what arrives late has to wait, so that the fast way stays fast.
            if due > Instant::now() {
                sleep_until(due).await;
            }
            faults.wait_for(|f| cut(f).is_none()).await.map_err(|_| Broken)?;
            to.write_all(&chunk).await.map_err(|_| Broken)?;
        }
        faults.wait_for(|f| cut(f).is_none()).await.map_err(|_| Broken)?;
        to.shutdown().await.map_err(|_| Broken)?;
        // A clean end: nothing that is still on its way may be thrown away.
        #[expect(deprecated, reason = "it is the only way to unset what `set_zero_linger` set")]
        to.as_ref().set_linger(None).map_err(|_| Broken)
    };
    let (read, written) = tokio::join!(reading, writing);
    read.and(written)
}

/// Pseudo-random numbers that need no crate and differ by connection.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
        Self(SEED.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) | 1)
    }

    /// In `0.0..1.0`.
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }

    /// For how long a chunk waits until it got through.
    fn held_back(&mut self, loss: f64) -> Duration {
        let mut held = Duration::ZERO;
        let mut timeout = RETRANSMISSION;
        while loss > 0.0 && held < LONGEST_RETRANSMISSION && self.roll() < loss {
            held += timeout;
            timeout *= 2;
        }
        held.min(LONGEST_RETRANSMISSION)
    }
}

/// Follows whether an upstream says that it is ready.
async fn watch_health(health: SocketAddr, target: Arc<Target>, mut ended: watch::Receiver<bool>) {
    let mut health_faults = target.faults.clone();
    loop {
        let cut = health_faults.borrow_and_update().is_held();
        let ready = !cut && timeout(HEALTH_TIMEOUT, says_ready(health)).await.unwrap_or(false);
        target.healthy.store(ready, Ordering::Relaxed);
        tokio::select! {
            () = sleep(HEALTH_INTERVAL) => {}
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

async fn says_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n").await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head.ends_with(b" 200"))
    };
    ask.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::TcpStream,
        thread,
    };

    use super::*;

    /// Answers every byte with itself.
    fn echo() -> SocketAddr {
        let listener = StdListener::bind(any_port()).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|n| n == 1) {
                        let _ = stream.write_all(&byte);
                    }
                });
            }
        });
        address
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_all(&[byte])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    fn pair() -> (Party, Party) {
        (Party::Client, Party::gateway("east"))
    }

    #[test]
    fn a_black_hole_holds_back_and_healing_lets_through() {
        let network = Network::new().unwrap();
        let (a, b) = pair();
        let proxy = network.link(&a, &b, echo()).unwrap();
        for (from, to) in [(&a, &b), (&b, &a)] {
            let mut stream = connect(&proxy);
            assert_eq!(ask(&mut stream, 1).unwrap(), 1);
            assert!(network.cut(from, to, Cut::BlackHole));
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert_eq!(ask(&mut stream, 2).unwrap_err().kind(), ErrorKind::WouldBlock);
            let mut second = connect(&proxy);
            second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert_eq!(ask(&mut second, 3).unwrap_err().kind(), ErrorKind::WouldBlock);
            network.heal();
            for (stream, expected) in [(&mut stream, 2), (&mut second, 3)] {
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut answer = [0];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer[0], expected);
            }
        }
    }

    #[test]
    fn a_reset_ends_and_refuses_connections() {
        let network = Network::new().unwrap();
        let (a, b) = pair();
        let proxy = network.link(&a, &b, echo()).unwrap();
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, 1).unwrap(), 1);
        assert!(network.cut(&b, &a, Cut::Reset));
        assert!(stream.read_exact(&mut [0]).is_err());
        assert!(ask(&mut connect(&proxy), 2).is_err());
        network.heal();
        assert_eq!(ask(&mut connect(&proxy), 3).unwrap(), 3);
    }

    #[test]
    fn an_upstream_that_is_gone_is_passed_over() {
        let network = Network::new().unwrap();
        let dead = StdListener::bind(any_port()).unwrap().local_addr().unwrap();
        let upstream =
            |replica, address| Upstream { party: Party::Global(replica), address, health: None };
        let upstreams = vec![upstream(1, dead), upstream(2, echo())];
        let proxy = network.balance(any_port(), &Party::Balancer, upstreams).unwrap();
        for byte in 0..4 {
            assert_eq!(ask(&mut connect(&proxy), byte).unwrap(), byte);
        }
    }

    #[test]
    fn delay_and_loss_slow_down_and_lose_nothing() {
        let network = Network::new().unwrap();
        let (a, b) = pair();
        let proxy = network.link(&a, &b, echo()).unwrap();
        let mut stream = connect(&proxy);
        assert!(network.delay(&a, &b, Duration::from_millis(50)));
        let start = std::time::Instant::now();
        assert_eq!(ask(&mut stream, 1).unwrap(), 1);
        assert!(start.elapsed() >= Duration::from_millis(100));
        network.heal();
        assert!(network.loss(&b, &a, 0.3));
        for byte in 0..10 {
            assert_eq!(ask(&mut stream, byte).unwrap(), byte);
        }
        assert!(!network.cut(&a, &Party::Postgres, Cut::Reset), "they are never connected");
    }

    #[test]
    fn the_end_of_one_side_reaches_the_other() {
        let network = Network::new().unwrap();
        let (a, b) = pair();
        let proxy = network.link(&a, &b, echo()).unwrap();
        let mut stream = connect(&proxy);
        stream.write_all(b"x").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"x");
    }
}
