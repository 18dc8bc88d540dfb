//! What acts on which part of which proxy, as text. The forms are those of `kumactl`.

use std::fmt::Write as _;

use serde_json::Value;

use crate::table::text;

const GATEWAY: &str = "MeshGatewayDataplane";

/// Names of Dataplanes, one a line.
pub(crate) fn names(list: &Value) -> String {
    items(&list["items"]).map(|item| format!("{}\n", text(&item["dataplane"]["name"]))).collect()
}

/// The policies of a proxy.
pub(crate) fn of_dataplane(reply: &Value) -> String {
    let mut out = String::new();
    if text(&reply["kind"]) == GATEWAY {
        out.push_str("MESHGATEWAY:\n");
        for (kind, policy) in fields(&reply["policies"]) {
            line(&mut out, 2, kind);
            line(&mut out, 4, &text(&policy["name"]));
        }
        out.push('\n');
        for listener in items(&reply["listeners"]) {
            line(&mut out, 0, &format!("LISTENER ({}):", endpoint(listener)));
            for host in items(&listener["hosts"]) {
                line(&mut out, 2, &format!("{}:", text(&host["hostName"])));
                for route in items(&host["routes"]) {
                    line(&mut out, 4, &format!("ROUTE {}:", text(&route["route"])));
                    for destination in items(&route["destinations"]) {
                        let service = service(&destination["tags"]);
                        line(&mut out, 6, &format!("SERVICE {service}:"));
                        for (kind, policy) in fields(&destination["policies"]) {
                            line(&mut out, 8, kind);
                            line(&mut out, 10, &text(&policy["name"]));
                        }
                        out.push('\n');
                    }
                }
            }
        }
        return out;
    }
    for item in items(&reply["items"]) {
        let part = text(&item["type"]).to_uppercase();
        line(&mut out, 0, &format!("{}:", attachment(&part, item)));
        for (kind, policies) in fields(&item["matchedPolicies"]) {
            line(&mut out, 2, kind);
            for policy in items(policies) {
                line(&mut out, 4, &text(&policy["name"]));
            }
        }
        out.push('\n');
    }
    out
}

/// The proxies of a policy.
pub(crate) fn of_policy(reply: &Value) -> String {
    let mut out = String::from("Affected data plane proxies:\n\n");
    for item in items(&reply["items"]) {
        if text(&item["kind"]) == GATEWAY {
            line(&mut out, 2, &format!("{}:", text(&item["gateway"]["name"])));
            for listener in items(&item["listeners"]) {
                line(&mut out, 4, &format!("listener ({}):", endpoint(listener)));
                for host in items(&listener["hosts"]) {
                    line(&mut out, 6, &format!("{}:", text(&host["hostName"])));
                    for route in items(&host["routes"]) {
                        line(&mut out, 8, &format!("{}:", text(&route["route"])));
                        for tags in items(&route["destinations"]) {
                            line(&mut out, 10, &format!("service {}", service(tags)));
                        }
                    }
                }
            }
            out.push('\n');
            continue;
        }
        let name = text(&item["dataplane"]["name"]);
        let attachments: Vec<_> = items(&item["attachments"]).collect();
        // What acts on a whole proxy has nothing more to say.
        if let [only] = attachments.as_slice()
            && text(&only["type"]) == "dataplane"
        {
            line(&mut out, 2, &name);
            continue;
        }
        line(&mut out, 2, &format!("{name}:"));
        for item in attachments {
            line(&mut out, 4, &attachment(&text(&item["type"]), item));
        }
        out.push('\n');
    }
    out
}

fn line(out: &mut String, indent: usize, content: &str) {
    // Writing to a text cannot fail.
    let _ = writeln!(out, "{:indent$}{content}", "");
}

fn attachment(part: &str, item: &Value) -> String {
    match part.to_lowercase().as_str() {
        "dataplane" => part.to_owned(),
        "service" => format!("{part} {}", text(&item["name"])),
        _ => format!("{part} {}({})", text(&item["name"]), text(&item["service"])),
    }
}

