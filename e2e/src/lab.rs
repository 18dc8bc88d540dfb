//! An installation under test, with the verbs that scenarios are written in.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xtask::{
    http::{self, Answer, Request},
    wait::{Look, until},
};

use crate::{
    backend::{Backend, Cut},
    party::{Party, SERVICES},
    request::send_tls,
    resource::{self, CHANGE, HOST, SYNCED},
    timeline::Timeline,
    traffic::{Judge, Stream, Traffic},
};

/// How long anything may take before a scenario gives up. Generous: it is no measurement.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// With this variable, scenarios that succeed leave what is known, too.
const KEEP: &str = "SUNBEAR_E2E_KEEP";

/// The change that the route of a healthy installation shows.
pub const BASE: &str = "base";

/// An installation under test.
#[derive(Debug)]
pub struct Lab<B> {
    /// What it runs on.
    pub backend: B,
    /// What happened.
    pub timeline: Timeline,
    down: BTreeSet<Party>,
    paused: BTreeSet<Party>,
}

impl<B: Backend> Lab<B> {
    /// Starts an installation. If that fails, the message names a folder with what is known.
    pub fn start() -> Result<Self> {
        let timeline = Timeline::default();
        let backend = B::start(&timeline).context("the installation does not start")?;
        Ok(Self { backend, timeline, down: BTreeSet::new(), paused: BTreeSet::new() })
    }

    /// Plays a scenario on a healthy installation. If it fails, the message names a folder with
    /// logs, configurations and the timeline.
    pub fn play(&mut self, name: &str, scenario: fn(&mut Self) -> Result<()>) -> Result<()> {
        self.timeline.note(format!("=== {name}"));
        let start = Instant::now();
        let result = self.baseline().context("before the scenario").and_then(|()| {
            scenario(self)?;
            match self.backend.casualties().as_slice() {
                [] => Ok(()),
                dead => bail!("{dead:?} ended by themselves"),
            }
        });
        match result {
            Ok(()) => {
                self.figure(&format!("{name}: done"), start.elapsed());
                if env::var_os(KEEP).is_some() {
                    self.save_evidence(name)?;
                }
                Ok(())
            }
            Err(error) => {
                self.timeline.note(format!("FAILED: {error:#}"));
                let folder = match self.save_evidence(name) {
                    Ok(folder) => folder.display().to_string(),
                    Err(error) => format!("(not saved: {error:#})"),
                };
                bail!("{name}: {error:#}\nlogs, configurations and timeline: {folder}")
            }
        }
    }

    /// Prints a figure and notes it.
    #[expect(clippy::print_stderr, reason = "figures are for whoever reads the test's output")]
    pub fn figure(&self, what: &str, time: Duration) {
        let text = format!("{what} after {} ms", time.as_millis());
        self.timeline.note(&text);
        eprintln!("{text}");
    }

    /// Puts everything into the state that scenarios begin with: all parties run, no fault, the
    /// base route alone, and both gateways answer by it.
    pub fn baseline(&mut self) -> Result<()> {
        self.backend.heal()?;
        for party in std::mem::take(&mut self.paused) {
            self.backend.resume(&party)?;
        }
        for party in std::mem::take(&mut self.down) {
            self.start_again(&party)?;
        }
        self.await_all_ready()?;
        self.apply(&resource::gateway(self.backend.gateway_ports().0))?;
        self.apply(&resource::route(BASE))?;
        for extra in self.names(&Party::Balancer, "meshgatewayroutes")? {
            if extra != "edge-gateway-route" {
                self.delete(&resource::extra_route(&extra, "/"))?;
            }
        }
        self.await_sync()?;
        self.await_change(BASE)?;
        self.await_one_envoy();
        Ok(())
    }

    /// Waits until no gateway is about to pass from one Envoy to another, as it does after it started
    /// from its sealed configuration: connections that arrive in that moment may be reset. If one
    /// takes too long, the timeline says so.
    fn await_one_envoy(&self) {
        for zone in self.backend.zones() {
            let gateway = Party::gateway(&zone);
            let passed = until(&format!("one Envoy of {gateway}"), PATIENCE, || {
                let log = self.backend.log(&gateway);
                let last = &log[log.rfind("Envoy serves").unwrap_or(0)..];
                let live = last.lines().next().is_some_and(|line| line.contains("source=Live"));
                let drains = last.contains("draining Envoy")
                    && !last.contains("the retired Envoy has ended");
                Ok(match live && !drains {
                    true => Look::Done(()),
                    false => Look::NotYet("it is between two".to_owned()),
                })
            });
            if let Err(error) = passed {
                self.timeline.note(format!("{error:#}"));
            }
        }
    }

    // Resources.

