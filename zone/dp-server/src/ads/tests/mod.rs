//! The state machines against scripted and random clients.

mod delta;
mod property;
mod sotw;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sunbear_proto::google::rpc;
use sunbear_xds::{ResourceSet, ResourceType, XdsResource};

use super::{StreamSettings, text_names};

const BACKOFF: Duration = Duration::from_secs(5);

fn settings() -> StreamSettings {
    StreamSettings { instance_id: "cp-1".to_owned(), nack_backoff: BACKOFF }
}

/// A resource whose content is only this text; the machines do not look into contents.
fn resource(name: &str, content: &str) -> XdsResource {
    XdsResource::new(
        name,
        &rpc::Status { code: 0, message: content.to_owned(), details: Vec::new() },
    )
}

/// A set from lines such as `Cluster a 1`, or `keep Secret a` for what clients keep.
fn set(text: &str) -> Arc<ResourceSet> {
    let mut set = ResourceSet::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["keep", kind, name] => set.keep(kind_of(kind), name),
            [kind, name, content] => set.insert(kind_of(kind), resource(name, content)),
            _ => panic!("{line}"),
        }
    }
    Arc::new(set)
}

fn kind_of(word: &str) -> ResourceType {
    ResourceType::ALL.into_iter().find(|t| format!("{t:?}") == word).expect(word)
}

fn error(message: &str) -> rpc::Status {
    rpc::Status { code: 13, message: message.to_owned(), details: Vec::new() }
}

/// Tests move the time themselves.
#[derive(Clone, Copy)]
struct Time(Instant);

impl Time {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn pass(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

#[test]
fn names_in_error_texts() {
    let text = "Error adding/updating listener(s) edge:HTTP:8080: cannot bind '0.0.0.0:8080'";
    assert!(text_names(text, "edge:HTTP:8080"));
    assert!(!text_names(text, "edge:HTTP:80"));
    assert!(!text_names(text, "e"));
    assert!(!text_names(text, ""));
}
