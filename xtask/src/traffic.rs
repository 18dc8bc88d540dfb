//! A constant stream of requests whose failures are counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    http,
    wait::{Look, until},
};

/// Between two requests of one stream.
const PAUSE: Duration = Duration::from_millis(5);

/// One stream of requests: where, and what answers are good.
#[derive(Debug, Clone)]
pub struct Stream {
    /// What to call it.
    pub name: String,
    /// The gateway.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// The path.
    pub path: String,
    /// The service that has to answer, as the header `x-echo` names it.
    pub from: String,
}

/// Streams that run until dropped or [finished](Traffic::finish).
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    streams: Vec<(String, Arc<Counts>)>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    good: AtomicU64,
    /// How often each bad answer came.
    bad: Mutex<BTreeMap<String, u64>>,
}

impl Traffic {
    /// Starts a thread for each stream.
    pub fn start(streams: Vec<Stream>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut traffic =
            Self { stop: Arc::clone(&stop), streams: Vec::new(), threads: Vec::new() };
        for stream in streams {
            let counts = Arc::new(Counts::default());
            traffic.streams.push((stream.name.clone(), Arc::clone(&counts)));
            let stop = Arc::clone(&stop);
            traffic.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match judge(&stream) {
                        Ok(()) => {
                            counts.good.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            let mut bad = counts.bad.lock().unwrap_or_else(PoisonError::into_inner);
                            *bad.entry(format!("{error:#}")).or_default() += 1;
                        }
                    }
                    thread::sleep(PAUSE);
                }
            }));
        }
        traffic
    }

    /// Waits until every stream got this many further answers, good or bad.
    pub fn await_answers(&self, more: u64, patience: Duration) -> Result<()> {
        for (name, counts) in &self.streams {
            let goal = counts.total() + more;
            until(&format!("{more} answers to {name}"), patience, || {
                let total = counts.total();
                Ok(if total >= goal { Look::Done(()) } else { Look::NotYet(total.to_string()) })
            })?;
        }
        Ok(())
    }

    /// Ends the streams. The number of good answers, or an error that lists the bad ones.
    pub fn finish(mut self) -> Result<u64> {
        self.end();
        let mut good = 0;
        let mut complaints = Vec::new();
        for (name, counts) in &self.streams {
            good += counts.good.load(Ordering::Relaxed);
            let bad = counts.bad.lock().unwrap_or_else(PoisonError::into_inner);
            complaints.extend(bad.iter().map(|(what, times)| format!("{name}: {times} x {what}")));
        }
        if !complaints.is_empty() {
            bail!("{good} good answers, but {}", complaints.join("; "));
        }
        Ok(good)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

impl Counts {
    fn total(&self) -> u64 {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        self.good.load(Ordering::Relaxed) + bad.values().sum::<u64>()
    }
}

fn judge(stream: &Stream) -> Result<()> {
    let answer = http::get(stream.address, &stream.host, &stream.path)?;
    match answer.header("x-echo") {
        Some(from) if answer.status == 200 && from == stream.from => Ok(()),
        from => bail!("{} from {}", answer.status, from.unwrap_or("nobody")),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers alternately as two services, until the test's process ends.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let from = if n % 2 == 0 { "a/east" } else { "b/east" };
                let head =
                    format!("HTTP/1.1 200 OK\r\nx-echo: {from}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
            }
        });
        address
    }

    #[test]
    fn counts_the_good_and_lists_the_bad() {
        let stream = Stream {
            name: "east".to_owned(),
            address: server(),
            host: "h".to_owned(),
            path: "/".to_owned(),
            from: "a/east".to_owned(),
        };
        let traffic = Traffic::start(vec![stream]);
        traffic.await_answers(4, Duration::from_secs(20)).unwrap();
        let complaint = traffic.finish().unwrap_err().to_string();
        assert!(complaint.contains("200 from b/east"), "{complaint}");
    }
}