fn endpoint(listener: &Value) -> String {
    format!("{}:{}", text(&listener["protocol"]), listener["port"])
}

fn service(tags: &Value) -> String {
    text(&tags["kuma.io/service"])
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn fields(map: &Value) -> impl Iterator<Item = (&str, &Value)> {
    map.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_of_a_sidecar() {
        let reply = json!({"kind": "SidecarDataplane", "total": 2, "items": [
            {"type": "dataplane", "name": "", "service": "", "matchedPolicies": {
                "ProxyTemplate": [{"name": "pt"}], "TrafficTrace": [{"name": "tt"}]}},
            {"type": "inbound", "name": "127.0.0.1:10010:10011", "service": "backend",
                "matchedPolicies": {"RateLimit": [{"name": "a"}, {"name": "b"}]}},
            {"type": "service", "name": "web", "service": "web",
                "matchedPolicies": {"Retry": [{"name": "r"}]}},
        ]});
        assert_eq!(
            of_dataplane(&reply),
            "DATAPLANE:\n  ProxyTemplate\n    pt\n  TrafficTrace\n    tt\n\n\
             INBOUND 127.0.0.1:10010:10011(backend):\n  RateLimit\n    a\n    b\n\n\
             SERVICE web:\n  Retry\n    r\n\n"
        );
    }

    #[test]
    fn policies_of_a_gateway() {
        let reply = json!({"kind": "MeshGatewayDataplane", "gateway": {"mesh": "m", "name": "g"},
            "policies": {"TrafficLog": {"name": "l"}},
            "listeners": [{"port": 80, "protocol": "HTTP", "hosts": [{"hostName": "*", "routes": [
                {"route": "r", "destinations": [
                    {"tags": {"kuma.io/service": "web"}, "policies": {"Retry": {"name": "x"}}}]}]}]}]});
        assert_eq!(
            of_dataplane(&reply),
            "MESHGATEWAY:\n  TrafficLog\n    l\n\nLISTENER (HTTP:80):\n  *:\n    ROUTE r:\n      \
             SERVICE web:\n        Retry\n          x\n\n"
        );
    }

    #[test]
    fn proxies_of_a_policy() {
        let reply = json!({"total": 3, "items": [
            {"kind": "SidecarDataplane", "dataplane": {"mesh": "m", "name": "a"},
                "attachments": [{"type": "dataplane", "name": "", "service": ""}]},
            {"kind": "SidecarDataplane", "dataplane": {"mesh": "m", "name": "b"}, "attachments": [
                {"type": "inbound", "name": "10.0.0.1:80:80", "service": "web"},
                {"type": "service", "name": "api", "service": "api"}]},
            {"kind": "MeshGatewayDataplane", "dataplane": {"mesh": "m", "name": "c"},
                "gateway": {"mesh": "m", "name": "g"}, "listeners": [
                    {"port": 80, "protocol": "HTTP", "hosts": [{"hostName": "*", "routes": [
                        {"route": "r", "destinations": [{"kuma.io/service": "web"}]}]}]}]},
        ]});
        assert_eq!(
            of_policy(&reply),
            "Affected data plane proxies:\n\n  a\n  b:\n    inbound 10.0.0.1:80:80(web)\n    \
             service api\n\n  g:\n    listener (HTTP:80):\n      *:\n        r:\n          \
             service web\n\n"
        );
        assert_eq!(of_policy(&json!({"items": []})), "Affected data plane proxies:\n\n");
    }

    #[test]
    fn dataplanes_of_a_gateway() {
        let reply = json!({"total": 2, "items": [
            {"dataplane": {"mesh": "m", "name": "a"}}, {"dataplane": {"mesh": "m", "name": "b"}}]});
        assert_eq!(names(&reply), "a\nb\n");
    }
}