    /// Writes a resource at a control plane; whatever the answer is.
    pub fn put(&self, party: &Party, resource: &Value) -> Result<Answer> {
        let path = resource::path(resource)?;
        let answer = self.call(party, "PUT", &path, resource.to_string())?;
        self.timeline.note(format!("PUT {path} at {party}: {}", answer.status));
        Ok(answer)
    }

    /// Deletes a resource at a control plane; whatever the answer is.
    pub fn remove(&self, party: &Party, resource: &Value) -> Result<Answer> {
        let path = resource::path(resource)?;
        let answer = self.call(party, "DELETE", &path, String::new())?;
        self.timeline.note(format!("DELETE {path} at {party}: {}", answer.status));
        Ok(answer)
    }

    /// Writes a resource on the global.
    pub fn apply(&self, resource: &Value) -> Result<()> {
        succeeded(&self.put(&Party::Balancer, resource)?)
    }

    /// Deletes a resource on the global.
    pub fn delete(&self, resource: &Value) -> Result<()> {
        succeeded(&self.remove(&Party::Balancer, resource)?)
    }

    /// Asks a control plane's API.
    pub fn call(&self, party: &Party, method: &str, path: &str, body: String) -> Result<Answer> {
        let api = self.backend.api(party)?;
        let mut request = Request::new(method, "localhost", path);
        if let Some(token) = &api.token {
            request = request.header("authorization", &format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.json(body);
        }
        let answer = match api.tls {
            true => send_tls(api.address, "localhost", &request),
            false => http::send(api.address, &request),
        };
        answer.with_context(|| format!("{method} {path} at {party}"))
    }

    /// What a control plane answers to a `GET` that must succeed.
    pub fn get(&self, party: &Party, path: &str) -> Result<String> {
        let answer = self.call(party, "GET", path, String::new())?;
        succeeded(&answer).with_context(|| format!("GET {path} at {party}"))?;
        Ok(answer.body)
    }

    /// All resources of a type at a control plane, without what it keeps of its own about them.
    pub fn items(&self, party: &Party, plural: &str) -> Result<BTreeMap<String, Value>> {
        resource::items(&self.get(party, &format!("/{plural}?size=1000"))?)
            .with_context(|| format!("the {plural} of {party}"))
    }

    /// The names of all resources of a type at a control plane.
    pub fn names(&self, party: &Party, plural: &str) -> Result<Vec<String>> {
        let items = self.items(party, plural)?;
        Ok(items.values().filter_map(|i| i["name"].as_str().map(str::to_owned)).collect())
    }

    /// Waits until every zone has what the global has: its present revision.
    pub fn await_sync(&self) -> Result<()> {
        self.backend.zones().iter().try_for_each(|zone| self.await_sync_of(zone))
    }

    /// Waits until a zone has what each replica of the global has.
    pub fn await_sync_of(&self, zone: &str) -> Result<()> {
        let replicas = [Party::Global(1), Party::Global(2)];
        let running: Vec<_> = replicas.iter().filter(|party| !self.down.contains(party)).collect();
        until(&format!("{zone} in sync with the global"), PATIENCE, || {
            for ((_, plural), global) in
                SYNCED.iter().flat_map(|s| running.iter().map(move |g| (s, g)))
            {
                let global = self.items(global, plural);
                let own = self.items(&Party::zone(zone), plural);
                match (global, own) {
                    (Ok(global), Ok(own)) if global == own => {}
                    (Ok(global), Ok(own)) => {
                        return Ok(Look::NotYet(difference(plural, &global, &own)));
                    }
                    (Err(error), _) | (_, Err(error)) => {
                        return Ok(Look::NotYet(format!("{error:#}")));
                    }
                }
            }
            Ok(Look::Done(()))
        })
    }

    // Requests.

    /// Asks a zone's gateway.
    pub fn ask(&self, zone: &str, request: &Request) -> Result<Answer> {
        let port = self.backend.gateway_ports().0;
        http::send(self.backend.gateway(zone, port)?, request)
    }

    /// Asks the TLS port of a zone's gateway with that SNI.
    pub fn ask_tls(&self, zone: &str, sni: &str, request: &Request) -> Result<Answer> {
        let port = self.backend.gateway_ports().1;
        send_tls(self.backend.gateway(zone, port)?, sni, request)
    }

    /// Waits until every gateway answers by a route with that change.
    pub fn await_change(&self, change: &str) -> Result<()> {
        self.backend.zones().iter().try_for_each(|zone| self.await_change_of(zone, change))
    }

    /// Waits until a zone's gateway answers by a route with that change.
    pub fn await_change_of(&self, zone: &str, change: &str) -> Result<()> {
        until(&format!("answers of {zone} by route {change}"), PATIENCE, || {
            for service in SERVICES {
                let answer = self.ask(zone, &request_for(service));
                let wrong = match answer {
                    Ok(answer) => judge(&answer, &format!("{service}/{zone}"), &[change]).err(),
                    Err(error) => Some(format!("{error:#}")),
                };
                if let Some(wrong) = wrong {
                    return Ok(Look::NotYet(wrong));
                }
            }
            Ok(Look::Done(()))
        })
    }

    /// Waits until a request to a zone's gateway has that status.
    pub fn await_status(&self, zone: &str, path: &str, status: u16) -> Result<()> {
        let request = Request::new("GET", HOST, path);
        until(&format!("{status} for {path} in {zone}"), PATIENCE, || {
            Ok(match self.ask(zone, &request) {
                Ok(answer) if answer.status == status => Look::Done(()),
                Ok(answer) => Look::NotYet(answer.status.to_string()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
    }

    /// Waits until a request to a zone's gateway is answered by a route with that change.
    pub fn await_change_at(&self, zone: &str, path: &str, change: &str) -> Result<()> {
        let request = Request::new("GET", HOST, path);
        until(&format!("{path} in {zone} by route {change}"), PATIENCE, || {
            let by = self.ask(zone, &request).map(|answer| change_of(&answer));
            Ok(match by {
                Ok(Some(by)) if by == change => Look::Done(()),
                other => Look::NotYet(format!("{other:?}")),
            })
        })
    }

    /// Waits until a zone's gateway takes no connections: it has no listener.
    pub fn await_refused(&self, zone: &str) -> Result<()> {
        until(&format!("{zone} without a listener"), PATIENCE, || {
            Ok(match self.ask(zone, &request_for("api")) {
                Ok(answer) => Look::NotYet(answer.status.to_string()),
                Err(_) => Look::Done(()),
            })
        })
    }

    /// Constant requests to every service of these zones, whose answers must be by one of these
    /// changes; and once a stream has seen a later one, never again by an earlier one.
    pub fn traffic(&self, zones: &[String], changes: &[String]) -> Result<Traffic> {
        let changes: Arc<[String]> = changes.into();
        let mut streams = Vec::new();
        for zone in zones {
            for service in SERVICES {
                streams.push(Stream {
                    name: format!("{zone} {service}"),
                    zone: zone.clone(),
                    service: service.to_owned(),
                    address: self.backend.gateway(zone, self.backend.gateway_ports().0)?,
                    request: request_for(service),
                    judge: monotonic(format!("{service}/{zone}"), Arc::clone(&changes)),
                });
            }
        }
        self.timeline.note(format!("constant requests to {}", zones.join(", ")));
        Ok(Traffic::start(&self.timeline, streams))
    }

    /// Constant requests to all zones, by the base route.
    pub fn base_traffic(&self) -> Result<Traffic> {
        self.traffic(&self.backend.zones(), &[BASE.to_owned()])
    }

    // Parties.

    /// All that can fail by themselves.
    pub fn parties(&self) -> Vec<Party> {
        let mut all = vec![Party::Postgres, Party::Global(1), Party::Global(2), Party::Balancer];
        all.extend(self.backend.zones().iter().flat_map(|zone| Party::of_zone(zone)));
        all
    }

    /// SIGKILL.
    pub fn kill(&mut self, party: &Party) -> Result<()> {
        self.timeline.note(format!("kill {party}"));
        self.down.insert(party.clone());
        self.backend.kill(party)
    }

    /// SIGTERM, and the end awaited.
    pub fn stop(&mut self, party: &Party) -> Result<()> {
        self.timeline.note(format!("stop {party}"));
        self.down.insert(party.clone());
        self.backend.stop(party)
    }

    /// Starts what was killed or stopped.
    pub fn start_again(&mut self, party: &Party) -> Result<()> {
        self.timeline.note(format!("start {party}"));
        self.backend.start_again(party)?;
        self.down.remove(party);
        Ok(())
    }

    /// Stops and starts.
    pub fn restart(&mut self, party: &Party) -> Result<()> {
        self.stop(party)?;
        self.start_again(party)
    }

    /// SIGSTOP.
    pub fn pause(&mut self, party: &Party) -> Result<()> {
        self.timeline.note(format!("pause {party}"));
        self.paused.insert(party.clone());
        self.backend.pause(party)
    }

    /// SIGCONT.
    pub fn resume(&mut self, party: &Party) -> Result<()> {
        self.timeline.note(format!("resume {party}"));
        self.backend.resume(party)?;
        self.paused.remove(party);
        Ok(())
    }

    /// Waits until a party is ready.
    pub fn await_ready(&self, party: &Party) -> Result<()> {
        until(&format!("readiness of {party}"), PATIENCE, || {
            Ok(match self.backend.is_ready(party) {
                true => Look::Done(()),
                false => Look::NotYet("it is not".to_owned()),
            })
        })
    }

    /// Waits until everybody is ready.
    pub fn await_all_ready(&self) -> Result<()> {
        self.parties().iter().try_for_each(|party| self.await_ready(party))
    }

    // The network.

    /// Lets nothing through between two parties, either way.
    pub fn partition(&mut self, a: &Party, b: &Party, how: Cut) -> Result<()> {
        self.timeline.note(format!("partition of {a} and {b}: {how:?}"));
        self.backend.cut(a, b, how)?;
        self.backend.cut(b, a, how)
    }

    /// Lets nothing through one way.
    pub fn partition_one_way(&mut self, from: &Party, to: &Party, how: Cut) -> Result<()> {
        self.timeline.note(format!("nothing from {from} to {to}: {how:?}"));
        self.backend.cut(from, to, how)
    }

    /// Lets everything take longer, each way.
    pub fn delay(&mut self, a: &Party, b: &Party, delay: Duration) -> Result<()> {
        self.timeline.note(format!("{} ms between {a} and {b}", delay.as_millis()));
        self.backend.delay(a, b, delay)
    }

    /// Loses a part of what is sent.
    pub fn loss(&mut self, a: &Party, b: &Party, loss: f64) -> Result<()> {
        self.timeline.note(format!("{loss} of everything between {a} and {b} is lost"));
        self.backend.loss(a, b, loss)
    }

    /// Ends all faults of the network.
    pub fn heal(&mut self) -> Result<()> {
        self.timeline.note("the network is healed");
        self.backend.heal()
    }

    /// Waits until a party's log says something.
    pub fn await_log(&self, party: &Party, text: &str) -> Result<()> {
        until(&format!("{text:?} in the log of {party}"), PATIENCE, || {
            Ok(match self.backend.log(party).contains(text) {
                true => Look::Done(()),
                false => Look::NotYet("it is not there".to_owned()),
            })
        })
    }

    /// Saves what is known; the folder.
    fn save_evidence(&mut self, name: &str) -> Result<PathBuf> {
        let folder =
            evidence_folder()?.join(format!("{}-{}", name.replace(' ', "-"), process::id()));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("timeline.txt"), self.timeline.text())?;
        self.backend.save_logs(&folder)?;
        for zone in self.backend.zones() {
            let path = format!("/meshes/default/dataplanes/gateway-{zone}/xds");
            let dump = self.get(&Party::zone(&zone), &path).unwrap_or_else(|e| format!("{e:#}"));
            fs::write(folder.join(format!("envoy-{zone}.json")), dump)?;
        }
        Ok(folder)
    }
}

/// Where failing scenarios leave what is known: in the target folder, which stays.
fn evidence_folder() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let target = own.ancestors().nth(3).unwrap_or_else(|| Path::new("."));
    Ok(target.join("e2e"))
}

/// A request that the routes send to that service.
pub fn request_for(service: &str) -> Request {
    let path = if service == "api" { "/api/x" } else { "/asset" };
    Request::new("GET", HOST, path)
}

/// An error unless it is 200 or 201.
pub fn succeeded(answer: &Answer) -> Result<()> {
    if !matches!(answer.status, 200 | 201) {
        bail!("{}: {}", answer.status, answer.body.trim());
    }
    Ok(())
}

/// The change that the answer's request was marked with.
pub fn change_of(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_str(&answer.body).ok()?;
    body["headers"][CHANGE][0].as_str().map(str::to_owned)
}

/// Whether a service answered and by which of these changes; its place.
pub fn judge<S: AsRef<str>>(answer: &Answer, from: &str, changes: &[S]) -> Result<usize, String> {
    let echo = answer.header("x-echo");
    if answer.status != 200 || echo != Some(from) {
        return Err(format!("{} from {}", answer.status, echo.unwrap_or("the gateway itself")));
    }
    let change = change_of(answer).unwrap_or_else(|| "none".to_owned());
    let place = changes.iter().position(|known| known.as_ref() == change);
    place.ok_or_else(|| format!("by a route with change {change}"))
}

fn monotonic(from: String, changes: Arc<[String]>) -> Judge {
    let mut latest = 0;
    Box::new(move |answer| {
        let place = judge(answer, &from, &changes)?;
        if place < latest {
            return Err(format!("by change {place} after {latest}"));
        }
        latest = place;
        Ok(())
    })
}

/// What differs, in a line.
fn difference(
    plural: &str,
    global: &BTreeMap<String, Value>,
    own: &BTreeMap<String, Value>,
) -> String {
    let keys: BTreeSet<_> = global.keys().chain(own.keys()).collect();
    let different: Vec<_> = keys
        .into_iter()
        .filter(|key| global.get(*key) != own.get(*key))
        .map(|key| format!("{key}: global {:?}, zone {:?}", global.get(key), own.get(key)))
        .collect();
    format!("{plural}: {}", different.join("; "))
}
