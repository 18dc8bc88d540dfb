//! TrafficRoute (`spec/resources.md` 11.8).

use serde_json::Value;
use sunbear_proto::kuma::mesh::v1alpha1::{
    TrafficRoute,
    traffic_route::{
        Http, LoadBalancer, Split,
        http::{
            Match, Modify,
            r#match::{StringMatcher, string_matcher::MatcherType},
            modify::{Headers, Host, RegexReplace, host, path},
        },
        load_balancer::LbType,
    },
};

use super::{
    Path, Violations, policies,
    tags::{self, ONLY_SERVICE, SERVICE_SELECTOR},
};
use crate::{resource::Spec, tags::Tags};

const EMPTY: &str = "cannot be empty";

pub(super) fn validate(route: &TrafficRoute, spec: &Spec, violations: &mut Violations) {
    policies::connection(
        &route.sources,
        SERVICE_SELECTOR,
        &route.destinations,
        ONLY_SERVICE,
        violations,
    );
    let path = Path::at("conf");
    let Some(conf) = &route.conf else {
        violations.push(path, EMPTY);
        return;
    };
    targets(&path, &conf.split, &conf.destination, spec, violations);
    for (i, rule) in conf.http.iter().enumerate() {
        http(&path.field("http").index(i), rule, spec, violations);
    }
    if let Some(balancer) = &conf.load_balancer {
        load_balancer(&path.field("loadBalancer"), balancer, violations);
    }
}

/// Paths of the lists and maps that a body has, but with nothing in them, where that makes a
/// difference.
pub(crate) fn given_empty(body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |path: &Path, object: &Value, field: &str| {
        let empty = match object.get(field) {
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(entries)) => entries.is_empty(),
            _ => false,
        };
        if empty {
            found.push(path.field(field).into());
        }
    };
    let (path, conf) = (Path::at("conf"), &body["conf"]);
    look(&path, conf, "split");
    look(&path, conf, "destination");
    for (i, rule) in conf["http"].as_array().into_iter().flatten().enumerate() {
        let path = path.field("http").index(i);
        look(&path, rule, "split");
        look(&path, rule, "destination");
        look(&path.field("match"), &rule["match"], "headers");
    }
    found
}

/// Where traffic goes: one destination, or several with weights.
fn targets(
    path: &Path,
    entries: &[Split],
    destination: &Tags,
    spec: &Spec,
    violations: &mut Violations,
) {
    let (split_path, destination_path) = (path.field("split"), path.field("destination"));
    let has_split = !entries.is_empty() || spec.given_empty(&split_path);
    let has_destination = !destination.is_empty() || spec.given_empty(&destination_path);
    match (has_split, has_destination) {
        (false, false) => {
            violations.push(path, "requires either \"destination\" or \"split\"");
        }
        (true, true) => {
            violations.push(path, "\"split\" cannot be defined at the same time as \"destination\"")
        }
        (true, false) | (false, true) => {}
    }
    if has_split {
        split(&split_path, entries, violations);
    }
    if has_destination {
        tags::check(&destination_path, destination, SERVICE_SELECTOR, violations);
    }
}

fn split(path: &Path, entries: &[Split], violations: &mut Violations) {
    if entries.is_empty() {
        violations.push(path, "must have at least one element");
        return;
    }
    for (i, entry) in entries.iter().enumerate() {
        let path = path.index(i);
        if entry.weight.is_none() {
            violations.push(path.field("weight"), "needs to be defined");
        }
        tags::check(&path.field("destination"), &entry.destination, SERVICE_SELECTOR, violations);
    }
    if entries.iter().all(|entry| entry.weight.unwrap_or(0) == 0) {
        violations.push(path, "there must be at least one split entry with weight above 0");
    }
}

fn http(path: &Path, rule: &Http, spec: &Spec, violations: &mut Violations) {
    matches(&path.field("match"), rule.r#match.as_ref(), spec, violations);
    if let Some(modify) = &rule.modify {
        modifications(&path.field("modify"), modify, rule.r#match.as_ref(), violations);
    }
    targets(path, &rule.split, &rule.destination, spec, violations);
}

fn matches(path: &Path, condition: Option<&Match>, spec: &Spec, violations: &mut Violations) {
    let headers_path = path.field("headers");
    let no_headers = spec.given_empty(&headers_path);
    let given = condition
        .filter(|m| m.path.is_some() || m.method.is_some() || !m.headers.is_empty() || no_headers);
    let Some(condition) = given else {
        violations.push(
            path,
            "must be present and contain at least one of the elements: \"method\", \"path\" or \
             \"headers\"",
        );
        return;
    };
    for (field, matcher) in [("method", &condition.method), ("path", &condition.path)] {
        if let Some(matcher) = matcher {
            text_matcher(&path.field(field), matcher, violations);
        }
    }
    if no_headers {
        violations.push(&headers_path, "must contain at least one element");
    }
    for (name, matcher) in &condition.headers {
        let path = headers_path.key(name);
        not_empty(path.clone(), name, violations);
        text_matcher(&path, matcher, violations);
    }
}

fn text_matcher(path: &Path, matcher: &StringMatcher, violations: &mut Violations) {
    match &matcher.matcher_type {
        Some(MatcherType::Exact(_)) => {}
        Some(MatcherType::Prefix(prefix)) => not_empty(path.field("prefix"), prefix, violations),
        Some(MatcherType::Regex(regex)) => not_empty(path.field("regex"), regex, violations),
        // "split" is Kuma's word for the prefix.
        None => violations
            .push(path, "cannot be empty. Available options: \"exact\", \"split\" or \"regex\""),
    }
}

fn modifications(
    path: &Path,
    modify: &Modify,
    condition: Option<&Match>,
    violations: &mut Violations,
) {
    if let Some(modified) = &modify.path {
        let path = path.field("path");
        match &modified.r#type {
            None => {
                violations.push(path, "either \"rewritePrefix\" or \"regex\" has to be set");
            }
            Some(path::Type::RewritePrefix(prefix)) => {
                let path = path.field("rewritePrefix");
                let on_prefix = matches!(
                    condition.and_then(|m| m.path.as_ref()).and_then(|p| p.matcher_type.as_ref()),
                    Some(MatcherType::Prefix(matched)) if !matched.is_empty()
                );
                if prefix.is_empty() {
                    violations.push(path, EMPTY);
                } else if !on_prefix {
                    violations
                        .push(path, "can only be set when .http.match.path.prefix is not empty");
                }
            }
            Some(path::Type::Regex(regex)) => {
                replacement(&path.field("regex"), regex, violations);
            }
        }
    }
    if let Some(Host { r#type }) = &modify.host {
        let path = path.field("host");
        match r#type {
            None => violations.push(path, "either \"value\" or \"fromPath\" has to be set"),
            Some(host::Type::Value(value)) => not_empty(path.field("value"), value, violations),
            Some(host::Type::FromPath(regex)) => {
                replacement(&path.field("fromPath"), regex, violations);
            }
        }
    }
    for (field, changed) in
        [("requestHeaders", &modify.request_headers), ("responseHeaders", &modify.response_headers)]
    {
        if let Some(changed) = changed {
            headers(&path.field(field), changed, violations);
        }
    }
}

fn replacement(path: &Path, regex: &RegexReplace, violations: &mut Violations) {
    not_empty(path.field("pattern"), &regex.pattern, violations);
    not_empty(path.field("substitution"), &regex.substitution, violations);
}

fn headers(path: &Path, headers: &Headers, violations: &mut Violations) {
    for (i, add) in headers.add.iter().enumerate() {
        let path = path.field("add").index(i);
        header_name(path.field("name"), &add.name, violations);
        not_empty(path.field("value"), &add.value, violations);
    }
    for (i, remove) in headers.remove.iter().enumerate() {
        header_name(path.field("remove").index(i).field("name"), &remove.name, violations);
    }
}

fn header_name(path: Path, name: &str, violations: &mut Violations) {
    if name.is_empty() {
        violations.push(path, EMPTY);
    } else if name.starts_with(':') || matches!(name, "host" | "Host") {
        violations
            .push(path, "host header and HTTP/2 pseudo-headers are not allowed to be modified");
    }
}

fn load_balancer(path: &Path, balancer: &LoadBalancer, violations: &mut Violations) {
    match &balancer.lb_type {
        Some(LbType::LeastRequest(least)) if least.choice_count == 1 => violations.push(
            path.field("leastRequest").field("choiceCount"),
            "value must be greater than or equal to 2",
        ),
        Some(LbType::RingHash(ring))
            if !matches!(ring.hash_function.as_str(), "XX_HASH" | "MURMUR_HASH_2") =>
        {
            violations.push(
                path.field("ringHash").field("hashFunction"),
                "must have a valid hash function",
            );
        }
        Some(
            LbType::RoundRobin(_)
            | LbType::LeastRequest(_)
            | LbType::RingHash(_)
            | LbType::Random(_)
            | LbType::Maglev(_),
        )
        | None => {}
    }
}

fn not_empty(path: Path, text: &str, violations: &mut Violations) {
    if text.is_empty() {
        violations.push(path, EMPTY);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{Kind, rest, validation::validate_spec};

    fn check(conf: &Value, want: &[&str]) {
        let body = json!({
            "sources": [{"match": {"kuma.io/service": "*"}}],
            "destinations": [{"match": {"kuma.io/service": "*"}}],
            "conf": conf,
        });
        let kind = Kind::by_name("TrafficRoute").unwrap();
        let spec = rest::read_as(kind, &body).unwrap().spec;
        let got: Vec<_> = validate_spec(kind, "default", "x", &spec)
            .iter()
            .map(|v| format!("{}: {}", v.field, v.message))
            .collect();
        assert_eq!(got, want, "{conf}");
    }

    #[test]
    fn given_but_empty() {
        let service = json!({"kuma.io/service": "a"});
        check(
            &json!({"split": [], "destination": service}),
            &[
                "conf: \"split\" cannot be defined at the same time as \"destination\"",
                "conf.split: must have at least one element",
            ],
        );
        check(&json!({"split": []}), &["conf.split: must have at least one element"]);
        check(
            &json!({"destination": {}}),
            &[
                "conf.destination: must have at least one tag",
                "conf.destination: mandatory tag \"kuma.io/service\" is missing",
            ],
        );
        check(
            &json!({"destination": service, "http": [
                {"match": {"headers": {}}, "destination": service},
                {"match": {"headers": {"": {"prefix": ""}}}, "split": []},
            ]}),
            &[
                "conf.http[0].match.headers: must contain at least one element",
                "conf.http[1].match.headers[\"\"]: cannot be empty",
                "conf.http[1].match.headers[\"\"].prefix: cannot be empty",
                "conf.http[1].split: must have at least one element",
            ],
        );
    }

    #[test]
    fn nothing_chosen() {
        let service = json!({"kuma.io/service": "a"});
        check(
            &json!({"destination": service, "loadBalancer": {"ringHash": {}}, "http": [{
                "match": {"method": {}, "path": {"regex": ""}},
                "modify": {"path": {}, "host": {}, "requestHeaders": {"add": [{}], "remove": [{}]}},
                "destination": service,
            }]}),
            &[
                "conf.http[0].match.method: cannot be empty. Available options: \"exact\", \
                 \"split\" or \"regex\"",
                "conf.http[0].match.path.regex: cannot be empty",
                "conf.http[0].modify.path: either \"rewritePrefix\" or \"regex\" has to be set",
                "conf.http[0].modify.host: either \"value\" or \"fromPath\" has to be set",
                "conf.http[0].modify.requestHeaders.add[0].name: cannot be empty",
                "conf.http[0].modify.requestHeaders.add[0].value: cannot be empty",
                "conf.http[0].modify.requestHeaders.remove[0].name: cannot be empty",
                "conf.loadBalancer.ringHash.hashFunction: must have a valid hash function",
            ],
        );
    }
}
